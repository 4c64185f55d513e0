"""What an array task is to do, and what it is at."""

from __future__ import annotations

import json
import mmap
from dataclasses import astuple, dataclass
from typing import Self

import numpy as np

from hpcio.planning import Plan
from slurm.mapping import TaskPlan
from slurm.submissions import Submission, read_submission, task_plan

__all__ = ["Assignment", "Part", "Whereabouts"]


@dataclass(frozen=True, eq=False)
class Assignment:
    """What one array task is to do.

    Attributes
    ----------
    plan : Plan
    submission : Submission
    task : int
        Number of the task in its submission.
    work : TaskPlan
        The batches of all tasks.
    """

    plan: Plan
    submission: Submission
    task: int
    work: TaskPlan

    @classmethod
    def read(cls, plan: Plan, number: int, task: int) -> Self:
        """The assignment of a task of a submission."""
        return cls(plan, read_submission(plan, number), task, task_plan(plan, number))

    @property
    def label(self) -> str:
        """The label of all attempts of this task."""
        return f"{self.submission.number}-{self.task}"

    @property
    def batches(self) -> list[int]:
        """The batches of this task."""
        found: list[int] = np.flatnonzero(self.work.task == self.task).tolist()
        return found

    def is_own(self, attempt: str) -> bool:
        """Whether an attempt is of this task."""
        return attempt.rpartition("-")[0] == self.label


@dataclass(frozen=True)
class Part:
    """The blocks ``start <= block < until`` of a batch, which an attempt is at."""

    attempt: str
    batch: int
    start: int
    until: int

    def blocks(self, work: TaskPlan) -> np.ndarray:
        """Their numbers."""
        batch: np.ndarray = work.batches[self.batch]
        part: np.ndarray = batch[(batch >= self.start) & (batch < self.until)]
        return part


class Whereabouts:
    """The part that the process that works is at, in memory shared with the one that waits.

    Not by its exit status: a function may end its process with any.
    """

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 4096)

    def clear(self) -> None:
        """Forget what was told."""
        self._shared[:] = bytes(len(self._shared))

    def tell(self, part: Part) -> None:
        """Let the other process know."""
        text = json.dumps(astuple(part)).encode()
        self._shared[: len(text) + 1] = text + b"\0"

    def read(self) -> Part | None:
        """What was told last; None if nothing was."""
        text = self._shared[:].partition(b"\0")[0]
        return Part(*json.loads(text)) if text else None

    @property
    def in_order(self) -> bool:
        """Whether it has ended itself: a function may end its process, with any status."""
        return bool(self._shared[-2])

    @in_order.setter
    def in_order(self, value: bool) -> None:
        self._shared[-2] = value

    @property
    def is_last(self) -> bool:
        """Whether it has found that no block is left, for no task."""
        return bool(self._shared[-1])

    @is_last.setter
    def is_last(self, value: bool) -> None:
        self._shared[-1] = value
