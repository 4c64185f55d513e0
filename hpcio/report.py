"""What the journals say, kept: who worked when on which block, as arrays and as pictures.

Everything is read from the journals of a run, so that it looks the same for every executor,
and costs the run nothing. matplotlib is imported only to draw.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcio.errors import MissingPackageError, ResultError
from hpcio.ledger import Ledger
from hpcio.plan import Plan
from hpcio.slab import as_output_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "Timeline", "canvas", "picture", "read_timeline", "throughput", "timeline"]

# Told apart by everybody: Okabe, M. & Ito, K. (2008), Color Universal Design.
COLOURS = {
    "blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "red": "#D55E00",
    "sky": "#56B4E9", "pink": "#CC79A7", "ink": "#222222", "grey": "#8A8A8A", "pale": "#EDEDED",
}  # fmt: skip

_DPI = 160
_STYLE: Any = {  # matplotlib's own type lists its 300 names
    "font.family": "sans-serif", "font.size": 9.5, "text.usetex": False,
    "axes.titlesize": 11, "axes.titlelocation": "left", "axes.titlepad": 8,
    "figure.titlesize": 12, "figure.titleweight": "bold",
    "figure.constrained_layout.w_pad": 0.1, "figure.constrained_layout.h_pad": 0.08,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": COLOURS["grey"],
    "text.color": COLOURS["ink"], "axes.labelcolor": COLOURS["ink"],
    "xtick.color": COLOURS["ink"], "ytick.color": COLOURS["ink"],
    "legend.frameon": False, "legend.fontsize": 9,
    # Whatever a matplotlibrc says of these, size and colours are those announced.
    "savefig.bbox": None, "savefig.facecolor": "white", "figure.facecolor": "white",
    "axes.facecolor": "white", "figure.autolayout": False,
}  # fmt: skip

# Columns of a timeline: blocks that begin in the same one are drawn as one.
_COLUMNS = 600
# More rows than this are too thin for two colours on top of each other.
_THICK_ROWS = 24
# A pause longer than this share of the work is cut out of a timeline, to this much of it.
_PAUSE, _CUT = 0.5, 0.04


# ---------------------------------------------------------------------- arrays


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

    def __len__(self) -> int:
        """Number of blocks."""
        return int(self.block.size)


def read_timeline(ledger: Ledger) -> Timeline:
    """Read when each block was at work; of two attempts at one, the one that counts.

    Parameters
    ----------
    ledger : Ledger

    Returns
    -------
    Timeline
        As long as there are blocks that are done.

    Examples
    --------
    >>> times = read_timeline(Ledger.read(Plan.load("out.h5")))  # doctest: +SKIP
    >>> times.compute.sum() / (times.end.max() - times.start.min())  # doctest: +SKIP
    1.87
    """
    block = np.flatnonzero(ledger.done)
    block = block[np.lexsort((ledger.record["end"][block], ledger.log[block]))]
    record = ledger.record[block]
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
        workers=tuple((str(x.about["host"]), str(x.about["label"])) for x in ledger.logs),
        finish=max((float(x.records["end"][-1]) for x in ledger.logs if x.records.size), default=0),
        function=ledger.plan.function.name,
    )


# ---------------------------------------------------------------------- drawing


def timeline(ax: Axes, times: Timeline) -> None:
    """Draw who worked when: a row for each worker, filled by how it spent its time.

    Blocks too short to see are merged; the height that a colour takes of a row is its share
    of the time. Rows too thin for that get a mixture of the colours instead. A pause between
    two runs is cut out.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    times : Timeline

    Raises
    ------
    ResultError
        If no block is done yet.
    """
    start, end, span, pauses = _without_pauses(times)
    row, names = _rows(times)
    bars = _merge(row, start, end, times.compute, times.io, span / _COLUMNS)
    height = 0.8 if len(names) <= _THICK_ROWS else 1.0
    ax.barh(np.arange(len(names)), span, height, color=COLOURS["pale"])
    if len(names) <= _THICK_ROWS:
        _stack(ax, bars, height, wide=6 * span / _COLUMNS)
    else:
        _mix(ax, bars)
    _mark(ax, pauses)
    _legend(ax, times, span * len(names))
    margin = 0.9 if len(names) == 1 else 0.6
    # The axis points down, so that the first worker is on top.
    ax.set(xlim=(0, span), ylim=(len(names) - 1 + margin, -margin), xlabel="time (s)")
    ax.set_ylabel("worker")
    step = -(-len(names) // 16)
    ax.set_yticks(range(0, len(names), step), names[::step])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _stack(ax: Axes, bars: _Bars, height: float, *, wide: float) -> None:
    """Two colours on top of each other in each bar."""
    # Bars that are wide are single blocks: a gap between them lets each be seen.
    gap = 0.5 if float(np.median(bars.right - bars.left)) > wide else 0.0
    bottom = bars.row + height / 2
    for colour, share in (("blue", bars.compute), ("orange", bars.io)):
        top = bottom - height * share
        _boxes(ax, bars, bottom, top, facecolors=COLOURS[colour], linewidths=gap)
        bottom = top


def _mix(ax: Axes, bars: _Bars) -> None:
    """One colour for each bar, mixed by its shares of time."""
    from matplotlib.colors import to_rgb

    shares = np.stack([bars.compute, bars.io, 1 - bars.compute - bars.io], axis=1)
    mixed = shares @ np.asarray([to_rgb(COLOURS[c]) for c in ("blue", "orange", "pale")])
    _boxes(ax, bars, bars.row + 0.5, bars.row - 0.5, facecolors=mixed, linewidths=0.0)


def _boxes(ax: Axes, bars: _Bars, bottom: np.ndarray, top: np.ndarray, **style: Any) -> None:
    from matplotlib.collections import PolyCollection

    corners = [(bars.left, bottom), (bars.left, top), (bars.right, top), (bars.right, bottom)]
    boxes: Any = np.moveaxis(np.asarray(corners), 2, 0)
    ax.add_collection(PolyCollection(boxes, edgecolors="white", antialiaseds=False, **style))


def _legend(ax: Axes, times: Timeline, total: float) -> None:
    """Name the colours, with their shares of the `total` seconds of all workers."""
    from matplotlib.patches import Patch

    compute, io = float(times.compute.sum()) / total, float(times.io.sum()) / total
    parts = (
        ("computing", compute, "blue"),
        ("reading and writing", io, "orange"),
        ("waiting", max(0.0, 1 - compute - io), "pale"),
    )
    ax.legend(
        handles=[Patch(color=COLOURS[c], label=f"{name} {share:.0%}") for name, share, c in parts],
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.2,
        handlelength=1.0, columnspacing=1.4,
    )  # fmt: skip


def _mark(ax: Axes, pauses: list[tuple[float, float]]) -> None:
    """Show where a pause was cut out."""
    for at, seconds in pauses:
        ax.axvline(at, color=COLOURS["ink"], linestyle=":", linewidth=1)
        ax.annotate(
            f"pause of {_duration(seconds)}", (at, 1), xycoords=("data", "axes fraction"),
            xytext=(3, -3), textcoords="offset points", va="top", fontsize="small",
        )  # fmt: skip


def throughput(ax: Axes, times: Timeline) -> None:
    """Draw how many bytes are read and written in a second, over the time of the run.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
    times : Timeline

    Raises
    ------
    ResultError
        If no block is done yet.
    """
    start, end, span, pauses = _without_pauses(times)
    edges = np.linspace(0, span, 121)
    width = edges[1]
    bottom = np.zeros(120)
    for name, colour, sizes in (
        ("read", "sky", times.nbytes_read),
        ("written", "green", times.nbytes),
    ):
        top = bottom + np.diff(_passed(start, end, sizes, edges)) / width / 1e6
        mean = sizes.sum() / span / 1e6
        ax.stairs(
            top, edges, baseline=bottom, fill=True, color=COLOURS[colour],
            label=f"{name}, {_number(mean)} MB/s on average",
        )  # fmt: skip
        bottom = top
    _mark(ax, pauses)
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)
    ax.set(xlim=(0, span), xlabel="time (s)", ylabel="throughput (MB/s)")
    ax.set_ylim(0, 1.15 * float(bottom.max()))  # room for the names of pauses


def picture(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Draw the throughput and the timeline of a run: a PNG of 1600 x 1100 pixels.

    Parameters
    ----------
    path : str or path
        The picture; replaced if it is there.
    out : str or path
        The result of the run, finished or not; its run directory must be there.

    Returns
    -------
    pathlib.Path
        The picture.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    PlanError
        If there is no run directory.
    ResultError
        If no block is done yet.
    OutputError
        If the picture cannot be written.
    """
    times = read_timeline(Ledger.read(Plan.load(out)))
    with canvas(path, 1600, 1100) as figure:
        top, bottom = figure.subplots(2, 1, height_ratios=(2, 3))
        figure.suptitle(summary(times), x=0.012, ha="left")
        top.set_title("Throughput")
        throughput(top, times)
        bottom.set_title("Workers")
        timeline(bottom, times)
    return Path(path)


