"""The finalizer: the job that comes after all tasks of a submission."""

from __future__ import annotations

import json
import shlex
import time

from hpcio.errors import HpcioError, as_output_error
from hpcio.journals import Ledger, published
from hpcio.machine import write_whole
from hpcio.planning import Plan
from hpcio.results import verify
from hpcio.running import Nobody, execute, record
from hpcio.words import plain
from slurm.submissions import Submission, outcome, read_submission
from slurm.tasks.ending import DONE, TROUBLE

__all__ = ["finish", "publish_early"]

_COMPLETE = "complete"

# How many tracebacks the log of the finalizer holds, at the most.
_MOST_TRACEBACKS = 100


def finish(plan: Plan, number: int) -> int:
    """Publish the result of a submission if it is whole, and say what came of it.

    Returns
    -------
    int
        Exit status: 0 if the result is there and every byte of it verified.
    """
    said = outcome(plan, number)
    if said is not None and said["status"] == _COMPLETE and published(plan):
        print(plain(str(said.get("message"))))  # the task that did the last block has done it
        return DONE
    submission = read_submission(plan, number)
    try:
        message, complete = _publish(plan, submission), True
    except HpcioError as error:
        message = f"{error}\nIn the shell: hpcio resume {shlex.quote(plan.out)}"
        complete = False
    ledger = Ledger.read(plan)
    failures = ledger.failures()
    _keep_outcome(ledger, number, message, failed=len(failures), complete=complete)
    print(plain(message))
    for failure in failures[:_MOST_TRACEBACKS]:
        print(f"\n--- {failure.name}\n{plain(failure.traceback)}")
    return DONE if complete else TROUBLE


def publish_early(plan: Plan, number: int) -> None:
    """Publish the result of a submission of which no block is left, and verify it.

    Raises
    ------
    HpcioError
        If it cannot be published; the finalizer tries again, and says so.
    """
    message = _publish(plan, read_submission(plan, number))
    _keep_outcome(Ledger.read(plan), number, message, failed=0, complete=True)
    print(plain(message), flush=True)


def _publish(plan: Plan, submission: Submission) -> str:
    """Publish and verify the result; the record of the submission, in words."""
    execute(plan, Nobody(), policy=submission.policy)
    known = {plan.rundir.journals / name for name in submission.known}
    return f"{record(Ledger.read(plan), known)}\n{verify(plan.out)}"


def _keep_outcome(
    ledger: Ledger, number: int, message: str, *, failed: int, complete: bool
) -> None:
    """Write what ``hpcio status`` says of the submission from now on."""
    plan, done = ledger.plan, int(ledger.done.sum())
    said = {
        "submission": number, "status": _COMPLETE if complete else "incomplete",
        "time": time.time(), "done": done, "failed": failed,
        "missing": len(plan) - done - failed, "message": message,
    }  # fmt: skip
    path = plan.rundir.outcome
    try:
        write_whole(path, json.dumps(said, indent=1).encode())
    except OSError as error:
        raise as_output_error(error, path) from error
