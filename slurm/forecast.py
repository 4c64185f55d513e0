"""What array tasks will need, and whether it fits into what is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpcio.errors import MemoryLimitError, TimeLimitError
from hpcio.machine import parse_bytes
from hpcio.planning import Plan, plan_memory, probe
from hpcio.words import duration, html_table, in_lines, size
from slurm.mapping import BATCHES_PER_TASK, TaskPlan, arrays_of, map_blocks
from slurm.site import parse_time

__all__ = [
    "BASE_TASK",
    "Description",
    "check_memory",
    "check_walltime",
    "describe",
    "measured_speed",
    "needed_memory",
    "predicted_seconds",
]

# What a compute function needs beside its trial and its result, in units of both: copies
# and intermediate arrays.
WORKING_FACTOR = 2.0
# Python with its libraries, in bytes: with a dask worker around it, and without.
BASE = 250 << 20
BASE_TASK = 100 << 20


def needed_memory(plan: Plan, *, factor: float = WORKING_FACTOR, base: int = BASE) -> np.ndarray:
    """Bytes that a task needs for each block: Python, the plan, `factor` times trial and result."""
    need: np.ndarray = (factor * plan.work_sizes()).astype(np.int64)
    return need + base + plan_memory(plan)


def check_memory(
    plan: Plan, memory: int, *, factor: float = WORKING_FACTOR, base: int = BASE
) -> None:
    """Raise MemoryLimitError if the largest block needs more than a task is given.

    Parameters
    ----------
    plan : Plan
    memory : int
        Bytes of one task.
    factor : float
        What the function needs, in units of its trial and result.
    base : int
        Bytes of Python and what is around it.
    """
    need = needed_memory(plan, factor=factor, base=base)
    block = int(need.argmax())
    if int(need[block]) > memory:
        trial = int(plan.trials.index[plan.blocks.trial[block]])
        raise MemoryLimitError(
            f"Trial {trial} needs about {need[block] / 1e6:.0f} MB ({factor:g} times trial and "
            f"result, and {(base + plan_memory(plan)) / 1e6:.0f} MB for Python and the plan), but "
            f"a task has {memory / 1e6:.0f} MB. "
            f"Ask for memory='{math.ceil(need[block] / 1e9 * 1.1)}GB', or plan with "
            "channels_per_block."
        )


def check_walltime(plan: Plan, seconds: float, *, bytes_per_second: float) -> None:
    """Raise TimeLimitError if the largest block takes longer than a task may run.

    A task may end before its batches do: it stops between two blocks, and another goes on.

    Parameters
    ----------
    plan : Plan
    seconds : float
        How long a task works, without the margin at its end.
    bytes_per_second : float
        Of one task, as `measured_speed` says.
    """
    work = plan.work_sizes()
    block = int(work.argmax())
    takes = float(work[block]) / bytes_per_second
    if takes > seconds:
        trial = int(plan.trials.index[plan.blocks.trial[block]])
        raise TimeLimitError(
            f"Trial {trial} takes about {duration(takes)} at the speed of the probes, but a task "
            f"works for {duration(seconds)} at the most. Ask for a longer walltime, or plan with "
            "channels_per_block."
        )


def predicted_seconds(
    sizes: np.ndarray, task_plan: TaskPlan, *, bytes_per_second: float
) -> np.ndarray:
    """Seconds that each array task will take at a measured speed, shape (tasks,).

    Parameters
    ----------
    sizes : numpy.ndarray, shape (n,)
        Bytes of each block, in the order of the batches.
    task_plan : TaskPlan
    bytes_per_second : float
        Of one task.
    """
    if not task_plan.batches:
        return np.zeros(0)
    first = np.cumsum([0, *(c.size for c in task_plan.batches[:-1])])
    work = np.add.reduceat(np.asarray(sizes, np.float64), first)
    seconds: np.ndarray = np.bincount(task_plan.task, work, task_plan.tasks) / bytes_per_second
    return seconds


def measured_speed(plan: Plan, *, probes: int = 3, trial_time: float | None = None) -> float:
    """Bytes that one task reads and writes in a second, from some trials computed here.

    Parameters
    ----------
    plan : Plan
    probes : int
        How many trials, evenly spread between the smallest and the largest.
    trial_time : float, optional
        How long one may take, in seconds.
    """
    work = plan.work_sizes()
    order = np.argsort(work, kind="stable")
    picked = np.unique(order[((np.arange(probes) + 0.5) / probes * order.size).astype(int)])
    timed = probe(plan, picked.tolist(), trial_time=trial_time).timed
    done = sum(int(work[t.block]) for t in timed)
    return done / max(sum(t.seconds for t in timed), 1e-9)


@dataclass(frozen=True, repr=False)
class Description:
    """What a plan will ask of a cluster; it shows as a table.

    Attributes
    ----------
    tasks, arrays : int
    chunks : int
        Batches that the ranges of all tasks are cut into.
    blocks : int
    largest, smallest : int
        Bytes of work of the largest and the smallest task.
    memory_needed : int
        Bytes for the largest block.
    memory : int or None
        Bytes of a task, if known.
    seconds : float
        Of the slowest task, at the speed of the probes on this machine.
    longest : float
        Seconds of the largest block, at that speed.
    walltime : int or None
        Seconds of a task, if known.
    """

    tasks: int
    chunks: int
    arrays: int
    blocks: int
    largest: int
    smallest: int
    memory_needed: int
    memory: int | None
    seconds: float
    longest: float
    walltime: int | None

    def rows(self) -> list[tuple[str, str]]:
        """Names and values, for a table."""
        much = "" if self.memory is None else f" of {size(self.memory)} asked for"
        if self.memory is not None and self.memory_needed > self.memory:
            much += " -- too little!"
        long = "" if self.walltime is None else f" of {duration(self.walltime)} asked for"
        if self.walltime is not None and self.longest > self.walltime:
            long += " -- too little!"
        elif self.walltime is not None and self.seconds > self.walltime:
            long += ", so that tasks will be replaced"
        return [
            ("array tasks", f"{self.tasks} in {self.arrays} job array{'s' * (self.arrays != 1)}"),
            ("chunks", f"{self.chunks} of {self.blocks} blocks"),
            ("work of a task", f"{size(self.smallest)} to {size(self.largest)}"),
            ("memory", f"{size(self.memory_needed)}{much}"),
            ("time of a task", f"{duration(self.seconds)}{long}"),
            ("longest block", duration(self.longest)),
        ]

    def __repr__(self) -> str:
        return in_lines(self.rows())

    def _repr_html_(self) -> str:
        return html_table("What a submission will take", self.rows())


def describe(
    plan: Plan,
    *,
    tasks: int,
    memory: str | int | None = None,
    walltime: str | None = None,
    max_array_size: int = 1001,
    batches_per_task: int = BATCHES_PER_TASK,
    factor: float = WORKING_FACTOR,
) -> Description:
    """Say, before anything is submitted, how a plan maps to array tasks and what they need.

    Parameters
    ----------
    plan : Plan
    tasks : int
        Array tasks to ask for.
    memory, walltime : optional
        What a task will ask for, such as ``"8GB"`` and ``"01:00:00"``.
    max_array_size : int
        The site's, as ``slurm.read_site().max_array_size`` says.
    batches_per_task : int
    factor : float
        What the function needs, in units of its trial and result.

    Returns
    -------
    Description
        ``print`` it.

    Examples
    --------
    >>> print(describe(plan, tasks=64, memory="8GB", walltime="01:00:00"))  # doctest: +SKIP
    """
    work = plan.work_sizes()
    mapped = map_blocks(
        np.arange(len(plan)),
        work,
        tasks=tasks,
        batches_per_task=batches_per_task,
        together=plan.group_of(np.arange(len(plan))),
    )
    of_task = predicted_seconds(work, mapped, bytes_per_second=1.0)
    speed = measured_speed(plan)
    return Description(
        tasks=mapped.tasks,
        chunks=len(mapped.batches),
        arrays=len(arrays_of(mapped.tasks, max_array_size=max_array_size)),
        blocks=len(plan),
        largest=int(of_task.max()),
        smallest=int(of_task.min()),
        memory_needed=int(needed_memory(plan, factor=factor).max()),
        memory=None if memory is None else parse_bytes(memory),
        seconds=float(of_task.max()) / speed,
        longest=float(work.max()) / speed,
        walltime=None if walltime is None else parse_time(walltime),
    )
