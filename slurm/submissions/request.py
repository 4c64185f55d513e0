"""What jobs ask of SLURM: every option has its value, and the site has what is asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcio.errors import OptionError, check_whole
from hpcio.machine import parse_bytes
from hpcio.planning import Plan
from hpcio.writers import needs_ranks
from slurm.mapping import BATCHES_PER_TASK
from slurm.site import Site, SubmitOptions, check_options, parse_factor, parse_time, settings

__all__ = ["JobRequest", "make_request"]


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """What the tasks of a submission ask of SLURM.

    Attributes
    ----------
    tasks : int
        How many, at the most.
    ranks : int or None
        How many ranks, for one MPI job; None for job arrays.
    partition : str or None
    seconds : int or None
        Walltime.
    memory : int or None
        Bytes.
    cpus : int
    throttle : int or None
        How many tasks may run at a time.
    name : str
        Of the job.
    signal : int
        How many seconds before its end a task is told of it.
    stale : float
        After how many seconds without a sign of life a task counts as dead.
    sbatch : tuple of str
        Further options of sbatch, one in each.
    prologue : str
        Lines of shell that come before Python, such as ``module load``.
    launcher : str
        The command that starts the ranks of an MPI job, with its options.
    mem_retry, time_retry : float or None
        How much more memory, or time for a trial, those get in another pass that failed for want
        of it; None if they get no other.
    mem_max : int or None
        Bytes of memory that another pass asks for at the most; None if nothing is known.
    chunks_per_task : int
        Into how many batches the range of each task is cut, at the most.
    python : str
    """

    tasks: int
    ranks: int | None
    partition: str | None
    seconds: int | None
    memory: int | None
    cpus: int
    throttle: int | None
    name: str
    signal: int
    stale: float
    sbatch: tuple[str, ...]
    prologue: str
    launcher: str
    mem_retry: float | None = None
    time_retry: float | None = None
    mem_max: int | None = None
    chunks_per_task: int = BATCHES_PER_TASK
    python: str = sys.executable


def make_request(plan: Plan, options: SubmitOptions, site: Site) -> JobRequest:
    """What a user asks of a site, with the user's defaults for what was not said.

    Parameters
    ----------
    plan : Plan
    options : SubmitOptions
    site : Site

    Raises
    ------
    OptionError, ClusterError
        If that makes no sense, or the site does not have it.
    """
    values = {**settings(site.cluster).values, **options.said()}
    # How many that will be is not decided here.
    is_auto = values["tasks"] == "auto"
    _check(plan, {**values, "tasks": None} if is_auto else values)
    seconds = None if values["walltime"] is None else parse_time(values["walltime"])
    memory = None if values["memory"] is None else parse_bytes(values["memory"])
    lead = int(values["signal"])
    partition = site.choose(
        values["partition"], cpus=values["cpus"], memory=memory or 0, seconds=seconds
    )
    limit = site.seconds_of(partition) if seconds is None else seconds
    largest = site.largest_memory(values["partition"])
    most = largest if values["mem_max"] is None else parse_bytes(values["mem_max"])
    return JobRequest(
        tasks=min(1 if is_auto else int(values["tasks"]), _most_tasks(site, values["throttle"])),
        ranks=values.get("ranks"),
        partition=partition,
        seconds=seconds,
        memory=memory,
        cpus=values["cpus"],
        throttle=values["throttle"],
        name=values.get("name") or f"hpcio {Path(plan.out).stem}",
        signal=lead if limit is None else max(1, min(lead, limit // 2)),
        stale=float(values["stale"]),
        sbatch=tuple(values["sbatch"]),
        prologue=values["prologue"],
        launcher=values["launcher"],
        mem_retry=parse_factor("mem_retry", values["mem_retry"]),
        time_retry=parse_factor("time_retry", values["time_retry"]),
        mem_max=most,
        chunks_per_task=values["chunks_per_task"] or BATCHES_PER_TASK,
    )


def _most_tasks(site: Site, throttle: int | None) -> int:
    """How many tasks make sense."""
    # The controller has no room for more. sbatch would wait in vain.
    most = max(1, site.max_jobs // 2)
    if throttle is None:
        return most
    # SLURM counts how many run of each array by itself. More tasks than may run at a time, in
    # more arrays than one, would have nothing to do.
    return min(most, max(throttle, site.max_array_size))


def _check(plan: Plan, values: Mapping[str, Any]) -> None:
    for option in ("tasks", "chunks_per_task", "cpus", "throttle", "ranks"):
        if values.get(option) is not None:
            check_whole(option, values[option], least=1)
    check_options(values["sbatch"])
    if needs_ranks(plan) and values.get("ranks") is None:
        raise OptionError(
            f"writer='{plan.writer}' writes from the ranks of one MPI job, not from array tasks. "
            "Ask for ranks=R (in the shell: --mpi --ntasks R), or use writer='direct'."
        )
