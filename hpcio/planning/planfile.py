"""A plan on disk: ``plan.h5`` in the run directory, readable by its owner only.

The file ends with a seal, a checksum of all of it. Everything rests on the plan, also what no other
checksum covers (which rows make which trial), and HDF5 may crash on a damaged file.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcio.errors import (
    DAMAGE,
    HpcioError,
    OutputError,
    PlanError,
    SourceError,
    as_output_error,
    as_read_error,
)
from hpcio.files import (
    FileState,
    RunDirectory,
    StreamedChecksum,
    check_types,
    mark_of,
    open_file,
    open_own,
    own_run_folder,
    read_table,
    rename_new,
    result_of,
    sync,
    write_arrays,
)
from hpcio.fingerprints import Fingerprint
from hpcio.function import Function, plain_state, state_of
from hpcio.layout import Average, Axis, Output, Target, record_of
from hpcio.planning.plan import Former, Plan
from hpcio.recording import (
    Blocks,
    Clock,
    InputKind,
    Recording,
    Scaling,
    SeveralRecordings,
    Trials,
)
from hpcio.words import START_OVER

__all__ = [
    "FORMAT",
    "load_for_worker",
    "load_plan",
    "open_plan_file",
    "plain_average",
    "plain_input_kind",
    "replace_plan",
    "write_plan",
]

FORMAT = 8
_SEAL = struct.Struct("<8sQ")
_SEALED = b"HPCIOPLN"
# The numbers of filters end here (H5Z_FILTER_MAX).
_MOST_FILTERS = 65535
# So many bytes are read at a time to see whether a file is whole.
_PIECE = 1 << 20
_ReadColumns = Callable[[h5py.File, Sequence[str]], dict[str, np.ndarray]]
# Fields of trials that say what is selected of them.
_SELECTED = ("time", "channels", "channel_axis", "channels_per_block")
# Fields of a plan that JSON holds as they are.
_PLAIN = (
    "writer", "sources", "join", "casting", "described", "same_versions", "access", "replaces",
)  # fmt: skip


def write_plan(plan: Plan, folder: str | os.PathLike[str]) -> bool:
    """Write ``plan.h5`` into `folder`: complete, or not at all.

    Returns
    -------
    bool
        False if another process was faster; its plan is there then, and stays.
    """
    try:
        _place(plan, Path(folder, "plan.h5"), rename_new)
    except FileExistsError:
        return False
    return True


def replace_plan(plan: Plan) -> None:
    """Let a plan be that of its run directory, in which there is another one.

    Raises
    ------
    OutputError
    """
    _place(plan, plan.rundir.plan, os.rename)
    sync(plan.run_directory)


def _place(plan: Plan, final: Path, rename: Callable[[Path, Path], None]) -> None:
    """Write a plan under its name: complete, or not at all."""
    part = final.with_name(f"plan.{secrets.token_hex(8)}.part")
    try:
        _write(plan, part)
        rename(part, final)
    except OSError as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OutputError | FileExistsError):
            raise
        raise as_output_error(error, final) from error


def _write(plan: Plan, path: Path) -> None:
    function, pickled = _plain_function(plan.function)
    reduction = [_plain_function(each) for each in plan.reduction]
    spec = {
        "folder": os.path.dirname(plan.out),
        "function": function,
        "given": asdict(plan.given),
        "source": _plain_source(plan.source),
        "axis": plan.blocks.axis,
        "channel_axis": plan.blocks.channel_axis,
        "channel_blocks": plan.blocks.channel_blocks,
        "input_kinds": [plain_input_kind(kind) for kind in plan.blocks.input_kinds],
        **_plain_axes(plan.axes),
        **_plain_outputs(plan),
        "selected": {name: _plain_selection(getattr(plan.trials, name)) for name in _SELECTED},
        "columns": list(plan.trials.columns),
        "clock": None if plan.trials.clock is None else asdict(plan.trials.clock),
        "average": plain_average(plan.average),
        "reduction": [plain for plain, _ in reduction],
        "chunks": plan.chunks,
        "compression": plan.compression,
        "former": [asdict(one) for one in plan.former],
        **{name: getattr(plan, name) for name in _PLAIN},
    }
    arrays = {
        "spec": _as_bytes(json.dumps(spec).encode()),
        "function": _as_bytes(pickled),
        "arguments": _as_bytes(plan.payload),
        **{f"reduction/{k}": _as_bytes(payload) for k, (_, payload) in enumerate(reduction)},
        **plan.arrays(),
        **{f"columns/{k}": stored_column(c) for k, c in enumerate(plan.trials.columns.values())},
        **{f"target/{name}": array for name, array in plan.target.arrays().items()},
        **_arrays_of_axes(plan.axes),
        **_arrays_of_outputs(plan),
    }
    if plan.grouping is not None and plan.grouping.by:
        arrays["condition"] = plan.grouping.condition
    if plan.former:
        arrays["kept"] = plan.kept
    attrs = {"format": FORMAT, "run_id": plan.run_id, "digest": plan.digest}
    # A plan may hold pickles, and others have no need to read it.
    write_arrays(arrays, path, attrs=attrs, seal=_seal, mode=plan.modes.record)


def _plain_outputs(plan: Plan) -> dict[str, Any]:
    """Several results as JSON can hold them; nothing for one."""
    found = [
        {"name": one.name, **_plain_axes(one.axes), "average": plain_average(one.average),
         "chunks": one.chunks, "compression": one.compression}
        for one in plan.several
    ]  # fmt: skip
    return {"outputs": found} if found else {}


def _plain_axes(axes: Sequence[Axis]) -> dict[str, Any]:
    """The names of axes, and of their further columns."""
    return {
        "axes": [axis.name for axis in axes], "axis_columns": [[*axis.columns] for axis in axes]
    }  # fmt: skip


def _arrays_of_axes(axes: Sequence[Axis]) -> dict[str, np.ndarray]:
    """The coordinates of axes, and their further columns, whose names JSON has."""
    found: dict[str, np.ndarray] = {}
    for k, axis in enumerate(axes):
        if axis.values is not None:
            found[f"axes/{k}"] = axis.values
        for n, values in enumerate(axis.columns.values()):
            found[f"axis_columns/{k}/{n}"] = stored_column(values)
    return found


def _axes(group: h5py.Group, names: Sequence[str], columns: Any) -> tuple[Axis, ...]:
    """What `_arrays_of_axes` has made of, in a group; plans of earlier versions have no columns."""
    there: Any = group.get("axes", {})
    found = []
    for k, name in enumerate(names):
        values = read_table(there[str(k)]) if str(k) in there else None
        further = {
            column: loaded_column(read_table(group[f"axis_columns/{k}/{n}"]))
            for n, column in enumerate(columns[k] if columns else ())
        }
        found.append(Axis(name, values, further))
    return tuple(found)


def _arrays_of_outputs(plan: Plan) -> dict[str, np.ndarray]:
    """The layouts and coordinates of several results; nothing for one."""
    found: dict[str, np.ndarray] = {}
    for n, output in enumerate(plan.several):
        for name, array in output.target.arrays().items():
            found[f"outputs/{n}/target/{name}"] = array
        for name, array in _arrays_of_axes(output.axes).items():
            found[f"outputs/{n}/{name}"] = array
    return found


def _outputs(f: h5py.File, plain: list[Any], condition: np.ndarray) -> tuple[Output, ...]:
    """What `_plain_outputs` and `_arrays_of_outputs` have kept."""
    found = []
    for n, one in enumerate(plain):
        group = f[f"outputs/{n}"]
        named = _axes(group, one["axes"], one["axis_columns"])
        chunks = None if one["chunks"] is None else tuple(one["chunks"])
        found.append(Output(
            one["name"], Target.load(group["target"]), named, _average(one["average"], condition),
            chunks, one["compression"],
        ))  # fmt: skip
    return tuple(found)


def _as_bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _plain_function(function: Function) -> tuple[dict[str, Any], bytes]:
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


def _seal(total: int) -> bytes:
    return _SEAL.pack(_SEALED, total)


@contextmanager
def open_plan_file(out: str) -> Iterator[h5py.File]:
    """Open the plan of a result, once all of its bytes are known to be those that we wrote.

    Raises
    ------
    PlanError
        If it is damaged, of another version of hpcio, or others may have written it.
    SourceError
        If it cannot be read.
    """
    path = RunDirectory.of(out).plan
    try:
        # By its descriptor, since there may be another file of that name by now.
        with _opened(out) as fd, open_file(f"/proc/self/fd/{fd}") as f:
            if int(f.attrs["format"]) != FORMAT:
                raise _of_another_version(path)
            yield f
    except HpcioError:
        raise
    except (MemoryError, RecursionError) as error:
        raise _damaged(out, error) from error
    except (OSError, RuntimeError, KeyError) as error:  # h5py says each, where HDF5 cannot read
        raise as_read_error(error, path) from error


def _check_seal(fd: int, path: Path) -> None:
    """Raise PlanError unless all bytes of a plan are those that were written."""
    left, at, total = os.fstat(fd).st_size - _SEAL.size, 0, StreamedChecksum()
    while left > at and (piece := os.pread(fd, min(left - at, _PIECE), at)):
        total.update(piece)
        at += len(piece)
    seal = os.pread(fd, _SEAL.size, max(0, left))
    if len(seal) < _SEAL.size or not seal.startswith(_SEALED):
        raise _of_another_version(path)
    if seal != _seal(total.intdigest()):
        raise PlanError(
            f"'{path}' is damaged: its bytes are not those that were written. Restore it from a "
            f"backup, or {START_OVER}."
        )


def _of_another_version(path: Path) -> PlanError:
    return PlanError(f"'{path}' was made by another version of hpcio, or is not whole. Plan again.")


def load_plan(out: str | os.PathLike[str]) -> Plan:
    """The plan of a run directory, named by its result ``OUT`` or as ``OUT.run``.

    Nothing is unpickled before the plan is run.

    Raises
    ------
    PlanError
        If there is no plan, it is damaged, of another user or others may write it, or it is of
        another version of hpcio.
    """
    return _load(out, _columns)


def load_for_worker(out: str | os.PathLike[str]) -> Plan:
    """The plan of a run directory, without the columns of its trials; see `load_plan`.

    No block is computed by them, and text needs four bytes of memory a character, in each worker.
    Whoever publishes a result needs them.
    """
    return _load(out, lambda *_: {})


def _load(out: str | os.PathLike[str], columns: _ReadColumns) -> Plan:
    name = os.path.abspath(result_of(out))
    try:
        plan = Plan(**_fields(name, columns))
        _check(plan)
    except HpcioError as error:
        if isinstance(error, PlanError | SourceError):
            raise
        raise _damaged(name, error) from error
    except DAMAGE as error:
        raise _damaged(name, error) from error
    return plan


def _damaged(out: str, error: BaseException) -> PlanError:
    what = str(error).partition("\n")[0] or type(error).__name__
    return PlanError(
        f"'{RunDirectory.of(out).plan}' makes no sense ({what}). Restore it from a backup, or "
        f"{START_OVER}."
    )


def _check(plan: Plan) -> None:
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


def _columns(file: h5py.File, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of the trials of a plan."""
    return {name: loaded_column(read_table(file[f"columns/{k}"])) for k, name in enumerate(names)}


