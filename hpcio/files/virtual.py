"""Values of a virtual dataset, read mapping by mapping from the files in which they lie.

HDF5 itself opens those files by the way, and shows fill values, without a word, where it cannot
open one of them, or a dataset in it, be it for a moment. Whoever opens them himself gets an error.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import resource
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import h5py
import numpy as np
from h5py._objects import phil  # the lock of h5py: one of our own would be taken in another order

from hpcio.errors import SourceError
from hpcio.files.behind import check_readable
from hpcio.files.indexing import Rows
from hpcio.files.mappings import Irregular, Mapping, Way, mappings_of
from hpcio.files.opening import (
    MOST_SOURCES,
    find_dataset,
    open_file,
    read_values,
    reading,
    room_for,
)

__all__ = ["VirtualReader"]

# So many files are held open, those that were used last, if the limit of the process allows it.
_MOST_OPEN = MOST_SOURCES
# Descriptors that are left to others.
_SPARE = 32
# What is read with what lies between is read in parts of so many values.
_SPAN = 1 << 22
# Entries between which there are no more values than this are read with those between them.
_GAP = 1 << 15
# How often values are read, at the most, until two reads agree.
_TRIES = 5


class VirtualReader:
    """Reads a virtual dataset from the files behind it, which it opens, and holds open.

    Parameters
    ----------
    dataset : h5py.Dataset
        Virtual. It may be closed when this has been made.
    known : collection of str, optional
        The paths of all files behind it: no other is read, even if HDF5 would.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    """

    def __init__(
        self,
        dataset: h5py.Dataset,
        *,
        known: Sequence[str] | None = None,
        files: _Files | None = None,
    ) -> None:
        self._files = files or _Files(known)
        self.shape: tuple[int, ...] = dataset.shape
        # Without the names of an enumerated type.
        self.dtype = dataset.dtype if dataset.dtype.names else np.dtype(dataset.dtype.str)
        self._fill = np.zeros((), self.dtype)
        with contextlib.suppress(RuntimeError):  # it may be undefined
            self._fill[()] = dataset.fillvalue
        self._main, self._name = dataset.file.filename, dataset.name
        self._dcpl = dataset.id.get_create_plist()
        self._ways: dict[int, Way] = {}

    @cached_property
    def _mappings(self) -> list[Mapping]:
        with reading(self._main):
            return list(mappings_of(self._dcpl, self._main, self.shape))

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each mapping, the first and the last place along each axis; shape (M, N)."""
        if any(mapping.onto is None for mapping in self._mappings):
            raise Irregular
        made = [[along.bounds for along in mapping.onto or ()] for mapping in self._mappings]
        bounds = np.asarray(made, np.int64).reshape(-1, len(self.shape), 2)
        return bounds[..., 0], bounds[..., 1]

    def read(
        self,
        wanted: Sequence[Rows],
        *,
        dtype: np.dtype | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Values of some entries of each axis.

        Parameters
        ----------
        wanted : sequence of range or numpy.ndarray of int
            For each axis, ascending.
        dtype : numpy.dtype, optional
            What HDF5 converts the values to.
        out : numpy.ndarray, optional
            To be filled; by default a new one.

        Returns
        -------
        numpy.ndarray, shape (len(wanted[0]), ...)

        Raises
        ------
        SourceError
            If a file cannot be opened, or is not what it must be.
        OSError
            If HDF5 cannot read values of it.
        """
        dtype = self.dtype if dtype is None else dtype
        with phil:
            try:
                return self._read(wanted, dtype, out)
            except Irregular:
                found = self._agreed(wanted, dtype)
        if out is None:
            return found
        out[...] = found
        return out

    def _read(self, wanted: Sequence[Rows], dtype: np.dtype, out: np.ndarray | None) -> np.ndarray:
        shape = tuple(map(len, wanted))
        parts = self._parts(wanted) if math.prod(shape) else []
        if out is None and len(parts) == 1 and parts[0].shape == shape:
            return self._values(parts[0], dtype)
        if out is None:
            out = np.zeros(shape, dtype)
        if sum(math.prod(part.shape) for part in parts) != out.size:
            out[...] = _converted(self._fill, dtype)  # no mapping leads to some
        for part in parts:
            out[_index(part.places)] = self._values(part, dtype)
        return out

    def _parts(self, wanted: Sequence[Rows]) -> list[_Part]:
        low, high = self._bounds
        first, last = ([rows[at] for rows in wanted] for at in (0, -1))
        meet = ((low <= last) & (high >= first)).all(axis=1)
        found = (self._part(k, wanted) for k in np.flatnonzero(meet).tolist())
        return [part for part in found if part is not None]

    def _part(self, k: int, wanted: Sequence[Rows]) -> _Part | None:
        """What is wanted of a mapping, unless it is nothing."""
        places, numbers = [], []
        for along, rows in zip(self._mappings[k].onto or (), wanted, strict=True):
            here, which = along.find(rows)
            if not len(here):
                return None
            places.append(here)
            numbers.append(which)
        return _Part(k, places, numbers)

    def _values(self, part: _Part, dtype: np.dtype) -> np.ndarray:
        """The values of a part, in its shape."""
        mapping = self._mappings[part.mapping]
        source = self._files.source(mapping.path, mapping.name)
        way = self._ways.get(part.mapping)
        if way is None:
            way = self._ways[part.mapping] = Way.of(mapping, source.shape)

        def read(numbers: Sequence[Rows]) -> np.ndarray:
            """Entries along those axes of the source along which more than one is taken."""
            given = iter(numbers)
            rows = [along.entries(next(given) if along.n > 1 else range(1)) for along in way.taken]
            values = _select(source, rows, dtype)
            if values.size != math.prod(map(len, rows)):
                raise SourceError(
                    f"'{mapping.path}' has been changed while it was read. Try again."
                )
            return values

        if way.is_flat:
            return _of_box(read, 0, way.sizes, part.numbers, dtype)
        return read([part.numbers[axis] for axis in way.long]).reshape(part.shape)

    def _agreed(self, wanted: Sequence[Rows], dtype: np.dtype) -> np.ndarray:
        """Values that only HDF5 knows where to find, read until two reads agree.

        What it could not open, it tries to open again with each read.
        """
        files = self._files.known or [mapping.path for mapping in self._mappings]
        what = f"{self._main}::{self._name}"
        check_readable(files, what)
        if not room_for(len(files)):
            raise SourceError(
                f"'{what}' is made of {len(files)} files, more than HDF5 can hold open here. Make "
                "one file of it first: hpcio repack, or h5repack."
            )
        dataset = find_dataset(self._files.file(self._main)[0], str(self._name))
        found = _select(dataset, wanted, dtype)
        for _ in range(_TRIES):
            before, found = found, _select(dataset, wanted, dtype)
            if before.tobytes() == found.tobytes():
                check_readable(files, what)
                return found
        raise SourceError(
            f"Values of '{what}' change from read to read: a file behind it is not always there. "
            "See to it that all can be read, then try again."
        )

    def close(self) -> None:
        """Close the files."""
        self._files.close()


_Found = dict[str, h5py.Dataset | VirtualReader]


class _Files:
    """Files that are open, and what was found in them."""

    def __init__(self, known: Sequence[str] | None) -> None:
        self.known = known
        self._named = frozenset(known or ())
        self._open: OrderedDict[str, tuple[h5py.File, _Found]] = OrderedDict()

    def source(self, path: str, name: str) -> h5py.Dataset | VirtualReader:
        """A dataset, or what reads it if it is a virtual one."""
        file, found = self.file(path)
        if name not in found:
            dataset = find_dataset(file, name)
            self._check(dataset.file.filename)  # which a link leads to
            found[name] = VirtualReader(dataset, files=self) if dataset.is_virtual else dataset
        return found[name]

    def file(self, path: str) -> tuple[h5py.File, _Found]:
        """A file, which is opened unless it is open, and what was found in it."""
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        self._check(path)
        while self._open and (len(self._open) >= _MOST_OPEN or _few_are_left()):
            self._open.popitem(last=False)
        try:
            return self._open.setdefault(path, (open_file(path), {}))
        except SourceError as error:
            number = () if error.errno is None else (error.errno,)
            raise SourceError(
                *number, f"Values of a virtual dataset lie in a file that cannot be read: {error}"
            ) from error

    def _check(self, path: str) -> None:
        if self.known is None or path in self._named:
            return
        if os.path.realpath(path) not in self._real:
            raise SourceError(
                f"HDF5 would read values from '{path}', which it did not find first before. Move "
                "it away, and unset HDF5_VDS_PREFIX if it was set meanwhile."
            )

    @cached_property
    def _real(self) -> frozenset[str]:
        return frozenset(map(os.path.realpath, self._named))

    def close(self) -> None:
        # As above, they are closed as the last ones who hold them: h5py's close() would look at all
        # of its objects for each of them.
        with phil:
            self._open.clear()


def _few_are_left() -> bool:
    """Whether this process may open few more files: it gets the lowest number that is free.

    Its limit is raised as far as the system allows.
    """
    try:
        fd = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    os.close(fd)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft != resource.RLIM_INFINITY and fd >= soft - _SPARE
    return few and not room_for(_SPARE)


def _converted(fill: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A fill value in another type, by the rules of HDF5, which are not those of numpy."""
    if fill.dtype == dtype:
        return fill
    raw = np.zeros(max(fill.dtype.itemsize, dtype.itemsize), np.uint8)
    raw[: fill.dtype.itemsize] = np.frombuffer(fill.tobytes(), np.uint8)
    h5py.h5t.convert(h5py.h5t.py_create(fill.dtype), h5py.h5t.py_create(dtype), 1, raw)
    converted: np.ndarray = raw[: dtype.itemsize].view(dtype)[0]
    return converted


@dataclass(frozen=True, slots=True)
class _Part:
    """What is wanted of a mapping.

    Attributes
    ----------
    mapping : int
    places : list of range or numpy.ndarray
        Where it lies among what is wanted, along each axis.
    numbers : list of range or numpy.ndarray
        Which of the entries of the mapping that is.
    """

    mapping: int
    places: list[Rows]
    numbers: list[Rows]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(len, self.places))


