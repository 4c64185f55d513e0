"""Blocks to batches to array tasks to job arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpcio.errors import OptionError
from hpcio.running import divide

__all__ = ["BATCHES_PER_TASK", "JobArray", "TaskPlan", "arrays_of", "map_blocks"]

# The range of a task is cut into this many batches, so that an idle task can take over the rest
# of a slow one's.
BATCHES_PER_TASK = 4


@dataclass(frozen=True, eq=False)
class TaskPlan:
    """Which batch belongs to which array task.

    Attributes
    ----------
    batches : tuple of numpy.ndarray of int64
        The blocks of each batch, ascending; together every block once, in order.
    task : numpy.ndarray of int64, shape (number of batches,)
        The array task that a batch belongs to, ascending.
    """

    batches: tuple[np.ndarray, ...]
    task: np.ndarray

    @property
    def blocks(self) -> np.ndarray:
        """Every block, in order."""
        return np.concatenate([np.zeros(0, np.int64), *self.batches])

    @property
    def tasks(self) -> int:
        """How many array tasks have work."""
        return int(self.task[-1]) + 1 if self.task.size else 0


def map_blocks(
    blocks: np.ndarray,
    sizes: np.ndarray,
    *,
    tasks: int,
    batches_per_task: int = BATCHES_PER_TASK,
    together: np.ndarray | None = None,
) -> TaskPlan:
    """Give each array task a contiguous range of blocks, and cut it into batches.

    Ranges and batches are balanced by bytes, not by numbers of blocks.

    Parameters
    ----------
    blocks : numpy.ndarray of int, shape (n,)
        Numbers of the blocks to do, ascending.
    sizes : numpy.ndarray of int, shape (n,)
        Bytes that each reads and writes.
    tasks : int
        How many tasks, at the most.
    batches_per_task : int
        How many batches for each task, at the most.
    together : numpy.ndarray, shape (n,), optional
        Neighbours with equal values are not separated; see `hpcio.planning.Plan.group_of`.

    Returns
    -------
    TaskPlan

    Examples
    --------
    >>> import numpy as np
    >>> plan = map_blocks(np.arange(6), np.array([1, 1, 1, 1, 1, 5]), tasks=2)
    >>> [c.tolist() for c in plan.batches], plan.task.tolist()
    ([[0], [1], [2, 3], [4], [5]], [0, 0, 0, 0, 1])
    """
    if tasks < 1 or batches_per_task < 1:
        raise OptionError(
            f"{tasks} tasks of {batches_per_task} chunks make no sense. Use 1 or more of each."
        )
    batches: list[np.ndarray] = []
    task: list[int] = []
    for number, part in enumerate(divide(sizes, tasks, together=together)):
        inside = None if together is None else together[part]
        for piece in divide(sizes[part], batches_per_task, together=inside):
            batches.append(blocks[part[piece]])
            task.append(number)
    return TaskPlan(tuple(batches), np.asarray(task, np.int64))


@dataclass(frozen=True)
class JobArray:
    """One job array: the tasks ``first .. first + size - 1`` of a run, at indices from 0."""

    first: int
    size: int


def arrays_of(tasks: int, *, max_array_size: int) -> tuple[JobArray, ...]:
    """Split tasks into as few job arrays as the site's MaxArraySize allows.

    Parameters
    ----------
    tasks : int
    max_array_size : int
        The highest index is one less, so that this many tasks fit.

    Examples
    --------
    >>> arrays_of(2500, max_array_size=1001)
    (JobArray(first=0, size=834), JobArray(first=834, size=833), JobArray(first=1667, size=833))
    """
    if max_array_size < 1:
        raise OptionError("Job arrays are switched off here (MaxArraySize is 0). Use plan.run().")
    count = math.ceil(tasks / max_array_size)
    sizes = [tasks // count + (k < tasks % count) for k in range(count)]
    firsts = np.cumsum([0, *sizes])[:-1].tolist()
    return tuple(JobArray(first, size) for first, size in zip(firsts, sizes, strict=True))
