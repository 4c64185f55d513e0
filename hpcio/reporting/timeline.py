"""Who worked when on which block, from the journals, as arrays.

Everything is read from the journals of a run, so that it looks the same for every executor,
and costs the run nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpcio.errors import ResultError
from hpcio.journals import Ledger

__all__ = [
    "COLUMNS",
    "Bars",
    "Timeline",
    "bars_of",
    "names_of",
    "passed_by",
    "read_timeline",
    "rows_of",
    "shares_of",
    "without_pauses",
    "worked",
]

# Columns of a timeline: blocks that begin in the same one are drawn as one.
COLUMNS = 600
# More rows than this have no line of pixels of their own.
FINEST_ROWS = 400
# A pause longer than PAUSE, as a share of the work, is drawn as short as CUT, likewise.
PAUSE, CUT = 0.5, 0.04


@dataclass(frozen=True, eq=False)
class Timeline:
    """When each finished block was at work, and in which attempt.

    Attributes
    ----------
    block : numpy.ndarray of int64, shape (n,)
        The blocks that are done, those of an attempt together and in the order of their end.
    attempt : numpy.ndarray of int32, shape (n,)
        Index into `workers`.
    start, end : numpy.ndarray of float64, shape (n,)
        Seconds since 1970, by the clock of the worker's machine.
    compute, io : numpy.ndarray of float64, shape (n,)
        Seconds in the compute function, and of reading and writing.
    nbytes, nbytes_read : numpy.ndarray of int64, shape (n,)
        Bytes of the result, and of the trial.
    workers : tuple of tuple of str
        Host and label of the worker of each attempt.
    finish : float
        When the last attempt wrote its last record, its data being safe on disk.
    function : str
        What was computed, as ``MODULE:FUNC``.
    counted : str
        What people count, ``trial`` or ``block``.
    """

    block: np.ndarray
    attempt: np.ndarray
    start: np.ndarray
    end: np.ndarray
    compute: np.ndarray
    io: np.ndarray
    nbytes: np.ndarray
    nbytes_read: np.ndarray
    workers: tuple[tuple[str, str], ...]
    finish: float
    function: str
    counted: str = "block"

    def __len__(self) -> int:
        """Number of blocks."""
        return int(self.block.size)


def read_timeline(ledger: Ledger) -> Timeline:
    """Read when each block was at work; if two attempts did a block, the one that counts.

    Parameters
    ----------
    ledger : Ledger

    Returns
    -------
    Timeline
        Of length 0 if no block is done.

    Examples
    --------
    >>> times = read_timeline(Ledger.read(Plan.load("out.h5")))  # doctest: +SKIP
    >>> times.compute.sum() / (times.end.max() - times.start.min())  # doctest: +SKIP
    1.87
    """
    block = np.flatnonzero(ledger.done)
    block = block[np.lexsort((ledger.values_of("end", block), ledger.log[block]))]
    record = ledger.records_of(block)
    compute, io = record["compute"].astype(np.float64), record["io"].astype(np.float64)
    return Timeline(
        block=block,
        attempt=ledger.log[block],
        start=record["end"] - compute - io,
        end=record["end"],
        compute=compute,
        io=io,
        nbytes=record["nbytes"],
        nbytes_read=ledger.plan.input_sizes()[block],
        workers=tuple((str(x.header["host"]), str(x.header["label"])) for x in ledger.logs),
        finish=max((float(x.records["end"][-1]) for x in ledger.logs if x.records.size), default=0),
        function=ledger.plan.function.name,
        counted=ledger.plan.counted,
    )


def rows_of(times: Timeline) -> tuple[np.ndarray, list[str]]:
    """The row of each block, and the names of the rows.

    Attempts of one worker that follow each other, as those of a resumed run, share a row.
    """
    attempts, first = np.unique(times.attempt, return_index=True)
    begin = times.start[first]
    finish = np.maximum.reduceat(times.end, first)
    owners: list[tuple[str, str]] = []
    busy_until: list[float] = []
    mine: dict[tuple[str, str], list[int]] = {}
    row_of = np.zeros(len(times.workers), np.int64)
    for k in np.argsort(begin, kind="stable").tolist():
        worker = times.workers[attempts[k]]
        row = next((r for r in mine.get(worker, ()) if busy_until[r] <= begin[k]), len(owners))
        if row == len(owners):
            mine.setdefault(worker, []).append(row)
            owners.append(worker)
            busy_until.append(0.0)
        busy_until[row] = float(finish[k])
        row_of[attempts[k]] = row
    # w2 before w10.
    order = sorted(range(len(owners)), key=lambda r: (len(owners[r][1]), owners[r][::-1]))
    place = np.argsort(order)
    names = names_of(owners)
    return place[row_of[times.attempt]], [names[r] for r in order]


def names_of(workers: Sequence[tuple[str, str]]) -> list[str]:
    """Names for workers of a host and a label: the label, if it is of one host alone.

    Examples
    --------
    >>> names_of([("n1", "7_0"), ("n2", "7_1"), ("n3", "7_1")])
    ['7_0', 'n2 7_1', 'n3 7_1']
    """
    hosts = Counter(label for _, label in set(workers))
    return [label if hosts[label] == 1 else f"{host} {label}" for host, label in workers]


def without_pauses(
    times: Timeline, *, cut: float = CUT
) -> tuple[np.ndarray, np.ndarray, float, list[tuple[float, float]]]:
    """Start and end of each block from 0 on, long pauses cut to a share of all work.

    Returns
    -------
    start, end : numpy.ndarray of float64, shape (n,)
        Seconds.
    span : float
        Seconds to the end of all, when the last data were safe.
    pauses : list of (float, float)
        Where one was cut, and how long it was, in seconds.
    """
    if not len(times):
        raise ResultError("No block is done yet, so there is nothing to draw. Run the plan first.")
    order = np.argsort(times.start)
    begin, until = times.start[order], np.maximum.accumulate(times.end[order])
    gap = np.maximum(begin[1:] - until[:-1], 0.0)
    busy = float(until[-1] - begin[0] - gap.sum())
    limit = max(1.0, PAUSE * busy)
    long = np.flatnonzero(gap > limit)
    old, new, pauses = [float(begin[0])], [0.0], []
    for k in long.tolist():
        left = new[-1] + float(until[k]) - old[-1]
        old += [float(until[k]), float(begin[k + 1])]
        new += [left, left + cut * busy]
        pauses.append((left + cut * busy / 2, float(gap[k])))
    old.append(max(float(until[-1]), old[-1] + 1e-6))
    new.append(new[-1] + old[-1] - old[-2])
    span = new[-1] + min(max(0.0, times.finish - old[-1]), limit)
    return np.interp(times.start, old, new), np.interp(times.end, old, new), span, pauses


def worked(times: Timeline) -> float:
    """Seconds from the first block until the last data were safe, without long pauses.

    Raises
    ------
    ResultError
        If no block is done yet.
    """
    return without_pauses(times, cut=0.0)[2]


@dataclass(frozen=True, eq=False)
class Bars:
    """Bars of a timeline: the row, left and right of each, and its shares of time."""

    row: np.ndarray
    left: np.ndarray
    right: np.ndarray
    compute: np.ndarray
    io: np.ndarray


def bars_of(
    row: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    compute: np.ndarray,
    io: np.ndarray,
    column: float,
) -> Bars:
    """Make one bar of all blocks of a row that begin in the same column of the picture."""
    order = np.lexsort((start, row))
    row, start, end, compute, io = (x[order] for x in (row, start, end, compute, io))
    where = np.floor(start / column)
    new = (np.diff(row, prepend=-1) != 0) | (np.diff(where, prepend=-1.0) != 0)
    first = np.flatnonzero(new)
    left, right = start[first], np.maximum.reduceat(end, first)
    # A gap too narrow to see belongs to the bar before it.
    follows = np.append((np.diff(row[first]) == 0) & (left[1:] - right[:-1] < column), False)
    right = np.where(follows, np.roll(left, -1), right)
    width = np.maximum(right - left, 1e-9)
    shares = [np.add.reduceat(x, first) / width for x in (compute, io)]
    # The clocks of a journal are not exact to the microsecond.
    over = np.maximum(shares[0] + shares[1], 1.0)
    return Bars(row[first], left, right, shares[0] / over, shares[1] / over)


def shares_of(
    row: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    compute: np.ndarray,
    io: np.ndarray,
    span: float,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The shares of time that computing and io take, for each column of each line of pixels."""
    lines = min(count, FINEST_ROWS)
    line_of = np.arange(count) * lines // count
    # All lines one after the other, as if in one long row, are one call instead of a thousand.
    shift = line_of[row] * span
    edges = np.linspace(0, lines * span, lines * COLUMNS + 1)
    whole = span / COLUMNS * np.bincount(line_of)
    compute, io = (
        np.diff(passed_by(start + shift, end + shift, x, edges)).reshape(lines, COLUMNS)
        / whole[:, np.newaxis]
        for x in (compute, io)
    )
    # The clocks of a journal are not exact to the microsecond.
    over = np.maximum(compute + io, 1.0)
    return compute / over, io / over


def passed_by(start: np.ndarray, end: np.ndarray, sizes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bytes passed at each of the times `at`, if each block's pass evenly while it is at work."""
    slope = sizes / np.maximum(end - start, 1e-6)
    when = np.concatenate([start, np.maximum(end, start + 1e-6)])
    order = np.argsort(when, kind="stable")
    when, change = when[order], np.concatenate([slope, -slope])[order]
    rate = np.cumsum(change)
    passed = np.concatenate([[0.0], np.cumsum(rate[:-1] * np.diff(when))])
    return np.asarray(np.interp(at, when, passed))
