"""Checking every byte of a result against the checksums of the journal, and what is beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import h5py
import numpy as np

from hpcio.errors import ResultError
from hpcio.files import StreamedChecksum, checksum, plain_offset, read_at, read_table
from hpcio.journals import DONE
from hpcio.layout import Target
from hpcio.results import opening as result
from hpcio.results.besides import check_besides
from hpcio.results.extents import PIECE, SPAN, copying_threads, in_threads
from hpcio.words import count, size

__all__ = ["Verified", "comparing", "runs_of_bytes", "spans", "verify"]

# How many bytes are read through HDF5 at a time.
THROUGH_HDF5 = 64 << 20


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
    counted : str
        What people count, ``trial`` or ``block``.
    besides : bool
        Whether there are checksums of tables, coordinates and details; results of earlier versions
        have none.
    """

    path: str
    blocks: int
    gaps: int
    nbytes: int
    counted: str = "block"
    besides: bool = True

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str],
        target: Target,
        done: np.ndarray,
        *,
        besides: bool = True,
    ) -> Self:
        """The record of a check that has compared all blocks that are done, and no others."""
        return cls(
            path=os.fspath(path), blocks=int(done.sum()), gaps=int((~done).sum()),
            nbytes=int(target.sizes()[done].sum()),
            # An average is one block of all trials.
            counted="trial" if target.channel_axis is None and done.size > 1 else "block",
            besides=besides,
        )  # fmt: skip

    def __str__(self) -> str:
        gaps = f", {count(self.gaps, 'gap')}" if self.gaps else ""
        rest = "" if self.besides else "; there are no checksums of its tables and details"
        done = f"{count(self.blocks, self.counted)}, {size(self.nbytes)} verified"
        return f"{self.path}: {done}{gaps}{rest}"


