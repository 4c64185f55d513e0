"""The finished file: one dataset, the table of trials, and where it all came from."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcio.errors import HpcioError, OutputError, as_output_error
from hpcio.files import fill_of, keep_rows, keep_table, mark_of, open_file, read_text, sync
from hpcio.function import unpack_details, write_details
from hpcio.journals import Ledger, computed_by, functions_of, plans_of, published, sweep
from hpcio.layout import RESERVED, Target, attach, hide
from hpcio.machine import user_name
from hpcio.planning import Plan
from hpcio.recording import FURTHER, OF_RUNS, Recording, SeveralRecordings, dates_of_session
from hpcio.results.besides import OF_AVERAGE, OUTPUTS, RECORDING_OF, RECORDINGS, SEVERAL, keep_sums
from hpcio.writers import backend_of

__all__ = ["RATE", "T_START", "WHOLE", "publish"]

# Attributes of the table of trials: rows of the recording in a second, the time of the first in
# seconds, and whether all rows of the trials were read, in their order.
RATE, T_START, WHOLE = "rate", "t_start", "whole"
# Characters of what is said of versions that differ.
_MOST_VERSIONS = 50_000

# Characters of what is said of several recordings, and of earlier steps.
_MOST_SOURCES, _MOST_STEPS = 50_000, 50_000

# Characters of each text of a function, and of each text of an earlier step.
_MOST_TEXT, _MOST_OF_STEP = 1000, 500

# Of so many blocks, details are attributes, too.
MOST_NAMED = 1000

TRIAL = np.dtype(
    [
        ("first", "<i8"),
        ("last", "<i8"),
        ("done", "?"),
        ("trial", "<i8"),
        ("start", "<i8"),
        ("stop", "<i8"),
        ("offset", "<i8"),
    ]
)


# What `hpcio/recordings` says of each of several recordings besides path and dataset.
RECORDING = [("size", "<i8"), ("mtime_ns", "<i8")]


def publish(ledger: Ledger) -> Path:
    """Write the result of a run under its final name, complete or not at all.

    Parameters
    ----------
    ledger : Ledger
        Blocks that are not done become gaps, and are listed in the file.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    OutputError
        If the file cannot be written, or its name was taken meanwhile.
    ResultError
        If a source is not on the disk as it was written.
    """
    plan = ledger.plan
    final = Path(plan.out)

    def fill(f: h5py.File) -> None:
        _fill(ledger, f, final.parent)
        if published(plan):
            raise OutputError(
                f"The output '{final}' has appeared during the run. Move it away, then resume."
            )

    try:
        backend_of(plan).publish(ledger, fill, final)
        sync(final.parent)
        if plan.replaces:
            sweep(ledger)
    except HpcioError:
        raise
    except OSError as error:
        raise as_output_error(error, final) from error
    return final


def _fill(ledger: Ledger, f: h5py.File, folder: Path) -> None:
    plan = ledger.plan
    group = f.create_group("hpcio")
    group.attrs["plan"] = np.bytes_(plan.digest)
    group.attrs["run_id"] = np.bytes_(plan.run_id)
    stored = backend_of(plan).add_data(ledger, f, folder)
    ledger = stored.ledger
    f.attrs.update(_provenance(ledger))
    stored.target.save(group.create_group("target"))
    keep_table(group, "state", stored.state)
    group["checksum"] = stored.checksum
    scales = 0
    for output in plan.outputs:
        scales = attach(output.axes, f, f[output.name], scales=scales)
    if plan.several:
        f.attrs[SEVERAL] = json.dumps([output.name for output in plan.several])
    for output in plan.several:
        layout, group = output.target, f.create_group(f"{OUTPUTS}/{output.name}")
        if output.average is not None:  # which is one block, with a checksum of its own
            layout = Target.of_one_block(layout.shape, layout.dtype)
            group.attrs[OF_AVERAGE] = np.uint64(stored.averages[output.name])
        layout.save(group)
    rows_of = partial(trial_table, ledger)
    keep_rows(f, "trials", len(plan.trials), TRIAL, rows_of)
    f["trials"].attrs.update(_times(plan))
    hide(f["trials"])
    _add_conditions(ledger, f)
    _add_columns(ledger, f)
    _add_columns_of_axes(plan, f)
    _add_details(ledger, f)
    _add_recordings(ledger, f)
    keep_sums(f)


def trial_table(ledger: Ledger, part: slice) -> np.ndarray:
    """First and last row of some trials in the result, whether each is done, and its source.

    Returns
    -------
    numpy.ndarray of TRIAL, shape (n,)
        `last` is the last row itself; a trial without rows has ``last = first - 1``. In an
        average, each trial has all rows. Of several results, the rows are those of the first that
        is concatenated, or of the first of all; of averages, if there is nothing else.
    """
    plan = ledger.plan
    targets = [output.target for output in plan.of_trials or plan.outputs]
    target = next((one for one in targets if not one.stacked), targets[0])
    per_trial, trials = plan.blocks.channel_blocks, plan.trials
    blocks = slice(part.start * per_trial, part.stop * per_trial, per_trial)
    table = np.zeros(part.stop - part.start, TRIAL)
    table["first"] = target.start[blocks]
    table["last"] = table["first"] + target.rows(blocks) - 1
    table["done"] = _done_trials(ledger)[part]
    table["trial"], table["offset"] = trials.index[part], trials.offset[part]
    table["start"], table["stop"] = trials.start[part], trials.stop[part]
    return table


def _done_trials(ledger: Ledger) -> np.ndarray:
    """Whether all blocks of each trial are done."""
    by_trial = ledger.done.reshape(-1, ledger.plan.blocks.channel_blocks)
    return np.asarray(by_trial.all(axis=1))


def _times(plan: Plan) -> dict[str, Any]:
    """Which time the rows of trials have, and whether all of them were read in their order."""
    clock, axis = plan.trials.clock, plan.blocks.axis
    if clock is None:
        return {}
    whole = all(
        (kind.grid[axis].start, kind.grid[axis].step) == (0, 1)
        and (kind.sigrid is None or kind.sigrid[axis] == range(kind.inshape[axis]))
        for kind in plan.blocks.input_kinds
    )
    return {RATE: clock.rate, T_START: clock.t_start, WHOLE: whole}


def _add_columns(ledger: Ledger, f: h5py.File) -> None:
    """What is known of each trial, as coordinates along the axis of trials."""
    plan = ledger.plan
    ours = {**_tell_functions(ledger, f), **_tell_runs(ledger, f)}
    columns = {**plan.trials.columns, **ours}
    if not columns:
        return
    along = [output.name for output in plan.of_trials if output.target.stacked]
    scale = f[along[0]].dims[0][0] if along else _trial_scale(plan, f)
    places = {
        name: _add_column(f, _free(f, name), values, scale) for name, values in columns.items()
    }
    f["trials"].attrs[FURTHER] = json.dumps(places)
    if ours:
        f["trials"].attrs[OF_RUNS] = json.dumps([*ours])
    for name in along:
        _name_coordinates(f[name], places.values())


def _add_columns_of_axes(plan: Plan, f: h5py.File) -> None:
    """What else is known of each channel, as coordinates along the axes of channels."""
    places: dict[tuple[str, str], str] = {}
    for output in plan.outputs:
        data = f[output.name]
        for axis, dim in zip(output.axes, data.dims, strict=True):
            scale = dim[0]
            for name, values in axis.columns.items():
                if (scale.name, name) not in places:  # results share scales, and so these
                    place = _free(f, name, of=axis.name)
                    places[scale.name, name] = _add_column(f, place, values, scale)
            _name_coordinates(data, [places[scale.name, name] for name in axis.columns])


def _name_coordinates(data: h5py.Dataset, places: Iterable[str]) -> None:
    """Say of some data which datasets are further coordinates of them, as netCDF does."""
    names = [*read_text(data, "coordinates", "").split(), *places]
    if names:
        data.attrs["coordinates"] = " ".join(names)


def _tell_functions(ledger: Ledger, f: h5py.File) -> dict[str, np.ndarray]:
    """Tell of the functions if results of former ones are kept; a column, which each trial is of.

    The attribute `functions` has them, the oldest first. A trial that several have computed, block
    by block, has the oldest.
    """
    functions, by = functions_of(ledger)
    if len(functions) == 1:
        return {}
    of_trial, used, trials = _of_trials(ledger, by, len(functions) - 1)
    most = min(_MOST_TEXT, _MOST_SOURCES // (4 * len(used)))
    said = [
        {
            "trials": number,
            "function": one.function,
            "function_digest": one.function_digest,
            "function_version": one.function_version,
            **{name: text[:most] for name, text in one.described.items()},
        }
        for one, number in zip([functions[k] for k in used], trials, strict=True)
    ]
    f.attrs["functions"] = json.dumps(said)
    return {_new_column(ledger.plan, "function"): of_trial}


def _tell_runs(ledger: Ledger, f: h5py.File) -> dict[str, np.ndarray]:
    """Tell of the runs if trials were added to a result; a column, which each trial is of.

    The attribute `runs` has them, the oldest first. A trial whose blocks several have computed has
    the latest.
    """
    plans, by = plans_of(ledger)
    if all(one.trials == plans[-1].trials for one in plans):
        return {}
    ids = [*dict.fromkeys(one.run_id for one in plans)]
    run = np.asarray([ids.index(one.run_id) for one in plans])
    created = {one.run_id: one.created for one in plans if one.created}
    created = {**dict.fromkeys(ids, ""), **created, ids[-1]: f.attrs["created"]}
    of_trial, used, trials = _of_trials(ledger, np.where(by < 0, -1, run[by]), len(ids) - 1, np.max)
    said = [
        {"run_id": ids[k], "trials": number, "created": created[ids[k]]}
        for k, number in zip(used, trials, strict=True)
    ]
    f.attrs["runs"] = _listed(said)
    return {_new_column(ledger.plan, "run"): of_trial}


def _of_trials(
    ledger: Ledger, by: np.ndarray, last: int, of_blocks: Callable[..., np.ndarray] = np.min
) -> tuple[np.ndarray, list[int], list[int]]:
    """Which of some origins, given by block, each trial has; those that any has; trials of each.

    What is not done (-1) is of the `last`, which would do it. Places count among those that are
    used, of which the last is one.
    """
    by = np.where(by < 0, last, by).reshape(-1, ledger.plan.blocks.channel_blocks)
    used, place = np.unique(np.append(of_blocks(by, axis=1), last), return_inverse=True)
    of_trial = place[:-1].astype(np.int32)
    trials = np.bincount(of_trial[_done_trials(ledger)], minlength=used.size)
    return of_trial, used.tolist(), trials.tolist()


def _new_column(plan: Plan, name: str) -> str:
    """A name for a column that the trials do not have."""
    while name in plan.trials.columns:
        name += "_"
    return name


def _add_column(f: h5py.File, place: str, values: np.ndarray, scale: h5py.Dataset) -> str:
    stored = values.astype(np.uint8) if values.dtype == bool else values
    if values.dtype.kind == "U":
        text = np.char.encode(values, "utf-8")
        stored = text.astype(h5py.string_dtype("utf-8", max(1, text.dtype.itemsize)))
    dataset = keep_table(f, place, stored)
    if values.dtype == bool:
        dataset.attrs["dtype"] = "bool"  # as xarray has it
    dataset.dims[0].attach_scale(scale)
    return place


def _add_conditions(ledger: Ledger, f: h5py.File) -> None:
    """How many trials are in averages by condition, and the values of several columns."""
    plan, average = ledger.plan, ledger.plan.grouping
    if average is None or not average.by:
        return
    done = _done_trials(ledger)
    count = np.bincount(average.condition[done], minlength=average.conditions)
    along = {"count": count}
    if len(average.by) > 1:
        _, first = np.unique(average.condition, return_index=True)
        along |= {name: plan.trials.columns[name][first] for name in average.by}
    names: dict[str, list[str]] = {}  # by the scale of the conditions, which averages may share
    for output in plan.averaged:
        scale = f[output.name].dims[0][0]
        if scale.name not in names:
            names[scale.name] = [_add_column(f, _free(f, n), v, scale) for n, v in along.items()]
        _name_coordinates(f[output.name], names[scale.name])


def _trial_scale(plan: Plan, f: h5py.File) -> h5py.Dataset:
    """A dimension of trials, where none of the axes of the data is one."""
    scale = keep_table(f, _free(f, "trial"), plan.trials.index)
    scale.make_scale("trial")
    scale.attrs.create("_Netcdf4Dimid", sum(len(o.target.shape) for o in plan.outputs), dtype="i4")
    return scale


def _free(f: h5py.File, name: str, *, of: str = "trial") -> str:
    """A name for a dataset like the name of a column of trials, or others, that is not taken."""
    place = name.replace("/", "_").replace(" ", "_").strip(".") or "column"
    if place in f or place in RESERVED:
        place = f"{of}_{place}"
    while place in f:
        place += "_"
    return place


def _provenance(ledger: Ledger) -> dict[str, str | int]:
    """Where a result came from, as attributes of its file."""
    plan = ledger.plan
    said: dict[str, str | int] = {
        "function": plan.function.name,
        "function_version": plan.function.version,
        "function_digest": plan.function.digest,
        "function_text": plan.described.get("text", ""),  # plans of earlier versions have none
        **({"reduce_text": plan.described["reduce"]} if "reduce" in plan.described else {}),
        "args": plan.described["args"][:8000],
        "kwargs": plan.described["kwargs"][:8000],
        **_of_recordings(plan.source),
        **({} if (units := plan.source.units) is None else {"source_units": units}),
        "host": socket.gethostname(),
        "user": user_name(),
        "created": _iso(time.time()),
        **_versions(ledger),
    }
    if len(plan.source.parts) == 1:  # sessions begin at times of their own
        said |= dates_of_session(plan.source.path)
    if earlier := _earlier_steps(plan):
        said["chain"] = json.dumps(earlier)
    return {k: _storable(v) if isinstance(v, str) else v for k, v in said.items()}


def _of_recordings(source: Recording) -> dict[str, str | int]:
    """What is said of the recording; of several, JSON of what is said of each."""
    each: list[dict[str, str | int]] = [
        {
            "source": _storable(part.path),
            "source_dataset": _storable(part.dataset),
            "source_size": part.size,
            "source_mtime": _iso(part.mtime_ns / 1e9),
        }
        for part in source.parts
    ]
    if not isinstance(source, SeveralRecordings):
        return each[0]
    lists = {name: [one[name] for one in each] for name in each[0]}
    return {name: _listed(values) for name, values in lists.items()}


def _listed(values: Sequence[Any], most: int = _MOST_SOURCES) -> str:
    """JSON of the first values, as many as HDF5 holds in an attribute, which has up to 64 kB."""
    sizes = np.cumsum([len(json.dumps(value)) + 2 for value in values])
    return json.dumps(values[: int(np.searchsorted(sizes, most, side="right"))])


def _add_recordings(ledger: Ledger, f: h5py.File) -> None:
    """A table of several recordings, and which of them each trial is of."""
    plan = ledger.plan
    if not isinstance(plan.source, SeveralRecordings):
        return
    parts, rows = plan.source.parts, np.asarray(plan.source.first_rows[:-1])
    names = [(os.fsencode(part.path), os.fsencode(part.dataset)) for part in parts]
    path, dataset = (max(1, *map(len, column)) for column in zip(*names, strict=True))
    table = np.zeros(len(parts), [("path", f"S{path}"), ("dataset", f"S{dataset}"), *RECORDING])
    table["path"], table["dataset"] = zip(*names, strict=True)
    table["size"] = [part.size for part in parts]
    table["mtime_ns"] = [part.mtime_ns for part in parts]
    base = plan.blocks.base[:: plan.blocks.channel_blocks]
    f[RECORDINGS] = table
    f[RECORDING_OF] = (np.searchsorted(rows, base, side="right") - 1).astype(np.int32)


def _earlier_steps(plan: Plan) -> list[dict[str, Any]]:
    """Where recordings came from that are results themselves: of each the first step first.

    Of more than an attribute holds, these are the last ones.
    """
    found: list[dict[str, Any]] = []
    for part in plan.source.parts:
        if part.kind == "hdf5" and mark_of(part.path) is not None:
            found += [step for step in _steps_of(part.path) if step not in found]
    last: list[dict[str, Any]] = json.loads(_listed(found[::-1], _MOST_STEPS))
    return last[::-1]


def _steps_of(path: str) -> list[dict[str, Any]]:
    """The steps that have made a result, the last one included."""
    with open_file(path) as f:
        steps: list[dict[str, Any]] = json.loads(read_text(f, "chain", "[]"))
        names = ("function", "function_digest", "args", "kwargs", "source", "source_dataset")
        step: dict[str, Any] = {name: read_text(f, name, "") for name in (*names, "created")}
        if RECORDINGS in f:  # lists
            for name in ("source", "source_dataset"):
                step[name] = json.loads(_listed(json.loads(step[name]), _MOST_OF_STEP))
    step = {n: _storable(t)[:_MOST_OF_STEP] if isinstance(t, str) else t for n, t in step.items()}
    return [*steps, {**step, "result": _storable(path)}]


def _versions(ledger: Ledger) -> dict[str, str]:
    """The versions that most blocks were computed with, and all of them if there are several."""
    groups = computed_by(ledger)
    said = {"versions": json.dumps(dict(groups[0].versions) if groups else {})}
    if len(groups) > 1:
        shown = [{"blocks": g.blocks, "versions": dict(g.versions)} for g in groups]
        # HDF5 holds an attribute of up to 64 kB.
        while len(json.dumps(shown)) > _MOST_VERSIONS:
            shown.pop()
        if left := sum(group.blocks for group in groups[len(shown) :]):
            shown.append({"blocks": left, "versions": {}})
        said["versions_of_blocks"] = json.dumps(shown)
    return said


def _storable(text: str) -> str:
    """Text as HDF5 can hold it: without NUL, and names of files that are no UTF-8 in escapes."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _add_details(ledger: Ledger, file: h5py.File) -> None:
    """Details of all blocks: those of one shape and type as datasets ``details/NAME`` along trials.

    Of few blocks, and of unequal shapes, also as attributes ``NAME__trial_block`` of the group
    `metadata`; an attribute takes HDF5 as long as a hundred rows of a dataset.
    """
    plan = ledger.plan
    details = {block: unpack_details(packed) for block, packed in ledger.details().items()}
    along = _along_trials(ledger, details)
    for name, values in along.items():
        file[f"details/{name}"] = values
    many = len(plan) > MOST_NAMED
    for block, own in details.items():
        named = {k: v for k, v in own.items() if k not in along} if many else own
        suffix = f"__{plan.blocks.trial[block]}_{plan.blocks.channel_block[block]}"
        write_details(file, named, suffix)


def _along_trials(
    ledger: Ledger, details: Mapping[int, Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The details that all blocks have in one shape and type, shape (N, ...).

    If channels are cut, shape (N, channel blocks, ...). A block that is not done has NaN, zero, or
    no text.
    """
    if not details or len(details) != int(ledger.done.sum()):
        return {}
    blocks, found = np.fromiter(details, np.int64, len(details)), {}
    for name, first in next(iter(details.values())).items():
        values = [own.get(name) for own in details.values()]
        if any(v is None or v.shape != first.shape or not _alike(v, first) for v in values):
            continue
        stacked = np.stack([v for v in values if v is not None])
        fill = b"" if stacked.dtype.kind == "S" else fill_of(stacked.dtype)
        whole = np.full((len(ledger.plan), *first.shape), fill, stacked.dtype)
        whole[blocks] = stacked
        per_trial = ledger.plan.blocks.channel_blocks
        found[name] = whole if per_trial == 1 else whole.reshape(-1, per_trial, *first.shape)
    return found


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two details have one type, or are both text."""
    return one.dtype == other.dtype or one.dtype.kind == other.dtype.kind == "S"
