"""Recordings in HDF5: one dataset of one file, named ``FILE::DATASET``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from hpcio.errors import HpcioError, SourceError, TrialError
from hpcio.files import (
    FileState,
    VirtualReader,
    check_links,
    check_place,
    entries_of,
    find_dataset,
    follow,
    has_sound_scales,
    load_filter,
    open_file,
    plain_offset,
    read_text,
    read_values,
    reading,
    sample_of,
    split_spec,
)
from hpcio.recording.recording import OpenRecording, Recording
from hpcio.recording.resulttables import column_of
from hpcio.recording.selections import take

__all__ = ["HDF5", "is_phony", "read_region", "unnamed"]


class _Hdf5:
    """Recordings in HDF5; see `hpcio.recording.RecordingKind`."""

    name = "hdf5"

    def claims(self, spec: str) -> bool:
        return True

    def look(self, spec: str) -> Recording:
        file, dataset = split_spec(spec)
        path = str(Path(file).expanduser().absolute())
        with reading(path), open_file(path) as f:
            check_links(f, dataset)
            array = find_dataset(f, dataset)
            _check_numbers(array, f"Dataset '{dataset}' of '{path}'")
            followed = follow(f, dataset)
            # Without names of an enumerated type, which a plan does not keep.
            shape, dtype = array.shape, np.dtype(array.dtype.str)
        main, *behind = map(FileState.of, followed.files)
        return Recording(
            path, dataset, shape, dtype, main.size, main.mtime_ns, behind=tuple(behind),
            filters=followed.filters, sample=sample_of((main, *behind)), place=followed.place,
        )  # fmt: skip

    def open(self, recording: Recording) -> OpenRecording:
        return _OpenHdf5(recording)


HDF5 = _Hdf5()

# What h5py raises for scales that are gone, or whose type it has no word for.
_NO_SCALE = (OSError, KeyError, RuntimeError, TypeError, ValueError)


def is_phony(scale: h5py.Dataset) -> bool:
    """Whether netCDF says that a scale stands for a dimension without values."""
    return "not a netCDF variable" in _said_of(scale)


def _said_of(scale: h5py.Dataset) -> str:
    """The name that a scale gives itself, "" for none, or for one that cannot be read."""
    try:
        said = scale.attrs.get("NAME", b"")
    except _NO_SCALE:
        return ""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def unnamed(axis: int) -> str:
    """What the scale of an axis without a name is called in a result."""
    return f"axis_{axis}"


def _name_of_scale(scale: h5py.Dataset) -> str:
    name = _said_of(scale)
    return str(scale.name).rpartition("/")[2] if is_phony(scale) or not name else name


def _check_numbers(array: h5py.Dataset, name: str) -> None:
    """Raise SourceError unless a dataset is an array of numbers that trials can be cut from."""
    try:
        array.dtype  # noqa: B018
    except (TypeError, ValueError) as error:
        raise SourceError(
            f"{name} has a type of HDF5 that numpy has no word for ({error}). Convert it to "
            "integers of 8, 16, 32 or 64 bits, or to floats."
        ) from error
    if array.dtype.kind not in "biufc":
        raise SourceError(
            f"{name} has the type {array.dtype}, which is no plain number. Choose a dataset of "
            "integers, floats, complex or bool."
        )
    if array.ndim == 0:
        raise SourceError(
            f"{name} is a scalar and has no axis to cut trials along. Choose a dataset with at "
            "least one axis."
        )
    if array.size == 0:
        raise SourceError(
            f"{name} has the shape {array.shape} and holds nothing. Choose another dataset."
        )


class _OpenHdf5:
    """A dataset that is open; see `hpcio.recording.OpenRecording`."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._file = open_file(recording.path)
        try:
            self._dataset = find_dataset(self._file, recording.dataset)
            for code in recording.filters:
                load_filter(code, str(recording))
            with reading(recording.path):
                offset = plain_offset(self._dataset, recording.path)
                self.shape, self.dtype = self._dataset.shape, np.dtype(self._dataset.dtype.str)
        except BaseException:
            self._file.close()
            raise
        # HDF5 would show fill values where it cannot open a file behind a virtual dataset.
        self._virtual: VirtualReader | None = None
        if self._dataset.is_virtual:
            known = [recording.path, *(file.path for file in recording.behind)]
            self._virtual = VirtualReader(self._dataset, known=known)
        self._has_scales = has_sound_scales(self._dataset)
        self.name: str = self._file.filename
        self.plain = None if offset is None else (recording.path, offset)

    def read(self, region: tuple[slice, ...]) -> np.ndarray:
        check_place(self._recording.place, self._recording.path)
        return _region(self._dataset, self._virtual, region)

    def axis_name(self, axis: int) -> str:
        if not self._has_scales:
            return ""
        try:
            label, scale = self._dataset.dims[axis].label, self._scale(axis)
        except _NO_SCALE:
            return ""
        name = label or ("" if scale is None else _name_of_scale(scale))
        # A result of an earlier step has no name for this axis.
        nameless = not label and name == unnamed(axis)
        return name if isinstance(name, str) and not nameless else ""

    def coordinates(self, axis: int) -> np.ndarray | None:
        scale = self._scale(axis)
        if scale is None or scale.shape != (self.shape[axis],) or is_phony(scale):
            return None
        try:
            return np.asarray(scale[()])
        except _NO_SCALE:
            return None

    def columns(self, axis: int) -> Mapping[str, np.ndarray]:
        scale = self._scale(axis)
        if scale is None:
            return {}
        try:
            # The conventions of netCDF, by which results tell of their trials and electrodes.
            names = read_text(self._dataset, "coordinates", "").split()
            return {
                name: column_of(thing)
                for name in names
                if isinstance(thing := self._file.get(name), h5py.Dataset)
                and thing.shape == (self.shape[axis],)
                and (thing.dtype.kind in "biufS" or h5py.check_string_dtype(thing.dtype))
                and scale in thing.dims[0].values()
            }
        except _NO_SCALE:
            return {}

    def _scale(self, axis: int) -> h5py.Dataset | None:
        """The first scale of an axis, if there is a sound one: scales are decoration."""
        if not self._has_scales:
            return None
        dim = self._dataset.dims[axis]
        try:
            return dim[0] if len(dim) else None
        except _NO_SCALE:  # it was deleted
            return None

    def close(self) -> None:
        with reading(self._recording.path):
            if self._virtual is not None:
                self._virtual.close()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _region(
    dataset: h5py.Dataset, virtual: VirtualReader | None, region: tuple[Any, ...]
) -> np.ndarray:
    """Part of a dataset, which is read by `virtual` if it is one."""
    try:
        if virtual is None:
            return read_values(dataset, region)
        wanted, index = entries_of(region, virtual.shape)
        found: np.ndarray = virtual.read(wanted)[index]
        return found
    except HpcioError:
        raise
    except OSError as error:
        raise SourceError(*error.args) from error