def summary(times: Timeline) -> str:
    """One line on a run: what ran, on how many blocks, how fast."""
    _, _, seconds, _ = _without_pauses(times)
    workers = len(_rows(times)[1])
    nbytes = int(times.nbytes.sum() + times.nbytes_read.sum())
    return (
        f"{times.function}, {_count(len(times), 'block')} by {_count(workers, 'worker')} in "
        f"{_duration(seconds)}: {_number(len(times) / seconds)} blocks/s, "
        f"{_number(nbytes / 1e6 / seconds)} MB/s"
    )


@contextmanager
def canvas(path: str | os.PathLike[str], width: int, height: int) -> Iterator[Figure]:
    """A figure to draw on, saved as a PNG of `width` x `height` pixels at the end.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    OutputError
        If the picture cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "Pictures need matplotlib. Install it: pip install 'hpcio[plot]'"
        ) from error
    with matplotlib.rc_context(_STYLE):
        # A figure of its own: pyplot would keep it, and might open a window.
        figure = Figure((width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
        yield figure
        try:
            figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": "hpcio"})
        except OSError as error:
            raise as_output_error(error, path) from error


# ---------------------------------------------------------------------- arithmetic


def _rows(times: Timeline) -> tuple[np.ndarray, list[str]]:
    """The row of each block, and the names of the rows.

    Attempts of one worker that follow each other, as those of a resumed run, share a row.
    """
    attempts, first = np.unique(times.attempt, return_index=True)
    begin = times.start[first]
    finish = np.maximum.reduceat(times.end, first)
    rows: list[tuple[tuple[str, str], float]] = []  # whose, and busy until
    row_of = np.zeros(len(times.workers), np.int64)
    for k in np.argsort(begin, kind="stable").tolist():
        worker = times.workers[attempts[k]]
        free = [r for r, (owner, until) in enumerate(rows) if owner == worker and until <= begin[k]]
        row = free[0] if free else len(rows)
        rows[row : row + 1] = [(worker, float(finish[k]))]
        row_of[attempts[k]] = row
    # w2 before w10.
    order = sorted(range(len(rows)), key=lambda r: (rows[r][0][0], len(rows[r][0][1]), rows[r][0]))
    place = np.argsort(order)
    several = len({host for (host, _), _ in rows}) > 1
    names = [f"{host} {label}" if several else label for (host, label), _ in rows]
    return place[row_of[times.attempt]], [names[r] for r in order]


def _without_pauses(
    times: Timeline,
) -> tuple[np.ndarray, np.ndarray, float, list[tuple[float, float]]]:
    """Start and end of each block from 0 on, with long pauses cut short.

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
    limit = max(1.0, _PAUSE * busy)
    long = np.flatnonzero(gap > limit)
    old, new, pauses = [float(begin[0])], [0.0], []
    for k in long.tolist():
        left = new[-1] + float(until[k]) - old[-1]
        old += [float(until[k]), float(begin[k + 1])]
        new += [left, left + _CUT * busy]
        pauses.append((left + _CUT * busy / 2, float(gap[k])))
    old.append(max(float(until[-1]), old[-1] + 1e-6))
    new.append(new[-1] + old[-1] - old[-2])
    span = new[-1] + min(max(0.0, times.finish - old[-1]), limit)
    return np.interp(times.start, old, new), np.interp(times.end, old, new), span, pauses


