"""Which entries of which datasets the mappings of a virtual dataset lead to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import h5py
import numpy as np

from hpcio.errors import SourceError
from hpcio.files.behind import has_pattern, names_of, numbered, numbers_of, where_hdf5_finds
from hpcio.files.indexing import Rows

__all__ = ["Along", "Irregular", "Mapping", "Way", "mappings_of"]

_UNLIMITED = h5py.h5s.UNLIMITED
# Start, stride, count and block of a selection along each axis; None if it takes all.
_Slab = tuple[tuple[int, ...], ...] | None
# A selection that is not the same along all of an axis.
_IRREGULAR: _Slab = ()


class Irregular(Exception):
    """Only HDF5 knows where the values of a mapping lie."""


@dataclass(frozen=True, slots=True)
class Along:
    """Entries of one axis that a selection takes: blocks at equal distances, `n` entries in all."""

    start: int
    stride: int
    block: int
    n: int

    @classmethod
    def of(cls, start: int, stride: int, count: int, block: int, length: int) -> Along:
        """Those of HDF5's selection; `length` is of the axis, for one that grows with it."""
        if block == _UNLIMITED:
            return cls(start, 1, 1, max(0, length - start))
        if count == _UNLIMITED:
            blocks, rest = divmod(max(0, length - start), stride)
            n = blocks * block + min(rest, block)
        else:
            n = count * block
        if stride == block or count == 1:
            return cls(start, 1, 1, n)
        return cls(start, stride, block, n)

    @property
    def is_dense(self) -> bool:
        """Whether it takes all entries between its first and its last."""
        return self.block == self.stride

    @property
    def bounds(self) -> tuple[int, int]:
        """The first entry and the last one."""
        last = self.n - 1
        return self.start, self.start + self.stride * (last // self.block) + last % self.block

    def entries(self, j: Rows) -> Rows:
        """The entries of which these are the numbers."""
        if isinstance(j, range) and (self.is_dense or self.block == 1):
            begin, step = self.start + j.start * self.stride, j.step * self.stride
            return range(begin, begin + len(j) * step, step)
        at = np.asarray(j)
        found: np.ndarray = self.start + self.stride * (at // self.block) + at % self.block
        return found

    def find(self, wanted: Rows) -> tuple[Rows, Rows]:
        """The places of its entries among those that are wanted, and their numbers."""
        low, high = self.bounds
        if isinstance(wanted, range):
            first = max(0, -((wanted.start - low) // wanted.step))
            last = min(len(wanted), (high - wanted.start) // wanted.step + 1)
            if first >= last:
                return range(0), range(0)
            if self.is_dense:
                begin, end = wanted[first] - low, wanted[last - 1] - low
                return range(first, last), range(begin, end + 1, wanted.step)
            some = np.arange(wanted[first], wanted[last - 1] + 1, wanted.step)
        else:
            first, last = np.searchsorted(wanted, [low, high + 1]).tolist()
            some = wanted[first:last]
        block, inside = np.divmod(some - low, self.stride)
        hit = inside < self.block
        return np.flatnonzero(hit) + first, (block * self.block + inside)[hit]


@dataclass(frozen=True, slots=True)
class Mapping:
    """What a virtual dataset takes of a dataset in a file.

    Attributes
    ----------
    path, name : str
    onto : tuple of Along, or None
        Where it lies, along each axis of the virtual dataset; None if only HDF5 knows.
    taken : tuple, or None
        The selection of the source: start, stride, count and block along each axis; None for all.
    """

    path: str
    name: str
    onto: tuple[Along, ...] | None
    taken: _Slab


def mappings_of(dcpl: h5py.h5p.PropDCID, main: str, shape: tuple[int, ...]) -> Iterator[Mapping]:
    """The mappings of a virtual dataset of a file and a shape; one for each file of a pattern."""
    paths: dict[str, str] = {".": main}
    for k in range(dcpl.get_virtual_count()):
        file, name = names_of(dcpl, k)
        space = dcpl.get_virtual_vspace(k)
        onto, taken = _slab(space), _slab(dcpl.get_virtual_srcspace(k))
        pattern = has_pattern(file, name)
        for number in numbers_of(space, shape) if pattern else (0,):
            named = numbered(file, number)
            if named not in paths:
                _, paths[named] = where_hdf5_finds(main, named, "HDF5_VDS_PREFIX")
            where = paths[named], numbered(name, number)
            if _IRREGULAR in (onto, taken):
                yield Mapping(*where, None, None)
                continue
            places = _along_axes(_part_of(onto, number) if pattern else onto, shape)
            if all(along.n for along in places):
                yield Mapping(*where, places, taken)


def _slab(space: h5py.h5s.SpaceID) -> _Slab:
    """Start, stride, count and block of a selection along each axis; None if it takes all."""
    kind = space.get_select_type()
    if kind == h5py.h5s.SEL_ALL:
        return None
    if kind != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return _IRREGULAR
    return tuple(zip(*space.get_regular_hyperslab(), strict=True))


def _part_of(slab: _Slab, number: int) -> _Slab:
    """What one of any number of files is mapped to."""
    return slab and tuple(
        (start + number * stride, 1, 1, block)
        if count == _UNLIMITED
        else (start, stride, count, block)
        for start, stride, count, block in slab
    )


def _along_axes(slab: _Slab, shape: tuple[int, ...]) -> tuple[Along, ...]:
    if slab is None:
        return tuple(Along(0, 1, 1, n) for n in shape)
    return tuple(map(Along.of, *zip(*slab, strict=True), shape))


@dataclass(frozen=True, slots=True)
class Way:
    """How values of a source come to lie in a virtual dataset.

    Attributes
    ----------
    taken : tuple of Along
        What is taken along each axis of the source.
    sizes : list of int
        How much that is along each axis of the virtual dataset.
    long : list of int
        The axes of that along which it is more than one entry.
    is_flat : bool
        Whether values lie one after the other in the source, instead of along as many axes.
    """

    taken: tuple[Along, ...]
    sizes: list[int]
    long: list[int]
    is_flat: bool

    @classmethod
    def of(cls, mapping: Mapping, shape: tuple[int, ...]) -> Way:
        """The way from a source of some shape."""
        taken = _along_axes(mapping.taken, shape)
        too_few = mapping.taken is not None and len(mapping.taken) != len(shape)
        if too_few or any(along.bounds[1] >= n for along, n in zip(taken, shape, strict=True)):
            raise SourceError(
                f"'{mapping.name}' of '{mapping.path}' has the shape {shape}, which is less than "
                "a virtual dataset takes of it. Restore it."
            )
        sizes = [along.n for along in mapping.onto or ()]
        if any(along.n == 0 for along in taken):  # one that may grow, beside others that have
            raise Irregular
        long = [k for k, n in enumerate(sizes) if n > 1]
        of_source = [along.n for along in taken if along.n > 1]
        if [sizes[k] for k in long] == of_source:
            return cls(taken, sizes, long, is_flat=False)
        if of_source == [math.prod(sizes)]:
            return cls(taken, sizes, long, is_flat=True)
        raise Irregular
