"""Where the bytes of a result lie in files, for those who copy or compare them without HDF5.

HDF5 lets one thread in at a time, and is slow with a virtual dataset of many sources. But it is
known where results lie: in each source they lie as in the one dataset, in runs of bytes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np

from hpcio.errors import ResultError
from hpcio.files import fill_of, open_file, plain_offset, read_at, read_table
from hpcio.layout import Target
from hpcio.results.opening import ResultFile, of_trials_in

__all__ = [
    "PIECE",
    "SPAN",
    "Extents",
    "OpenSource",
    "copying_threads",
    "in_threads",
    "pieces",
]

# How many bytes are read and written at a time; so many stay in the cache of a core.
PIECE = 1 << 20
# How many bytes a thread is given at a time.
SPAN = 16 << 20

T = TypeVar("T")


def copying_threads() -> int:
    """How many threads copy or compare; more would wait for each other, and for the disk."""
    return min(4, len(os.sched_getaffinity(0)))


def in_threads(func: Callable[[T], object], jobs: Iterable[T], *, threads: int) -> None:
    """Call a function for each job; the first that fails, in the order of jobs, raises."""
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="hpcio")
    try:
        for future in [pool.submit(func, job) for job in jobs]:
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def pieces(first: int, last: int, step: int) -> list[tuple[int, int]]:
    """Cut ``[first, last)`` at the multiples of `step`."""
    edges = [first, *range((first // step + 1) * step, last, step), last]
    return [(a, b) for a, b in itertools.pairwise(edges) if a < b]


@dataclass(frozen=True, eq=False)
class Extents:
    """Runs of bytes of the dataset, and where they are stored; gaps lie between them.

    Attributes
    ----------
    paths : tuple of str
        The files.
    file : numpy.ndarray of int, shape (n,)
        Index into `paths` for each run.
    offset : numpy.ndarray of int64, shape (n,)
        Its first byte in the file.
    start, stop : numpy.ndarray of int64, shape (n,)
        Its bytes ``[start, stop)`` in the dataset, ascending.
    dtype : numpy.dtype
    """

    paths: tuple[str, ...]
    file: np.ndarray
    offset: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    dtype: np.dtype

    @classmethod
    def of(cls, f: ResultFile, target: Target, name: str = "data") -> Self | None:
        """The extents of a dataset of a result; None if only HDF5 can read its bytes."""
        if not target.nbytes:
            return None
        data = f.plain(name)
        if not data.is_virtual:
            offset = plain_offset(data, f.filename)
            if offset is None:
                return None
            one = np.zeros(1, np.int64)
            return cls((f.filename,), one, one + offset, one, one + target.nbytes, target.dtype)
        if not target.in_rows or "compression" in f["hpcio"].attrs:
            return None
        try:
            return cls._of_virtual(f, name, target)
        except UnicodeDecodeError:  # h5py has no names of sources but those in UTF-8
            return None

    @classmethod
    def _of_virtual(cls, f: ResultFile, name: str, target: Target) -> Self:
        folder = os.path.dirname(os.path.realpath(f.filename))
        table = read_table(f["hpcio/sources"])
        number = {os.fsdecode(path): k for k, path in enumerate(table["path"].tolist())}
        row, itemsize = target.nbytes // target.shape[0], target.dtype.itemsize
        dcpl = f.plain(name).id.get_create_plist()
        count = dcpl.get_virtual_count()
        file, offset, start, stop = (np.zeros(count, np.int64) for _ in range(4))
        for k in range(count):
            file[k] = number[dcpl.get_virtual_filename(k).replace("%%", "%")]
            first, last = dcpl.get_virtual_vspace(k).get_select_bounds()
            start[k], stop[k] = first[0] * row, (last[0] + 1) * row
            inside = dcpl.get_virtual_srcspace(k)
            # All of a source, or a part of one that has one axis.
            begin = inside.get_select_bounds()[0][0] if inside.get_simple_extent_ndims() else 0
            offset[k] = begin * itemsize
        offset += _begins(f, name, table, number)[file]
        order = np.argsort(start, kind="stable")
        paths = tuple(os.path.join(folder, os.fsdecode(path)) for path in table["path"].tolist())
        return cls(paths, file[order], offset[order], start[order], stop[order], target.dtype)

    def read(self, array: np.ndarray, first: int, source: OpenSource) -> None:
        """Fill an array of one axis with the bytes of the dataset from `first` on.

        Gaps become NaN, or zero for integers.

        Raises
        ------
        ResultError
            If a file cannot be read, or has become shorter.
        """
        itemsize = self.dtype.itemsize
        at, last = first, first + array.nbytes
        k = int(np.searchsorted(self.stop, first, side="right"))
        while at < last:
            gap = int(min(self.start[k], last)) if k < self.start.size else last
            if at < gap:
                array[(at - first) // itemsize : (gap - first) // itemsize] = fill_of(self.dtype)
                at = gap
                continue
            end = int(min(self.stop[k], last))
            part = array[(at - first) // itemsize : (end - first) // itemsize]
            source.read(self.paths[self.file[k]], part, int(self.offset[k] + at - self.start[k]))
            at = end
            k += 1


def _begins(f: ResultFile, name: str, table: np.ndarray, number: Mapping[str, int]) -> np.ndarray:
    """Where a dataset begins in each source, in bytes; those of several results lie back to back.

    A source that has room for more blocks than the result takes from it is asked itself.
    """
    begins = table["header"].astype(np.int64)
    if len(f.results) == 1:
        return begins
    of_block = read_table(f["hpcio/source_of_block"])
    done = of_block >= 0
    alias = np.asarray([number[os.fsdecode(path)] for path in table["path"].tolist()], np.int64)
    file, nbytes = alias[of_block[done]], np.zeros(len(table), np.int64)
    for result, target in of_trials_in(f).items():
        if result == name:
            begins += nbytes
        np.add.at(nbytes, file, target.sizes()[done])
    folder = os.path.dirname(os.path.realpath(f.filename))
    for k in np.intersect1d(file, np.flatnonzero(nbytes != table["size"] - table["header"])):
        with open_file(os.path.join(folder, os.fsdecode(table["path"][k]))) as source:
            begins[k] = source[name].id.get_offset() or 0
    return begins


class OpenSource:
    """The file that was read last, kept open for the next read; for one thread."""

    def __init__(self) -> None:
        self._path, self._fd = "", -1

    def read(self, path: str, array: np.ndarray, offset: int) -> None:
        """Fill `array` from byte `offset` of a file."""
        try:
            if path != self._path:
                self.close()
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                self._path = path
            whole = read_at(self._fd, array, offset)
        except OSError as error:
            raise ResultError(
                error.errno,
                f"Reading '{path}' failed ({error.strerror}). Check its disk, or restore it from "
                "a backup.",
            ) from error
        if not whole:
            raise ResultError(f"'{path}' has become shorter meanwhile. Restore it from a backup.")

    def close(self) -> None:
        """Let go of it."""
        if self._fd >= 0:
            os.close(self._fd)
        self._path, self._fd = "", -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
