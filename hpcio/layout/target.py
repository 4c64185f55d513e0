"""Where the results of all blocks lie in the one dataset."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

import h5py
import numpy as np

from hpcio.errors import FunctionError, OptionError
from hpcio.files import check_types, fill_of, keep_table, read_table
from hpcio.recording import Blocks
from hpcio.words import count

__all__ = ["Join", "Target", "lay_out"]

Join = Literal["concatenate", "stack"]
Shape = tuple[int, ...]
_ALL = slice(None)


@dataclass(frozen=True, eq=False, repr=False)
class Target:
    """Where results go: the shape of the whole, and the region of each block.

    Attributes
    ----------
    shape : tuple of int
        Shape of the dataset ``data``.
    dtype : numpy.dtype
    axis : int
        The axis of the result along which trials follow each other.
    channel_axis : int or None
        The axis along which channel blocks lie side by side.
    shapes : tuple of tuple of int
        The distinct shapes of blocks.
    shape_index : numpy.ndarray of int32, shape (B,)
        Index into `shapes` for each block.
    start : numpy.ndarray of int64, shape (B,)
        First row of each block along `axis`.
    channel : numpy.ndarray of int64, shape (B,)
        First position of each block along `channel_axis`.
    stacked : bool
        Whether `axis` is a new first one, on which each trial has one row.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    axis: int
    channel_axis: int | None
    shapes: tuple[tuple[int, ...], ...]
    shape_index: np.ndarray
    start: np.ndarray
    channel: np.ndarray
    stacked: bool

    @classmethod
    def of_one_block(cls, shape: tuple[int, ...], dtype: np.dtype) -> Self:
        """The layout of a dataset that is one block."""
        return cls(
            shape=shape, dtype=dtype, axis=0, channel_axis=None, shapes=(shape,),
            shape_index=np.zeros(1, np.int32), start=np.zeros(1, np.int64),
            channel=np.zeros(1, np.int64), stacked=False,
        )  # fmt: skip

    def __repr__(self) -> str:
        blocks = f"{count(self.start.size, 'block')} {'stacked' if self.stacked else 'joined'}"
        return f"Target({self.dtype} of shape {self.shape}, {blocks} along axis {self.axis})"

    @property
    def nbytes(self) -> int:
        """Size of the dataset in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def in_rows(self) -> bool:
        """Whether the bytes of blocks lie one after the other, in the order of blocks."""
        return self.axis == 0 and self.channel_axis is None

    @property
    def fill(self) -> float:
        """The value that stands where there is no result: NaN, or zero for integers."""
        return fill_of(self.dtype)

    def sizes(self) -> np.ndarray:
        """Bytes of each block, shape (B,)."""
        each = [int(np.prod(s, dtype=np.int64)) * self.dtype.itemsize for s in self.shapes]
        sizes: np.ndarray = np.asarray(each, np.int64)[self.shape_index]
        return sizes

    def rows(self, blocks: slice = _ALL) -> np.ndarray:
        """Length of each block, or of some, along `axis`, shape (n,)."""
        index = self.shape_index[blocks]
        if self.stacked:
            return np.ones(index.size, np.int64)
        rows: np.ndarray = np.asarray([s[self.axis] for s in self.shapes], np.int64)[index]
        return rows

    def largest_shape(self) -> tuple[int, ...]:
        """The largest length on each axis; Syncopy's functions know it as `chunkShape`."""
        return tuple(max(lengths) for lengths in zip(*self.shapes, strict=True))

    def shape_of(self, block: int) -> tuple[int, ...]:
        """Shape of the result of one block."""
        return self.shapes[int(self.shape_index[block])]

    def region_shape(self, shape_index: int) -> tuple[int, ...]:
        """Shape of the region that blocks of one shape fill in the dataset."""
        return (1, *self.shapes[shape_index]) if self.stacked else self.shapes[shape_index]

    def arrays(self) -> dict[str, np.ndarray]:
        """The layout as arrays, by their names in the group of a file that `load` reads."""
        spec = {
            "shape": self.shape, "dtype": self.dtype.str, "axis": self.axis,
            "channel_axis": self.channel_axis, "stacked": self.stacked, "shapes": self.shapes,
        }  # fmt: skip
        return {
            "spec": np.frombuffer(json.dumps(spec).encode(), np.uint8),
            "shape_index": self.shape_index, "start": self.start, "channel": self.channel,
        }  # fmt: skip

    def save(self, group: h5py.Group) -> None:
        """Keep the layout in a group of an HDF5 file."""
        for name, values in self.arrays().items():
            keep_table(group, name, values)

    @classmethod
    def load(cls, group: h5py.Group, *, read: Callable[[h5py.Dataset], Any] = read_table) -> Self:
        """The layout that `save` kept, or whoever wrote its `arrays`.

        Parameters
        ----------
        group : h5py.Group
        read : callable
            Reads the values of a dataset.

        Raises
        ------
        ValueError, TypeError, LookupError, OSError, RuntimeError
            Whatever h5py and JSON raise for what is damaged; or it makes no sense.
        """
        spec = json.loads(read_table(group["spec"]).tobytes())
        spec["shape"] = tuple(spec["shape"])
        spec["dtype"] = np.dtype(spec["dtype"])
        spec["shapes"] = tuple(tuple(s) for s in spec["shapes"])
        arrays = {name: read(group[name]) for name in ("start", "channel")}
        # Results of versions before 0.1 call it so.
        index = read(group["shape_index" if "shape_index" in group else "form"])
        found = cls(**spec, **arrays, shape_index=index)
        check_types(found)
        found._check()
        return found

    def _check(self) -> None:
        """Raise ValueError unless each block has a region in the dataset."""
        rank, count = len(self.shape), np.shape(self.start)
        for array in (self.shape_index, self.start, self.channel):
            if array.dtype.kind not in "iu" or array.ndim != 1 or array.shape != count:
                raise ValueError("its blocks have no whole numbers, one each, for their places")
        axes = (self.axis, *([] if self.channel_axis is None else [self.channel_axis]))
        sizes = {len(shape) for shape in (self.shape, *self.shapes)}
        if (
            not all(0 <= axis < rank for axis in axes)
            or sizes - {rank, rank - self.stacked}
            or (self.stacked and {len(shape) for shape in self.shapes} - {rank - 1})
            or self.dtype.kind not in "biufc"
            or min((n for shape in (self.shape, *self.shapes) for n in shape), default=0) < 0
            or math.prod(self.shape) * self.dtype.itemsize >= 2**63
        ):
            raise ValueError(f"it has no layout of shape {self.shape} and type {self.dtype}")
        if not count[0]:
            return
        if self.shape_index.min() < 0 or self.shape_index.max() >= len(self.shapes):
            raise ValueError("a block has a shape that is not there")
        regions = [self.region_shape(k) for k in range(len(self.shapes))]
        for axis, length in enumerate(self.shape):
            first = {self.axis: self.start, self.channel_axis: self.channel}.get(axis, 0)
            width = np.asarray([region[axis] for region in regions], np.int64)[self.shape_index]
            if np.min(first) < 0 or np.max(first) > length or (first + width).max() > length:
                raise ValueError(f"a block lies beyond the shape {self.shape}")

    def region(self, i: int) -> tuple[slice, ...]:
        """The region of block `i` in the dataset."""
        shape = self.region_shape(int(self.shape_index[i]))
        first = [0] * len(shape)
        first[self.axis] = int(self.start[i])
        if self.channel_axis is not None:
            first[self.channel_axis] = int(self.channel[i])
        return tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))


