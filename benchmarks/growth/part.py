"""A part of the benchmark: what it measures, its table, and its picture."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rich import box
from rich.table import Table

from hpcio.reporting import COLOURS, canvas
from hpcio.words import memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

R = TypeVar("R", bound=Any)  # a frozen dataclass of numbers and words


@dataclass(frozen=True)
class Part(Generic[R]):
    """One part.

    Attributes
    ----------
    name : str
        As the command is told.
    title, about : str
        Above its table in Markdown.
    picture : str
        Its file.
    alt : str
        What the picture shows, for who cannot see it.
    size : tuple of int
        Of the picture, in pixels.
    row : type
        Of one measurement.
    key : callable
        What repetitions of a measurement have in common; they are sorted by it.
    measure : callable
        Of a folder, the largest size, and how often to repeat.
    cells : dict of str to callable
        By the head of a column, what it says of all repetitions of a measurement.
    draw : callable
        Draws groups of repetitions on a figure.
    """

    name: str
    title: str
    about: str
    picture: str
    alt: str
    size: tuple[int, int]
    row: type[R]
    key: Callable[[R], tuple[Any, ...]]
    measure: Callable[[Path, int, int], list[R]]
    cells: Mapping[str, Callable[[Sequence[R]], str]]
    draw: Callable[[Figure, Sequence[Sequence[R]]], None]

    def groups(self, found: Iterable[R]) -> list[list[R]]:
        """Repetitions of the same, together."""
        groups: dict[tuple[Any, ...], list[R]] = {}
        for one in found:
            groups.setdefault(self.key(one), []).append(one)
        return [groups[key] for key in sorted(groups)]

    def said(self, found: Iterable[R]) -> list[dict[str, Any]]:
        """All that was measured, for JSON."""
        return [asdict(one) for one in found]

    def read(self, said: Iterable[Mapping[str, Any]]) -> list[R]:
        """What was kept as JSON."""
        return [self.row(**one) for one in said]

    def rows(self, found: Iterable[R]) -> list[list[str]]:
        """What the table says."""
        return [[cell(group) for cell in self.cells.values()] for group in self.groups(found)]

    def table(self, found: Iterable[R]) -> Table:
        """For a terminal."""
        made = Table(box=box.SIMPLE_HEAD, title=self.title, title_justify="left")
        for k, head in enumerate(self.cells):
            made.add_column(head, justify="right" if k else "left")
        for row in self.rows(found):
            made.add_row(*row)
        return made

    def markdown(self, found: Iterable[R], facts: Mapping[str, object]) -> str:
        """The machine, the table and the picture, below a heading."""
        where = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
        rows = "".join(f"| {' | '.join(row)} |\n" for row in self.rows(found))
        return (
            f"## {self.title}\n\n{self.about}\n\n![{self.alt}](../docs/images/{self.picture})\n\n"
            f"| | |\n|---|---|\n{where}\n| {' | '.join(self.cells)} |\n"
            f"|---|{'---:|' * (len(self.cells) - 1)}\n{rows}"
        )

    def save_picture(self, folder: Path, found: Iterable[R]) -> None:
        """Draw it into a folder."""
        with canvas(folder / self.picture, *self.size) as figure:
            self.draw(figure, self.groups(found))


def update_page(path: Path, head: str, sections: Mapping[str, str]) -> None:
    """Write sections of Markdown, by their titles; others of the page stay as they are."""
    parts = re.split(r"^(?=## )", path.read_text() if path.exists() else "", flags=re.MULTILINE)
    there = {part.splitlines()[0].removeprefix("## "): part for part in parts if part[:3] == "## "}
    kept = {title: text.rstrip() + "\n" for title, text in {**there, **sections}.items()}
    path.write_text("\n".join([head.rstrip() + "\n", *kept.values()]))


def update_json(path: Path, found: Mapping[str, Any]) -> None:
    """Keep what was measured of some parts; of others stays what was there."""
    there = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**there, **found}, indent=1) + "\n")


# ---------------------------------------------------------------------- cells, lines


def value(
    of: Callable[[Any], float], unit: str = "", *, spread: bool = False, form: str = ".3g"
) -> Callable[[Sequence[Any]], str]:
    """A cell: the median of repetitions; with `spread`, their range behind it."""

    def cell(group: Sequence[Any]) -> str:
        values = [of(one) for one in group]
        after = f" {unit}" if unit else ""
        told = f"{median(values):{form}}"
        if spread and len(values) > 1 and min(values) < max(values):
            told += f" ({min(values):{form}} to {max(values):{form}})"
        return told + after

    return cell


def nbytes(
    of: Callable[[Any], float], show: Callable[[int], str] = memory
) -> Callable[[Sequence[Any]], str]:
    """A cell: the median of repetitions, as a size."""
    return lambda group: show(int(median(map(of, group))))


def word(of: Callable[[Any], str]) -> Callable[[Sequence[Any]], str]:
    """A cell that all repetitions have in common."""
    return lambda group: of(group[0])


def per(by: str, name: str, scale: float = 1.0) -> Callable[[Any], float]:
    """For a line: a number of a measurement, divided by another one."""
    return lambda one: float(scale * getattr(one, name) / getattr(one, by))


def line(
    ax: Axes, groups: Sequence[Sequence[Any]], x: Callable[[Any], float],
    y: Callable[[Any], float], dashes: str, colour: str, marker: str, label: str,
) -> None:  # fmt: skip
    """A line through medians, with the range of repetitions; not through what is 0."""
    kept = [group for group in groups if median(map(y, group)) > 0]
    if not kept:
        return
    middle = [median(map(y, group)) for group in kept]
    low = [m - min(map(y, group)) for m, group in zip(middle, kept, strict=True)]
    high = [max(map(y, group)) - m for m, group in zip(middle, kept, strict=True)]
    ax.errorbar(
        [x(group[0]) for group in kept], middle, [low, high], linestyle=dashes, marker=marker,
        color=COLOURS[colour], markersize=4, elinewidth=0.8, label=label,
    )  # fmt: skip


def style(ax: Axes, title: str, across: str, up: str) -> None:
    """Logarithmic axes whose numbers people read."""
    ax.set(xscale="log", yscale="log", title=title, xlabel=across, ylabel=up)
    ax.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
    ax.yaxis.set_major_formatter(lambda number, _: f"{number:,g}")
    ax.minorticks_off()
    ax.grid(axis="y", color=COLOURS["pale"])
    # Below: lines that fall and lines that rise leave no corner free.
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
