"""The command that job scripts run: ``python -m slurm.tasks VERB OUT SUBMISSION``.

===================================  =======================================================
``run OUT SUBMISSION FIRST``         an array task of the array whose first task is FIRST
``ranks OUT SUBMISSION``             one rank of an MPI job
``finish OUT SUBMISSION``            the finalizer
===================================  =======================================================

An array task is two processes. The one that SLURM started waits (`waiting`), and forks one that
works (`working`); that one helps others when its own work is done (`helping`).
"""

from __future__ import annotations

import signal
import sys

from hpcio.errors import HpcioError
from hpcio.planning import Plan, load_plan
from hpcio.words import say
from slurm.tasks.ending import TROUBLE

__all__ = ["main"]


def main() -> None:
    """Do what the arguments say, and exit."""
    verb, out, number, *first = sys.argv[1:]
    try:
        sys.exit(_run(verb, load_plan(out), int(number), *map(int, first)))
    except HpcioError as error:
        say(f"hpcio: {error}", err=True)
        sys.exit(TROUBLE)


def _run(verb: str, plan: Plan, number: int, first: int = 0) -> int:
    # Each verb imports what it needs: tasks are many, and start in a moment.
    if verb == "finish":
        # The script ignores it until Python is ready; cancelled means ended, and nothing more sent.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from slurm.tasks.finishing import finish

        return finish(plan, number)
    if verb == "ranks":
        from slurm.tasks.on_ranks import run_on_ranks

        return run_on_ranks(plan, number)
    from slurm.tasks.waiting import TaskWatcher

    return TaskWatcher(plan, number, first).run()


if __name__ == "__main__":
    main()
