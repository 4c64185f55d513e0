"""Ways to store results. One small file each; all offer what :class:`Writer` says."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from hpcio.journal import Journal

__all__ = ["NAMES", "Writer", "module_of"]

NAMES = ("virtual",)


class Writer(Protocol):
    """Where one attempt puts the results of its blocks."""

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        """Prepare for the blocks of a chunk, given in the order of their coming."""

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        """Store one result; returns file number and byte offset for the journal."""

    def syncing(self) -> Callable[[], None]:
        """What makes everything stored so far outlive a crash of the machine.

        The function may be called in another thread while storing goes on.
        """

    def close(self) -> None:
        """Let go of all files; what was written stays."""


def module_of(name: str) -> Any:
    """The module of a writer.

    It has ``open_writer(plan, attempt)``, ``read_back(ledger)`` and ``publish(...)``;
    imported where it is used, since a writer may need what others do not.
    """
    return importlib.import_module(f"hpcio.writers.{name}")
