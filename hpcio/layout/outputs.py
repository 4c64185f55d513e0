"""Several results of one call: the layout of each, and of the records that hold them.

The record of a block is the bytes of its results, one after the other in the order of outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpcio.layout.axes import Axis
from hpcio.layout.target import Target

__all__ = ["Output", "record_of", "sizes_of_parts", "split_record"]


@dataclass(frozen=True, eq=False)
class Output:
    """One result of each call, which becomes a dataset.

    Attributes
    ----------
    name : str
        Of the dataset.
    target : Target
    axes : tuple of Axis
    chunks : tuple of int or None
        Shape of the chunks of its virtual sources; None if they are contiguous.
    compression : str or None
        Of these chunks.
    """

    name: str
    target: Target
    axes: tuple[Axis, ...]
    chunks: tuple[int, ...] | None = None
    compression: str | None = None


def split_record(outputs: Sequence[Output], block: int, record: np.ndarray) -> list[np.ndarray]:
    """The results in the record of a block, each in the shape of its region.

    One result is its own record.
    """
    raw, at, found = record.reshape(-1).view(np.uint8), 0, []
    for target in (output.target for output in outputs):
        shape = target.region_shape(int(target.shape_index[block]))
        last = at + math.prod(shape) * target.dtype.itemsize
        part = raw[at:last].view(target.dtype).reshape(shape)
        found.append(np.require(part, requirements="A"))  # HDF5 wants values that are aligned
        at = last
    return found


def sizes_of_parts(targets: Sequence[Target]) -> np.ndarray:
    """Bytes of the result of each block, of each output, shape (outputs, B)."""
    return np.stack([target.sizes() for target in targets])


def record_of(targets: Sequence[Target]) -> Target:
    """The layout of records: bytes along one axis, block by block.

    Blocks have one shape there if they have one shape in each output.
    """
    index = np.stack([target.shape_index for target in targets])
    _, first, kind = np.unique(index, axis=1, return_index=True, return_inverse=True)
    nbytes = sizes_of_parts(targets).sum(axis=0)
    stop = np.cumsum(nbytes)
    return Target(
        shape=(int(stop[-1]),), dtype=np.dtype(np.uint8), axis=0, channel_axis=None,
        shapes=tuple((n,) for n in nbytes[first].tolist()),
        shape_index=kind.reshape(-1).astype(np.int32), start=stop - nbytes,
        channel=np.zeros(nbytes.size, np.int64), stacked=False,
    )  # fmt: skip
