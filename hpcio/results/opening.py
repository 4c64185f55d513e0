"""Opening a result, and refusing to read what is not there."""

from __future__ import annotations

import itertools
import math
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcio.errors import ResultError
from hpcio.files import load_filters, locking, open_file, room_for
from hpcio.layout import Target
from hpcio.writers import check_sources

__all__ = ["PagedDataset", "ResultFile", "open"]

SOURCES_PER_PAGE = 256

Rows = range | np.ndarray

# Results that are open. As soon as one is read, it holds its sources open too.
_results: list[weakref.ref[ResultFile]] = []


class ResultFile(h5py.File):  # type: ignore[misc]  # h5py is untyped
    """A result, open for reading: an `h5py.File` whose ``data`` tells the truth.

    Made by :func:`open`. If the result has more sources than this process may hold open,
    ``f["data"]`` is a :class:`PagedDataset`, which reads some sources at a time.
    """

    def __init__(self, path: Path, *, sources: int) -> None:
        super().__init__(path, "r", locking=locking(path))
        _results[:] = [r for r in _results if (f := r()) is not None and f.id.valid]
        others = sum(f._sources for r in _results if (f := r()) is not None)
        self._paged = sources > 0 and not room_for(sources + others)
        self._sources: int = 0 if self._paged else sources
        _results.append(weakref.ref(self))

    @property
    def virtual(self) -> h5py.Dataset:
        """The dataset ``data`` as HDF5 holds it: for its labels and scales, not its values."""
        return super().__getitem__("data")

    def __getitem__(self, name: Any) -> Any:
        if self._paged and isinstance(name, str) and name.strip("/") == "data":
            return PagedDataset(self.filename)
        return super().__getitem__(name)


def open(path: str | os.PathLike[str]) -> ResultFile:  # the module is used as hpcio.open
    """Open a result for reading, after a check that all of its sources are there.

    Plain HDF5 fills the place of a source that is missing, or that it may not open, with
    zeros and says nothing. This function raises instead.

    Parameters
    ----------
    path : str or path
        A result of :meth:`hpcio.Plan.run` or :func:`hpcio.repack`.

    Returns
    -------
    ResultFile
        An `h5py.File`, mode ``"r"``; ``f["data"]`` is the result, ``f["trials"]`` the table
        of its trials.

    Raises
    ------
    ResultError
        If the file is no result, or a source is missing, short, or another's.
    SourceError
        If the file cannot be read at all.
    MissingPackageError
        If it is compressed by a filter that is not installed here.

    Examples
    --------
    >>> import h5py, numpy as np, os, tempfile, hpcio
    >>> folder = tempfile.TemporaryDirectory()
    >>> rec, out = os.path.join(folder.name, "rec.h5"), os.path.join(folder.name, "out.h5")
    >>> with h5py.File(rec, "w") as f:
    ...     f["lfp"] = np.ones((100, 4))
    >>> plan = hpcio.Plan.create(np.negative, f"{rec}::/lfp", trials=25, out=out)
    >>> done = plan.run(workers=0, progress=False)
    >>> with hpcio.open(out) as f:
    ...     f["data"].shape
    (100, 4)
    >>> folder.cleanup()
    """
    # Sources are named relative to the file itself, not to a link that leads to it.
    name = Path(os.path.realpath(os.path.expanduser(os.fspath(path))))
    with open_file(name) as f:
        if "hpcio" not in f or "data" not in f:
            raise ResultError(f"'{name}' is no result of hpcio. Open it with h5py.")
        sources = f["hpcio/sources"][()] if "hpcio/sources" in f else None
        load_filters(bytes(f["hpcio"].attrs.get("compression", b"")).decode(), name)
    if sources is None:
        return ResultFile(name, sources=0)
    check_sources(name.parent, sources)
    return ResultFile(name, sources=len(sources))


class PagedDataset:
    """A virtual dataset of more sources than may be open at once.

    It is indexed as an `h5py.Dataset` is (slices, ints, sorted lists, masks, along any axis), and
    reads some hundred sources at a time.

    Parameters
    ----------
    path : str
        The result.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with open_file(path) as f:
            target = Target.load(f["hpcio/target"])
            source = f["hpcio/source_of_block"][()]
            self.attrs = dict(f["data"].attrs)
        self.shape = target.shape
        self.dtype = target.dtype
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self._join_axis = target.axis
        # A page is a region that needs no more sources than `SOURCES_PER_PAGE`.
        channels = np.unique(target.channel)
        if channels.size <= SOURCES_PER_PAGE // 4:
            changed = np.flatnonzero(np.diff(source, prepend=source[:1] - 1))
            first = target.start[changed[:: SOURCES_PER_PAGE // 2]]
            self._edges = {target.axis: np.unique(first)[1:]}
        else:  # one trial alone may have too many
            side = math.isqrt(SOURCES_PER_PAGE)
            self._edges = {target.axis: np.unique(target.start[:: side * channels.size])[1:]}
            assert target.channel_axis is not None  # there are blocks of channels
            self._edges[target.channel_axis] = channels[::side][1:]

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
            pages = (self._pages(axis, rows) for axis, rows in enumerate(rows_of))
            for page in itertools.product(*pages):
                # The file is closed again each time, since that closes its sources.
                with open_file(self._path) as f:
                    whole[tuple(place for place, _ in page)] = f["data"][
                        tuple(_compact(rows) for _, rows in page)
                    ]
        return whole[tuple(0 if isinstance(w, int) else slice(None) for w in wanted)]

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
