"""Running a plan: what is missing goes to an executor, what is complete is published."""

from __future__ import annotations

import shlex
import time
import warnings
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from hpcio.errors import (
    BlocksFailed,
    Done,
    HpcioError,
    HpcioWarning,
    Interrupted,
    OutputError,
)
from hpcio.files import Mark, mark_of
from hpcio.journals import DONE, Ledger, held, prepare, published
from hpcio.planning import (
    Plan,
    RunPolicy,
    check_disk,
    difference,
    load_plan,
)
from hpcio.results import about_older, publish
from hpcio.results import open as open_result
from hpcio.running.clock import failed_for_time
from hpcio.running.extending import has_changed_since, take_over
from hpcio.words import KEEPING, START_OVER, after_failures, count, duration, earlier_words, listed
from hpcio.writers import backend_of, trusted_ledger

__all__ = ["Executor", "Nobody", "Observe", "Work", "begin", "execute", "record"]

# If nothing was done for so many seconds before Ctrl-C, people hear what to do about a hang.
_LONG = 20.0


@dataclass(frozen=True, eq=False)
class Work:
    """What an executor is asked to do.

    Attributes
    ----------
    plan : Plan
        Its run directory exists.
    blocks : numpy.ndarray of int64
        The blocks to do, ascending.
    retries : int
        How often a block that raises, or whose worker dies, is tried again.
    max_failed : int
        When more blocks than this have failed, the others need not be tried.
    trial_time : float or None
        After how many seconds a trial has failed.
    """

    plan: Plan
    blocks: np.ndarray
    retries: int
    max_failed: int
    trial_time: float | None = None


class Executor(Protocol):
    """Runs batches of blocks somewhere; it returns nothing, everyone reads the journals.

    Attributes
    ----------
    about : str
        A line for whoever watches, such as where to see more; may be empty.
    """

    @property
    def about(self) -> str: ...  # noqa: D102

    def check(self, plan: Plan, memory: str | int | None) -> None:
        """Raise MemoryLimitError if the largest block does not fit into one worker.

        `memory` is what a worker may use, if the caller has said so.
        """

    def execute(self, work: Work) -> None:
        """Try every block of the work at least once, by `hpcio.running.run_batch`.

        Failed blocks are journalled, not raised; if there are too many, it returns early.
        """


class Observe(Protocol):
    """Shows a run while it is at work."""

    def __call__(self, plan: Plan, about: str) -> AbstractContextManager[None]:
        """A context in which the run of a plan is shown; `about` is what its executor says."""


class Nobody:
    """Computes nothing, for a run that has nothing left to do, or only says what is missing."""

    about = ""

    def check(self, plan: Plan, memory: str | int | None) -> None:
        """Nothing will be computed."""

    def execute(self, work: Work) -> None:
        """Leave all as it is."""


def execute(
    plan: Plan,
    executor: Executor,
    *,
    policy: RunPolicy,
    memory: str | int | None = None,
    observe: Observe | None = None,
    only: np.ndarray | None = None,
) -> Done:
    """Run what a plan lacks, and publish the result; see :meth:`hpcio.Plan.run`.

    Parameters
    ----------
    plan : Plan
    executor : Executor
    policy : RunPolicy
    memory
        As for :meth:`hpcio.Plan.run`.
    observe : callable, optional
        Is called with the plan and with the line `about` of its executor, and returns a context
        in which the work is shown.
    only : numpy.ndarray of int, optional
        The blocks to try, of those that are missing.
    """
    if not plan.starts_over and published(plan):
        return _finished(plan)
    # Whatever can be refused is refused before `prepare`, which may make room for a new run.
    plan.source.check_content()
    executor.check(plan, memory)
    if plan.starts_over:
        check_disk(plan, np.arange(len(plan)))
    plan = begin(plan)
    with held(plan):
        if published(plan):  # another run has finished meanwhile
            return _finished(plan)
        failed_for_time(plan, policy.trial_time)
        blocks, known = _to_do(plan, only)
        _compute(plan, blocks, executor, policy, observe)
        del blocks  # there may be millions
        return _publish(plan, policy, known=known)


def _to_do(plan: Plan, only: np.ndarray | None) -> tuple[np.ndarray, set[Path]]:
    """The blocks that are missing, of those that are asked for, and the journals so far."""
    before = trusted_ledger(plan)
    missing = before.missing()
    blocks = missing if only is None else missing[np.isin(missing, only)]
    return blocks, {log.path for log in before.logs}


