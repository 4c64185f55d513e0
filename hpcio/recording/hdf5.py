"""Recordings in HDF5: one dataset of one file, named ``FILE::DATASET``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from hpcio.errors import SourceError, TrialError
from hpcio.files import check_parts, find_dataset, open_file, plain_offset, split_spec
from hpcio.recording.recording import OpenRecording, Recording
from hpcio.recording.selections import take

__all__ = ["HDF5", "read_region"]


class _Hdf5:
    """Recordings in HDF5; see `hpcio.recording.RecordingKind`."""

    name = "hdf5"

    def claims(self, spec: str) -> bool:
        return True

    def look(self, spec: str) -> Recording:
        file, dataset = split_spec(spec)
        path = str(Path(file).expanduser().absolute())
        with open_file(path) as f:
            array = find_dataset(f, dataset)
            _check_numbers(array, f"Dataset '{dataset}' of '{path}'")
            check_parts(array)
            shape, dtype = array.shape, array.dtype
        stat = os.stat(path)
        return Recording(path, dataset, shape, dtype, stat.st_size, stat.st_mtime_ns)

    def open(self, recording: Recording) -> OpenRecording:
        return _OpenHdf5(recording)


HDF5 = _Hdf5()


def _check_numbers(array: h5py.Dataset, name: str) -> None:
    """Raise SourceError unless a dataset is an array of numbers that trials can be cut from."""
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
        self._file = open_file(recording.path)
        try:
            self._dataset = find_dataset(self._file, recording.dataset)
            check_parts(self._dataset)
            offset = plain_offset(self._dataset, recording.path)
        except BaseException:
            self._file.close()
            raise
        self.shape, self.dtype = self._dataset.shape, self._dataset.dtype
        self.name: str = self._file.filename
        self.plain = None if offset is None else (recording.path, offset)

    def read(self, region: tuple[slice, ...]) -> np.ndarray:
        return _values(self._dataset, region)

    def axis_name(self, axis: int) -> str:
        dim = self._dataset.dims[axis]
        name = dim.label or (dim.keys()[0] if len(dim) else "")
        return name if isinstance(name, str) else ""

    def coordinates(self, axis: int) -> np.ndarray | None:
        dim = self._dataset.dims[axis]
        return np.asarray(dim[0][()]) if len(dim) else None

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _values(dataset: h5py.Dataset, region: tuple[Any, ...]) -> np.ndarray:
    try:
        return np.asarray(dataset[region])
    except OSError as error:
        raise SourceError(
            f"Reading {region} of '{dataset.name}' in '{dataset.file.filename}' failed: {error}. "
            "Check the file with h5dump, and that the plugins of its filters are installed."
        ) from error


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
    try:
        array = _values(dataset, region)
    except (IndexError, TypeError, ValueError) as error:
        raise TrialError(
            f"The region {region} does not fit '{dataset.name}' of shape {dataset.shape} in "
            f"'{dataset.file.filename}': {error}. Correct ingrid."
        ) from error
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
