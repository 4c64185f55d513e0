"""How a task ends: exit statuses, and having SLURM start a job again where it has stopped."""

from __future__ import annotations

import signal

from hpcio.errors import ClusterError
from hpcio.planning import Plan
from hpcio.words import say
from slurm.site import call, environment

__all__ = ["AGAIN", "DONE", "ENDED", "NO_MEMORY", "TROUBLE", "restart"]

# Why a block has failed at whose end the system has killed its process.
NO_MEMORY = "MemoryError: the memory of task {task} was used up, and its process killed"
# Nothing is left to do.
DONE = 0
# An error was printed.
TROUBLE = 1
# The time of the task is nearly over: SLURM is to start it again.
AGAIN = 75
# SLURM or a user ends the task: 128 + SIGTERM, as shells say it.
ENDED = 143


def restart(plan: Plan, *, progress: bool) -> int:
    """Have SLURM start this job again, unless that would be in vain.

    Parameters
    ----------
    plan : Plan
    progress : bool
        Whether the job has finished a block since it was started.

    Returns
    -------
    int
        Exit status, if SLURM has not ended this process before.
    """
    job = environment.job()
    if environment.restarts() and not progress:
        return _say(
            f"task {job} has finished no block since it was started again, and "
            "gives up: its trials take longer than a task may run. "
            f"Ask for more time: hpcio resume {plan.out} --time ..."
        )
    # The job is named by array and task, since the last task of an array has the number of the
    # array as its own: requeueing that number would start the whole array.
    try:
        call(["scontrol", "requeue", job])
    except ClusterError as error:
        return _say(f"not started again: {error}")
    # SLURM ends this process now.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.sigtimedwait({signal.SIGTERM}, 30)
    return DONE


def _say(words: str) -> int:
    say(f"hpcio: {words}", err=True)
    return TROUBLE
