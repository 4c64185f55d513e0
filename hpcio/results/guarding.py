"""The data of an open result: each read looks whether its sources are what they were."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Self, TypeVar

import h5py
import numpy as np

from hpcio.errors import ResultError, SourceError
from hpcio.files import (
    free_files,
    open_file,
    read_behind,
    read_table,
    room_for,
    where_hdf5_looks,
)
from hpcio.layout import Target

__all__ = ["PagedDataset", "ResultDataset", "Sources"]

SOURCES_PER_PAGE = 256

Rows = range | np.ndarray
T = TypeVar("T")


class Sources:
    """The sources of a result as they were when it was opened.

    HDF5 opens a source by its name when it is first read, and shows fill values if it cannot. So
    the names are looked at again after each read.

    Parameters
    ----------
    path : str
        The result.
    table : numpy.ndarray
        The dataset ``hpcio/sources``.
    target : Target
        Where the result of each block lies.
    of_block : numpy.ndarray of int, shape (B,)
        The source of each block; negative for a gap.
    """

    def __init__(self, path: str, table: np.ndarray, target: Target, of_block: np.ndarray) -> None:
        self.path, self.table, self.target, self.of_block = path, table, target, of_block
        self._result = os.stat(path)
        folder = os.path.dirname(path)
        self._paths = [os.path.join(folder, os.fsdecode(p)) for p in table["path"].tolist()]
        self._states: list[tuple[int, ...]] = []
        # Whether somebody has been told that they are not what they were.
        self.said = False

    @classmethod
    def of(cls, f: h5py.File) -> Self:
        """The sources of an open result."""
        target, table = Target.load(f["hpcio/target"]), read_table(f["hpcio/sources"])
        of_block = read_table(f["hpcio/source_of_block"])
        if (
            of_block.shape != target.start.shape
            or of_block.dtype.kind not in "iu"
            or of_block.max(initial=-1) >= len(table)
        ):
            raise ValueError("its table of sources does not fit its blocks")
        return cls(f.filename, table, target, of_block)

    def __len__(self) -> int:
        return len(self._paths)

    def look(self) -> None:
        """Remember the state of each source, which has just been checked.

        Raises
        ------
        ResultError
            If HDF5 would read other files of the same names, by ``HDF5_VDS_PREFIX``.
        """
        self._states = [_state(path) for path in self._paths]
        if not os.environ.get("HDF5_VDS_PREFIX"):
            return
        for path, state in zip(self._paths, self._states, strict=True):
            name = os.path.relpath(path, os.path.dirname(self.path))
            looked = where_hdf5_looks(self.path, name, "HDF5_VDS_PREFIX")
            first = next((p for p in looked if os.path.exists(p)), path)
            if _state(first) != state:
                raise ResultError(
                    f"HDF5_VDS_PREFIX makes HDF5 read '{first}' instead of the part '{path}'. "
                    "Unset that variable, and start Python again."
                )

    def at(self, rows: Rows, channels: Rows | None = None) -> np.ndarray:
        """The numbers of the sources that some rows along the axis of joining need.

        Parameters
        ----------
        rows, channels : range or numpy.ndarray of int, ascending
            Along that axis, and along the one of channels; by default all of these.
        """
        target = self.target
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

    def read(
        self, dataset: h5py.Dataset, numbers: Iterable[int], opened: set[str], read: Callable[[], T]
    ) -> T:
        """Read from some sources, and see that HDF5 has read them, and they are what they were.

        Parameters
        ----------
        dataset : h5py.Dataset
        numbers : iterable of int
        opened : set of str
            Those that the dataset is known to hold open; see `hpcio.files.read_behind`.
        read : callable
        """
        numbers = list(numbers)
        files = {self._paths[k]: partial(self._touch, dataset, k) for k in numbers}
        try:
            found = read_behind(read, files, opened, what=self.path)
        except SourceError as error:
            self.said = True
            raise ResultError(error.errno, error.args[-1]) from error
        self.check(numbers)
        return found

    def among(self, numbers: Iterable[int], paths: set[str]) -> int:
        """How many of some sources lie at some paths."""
        return sum(self._paths[k] in paths for k in numbers) if paths else 0

    def _touch(self, dataset: h5py.Dataset, k: int) -> None:
        """Have HDF5 read a value of a source."""
        target = self.target
        for block in np.flatnonzero(self.of_block == k).tolist():
            if math.prod(target.shape_of(block)):
                at = [0] * len(target.shape)
                at[target.axis] = int(target.start[block])
                if target.channel_axis is not None:
                    at[target.channel_axis] = int(target.channel[block])
                dataset[tuple(at)]
                return

    def check(self, numbers: Iterable[int] | None = None) -> None:
        """Raise ResultError unless sources are what they were; by default all of them."""
        try:
            for k in range(len(self._paths)) if numbers is None else numbers:
                self._check(k)
        except ResultError:
            self.said = True
            raise

    def _check(self, k: int) -> None:
        try:
            same = _state(self._paths[k]) == self._states[k]
        except OSError as error:
            raise ResultError(
                error.errno,
                f"The part '{self._paths[k]}' cannot be read ({error.strerror}) since "
                f"'{self.path}' was opened. Open the result again.",
            ) from error
        if not same:
            raise ResultError(
                f"The part '{self._paths[k]}' has changed since '{self.path}' was opened. "
                "Open the result again."
            )

    @contextmanager
    def reopened(self) -> Iterator[h5py.Dataset]:
        """The virtual dataset by a handle of its own, which holds its sources open no longer."""
        with open_file(self.path) as f:
            now = os.fstat(f.id.get_vfd_handle())
            if (now.st_dev, now.st_ino) != (self._result.st_dev, self._result.st_ino):
                self.said = True
                raise ResultError(
                    f"'{self.path}' has been replaced since it was opened. Open it again."
                )
            yield f["data"]


def _begin_of(starts: np.ndarray, place: int) -> int:
    """Where what lies at a place begins, of things that begin at ascending places."""
    return int(starts[max(0, int(np.searchsorted(starts, place, side="right")) - 1)])


def _state(path: str) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


class ResultDataset(h5py.Dataset):  # type: ignore[misc]  # h5py is untyped
    """The virtual dataset of a result: an `h5py.Dataset` that reads its sources, or raises.

    Parameters
    ----------
    dataset : h5py.Dataset
    sources : Sources
    """

    def __init__(self, dataset: h5py.Dataset, sources: Sources) -> None:
        super().__init__(dataset.id)
        self._sources = sources
        self._plain = dataset
        # HDF5 holds sources open that were read once, as long as this object lives.
        self._opened: set[str] = set()

    def __getitem__(self, args: Any, new_dtype: Any = None) -> Any:
        return self._read(
            self._needed(args), lambda: super(ResultDataset, self).__getitem__(args, new_dtype)
        )

    def _read(self, numbers: set[int], read: Callable[[], T]) -> T:
        self._check_room_for(numbers)
        return self._sources.read(self._plain, numbers, self._opened, read)

    def read_direct(self, dest: Any, source_sel: Any = None, dest_sel: Any = None) -> None:
        """Read into an array; see `h5py.Dataset.read_direct`."""
        everything = set(range(len(self._sources)))
        self._read(
            everything,
            lambda: super(ResultDataset, self).read_direct(dest, source_sel, dest_sel),
        )

    def _check_room_for(self, numbers: set[int]) -> None:
        """Raise ResultError if HDF5 could not open all sources, and would show fill values."""
        new = len(numbers) - self._sources.among(numbers, self._opened)
        if new and not room_for(new):
            raise ResultError(
                f"Too many files are open to read {new} parts of '{self._sources.path}'. Close "
                "some, or open the result again: it will be read by pages."
            )

    def _needed(self, args: Any) -> set[int]:
        """The numbers of the sources that an index needs; all of them if in doubt."""
        try:
            target, parts = self._sources.target, _expand(args, self.ndim)
            axes = target.axis, target.channel_axis
            found = [None if k is None else _rows(parts[k], self.shape[k]) for k in axes]
        except (TypeError, ValueError, IndexError):
            return set(range(len(self._sources)))
        rows, channels = (range(w, w + 1) if isinstance(w, int) else w for w in found)
        return set() if rows is None else set(self._sources.at(rows, channels).tolist())


class PagedDataset:
    """A virtual dataset of more sources than may be open at once.

    It is indexed as an `h5py.Dataset` is (slices, ints, sorted lists, masks, along any axis), and
    reads some hundred sources at a time.

    Parameters
    ----------
    sources : Sources
    """

    def __init__(self, sources: Sources) -> None:
        target = sources.target
        self._sources = sources
        with sources.reopened() as data:
            self.attrs = dict(data.attrs)
        self.shape = target.shape
        self.dtype = target.dtype
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self._join_axis = target.axis
        self._per_page = SOURCES_PER_PAGE
        self._edges = self._edges_of_pages(self._per_page)

    def _edges_of_pages(self, most: int) -> dict[int, np.ndarray]:
        """Where pages begin along the axes; a page needs no more sources than `most`."""
        target, source = self._sources.target, self._sources.of_block
        channels = np.unique(target.channel)
        if channels.size <= most // 4:
            changed = np.flatnonzero(np.diff(source, prepend=source[:1] - 1))
            first = target.start[changed[:: max(1, most // 2)]]
            return {target.axis: np.unique(first)[1:]}
        # One trial alone may have too many.
        side = math.isqrt(most)
        assert target.channel_axis is not None  # there are blocks of channels
        return {
            target.axis: np.unique(target.start[:: side * channels.size])[1:],
            target.channel_axis: channels[::side][1:],
        }

    def _fit_into_room(self) -> None:
        """Make pages smaller if too many files are open for pages of the usual size."""
        most = SOURCES_PER_PAGE if room_for(SOURCES_PER_PAGE) else free_files() // 2
        if most < 4:
            raise ResultError(
                f"Too many files are open to read '{self._sources.path}', which has "
                f"{len(self._sources)} parts. Close some."
            )
        if most < self._per_page:
            self._per_page, self._edges = most, self._edges_of_pages(most)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        array: np.ndarray = self[...]
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        return f'<paged HDF5 dataset "data": shape {self.shape}, type "{self.dtype.str}">'

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, np.ndarray) and key.dtype == bool and key.ndim > 1:
            return self._masked(key)
        parts = _expand(key, self.ndim)
        wanted = [_rows(part, n) for part, n in zip(parts, self.shape, strict=True)]
        if sum(isinstance(rows, np.ndarray) for rows in wanted) > 1:
            raise TypeError("Only one indexing vector or array is allowed for fancy indexing")
        rows_of = [range(w, w + 1) if isinstance(w, int) else w for w in wanted]
        whole = np.empty(tuple(len(rows) for rows in rows_of), self.dtype)
        if whole.size:
            self._fit_into_room()
            pages = (self._pages(axis, rows) for axis, rows in enumerate(rows_of))
            for page in itertools.product(*pages):
                # The file is closed again each time, since that closes its sources.
                index = tuple(_compact(rows) for _, rows in page)
                with self._sources.reopened() as data:
                    whole[tuple(place for place, _ in page)] = self._sources.read(
                        data, self._of_page(page), set(),
                        partial(data.__getitem__, index),
                    )  # fmt: skip
        return whole[tuple(0 if isinstance(w, int) else slice(None) for w in wanted)]

    def _of_page(self, page: Sequence[tuple[slice, Rows]]) -> list[int]:
        """The sources that a page needs."""
        along = self._sources.target.channel_axis
        channels = None if along is None else page[along][1]
        numbers: list[int] = self._sources.at(page[self._join_axis][1], channels).tolist()
        return numbers

    def _masked(self, mask: np.ndarray) -> np.ndarray:
        """The elements that a mask of the whole dataset selects, one after the other."""
        if mask.shape != self.shape:
            raise TypeError("Boolean indexing array has incompatible shape")
        others = tuple(k for k in range(self.ndim) if k != self._join_axis)
        some: list[Any] = [slice(None)] * self.ndim
        some[self._join_axis] = np.flatnonzero(mask.any(axis=others))
        found: np.ndarray = self[tuple(some)][mask[tuple(some)]]
        return found

    def _pages(self, axis: int, rows: Rows) -> Iterator[tuple[slice, Rows]]:
        """Cut rows along an axis into pages: the places of each among the rows, and its rows."""
        edges = self._edges.get(axis, np.zeros(0, np.int64))
        edges = edges[(edges > rows[0]) & (edges <= rows[-1])]
        places = np.concatenate([[0], _places(rows, edges), [len(rows)]]).tolist()
        for first, last in itertools.pairwise(places):
            if last > first:
                yield slice(first, last), rows[first:last]


def _expand(key: Any, ndim: int) -> list[Any]:
    """An index with one part for each axis."""
    parts = list(key) if isinstance(key, tuple) else [key]
    dots = [k for k, part in enumerate(parts) if part is Ellipsis]
    missing = ndim - len(parts) + len(dots)
    if len(dots) > 1 or missing < 0:
        raise ValueError(f"{len(parts) - len(dots)} indices for {ndim} axes. Use one for each.")
    at = dots[0] if dots else len(parts)
    parts[at : at + len(dots)] = [slice(None)] * missing
    return parts


def _rows(part: Any, length: int) -> Rows | int:
    """The rows that one part of an index takes, by the rules of h5py."""
    if isinstance(part, slice):
        rows = range(*part.indices(length))
        if rows.step < 1:
            raise ValueError(f"Step must be >= 1 (got {rows.step})")
        return rows
    array = np.asarray(part)
    if array.dtype == bool and array.ndim == 1:
        if array.size != length:
            raise TypeError("Boolean indexing array has incompatible shape")
        return np.flatnonzero(array)
    if array.shape == (0,):
        return range(0)
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise TypeError(f"Selection can't process {part!r}")
    if array.min() < -length or array.max() >= length:
        raise IndexError(f"Index out of range for (0-{length - 1})")
    array = np.where(array < 0, array + length, array).astype(np.int64)
    if array.ndim == 0:
        return int(array)
    if (np.diff(array) <= 0).any():
        raise TypeError("Indexing elements must be in increasing order")
    return array


def _places(rows: Rows, edges: np.ndarray) -> np.ndarray:
    """How many of the rows come before each edge."""
    if isinstance(rows, range):
        return -((rows.start - edges) // rows.step)
    return np.searchsorted(rows, edges)


def _compact(rows: Rows) -> slice | np.ndarray:
    """Rows as a slice if they are evenly spaced: HDF5 reads those much faster."""
    if isinstance(rows, range):
        return slice(rows.start, rows.stop, rows.step)
    steps = np.unique(np.diff(rows))
    if steps.size > 1:
        return np.asarray(rows)
    step = int(steps[0]) if steps.size else 1
    return slice(int(rows[0]), int(rows[-1]) + 1, step)
