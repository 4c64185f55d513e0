"""Chunked and compressed datasets: the names of compressions, and chunks as filters store them.

A compression is a text, ``NAME[:LEVEL][+shuffle]``, such as ``gzip``, ``zstd:3`` or
``lz4+shuffle``. ``gzip`` is in every HDF5, ``lzf`` in every h5py; all others are filters of
the package hdf5plugin, which readers need too.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import h5py
import numpy as np

from hpcio.errors import MissingPackageError, OptionError
from hpcio.files.images import in_memory_file

__all__ = [
    "CHUNK",
    "Chunking",
    "Compression",
    "Packer",
    "good_chunk",
    "load_filter",
    "load_filters",
    "load_filters_of",
]

# Size of a chunk if the user chooses none, in bytes: h5py's cache holds it, disks read it well.
CHUNK = 1 << 20
# HDF5 keeps the size of a chunk in 32 bits.
MOST = (1 << 32) - 1

# Levels: lowest, default, highest; None where there is none to choose.
_LEVELS: dict[str, tuple[int, int, int] | None] = {
    "gzip": (0, 4, 9),
    "lzf": None,
    "zstd": (1, 1, 22),
    "lz4": None,
    "blosc": (0, 5, 9),
    "blosc-lz4": (0, 5, 9),
    "blosc-zstd": (0, 5, 9),
}
_OWN = ("gzip", "lzf")
REMEDY = "Install it: pip install 'hpcio[compress]'"


def _plugins() -> Any:
    """The package hdf5plugin, whose import makes its filters known to HDF5."""
    import hdf5plugin

    return hdf5plugin


@dataclass(frozen=True)
class Compression:
    """A filter of HDF5, and whether bytes are shuffled before it.

    Attributes
    ----------
    name : str
        Such as ``gzip`` or ``zstd``.
    level : int or None
        None if the filter has no levels.
    shuffle : bool
        Whether the first bytes of all values come first, then all second ones, and so on.
    """

    name: str
    level: int | None
    shuffle: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``NAME[:LEVEL][+shuffle]``.

        Raises
        ------
        OptionError
            If there is no such filter or level, or its package is not installed.

        Examples
        --------
        >>> str(Compression.parse("gzip")), str(Compression.parse("gzip:1+shuffle"))
        ('gzip:4', 'gzip:1+shuffle')
        """
        names = ", ".join(_LEVELS)
        match = re.fullmatch(r"([a-z0-9-]+)(?::(\d+))?(\+shuffle)?", str(text).strip().lower())
        if not match or match[1] not in _LEVELS:
            raise OptionError(
                f"compression='{text}' is unknown. Write NAME, NAME:LEVEL or NAME:LEVEL+shuffle, "
                f"with a NAME of: {names}."
            )
        name, levels = match[1], _LEVELS[match[1]]
        level = None if match[2] is None else int(match[2])
        if levels is None and level is not None:
            raise OptionError(f"compression='{text}': {name} has no levels. Write '{name}'.")
        if levels is not None:
            lowest, usual, highest = levels
            level = usual if level is None else level
            if not lowest <= level <= highest:
                raise OptionError(
                    f"compression='{text}': {name} has no level {level}. "
                    f"Choose one from {lowest} to {highest}."
                )
        if name not in _OWN:
            try:
                _plugins()
            except ImportError:
                raise OptionError(
                    f"compression='{text}' needs the package hdf5plugin. {REMEDY}. "
                    "Without it there are: gzip, lzf."
                ) from None
        return cls(name, level, match[3] is not None)

    def __str__(self) -> str:
        level = "" if self.level is None else f":{self.level}"
        return f"{self.name}{level}{'+shuffle' if self.shuffle else ''}"

    def add_to(self, dcpl: h5py.h5p.PropDCID) -> None:
        """Add the filters to the creation properties of a chunked dataset."""
        family, _, codec = self.name.partition("-")
        if self.shuffle and family != "blosc":
            dcpl.set_shuffle()
        # They are optional: a chunk that does not become smaller is stored as it is.
        if self.name == "gzip":
            dcpl.set_deflate(self.level)
            return
        if self.name == "lzf":
            dcpl.set_filter(h5py.h5z.FILTER_LZF, h5py.h5z.FLAG_OPTIONAL)
            return
        plugins = _plugins()
        if family == "blosc":  # it shuffles by itself, faster
            made = plugins.Blosc(
                cname=codec or "lz4", clevel=self.level,
                shuffle=plugins.Blosc.SHUFFLE if self.shuffle else plugins.Blosc.NOSHUFFLE,
            )  # fmt: skip
        elif family == "zstd":
            made = plugins.Zstd(clevel=self.level)
        else:
            made = plugins.LZ4()
        dcpl.set_filter(made.filter_id, h5py.h5z.FLAG_OPTIONAL, made.filter_options)


