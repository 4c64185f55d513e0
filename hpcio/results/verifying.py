"""Checking every byte of a result against the checksums of the journal, and what is beside them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from hpcio.errors import HpcioError, ResultError
from hpcio.files import (
    RunDirectory,
    StreamedChecksum,
    checksum,
    plain_offset,
    read_at,
    read_table,
)
from hpcio.journals import DONE
from hpcio.layout import Target
from hpcio.results import opening as result
from hpcio.results.besides import SEVERAL, differing
from hpcio.results.extents import PIECE, SPAN, copying_threads, in_threads
from hpcio.results.remedies import out_of, remedy
from hpcio.words import count, earlier_words, listed, size

__all__ = [
    "Verified",
    "comparing",
    "differing_averages",
    "differing_blocks",
    "differing_records",
    "in_words",
    "nbytes_of_averages",
    "runs_of_bytes",
    "spans",
    "verify",
]

# How many bytes are read through HDF5 at a time.
THROUGH_HDF5 = 64 << 20
# So many blocks that differ are named.
_MOST = 10


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
    earlier : int
        Trials whose results are kept from before the function or its arguments changed.
    elsewhere : str
        The run directory in which its parts lie, if that is another's, as with a copy.
    """

    path: str
    blocks: int
    gaps: int
    nbytes: int
    counted: str = "block"
    besides: bool = True
    earlier: int = 0
    elsewhere: str = field(default="", repr=False)

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str],
        target: Target,
        done: np.ndarray,
        *,
        trials: int,
        besides: bool = True,
        earlier: int = 0,
        elsewhere: str = "",
        averages: int = 0,
    ) -> Self:
        """The record of a check that has compared all blocks that are done, and no others."""
        return cls(
            path=os.fspath(path), blocks=int(done.sum()), gaps=int((~done).sum()),
            nbytes=int(target.sizes()[done].sum()) + averages,
            # An average is one block of all trials.
            counted="trial" if done.size == trials and done.size > 1 else "block",
            besides=besides, earlier=earlier, elsewhere=elsewhere,
        )  # fmt: skip

    def __str__(self) -> str:
        gaps = f", {count(self.gaps, 'gap')}" if self.gaps else ""
        rest = "" if self.besides else "; there are no checksums of its tables and details"
        done = f"{count(self.blocks, self.counted)}, {size(self.nbytes)} verified"
        if self.earlier:
            rest += f"; {earlier_words(self.earlier)}"
        if self.elsewhere:
            rest += f"; its parts lie in '{self.elsewhere}', and are nowhere else"
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
        If a part is missing or anything differs; it names all blocks that differ (of many the
        first), their rows and files, and says what mends it.
    """
    with result.refusing_damage(path), result.open(path) as f:
        return _verify(f, path)


def _verify(f: result.ResultFile, path: str | os.PathLike[str]) -> Verified:
    target = Target.load(f["hpcio/target"])
    is_several = SEVERAL in f.attrs
    several = result.of_trials_in(f) if is_several else {}
    state, expected = read_table(f["hpcio/state"]), read_table(f["hpcio/checksum"])
    if state.shape != target.start.shape or expected.shape != state.shape:
        raise ValueError("the states and checksums of its blocks do not fit them")
    besides = differing(f)
    if besides:  # what says how blocks must be is among it
        raise _changed(f, besides)
    done = state == DONE
    # A gap holds fill values: or a result would be lost if only its mark were damaged.
    _expect_fill(target, several, np.flatnonzero(~done), expected)
    every = np.ones(done.shape, bool)
    offset = None
    if not is_several and target.in_rows and target.nbytes and not f.virtual.is_virtual:
        offset = plain_offset(f.virtual, f.filename)
    wrong: list[int] = []
    if offset is not None:
        with comparing(f.filename, offset, target, every, expected) as differ:
            in_threads(
                lambda blocks: wrong.extend(differ(blocks)),
                runs_of_bytes(target, SPAN), threads=copying_threads(),
            )  # fmt: skip
    elif is_several:
        wrong += _differing_in_several(f, target, several, expected)
        read = {name: f[name].__getitem__ for name in f.results}
        for name in differing_averages(result.averages_in(f), read):
            raise _damaged_average(f, name, several, sorted(wrong))
    else:
        wrong += differing_blocks(target, every, expected, f["data"].__getitem__)
    if wrong:
        raise _damaged(f, several or {"data": target}, sorted(wrong))
    return Verified.of(
        path, target, done, besides=besides is not None, earlier=f.earlier,
        elsewhere=_elsewhere(f), trials=len(f["trials"]), averages=nbytes_of_averages(f),
    )  # fmt: skip


def _differing_in_several(
    f: result.ResultFile, record: Target, several: Mapping[str, Target], expected: np.ndarray
) -> list[int]:
    """The blocks that differ of several results: by their bytes, where all lie in this file."""
    offsets = [
        plain_offset(f.plain(name), f.filename)
        if target.in_rows and target.nbytes and not f.plain(name).is_virtual
        else None
        for name, target in several.items()
    ]
    known = [offset for offset in offsets if offset is not None]
    if len(known) < len(offsets):
        read = {name: f[name].__getitem__ for name in several}
        every = np.ones(expected.shape, bool)
        return list(differing_records(record, several, every, expected, read))
    places = []
    for offset, target in zip(known, several.values(), strict=True):
        stop = offset + np.cumsum(target.sizes())  # blocks lie in their order
        places.append((stop - target.sizes(), stop))
    wrong: list[int] = []
    fd = os.open(f.filename, os.O_RDONLY | os.O_CLOEXEC)

    def compare(blocks: np.ndarray) -> None:
        total = [StreamedChecksum() for _ in blocks]
        for start, stop in places:
            begin, end = int(start[blocks[0]]), int(stop[blocks[-1]])
            if blocks.size == 1:  # it may be large
                _add_up(total[0], fd, begin, end, np.empty(min(PIECE, end - begin), np.uint8))
                continue
            piece = np.empty(end - begin, np.uint8)
            _read(fd, piece, begin)
            edges = zip(start[blocks] - begin, stop[blocks] - begin, strict=True)
            for one, (a, b) in zip(total, edges, strict=True):
                one.update(piece[a:b])
        found = np.asarray([one.intdigest() for one in total], np.uint64)
        wrong.extend(blocks[found != expected[blocks]].tolist())

    try:
        in_threads(compare, runs_of_bytes(record, PIECE), threads=copying_threads())
    finally:
        os.close(fd)
    return wrong


def differing_records(
    record: Target,
    several: Mapping[str, Target],
    done: np.ndarray,
    expected: np.ndarray,
    read: Mapping[str, Callable[[tuple[slice, ...]], Any]],
) -> Iterator[int]:
    """The blocks of which any of several results is not as its record says.

    Raises
    ------
    ResultError
        If HDF5 cannot read them.
    """
    if not several:  # all of them are averaged
        return
    for blocks in _runs_of_trials(record, several):
        regions = {name: _around(target, blocks) for name, target in several.items()}
        found, wrong = {}, 0
        try:
            found, error = {name: read[name](region) for name, region in regions.items()}, None
        except HpcioError:
            raise
        except (OSError, RuntimeError) as said:  # a filter cannot make sense of a chunk
            error = said
        for block in blocks[done[blocks]].tolist():
            parts = []
            for name, target in several.items():
                inside = list(target.region(block))
                rows, first = inside[target.axis], regions[name][target.axis].start
                inside[target.axis] = slice(rows.start - first, rows.stop - first)
                whole = error is None
                parts.append(
                    found[name][tuple(inside)] if whole else _alone(target, block, read[name])
                )
            if any(part is None for part in parts) or _sum_of_parts(parts) != int(expected[block]):
                wrong += 1
                yield block
        if error is not None and not wrong:
            raise ResultError(f"HDF5 cannot read all of the result: {error}.") from error


def differing_averages(
    expected: Mapping[str, int], read: Mapping[str, Callable[[tuple[slice, ...]], Any]]
) -> Iterator[str]:
    """The averages among several results that are not what was computed.

    Raises
    ------
    ResultError
        If HDF5 cannot read one.
    """
    for name, check in expected.items():
        try:
            found = read[name](())
        except (OSError, RuntimeError) as error:  # a filter cannot make sense of a chunk
            raise ResultError(f"HDF5 cannot read the average '{name}': {error}.") from error
        if checksum(np.ascontiguousarray(found)) != check:
            yield name


def nbytes_of_averages(f: result.ResultFile) -> int:
    """Bytes of the averages among several results."""
    return sum(int(f.plain(name).nbytes) for name in result.averages_in(f))


def _sum_of_parts(parts: Sequence[np.ndarray]) -> int:
    """The checksum of the record of a block."""
    total = StreamedChecksum()
    for part in parts:
        total.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
    return int(total.intdigest())


def _runs_of_trials(record: Target, several: Mapping[str, Target]) -> Iterator[np.ndarray]:
    """Runs of blocks that are read at a time; channel blocks of a trial stay together."""
    starts = np.stack([target.start for target in several.values()])
    begins = np.append(True, (np.diff(starts, axis=1) != 0).any(axis=0))
    large = np.append(False, np.diff(record.start // THROUGH_HDF5) != 0)
    # Only where a trial begins; the size of a run is looked at there.
    trial = np.cumsum(begins) - 1
    cuts = np.unique(trial[large])
    yield from np.split(np.arange(record.start.size), np.searchsorted(trial, cuts))


def _around(target: Target, blocks: np.ndarray) -> tuple[slice, ...]:
    """The rows of a dataset that hold the results of some blocks."""
    first = int(target.start[blocks].min(initial=target.shape[target.axis]))
    last = int((target.start[blocks] + target.rows()[blocks]).max(initial=first))
    region = [slice(0, n) for n in target.shape]
    region[target.axis] = slice(first, last)
    return tuple(region)


def _elsewhere(f: result.ResultFile) -> str:
    """The run directory of the parts of a result, if it is not its own; "" if it is."""
    if "hpcio/sources" not in f or not len(f["hpcio/sources"]):
        return ""
    name = Path(f.filename)
    first = os.fsdecode(f["hpcio/sources"][0]["path"])
    folder = RunDirectory.of(str(out_of(name, first))).path
    return "" if folder == RunDirectory.of(str(name)).path else str(folder)


def _expect_fill(
    target: Target, several: Mapping[str, Target], gaps: np.ndarray, expected: np.ndarray
) -> None:
    """Put the checksums of fill values in the place of gaps, which have none."""
    known: dict[int, int] = {}
    for gap in gaps.tolist():
        index = int(target.shape_index[gap])
        if index not in known:
            each = several.values() or [target]
            known[index] = _sum_of_parts(
                [np.full(one.shape_of(gap), one.fill, one.dtype) for one in each]
            )
        expected[gap] = known[index]


def differing_blocks(
    target: Target,
    done: np.ndarray,
    expected: np.ndarray,
    read: Callable[[tuple[slice, ...]], Any],
) -> Iterator[int]:
    """The blocks whose bytes are not those expected, or that HDF5 cannot read."""
    for blocks, first, last in spans(target):
        region: list[slice] = [slice(0, n) for n in target.shape]
        region[target.axis] = slice(first, last)
        wrong = 0
        try:
            piece, error = read(tuple(region)), None
        except HpcioError:
            raise
        except (OSError, RuntimeError) as said:  # a filter cannot make sense of a chunk
            piece, error = None, said
        for b in blocks[done[blocks]].tolist():
            inside = list(target.region(b))
            rows = inside[target.axis]
            inside[target.axis] = slice(rows.start - first, rows.stop - first)
            block = _alone(target, b, read) if piece is None else piece[tuple(inside)]
            if block is None or checksum(np.ascontiguousarray(block)) != int(expected[b]):
                wrong += 1
                yield b
        if error is not None and not wrong:
            raise ResultError(f"HDF5 cannot read all of the result: {error}.") from error


def _alone(target: Target, block: int, read: Callable[[tuple[slice, ...]], Any]) -> Any:
    """One block; None if HDF5 cannot read it."""
    try:
        return read(target.region(block))
    except HpcioError:
        raise
    except (OSError, RuntimeError):
        return None


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
) -> Iterator[Callable[[np.ndarray], list[int]]]:
    """Open a contiguous dataset at byte `offset` of its file, to compare blocks in any thread.

    Yields
    ------
    differ : callable
        Reads consecutive blocks, and returns those whose bytes are not those expected.
    """
    stop = np.cumsum(target.sizes())  # blocks lie in their order
    start = stop - target.sizes()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def differ(blocks: np.ndarray) -> list[int]:
        memory = np.empty(PIECE, np.uint8)
        at, wrong = 0, []
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
            wrong += some[done[some] & (np.asarray(found, np.uint64) != expected[some])].tolist()
        return wrong

    try:
        yield differ
    finally:
        os.close(fd)


def _read(fd: int, array: np.ndarray, begin: int) -> None:
    if not read_at(fd, array, begin):
        raise ResultError("The file is shorter than its data. Restore it from a backup.")


def _sum_up(fd: int, begin: int, end: int, memory: np.ndarray) -> int:
    """The checksum of bytes of a file that do not fit into the memory."""
    total = StreamedChecksum()
    _add_up(total, fd, begin, end, memory)
    return int(total.intdigest())


def _add_up(total: Any, fd: int, begin: int, end: int, memory: np.ndarray) -> None:
    for a in range(begin, end, PIECE):
        piece = memory[: min(PIECE, end - a)]
        _read(fd, piece, a)
        total.update(piece)


# ---------------------------------------------------------------------- what is said


def _changed(file: h5py.File, what: list[str]) -> ResultError:
    """The error for things beside the data that are not what was published."""
    result = Path(file.filename)
    said = f"{what[0]} of '{result}' differs from what was published. "
    if len(what) > 1:
        many = f"{len(what):,} things in '{result}' differ from what was published:"
        said = "\n".join([many, *listed(what), ""])
    return ResultError(f"{said[0].upper()}{said[1:]}{remedy(result, _run_of(file))}")


def _damaged(file: h5py.File, targets: Mapping[str, Target], blocks: list[int]) -> ResultError:
    """The error for blocks that are not what was computed, by the files that hold them."""
    result, by_file = Path(file.filename), _by_file(file, blocks)
    parts = [path for path in by_file if path != str(result)]
    what = remedy(result, _run_of(file), parts)
    if len(blocks) == 1:
        block = in_words(targets, blocks[0])
        said = f"Block {block} differs from what was computed, in '{next(iter(by_file))}'."
        return ResultError(f"{said} {what}")
    shown = [(path, block) for path, inside in by_file.items() for block in inside][:_MOST]
    lines = [f"{len(blocks):,} blocks of '{result}' differ from what was computed:"]
    for path, inside in itertools.groupby(shown, key=lambda pair: pair[0]):
        words = ", ".join(f"block {in_words(targets, block)}" for _, block in inside)
        lines.append(f"  in '{path}': {words}")
    if len(blocks) > len(shown):
        lines.append(
            f"  ... and {len(blocks) - len(shown):,} more; {count(len(by_file), 'file')} in all"
        )
    return ResultError("\n".join([*lines, what]))


def _damaged_average(
    file: h5py.File, name: str, targets: Mapping[str, Target], blocks: list[int]
) -> ResultError:
    """The error for an average that is not what was computed, and perhaps blocks, too."""
    said = f"The average '{name}' differs from what was computed, in '{file.filename}'."
    if blocks:
        return ResultError(f"{said}\n{_damaged(file, targets, blocks)}")
    return ResultError(f"{said} {remedy(Path(file.filename), _run_of(file))}")


def in_words(targets: Mapping[str, Target], block: int) -> str:
    """A block and its rows, in each dataset."""
    found = []
    for name, target in targets.items():
        rows = target.region(block)[target.axis]
        found.append(f"{rows.start} to {rows.stop - 1} of '{name}'")
    return f"{block} (rows {', '.join(found)})"


def _by_file(file: h5py.File, blocks: list[int]) -> dict[str, list[int]]:
    """The file in which each block lies, and its blocks."""
    found: dict[str, list[int]] = {}
    if "hpcio/sources" not in file:
        return {file.filename: blocks}
    folder = os.path.dirname(file.filename)
    paths = read_table(file["hpcio/sources"])["path"].tolist()
    source = read_table(file["hpcio/source_of_block"])[blocks].tolist()
    for block, k in zip(blocks, source, strict=True):
        # A gap lies in no part.
        path = os.path.join(folder, os.fsdecode(paths[k])) if k >= 0 else file.filename
        found.setdefault(path, []).append(block)
    return found


def _run_of(file: h5py.File) -> Path:
    """The name that its run has given a result."""
    first = file["hpcio/sources"]["path"][:1].tolist() if "hpcio/sources" in file else []
    return out_of(Path(file.filename), os.fsdecode(first[0]) if first else None)
