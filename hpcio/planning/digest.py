"""The digest of a plan: two plans with the same digest give the same bytes, block by block."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hpcio.files import in_pieces
from hpcio.layout import Output
from hpcio.planning.plain import plain_average, plain_input_kind
from hpcio.planning.plan import Plan
from hpcio.planning.planfile import FORMAT
from hpcio.recording import Recording, SeveralRecordings

__all__ = ["Difference", "difference", "digest_of"]

# How a difference calls a recording whose files have other times, and nothing else.
_ONLY_TIME = "time of the recording"
# The parts in which plans may differ of which one keeps what the other has done.
_FUNCTION, _ARGUMENTS, _KEPT = "function", "arguments", "kept results of an earlier run"


def _parts(plan: Plan) -> dict[str, Any]:
    """All that decides the bytes, by what people call it; JSON can hold it."""
    return {
        "format": FORMAT,
        _FUNCTION: [plan.function.name, plan.function.digest],
        _ARGUMENTS: plan.given.digest,
        "recording": _looks_of(plan.source),
        **_units_of(plan.source),
        "trials": [
            *(_hash(array) for array in plan.arrays().values()),
            *(plain_input_kind(kind) for kind in plan.blocks.input_kinds),
            *([name, _hash(column)] for name, column in plan.trials.columns.items()),
            *([] if (clock := plan.trials.clock) is None else [clock.rate, clock.t_start]),
        ],
        "shape or type of the results": [plan.casting, *_of_each(plan, _shapes_of)],
        "how they are joined": _of_each(plan, _joining_of),
        "average": _of_each(plan, lambda output: plain_average(output.average)),
        **_of_reduction(plan),
        "axes": _of_each(plan, _axes_of),
        "writer": [
            plan.writer, plan.sources,
            *_of_each(plan, lambda output: [output.chunks, output.compression]),
        ],
        **({_KEPT: [*plan.digests[1:], _hash(plan.kept)]} if plan.former else {}),
    }  # fmt: skip


def _of_each(plan: Plan, said: Callable[[Output], Any]) -> list[Any]:
    """Something of each result, with its name."""
    return [[output.name, said(output)] for output in plan.outputs]


def _shapes_of(output: Output) -> list[Any]:
    target = output.target
    arrays = target.shape_index, target.start, target.channel
    return [target.dtype.str, target.shape, target.shapes, *map(_hash, arrays)]


def _joining_of(output: Output) -> list[Any]:
    return [output.target.stacked, output.target.axis, output.target.channel_axis]


def _axes_of(output: Output) -> list[Any]:
    """The names of axes, their coordinates, and their further columns if they have such."""
    return [
        [axis.name, _hash(axis.values), *([n, _hash(v)] for n, v in axis.columns.items())]
        for axis in output.axes
    ]


def _of_reduction(plan: Plan) -> dict[str, Any]:
    """The functions that make an average, if it is made by such."""
    found = [[function.name, function.digest] for function in plan.reduction]
    return {"functions of reduce": found} if found else {}


def _units_of(source: Recording) -> dict[str, Any]:
    """How values become those of units, if they do."""
    parts = source.parts if isinstance(source, SeveralRecordings) else (source,)
    said = [None if part.scaling is None else asdict(part.scaling) for part in parts]
    return {"units": said if len(said) > 1 else said[0]} if any(said) else {}


def _looks_of(source: Recording) -> list[Any]:
    """What a recording was; of several, what each of them was."""
    if isinstance(source, SeveralRecordings):
        return [source.axis, [_looks_of(part) for part in source.parts]]
    return [
        source.kind, source.dataset, source.shape, _stored(source), source.size, source.mtime_ns,
        source.sample, [(f.size, f.mtime_ns) for f in source.behind],
    ]  # fmt: skip


def _stored(source: Recording) -> str:
    """The type of the numbers in the file, whatever units they are read in."""
    return source.dtype.str if source.scaling is None else source.scaling.stored


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


@dataclass(frozen=True)
class Difference:
    """In what two plans differ.

    Attributes
    ----------
    names : tuple of str
        The parts that differ, by what people call them; none if the plans are equal.

    Examples
    --------
    >>> str(Difference(("function", "trials")))
    'function, trials'
    """

    names: tuple[str, ...]

    def __str__(self) -> str:
        return ", ".join(self.names)

    @property
    def may_be_kept(self) -> bool:
        """Whether one plan can keep what is done by the other."""
        return {*self.names} <= {_FUNCTION, _ARGUMENTS, _KEPT}

    @property
    def is_of_kept(self) -> bool:
        """Whether at most what they keep of other plans differs."""
        return {*self.names} <= {_KEPT}


def difference(plan: Plan, there: Plan) -> Difference:
    """In what a plan differs from that of a run directory.

    Raises
    ------
    SourceError
        If that is the time of the recording, and nothing that would be kept: the error says how
        to set it back.
    """
    names = _parts_that_differ(plan, there)
    if _ONLY_TIME in names and {*names} <= {_ONLY_TIME, _FUNCTION, _ARGUMENTS, _KEPT}:
        there.source.check_unchanged()
    return Difference(tuple(names))


def _parts_that_differ(plan: Plan, other: Plan) -> list[str]:
    ours, theirs = (json.loads(json.dumps(_parts(p))) for p in (plan, other))
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if _without_times(ours["recording"]) == _without_times(theirs["recording"]):
        names = [_ONLY_TIME if name == "recording" else name for name in names]
    return names


def _without_times(recording: list[Any]) -> list[Any]:
    if len(recording) == 2:  # several
        return [recording[0], *map(_without_times, recording[1])]
    *others, _, sample, behind = recording
    return [*others, sample, [size for size, _ in behind]]