def load_filters(compression: str, path: object) -> None:
    """Make HDF5 know the filters that a file was compressed by; commas lie between several.

    Raises
    ------
    MissingPackageError
        If their package is not installed.
    """
    if {re.split("[:+]", one)[0] for one in compression.split(",")} <= {"", *_OWN}:
        return
    try:
        _plugins()
    except ImportError:
        raise MissingPackageError(
            f"'{path}' is compressed by {compression}, and reading it needs the package "
            f"hdf5plugin. {REMEDY}"
        ) from None


def load_filters_of(dataset: h5py.Dataset) -> tuple[int, ...]:
    """Make HDF5 know the filters that a dataset was compressed by; their numbers.

    A session may have imported hdf5plugin before; its workers have not.

    Raises
    ------
    MissingPackageError
        If a filter is not installed.
    """
    dcpl = dataset.id.get_create_plist()
    filters = [dcpl.get_filter(k) for k in range(dcpl.get_nfilters())]
    for code, _, _, name in filters:
        load_filter(code, f"'{dataset.name}' of '{dataset.file.filename}'", name.decode("latin-1"))
    return tuple(code for code, *_ in filters)


def load_filter(code: int, what: str, name: str = "") -> None:
    """Make HDF5 know a filter by its number.

    Raises
    ------
    MissingPackageError
        If it is not installed; `what` was compressed by it.
    """
    if h5py.h5z.filter_avail(code):
        return
    with contextlib.suppress(ImportError):
        _plugins()
    if not h5py.h5z.filter_avail(code):
        raise MissingPackageError(
            f"{what} is compressed by the filter {code} ({name or 'whose name is unknown'}), which "
            "is not installed here. Install the package that has it, such as hdf5plugin: pip "
            "install 'hpcio[compress]'"
        )


