"""Looking whether the parts of a plan that was read fit together."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from hpcio.files import check_types
from hpcio.layout import Average, record_of
from hpcio.planning.plan import Plan
from hpcio.recording import (
    Recording,
)

__all__ = ["check_plan"]

# The numbers of filters end here (H5Z_FILTER_MAX).
_MOST_FILTERS = 65535


def check_plan(plan: Plan) -> None:
    """Raise an error unless the parts of a plan have their types, and fit together.

    Behind the seal they are what was written; but what they say decides what is read and written.
    """
    check_types(plan)
    blocks, count = plan.blocks, plan.target.start.shape
    names = ("trial", "base", "input_kind", "channel_block")
    arrays = {name: getattr(blocks, name) for name in names}
    for name, array in arrays.items():
        if array.dtype.kind not in "iu" or array.shape != count:
            raise ValueError(f"'{name}' has the shape {array.shape} for {count} blocks")
    if not count[0]:
        raise ValueError("it has no blocks")
    _check_outputs(plan)
    for name, limit in (("trial", len(plan.trials)), ("input_kind", len(blocks.input_kinds)),
                        ("channel_block", blocks.channel_blocks)):  # fmt: skip
        if arrays[name].min() < 0 or arrays[name].max() >= limit:
            raise ValueError(f"a block has a '{name}' that is not there")
    for recording in plan.source.parts:
        _check_source(recording)
    rank = len(plan.source.shape)
    for kind in blocks.input_kinds:
        if len(kind.grid) != rank or len(kind.inshape) != rank or min(kind.inshape) < 0:
            raise ValueError(f"a block of shape {kind.inshape} is read from {rank} axes")
        for part in kind.grid:
            check_types(_Slice(part.start, part.stop, part.step))
            if part.start < 0 or part.step < 1:
                raise ValueError(f"a block is read at {part}")
    if not 0 <= blocks.axis < rank or blocks.base.min() < 0 or blocks.channel_blocks < 1:
        raise ValueError("a block lies before its recording, or along no axis of it")
    if not plan.digest or set(plan.digest) - set("0123456789abcdef") or len(plan.digest) != 32:
        raise ValueError("it has no digest")
    if plan.former and (plan.kept.shape != count or plan.kept.max() > len(plan.former)):
        raise ValueError("a block is kept of a plan that is not there")
    for output in plan.averaged:
        assert output.average is not None
        _check_average(plan, output.average)


def _check_outputs(plan: Plan) -> None:
    """Raise ValueError unless all outputs have axes, and several the records that hold them."""
    for output in plan.outputs:
        target = output.target
        if len(output.axes) != len(target.shape) or target.start.shape != plan.target.start.shape:
            raise ValueError("it has axes without names, or results of other blocks")
        for k, axis in enumerate(output.axes):
            known = [*axis.columns.values(), *([] if axis.values is None else [axis.values])]
            if any(values.shape != (target.shape[k],) for values in known):
                raise ValueError(f"axis {k} has coordinates that do not fit it")
    if plan.several:
        sizes = record_of(plan.several).sizes()
        if plan.average is not None or not np.array_equal(sizes, plan.target.sizes()):
            raise ValueError("the records of its blocks do not hold their results")


def _check_average(plan: Plan, average: Average) -> None:
    """Raise ValueError unless an average has groups, conditions and functions that there are."""
    assert plan.grouping is not None
    shared = ("stretches", "channel_blocks", "by", "conditions")
    if any(getattr(average, name) != getattr(plan.grouping, name) for name in shared):
        raise ValueError("its averages have groups of their own")
    firsts, trials = zip(*average.stretches, strict=True)
    if min(*trials, average.channel_blocks) < 1 or firsts[0] or [*firsts] != sorted({*firsts}):
        raise ValueError("its average has no groups")
    own = (bool(plan.reduction), bool(average.functions), average.state is not None)
    if any(own) != (average.what == "functions") or any(own) != all(own):
        raise ValueError("its average has no functions, or has some and no use for them")
    rank = len(average.result or ())
    if (average.channel_axis in range(rank)) != (average.what == "cov"):
        raise ValueError("its covariance has no axis of channels")
    if average.by:
        condition = average.condition
        if (
            condition.shape != (len(plan.trials),)
            or condition.min() < 0
            or condition.max() >= average.conditions
        ):
            raise ValueError("a trial has a condition that is not there")


def _check_source(source: Recording) -> None:
    """Raise ValueError unless a recording has names and filters that there can be."""
    behind = (file.path for file in source.behind)
    for name in (source.path, source.dataset, *behind, *(of for _, of in source.place)):
        if b"\0" in os.fsencode(name):
            raise ValueError(f"{name!r} names no file and no dataset")
    if any(not 0 <= code <= _MOST_FILTERS for code in source.filters):
        raise ValueError("its recording was stored through filters that HDF5 cannot have")


@dataclass(frozen=True)
class _Slice:
    """A part of an axis that is read, without a default."""

    start: int
    stop: int
    step: int
