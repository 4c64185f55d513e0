"""Ways to store results. One small file each; all offer what :class:`Writer` says."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from hpcio.journal import Journal

__all__ = ["NAMES", "Writer", "module_of"]

NAMES = ("virtual", "direct")


class Writer(Protocol):
    """Where one attempt puts the results of its blocks."""

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        """Prepare for the blocks of a chunk, given in the order of their coming."""

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        """Store one result; returns file number and byte offset for the journal."""

    @property
    def settled(self) -> bool:
        """Whether all results so far outlive this process; else `settle` is to come first."""

    def settle(self) -> None:
        """Hand to the system what was held back."""

    def syncing(self) -> Callable[[], None]:
        """What makes everything stored so far outlive a crash of the machine.

        The function may be called in another thread while storing goes on.
        """

    def close(self) -> None:
        """Let go of all files; what was written stays."""


def module_of(name: str) -> Any:
    """The module of a writer.

    Imported where it is used, since a writer may need what others do not. It has

    - ``check_plan(plan)``: raise PlanError for what it cannot store;
    - ``reserve(plan)``: by one process, before others start;
    - ``open_writer(plan, attempt)``: a `Writer`;
    - ``ReadBack(plan, log)``: the results of one attempt;
    - ``publish(ledger, fill, final)``: the finished file under its name, `fill` being called
      with it while it is made;
    - ``add_data(ledger, file, folder)``: its dataset ``data``, called by `fill`.
    """
    return importlib.import_module(f"hpcio.writers.{name}")
