"""Several results of one call: the layout of each, and of the records that hold them.

The record of a block is the bytes of its results, one after the other in the order of outputs.
Those that are averaged come last: what is kept of a block is the beginning of its record.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from hpcio.layout.averages import Average
from hpcio.layout.axes import Axis
from hpcio.layout.target import Target

__all__ = [
    "Output",
    "in_equal_groups",
    "record_of",
    "results_in",
    "sizes_of_parts",
    "split_record",
]


@dataclass(frozen=True, eq=False)
class Output:
    """One result of each call, which becomes a dataset.

    Attributes
    ----------
    name : str
        Of the dataset.
    target : Target
    axes : tuple of Axis
    average : Average or None
        What is stored of it, if the results of trials are not kept.
    chunks : tuple of int or None
        Shape of the chunks of its virtual sources; None if they are contiguous.
    compression : str or None
        Of these chunks.
    """

    name: str
    target: Target
    axes: tuple[Axis, ...]
    average: Average | None = None
    chunks: tuple[int, ...] | None = None
    compression: str | None = None

    @property
    def dtype(self) -> np.dtype:
        """Type of the result of one block, before it is averaged."""
        return self.target.dtype if self.average is None else self.average.dtype

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The distinct shapes of results of blocks; `target.shape_index` is an index into them."""
        if self.average is None or self.average.result is None:
            return self.target.shapes
        return (self.average.result,)

    def shape_of(self, block: int) -> tuple[int, ...]:
        """Shape of the result of one block."""
        return self.shapes[int(self.target.shape_index[block])]

    def result_sizes(self) -> np.ndarray:
        """Bytes of the result of each block, shape (B,); of averages, in the type of these."""
        if self.average is None or self.average.result is None:
            return self.target.sizes()
        size = math.prod(self.average.result) * self.dtype.itemsize
        return np.full(self.target.start.size, size, np.int64)


def in_equal_groups(outputs: Sequence[Output]) -> list[Output]:
    """Outputs whose averages all have the groups of the one whose groups are the longest.

    One process adds up a group, of all results. Alone, an average has other groups only if its
    states are small and those of another are so large that there may be but few.
    """
    stretches = [output.average.stretches for output in outputs if output.average is not None]
    if not stretches:
        return list(outputs)
    longest = max(stretches, key=lambda each: each[0][1])
    return [
        output
        if output.average is None
        else replace(output, average=replace(output.average, stretches=longest))
        for output in outputs
    ]


def results_in(
    record: np.ndarray, parts: Sequence[tuple[tuple[int, ...], np.dtype]]
) -> list[np.ndarray]:
    """The results that bytes hold one after the other, given the shape and type of each."""
    found, at = [], 0
    for shape, dtype in parts:
        end = at + math.prod(shape) * dtype.itemsize
        # Where a result before it has an odd number of bytes, it would not be aligned.
        found.append(np.require(record[at:end].view(dtype).reshape(shape), requirements="A"))
        at = end
    return found


def split_record(outputs: Sequence[Output], block: int, record: np.ndarray) -> list[np.ndarray]:
    """The results in the record of a block, each in the shape of its region.

    One result is its own record.
    """
    targets = [output.target for output in outputs]
    parts = [(one.region_shape(int(one.shape_index[block])), one.dtype) for one in targets]
    return results_in(record.reshape(-1).view(np.uint8), parts)


def sizes_of_parts(targets: Sequence[Target]) -> np.ndarray:
    """Bytes of the result of each block, of each output, shape (outputs, B)."""
    return np.stack([target.sizes() for target in targets])


def record_of(outputs: Sequence[Output]) -> Target:
    """The layout of what is kept of records: bytes along one axis, block by block.

    Blocks have one shape there if they have one shape in each output, also in those that are
    averaged, of which nothing is kept.
    """
    index = np.stack([output.target.shape_index for output in outputs])
    _, first, kind = np.unique(index, axis=1, return_index=True, return_inverse=True)
    kept = [output.target for output in outputs if output.average is None]
    nbytes = sizes_of_parts(kept).sum(axis=0) if kept else np.zeros(index.shape[1], np.int64)
    stop = np.cumsum(nbytes)
    return Target(
        shape=(int(stop[-1]),), dtype=np.dtype(np.uint8), axis=0, channel_axis=None,
        shapes=tuple((n,) for n in nbytes[first].tolist()),
        shape_index=kind.reshape(-1).astype(np.int32), start=stop - nbytes,
        channel=np.zeros(nbytes.size, np.int64), stacked=False,
    )  # fmt: skip