def _fields(out: str, read_columns: _ReadColumns) -> dict[str, Any]:
    """The fields of the plan whose result is `out`."""
    with open_plan_file(out) as f:
        spec = json.loads(read_table(f["spec"]).tobytes())
        trials = {name: read_table(dataset) for name, dataset in f["trials"].items()}
        blocks = {name: read_table(dataset) for name, dataset in f["blocks"].items()}
        axes = _axes(f, spec["axes"], spec.get("axis_columns", ()))
        names = spec.get("columns", ())
        columns = read_columns(f, names)
        condition = np.zeros(0, np.int32)
        if "condition" in f:
            condition = read_table(f["condition"])
        kept = read_table(f["kept"]) if "kept" in f else np.zeros(0, np.uint16)
        pickled, payload = (read_table(f[name]).tobytes() for name in ("function", "arguments"))
        reduction = [
            read_table(f[f"reduction/{k}"]).tobytes()
            for k in range(len(spec.get("reduction", ())))  # older plans have none
        ]
        target = Target.load(f["target"])
        several = _outputs(f, spec.get("outputs", []), condition)
        run_id, digest = str(f.attrs["run_id"]), str(f.attrs["digest"])
    average = _average(spec["average"], condition)
    for each in (average, *(output.average for output in several)):
        if each is not None and not set(each.by) <= set(names):
            raise ValueError("its average is by a column that is not there")
    return {
        **_found_again(spec, pickled, reduction, os.path.dirname(out)),
        "trials": Trials(
            **trials,
            axis=spec["axis"],
            **{name: _selection(plain) for name, plain in spec["selected"].items()},
            columns=columns,
            clock=None if spec.get("clock") is None else Clock(**spec["clock"]),
        ),
        "blocks": Blocks(
            **blocks,
            axis=spec["axis"],
            channel_axis=spec["channel_axis"],
            channel_blocks=spec["channel_blocks"],
            input_kinds=tuple(_input_kind(x) for x in spec["input_kinds"]),
        ),
        "target": target,
        "axes": axes,
        "payload": payload,
        "given": _fingerprint(spec["given"]),
        "average": average,
        "out": out,
        "run_id": run_id,
        "digest": digest,
        "chunks": None if spec.get("chunks") is None else tuple(spec["chunks"]),
        "compression": spec.get("compression"),
        "former": tuple(Former(**one) for one in spec.get("former", ())),
        "kept": kept,
        "several": several,
        **{name: spec[name] for name in _PLAIN},
    }


