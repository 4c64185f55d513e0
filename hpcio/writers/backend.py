"""What a way to store results has to offer, and the ways that there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from hpcio.journals import Journal, JournalRecords, Ledger, StoredReader
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
    "needs_ranks",
    "trusted_ledger",
]


class Writer(Protocol):
    """Where one attempt puts the results of its blocks."""

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        """Prepare for the blocks of a batch, given in the order of their coming."""

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        """Store one result; returns file number and byte offset for the journal."""

    def mark_failed(self, block: int) -> None:
        """Know that there will be no result of a block."""

    @property
    def is_flushed(self) -> bool:
        """Whether all results so far outlive this process."""

    def flush(self) -> None:
        """Hand to the system what was held back, as far as it can be."""

    def prepare_sync(self) -> Callable[[], None]:
        """What makes everything stored so far outlive a crash of the machine.

        The function may be called in another thread while storing goes on.
        """

    def close(self) -> None:
        """Let go of all files; what was written stays."""


class Unbuffered:
    """What writers have in common that hold nothing back."""

    is_flushed = True

    def mark_failed(self, block: int) -> None:
        """Nothing waits for that block."""

    def flush(self) -> None:
        """Nothing is held back."""


@dataclass(frozen=True, eq=False)
class Stored:
    """What a finished file holds.

    Attributes
    ----------
    ledger : Ledger
        As it is true for that file.
    target : Target
        The layout of its dataset.
    state, checksum : numpy.ndarray of uint8 and uint64
        Of each block of that layout.
    """

    ledger: Ledger
    target: Target
    state: np.ndarray
    checksum: np.ndarray

    @classmethod
    def blocks_of(cls, ledger: Ledger) -> Stored:
        """Every block of the plan, as it was journalled."""
        check = np.where(ledger.done, ledger.record["checksum"], 0).astype("<u8")
        return cls(ledger, ledger.plan.target, ledger.state, check)


class Backend(Protocol):
    """A way to store the results of a run.

    Attributes
    ----------
    abilities : WriterAbilities
    """

    abilities: WriterAbilities

    def check_plan(self, plan: Plan) -> None:
        """Raise PlanError for what it cannot store, OutputError for a place where it cannot."""

    def reserve(self, plan: Plan) -> None:
        """Prepare the run directory; by one process, before others start."""

    def open_writer(self, plan: Plan, attempt: str) -> Writer:
        """The writer of one attempt."""

    def open_reader(self, plan: Plan, records: JournalRecords) -> StoredReader:
        """What reads back the results of one attempt."""

    def add_data(self, ledger: Ledger, file: h5py.File, folder: Path) -> Stored:
        """Make the dataset ``data`` of the finished file; called while `publish` makes it.

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
        """Make the finished file under its name, whole or not at all; `fill` fills it."""


# Ways to store results. Modules are imported when they are used: one may need what others do not.
WRITERS: Registry[Backend] = Registry(
    "writer",
    group="hpcio.writers",
    own={
        "virtual": "hpcio.writers.virtual:VIRTUAL",
        "direct": "hpcio.writers.direct:DIRECT",
        "mpi": "hpcio.writers.mpi:MPI",
        "mpi-collective": "hpcio.writers.mpi:MPI",
        "mutex": "hpcio.writers.mutex:MUTEX",
    },
)
# Averages are stored the same way whatever the writer is; nobody asks for this one.
_AVERAGES: Registry[Backend] = Registry(
    "writer of averages", group="", own={"sums": "hpcio.writers.sums:SUMS"}
)


def backend_of(plan: Plan) -> Backend:
    """The way in which the results of a plan are stored."""
    return WRITERS[plan.writer] if plan.average is None else _AVERAGES["sums"]


def needs_ranks(plan: Plan) -> bool:
    """Whether results of a plan can be written by the ranks of an MPI job alone."""
    return backend_of(plan).abilities.needs_ranks


def trusted_ledger(plan: Plan) -> Ledger:
    """What the journals of a run say, held against what is stored."""
    return Ledger.read_trusted(plan, backend_of(plan).open_reader)
