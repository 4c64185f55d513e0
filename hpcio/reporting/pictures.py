"""Pictures of a run: who worked when, and how fast. matplotlib is imported only to draw."""

from __future__ import annotations

import html
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcio.errors import MissingPackageError, as_output_error
from hpcio.journals import Ledger
from hpcio.planning import load_plan
from hpcio.reporting.timeline import (
    COLUMNS,
    Bars,
    Timeline,
    bars_of,
    passed_by,
    read_timeline,
    rows_of,
    shares_of,
    without_pauses,
    worked,
)
from hpcio.words import count, duration, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "as_svg",
    "canvas",
    "draw_throughput",
    "draw_timeline",
    "drawing",
    "picture",
    "read_timeline",
    "summary",
]

# Colours that everybody can tell apart: Okabe, M. & Ito, K. (2008), Color Universal Design.
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
    "svg.fonttype": "none", "svg.hashsalt": "hpcio",  # the same run, the same bytes
}  # fmt: skip

# More rows than this are too thin for two colours on top of each other.
_THICK_ROWS = 24


def draw_timeline(ax: Axes, times: Timeline) -> None:
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
    start, end, span, pauses = without_pauses(times)
    row, names = rows_of(times)
    count = len(names)
    if count <= _THICK_ROWS:
        ax.barh(np.arange(count), span, 0.8, color=COLOURS["pale"])
        _stack(ax, bars_of(row, start, end, times.compute, times.io, span / COLUMNS), span)
    else:
        ax.barh((count - 1) / 2, span, count, color=COLOURS["pale"])
        _mix(ax, *shares_of(row, start, end, times.compute, times.io, span, count), span, count)
    _mark(ax, pauses, span)
    _legend(ax, times, span * count)
    margin = 0.9 if count == 1 else 0.6
    room = 0.5 + 0.05 * count if pauses else 0.0  # for their names
    # The axis points down, so that the first worker is on top.
    ax.set(ylim=(count - 1 + margin, -margin - room), ylabel="worker")
    _time_axis(ax, span)
    step = -(-count // 16)
    # A dollar in the name of a user does not begin mathematics.
    ax.set_yticks(range(0, count, step), names[::step], parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _stack(ax: Axes, bars: Bars, span: float) -> None:
    """Two colours on top of each other in each bar."""
    from matplotlib.collections import PolyCollection

    width = bars.right - bars.left
    # Bars that are wide are single blocks: a gap between them lets each be seen.
    wide = float(np.median(width)) > 6 * span / COLUMNS
    left, right = bars.left, bars.right - (np.minimum(0.001 * span, width / 2) if wide else 0.0)
    bottom = bars.row + 0.4
    for colour, share in (("blue", bars.compute), ("orange", bars.io)):
        top = bottom - 0.8 * share
        corners = [(left, bottom), (left, top), (right, top), (right, bottom)]
        boxes: Any = np.moveaxis(np.asarray(corners), 2, 0)
        # As vectors they would make an SVG of megabytes.
        ax.add_collection(
            PolyCollection(
                boxes, facecolors=COLOURS[colour], linewidths=0, antialiaseds=False, rasterized=True
            )
        )
        bottom = top


def _mix(ax: Axes, compute: np.ndarray, io: np.ndarray, span: float, count: int) -> None:
    """Rows of pixels: the colour by what a worker did, the opacity by how much of the time."""
    from matplotlib.colors import to_rgb

    busy = compute + io
    share = compute / np.maximum(busy, 1e-9)
    image = np.empty((*busy.shape, 4))
    blue, orange = (np.asarray(to_rgb(COLOURS[c])) for c in ("blue", "orange"))
    # Sixteen steps are more than the eye tells apart here, and make a small file.
    share, busy = (np.rint(16 * x) / 16 for x in (share, busy))
    image[..., :3] = share[..., np.newaxis] * (blue - orange) + orange
    image[..., 3] = np.minimum(busy, 1.0)
    ax.imshow(
        np.rint(255 * image).astype(np.uint8), extent=(0, span, count - 0.5, -0.5),
        aspect="auto", interpolation="nearest", zorder=1.5,
    )  # fmt: skip


def _time_axis(ax: Axes, span: float) -> None:
    """An axis of `span` seconds, in units that make small numbers."""
    from matplotlib.ticker import MaxNLocator

    size, name = next((x for x in ((3600, "h"), (60, "min")) if span > 5 * x[0]), (1, "s"))
    ax.set(xlim=(0, span), xlabel=f"time ({name})")
    if size > 1:
        ticks = np.asarray(MaxNLocator(9, steps=[1, 2, 5, 10]).tick_values(0, span / size))
        ticks = ticks[ticks <= span / size]
        ax.set_xticks(ticks * size, [f"{tick:g}" for tick in ticks])


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


def _mark(ax: Axes, pauses: list[tuple[float, float]], span: float) -> None:
    """Show where a pause was cut out."""
    for at, seconds in pauses:
        side = 1 if at < 0.8 * span else -1
        ax.axvline(at, color=COLOURS["ink"], linestyle=":", linewidth=1)
        ax.annotate(
            f"pause of {duration(seconds)}", (at, 1), xycoords=("data", "axes fraction"),
            xytext=(3 * side, -1), textcoords="offset points", fontsize="small",
            va="top", ha="left" if side > 0 else "right",
        )  # fmt: skip


def draw_throughput(ax: Axes, times: Timeline) -> None:
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
    start, end, span, pauses = without_pauses(times)
    seconds = worked(times)
    edges = np.linspace(0, span, 121)
    width = edges[1]
    bottom = np.zeros(120)
    for name, colour, sizes in (
        ("read", "sky", times.nbytes_read),
        ("written", "green", times.nbytes),
    ):
        top = bottom + np.diff(passed_by(start, end, sizes, edges)) / width / 1e6
        mean = sizes.sum() / seconds / 1e6
        ax.stairs(
            top, edges, baseline=bottom, fill=True, color=COLOURS[colour],
            label=f"{name}, {number(mean)} MB/s on average",
        )  # fmt: skip
        bottom = top
    _mark(ax, pauses, span)
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)
    ax.set_ylabel("throughput (MB/s)")
    ax.set_ylim(0, 1.15 * float(bottom.max()))  # room for the names of pauses
    _time_axis(ax, span)


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
    times = read_timeline(Ledger.read(load_plan(out)))
    with canvas(path, 1600, 1100) as figure:
        figure.suptitle(summary(times), x=0.012, ha="left", parse_math=False)
        _both(figure, times, height_ratios=(2, 3))
    return Path(path)


def drawing(times: Timeline) -> str:
    """Draw the throughput and the timeline of a run as a piece of SVG to stand in HTML.

    Its text is text, in whatever font the page has. What is not coloured is in the variables
    of CSS ``--ink``, ``--grey`` and ``--pale``, so that a page may be dark.

    Parameters
    ----------
    times : Timeline

    Returns
    -------
    str

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    ResultError
        If no block is done yet.
    """
    rows = min(len(rows_of(times)[1]), 20)
    upper, lower = 340, 160 + 32 * rows
    return as_svg(
        lambda figure: _both(figure, times, height_ratios=(upper, lower)), 1600, upper + lower,
        about="Throughput and workers over time",
    )  # fmt: skip


def as_svg(draw: Callable[[Figure], None], width: int, height: int, *, about: str) -> str:
    """Draw a figure as a piece of SVG to stand in HTML; see `drawing`.

    Parameters
    ----------
    draw : callable
        Is given the figure, of `width` x `height` pixels.
    width, height : int
    about : str
        What it shows, for those who cannot see it.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    """
    text = io.StringIO()
    with _figure(width, height) as figure:
        draw(figure)
        none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", dpi=_DPI, transparent=True, metadata=none)
    return _for_html(text.getvalue(), about)


def _both(figure: Figure, times: Timeline, *, height_ratios: tuple[float, float]) -> None:
    top, bottom = figure.subplots(2, 1, height_ratios=height_ratios)
    top.set_title("Throughput")
    draw_throughput(top, times)
    bottom.set_title("Workers")
    draw_timeline(bottom, times)


def _for_html(svg: str, about: str) -> str:
    """An SVG file as an element of HTML, which needs no names of schemas."""
    head, body = svg[svg.index("<svg") :].split(">", 1)
    head = re.sub(r' (xmlns(:\w+)?|version|width|height)="[^"]*"', "", head)
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # nothing refers to them
    for name in ("ink", "grey", "pale"):
        colour = COLOURS[name].lower()
        body = re.sub(f"(fill|stroke): {colour}", rf"\1: var(--{name})", body)
    return f'{head} role="img" aria-label="{html.escape(about)}">{body}'


def summary(times: Timeline) -> str:
    """One line on a run: what ran, on how many blocks, how fast."""
    seconds = worked(times)
    workers = len(rows_of(times)[1])
    nbytes = int(times.nbytes.sum() + times.nbytes_read.sum())
    return (
        f"{times.function}, {count(len(times), times.counted)} by {count(workers, 'worker')} in "
        f"{duration(seconds)}: {number(len(times) / seconds)} {times.counted}s/s, "
        f"{number(nbytes / 1e6 / seconds)} MB/s"
    )


@contextmanager
def canvas(path: str | os.PathLike[str], width: int, height: int) -> Iterator[Figure]:
    """A figure to draw on, saved as a PNG, or a file of SVG, of `width` x `height` pixels.

    Raises
    ------
    MissingPackageError
        If matplotlib is not installed.
    OutputError
        If the picture cannot be written.
    """
    with _figure(width, height) as figure:
        yield figure
        try:
            if os.fspath(path).endswith(".svg"):
                figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "hpcio"})
            else:
                figure.savefig(path, format="png", dpi=_DPI, metadata={"Software": "hpcio"})
        except OSError as error:
            raise as_output_error(error, path) from error


@contextmanager
def _figure(width: int, height: int) -> Iterator[Figure]:
    """A figure of `width` x `height` pixels, in the style that all pictures have."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "Pictures need matplotlib. Install it: pip install 'hpcio[plot]'"
        ) from error
    with matplotlib.rc_context(_STYLE):
        # A figure of its own: pyplot would keep it, and might open a window.
        yield Figure((width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