def lay_out(
    blocks: Blocks,
    shape_index: np.ndarray,
    shapes: tuple[Shape, ...],
    dtype: np.dtype,
    *,
    join: Join,
    join_axis: int | None,
    out_channel_axis: int | None,
) -> Target:
    """Lay out the results of all blocks in one dataset.

    Raises
    ------
    FunctionError
        If results do not fit together.
    OptionError
        If an option does not fit the results.
    """
    stacked = join == "stack"
    rank = _rank_of(shapes)
    axis = _join_axis(blocks, rank, join_axis, stacked=stacked)
    channel_axis = _channel_axis(blocks, rank, out_channel_axis)
    if channel_axis is not None and channel_axis == axis and not stacked:
        raise OptionError(
            f"Trials and channel blocks would both lie along axis {axis} of the result. "
            "Say join_axis= or out_channel_axis=."
        )
    _check_other_axes(shapes, axis, channel_axis, stacked=stacked)
    start, length = _positions(blocks, shape_index, shapes, axis, stacked=stacked)
    channel, width = _channel_positions(blocks, shape_index, shapes, channel_axis)
    whole = list(shapes[0])
    if channel_axis is not None:
        whole[channel_axis] = width
    if stacked:
        whole.insert(0, length)
        channel_axis = None if channel_axis is None else channel_axis + 1
    else:
        whole[axis] = length
    return Target(
        shape=tuple(whole), dtype=dtype, axis=axis, channel_axis=channel_axis, shapes=shapes,
        shape_index=shape_index, start=start, channel=channel, stacked=stacked,
    )  # fmt: skip