@contextmanager
def _opened(out: str) -> Iterator[int]:
    """The file of a plan, if it is there and nobody else's: its pickles can run anything."""
    path = RunDirectory.of(out).plan
    try:
        with (
            own_run_folder(RunDirectory.of(out)) as folder,
            open_own(path, folder=folder) as fd,
        ):
            _check_seal(fd, path)
            yield fd
    except FileNotFoundError:
        if RunDirectory.of(out).set_aside():
            raise PlanError(
                f"A run was starting over in '{path.parent}', and was ended before its plan was "
                f"there. An older result has stayed as it was. To compute it anew, {START_OVER}."
            ) from None
        if mark_of(out) is not None:
            raise PlanError(
                f"'{out}' is finished and has no plan '{path}' any more (it was made one file, or "
                "moved alone), so that nothing of it is left to run. To compute it once more, "
                f"{START_OVER}."
            ) from None
        if os.path.lexists(out):
            raise PlanError(
                f"'{out}' is no result of hpcio, and there is no run of it. Name the OUT of a run."
            ) from None
        there_is_no = (
            f"no plan '{path}'" if path.parent.exists() else f"no result and no run '{out}'"
        )
        raise PlanError(
            f"There is {there_is_no}. Make one: hpcio plan FUNCTION SOURCE --trials ... "
            f"--out {shlex.quote(out)}"
        ) from None
    except PermissionError:
        raise PlanError(f"The plan '{path}' is not yours. Make one of your own.") from None


