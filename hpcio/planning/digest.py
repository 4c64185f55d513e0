"""The digest of a plan: two plans with the same digest give the same bytes, block by block."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from hpcio.files import in_pieces
from hpcio.planning.plan import Plan
from hpcio.planning.planfile import FORMAT, plain_average, plain_input_kind

__all__ = ["BY_OTHERS", "ONLY_TIME", "digest_of", "parts_that_differ", "what_differs"]

# How `what_differs` calls a recording whose files have other times, and nothing else.
ONLY_TIME = "time of the recording"
# The parts in which plans may differ of which one keeps what the other has done; the last is that.
BY_OTHERS = ("function", "arguments", "kept results of an earlier function")


def _parts(plan: Plan) -> dict[str, Any]:
    """All that decides the bytes, by what people call it; JSON can hold it."""
    source, target = plan.source, plan.target
    return {
        "format": FORMAT,
        "function": [plan.function.name, plan.function.digest],
        "arguments": plan.given.digest,
        "recording": [
            source.kind, source.dataset, source.shape, source.dtype.str, source.size,
            source.mtime_ns, source.sample, [(f.size, f.mtime_ns) for f in source.behind],
        ],
        "trials": [
            *(_hash(array) for array in plan.arrays().values()),
            *(plain_input_kind(kind) for kind in plan.blocks.input_kinds),
            *([name, _hash(column)] for name, column in plan.trials.columns.items()),
        ],
        "shape or type of the results": [
            target.dtype.str, target.shape, target.shapes, plan.casting,
            *(_hash(array) for array in (target.shape_index, target.start, target.channel)),
        ],
        "how they are joined": [plan.join, target.axis, target.channel_axis],
        "average": plain_average(plan.average),
        **_of_reduction(plan),
        "axes": [[axis.name, _hash(axis.values)] for axis in plan.axes],
        **_of_several(plan),
        "writer": [plan.writer, plan.sources, plan.chunks, plan.compression],
        **({BY_OTHERS[2]: [*plan.digests[1:], _hash(plan.kept)]} if plan.former else {}),
    }  # fmt: skip


def _of_several(plan: Plan) -> dict[str, Any]:
    """The several results of a call, if there are such."""
    found = [
        [
            output.name, target.dtype.str, target.shape, target.shapes, target.axis,
            target.channel_axis, target.stacked,
            *(_hash(array) for array in (target.shape_index, target.start, target.channel)),
            [[axis.name, _hash(axis.values)] for axis in output.axes],
        ]
        for output in plan.several
        for target in [output.target]
    ]  # fmt: skip
    return {"several results": found} if found else {}


def _of_reduction(plan: Plan) -> dict[str, Any]:
    """The functions that make an average, if it is made by such."""
    found = [[function.name, function.digest] for function in plan.reduction]
    return {"functions of reduce": found} if found else {}


def _hash(array: np.ndarray | None) -> str | None:
    if array is None:
        return None
    hashed = hashlib.sha256(array.dtype.str.encode() + b" ")
    for piece in in_pieces(array):
        hashed.update(piece)
    return hashed.hexdigest()


def digest_of(plan: Plan) -> str:
    """The digest of a plan, hexadecimal.

    Parameters
    ----------
    plan : Plan
        Its own field `digest` is ignored.
    """
    return hashlib.sha256(json.dumps(_parts(plan), sort_keys=True).encode()).hexdigest()[:32]


def what_differs(plan: Plan, other: Plan) -> str:
    """The parts in which two plans differ, in words: ``function, trials``."""
    return ", ".join(parts_that_differ(plan, other))


def parts_that_differ(plan: Plan, other: Plan) -> list[str]:
    """The parts in which two plans differ, by what people call them."""
    ours, theirs = (json.loads(json.dumps(_parts(p))) for p in (plan, other))
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if _without_times(ours["recording"]) == _without_times(theirs["recording"]):
        names = [ONLY_TIME if name == "recording" else name for name in names]
    return names


def _without_times(recording: list[Any]) -> list[Any]:
    *others, _, sample, behind = recording
    return [*others, sample, [size for size, _ in behind]]
