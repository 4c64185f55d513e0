"""Extending a plan: further trials behind those that there are, whose blocks keep their numbers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from hpcio.errors import FunctionError, OptionError
from hpcio.fingerprints import fingerprint
from hpcio.layout import Average, Axis, Output, record_of
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
from hpcio.recording import Blocks, Grown, placed

__all__ = ["extended"]


def extended(
    there: Plan,
    more: Grown,
    *,
    kwargs: Mapping[str, Any],
    abilities: WriterAbilities,
    trial_time: float | None = None,
) -> Plan:
    """A plan of all trials of another and of those behind them; it keeps nothing that is done.

    What the new trials give is found by a dry run; of the others it is known.

    Parameters
    ----------
    there : Plan
    more : Grown
        Its trials and recordings, and those that are new.
    kwargs : mapping
        See `Arguments.extended`.
    abilities : WriterAbilities
        What the writer can do.
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
        lambda name: trials.columns[name][new], kwargs, more.order, more.given
    )
    payload = arguments.dump()
    function = there.load_function()
    called = Called(function, there.function, arguments, payload, fingerprint(arguments))
    refuse_generators(called.function, called.given)
    call = CallOptions(
        out_dtype=there.dtype if there.casting == "same_kind" else None, trial_time=trial_time
    )
    found = dry_run(called, recording, _behind(blocks, count), call)
    outcomes = [
        _together(known, outcome, there) for known, outcome in _pairs(_known(there), found, there)
    ]
    read = Read(recording, trials, blocks, np.arange(len(trials)))
    outputs, average = outputs_of(read, outcomes, _layout_of(there), there.reduction, trial_time)
    if average is not None and there.average is not None:
        average = _in_stretches(average, there.average, len(there.trials))
    outputs = [
        replace(
            output,
            axes=_axes(old, output, there, average),
            chunks=old.chunks,
            compression=old.compression,
        )
        for old, output in zip(there.outputs, outputs, strict=True)
    ]
    several = bool(there.several)
    target = record_of([o.target for o in outputs]) if several else outputs[0].target
    in_rows = all(output.target.in_rows for output in outputs)
    storage = StorageOptions(writer=there.writer, sources=there.sources)
    sources_of(storage, abilities, target, average, in_rows=in_rows)  # that there may be so many
    return replace(
        there,
        source=recording,
        trials=trials,
        blocks=blocks,
        target=target,
        axes=() if several else outputs[0].axes,
        several=tuple(outputs) if several else (),
        payload=payload,
        given=called.given,
        average=average,
        described={**there.described, **texts_of(called, there.reduction)},
        live=function,
        run_id=secrets.token_hex(8),
        former=(),
        kept=np.zeros(0, np.uint16),
    )


def _behind(blocks: Blocks, count: int) -> Blocks:
    """The blocks behind the first so many."""
    names = ("trial", "base", "input_kind", "channel_block")
    return replace(blocks, **{name: getattr(blocks, name)[count:] for name in names})


# ---------------------------------------------------------------------- what blocks return


def _known(there: Plan) -> list[Outcome]:
    """What the blocks of a plan return."""
    if there.several:
        return [
            Outcome(o.target.shape_index, o.target.shapes, o.target.dtype, o.name)
            for o in there.several
        ]
    return [Outcome(there.target.shape_index, there.shapes, there.dtype)]


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
    if there.average is not None:
        axis = there.average.channel_axis
        axis = _channel_axis(there.outputs[0]) if axis is None else axis
        return LayoutOptions(keeptrials=False, by=there.average.by, out_channel_axis=axis,
                             reduce=None if there.reduction else there.average.what)  # fmt: skip
    outputs = {output.name: output for output in there.outputs}
    join: dict[str, Any] = {n: _join(o) for n, o in outputs.items()}
    join_axis = {n: None if o.target.stacked else o.target.axis for n, o in outputs.items()}
    channel_axis = {n: _channel_axis(o) for n, o in outputs.items()}
    if there.several:
        return LayoutOptions(join=join, join_axis=join_axis, out_channel_axis=channel_axis)
    return LayoutOptions(
        join=join["data"], join_axis=join_axis["data"], out_channel_axis=channel_axis["data"]
    )


def _join(output: Output) -> str:
    return "stack" if output.target.stacked else "concatenate"


def _channel_axis(output: Output) -> int | None:
    """The axis of channels of one result, where trials were cut into blocks of channels."""
    axis = output.target.channel_axis
    return None if axis is None else axis - int(output.target.stacked)


def _in_stretches(average: Average, before: Average, trials: int) -> Average:
    """An average whose groups are those of before, as long as these go, and new ones behind."""
    ((_, size),) = average.stretches
    return replace(average, stretches=(*before.stretches, (trials, size)))


def _axes(old: Output, output: Output, there: Plan, average: Average | None) -> tuple[Axis, ...]:
    """The axes of a result: named as they were, and as long as they are now."""
    along: int | None = old.target.axis if average is None or average.by else None
    axes = []
    for k, (was, now) in enumerate(zip(old.axes, output.axes, strict=True)):
        same = was.values is None or len(was.values) == output.target.shape[k]
        if k != along and same:
            axes.append(was)
        elif was.values is None or _is_by_itself(was, there):
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


def _is_by_itself(axis: Axis, there: Plan) -> bool:
    """Whether coordinates along trials, or conditions, are those that nobody has given."""
    values, average = axis.values, there.average
    own: np.ndarray = there.trials.index
    if average is not None:
        _, first = np.unique(average.condition, return_index=True)
        own = there.trials.columns[average.by[0]][first]
        own = np.char.encode(own, "utf-8") if own.dtype.kind == "U" else own
    return bool(np.array_equal(cast(np.ndarray, values), own))
