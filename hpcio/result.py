"""Opening a result, and refusing to read what is not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcio.errors import ResultError
from hpcio.sources import locking, open_file, room_for
from hpcio.target import Target
from hpcio.writers.virtual import check_sources

__all__ = ["PagedDataset", "ResultFile", "open"]

SOURCES_PER_PAGE = 256


class ResultFile(h5py.File):  # type: ignore[misc]  # h5py is untyped
    """A result, open for reading: an `h5py.File` whose ``data`` tells the truth.

    Made by :func:`open`. If the result has more sources than this process may hold open,
    ``f["data"]`` is a :class:`PagedDataset`, which reads some sources at a time.
    """

    def __init__(self, path: Path, *, paged: bool) -> None:
        super().__init__(path, "r", locking=locking(path))
        self._paged = paged

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
    if sources is None:
        return ResultFile(name, paged=False)
    check_sources(name.parent, sources)
    return ResultFile(name, paged=not room_for(len(sources)))


class PagedDataset:
    """A virtual dataset of more sources than may be open at once.

    It reads as an `h5py.Dataset` does (slices, ints, sorted lists, masks, along any axis),
    some hundred sources at a time.

    Parameters
    ----------
    path : str
        The result.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with open_file(path) as f:
            self._target = Target.load(f["hpcio/target"])
            source = f["hpcio/source_of_block"][()]
            self.attrs = dict(f["data"].attrs)
        self.shape = self._target.shape
        self.dtype = self._target.dtype
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape, dtype=np.int64))
        # Pages: rows of the join axis that need no more than so many sources.
        changed = np.flatnonzero(np.diff(source, prepend=source[:1] - 1))
        first = changed[:: SOURCES_PER_PAGE // 2]
        starts = np.unique(np.concatenate([[0], self._target.start[first]]))
        self._edges = np.append(starts, self.shape[self._target.axis]).astype(np.int64)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        array: np.ndarray = self[...]
        return array if dtype is None else array.astype(dtype)

    def __repr__(self) -> str:
        return f'<paged HDF5 dataset "data": shape {self.shape}, type "{self.dtype.str}">'

    def __getitem__(self, key: Any) -> Any:
        parts = _expand(key, self.ndim)
        axis = self._target.axis
        rows = parts[axis]
        length = self.shape[axis]
        if isinstance(rows, int | np.integer):
            wanted = np.asarray([range(length)[rows]])
        elif isinstance(rows, slice):
            wanted = np.arange(length)[rows]
        else:
            wanted = np.asarray(rows)
            if wanted.dtype == bool:
                wanted = np.flatnonzero(wanted)
        pages = np.searchsorted(self._edges, wanted, side="right") - 1
        if wanted.size and (np.diff(wanted) <= 0).any():
            raise TypeError("Indexing elements must be in increasing order")
        pieces = []
        for page in np.unique(pages).tolist() or [0]:
            some = wanted[pages == page]
            parts[axis] = _compact(some)
            with open_file(self._path) as f:  # closed again: this is what frees its sources
                pieces.append(f["data"][tuple(parts)])
        dropped = sum(isinstance(p, int | np.integer) for p in parts[:axis])
        whole = np.concatenate(pieces, axis=axis - dropped)
        if isinstance(rows, int | np.integer):
            whole = whole.reshape(
                tuple(n for k, n in enumerate(whole.shape) if k != axis - dropped)
            )
            return whole[()]
        return whole


def _expand(key: Any, ndim: int) -> list[Any]:
    """An index with one part for each axis."""
    parts = list(key) if isinstance(key, tuple) else [key]
    dots = [k for k, part in enumerate(parts) if part is Ellipsis]
    missing = ndim - len(parts) + len(dots)
    if len(dots) > 1 or missing < 0:
        raise IndexError(f"{len(parts) - len(dots)} indices for {ndim} axes. Use one for each.")
    at = dots[0] if dots else len(parts)
    parts[at : at + len(dots)] = [slice(None)] * missing
    return parts


def _compact(rows: np.ndarray) -> slice | np.ndarray:
    """Rows as a slice if they are evenly spaced: HDF5 reads those much faster."""
    if not rows.size:
        return slice(0, 0)
    steps = np.unique(np.diff(rows))
    if steps.size > 1:
        return rows
    step = int(steps[0]) if steps.size else 1
    return slice(int(rows[0]), int(rows[-1]) + 1, step)
