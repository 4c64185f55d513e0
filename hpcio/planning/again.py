"""Planning again what is done: what blocks return is known from the plan of the result.

A script that is run once more would else try its function with trials, in processes whose start
takes longer than all the rest of a run that has nothing to do.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from hpcio.errors import HpcioError
from hpcio.files import mark_of
from hpcio.fingerprints import Fingerprint
from hpcio.planning.dryrun import Called, Outcome, dtype_of
from hpcio.planning.options import CallOptions
from hpcio.planning.plain import plain_input_kind
from hpcio.planning.plan import Plan
from hpcio.planning.planfile import load_for_worker
from hpcio.recording import Blocks, Recording

__all__ = ["known_outcome"]


def known_outcome(
    out: str, called: Called, recording: Recording, blocks: Blocks, call: CallOptions
) -> tuple[Outcome, ...] | None:
    """What blocks return, if a result is there whose run has called the same for the same.

    Parameters
    ----------
    out : str
        The result, if there is any.
    called : Called
    recording : Recording
    blocks : Blocks
    call : CallOptions

    Returns
    -------
    tuple of Outcome, or None
        None if any of it differs, down to the versions of packages; if something was reached that
        no fingerprint covers; or if the run is not finished, since plans that fail are made anew.
    """
    mark = mark_of(out)
    if mark is None or call.out_shape is not None:
        return None
    there = None
    with suppress(HpcioError):  # none, damaged, of another version or user: as if it were not there
        there = load_for_worker(out)
    if (
        there is None
        or (mark.plan, mark.run_id) != (there.digest, there.run_id)
        or there.function.name != called.function.name
        or not _is_same(there.function.fingerprint, called.function.fingerprint)
        or not _is_same(there.given, called.given)
        or there.source != recording
        or not _read_the_same(there.blocks, blocks)
        or not _has_type(there, call)
    ):
        return None
    return Outcome.of_plan(there)


def _is_same(one: Fingerprint, other: Fingerprint) -> bool:
    return one == other and not one.unseen


def _read_the_same(one: Blocks, other: Blocks) -> bool:
    """Whether the blocks of two plans of one recording read the same."""
    kinds = ([plain_input_kind(kind) for kind in blocks.input_kinds] for blocks in (one, other))
    names = ("trial", "base", "input_kind", "channel_block")
    return (
        one.axis == other.axis
        and next(kinds) == next(kinds)
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
    )


def _has_type(plan: Plan, call: CallOptions) -> bool:
    """Whether the results of a plan have the type that is asked for, or that of the function."""
    if call.out_dtype is None:
        return plan.casting == "equiv"
    return plan.casting == "same_kind" and plan.dtype == dtype_of(call.out_dtype)
