"""Blocks to chunks to array tasks, inside the limits of a site. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpcio.chunks import divide
from hpcio.errors import MemoryLimitError, PlanError

if TYPE_CHECKING:
    from hpcio.plan import Plan
    from slurm.site import Site

__all__ = ["Array", "Mapping", "arrays_of", "check_memory", "map_blocks", "needed_memory"]

# A task's range is cut into so many chunks, so that an idle task can take over the rest of
# a slow one's.
CHUNKS_PER_TASK = 4
# What a compute function needs beside its trial and its result, in units of both: copies
# and intermediate arrays.
WORKING_FACTOR = 2.0
# Python with its libraries, and a dask worker around it, in bytes.
BASE = 250 << 20


@dataclass(frozen=True, eq=False)
class Mapping:
    """Which chunk belongs to which array task.

    Attributes
    ----------
    chunks : tuple of numpy.ndarray of int64
        The blocks of each chunk, ascending; together every block once, in order.
    task : numpy.ndarray of int64, shape (number of chunks,)
        The array task that a chunk belongs to, ascending.
    """

    chunks: tuple[np.ndarray, ...]
    task: np.ndarray

    @property
    def tasks(self) -> int:
        """How many array tasks have work."""
        return int(self.task[-1]) + 1 if self.task.size else 0


def map_blocks(
    blocks: np.ndarray,
    sizes: np.ndarray,
    *,
    tasks: int,
    chunks_per_task: int = CHUNKS_PER_TASK,
) -> Mapping:
    """Give each array task a contiguous range of blocks, and cut it into chunks.

    Ranges and chunks are balanced by bytes, not by numbers of blocks.

    Parameters
    ----------
    blocks : numpy.ndarray of int, shape (n,)
        Numbers of the blocks to do, ascending.
    sizes : numpy.ndarray of int, shape (n,)
        Bytes that each reads and writes.
    tasks : int
        How many tasks at the most.
    chunks_per_task : int
        How many chunks for each, at the most.

    Returns
    -------
    Mapping

    Examples
    --------
    >>> import numpy as np
    >>> mapping = map_blocks(np.arange(6), np.array([1, 1, 1, 1, 1, 5]), tasks=2)
    >>> [c.tolist() for c in mapping.chunks], mapping.task.tolist()
    ([[0], [1], [2], [3, 4], [5]], [0, 0, 0, 0, 1])
    """
    if tasks < 1 or chunks_per_task < 1:
        raise PlanError(
            f"{tasks} tasks of {chunks_per_task} chunks make no sense. Use 1 or more of each."
        )
    chunks: list[np.ndarray] = []
    task: list[int] = []
    for number, part in enumerate(divide(sizes, tasks)):
        for piece in divide(sizes[part], chunks_per_task):
            chunks.append(blocks[part[piece]])
            task.append(number)
    return Mapping(tuple(chunks), np.asarray(task, np.int64))


@dataclass(frozen=True)
class Array:
    """One job array: the tasks ``first .. first + size - 1`` of a run, at indices from 0."""

    first: int
    size: int


def arrays_of(tasks: int, *, max_array_size: int) -> tuple[Array, ...]:
    """Split tasks into as few job arrays as the site's MaxArraySize allows.

    Parameters
    ----------
    tasks : int
    max_array_size : int
        The highest index is one less, so that this many tasks fit.

    Examples
    --------
    >>> arrays_of(2500, max_array_size=1001)
    (Array(first=0, size=834), Array(first=834, size=833), Array(first=1667, size=833))
    """
    if max_array_size < 1:
        raise PlanError("Job arrays are switched off here (MaxArraySize is 0). Use plan.run().")
    count = math.ceil(tasks / max_array_size)
    sizes = [tasks // count + (k < tasks % count) for k in range(count)]
    firsts = [sum(sizes[:k]) for k in range(count)]
    return tuple(Array(first, size) for first, size in zip(firsts, sizes, strict=True))


def needed_memory(plan: Plan, *, factor: float = WORKING_FACTOR) -> np.ndarray:
    """Bytes that a task needs for each block: `factor` times trial and result, and Python."""
    need: np.ndarray = (factor * (plan.input_sizes() + plan.target.sizes())).astype(np.int64)
    return need + BASE


def check_memory(plan: Plan, memory: int, *, factor: float = WORKING_FACTOR) -> None:
    """Raise MemoryLimitError if the largest block needs more than a task is given.

    Parameters
    ----------
    plan : Plan
    memory : int
        Bytes of one task.
    factor : float
        What the function needs, in units of its trial and result.
    """
    need = needed_memory(plan, factor=factor)
    block = int(need.argmax())
    if int(need[block]) > memory:
        trial = int(plan.trials.index[plan.blocks.trial[block]])
        raise MemoryLimitError(
            f"Trial {trial} needs about {need[block] / 1e6:.0f} MB ({factor:g} times trial and "
            f"result, and {BASE / 1e6:.0f} MB for Python), but a task has {memory / 1e6:.0f} MB. "
            f"Ask for memory='{math.ceil(need[block] / 1e9 * 1.1)}GB', or plan with "
            "channels_per_block."
        )


def predicted_seconds(
    sizes: np.ndarray, mapping: Mapping, *, bytes_per_second: float
) -> np.ndarray:
    """Seconds that each array task will take at a measured speed, shape (tasks,)."""
    edges = [c.size for c in mapping.chunks]
    work = np.add.reduceat(sizes, np.concatenate([[0], np.cumsum(edges)[:-1]])) if edges else sizes
    return np.bincount(mapping.task, work, minlength=mapping.tasks) / bytes_per_second


def limits(site: Site, partition: str) -> Sequence[str]:
    """The limits of a partition, for people."""
    from slurm.site import format_time

    found = site.partition(partition)
    time = "none" if found.seconds is None else format_time(found.seconds)
    return [f"MaxArraySize {site.max_array_size}", f"time limit {time}"]