def _rank_of(shapes: tuple[Shape, ...]) -> int:
    ranks = sorted({len(s) for s in shapes})
    if len(ranks) > 1:
        raise FunctionError(
            f"Results have {ranks} axes, depending on the trial. Return the same number for all."
        )
    return ranks[0]


def _join_axis(blocks: Blocks, rank: int, join_axis: int | None, *, stacked: bool) -> int:
    """The axis of the result along which trials follow each other; a new first one if stacked."""
    if stacked:
        if join_axis is not None:
            raise OptionError("join_axis goes with join='concatenate'. Leave it out for 'stack'.")
        return 0
    return _result_axis(
        blocks.axis if join_axis is None else join_axis, rank, "join_axis",
        "Use join='stack' for results without it, or say join_axis=.",
    )  # fmt: skip


def _channel_axis(blocks: Blocks, rank: int, out_channel_axis: int | None) -> int | None:
    """The axis of one block's result along which channel blocks lie; None if there is one only."""
    if blocks.channel_blocks == 1:
        return None
    wanted = blocks.channel_axis if out_channel_axis is None else out_channel_axis
    assert wanted is not None  # blocks of channels have an axis
    return _result_axis(
        wanted, rank, "out_channel_axis", "Say which axis of the result is that of channels."
    )


def _check_other_axes(
    shapes: tuple[Shape, ...], axis: int, channel_axis: int | None, *, stacked: bool
) -> None:
    """Raise FunctionError unless results are equally long on all axes that are not joined."""
    joined = {a for a in (None if stacked else axis, channel_axis) if a is not None}
    others = {tuple(n for a, n in enumerate(s) if a not in joined) for s in shapes}
    if len(others) > 1:
        raise FunctionError(
            f"Results have different shapes ({', '.join(map(str, shapes[:4]))}) and cannot be "
            + ("stacked. " if stacked else f"joined along axis {axis}. ")
            + "Return equal shapes on the other axes, or choose another join."
        )


def _result_axis(axis: int, rank: int, name: str, remedy: str) -> int:
    if not -rank <= axis < rank:
        raise OptionError(f"Results have {rank} axes, so {name}={axis} does not exist. {remedy}")
    return axis % rank


def _positions(
    blocks: Blocks, shape_index: np.ndarray, shapes: tuple[Shape, ...], axis: int, *, stacked: bool
) -> tuple[np.ndarray, int]:
    """First row of each block along the join axis, and the length of the whole."""
    per_trial = blocks.channel_blocks
    if stacked:
        return blocks.trial.astype(np.int64), blocks.trial.size // per_trial
    rows = np.asarray([s[axis] for s in shapes], np.int64)[shape_index].reshape(-1, per_trial)
    uneven = np.flatnonzero((rows != rows[:, :1]).any(axis=1))
    if uneven.size:
        raise FunctionError(
            f"The channel blocks of trial {uneven[0]} give {rows[uneven[0]].tolist()} rows. "
            "A function for channel blocks returns as many rows for each."
        )
    stop = np.cumsum(rows[:, 0])
    return np.repeat(stop - rows[:, 0], per_trial), int(stop[-1])


def _channel_positions(
    blocks: Blocks, shape_index: np.ndarray, shapes: tuple[Shape, ...], channel_axis: int | None
) -> tuple[np.ndarray, int]:
    """First position of each block along the channel axis, and the width of the whole."""
    if channel_axis is None:
        return np.zeros(shape_index.size, np.int64), 0
    width = np.asarray([s[channel_axis] for s in shapes], np.int64)[shape_index]
    width = width.reshape(-1, blocks.channel_blocks)
    uneven = np.flatnonzero((width != width[0]).any(axis=1))
    if uneven.size:
        raise FunctionError(
            f"Trial {uneven[0]} gives {width[uneven[0]].tolist()} channels in its blocks, "
            f"trial 0 {width[0].tolist()}. Return the same for every trial."
        )
    stop = np.cumsum(width, axis=1)
    return (stop - width).reshape(-1), int(stop[0, -1])