def _of_box(
    read: Callable[[Sequence[Rows]], np.ndarray],
    begin: int,
    sizes: Sequence[int],
    numbers: Sequence[Rows],
    dtype: np.dtype,
) -> np.ndarray:
    """Some values of a box that is stored from a place on, one value after the other."""
    row = math.prod(sizes[1:])
    takes_rows = all(len(some) == n for some, n in zip(numbers[1:], sizes[1:], strict=True))
    if takes_rows and isinstance(rows := numbers[0], range) and rows.step == 1:
        values = read([range(begin + rows.start * row, begin + rows.stop * row)])
        return values.reshape(len(rows), *sizes[1:])
    found = np.empty([len(some) for some in numbers], dtype)
    if row - math.prod(map(len, numbers[1:])) > _GAP:
        for place, at in enumerate(numbers[0]):
            found[place] = _of_box(read, begin + int(at) * row, sizes[1:], numbers[1:], dtype)
        return found
    for places, first, end in _runs(numbers[0], row):
        values = read([range(begin + first * row, begin + end * row)])
        values = values.reshape(end - first, *sizes[1:])
        found[places] = values[_index([_shifted(numbers[0][places], -first), *numbers[1:]])]
    return found


def _select(
    source: h5py.Dataset | VirtualReader, wanted: Sequence[Rows], dtype: np.dtype
) -> np.ndarray:
    """Values of some entries of each axis."""
    if isinstance(source, VirtualReader):
        return source.read(wanted, dtype=dtype)
    if all(isinstance(rows, range) for rows in wanted):
        return read_values(source, _index(wanted), dtype)
    found = np.empty([len(rows) for rows in wanted], dtype)
    sizes = [found.size // len(rows) for rows in wanted]
    for runs in itertools.product(*map(_runs, wanted, sizes)):
        values = read_values(source, tuple(slice(first, end) for _, first, end in runs), dtype)
        inside = [
            _shifted(rows[at], -first) for rows, (at, first, _) in zip(wanted, runs, strict=True)
        ]
        found[tuple(at for at, *_ in runs)] = values[_index(inside)]
    return found


def _runs(rows: Rows, row: int) -> Iterator[tuple[slice, int, int]]:
    """Cut entries, of `row` values each, into runs that are read at once.

    Of each, its places among the entries, its first entry, and its end.
    """
    entries = np.asarray(rows)
    cuts = np.flatnonzero((np.diff(entries) - 1) * row > _GAP) + 1
    begin = 0
    for end in (*cuts.tolist(), len(entries)):
        while begin < end:
            first = int(entries[begin])
            until = int(np.searchsorted(entries[:end], first + max(1, _SPAN // row)))
            yield slice(begin, until), first, int(entries[until - 1]) + 1
            begin = until


def _shifted(rows: Rows, by: int) -> Rows:
    if isinstance(rows, range):
        return range(rows.start + by, rows.stop + by, rows.step)
    return rows + by


def _index(rows: Sequence[Rows]) -> tuple[Any, ...]:
    """An index of numpy's that takes some entries of each axis."""
    slices = tuple(slice(r.start, r.stop, r.step) for r in rows if isinstance(r, range))
    return slices if len(slices) == len(rows) else np.ix_(*rows)