def _found_again(
    spec: dict[str, Any], pickled: bytes, reduction: list[bytes], folder: str
) -> dict[str, Any]:
    """Functions and recording of a plan that now lies in `folder`, with paths as they are now."""
    before = spec["folder"]

    def found(function: dict[str, Any], payload: bytes) -> Function:
        path = tuple(_now(path, before, folder) for path in function["path"])
        seen = _fingerprint(function["fingerprint"])
        return Function(**{**function, "path": path, "fingerprint": seen}, pickled=payload)

    return {
        "function": found(spec["function"], pickled),
        "reduction": tuple(map(found, spec.get("reduction", ()), reduction)),
        "source": _source(spec["source"], lambda path: _now(path, before, folder)),
    }


def _plain_source(source: Recording) -> dict[str, Any]:
    """A recording as JSON can hold it; of several, each of them."""
    if isinstance(source, SeveralRecordings):
        return {"axis": source.axis, "parts": [_plain_source(part) for part in source.parts]}
    return {**asdict(source), "dtype": source.dtype.str}


def _source(plain: dict[str, Any], now: Callable[[str], str]) -> Recording:
    """What `_plain_source` was made of, with paths as they are now."""
    if "parts" in plain:
        parts = [_source(part, now) for part in plain["parts"]]
        return SeveralRecordings.joined(parts, plain["axis"])
    known = {
        "path": now(plain["path"]),
        "shape": tuple(plain["shape"]),
        "dtype": np.dtype(plain["dtype"]),
        "behind": tuple(FileState(**{**f, "path": now(f["path"])}) for f in plain["behind"]),
        "filters": tuple(plain["filters"]),
        "place": tuple((name, now(value)) for name, value in plain["place"]),
        "scaling": Scaling.load(plain.get("scaling")),
    }
    return Recording(**{**plain, **known})


def _fingerprint(plain: dict[str, Any]) -> Fingerprint:
    seen = {name: tuple(plain[name]) for name in ("unseen", "generators")}
    return Fingerprint(plain["parts"], plain["packages"], **seen)


def _now(path: str, before: str, after: str) -> str:
    """Where a path of the plan is now, in case it has moved together with the plan."""
    if before == after or os.path.exists(path):
        return path
    there = os.path.normpath(os.path.join(after, os.path.relpath(path, before)))
    return there if os.path.exists(there) else path


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


def _average(plain: dict[str, Any] | None, condition: np.ndarray) -> Average | None:
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


def _plain_selection(selected: slice | tuple[int, ...] | int | None) -> Any:
    """What is selected of trials as JSON can hold it."""
    if isinstance(selected, slice):
        return {"slice": [selected.start, selected.stop, selected.step]}
    return selected


def _selection(plain: Any) -> Any:
    if isinstance(plain, dict):
        return slice(*plain["slice"])
    return tuple(plain) if isinstance(plain, list) else plain


def _input_kind(plain: dict[str, Any]) -> InputKind:
    sigrid = plain["sigrid"]
    return InputKind(
        inshape=tuple(plain["inshape"]),
        grid=tuple(slice(*s) for s in plain["grid"]),
        sigrid=None
        if sigrid is None
        else tuple(range(*s["range"]) if isinstance(s, dict) else tuple(s) for s in sigrid),
        channels=tuple(plain["channels"]),
    )
