"""What each pass of a submission was, what it cost, and what to ask for instead: for the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpcio.journals import FAILED, Usage, memory_to_ask, read_usage
from hpcio.reporting import RunView, Section, render
from hpcio.words import count, duration, memory, size
from slurm.submissions import records
from slurm.submissions.records import Submission

__all__ = ["section"]

_WHY = {
    "": "submitted", "left": "left by tasks that were gone", "memory": "needed more memory",
    "time": "needed more time",
}  # fmt: skip
_NOT_KNOWN = "not known"
# What is to be asked for after the longest trial: half more, as for walltimes.
_MORE = 1.5


@dataclass(frozen=True)
class _Pass:
    """One pass: what it was given, came of it, and used; bytes and seconds."""

    made: Submission
    given: int
    done: np.ndarray
    failed: int
    peak: int
    core_seconds: float | None


def section(run: RunView) -> Section | None:
    """The passes of the newest submission; None if it had but one."""
    last = records.newest(run.plan)
    chain = [] if last is None else records.passes(run.plan, last)
    if len(chain) < 2:
        return None
    usages, _ = read_usage(run.plan)
    ends = [set(made.known) for made in chain[1:]]
    found = [
        _pass(run, made, None if k == len(ends) else ends[k], usages)
        for k, made in enumerate(chain)
    ]
    heads = [
        ("pass", True), ("its trials", False), ("given", True), ("done", True), ("failed", True),
        ("memory asked for", True), ("most used", True), ("time for a trial", True),
        ("core time", True),
    ]  # fmt: skip
    rows = [_row(k, one) for k, one in enumerate(found, 1)]
    return Section("Passes", render("table", heads=heads, rows=rows, notes=_advice(run, found)))


def _pass(
    run: RunView, made: Submission, before_next: set[str] | None, usages: tuple[Usage, ...]
) -> _Pass:
    ledger = run.ledger
    its = [
        i
        for i, log in enumerate(ledger.logs)
        if log.path.name not in made.known and (before_next is None or log.path.name in before_next)
    ]
    logs = [ledger.logs[i].records for i in its]
    failed = {b for log in logs for b in log["block"][log["kind"] == FAILED].tolist()}
    done = np.flatnonzero(ledger.done & np.isin(ledger.log, its))
    used = [u for u in usages if u.label.startswith(f"{made.number}-")]
    return _Pass(
        made=made,
        given=records.task_plan(run.plan, made.number).blocks.size,
        done=done,
        failed=len(failed - set(done.tolist())),
        peak=max((u.memory_peak for u in used), default=0),
        core_seconds=sum(u.seconds * (u.cpus_asked or 1) for u in used) if used else None,
    )


def _row(k: int, one: _Pass) -> list[str]:
    made = one.made
    return [
        str(k), _WHY[made.why], f"{one.given:,}", f"{one.done.size:,}", f"{one.failed:,}",
        _NOT_KNOWN if made.memory is None else size(made.memory),
        size(one.peak) if one.peak else _NOT_KNOWN,
        "" if made.trial_time is None else duration(made.trial_time),
        _NOT_KNOWN if one.core_seconds is None else duration(one.core_seconds),
    ]  # fmt: skip


def _advice(run: RunView, found: list[_Pass]) -> list[str]:
    """What the further passes cost, and what to ask for to do without them."""
    costs = [one.core_seconds for one in found[1:] if one.core_seconds is not None]
    notes = []
    if costs:
        took = duration(sum(costs))
        notes.append(f"Further passes took {took} of core time, but for workers that were killed.")
    short = [one for one in found if one.made.why == "memory"]
    if short:
        most = max(memory_to_ask(one.peak or one.made.memory or 0) for one in short)
        notes.append(
            f"To do all in one pass, ask for --mem {memory(most)}. As it was, "
            f"{count(sum(one.done.size for one in short), run.plan.counted)} of {len(run.plan):,} "
            "had more than the others: that wastes less if they are few."
        )
    nothing = np.zeros(0, np.int64)
    long = np.concatenate([nothing, *(one.done for one in found if one.made.why == "time")])
    times = run.times
    slow = (times.compute + times.io)[np.isin(times.block, long)]
    if slow.size:
        notes.append(
            f"Of those that needed more time the longest took {duration(slow.max())}: next time, "
            f"--trial-time {int(np.ceil(_MORE * slow.max()))}s."
        )
    if any(one.made.why == "left" for one in found):
        notes.append(f"Why tasks were gone stands in their logs: hpcio logs {run.plan.out}")
    return notes
