"""The data of an open result: each read looks whether its sources are what they were."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Self

import h5py
import numpy as np
from h5py._objects import phil

from hpcio.errors import ResultError, SourceError
from hpcio.files import Rows, VirtualReader, entries_of, read_table, where_hdf5_finds
from hpcio.layout import Target

__all__ = ["ResultDataset", "Sources"]


class Sources:
    """The sources of a result as they were when it was opened.

    A source is opened by its name when it is first read. So the names are looked at again after
    each read.

    Parameters
    ----------
    path : str
        The result.
    table : numpy.ndarray
        The dataset ``hpcio/sources``.
    of_block : numpy.ndarray of int, shape (B,)
        The source of each block; negative for a gap.
    """

    def __init__(self, path: str, table: np.ndarray, of_block: np.ndarray) -> None:
        self.path, self.table, self.of_block = path, table, of_block
        self._result = os.stat(path)
        folder = os.path.dirname(path)
        self.paths = [os.path.join(folder, os.fsdecode(p)) for p in table["path"].tolist()]
        self._states: list[tuple[int, ...]] = []
        # Whether somebody has been told that they are not what they were.
        self.said = False

    @classmethod
    def of(cls, f: h5py.File) -> Self:
        """The sources of an open result."""
        table, of_block = read_table(f["hpcio/sources"]), read_table(f["hpcio/source_of_block"])
        if (
            of_block.shape != f["hpcio/state"].shape
            or of_block.dtype.kind not in "iu"
            or of_block.max(initial=-1) >= len(table)
        ):
            raise ValueError("its table of sources does not fit its blocks")
        return cls(f.filename, table, of_block)

    def __len__(self) -> int:
        return len(self.paths)

    def look(self) -> None:
        """Remember the state of each source, which has just been checked.

        Raises
        ------
        ResultError
            If HDF5 would read other files of the same names, by ``HDF5_VDS_PREFIX``.
        """
        self._states = [_state(path) for path in self.paths]
        if not os.environ.get("HDF5_VDS_PREFIX"):
            return
        for path, state in zip(self.paths, self._states, strict=True):
            name = os.path.relpath(path, os.path.dirname(self.path))
            _, first = where_hdf5_finds(self.path, name, "HDF5_VDS_PREFIX")
            if _state(first) != state:
                raise ResultError(
                    f"HDF5_VDS_PREFIX makes HDF5 read '{first}' instead of the part '{path}'. "
                    "Unset that variable, and start Python again."
                )

    def at(self, target: Target, rows: Rows, channels: Rows | None = None) -> np.ndarray:
        """The numbers of the sources that some rows along the axis of joining need.

        Parameters
        ----------
        target : Target
            Of the dataset that they are read for.
        rows, channels : range or numpy.ndarray of int, ascending
            Along that axis, and along the one of channels; by default all of these.
        """
        if not len(rows):
            return np.zeros(0, np.int64)
        begins = _begin_of(target.start, rows[0])
        first, last = np.searchsorted(target.start, [begins, rows[-1] + 1])
        numbers = self.of_block[first:last]
        if channels is not None and target.channel_axis is not None and len(channels):
            places = target.channel[first:last]
            begins = _begin_of(np.unique(places), channels[0])
            numbers = numbers[(places >= begins) & (places <= channels[-1])]
        numbers = np.unique(numbers)
        return numbers[numbers >= 0]

    def check(self, numbers: Iterable[int] | None = None) -> None:
        """Raise ResultError unless sources are what they were; by default all of them."""
        try:
            for k in range(len(self.paths)) if numbers is None else numbers:
                self._check(k)
        except ResultError:
            self.said = True
            raise

    def _check(self, k: int) -> None:
        try:
            same = _state(self.paths[k]) == self._states[k]
        except OSError as error:
            raise ResultError(
                error.errno,
                f"The part '{self.paths[k]}' cannot be read ({error.strerror}) since "
                f"'{self.path}' was opened. Open the result again.",
            ) from error
        if not same:
            raise ResultError(
                f"The part '{self.paths[k]}' has changed since '{self.path}' was opened. "
                "Open the result again."
            )


def _begin_of(starts: np.ndarray, place: int) -> int:
    """Where what lies at a place begins, of things that begin at ascending places."""
    return int(starts[max(0, int(np.searchsorted(starts, place, side="right")) - 1)])


def _state(path: str) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class ResultDataset(h5py.Dataset):  # type: ignore[misc]  # h5py is untyped
    """The virtual dataset of a result: an `h5py.Dataset` that reads its sources, or raises.

    It is indexed as an `h5py.Dataset` is (slices, ints, sorted lists, masks, along any axis), also
    with masks that HDF5 refuses for virtual ones.

    Parameters
    ----------
    dataset : h5py.Dataset
    sources : Sources
    target : Target
        Where the result of each block lies in it.
    """

    def __init__(self, dataset: h5py.Dataset, sources: Sources, target: Target) -> None:
        super().__init__(dataset.id)
        self._target = target
        self._sources, self._reader = sources, VirtualReader(dataset, known=sources.paths)

    def __getitem__(self, args: Any, new_dtype: Any = None) -> Any:
        dtype = None if new_dtype is None else np.dtype(new_dtype)
        if isinstance(args, tuple) and len(args) == 1:
            (args,) = args
        with phil:
            if isinstance(args, np.ndarray) and args.dtype == bool and args.ndim > 1:
                return self._masked(args, dtype)
            wanted, index = entries_of(args, self._shape())
            return self._read(wanted, dtype=dtype)[index]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        if copy is False:
            raise ValueError("The data of a result cannot be an array without a copy.")
        found: np.ndarray = self.__getitem__((), dtype)
        return found

    def read_direct(self, dest: np.ndarray, source_sel: Any = None, dest_sel: Any = None) -> None:
        """Read into an array; see `h5py.Dataset.read_direct`."""
        with phil:
            wanted, index = entries_of(() if source_sel is None else source_sel, self._shape())
            if dest_sel is None and not index and dest.shape == tuple(map(len, wanted)):
                self._read(wanted, dtype=dest.dtype, out=dest)
                return
            values = self._read(wanted, dtype=dest.dtype)[index]
            try:
                dest[() if dest_sel is None else dest_sel] = values
            except ValueError as error:
                raise TypeError(f"{values.shape} does not fit there: {error}") from error

    def close_sources(self) -> None:
        """Close the sources that are open."""
        self._reader.close()

    def _shape(self) -> tuple[int, ...]:
        if not self:
            raise ValueError(f"'{self._sources.path}' is closed. Open it again.")
        shape: tuple[int, ...] = self.shape
        return shape

    def _read(self, wanted: Sequence[Rows], **options: Any) -> np.ndarray:
        sources, target = self._sources, self._target
        try:
            found = self._reader.read(wanted, **options)
        except SourceError as error:
            sources.said = True
            raise ResultError(
                *error.args[:-1], f"The data of '{sources.path}' cannot be read. {error.args[-1]}"
            ) from error
        if found.size:
            channels = None if target.channel_axis is None else wanted[target.channel_axis]
            sources.check(sources.at(target, wanted[target.axis], channels).tolist())
        return found

    def _masked(self, mask: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
        """The elements that a mask of the whole dataset selects, one after the other."""
        if mask.shape != self._shape():
            raise TypeError("Boolean indexing array has incompatible shape")
        axis = self._target.axis
        some: list[Any] = [slice(None)] * self.ndim
        some[axis] = np.flatnonzero(mask.any(axis=tuple(k for k in range(self.ndim) if k != axis)))
        found: np.ndarray = self.__getitem__(tuple(some), dtype)[mask[tuple(some)]]
        return found
