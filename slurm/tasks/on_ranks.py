"""What each rank of an MPI job runs."""

from __future__ import annotations

from hpcio.errors import Interrupted
from hpcio.journals import read_logs, tried_since
from hpcio.planning import Plan
from hpcio.running import Ranks, call_on_ranks, execute
from hpcio.words import say
from slurm.submissions import read_submission, task_plan
from slurm.tasks.ending import DONE, ENDED, restart

__all__ = ["run_on_ranks"]


def run_on_ranks(plan: Plan, number: int) -> int:
    """Be one of the ranks of a submission; an exit status.

    The first one has SLURM start the job again if its time was too short.
    """
    submission, blocks = read_submission(plan, number), task_plan(plan, number).blocks

    def main(executor: Ranks) -> int:
        known = {log.path for log in read_logs(plan)}
        try:
            execute(plan, executor, policy=submission.policy, only=blocks)
        except Interrupted as error:
            say(f"hpcio: {error}", err=True)
            if executor.ended:
                return ENDED
            return restart(plan, progress=tried_since(plan, known).blocks.size > 0)
        return DONE

    return call_on_ranks(main) or DONE
