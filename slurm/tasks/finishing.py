"""The finalizer: the job that comes after all tasks of a submission."""

from __future__ import annotations

import json
import shlex
import time

from hpcio.errors import HpcioError, as_output_error
from hpcio.journals import Ledger
from hpcio.machine import write_whole
from hpcio.planning import Plan
from hpcio.results import verify
from hpcio.running import Nobody, execute, record
from hpcio.words import plain
from slurm.submissions import Submission, read_submission
from slurm.tasks.ending import DONE, TROUBLE

__all__ = ["finish"]

# How many tracebacks the log of the finalizer holds, at the most.
_MOST_TRACEBACKS = 100


def finish(plan: Plan, number: int) -> int:
    """Publish the result of a submission if it is whole, and say what came of it.

    Returns
    -------
    int
        Exit status: 0 if the result is there and every byte of it verified.
    """
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
        "submission": number, "status": "complete" if complete else "incomplete",
        "time": time.time(), "done": done, "failed": failed,
        "missing": len(plan) - done - failed, "message": message,
    }  # fmt: skip
    path = plan.rundir.outcome
    try:
        write_whole(path, json.dumps(said, indent=1).encode())
    except OSError as error:
        raise as_output_error(error, path) from error
