"""Extending a plan: further trials behind those that there are, whose blocks keep their numbers."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from hpcio.errors import FunctionError, HpcioWarning, OptionError
from hpcio.fingerprints import fingerprint
from hpcio.layout import Average, Axis, Output, record_of, times_of
from hpcio.planning.dryrun import Called, Outcome, dry_run
from hpcio.planning.making import (
    Read,
    outputs_of,
    refuse_generators,
    sources_of,
    texts_of,
)
from hpcio.planning.options import CallOptions, LayoutOptions, StorageOptions, WriterAbilities
from hpcio.planning.plan import Plan
from hpcio.recording import Grown, placed

__all__ = ["extended"]


def extended(
    there: Plan,
    more: Grown,
    *,
    kwargs: Mapping[str, Any],
    abilities: WriterAbilities,
    changed: bool,
    trial_time: float | None = None,
) -> Plan:
    """A plan of all trials of another and of those behind them; it keeps nothing that is done.

    What trials of new shapes give is found by a dry run; of the others it is known.

    Parameters
    ----------
    there : Plan
    more : Grown
        Its trials and recordings, and those that are new.
    kwargs : mapping
        See `Arguments.extended`.
    abilities : WriterAbilities
        What the writer can do.
    changed : bool
        Whether the function or its arguments are others since, so that nothing is known.
    trial_time : float, optional
        How long a trial may take in the dry run, in seconds.

    Raises
    ------
    FunctionError, OptionError, PlanError
        If the results of the new trials do not fit those that are there, or the function has
        changed.
    """
    trials, recording = more.trials, more.recording
    count = len(there)
    blocks = placed(trials, recording).blocks(recording.shape, name=str(recording))
    new = np.arange(len(there.trials), len(trials))
    arguments = there.arguments().extended(
        lambda name: trials[name][new], kwargs, more.order, more.given
    )
    payload = arguments.dump()
    function = there.load_function()
    called = Called(function, there.function, arguments, payload, fingerprint(arguments))
    refuse_generators(called.function, called.given)
    call = CallOptions(
        out_dtype=there.dtype if there.casting == "same_kind" else None, trial_time=trial_time
    )
    before = Outcome.of_plan(there)
    unsure = changed or called.function.fingerprint.unseen or called.given.unseen
    found = dry_run(
        called, recording, blocks.cut(slice(count, None)), call,
        known=None if unsure else (there.blocks, before),
    )  # fmt: skip
    outcomes = [_together(known, outcome, there) for known, outcome in _pairs(before, found, there)]
    read = Read(recording, trials, blocks, np.arange(len(trials)))
    outputs = [
        _as_before(old, output, there, read)
        for old, output in zip(
            there.outputs,
            outputs_of(read, outcomes, _layout_of(there), there.reduction, trial_time),
            strict=True,
        )
    ]
    several = bool(there.several)
    storage = StorageOptions(writer=there.writer, sources=there.sources)
    sources_of(storage, abilities, outputs)  # that there may be so many
    return replace(
        there,
        source=recording,
        trials=trials,
        blocks=blocks,
        target=record_of(outputs) if several else outputs[0].target,
        axes=() if several else outputs[0].axes,
        several=tuple(outputs) if several else (),
        payload=payload,
        given=called.given,
        average=None if several else outputs[0].average,
        described={**there.described, **texts_of(called, there.reduction)},
        live=function,
        run_id=secrets.token_hex(8),
        former=(),
        kept=np.zeros(0, np.uint16),
    )


# ---------------------------------------------------------------------- what blocks return


def _pairs(
    known: Sequence[Outcome], found: Sequence[Outcome], there: Plan
) -> list[tuple[Outcome, Outcome]]:
    """What blocks that are there return, and what the new ones do, result by result."""
    names, now = ([one.name for one in each] for each in (known, found))
    if names != now:
        raise FunctionError(
            f"'{there.function.name}' gives {', '.join(filter(None, now)) or 'one result'} for the "
            f"further trials, and gave {', '.join(filter(None, names)) or 'one result'}. Return "
            "the same names for all trials."
        )
    return list(zip(known, found, strict=True))


def _together(known: Outcome, found: Outcome, there: Plan) -> Outcome:
    """What all blocks return."""
    if known.dtype != found.dtype:
        of = f" of '{known.name}'" if known.name else ""
        raise FunctionError(
            f"'{there.function.name}' gives results{of} of type {found.dtype} for the further "
            f"trials, and gave {known.dtype}. Return one type for all trials."
        )
    shapes = [*dict.fromkeys([*known.shapes, *found.shapes])]
    place = np.asarray([shapes.index(shape) for shape in found.shapes], np.int32)
    index = np.concatenate([known.shape_index, place[found.shape_index]])
    return replace(known, shapes=tuple(shapes), shape_index=index.astype(np.int32))


# ---------------------------------------------------------------------- where results lie


def _layout_of(there: Plan) -> LayoutOptions:
    """The options by which results lie as those that are there; axes are named later."""
    by = () if there.grouping is None else there.grouping.by
    if there.average is not None:
        return LayoutOptions(
            keeptrials=False, by=by, out_channel_axis=_channel_axis(there.outputs[0]),
            reduce=None if there.reduction else there.average.what,
        )  # fmt: skip
    kept = {o.name: o.target for o in there.of_trials}
    options: dict[str, Any] = {
        "join": {n: "stack" if target.stacked else "concatenate" for n, target in kept.items()},
        "join_axis": {n: None if target.stacked else target.axis for n, target in kept.items()},
        "out_channel_axis": {o.name: _channel_axis(o) for o in there.outputs},
    }
    if not there.several:
        return LayoutOptions(**{name: given["data"] for name, given in options.items()})
    averaged: Any = {o.name: o.average.what for o in there.outputs if o.average is not None}
    return LayoutOptions(**options, reduce=averaged or None, by=by or None)


def _channel_axis(output: Output) -> int | None:
    """The axis of channels of one result, where it counts."""
    if output.average is not None and output.average.channel_axis is not None:
        return output.average.channel_axis
    axis = output.target.channel_axis  # where trials were cut into blocks of channels
    return None if axis is None else axis - int(output.target.stacked)


def _as_before(old: Output, output: Output, there: Plan, read: Read) -> Output:
    """A result of all trials: stored and named as that of before was."""
    average = output.average
    if average is not None and old.average is not None:
        # Groups are those of before, as long as these go, and new ones behind.
        ((_, size),) = average.stretches
        stretches = (*old.average.stretches, (len(there.trials), size))
        average = replace(average, stretches=stretches)
    return replace(
        output, average=average, axes=_axes(old, output, there, read), chunks=old.chunks,
        compression=old.compression,
    )  # fmt: skip


def _axes(old: Output, output: Output, there: Plan, read: Read) -> tuple[Axis, ...]:
    """The axes of a result: named as they were, and as long as they are now."""
    average = old.average
    along: int | None = old.target.axis if average is None or average.by else None
    axes = []
    for k, (was, now) in enumerate(zip(old.axes, output.axes, strict=True)):
        # The axis of trials has times only if there was but one, whose rows follow no others.
        rows = k != along or not old.target.stacked
        if rows and _are_times(was, there, old.target.shape[k]):
            times = times_of(read.trials, read.blocks, output.target.shape[k])
            if k != along and times is None:
                warnings.warn(
                    f"Rows of the further trials lie otherwise about their events than those of "
                    f"'{there.out}', so that the axis '{was.name}' loses its times.",
                    HpcioWarning,
                    stacklevel=5,
                )
            axes.append(replace(was, values=times))
            continue
        same = was.values is None or len(was.values) == output.target.shape[k]
        if k != along and same:
            axes.append(was)
        elif was.values is None or _is_by_itself(was, there, average):
            axes.append(replace(now, name=was.name))
        elif average is not None and same:
            axes.append(was)
        else:
            raise OptionError(
                f"The axis '{was.name}' of '{there.out}' has coordinates that were given when it "
                "was planned (axes=), and the further trials have none. Give what is known of "
                "trials as columns of their table."
            )
    return tuple(axes)


def _are_times(axis: Axis, there: Plan, length: int) -> bool:
    """Whether coordinates are the times of the rows of each trial."""
    if axis.values is None:
        return False
    times = times_of(there.trials, there.blocks, length)
    return times is not None and np.array_equal(axis.values, times)


def _is_by_itself(axis: Axis, there: Plan, average: Average | None) -> bool:
    """Whether coordinates along trials, or conditions, are those that nobody has given."""
    values = axis.values
    own: np.ndarray = there.trials.index
    if average is not None:
        _, first = np.unique(average.condition, return_index=True)
        own = there.trials.columns[average.by[0]][first]
        own = np.char.encode(own, "utf-8") if own.dtype.kind == "U" else own
    return bool(np.array_equal(cast(np.ndarray, values), own))
