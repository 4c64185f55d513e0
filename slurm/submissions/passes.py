"""Further passes: what a submission could not do, its finalizer submits again.

Trials that need more memory, or more time, get it in a job array of their own, which asks for more.
What was left by tasks that are gone is done as before. All passes of a submission name the first of
them, which is the one that a user has made; a pass is a submission like any other.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from hpcio.errors import Cause, ClusterError
from hpcio.journals import FAILED, Ledger, held, read_usage
from hpcio.planning import Plan, RunPolicy
from hpcio.words import count, duration, size
from hpcio.writers import trusted_ledger
from slurm.site import SubmitOptions, format_time, read_site
from slurm.submissions import records
from slurm.submissions.making import write_submission
from slurm.submissions.queue import Row
from slurm.submissions.records import Submission, Why
from slurm.submissions.request import make_request
from slurm.submissions.sending import send_jobs

__all__ = ["Pass", "is_alone_in", "next_pass", "pass_words", "submit_pass"]

# What a task needs beside the trial that takes longest, in seconds.
_START = 60


@dataclass(frozen=True, eq=False)
class Pass:
    """What is to be submitted once more.

    Attributes
    ----------
    blocks : numpy.ndarray of int
    why : {"left", "memory", "time"}
    options : SubmitOptions
        With more of what they lacked.
    """

    blocks: np.ndarray
    why: Why
    options: SubmitOptions


def next_pass(
    plan: Plan, last: Submission, ledger: Ledger, *, rows: tuple[Row, ...], stopped: bool
) -> Pass | None:
    """What is to be done next of a submission whose tasks have ended; None if nothing is.

    Parameters
    ----------
    plan : Plan
    last : Submission
        The one that has ended.
    ledger : Ledger
        As it is now.
    rows : tuple of Row
        Its tasks, as far as SLURM remembers them: what was cancelled is not begun again.
    stopped : bool
        Whether it has ended since too many blocks had failed.
    """
    chain = records.passes(plan, last)
    failed = _failed(ledger, {*chain[0].known})
    cancelled = any(row.state == "CANCELLED" for row in rows if row.task is not None)
    if cancelled or stopped or sum(map(len, failed.values())) > last.max_failed:
        return None
    missing = ledger.missing()
    groups = plan.group_of(missing)
    tried = np.concatenate([np.zeros(0, np.int64), *failed.values()])
    # Blocks of one sum stay together: they are done again with those that have failed.
    left = missing[~np.isin(groups, plan.group_of(tried))]
    again = _worth_another_try(plan, last, ledger, left)
    if again.size:
        return Pass(again, "left", _options(last))
    for why, more in (("memory", _more_memory), ("time", _more_time)):
        # More and more is asked for only if what was asked for last was tried.
        tried_again = last if last.why == why else chain[0]
        short = _failed(ledger, {*tried_again.known})[why]  # type: ignore[index]
        options = more(plan, chain) if short.size else None
        if options is not None:
            again = missing[np.isin(groups, plan.group_of(short))]
            return Pass(again, why, options)  # type: ignore[arg-type]
    return None


def _failed(ledger: Ledger, known: set[str]) -> dict[Cause, np.ndarray]:
    """The blocks that have failed in journals that are not known, by cause."""
    found: dict[Cause, list[int]] = defaultdict(list)
    for block in np.flatnonzero(ledger.state == FAILED).tolist():
        log = ledger.logs[ledger.log[block]]
        if log.path.name not in known:
            found[log.cause(ledger.record_of(block))].append(block)
    nothing = np.zeros(0, np.int64)
    return defaultdict(lambda: nothing, {k: np.asarray(v) for k, v in found.items()})


def _worth_another_try(
    plan: Plan, last: Submission, ledger: Ledger, left: np.ndarray
) -> np.ndarray:
    """Those of the blocks that were left which another pass is to try.

    A pass of tasks that has done nothing is the last, and so is one of ranks that have not begun.
    The ranks of one job all end with the one whose trial kills it: if they have done less than
    half, half of the rest are tried, until the trial that kills is alone, and `is_alone_in` says
    so.
    """
    given = records.task_plan(plan, last.number).blocks
    rest: np.ndarray = given[np.isin(given, left)]
    if not last.ranks:
        return left if rest.size < given.size else left[:0]
    if all(log.path.name in last.known for log in ledger.logs):
        return left[:0]
    if 2 * rest.size <= given.size:
        return left
    groups = np.unique(plan.group_of(rest))
    if groups.size > 1:
        rest = rest[np.isin(plan.group_of(rest), groups[: (groups.size + 1) // 2])]
    elif is_alone_in(plan, last):
        rest = rest[:0]
    return rest


def is_alone_in(plan: Plan, last: Submission) -> bool:
    """Whether a pass has tried once more blocks that stay together, and nothing beside them."""
    blocks = records.task_plan(plan, last.number).blocks
    return last.why == "left" and np.unique(plan.group_of(blocks)).size == 1


def _options(last: Submission) -> SubmitOptions:
    """What a pass asks for that has as much as the one before."""
    memory = None if last.memory is None else str(last.memory)
    walltime = None if last.seconds is None else format_time(last.seconds)
    return replace(
        last.options, memory=memory, walltime=walltime, trial_time=last.trial_time, probe=False
    )


def _more_memory(plan: Plan, chain: list[Submission]) -> SubmitOptions | None:
    last = chain[-1]
    asked = [made.memory for made in chain if made.memory is not None] or _memory_had(plan, last)
    if last.mem_retry is None or last.mem_max is None or not asked:
        return None
    memory = min(int(max(asked) * last.mem_retry), last.mem_max)
    return replace(_options(last), memory=str(memory)) if memory > max(asked) else None


def _memory_had(plan: Plan, last: Submission) -> list[int]:
    """What tasks had that asked for nothing, as the site has it."""
    of = f"{last.number}-"
    return [
        used.memory_asked
        for used in read_usage(plan)[0]
        if used.memory_asked is not None and used.label.startswith(of)
    ]


def _more_time(_: Plan, chain: list[Submission]) -> SubmitOptions | None:
    last = chain[-1]
    # One that hangs would take more and more: more time is given once.
    if last.time_retry is None or last.trial_time is None or any(p.why == "time" for p in chain):
        return None
    seconds = last.trial_time * last.time_retry
    options = replace(_options(last), trial_time=seconds)
    if last.seconds is not None:
        walltime = max(last.seconds, int(seconds) + last.signal + _START)
        options = replace(options, walltime=format_time(walltime))
    return options


def submit_pass(plan: Plan, last: Submission, found: Pass) -> Submission:
    """Submit a pass, from the finalizer of the one before.

    Raises
    ------
    ClusterError
        If SLURM refuses, as where jobs may submit no jobs.
    PlanError
        If somebody else is at work on the run.
    """
    site = read_site()
    request = make_request(plan, found.options, site)
    limit = found.options.policy().trial_time
    with held(plan):
        if records.is_stopped(plan, last.number):
            raise ClusterError("The run was cancelled meanwhile.")
        made = write_submission(
            plan, request, found.blocks, site=site, ledger=trusted_ledger(plan),
            options=last.options, policy=_policy(last, limit), first=last.first or last.number,
            why=found.why,
        )  # fmt: skip
        send_jobs(plan, made)
    return made


def _policy(last: Submission, trial_time: float | None) -> RunPolicy:
    return replace(last.policy, trial_time=trial_time)


def pass_words(plan: Plan, made: Submission, blocks: int) -> str:
    """What a pass does, in words."""
    words = f"{count(blocks, plan.counted)} again"
    if made.why == "memory" and made.memory is not None:
        return f"{words} with {size(made.memory)} of memory"
    if made.why == "time" and made.trial_time is not None:
        return f"{words} with {duration(made.trial_time)} for each"
    return f"{words}, left by tasks that are gone"