def begin(plan: Plan) -> Plan:
    """Prepare a plan; see `hpcio.journals.prepare`.

    If it starts over, and that throws away what an unfinished run of the very same plan has done, a
    warning says so.
    """
    if not plan.starts_over:
        take_over(plan)
        plan = prepare(plan)
        if plan.former:  # one file is made anew, with what is there of it
            backend_of(plan).reserve(plan)
        return plan
    done = 0
    with suppress(HpcioError):  # what cannot be read would not go on, either
        there = load_plan(plan.out)
        if there.digest == plan.digest and not published(there):
            done = int(Ledger.read(there).done.sum())
    plan = prepare(plan)
    if done:
        warnings.warn(
            f"Starting over: {count(done, f'done {plan.counted}')} of an unfinished run of this "
            f"same plan {'is' if done == 1 else 'are'} thrown away; without fresh=True (--fresh) "
            "it would go on.",
            HpcioWarning,
            stacklevel=4,
        )
    return plan


def _compute(
    plan: Plan, blocks: np.ndarray, executor: Executor, policy: RunPolicy, observe: Observe | None
) -> None:
    """Have an executor try some blocks, while the run is shown."""
    if not blocks.size:
        return
    check_disk(plan, blocks)
    backend_of(plan).reserve(plan)
    work = Work(plan, blocks, policy.retries, policy.most_failed(len(plan)), policy.trial_time)
    with nullcontext() if observe is None else observe(plan, executor.about):
        started = time.time()
        try:
            executor.execute(work)
        except KeyboardInterrupt:
            ledger = Ledger.read(plan)
            finished = int(ledger.done.sum())
            raise Interrupted(
                f"Stopped with {finished:,} of {count(len(plan), plan.counted)} done. "
                f"Continue with: hpcio resume {shlex.quote(plan.out)}"
                f"{_limit(ledger, policy.trial_time, since=started)}{_older(plan)}"
            ) from None


def _publish(plan: Plan, policy: RunPolicy, *, known: set[Path]) -> Done:
    """Publish the result if it is complete, or may have gaps."""
    ledger = trusted_ledger(plan)
    done = record(ledger, known)
    # Only a block that was tried may become a gap.
    if not ledger.done.all() and not (policy.gaps and ledger.state.all()):
        said = _failed_message(ledger, policy.most_failed(len(plan)))
        raise BlocksFailed(f"{said}{_older(plan)}", done)
    plan.source.check_unchanged()
    publish(ledger)
    return replace(done, gaps=int((~ledger.done).sum()))


def _older(plan: Plan) -> str:
    """Of the older result that a run was to replace, if it is still there: a line for people."""
    mark = mark_of(plan.out) if plan.replaces else None
    is_there = mark is not None and mark.run_id == plan.replaces
    return f"\n{about_older(plan.out)}" if is_there else ""


def _finished(plan: Plan) -> Done:
    """The record of a run that has nothing left to do."""
    mark = mark_of(plan.out)
    if mark is None or mark.plan != plan.digest:
        there = _plan_of(plan.out, mark)
        if there is not None and _has_all_of(there, plan):
            return _finished(there)
        others = None if there is None else difference(plan, there)
        if plan.former and plan.former[-1].trials < len(plan.trials):
            raise has_changed_since(plan)
        differing = f" (other {others})" if others else _kept_before(plan)
        keeping = KEEPING if others and others.may_be_kept else ""
        raise OutputError(
            f"The output '{plan.out}' exists and is not the result of this plan{differing}. "
            f"{keeping}Choose another name, or start over with fresh=True (in the "
            "shell: --fresh)."
        )
    _say_what_has_changed(plan)
    with open_result(plan.out) as f:  # which says what of it is gone, if anything is
        if plan.average is None:
            is_done = f["hpcio/state"][()] == DONE
        else:  # is one block itself
            is_done = np.repeat(f["trials"]["done"], plan.blocks.channel_blocks)
    blocks = int(is_done.sum())
    gaps = is_done.size - blocks
    if not plan.run_directory.is_dir():  # one file was made of it
        return Done(plan.out, blocks=blocks, counted=plan.counted, gaps=gaps)
    ledger = Ledger.read(plan)
    # A run that was starting over may have set journals aside.
    known = {log.path for log in ledger.logs}
    return replace(record(ledger, known), blocks=blocks, gaps=gaps)


def _has_all_of(there: Plan, plan: Plan) -> bool:
    """Whether a result, which has grown, is the one of a plan, or has that of a plan and more."""
    if difference(plan, there).is_of_kept:
        return not any(former.changed for former in (*plan.former, *there.former))
    if not there.has_but_grown_since(plan.digest):
        return False
    more = len(there.trials) - len(plan.trials)
    warnings.warn(
        f"'{plan.out}' has all {count(len(plan.trials), 'trial')} of this plan, and {more:,} that "
        "were added since. Nothing is computed.",
        HpcioWarning,
        stacklevel=5,
    )
    return True