def spans(target: Target, nbytes: int = THROUGH_HDF5) -> Iterator[tuple[np.ndarray, int, int]]:
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

    Tables, coordinates and details are compared as well.

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
        If a source is missing or anything differs; it names the block, its rows, and the file
        to blame.
    """
    with result.refusing_damage(path), result.open(path) as f:
        return _verify(f, path)


def _verify(f: result.ResultFile, path: str | os.PathLike[str]) -> Verified:
    data, target = f["data"], Target.load(f["hpcio/target"])
    state, expected = read_table(f["hpcio/state"]), read_table(f["hpcio/checksum"])
    if state.shape != target.start.shape or expected.shape != state.shape:
        raise ValueError("the states and checksums of its blocks do not fit them")
    besides = check_besides(f)
    done = state == DONE
    # A gap holds fill values: or a result would be lost if only its mark were damaged.
    _expect_fill(target, np.flatnonzero(~done), expected)
    every = np.ones(done.shape, bool)
    offset = None
    if target.in_rows and target.nbytes and not f.virtual.is_virtual:
        offset = plain_offset(f.virtual, f.filename)
    if offset is not None:
        with comparing(
            f.filename, offset, target, every, expected, lambda b: _blame(f, path, b)
        ) as check:
            in_threads(check, runs_of_bytes(target, SPAN), threads=copying_threads())
    else:
        check_blocks(
            target, every, expected, lambda region: data[region], lambda b: _blame(f, path, b)
        )
    return Verified.of(path, target, done, besides=besides)


def _expect_fill(target: Target, gaps: np.ndarray, expected: np.ndarray) -> None:
    """Put the checksums of fill values in the place of gaps, which have none."""
    known: dict[int, int] = {}
    for gap in gaps.tolist():
        index = int(target.shape_index[gap])
        if index not in known:
            known[index] = checksum(np.full(target.shapes[index], target.fill, target.dtype))
        expected[gap] = known[index]


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
        try:
            piece = read(tuple(region))
        except (OSError, RuntimeError) as error:  # a filter cannot make sense of a chunk
            raise _unreadable(target, blocks[done[blocks]], read, blame) from error
        for b in blocks[done[blocks]].tolist():
            inside = list(target.region(b))
            rows = inside[target.axis]
            inside[target.axis] = slice(rows.start - first, rows.stop - first)
            block = np.ascontiguousarray(piece[tuple(inside)])
            if checksum(block) != int(expected[b]):
                raise _differs(target, b, blame)


def _unreadable(
    target: Target,
    blocks: np.ndarray,
    read: Callable[[tuple[slice, ...]], Any],
    blame: Callable[[int], str],
) -> ResultError:
    """The error for the first of some blocks that HDF5 cannot read, or for the gaps between."""
    for b in blocks.tolist():
        try:
            read(target.region(b))
        except (OSError, RuntimeError):
            return _differs(target, b, blame)
    return ResultError("HDF5 cannot read all of the result. Restore it from a backup.")


def _differs(target: Target, block: int, blame: Callable[[int], str]) -> ResultError:
    rows = target.region(block)[target.axis]
    return ResultError(
        f"Block {block} (rows {rows.start} to {rows.stop - 1} of 'data') differs from what was "
        f"computed, {blame(block)}"
    )


def runs_of_bytes(target: Target, nbytes: int) -> list[np.ndarray]:
    """Runs of consecutive blocks, of about `nbytes` each, where blocks lie in their order."""
    stop = np.cumsum(target.sizes())
    return np.split(np.arange(stop.size), np.flatnonzero(np.diff(stop // nbytes)) + 1)


@contextmanager
def comparing(
    path: str | os.PathLike[str],
    offset: int,
    target: Target,
    done: np.ndarray,
    expected: np.ndarray,
    blame: Callable[[int], str],
) -> Iterator[Callable[[np.ndarray], None]]:
    """Open a contiguous dataset at byte `offset` of its file, to compare blocks in any thread.

    Yields
    ------
    check : callable
        Reads consecutive blocks. It raises ResultError at the first block whose bytes are not
        those expected.
    """
    stop = np.cumsum(target.sizes())  # blocks lie in their order
    start = stop - target.sizes()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def check(blocks: np.ndarray) -> None:
        memory = np.empty(PIECE, np.uint8)
        at = 0
        while at < blocks.size:
            # Take as many blocks as fit into the memory, or one that does not, piece by piece.
            begin = int(start[blocks[at]])
            count = int(np.searchsorted(stop[blocks], begin + PIECE, side="right")) - at
            some = blocks[at : at + max(1, count)]
            at += some.size
            if count < 1:
                found = [_sum_up(fd, offset + begin, offset + int(stop[some[0]]), memory)]
            else:
                piece = memory[: int(stop[some[-1]]) - begin]
                _read(fd, piece, offset + begin)
                edges = zip(start[some] - begin, stop[some] - begin, strict=True)
                found = [checksum(piece[a:b]) for a, b in edges]
            wrong = done[some] & (np.asarray(found, np.uint64) != expected[some])
            if wrong.any():
                raise _differs(target, int(some[wrong.argmax()]), blame)

    try:
        yield check
    finally:
        os.close(fd)


def _read(fd: int, array: np.ndarray, begin: int) -> None:
    if not read_at(fd, array, begin):
        raise ResultError("The file is shorter than its data. Restore it from a backup.")


def _sum_up(fd: int, begin: int, end: int, memory: np.ndarray) -> int:
    """The checksum of bytes of a file that do not fit into the memory."""
    total = StreamedChecksum()
    for a in range(begin, end, PIECE):
        piece = memory[: min(PIECE, end - a)]
        _read(fd, piece, a)
        total.update(piece)
    return int(total.intdigest())


def _blame(file: h5py.File, path: str | os.PathLike[str], block: int) -> str:
    """Where a block lies, and how to mend it."""
    if "hpcio/source_of_block" not in file or file["hpcio/source_of_block"][block] < 0:
        return f"in '{os.fspath(path)}'. Restore it from a backup, or run the plan again."
    source = int(file["hpcio/source_of_block"][block])
    name = os.fsdecode(file["hpcio/sources"][source]["path"])
    source_path = os.path.join(os.path.dirname(os.path.realpath(path)), name)
    return (
        f"in '{source_path}'. Remove the result and the damaged file, then resume the run: it "
        "computes what is missing."
    )
