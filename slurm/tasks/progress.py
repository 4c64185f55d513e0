"""How far all tasks of a submission are, by their journals."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from hpcio.journals import DONE, FAILED, Follower
from hpcio.planning import Plan

__all__ = ["Progress", "Speed"]


@dataclass
class Speed:
    """What an attempt has done."""

    nbytes: int = 0
    seconds: float = 0.0
    records: int = 0


class Progress:
    """What the journals of a submission say, as of the last look.

    Attributes
    ----------
    sizes : numpy.ndarray of int64, shape (B,)
        Bytes that each block reads and writes.
    speeds : dict of str to Speed
        By name of an attempt.
    """

    def __init__(self, plan: Plan, *, known: tuple[str, ...]) -> None:
        self.sizes = plan.work_sizes()
        self.speeds: dict[str, Speed] = defaultdict(Speed)
        self._journals = Follower(plan, known=known)
        self._state = np.zeros(len(plan), np.uint8)

    def look(self) -> None:
        """Read what is new."""
        for path, records in self._journals.look():
            kept = records[np.isin(records["kind"], (DONE, FAILED))]
            self._state[kept["block"]] = kept["kind"]
            speed = self.speeds[path.stem]
            speed.records += records.size
            speed.nbytes += int(self.sizes[kept["block"]].sum())
            speed.seconds += float(kept["compute"].sum() + kept["io"].sum())

    def left(self, blocks: np.ndarray) -> np.ndarray:
        """Those of some blocks that nobody has done, or recorded as failed."""
        left: np.ndarray = blocks[self._state[blocks] == 0]
        return left