@dataclass(frozen=True, eq=False)
class _Bars:
    """Bars of a timeline: the row, left and right of each, and its shares of time."""

    row: np.ndarray
    left: np.ndarray
    right: np.ndarray
    compute: np.ndarray
    io: np.ndarray


def _merge(
    row: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    compute: np.ndarray,
    io: np.ndarray,
    column: float,
) -> _Bars:
    """Make one bar of all blocks of a row that begin in the same column of the picture."""
    order = np.lexsort((start, row))
    row, start, end, compute, io = (x[order] for x in (row, start, end, compute, io))
    where = np.floor(start / column)
    new = (np.diff(row, prepend=-1) != 0) | (np.diff(where, prepend=-1.0) != 0)
    first = np.flatnonzero(new)
    left, right = start[first], np.maximum.reduceat(end, first)
    # What is too narrow to see belongs to the bar before it.
    follows = np.append((np.diff(row[first]) == 0) & (left[1:] - right[:-1] < column), False)
    right = np.where(follows, np.roll(left, -1), right)
    width = np.maximum(right - left, 1e-9)
    shares = [np.add.reduceat(x, first) / width for x in (compute, io)]
    # The clocks of a journal are not exact to the microsecond.
    over = np.maximum(shares[0] + shares[1], 1.0)
    return _Bars(row[first], left, right, shares[0] / over, shares[1] / over)


def _passed(start: np.ndarray, end: np.ndarray, sizes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Bytes passed at each of the times `at`, if each block's pass evenly while it is at work."""
    slope = sizes / np.maximum(end - start, 1e-6)
    when = np.concatenate([start, np.maximum(end, start + 1e-6)])
    order = np.argsort(when, kind="stable")
    when, change = when[order], np.concatenate([slope, -slope])[order]
    rate = np.cumsum(change)
    passed = np.concatenate([[0.0], np.cumsum(rate[:-1] * np.diff(when))])
    return np.asarray(np.interp(at, when, passed))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    """A time as people say it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{_number(seconds / size)} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{_number(seconds * 1e3)} ms"
