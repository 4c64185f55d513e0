"""Submitting a plan; array tasks need nothing but the plan on the shared file system.

Nothing is left running on the login node. One job array computes; a job that waits for its end,
the finalizer, puts the result together.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from hpcio.planning import Plan
from slurm.site import SubmitOptions
from slurm.submissions import sending
from slurm.submissions.handle import Submitted

__all__ = ["scripts", "submit", "write_scripts"]

P = ParamSpec("P")
R = TypeVar("R")


def _by_keywords(
    options: Callable[P, SubmitOptions],
) -> Callable[[Callable[[Plan, SubmitOptions], R]], Callable[Concatenate[Plan, P], R]]:
    """Let users give each option as a keyword, with the names and types of `SubmitOptions`."""

    def decorate(function: Callable[[Plan, SubmitOptions], R]) -> Callable[Concatenate[Plan, P], R]:
        @functools.wraps(function)
        def call(plan: Plan, *nothing: P.args, **keywords: P.kwargs) -> R:
            if nothing:
                raise TypeError(f"{function.__name__}() takes all options as keywords")
            return function(plan, SubmitOptions.of(keywords))

        first, *_ = inspect.signature(function).parameters.values()
        keywords = inspect.signature(options).parameters.values()
        call.__signature__ = inspect.Signature([first, *keywords])  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]  # `plan` has a name, too

    return decorate


@_by_keywords(SubmitOptions)
def submit(plan: Plan, options: SubmitOptions) -> Submitted:
    """Submit what a plan lacks as one job array, and a finalizer behind it.

    Options that are not given come from the user's file (see `slurm.site.config`), then from the
    defaults of SLURM.

    Parameters
    ----------
    plan : Plan
    tasks : int or "auto", optional
        Array tasks at the most. ``"auto"`` takes what `slurm.recommend` says, and tells why.
    chunks_per_task : int, optional
        The range of each is cut into so many chunks, which tasks take over from each other.
    partition : str, optional
        ``"auto"`` takes the smallest that fits.
    memory : str, optional
        Of a task, such as ``"8GB"``.
    walltime : str, optional
        Of a task, such as ``"01:00:00"``; longer runs start their tasks again.
    cpus : int, optional
        Of a task, for threads of numerical libraries.
    throttle : int, optional
        How many tasks may run at a time.
    name : str, optional
        Of the jobs.
    retries, max_failed, gaps, trial_time
        As for :meth:`hpcio.Plan.run`.
    mem_retry : str, optional
        How much more memory trials get, in a pass of their own, that lack it, such as ``"2x"``
        (the default), and again as long as `mem_max` is not reached; ``"off"`` for none.
    mem_max : str, optional
        Memory of a task at the most, such as ``"64GB"``; by default that of the largest node of
        the partition.
    time_retry : str, optional
        How much more time than `trial_time` trials get once, in a pass of their own, that took
        longer; ``"off"`` (the default) for none.
    prologue : str, optional
        Shell that comes before Python, such as ``"module load hdf5"``.
    sbatch : sequence of str
        Further options of sbatch, such as ``["--qos=high", "--gres=gpu:1"]``.
    probe : bool
        Compute a few trials here first, and refuse a walltime that is too short for one.
    signal : int, optional
        How many seconds before its end a task is told of it; at least 90 for SLURM's clock.
    stale : float, optional
        After how many seconds without a sign of life a task counts as dead.
    ranks : int, optional
        Submit one MPI job of this many ranks instead of a job array; memory and cpus are those
        of a rank then.
    launcher : str, optional
        The command that starts ranks: by default ``mpirun``, or such as ``"srun --mpi=pmix"``.

    Returns
    -------
    Submitted

    Raises
    ------
    ClusterError
        If there is no SLURM here, or it refuses, in its own words.
    PlanError
        If the run is at work already, or an option makes no sense.
    MemoryLimitError, TimeLimitError
        If the largest block does not fit into a task.
    SourceError
        If the recording is not what it was when the plan was made.

    Examples
    --------
    >>> run = submit(plan, tasks=64, memory="8GB", walltime="01:00:00")  # doctest: +SKIP
    >>> with run.result() as f:                                      # doctest: +SKIP
    ...     print(f["data"].shape)
    """
    sending.submit_missing(plan, options)
    return Submitted(plan.out)


@_by_keywords(SubmitOptions)
def write_scripts(plan: Plan, options: SubmitOptions) -> Submitted:
    """Write the scripts of a submission into the run directory, and submit nothing.

    ``sbatch OUT.run/array.sh`` works as it stands.

    Parameters
    ----------
    plan : Plan
    **options
        As for `submit`.
    """
    sending.write_missing(plan, options)
    return Submitted(plan.out)


@_by_keywords(SubmitOptions)
def scripts(plan: Plan, options: SubmitOptions) -> list[str]:
    """The job scripts that `submit` would write, the finalizer's last; nothing is written.

    Parameters
    ----------
    plan : Plan
    **options
        As for `submit`.
    """
    return sending.preview(plan, options)
