"""Deaths of workers: which block is to blame, and what is to be done again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from hpcio.errors import Cause, WorkerError
from hpcio.journals import Tried, attempt_name, open_journal
from hpcio.planning import Plan

__all__ = ["FRUITLESS", "Deaths", "blame"]

# If this many workers in a row die before they finish a block, single blocks are not the cause.
FRUITLESS = 16


class Deaths:
    """Finds the block that workers die of.

    Blocks of a batch are computed in order, so the block at hand when a worker died is the first
    one that was not tried. It gets a second chance, since it may not be what killed the worker.

    Parameters
    ----------
    plan : Plan
    retries : int
        How many deaths of a block are forgiven; at least one is.
    workers : int
        How many workers there are; all of them may die at once of something that is soon over.

    Attributes
    ----------
    blamed : int
        How many blocks were journalled as failed.
    """

    def __init__(self, plan: Plan, retries: int, *, workers: int) -> None:
        self._plan, self._forgiven = plan, max(1, retries)
        self._deaths: Counter[int] = Counter()
        self._most = FRUITLESS + 2 * workers
        self._fruitless = 0
        self.blamed = 0

    def left(self, batch: np.ndarray, tried: Tried, why: str) -> np.ndarray:
        """The blocks to do again after a death; the block at hand may be journalled as failed.

        Parameters
        ----------
        batch : numpy.ndarray of int
            The blocks that the worker had.
        tried : Tried
            What it has journalled.
        why : str
            What is known of the death, for the traceback.

        Raises
        ------
        WorkerError
            If too many workers in a row have died before they finished a block.
        """
        left, at_hand = tried.left_of(batch)
        self._fruitless = self._fruitless + 1 if left.size == batch.size else 0
        if self._fruitless >= self._most:
            raise WorkerError(
                f"{self._fruitless} workers in a row died before they had finished a single "
                f"block. The last one:\n{why}"
            )
        if at_hand < left.size:
            suspect = int(left[at_hand])
            self._deaths[suspect] += 1
            if self._deaths[suspect] > self._forgiven:
                blame(self._plan, {suspect: why})
                self.blamed += 1
                left = np.delete(left, at_hand)
        return left


def blame(plan: Plan, why: Mapping[int, str], cause: Cause = "died") -> None:
    """Journal as failed blocks that ended their workers, which could not journal them, and why."""
    journal = open_journal(plan, attempt_name("session"), "session")
    try:
        for block, words in why.items():
            journal.note_failure(block, words, cause)
        journal.sync()
    finally:
        journal.close()
