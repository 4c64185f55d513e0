"""Files of NWB in HDF5: whether a file is one, its series, its tables of intervals and electrodes.

Specification: https://nwb-schema.readthedocs.io (2.x), as pynwb writes it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from hpcio.errors import DAMAGE, HpcioError, SourceError
from hpcio.files import open_file, read_text
from hpcio.recording.tablefiles import columns_of

__all__ = [
    "SPIKES",
    "dates_of_session",
    "electrodes_of",
    "find_series",
    "intervals_of",
    "is_session",
    "is_zarr_session",
    "session_of",
    "type_of",
]

# What makes a series one of electrodes, and not of spikes cut out around their events.
_ELECTRODES, SPIKES = "electrodes", "SpikeEventSeries"
# Files in which Zarr keeps the attributes of its root.
_OF_ZARR = (".zattrs", ".zmetadata", "zarr.json")
# When a session began, and what its times count from, in the words of ISO 8601.
_DATES = ("session_start_time", "timestamps_reference_time")
# So many things are named in a message.
_MOST = 8


def session_of(spec: str) -> tuple[str, str]:
    """The file and the name within it, ``""`` if there is none, of ``FILE`` or ``FILE::NAME``."""
    file, separator, name = spec.rpartition("::")
    return (file, name) if separator else (spec, "")


def is_session(file: str) -> bool:
    """Whether a file is one of NWB in HDF5: its root says so."""
    path = os.path.expanduser(file)
    if not os.path.isfile(path):
        return False
    with contextlib.suppress(*DAMAGE, HpcioError), open_file(path) as f:
        return "nwb_version" in f.attrs or type_of(f) == "NWBFile"
    return False


def is_zarr_session(file: str) -> bool:
    """Whether a folder is a file of NWB in Zarr."""
    for name in _OF_ZARR:
        with contextlib.suppress(OSError):
            text = Path(file).expanduser().joinpath(name).read_text(errors="replace")
            if '"nwb_version"' in text or '"NWBFile"' in text:
                return True
    return False


def type_of(thing: h5py.Group | h5py.Dataset) -> str:
    """The type that NWB gives to an object; ``""`` if it gives none."""
    with contextlib.suppress(*DAMAGE):
        return read_text(thing, "neurodata_type", "")
    return ""


def _is_series(thing: Any) -> bool:
    """Whether an object is a time series of any type; a table has its columns' names besides."""
    return (
        isinstance(thing, h5py.Group)
        and bool(type_of(thing))
        and "colnames" not in thing.attrs
        and isinstance(thing.get("data"), h5py.Dataset)
    )


def find_series(file: h5py.File, name: str) -> str:
    """The path of the series that a user names by its name, its path or that of its data.

    ``""`` means the only one of electrodes.

    Raises
    ------
    SourceError
        If there is none, or several of the name; it lists those that are there.
    """
    path = name.removesuffix("/data")
    if path and _is_series(file.get(path)):
        return "/" + path.strip("/")
    if name:  # to hear of names alone takes a tenth of the time
        names: list[str] = []
        file.visit(names.append)
        paths = [path for path in names if path.rpartition("/")[2] == name]
        found = [f"/{path}" for path in paths if _is_series(file[path])]
        wanted = f"no series '{name}'"
    else:
        found = [
            path
            for path, kind in _series_of(file).items()
            if _ELECTRODES in file[path] and kind != SPIKES
        ]
        wanted = "no series of electrodes"
    if len(found) == 1:
        return found[0]
    known = _series_of(file)
    if found:
        what = f"series '{name}'" if name else "series of electrodes"
        raise SourceError(
            f"'{file.filename}' has {len(found)} {what}: {_listed(file, found, known)}. Name one: "
            f"'{file.filename}::{found[0]}'."
        )
    there = f"The series are {_listed(file, list(known), known)}." if known else "It has none."
    raise SourceError(
        f"'{file.filename}' has {wanted}. {there} Name one by its name or path, or a dataset: "
        "FILE::PATH/data."
    )


def _series_of(file: h5py.File) -> dict[str, str]:
    """The type of each series, by its path."""
    known: dict[str, str] = {}

    def note(path: str, thing: Any) -> None:
        if _is_series(thing):
            known[f"/{path}"] = type_of(thing)

    file.visititems(note)
    return known


def _listed(file: h5py.File, paths: list[str], types: dict[str, str]) -> str:
    words = [
        f"{path} ({types[path]}, {' x '.join(map(str, file[path]['data'].shape))})"
        for path in paths[:_MOST]
    ]
    return ", ".join(words) + " ..." * (len(paths) > _MOST)


def dates_of_session(file: str) -> dict[str, str]:
    """When a session began and its times count from, if a file says so: {} of all but NWB."""
    if is_session(file):
        with contextlib.suppress(*DAMAGE, HpcioError), open_file(os.path.expanduser(file)) as f:
            return {name: str(f[name].asstr()[()]) for name in _DATES if name in f}
    return {}


def intervals_of(file: str) -> list[str]:
    """The paths of the tables of intervals in a file."""
    with open_file(os.path.expanduser(file)) as f:
        group = f.get("intervals")
        names = list(group) if isinstance(group, h5py.Group) else []
    return [f"/intervals/{name}" for name in names]


def number_in(thing: h5py.Group | h5py.Dataset, name: str, default: float) -> float:
    """A number that a file says in an attribute.

    Raises
    ------
    SourceError
        If it is none.
    """
    value = thing.attrs.get(name, default)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise SourceError(
            f"'{name}' of '{thing.name}' in '{thing.file.filename}' is {value!r:.100}, and no "
            "number. Correct the file."
        ) from None


def electrodes_of(series: h5py.Group) -> dict[str, npt.NDArray[Any]] | None:
    """What is known of the electrode of each channel of a series, by column; None if nothing is.

    Raises
    ------
    SourceError
        If the series names electrodes that are not in their table.
    """
    rows = series.get(_ELECTRODES)
    if not isinstance(rows, h5py.Dataset) or "table" not in rows.attrs:
        return None
    remedy = (
        "Correct the file, or name the values as they are: "
        f"{series.file.filename}::{series.name}/data"
    )
    try:
        table, positions = series.file[rows.attrs["table"]], np.atleast_1d(rows[()])
        columns = columns_of(table, f"'{table.name}' in '{series.file.filename}'")
        there = max(map(len, columns.values()))
        outside = positions[(positions < 0) | (positions >= there)].tolist()
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"'{rows.name}' in '{series.file.filename}' names no rows of a table of electrodes "
            f"({error}). {remedy}"
        ) from error
    if outside:
        raise SourceError(
            f"'{rows.name}' in '{series.file.filename}' names row {outside[0]} of "
            f"'{table.name}', which has {there}. {remedy}"
        )
    return {name: v[positions] for name, v in columns.items() if len(v) == there}