def _kept_before(plan: Plan) -> str:
    """That a result whose plan is gone is of several functions, if it is."""
    with suppress(HpcioError), open_result(plan.out) as f:
        if f.earlier:
            return f" (it has {earlier_words(f.earlier)}, and its plan is gone: it stays as it is)"
    return ""


def _plan_of(out: str, mark: Mark | None) -> Plan | None:
    """The plan of a result, if it is still there."""
    there = None
    with suppress(HpcioError):
        there = load_plan(out)
    return there if mark is not None and there is not None and there.digest == mark.plan else None


def _limit(ledger: Ledger, trial_time: float | None, *, since: float) -> str:
    """The limit for a trial; without one, what to do if nothing was done any more."""
    if trial_time is not None:
        return f" --trial-time {trial_time:g}s"
    quiet = time.time() - float(
        ledger.values_of("end", np.flatnonzero(ledger.state)).max(initial=since)
    )
    if quiet < _LONG:
        return ""
    return (
        f"\nNothing was done for {duration(round(quiet))}. If a {ledger.plan.counted} hangs, say "
        "how long it may take: --trial-time 5m"
    )


def _say_what_has_changed(plan: Plan) -> None:
    """Warn if the function or the recording of a plan that was loaded is another by now."""
    try:
        remedy = f"To compute with what it is now, {START_OVER}."
        plan.load_function(remedy=remedy)
        plan.load_reduction(remedy=remedy)
        plan.source.check_content()
    except HpcioError as error:
        warnings.warn(
            f"'{plan.out}' is done, and stays as it was computed. Since then: {error}",
            HpcioWarning,
            stacklevel=4,
        )


def record(ledger: Ledger, known: set[Path]) -> Done:
    """The record of a run, from its journals but for those that are `known`."""
    plan = ledger.plan
    new = [log for log in ledger.logs if log.path not in known]
    times = [
        (float(log.header["start"]), log.records)
        for log in new
        if (log.records["kind"] == DONE).any()
    ]
    seconds = 0.0
    if times:
        started = min(_first_start(records, start) for start, records in times)
        seconds = max(float(r["end"].max()) for _, r in times) - started
    ours = [log.records["block"][log.records["kind"] == DONE] for log in new]
    computed = np.zeros(len(plan), bool)
    for numbers in ours:
        computed[numbers] = True
    blocks = np.flatnonzero(computed)
    return Done(
        out=plan.out,
        seconds=seconds,
        blocks=int(ledger.done.sum()),
        computed=int(blocks.size),
        repeated=sum(numbers.size for numbers in ours) - int(blocks.size),
        nbytes=plan.stored_bytes(blocks),
        nbytes_read=int(plan.input_sizes()[blocks].sum()),
        failed=ledger.failures(),
        workers=len(times),
        counted=plan.counted,
    )


def _first_start(records: np.ndarray, opened: float) -> float:
    """When the first block of an attempt began, in seconds since 1970."""
    first = records[0]
    lasted = float(first["compute"]) + float(first["io"]) if first["kind"] == DONE else 0.0
    return max(opened, float(first["end"]) - lasted)


def _failed_message(ledger: Ledger, max_failed: int) -> str:
    plan, failures = ledger.plan, ledger.failures()
    lost = int((~ledger.done).sum()) - len(failures)
    total = count(len(plan), plan.counted)
    if not failures:
        return (
            f"{lost:,} of {total} {'is' if lost == 1 else 'are'} not done, though none has failed; "
            "nothing was published. What is done stays. Go on with: hpcio resume "
            f"{shlex.quote(plan.out)}"
        )
    lines = [f"{len(failures):,} of {total} failed; nothing was published. What is done stays."]
    lines += listed([f"{failure.name}: {failure.reason}" for failure in failures])
    if lost:
        stopped = f", since more than {max_failed} had failed (max_failed)"
        tried = f"{count(lost, plan.counted)} {'was' if lost == 1 else 'were'} not tried"
        lines.append(f"  {tried}" + stopped * (len(failures) > max_failed))
    lines.append(f"Tracebacks: hpcio status {shlex.quote(plan.out)} --failed")
    too_long = any(failure.cause == "time" for failure in failures)
    allow = len(plan) if lost else 0
    by_name = not plan.function.pickled
    lines += after_failures(plan.out, plan.counted, allow=allow, too_long=too_long, by_name=by_name)
    return "\n".join(lines)
