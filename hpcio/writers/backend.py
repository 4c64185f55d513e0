"""What every way to store results offers, and the ways that exist."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from hpcio.errors import MissingPackageError
from hpcio.files import reading
from hpcio.journals import DONE, Journal, JournalRecords, Ledger, StoredReader
from hpcio.layout import Target
from hpcio.machine import Registry
from hpcio.planning import Plan, WriterAbilities

__all__ = [
    "WRITERS",
    "Backend",
    "Stored",
    "Unbuffered",
    "Writer",
    "backend_of",
    "fills_gaps",
    "needs_ranks",
    "trusted_ledger",
    "without_lost",
]


class Writer(Protocol):
    """Stores the results of the blocks of one attempt."""

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        """Prepare for the blocks of a batch, in the order in which they will be written."""

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        """Store one result; returns file number and byte offset for the journal."""

    def mark_failed(self, block: int) -> None:
        """Note that a block will have no result."""

    @property
    def is_flushed(self) -> bool:
        """Whether all results so far outlive this process."""

    def flush(self) -> None:
        """Hand to the system what was held back, as far as possible."""

    def prepare_sync(self) -> Callable[[], None]:
        """A function that makes everything stored so far outlive a crash of the machine.

        Another thread may call it while storing goes on.
        """

    def close(self) -> None:
        """Close all files; what was written stays."""


class Unbuffered:
    """The common part of writers that hold nothing back."""

    is_flushed = True

    def mark_failed(self, block: int) -> None:
        """Do nothing: nothing waits for that block."""

    def flush(self) -> None:
        """Do nothing: nothing is held back."""


@dataclass(frozen=True, eq=False)
class Stored:
    """What a finished file holds.

    Attributes
    ----------
    ledger : Ledger
        The journals, corrected by what the file holds.
    target : Target
        The layout of its dataset.
    state, checksum : numpy.ndarray of uint8 and uint64
        State and checksum of each block of that layout.
    averages : mapping of str to int
        The checksum of each average of several results, by its name.
    """

    ledger: Ledger
    target: Target
    state: np.ndarray
    checksum: np.ndarray
    averages: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def blocks_of(cls, ledger: Ledger) -> Stored:
        """A file that holds every block of the plan as it was journalled."""
        check, done = np.zeros(len(ledger.plan), "<u8"), np.flatnonzero(ledger.done)
        check[done] = ledger.values_of("checksum", done)
        return cls(ledger, ledger.plan.target, ledger.state, check)


class Backend(Protocol):
    """A way to store the results of a run.

    Attributes
    ----------
    abilities : hpcio.planning.WriterAbilities
    """

    abilities: WriterAbilities

    def check_plan(self, plan: Plan) -> None:
        """Raise PlanError if it cannot store the results, OutputError if it cannot do so there."""

    def reserve(self, plan: Plan) -> None:
        """Prepare the run directory; one process does so before others start."""

    def open_writer(self, plan: Plan, attempt: str) -> Writer:
        """The writer of one attempt."""

    def open_reader(self, plan: Plan, records: JournalRecords) -> StoredReader:
        """The reader of what one attempt has stored."""

    def add_data(self, ledger: Ledger, file: h5py.File, folder: Path) -> Stored:
        """Make the datasets of the finished file; called while `publish` makes it.

        Parameters
        ----------
        ledger : Ledger
            Blocks that are not done become gaps: NaN, or zero for integers.
        file : h5py.File
            Open for writing.
        folder : pathlib.Path
            Where the finished file will lie.

        Raises
        ------
        ResultError
            If a result is not on the disk as it was written.
        """

    def publish(self, ledger: Ledger, fill: Callable[[h5py.File], None], final: Path) -> None:
        """Make the finished file under its name, complete or not at all; `fill` fills it."""


# Ways to store results. A module is imported when it is used, since some need more packages.
WRITERS: Registry[Backend] = Registry(
    "writer",
    group="hpcio.writers",
    own={
        "virtual": "hpcio.writers.virtual:VIRTUAL",
        "direct": "hpcio.onefile.direct:DIRECT",
        "mpi": "hpcio.onefile.mpi:MPI",
        "mpi-collective": "hpcio.onefile.mpi:MPI",
        "mutex": "hpcio.onefile.mutex:MUTEX",
    },
)
# Averages are stored in one way, whatever the writer is; users cannot choose this one.
_AVERAGES: Registry[Backend] = Registry(
    "writer of averages", group="", own={"sums": "hpcio.writers.sums:SUMS"}
)
# Where results of trials are kept, too, by one of the ways above.
_BESIDE: Registry[Callable[[Backend], Backend]] = Registry(
    "writer of averages", group="", own={"sums": "hpcio.writers.beside:Beside"}
)


def backend_of(plan: Plan) -> Backend:
    """The way in which the results of a plan are stored."""
    if not plan.averaged:
        return WRITERS[plan.writer]
    return _BESIDE["sums"](WRITERS[plan.writer]) if plan.of_trials else _AVERAGES["sums"]


def needs_ranks(plan: Plan) -> bool:
    """Whether only the ranks of an MPI job can write the results of a plan."""
    return backend_of(plan).abilities.needs_ranks


def fills_gaps(plan: Plan) -> bool:
    """Whether gaps of a published result can be filled; one file is not written again."""
    return not plan.of_trials or backend_of(plan).abilities.makes_sources


def without_lost(plan: Plan, log: JournalRecords) -> JournalRecords:
    """A journal without what was synced and is gone all the same, as if somebody has removed it.

    That is a glance: only where the last result is gone, the others are looked at.
    """
    done = np.flatnonzero(log.records["kind"] == DONE)
    synced = done[done < log.safe]
    if not synced.size:
        return log
    try:
        reader = backend_of(plan).open_reader(plan, log)
    except MissingPackageError:  # of a filter: whoever only looks at a run needs none
        return log
    with reading(plan.rundir.sources), reader as stored:
        if stored.there(log.records[synced[-1:]]).all():
            return log
        gone = synced[~stored.there(log.records[synced])]
    return replace(log, records=np.delete(log.records, gone))


def trusted_ledger(plan: Plan) -> Ledger:
    """What the journals of a run say, checked against what is stored."""
    return Ledger.read_trusted(plan, backend_of(plan).open_reader)