def read_region(
    dataset: h5py.Dataset,
    region: tuple[Any, ...],
    sigrid: Sequence[Sequence[int]] | None,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Read a region that a caller has described, as an array of `shape`.

    Parameters
    ----------
    dataset : h5py.Dataset
    region : tuple of slices, ints or sorted lists
        Absolute. HDF5 allows at most one list.
    sigrid : sequence of sequences of int, or None
        Unless None, the array read is indexed by ``np.ix_(*sigrid)``. A range that takes all
        of an axis costs nothing.
    shape : tuple of int
        Shape of the result; it restores axes that ints in `region` dropped.

    Raises
    ------
    SourceError
        If HDF5 cannot read.
    TrialError
        If region and shape do not fit.
    """
    where = f"'{dataset.name}' in '{dataset.file.filename}'"
    virtual = VirtualReader(dataset) if dataset.is_virtual else None
    try:
        array = _region(dataset, virtual, region)
    except (IndexError, TypeError, ValueError) as error:
        raise TrialError(
            f"The region {region} does not fit '{dataset.name}' of shape {dataset.shape} in "
            f"'{dataset.file.filename}': {error}. Correct ingrid."
        ) from error
    finally:
        if virtual is not None:
            virtual.close()
    try:
        array = take(array, sigrid)
    except IndexError as error:
        raise TrialError(
            f"A sigrid does not fit the region {region} of {where}, of shape {array.shape}: "
            f"{error}. Correct sigrid."
        ) from error
    if array.shape != shape:
        try:
            array = array.reshape(shape)
        except ValueError:
            raise TrialError(
                f"The region {region} of {where} has shape {array.shape}, not {shape}. "
                "Correct inshape."
            ) from None
    return array
