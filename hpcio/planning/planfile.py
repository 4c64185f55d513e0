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
from dataclasses import asdict
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
    RunDirectory,
    StreamedChecksum,
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
from hpcio.function import Function
from hpcio.layout import Target
from hpcio.planning.checking import check_plan
from hpcio.planning.plain import (
    arrays_of_axes,
    arrays_of_outputs,
    average_of,
    axes_of,
    fingerprint_of,
    input_kind_of,
    loaded_column,
    outputs_in,
    plain_average,
    plain_axes,
    plain_function,
    plain_input_kind,
    plain_outputs,
    plain_selection,
    plain_source,
    selection_of,
    source_of,
    stored_column,
)
from hpcio.planning.plan import Former, Plan
from hpcio.planning.sharing import Once
from hpcio.recording import (
    SELECTED,
    Blocks,
    Clock,
    Trials,
)
from hpcio.words import START_OVER

__all__ = [
    "FORMAT",
    "load_for_worker",
    "load_plan",
    "open_plan_file",
    "replace_plan",
    "write_plan",
]

FORMAT = 9
_SEAL = struct.Struct("<8sQ")
_SEALED = b"HPCIOPLN"
# So many bytes are read at a time to see whether a file is whole.
_PIECE = 1 << 20
_ReadColumns = Callable[[h5py.File, Sequence[str]], dict[str, np.ndarray]]
# Fields of a plan that JSON holds as they are.
_PLAIN = (
    "writer", "sources", "casting", "described", "same_versions", "access", "replaces",
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
    function, pickled = plain_function(plan.function)
    reduction = [plain_function(each) for each in plan.reduction]
    spec = {
        "folder": os.path.dirname(plan.out),
        "function": function,
        "given": asdict(plan.given),
        "source": plain_source(plan.source),
        "axis": plan.blocks.axis,
        "channel_axis": plan.blocks.channel_axis,
        "channel_blocks": plan.blocks.channel_blocks,
        "input_kinds": [plain_input_kind(kind) for kind in plan.blocks.input_kinds],
        **plain_axes(plan.axes),
        **plain_outputs(plan),
        "selected": {name: plain_selection(getattr(plan.trials, name)) for name in SELECTED},
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
        **arrays_of_axes(plan.axes),
        **arrays_of_outputs(plan),
    }
    if plan.grouping is not None and plan.grouping.by:
        arrays["condition"] = plan.grouping.condition
    if plan.former:
        arrays["kept"] = plan.kept
    attrs = {"format": FORMAT, "run_id": plan.run_id, "digest": plan.digest}
    # A plan may hold pickles, and others have no need to read it.
    write_arrays(arrays, path, attrs=attrs, seal=_seal, mode=plan.modes.record)


def _as_bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


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
        check_plan(plan)
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


def _columns(file: h5py.File, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of the trials of a plan."""
    return {name: loaded_column(read_table(file[f"columns/{k}"])) for k, name in enumerate(names)}


def _fields(out: str, read_columns: _ReadColumns) -> dict[str, Any]:
    """The fields of the plan whose result is `out`."""
    with open_plan_file(out) as f:
        spec = json.loads(read_table(f["spec"]).tobytes())
        # One at a time: of ten million trials there is not room for all of them in a worker.
        once = Once()

        def read_once(dataset: h5py.Dataset) -> Any:
            return once(read_table(dataset))

        trials = {name: read_once(dataset) for name, dataset in f["trials"].items()}
        blocks = {name: read_once(dataset) for name, dataset in f["blocks"].items()}
        axes = axes_of(f, spec["axes"], spec["axis_columns"])
        names = spec["columns"]
        columns = read_columns(f, names)
        condition = np.zeros(0, np.int32)
        if "condition" in f:
            condition = read_table(f["condition"])
        kept = read_table(f["kept"]) if "kept" in f else np.zeros(0, np.uint16)
        pickled, payload = (read_table(f[name]).tobytes() for name in ("function", "arguments"))
        reduction = [
            read_table(f[f"reduction/{k}"]).tobytes() for k in range(len(spec["reduction"]))
        ]
        target = Target.load(f["target"], read=read_once)
        several = outputs_in(f, spec.get("outputs", []), condition, read_once)
        run_id, digest = str(f.attrs["run_id"]), str(f.attrs["digest"])
    average = average_of(spec["average"], condition)
    for each in (average, *(output.average for output in several)):
        if each is not None and not set(each.by) <= set(names):
            raise ValueError("its average is by a column that is not there")
    return {
        **_found_again(spec, pickled, reduction, os.path.dirname(out)),
        "trials": Trials(
            **trials,
            axis=spec["axis"],
            **{name: selection_of(plain) for name, plain in spec["selected"].items()},
            columns=columns,
            clock=None if spec["clock"] is None else Clock(**spec["clock"]),
        ),
        "blocks": Blocks(
            **blocks,
            axis=spec["axis"],
            channel_axis=spec["channel_axis"],
            channel_blocks=spec["channel_blocks"],
            input_kinds=tuple(input_kind_of(x) for x in spec["input_kinds"]),
        ),
        "target": target,
        "axes": axes,
        "payload": payload,
        "given": fingerprint_of(spec["given"]),
        "average": average,
        "out": out,
        "run_id": run_id,
        "digest": digest,
        "chunks": None if spec["chunks"] is None else tuple(spec["chunks"]),
        "compression": spec["compression"],
        "former": tuple(Former(**one) for one in spec["former"]),
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
        seen = fingerprint_of(function["fingerprint"])
        return Function(**{**function, "path": path, "fingerprint": seen}, pickled=payload)

    return {
        "function": found(spec["function"], pickled),
        "reduction": tuple(map(found, spec["reduction"], reduction)),
        "source": source_of(spec["source"], lambda path: _now(path, before, folder)),
    }


def _now(path: str, before: str, after: str) -> str:
    """Where a path of the plan is now, in case it has moved together with the plan."""
    if before == after or os.path.exists(path):
        return path
    there = os.path.normpath(os.path.join(after, os.path.relpath(path, before)))
    return there if os.path.exists(there) else path
