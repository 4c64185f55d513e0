"""Checking every byte of a result against the checksums of the journal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from hpcio import result
from hpcio.errors import ResultError
from hpcio.journal import DONE
from hpcio.slab import checksum
from hpcio.target import Target

__all__ = ["Verified", "spans", "verify"]

SPAN = 64 << 20


@dataclass(frozen=True)
class Verified:
    """What `verify` has checked.

    Attributes
    ----------
    path : str
    blocks : int
        Blocks whose bytes are those that were journalled.
    gaps : int
        Blocks that the run could not compute, and that hold the fill value.
    nbytes : int
    """

    path: str
    blocks: int
    gaps: int
    nbytes: int

    def __str__(self) -> str:
        gaps = f", {self.gaps} gaps" if self.gaps else ""
        return f"{self.path}: {self.blocks} blocks, {self.nbytes / 1e6:.1f} MB verified{gaps}"


def spans(target: Target, nbytes: int = SPAN) -> Iterator[tuple[np.ndarray, int, int]]:
    """Cut the dataset along its join axis into pieces of whole trials.

    Yields
    ------
    blocks : numpy.ndarray of int
        The blocks that lie in the piece.
    first, last : int
        Its rows, ``[first, last)``.
    """
    rows = target.rows()
    length = max(1, target.shape[target.axis])
    per_row = max(1, target.nbytes // length)
    count = target.start.size
    stop = target.start + rows
    begin = 0
    while begin < count:
        first = int(target.start[begin])
        limit = first + max(1, nbytes // per_row)
        end = max(begin + 1, int(np.searchsorted(stop, limit, side="right")))
        while end < count and target.start[end] < stop[end - 1]:  # other channels, same rows
            end += 1
        yield np.arange(begin, end), first, int(stop[end - 1])
        begin = end


def verify(path: str | os.PathLike[str]) -> Verified:
    """Read all of a result, the way any reader does, and compare it with its checksums.

    Parameters
    ----------
    path : str or path
        A result of a run, or of :func:`hpcio.repack`.

    Returns
    -------
    Verified

    Raises
    ------
    ResultError
        If a source is missing or any byte differs; it names the block, its rows, and the
        file to blame.
    """
    with result.open(path) as f:
        data, target = f["data"], Target.load(f["hpcio/target"])
        state, expected = f["hpcio/state"][()], f["hpcio/checksum"][()]
        if data.shape != target.shape or data.dtype != target.dtype:
            raise ResultError(
                f"'data' of '{path}' is {data.dtype} of shape {data.shape}, but the run wrote "
                f"{target.dtype} of shape {target.shape}. Remove the result and resume the run."
            )
        done = state == DONE
        check_blocks(
            target, done, expected, lambda region: data[region], lambda b: _blame(f, path, b)
        )
    sizes = target.sizes()
    return Verified(
        path=os.fspath(path), blocks=int(done.sum()), gaps=int((~done).sum()),
        nbytes=int(sizes[done].sum()),
    )  # fmt: skip


def check_blocks(
    target: Target,
    done: np.ndarray,
    expected: np.ndarray,
    read: Callable[[tuple[slice, ...]], Any],
    blame: Callable[[int], str],
) -> None:
    """Raise ResultError at the first block whose bytes are not those expected."""
    for blocks, first, last in spans(target):
        region: list[slice] = [slice(0, n) for n in target.shape]
        region[target.axis] = slice(first, last)
        piece = read(tuple(region))
        for b in blocks[done[blocks]].tolist():
            inside = list(target.region(b))
            rows = inside[target.axis]
            inside[target.axis] = slice(rows.start - first, rows.stop - first)
            block = np.ascontiguousarray(piece[tuple(inside)])
            if checksum(block) != int(expected[b]):
                raise ResultError(
                    f"Block {b} (rows {rows.start} to {rows.stop - 1} of 'data') differs from "
                    f"what was computed, {blame(b)}"
                )


def _blame(file: h5py.File, path: str | os.PathLike[str], block: int) -> str:
    """Where a block lies, and how to mend it."""
    if "hpcio/source_of_block" not in file:
        return f"in '{os.fspath(path)}'. Restore it from a backup, or run the plan again."
    source = int(file["hpcio/source_of_block"][block])
    name = os.fsdecode(file["hpcio/sources"][source]["path"])
    source_path = os.path.join(os.path.dirname(os.path.realpath(path)), name)
    return (
        f"in '{source_path}'. Remove the result and the damaged file, then resume the run: it "
        "computes what is missing."
    )
