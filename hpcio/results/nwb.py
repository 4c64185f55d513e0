"""A result laid out as a file of NWB: its data as a time series or in scratch, trials, origin.

Specification: https://nwb-schema.readthedocs.io (NWB 2.6) and https://hdmf-common-schema.readthedocs.io
(1.8). The file has no copy of it: readers such as pynwb bring their own.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import h5py
import numpy as np

from hpcio.errors import OutputError
from hpcio.files import read_table, read_text
from hpcio.recording import FURTHER, column_of, columns_of_result, is_phony
from hpcio.results.labelled import names_of_axes
from hpcio.results.opening import ResultFile
from hpcio.results.publishing import RATE, T_START, WHOLE
from hpcio.results.showing import recording_in_words

__all__ = ["NewDataset", "lay_out_as_nwb"]

# Makes the empty dataset for a result, in a group of a file, under a name; at last, which result.
NewDataset = Callable[[h5py.Group, str, str], h5py.Dataset]

_VERSION = "2.6.0"
_TEXT = h5py.string_dtype("utf-8")
# A time series has no more axes.
_MOST_AXES = 4
# Seconds became the nearest row, which is half a row beside them at the most, but for rounding.
_NEAREST = 0.501
# What a table of NWB keeps under these names.
_TAKEN = ("id", "colnames", "description", "start_time", "stop_time", "tags", "timeseries")
# What a table says of each trial besides; columns of the trials go before.
_MEANING = {
    "start": ("start_row", "First row of the trial in the recording."),
    "stop": ("stop_row", "Row of the recording after the last one of the trial."),
    "offset": ("offset", "Rows from the start of the trial to its trigger."),
    "first": ("first", "First row of the trial in the data, along the axis of trials."),
    "last": ("last", "Last row of the trial in the data, along the axis of trials."),
    "done": ("done", "Whether the trial was computed; the data of others are fill values."),
}


def lay_out_as_nwb(f: ResultFile, g: h5py.File, new_dataset: NewDataset) -> dict[str, h5py.Dataset]:
    """Make all of a file of NWB of a result, but for the values of its data.

    Data with the rows of their trials, along a first axis ``time``, are a `TimeSeries` in the
    processing module ``hpcio``. All others are `ScratchData`, since no type of NWB fits whatever a
    function returns. Coordinates of axes and details lie in scratch, too.

    Parameters
    ----------
    f : ResultFile
    g : h5py.File
        The new file, empty.
    new_dataset : callable

    Returns
    -------
    dict of str to h5py.Dataset
        The empty ones of the data, by the names of results.

    Raises
    ------
    OutputError
        If NWB has no such numbers.
    """
    for name in f.results:
        if f.plain(name).dtype.kind == "c":
            raise OutputError(
                f"NWB has no complex numbers, and '{name}' of '{f.filename}' has. Let the function "
                "return their absolute values, or real and imaginary part along an axis."
            )
    said = {name: read_text(f, name) for name, value in f.attrs.items() if _is_text(value)}
    table = read_table(f["trials"])
    _add_head(g, f, said)
    what = f"Result of the function {said['function']} over trials, computed by hpcio."
    made = {name: _add_result(f, g, name, table, what, new_dataset) for name in f.results}
    _add_coordinates(g["scratch"], f)
    _add_details(g["scratch"], f)
    _add_trials(g, f, table)
    return made


def _add_result(
    f: ResultFile,
    g: h5py.File,
    name: str,
    table: np.ndarray,
    what: str,
    new_dataset: NewDataset,
) -> h5py.Dataset:
    """The empty dataset of a result, as a time series or in scratch."""
    axes = names_of_axes(f.plain(name))
    times = _times(f, name, table, axes)
    if times is None:
        made = new_dataset(g["scratch"], name, name)
        return _described(made, "core.ScratchData", notes=f"{what} Axes: {', '.join(axes)}.")
    module = g["processing"].get("hpcio")
    if module is None:
        module = _new_group(g["processing"], "hpcio", "core.ProcessingModule", description=what)
    return _add_series(module, name, new_dataset, what, times)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes)


def _described(thing: Any, kind: str, **attributes: str) -> Any:
    """Give an object the type of NWB that it is of, written ``NAMESPACE.TYPE``."""
    namespace, _, name = kind.partition(".")
    of_type = {"namespace": namespace, "neurodata_type": name, "object_id": str(uuid.uuid4())}
    thing.attrs.update({**of_type, **attributes})
    return thing


def _new_group(parent: h5py.Group, name: str, kind: str, **attributes: str) -> h5py.Group:
    group: h5py.Group = _described(parent.create_group(name), kind, **attributes)
    return group


def _add_head(g: h5py.File, f: ResultFile, said: Mapping[str, str]) -> None:
    """What each file of NWB has, and where the result came from."""
    _described(g, "core.NWBFile", nwb_version=_VERSION)
    for name in ("acquisition", "analysis", "general", "processing", "scratch",
                 "stimulus/presentation", "stimulus/templates"):  # fmt: skip
        g.create_group(name)
    start = said.get("session_start_time", said["created"])
    unknown = "" if "session_start_time" in said else " When the session began is not known."
    texts = {
        "identifier": read_text(f["hpcio"], "run_id"),
        "session_description": f"Trials of {recording_in_words(f)}.{unknown}",
        "session_start_time": start,
        "timestamps_reference_time": said.get("timestamps_reference_time", start),
        "general/notes": "\n".join(f"{name}: {text}" for name, text in said.items()),
        "general/source_script": said.get("function_text", ""),
    }
    for name, text in texts.items():
        g.create_dataset(name, data=text, dtype=_TEXT)
    g["general/source_script"].attrs["file_name"] = said["function"]
    g.create_dataset("file_create_date", data=[said["created"]], dtype=_TEXT, maxshape=(None,))


def _times(f: ResultFile, name: str, table: np.ndarray, axes: list[str]) -> np.ndarray | None:
    """The time of each row of a result in seconds, if these are rows of the recording."""
    clock, shape = f["trials"].attrs, f.plain(name).shape
    if axes[:1] != ["time"] or not clock.get(WHOLE, False) or len(shape) > _MOST_AXES:
        return None
    rows = table["last"] - table["first"] + 1
    begin = np.cumsum(rows) - rows
    if shape[0] != rows.sum() or (rows != table["stop"] - table["start"]).any():
        return None
    if (begin != table["first"]).any():
        return None
    within = np.arange(shape[0]) - np.repeat(begin, rows)
    times: np.ndarray = clock[T_START] + (np.repeat(table["start"], rows) + within) / clock[RATE]
    return times


def _add_series(
    module: h5py.Group, name: str, new_dataset: NewDataset, what: str, times: np.ndarray
) -> h5py.Dataset:
    comments = "The rows of all trials, one after the other; intervals/trials says which are whose."
    series = _new_group(module, name, "core.TimeSeries", description=what, comments=comments)
    data = new_dataset(series, "data", name)
    # In which unit the results of a function are, nobody has said.
    data.attrs.update({"unit": "unknown", "conversion": 1.0, "offset": 0.0, "resolution": -1.0})
    stamps = series.create_dataset("timestamps", data=times)
    stamps.attrs.update({"unit": "seconds", "interval": np.int32(1)})
    return data


def _add_coordinates(scratch: h5py.Group, f: ResultFile) -> None:
    """Coordinates of the axes of the data, and what is known of each condition."""
    of_trials = json.loads(f["trials"].attrs.get(FURTHER, "{}")).values()
    along: dict[str, str] = {}
    for result in f.results:
        for k, dim in enumerate(f.plain(result).dims):
            along |= {scale.name: dim.label or f"axis {k}" for scale in dim.values()}
    for name, thing in f.items():
        if not isinstance(thing, h5py.Dataset) or name in (*f.results, "trials", *of_trials):
            continue
        axis = along.get(thing.name)
        if axis is None and thing.ndim == 1:
            axis = next((along[s.name] for s in thing.dims[0].values() if s.name in along), None)
        if axis is None or is_phony(thing):
            continue
        place = name if name not in scratch else f"{name}_of_{axis}"
        stored = _stored(scratch, place, column_of(thing))
        _described(stored, "core.ScratchData", notes=f"{name}, along the axis {axis} of the data.")


def _add_details(scratch: h5py.Group, f: ResultFile) -> None:
    """What calls said of each trial besides their results."""
    for name, thing in f.get("details", {}).items():
        stored = _stored(scratch, _free(f"details_{name}", scratch), column_of(thing))
        notes = f"Detail {name} of each trial, in the order of the trials."
        _described(stored, "core.ScratchData", notes=notes)


def _add_trials(g: h5py.File, f: ResultFile, table: np.ndarray) -> None:
    """The table of trials: intervals, if it is known which times they have."""
    clock, known = f["trials"].attrs, columns_of_result(f["trials"])
    columns: dict[str, tuple[np.ndarray, str]] = {}
    where, kind = g["scratch"], "hdmf-common.DynamicTable"
    description = "Trials, in rows of the recording: which times these have is not known."
    if RATE in clock:
        where, kind, description = g.create_group("intervals"), "core.TimeIntervals", "Trials."
        for end in ("start", "stop"):
            times, name = clock[T_START] + table[end] / clock[RATE], f"{end}_time"
            if _are_near(known.get(name), times, clock[RATE]):
                times = known.pop(name)  # as the table of trials has them, not as rows have
            columns[name] = times, f"{end.capitalize()} of the trial, in seconds."
    ids = known.get("id", table["trial"])
    if ids.dtype.kind not in "iu" or len(np.unique(ids)) < len(ids):
        ids = table["trial"]
    else:
        known.pop("id", None)
    for name, values in known.items():
        columns[_free(name, columns)] = values, f"Column '{name}' of the trials."
    for field, (name, meaning) in _MEANING.items():
        columns[_free(name, columns)] = table[field], meaning
    _add_table(where, "trials", kind, description, ids, columns)


def _are_near(values: np.ndarray | None, times: np.ndarray, rate: float) -> bool:
    """Whether a column has the times of rows, each to the nearest row."""
    if values is None or values.dtype.kind not in "iuf":
        return False
    return bool((np.abs(values - times) * rate < _NEAREST).all())


def _free(name: str, taken: Iterable[str]) -> str:
    """A name for a column of a table like another, that is not taken."""
    place = name.replace("/", "_")
    if place in _TAKEN:
        place = f"trial_{place}"
    while place in taken:
        place += "_"
    return place


def _add_table(
    parent: h5py.Group,
    name: str,
    kind: str,
    description: str,
    ids: np.ndarray,
    columns: Mapping[str, tuple[np.ndarray, str]],
) -> None:
    group = _new_group(parent, name, kind, description=description)
    group.attrs["colnames"] = np.array(list(columns), _TEXT)
    stored = group.create_dataset("id", data=ids.astype(np.int64))
    _described(stored, "hdmf-common.ElementIdentifiers")
    for column, (values, meaning) in columns.items():
        stored = _stored(group, column, values)
        _described(stored, "hdmf-common.VectorData", description=meaning)


def _stored(group: h5py.Group, name: str, values: np.ndarray) -> h5py.Dataset:
    """Numbers, bool or text as NWB has them."""
    if values.dtype.kind == "U":
        return group.create_dataset(name, data=values.astype(object), dtype=_TEXT)
    return group.create_dataset(name, data=values)
