"""The finalizer: the job that comes after all tasks of a submission."""

from __future__ import annotations

import json
import shlex
import time

from hpcio.errors import HpcioError, as_output_error
from hpcio.journals import Ledger, attempt_name, published
from hpcio.machine import write_whole
from hpcio.planning import Plan
from hpcio.results import verify
from hpcio.running import Nobody, blame, execute, record
from hpcio.words import count, duration, say, size
from hpcio.writers import trusted_ledger
from slurm.submissions import (
    Row,
    Submission,
    is_alone_in,
    is_stopped,
    jobs,
    next_pass,
    numbers,
    outcome,
    pass_words,
    read_queue,
    read_submission,
    submit_pass,
    task_plan,
)
from slurm.tasks.claims import Claims
from slurm.tasks.ending import DONE, NO_MEMORY, TROUBLE
from slurm.tasks.helping import Progress, spared, unfinished

__all__ = ["finish", "publish_early"]

_COMPLETE = "complete"
_KILLS_RANKS = "WorkerError: the rank that computed it died, alone and among others"

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
        say(str(said.get("message")))  # the task that did the last block has done it
        return DONE
    if max(numbers(plan)) > number:  # as if this job was started again after it had sent a pass
        say(f"Submission {max(numbers(plan))} goes on with this run.")
        return DONE
    submission = read_submission(plan, number)
    try:
        again, why_not = _submit_again(plan, submission)
    except HpcioError as error:  # what is whole is published all the same
        again, why_not = "", f"\nWhether another pass would help is not known: {error}"
    if again:
        say(again)
        return DONE
    try:
        message, complete = _publish(plan, submission), True
    except HpcioError as error:
        message = f"{error}\n{_advice(plan, submission)}{why_not}"
        complete = False
    ledger = Ledger.read(plan)
    failures = ledger.failures()
    _keep_outcome(ledger, number, message, failed=len(failures), complete=complete)
    say(message)
    for failure in failures[:_MOST_TRACEBACKS]:
        say(f"\n--- {failure.name}\n{failure.traceback}")
    return DONE if complete else TROUBLE


def _advice(plan: Plan, submission: Submission) -> str:
    """The command that goes on, with what failures lack."""
    command = f"In the shell: hpcio resume {shlex.quote(plan.out)}"
    causes = {failure.cause for failure in Ledger.read(plan).failures()}
    if "memory" in causes:
        had = f" than {size(submission.memory)}" if submission.memory else ""
        command += f" --mem SIZE, where SIZE is more{had} (and --partition, if its nodes have less)"
    if "time" in causes and submission.trial_time is not None:
        command += f" --trial-time TIME, where TIME is more than {duration(submission.trial_time)}"
    return command


def _submit_again(plan: Plan, submission: Submission) -> tuple[str, str]:
    """Submit what another pass may do: what that is, or why it cannot be submitted, in words."""
    found = read_queue(plan)
    rows = found.rows if found is not None else ()
    ours = jobs(plan, submission.number)  # a run of this name that was thrown away had others
    rows = tuple(
        row
        for row in rows
        if row.submission == submission.number and (ours is None or row.job in ours.arrays)
    )
    bury = _bury_ranks if submission.ranks else _bury
    stopped = bury(plan, submission, rows)
    again = next_pass(plan, submission, trusted_ledger(plan), rows=rows, stopped=stopped)
    if again is None:
        return "", ""
    try:
        made = submit_pass(plan, submission, again)
    except HpcioError as error:
        words = f"{count(again.blocks.size, plan.counted)} would be done again"
        return "", f"\n{words}, but cannot be submitted from here: {error}"
    return f"{pass_words(plan, made, again.blocks.size)}: submission {made.number}", ""


def _bury(plan: Plan, submission: Submission, rows: tuple[Row, ...]) -> bool:
    """Record what tasks have died of; whether they were stopped since too much had failed.

    All of them have ended, so that whoever has not said so has died.
    """
    short = {row.task for row in rows if row.state == "OUT_OF_MEMORY"}
    claims = Claims(plan, submission.number, attempt_name("finish"), first=submission.first)
    progress = Progress(plan, submission)
    claims.look()
    progress.look()
    for claim, part in unfinished(claims, progress, task_plan(plan, submission.number), len(plan)):
        task = claim.owner.rpartition("-")[0].rpartition("-")[2]
        if claim.owner and int(task) in short and not claim.in_order:
            blame(plan, {progress.at_hand(part): NO_MEMORY.format(task=task)}, "memory")
        else:
            spared(claims, progress, plan, claim, part)
    return claims.stopped


def _bury_ranks(plan: Plan, submission: Submission, rows: tuple[Row, ...]) -> bool:
    """Record that a trial kills the rank that computes it, and all others with that one.

    Which one it was is known of a pass that has tried nothing else.
    """
    states = {row.state for row in rows if row.task is not None}
    blocks, ledger = task_plan(plan, submission.number).blocks, trusted_ledger(plan)
    left = blocks[ledger.state[blocks] == 0]
    begun = any(log.path.name not in submission.known for log in ledger.logs)
    if left.size and begun and is_alone_in(plan, submission):
        if states == {"FAILED"}:
            blame(plan, {int(left[0]): _KILLS_RANKS})
        if states == {"OUT_OF_MEMORY"}:
            blame(plan, {int(left[0]): NO_MEMORY.format(task=0)}, "memory")
    return is_stopped(plan, submission.number)


def publish_early(plan: Plan, number: int) -> None:
    """Publish the result of a submission of which no block is left, and verify it.

    Raises
    ------
    HpcioError
        If it cannot be published; the finalizer tries again, and says so.
    """
    message = _publish(plan, read_submission(plan, number))
    _keep_outcome(Ledger.read(plan), number, message, failed=0, complete=True)
    say(message)


def _publish(plan: Plan, submission: Submission) -> str:
    """Publish and verify the result; the record of the submission, in words."""
    execute(plan, Nobody(), policy=submission.policy)
    return f"{record(Ledger.read(plan), submission.journals_before(plan))}\n{verify(plan.out)}"


def _keep_outcome(
    ledger: Ledger, number: int, message: str, *, failed: int, complete: bool
) -> None:
    """Write what ``hpcio status`` says of the submission from now on."""
    plan, done = ledger.plan, int(ledger.done.sum())
    said = {
        "run_id": plan.run_id, "submission": number, "time": time.time(),
        "status": _COMPLETE if complete else "incomplete", "done": done, "failed": failed,
        "missing": len(plan) - done - failed, "message": message,
    }  # fmt: skip
    path = plan.rundir.outcome
    try:
        write_whole(path, json.dumps(said, indent=1).encode())
    except OSError as error:
        raise as_output_error(error, path) from error
