"""Ways to store results. One small file each; all offer what :class:`Writer` says."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from hpcio.journals.journal import Journal
    from hpcio.journals.ledger import Ledger
    from hpcio.layout.target import Target
    from hpcio.planning.plan import Plan

__all__ = ["NAMES", "AtOnce", "Stored", "Writer", "module_of", "needs_ranks"]

NAMES = ("virtual", "direct", "mpi", "mpi-collective", "mutex")


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


class Writer(Protocol):
    """Where one attempt puts the results of its blocks."""

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        """Prepare for the blocks of a chunk, given in the order of their coming."""

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        """Store one result; returns file number and byte offset for the journal."""

    def skip(self, block: int) -> None:
        """Know that there will be no result of a block, since it failed."""

    @property
    def settled(self) -> bool:
        """Whether all results so far outlive this process."""

    def settle(self) -> None:
        """Hand to the system what was held back, as far as it can be."""

    def syncing(self) -> Callable[[], None]:
        """What makes everything stored so far outlive a crash of the machine.

        The function may be called in another thread while storing goes on.
        """

    def close(self) -> None:
        """Let go of all files; what was written stays."""


def needs_ranks(plan: Plan) -> bool:
    """Whether results of a plan can be written by the ranks of an MPI job alone."""
    return plan.average is None and plan.writer.startswith("mpi")


class AtOnce:
    """What writers have in common that hold nothing back."""

    settled = True

    def skip(self, block: int) -> None:
        """Nothing waits for that block."""

    def settle(self) -> None:
        """Nothing is held back."""


def module_of(plan: Plan) -> Any:
    """The module of the writer of a plan.

    Imported where it is used, since a writer may need what others do not. It has

    - ``check_plan(plan)``: raise PlanError for what it cannot store, OutputError for a place
      where it cannot;
    - ``reserve(plan)``: by one process, before others start;
    - ``open_writer(plan, attempt)``: a `Writer`;
    - ``ReadBack(plan, log)``: the results of one attempt;
    - ``publish(ledger, fill, final)``: the finished file under its name, `fill` being called
      with it while it is made;
    - ``add_data(ledger, file, folder)``: its dataset ``data``, called by `fill`; returns what
      the file holds, as `Stored`.
    """
    name = plan.writer.partition("-")[0] if plan.average is None else "sums"
    return importlib.import_module(f"hpcio.writers.{name}")
