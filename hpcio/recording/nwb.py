"""Series of NWB as recordings, named ``FILE.nwb::NAME``, and the trials of a session.

Values become those of a unit as NWB defines it: ``data * conversion * channel_conversion +
offset``, as `pynwb.TimeSeries.get_data_in_units` computes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Self

import h5py
import numpy as np

from hpcio.errors import SourceError, TrialError
from hpcio.files import open_file, read_text, reading
from hpcio.recording.hdf5 import HDF5
from hpcio.recording.recording import OpenRecording, Recording
from hpcio.recording.scaling import Scaling
from hpcio.recording.sessions import (
    SPIKES,
    electrodes_of,
    find_series,
    intervals_of,
    is_session,
    is_zarr_session,
    number_in,
    session_of,
    type_of,
)
from hpcio.recording.tablefiles import HDF5 as TABLES_IN_HDF5
from hpcio.recording.tables import TrialTable

__all__ = ["NWB", "TRIALS"]

# Symbols of units that NWB writes as words.
_SYMBOLS = {
    "volt": "V", "volts": "V", "v": "V", "ampere": "A", "amperes": "A", "a": "A",
    "meter": "m", "meters": "m", "second": "s", "seconds": "s", "siemens": "S", "ohms": "ohm",
}  # fmt: skip
# What pynwb writes for a unit that nobody has said.
_UNKNOWN = ("", "unknown", "n/a", "na", "a.u.")
# What a channel is called in the table of electrodes; the first that is there and distinct counts.
_NAMES = ("channel_name", "label", "id")
_TRIALS = "/intervals/trials"


class _Nwb:
    """Series in files of NWB; see `hpcio.recording.RecordingKind`."""

    name = "nwb"

    def claims(self, spec: str) -> bool:
        file, name = session_of(spec)
        if is_zarr_session(file):
            return True
        if not is_session(file):
            return False
        with reading(file), open_file(os.path.expanduser(file)) as f:
            return not name or not isinstance(f.get(name), h5py.Dataset)

    def look(self, spec: str) -> Recording:
        file, name = session_of(spec)
        if is_zarr_session(file):
            raise SourceError(
                f"'{file}' is NWB in Zarr, and hpcio reads NWB in HDF5. Write it so: "
                "NWBHDF5IO('NEW.nwb', 'w').export(src_io=NWBZarrIO(PATH, 'r'), "
                "write_args={'link_data': False})."
            )
        path = os.path.abspath(os.path.expanduser(file))
        with reading(path), open_file(path) as f:
            series = find_series(f, name)
            found = HDF5.look(f"{path}::{series}/data")
            return replace(found, kind=self.name, scaling=_scaling_of(f[series], found))

    def open(self, recording: Recording) -> OpenRecording:
        return _OpenNwb(recording)


class _OpenNwb:
    """The data of a series, with names of its axes; see `hpcio.recording.OpenRecording`."""

    def __init__(self, recording: Recording) -> None:
        self._path, self._series = recording.path, recording.dataset.rpartition("/")[0]
        self._opened = opened = HDF5.open(recording)
        self.shape, self.dtype, self.name = opened.shape, opened.dtype, opened.name
        self.plain, self.read, self.close = opened.plain, opened.read, opened.close

    @cached_property
    def _axes(self) -> tuple[tuple[str, ...], Mapping[str, np.ndarray]]:
        """The names of axes, and what is known of the electrodes of channels."""
        with reading(self._path), open_file(self._path) as f:
            series = f[self._series]
            columns = electrodes_of(series)
            named: tuple[str, ...] = ("time",)
            if type_of(series) == SPIKES:
                named = ("event", "channel", "time") if len(self.shape) > 2 else ("event", "time")
            elif columns is not None:
                named = ("time", "channel")
        return named, columns or {}

    def axis_name(self, axis: int) -> str:
        return self._opened.axis_name(axis) or dict(enumerate(self._axes[0])).get(axis, "")

    def coordinates(self, axis: int) -> np.ndarray | None:
        found = self._opened.coordinates(axis)
        if found is not None:
            return found
        columns = self.columns(axis)
        for name in _NAMES:
            values = columns.get(name)
            if values is not None and len(np.unique(values)) == len(values):
                return values
        return None

    def columns(self, axis: int) -> Mapping[str, np.ndarray]:
        names, columns = self._axes
        if names[axis : axis + 1] != ("channel",):
            return {}
        return {name: v for name, v in columns.items() if len(v) == self.shape[axis]}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _scaling_of(series: h5py.Group, recording: Recording) -> Scaling | None:
    """How values of the unit of a series are made; None if it says no unit."""
    data = series["data"]
    words = read_text(data, "unit", "").strip()
    if words.lower() in _UNKNOWN:
        return None
    conversion, offset = number_in(data, "conversion", 1), number_in(data, "offset", 0)
    factors, axis = np.array([conversion]), None
    channels = series.get("channel_conversion")
    if isinstance(channels, h5py.Dataset):
        axis = int(channels.attrs.get("axis", 1))
        if not 0 < axis < len(recording.shape) or channels.shape != (recording.shape[axis],):
            raise SourceError(
                f"'{channels.name}' of '{recording.path}' has the shape {channels.shape} along "
                f"axis {axis} of values of shape {recording.shape}. Correct the file, or name the "
                f"values as they are: {recording.path}::{recording.dataset}"
            )
        factors = conversion * channels[()].astype(np.float64)
    if not (np.isfinite(factors).all() and np.isfinite(offset)):
        raise SourceError(
            f"A conversion of '{series.name}' in '{recording.path}' is no number. Correct the "
            f"file, or name the values as they are: {recording.path}::{recording.dataset}"
        )
    return Scaling(
        _SYMBOLS.get(words.lower(), words), recording.dtype.str, tuple(factors.tolist()), offset,
        axis,
    )  # fmt: skip


class _Trials:
    """The trials of a session, named by its file alone; see `hpcio.recording.TrialTableKind`."""

    name = "nwb"

    def claims(self, spec: str) -> bool:
        return "::" not in spec and is_session(spec)

    def read(self, spec: str) -> TrialTable:
        tables = intervals_of(spec)
        if _TRIALS not in tables:
            others = (
                f"It has {', '.join(tables)}: name one, '{spec}::{tables[0]}'"
                if tables
                else ("It has no intervals at all: give a table of your own")
            )
            raise TrialError(f"'{spec}' has no '{_TRIALS}'. {others}.")
        return TABLES_IN_HDF5.read(f"{spec}::{_TRIALS}")


NWB, TRIALS = _Nwb(), _Trials()