def good_chunk(
    shape: Sequence[int], itemsize: int, axis: int, nbytes: int = CHUNK
) -> tuple[int, ...]:
    """A chunk of about `nbytes`: whole along all axes but `axis`, as long there as fits.

    Examples
    --------
    >>> good_chunk((100_000, 64), 4, 0)
    (4096, 64)
    """
    chunk = [max(1, n) for n in shape]
    rest = math.prod(chunk) // chunk[axis] * itemsize
    chunk[axis] = min(chunk[axis], max(1, nbytes // rest))
    while math.prod(chunk) * itemsize > 2 * nbytes and max(chunk) > 1:  # one row is too much
        longest = chunk.index(max(chunk))
        chunk[longest] = -(-chunk[longest] // 2)
    return tuple(chunk)


@dataclass(frozen=True)
class Chunking:
    """How a dataset is cut into chunks, and how each is compressed.

    Attributes
    ----------
    chunk : tuple of int
        Shape of a chunk.
    compression : Compression or None
    """

    chunk: tuple[int, ...]
    compression: Compression | None

    @classmethod
    def choose(
        cls,
        shape: tuple[int, ...],
        dtype: np.dtype,
        axis: int,
        *,
        chunks: bool | Sequence[int] | None,
        compression: str | Compression | None,
    ) -> Self | None:
        """The chunking that was asked for; None for a contiguous dataset.

        Raises
        ------
        OptionError
            If there are no such chunks or filters.
        """
        if isinstance(compression, str):
            compression = Compression.parse(compression)
        if chunks is False and compression is not None:
            raise OptionError(
                f"compression='{compression}' needs chunks. Leave out chunks=False, or say a shape."
            )
        if (chunks is None or chunks is False) and compression is None:
            return None
        if chunks is None or isinstance(chunks, bool):
            chunk = good_chunk(shape, dtype.itemsize, axis)
        else:
            chunk = _inside_shape(check_chunks(chunks), shape)
        if not math.prod(shape):  # HDF5 has no chunks of an empty dataset
            return None
        if math.prod(chunk) * dtype.itemsize > MOST:
            raise OptionError(f"A chunk of {chunk} has more than 4 GiB. Choose smaller chunks.")
        return cls(chunk, compression)

    def add_to(self, dcpl: h5py.h5p.PropDCID) -> None:
        """Add layout and filters to the creation properties of a dataset."""
        dcpl.set_layout(h5py.h5d.CHUNKED)
        dcpl.set_chunk(self.chunk)
        if self.compression is not None:
            self.compression.add_to(dcpl)

    def inside(self, region: Sequence[slice]) -> Iterator[tuple[slice, ...]]:
        """The part of each chunk that lies in a region; the region begins at edges of chunks."""
        axes = [
            [slice(a, min(a + n, part.stop)) for a in range(part.start, part.stop, n)]
            for part, n in zip(region, self.chunk, strict=True)
        ]
        yield from itertools.product(*axes)


def _inside_shape(chunk: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """A chunk that is nowhere longer than its dataset, or a OptionError."""
    if len(chunk) != len(shape):
        raise OptionError(
            f"chunks={chunk} has {len(chunk)} axes, but the result has {len(shape)}: "
            f"{shape}. Give a length for each."
        )
    return tuple(min(c, max(1, n)) for c, n in zip(chunk, shape, strict=True))


def check_chunks(chunks: Sequence[int]) -> tuple[int, ...]:
    """The shape of a chunk as a tuple, or a OptionError."""
    try:
        chunk = tuple(int(n) for n in chunks)
        valid = bool(chunk) and all(n >= 1 for n in chunk) and list(chunk) == list(chunks)
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise OptionError(
            f"chunks={chunks!r} is no shape of a chunk. Give a length of at least 1 for each axis "
            "of the result, or True for good ones."
        )
    return chunk


class Packer:
    """Makes in memory what HDF5 stores for a chunk; h5py writes it by `write_direct_chunk`.

    Parameters
    ----------
    chunking : Chunking
    dtype : numpy.dtype
    """

    def __init__(self, chunking: Chunking, dtype: np.dtype) -> None:
        self._chunk, self._dtype = chunking.chunk, dtype
        self._stack = in_memory_file(rdcc_nbytes=0)
        file = self._stack.__enter__()
        dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        dcpl.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        chunking.add_to(dcpl)
        htype = h5py.h5t.py_create(dtype, logical=True)
        space = h5py.h5s.create_simple(self._chunk)
        self._dataset = h5py.Dataset(h5py.h5d.create(file.id, b"data", htype, space, dcpl))
        self._first = (0,) * len(self._chunk)

    def pack(self, data: np.ndarray) -> tuple[int, bytes]:
        """Filter mask and bytes of one chunk; `data` may end before the chunk does."""
        if data.shape != self._chunk:  # at an edge: what lies beyond is never read
            whole = np.zeros(self._chunk, self._dtype)
            whole[tuple(slice(0, n) for n in data.shape)] = data
            data = whole
        self._dataset[...] = data
        self._dataset.flush()
        mask, packed = self._dataset.id.read_direct_chunk(self._first)
        return mask, bytes(packed)

    def unpack(self, mask: int, packed: bytes) -> np.ndarray:
        """The values that `pack` was given, filled up to a whole chunk."""
        self._dataset.id.write_direct_chunk(self._first, packed, filter_mask=mask)
        values: np.ndarray = self._dataset[()]
        return values

    def close(self) -> None:
        """Let go of the memory."""
        self._stack.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
