"""Going on with what is done by a function that has changed, or that is to be tried once more."""

from __future__ import annotations

import secrets
import warnings
from dataclasses import replace

import numpy as np

from hpcio.errors import HpcioWarning, OutputError, PlanError
from hpcio.files import mark_of, open_file, read_text
from hpcio.function import check_versions
from hpcio.journals import Ledger, held, published, start_over
from hpcio.planning import (
    Former,
    Plan,
    difference,
    digest_of,
    load_plan,
    renewed,
    replace_plan,
)
from hpcio.words import START_OVER, count
from hpcio.writers import fills_gaps, trusted_ledger

__all__ = ["keeping_done", "that_keeps"]


def keeping_done(plan: Plan) -> Plan:
    """Let the run of a plan go on with what an earlier one has done, whatever function that was by.

    The plan of the run directory is replaced by one that says which blocks are kept. A result with
    gaps stays until they are computed; then it is replaced, too.

    Parameters
    ----------
    plan : Plan
        As it was made or loaded just now; of one that was loaded, the function is looked up anew.

    Returns
    -------
    Plan
        What is to be run.

    Raises
    ------
    PlanError
        If anything but function and arguments differs, or somebody is at work on the run.
    OutputError
        If the writer has no way to keep what is done.
    """
    if not plan.rundir.plan.exists():
        return plan
    there = load_plan(plan.out)
    plan = plan if plan.live is not None else _as_it_is(plan)
    plan.source.check_content()
    there = load_plan(plan.out)
    with held(there):  # which sees that it is still that plan
        others = difference(plan, there)
        if not others.may_be_kept:
            raise PlanError(
                f"'{plan.run_directory}' belongs to another plan (other {others}). What is done "
                f"is kept where function or arguments alone are others. Else {START_OVER}."
            )
        same = plan.same_versions or there.same_versions
        if others.is_of_kept:  # it is the plan that is there
            plan = replace(there, live=plan.live, same_versions=same)
        else:
            check_versions(there.packages, same=same)
        is_published = published(there)
        if others.is_of_kept and not is_published:
            return plan
        ledger = trusted_ledger(there)
        if not ledger.missing().size:
            return _all_done(plan, there)
        if not ledger.done.any():
            return start_over(plan)
        if not others.is_of_kept:
            plan = that_keeps(plan, ledger)
        run_id, replaces = there.run_id, there.replaces
        if is_published:
            _check_gaps(there)
            run_id, replaces = secrets.token_hex(8), there.run_id
        plan = replace(plan, run_id=run_id, replaces=replaces)
        replace_plan(plan)
    return plan


def _as_it_is(plan: Plan) -> Plan:
    """A plan that was loaded, by its function as it is now."""
    now = renewed(plan)
    if plan.function.pickled and now.function.digest == plan.function.digest:
        warnings.warn(
            f"'{plan.function.name}' is kept in the plan by its value, so that no edit of it is "
            "seen here. Where it was edited, plan again, and run(keep_done=True).",
            HpcioWarning,
            stacklevel=4,
        )
    return now


def _check_gaps(there: Plan) -> None:
    """Raise OutputError if the gaps of a result cannot be filled."""
    mark = mark_of(there.out)
    if mark is None or mark.run_id != there.run_id:
        raise OutputError(
            f"'{there.out}' is not the result of the plan in '{there.run_directory}'. Choose "
            f"another output, or {START_OVER}."
        )
    if not fills_gaps(there):
        raise OutputError(
            f"'{there.out}' is the one file that the writer '{there.writer}' has made, and is not "
            f"written again. To fill its gaps, {START_OVER}."
        )


def _all_done(plan: Plan, there: Plan) -> Plan:
    """The plan to run where nothing is left to do."""
    # Of a published result, that a function has changed is said anyhow if it is found by name.
    is_told = published(there) and not there.function.pickled
    if plan.digest != there.digest and not (is_told and plan.given.digest == there.given.digest):
        warnings.warn(
            f"All {count(len(there), there.counted)} of '{there.out}' were done before function or "
            "arguments changed, and are kept as they are; nothing is computed.",
            HpcioWarning,
            stacklevel=4,
        )
    return there


def that_keeps(plan: Plan, ledger: Ledger, *, changed: bool = True) -> Plan:
    """A plan that keeps what is done of another, which has no other blocks but fewer.

    Parameters
    ----------
    plan : Plan
    ledger : Ledger
        Of the other one.
    changed
        See `hpcio.planning.Former`.
    """
    there, created = ledger.plan, ""
    if published(there):
        with open_file(there.out) as f:
            created = read_text(f, "created", "")
    former = (*there.former, Former.of(there, changed=changed, created=created))
    place = {one.digest: k for k, one in enumerate(former, 1)}
    of_log = np.asarray([place[log.plan] for log in ledger.logs], np.uint16)
    kept = np.zeros(len(plan), np.uint16)
    # Of a group of an average, all or nothing is kept.
    is_missing = np.zeros(len(there), bool)
    is_missing[ledger.missing()] = True
    done = np.flatnonzero(~is_missing)
    kept[done] = of_log[ledger.log[done]]
    plan = replace(plan, former=former, kept=kept)
    return replace(plan, digest=digest_of(plan))
