"""A page about a file system, to open in a browser and to mail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcio.bench.figures import WRITERS, Figure, Spread
from hpcio.bench.kept import Found
from hpcio.bench.place import Place
from hpcio.reporting import COLOURS, GENERATOR, as_svg, render, save_page
from hpcio.words import memory, number, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

__all__ = ["HEADS", "PARTS", "draw", "figure_rows", "write_page"]

# How each line is drawn: colour, marker, dashes. The limits are grey, and thin.
_LINES: dict[str, tuple[str, str, str]] = {
    "own files": ("ink", "", "--"),
    "one file": ("grey", "", "--"),
    "a file a trial": ("grey", "", ":"),
    "virtual": ("blue", "o", "-"),
    "virtual-trial": ("sky", "s", "-"),
    "direct": ("green", "^", "-"),
    "mpi": ("pink", "D", "-"),
    "mutex": ("red", "v", "-"),
}
_LIMITS = {
    "own files": "limit: pwrite and fsync, files of their own",
    "one file": "limit: pwrite and fsync, one file",
    "a file a trial": "limit: open, pwrite, close, and sync, a file a trial",
}


# Above what `figure_rows` gives, but for the first cell.
HEADS = ("processes", "rate", "quartiles", "times the limit")


def write_page(path: Path, found: Found) -> Path:
    """Write a page of HTML about what was found.

    Raises
    ------
    MissingPackageError
        If jinja2 or matplotlib is not installed.
    OutputError
        If it cannot be written, or its name is taken by another file.
    """
    return save_page(path, lambda: _render(found))


def _render(found: Found) -> str:
    counts = _counts(found.figures)
    about = "Throughput against the size of a trial, for each writer, with the limit"
    drawing = ""
    if counts:
        drawing = as_svg(lambda canvas: draw(canvas, found.figures), 1600, 720, about=about)
    return render(
        "bench", generator=GENERATOR, place=found.place, facts=_facts(found.place),
        advice=found.advice, drawing=drawing, left_out=found.left_out,
        heads=[("", False), *((head, True) for head in HEADS)],
        parts=[(title, list(figure_rows(found.figures, part))) for part, title in PARTS.items()],
    )  # fmt: skip


PARTS = {
    "write": "Writing trials",
    "records": "Hard records (IO500: ior)",
    "files": "Small files (IO500: mdtest)",
    "read": "The result, read again",
}


def _facts(place: Place) -> list[tuple[str, str]]:
    return [
        ("folder", place.folder),
        ("file system", f"{place.filesystem} ({', '.join(place.mounted)})"),
        *([("striping", place.striping)] if place.striping else []),
        ("nodes", ", ".join(place.hosts)),
        ("processes", str(place.processes)),
        ("machine", f"{place.cores} cores, {memory(place.memory)}, {place.processor}"),
        ("kernel", place.kernel),
        ("Python", place.python),
        *place.versions.items(),
        ("date", place.date),
    ]


def figure_rows(figures: Sequence[Figure], part: str) -> Iterator[tuple[str, ...]]:
    """What figures of one part say, as cells of a table."""
    for f in figures:
        if f.part != part:
            continue
        ratio = f.ratio
        words = _LIMITS.get(f.what) or WRITERS.get(f.what, ("", "", f.what))[2]
        yield (
            words if part == "read" else f"{size(f.size)}: {words}",
            f"{f.processes}" if f.nodes == 1 else f"{f.processes} on {f.nodes} nodes",
            _rate(f, f.spread.median),
            f"{_rate(f, f.spread.lower)} to {_rate(f, f.spread.upper)}",
            "" if ratio is None else f"{ratio.median:.2f} ({ratio.lower:.2f} to {ratio.upper:.2f})",
        )


def _rate(figure: Figure, value: float) -> str:
    return f"{number(value)}/s" if figure.unit == "1/s" else f"{size(value)}/s"


# ---------------------------------------------------------------------- the picture


def _counts(figures: Sequence[Figure]) -> list[int]:
    """How many processes are drawn: one, if it wrote trials of several sizes, and all."""
    sizes: dict[int, set[int]] = {}
    for f in figures:
        if f.part == "write":
            sizes.setdefault(f.processes, set()).add(f.size)
    if not sizes:
        return []
    drawn = [count for count in (min(sizes), max(sizes)) if len(sizes[count]) > 1]
    return sorted({*drawn, max(sizes)})


def draw(canvas: Canvas, figures: Sequence[Figure]) -> None:
    """Draw the throughput against the size of a trial, with the limit: one process, and all."""
    counts = _counts(figures)
    axes = canvas.subplots(1, len(counts), sharex=True, sharey=True, squeeze=False)[0]
    for ax, count in zip(axes, counts, strict=True):
        _draw_count(ax, [f for f in figures if f.part == "write" and f.processes == count])
        ax.set_title("one process" if count == 1 else f"{count} processes together")
    axes[0].set_ylabel("throughput (MB/s)")
    handles, labels = axes[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=3)


def _draw_count(ax: Axes, figures: Sequence[Figure]) -> None:
    for name, (colour, marker, dashes) in _LINES.items():
        points: list[tuple[int, Spread]] = sorted(
            ((f.size, f.spread) for f in figures if f.what == name), key=lambda point: point[0]
        )
        if not points:
            continue
        x = [at for at, _ in points]
        middle, low, high = ([getattr(s, k) / 1e6 for _, s in points]
                             for k in ("median", "lower", "upper"))  # fmt: skip
        label: Any = _LIMITS.get(name) or WRITERS[name][2]
        ax.fill_between(x, low, high, color=COLOURS[colour], alpha=0.15, linewidth=0)
        ax.plot(x, middle, dashes, marker=marker, color=COLOURS[colour], label=label,
                linewidth=1.2 if not marker else 1.8, markersize=5)  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="bytes of a trial")
    ticks = sorted({f.size for f in figures})
    ax.set_xticks(ticks, [size(tick) for tick in ticks])
    ax.minorticks_off()
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.grid(axis="y", color=COLOURS["pale"])
