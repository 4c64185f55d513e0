"""Adding trials to a result: a plan that keeps what is there, and computes what is new."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hpcio.errors import HpcioWarning, OutputError, PlanError
from hpcio.files import mark_of
from hpcio.journals import held
from hpcio.planning import Plan, extended, load_plan, renewed, replace_plan
from hpcio.recording import Outside, grown
from hpcio.running.keeping import that_keeps
from hpcio.words import count
from hpcio.writers import backend_of, trusted_ledger

__all__ = ["extended_by", "has_changed_since", "take_over"]


def extended_by(
    there: Plan,
    trials: Any,
    *,
    source: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    keep_done: bool = False,
    trial_time: float | None = None,
    outside: Outside = "error",
) -> Plan:
    """The plan that adds trials to the result of another; see :meth:`hpcio.Plan.extend`.

    Nothing is touched before it is run.
    """
    mark, now = mark_of(there.out), load_plan(there.out)
    if mark is None or now.run_id != mark.run_id:
        raise OutputError(
            f"'{there.out}' is not there yet, or another run that is to replace it has begun. "
            "Trials are added to a finished result: finish that run first, Plan.load(out).run() "
            f"(in the shell: hpcio resume {shlex.quote(there.out)})."
        )
    if now.digest == there.digest or now.has_but_grown_since(there.digest):
        there = replace(now, live=there.live)  # with the trials that were added since
    else:
        raise has_changed_since(there)
    more = grown(there.trials, there.source, trials, source=source, out=there.out, outside=outside)
    if len(more.trials) == len(there.trials):
        warnings.warn(
            f"All {count(more.given, 'trial')} that are given are in the result already: there is "
            "nothing to add.",
            HpcioWarning,
            stacklevel=3,
        )
        return there
    old = renewed(there) if keep_done else there
    if any(a.digest != b.digest for a, b in zip(old.reduction, there.reduction, strict=True)):
        raise PlanError(
            f"The functions of reduce of '{there.out}' have changed, and what the others have "
            "added up cannot be kept. Put them back, or plan anew, with all trials."
        )
    changed = (old.function.digest, old.given.digest) != (there.function.digest, there.given.digest)
    plan = extended(
        old, more, kwargs={} if kwargs is None else kwargs, abilities=backend_of(there).abilities,
        changed=changed, trial_time=trial_time,
    )  # fmt: skip
    backend_of(plan).check_plan(plan)
    plan = that_keeps(plan, trusted_ledger(there), changed=changed)
    return replace(plan, replaces=there.run_id)


def take_over(plan: Plan) -> None:
    """Let a plan that adds trials be that of the run directory, if it is not yet.

    Raises
    ------
    PlanError
        If the result has changed since, or somebody is at work on it.
    """
    if not plan.former or not plan.replaces or not plan.rundir.plan.exists():
        return
    there = load_plan(plan.out)
    if there.digest == plan.digest or plan.former[-1].trials == len(plan.trials):
        return
    with held(there):
        there = load_plan(plan.out)
        last = plan.former[-1]
        if (there.digest, there.run_id) != (last.digest, last.run_id):
            raise has_changed_since(plan)
        replace_plan(plan)


def has_changed_since(plan: Plan) -> PlanError:
    """The error for a result which another run has replaced since."""
    return PlanError(
        f"'{plan.out}' has changed since: another run has replaced it. Extend it as it is now: "
        "Plan.load(out).extend(...)."
    )
