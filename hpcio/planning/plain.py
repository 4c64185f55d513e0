"""The parts of a plan as JSON and arrays can hold them, and back: each pair side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

import h5py
import numpy as np

from hpcio.files import FileState, read_table
from hpcio.fingerprints import Fingerprint
from hpcio.function import Function, plain_state, state_of
from hpcio.layout import Average, Axis, Output, Target
from hpcio.planning.plan import Plan
from hpcio.recording import (
    InputKind,
    Recording,
    Scaling,
    SeveralRecordings,
)

__all__ = [
    "arrays_of_axes",
    "arrays_of_outputs",
    "average_of",
    "axes_of",
    "fingerprint_of",
    "input_kind_of",
    "loaded_column",
    "outputs_in",
    "plain_average",
    "plain_axes",
    "plain_function",
    "plain_input_kind",
    "plain_outputs",
    "plain_selection",
    "plain_source",
    "selection_of",
    "source_of",
    "stored_column",
]


def plain_outputs(plan: Plan) -> dict[str, Any]:
    """Several results as JSON can hold them; nothing for one."""
    found = [
        {"name": one.name, **plain_axes(one.axes), "average": plain_average(one.average),
         "chunks": one.chunks, "compression": one.compression}
        for one in plan.several
    ]  # fmt: skip
    return {"outputs": found} if found else {}


def plain_axes(axes: Sequence[Axis]) -> dict[str, Any]:
    """The names of axes, and of their further columns."""
    return {
        "axes": [axis.name for axis in axes], "axis_columns": [[*axis.columns] for axis in axes]
    }  # fmt: skip


def arrays_of_axes(axes: Sequence[Axis]) -> dict[str, np.ndarray]:
    """The coordinates of axes, and their further columns, whose names JSON has."""
    found: dict[str, np.ndarray] = {}
    for k, axis in enumerate(axes):
        if axis.values is not None:
            found[f"axes/{k}"] = axis.values
        for n, values in enumerate(axis.columns.values()):
            found[f"axis_columns/{k}/{n}"] = stored_column(values)
    return found


def axes_of(group: h5py.Group, names: Sequence[str], columns: Sequence[Any]) -> tuple[Axis, ...]:
    """What `arrays_of_axes` has made of, in a group."""
    there: Any = group.get("axes", {})
    found = []
    for k, name in enumerate(names):
        values = read_table(there[str(k)]) if str(k) in there else None
        further = {
            column: loaded_column(read_table(group[f"axis_columns/{k}/{n}"]))
            for n, column in enumerate(columns[k])
        }
        found.append(Axis(name, values, further))
    return tuple(found)


def arrays_of_outputs(plan: Plan) -> dict[str, np.ndarray]:
    """The layouts and coordinates of several results; nothing for one."""
    found: dict[str, np.ndarray] = {}
    for n, output in enumerate(plan.several):
        for name, array in output.target.arrays().items():
            found[f"outputs/{n}/target/{name}"] = array
        for name, array in arrays_of_axes(output.axes).items():
            found[f"outputs/{n}/{name}"] = array
    return found


def outputs_in(
    f: h5py.File,
    plain: list[Any],
    condition: np.ndarray,
    read: Callable[[h5py.Dataset], np.ndarray],
) -> tuple[Output, ...]:
    """What `plain_outputs` and `arrays_of_outputs` have kept."""
    found = []
    for n, one in enumerate(plain):
        group = f[f"outputs/{n}"]
        named = axes_of(group, one["axes"], one["axis_columns"])
        chunks = None if one["chunks"] is None else tuple(one["chunks"])
        target, average = Target.load(group["target"], read=read), one["average"]
        found.append(Output(
            one["name"], target, named, average_of(average, condition), chunks, one["compression"],
        ))  # fmt: skip
    return tuple(found)


def plain_function(function: Function) -> tuple[dict[str, Any], bytes]:
    """A function as JSON can hold it, and its pickle."""
    plain = asdict(function)
    return plain, plain.pop("pickled")


def stored_column(values: np.ndarray) -> np.ndarray:
    """A column of trials as HDF5 holds it: text as the numbers of its characters, shape (N, n)."""
    if values.dtype.kind != "U":
        return values
    text = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return text.view("<u4").reshape(len(values), -1)


def loaded_column(stored: np.ndarray) -> np.ndarray:
    """What `stored_column` has made of; nobody changes it."""
    values = stored
    if stored.ndim > 1:
        width = max(1, stored.shape[1])
        values = np.ascontiguousarray(stored).view(f"<U{width}").reshape(-1)
    values.flags.writeable = False  # or trials would take a copy
    return values


def plain_source(source: Recording) -> dict[str, Any]:
    """A recording as JSON can hold it; of several, each of them."""
    if isinstance(source, SeveralRecordings):
        return {"axis": source.axis, "parts": [plain_source(part) for part in source.parts]}
    return {**asdict(source), "dtype": source.dtype.str}


def source_of(plain: dict[str, Any], now: Callable[[str], str]) -> Recording:
    """What `plain_source` was made of, with paths as they are now."""
    if "parts" in plain:
        parts = [source_of(part, now) for part in plain["parts"]]
        return SeveralRecordings.joined(parts, plain["axis"])
    known = {
        "path": now(plain["path"]),
        "shape": tuple(plain["shape"]),
        "dtype": np.dtype(plain["dtype"]),
        "behind": tuple(FileState(**{**f, "path": now(f["path"])}) for f in plain["behind"]),
        "filters": tuple(plain["filters"]),
        "place": tuple((name, now(value)) for name, value in plain["place"]),
        "scaling": Scaling.load(plain["scaling"]),
    }
    return Recording(**{**plain, **known})


def fingerprint_of(plain: dict[str, Any]) -> Fingerprint:
    """A fingerprint as JSON has it."""
    seen = {name: tuple(plain[name]) for name in ("unseen", "generators")}
    return Fingerprint(plain["parts"], plain["packages"], **seen)


def plain_input_kind(kind: InputKind) -> dict[str, Any]:
    """A kind of input as JSON can hold it."""
    return {
        "inshape": kind.inshape,
        "grid": [[s.start, s.stop, s.step] for s in kind.grid],
        # An evenly spaced axis of a million samples is three numbers, not a million.
        "sigrid": kind.sigrid
        and [
            {"range": [s.start, s.stop, s.step]} if isinstance(s, range) else s for s in kind.sigrid
        ],
        "channels": kind.channels,
    }


def plain_average(average: Average | None) -> dict[str, Any] | None:
    """An average as JSON can hold it, but for the condition of each trial."""
    if average is None:
        return None
    plain = {f.name: getattr(average, f.name) for f in fields(average) if f.name != "condition"}
    if not average.by:  # as it always was
        del plain["by"], plain["conditions"]
    if not average.functions:
        del plain["functions"]
    for name in ("result", "channel_axis", "state"):
        if plain[name] is None:
            del plain[name]
    if average.state is not None:
        plain["state"] = plain_state(average.state)
    return {**plain, "dtype": average.dtype.str}


def average_of(plain: dict[str, Any] | None, condition: np.ndarray) -> Average | None:
    """What `plain_average` has made, and the condition of each trial."""
    if plain is None:
        return None
    known = {"dtype": np.dtype(plain["dtype"]), "by": tuple(plain.get("by", ()))}
    known["stretches"] = tuple((first, trials) for first, trials in plain["stretches"])
    known["functions"] = tuple(plain.get("functions", ()))
    if "result" in plain:
        known["result"] = tuple(plain["result"])
    if "state" in plain:
        known["state"] = state_of(plain["state"])
    return Average(**{**plain, **known}, condition=condition)


def plain_selection(selected: slice | tuple[int, ...] | int | None) -> Any:
    """What is selected of trials as JSON can hold it."""
    if isinstance(selected, slice):
        return {"slice": [selected.start, selected.stop, selected.step]}
    return selected


def selection_of(plain: Any) -> Any:
    """What `plain_selection` has made."""
    if isinstance(plain, dict):
        return slice(*plain["slice"])
    return tuple(plain) if isinstance(plain, list) else plain


def input_kind_of(plain: dict[str, Any]) -> InputKind:
    """What `plain_input_kind` has made."""
    sigrid = plain["sigrid"]
    return InputKind(
        inshape=tuple(plain["inshape"]),
        grid=tuple(slice(*s) for s in plain["grid"]),
        sigrid=None
        if sigrid is None
        else tuple(range(*s["range"]) if isinstance(s, dict) else tuple(s) for s in sigrid),
        channels=tuple(plain["channels"]),
    )
