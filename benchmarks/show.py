"""Figures as a table: on the terminal, and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Figure

_COLUMNS = ("row", "measured\nagainst", "median", "ratio", "paired (quartiles)", "target", "others")


def number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def _cells(figure: Figure) -> tuple[str, ...]:
    """One cell for each column; two lines where the limit stands below the thing."""
    unit, thing, limit = figure.unit, figure.thing, figure.limit
    target = ""
    if figure.target is not None:
        target = f"≤ {figure.target:.4g}" + (f" {unit}" if figure.absolute else "")
    what, median = figure.what, f"{number(thing.median)} {unit}"
    spread = f"({number(thing.lower)} to {number(thing.upper)} {unit})"
    if limit is not None and figure.ratio is not None:
        what += f"\n{figure.against}"
        median += f"\n{number(limit.median)} {unit}"
        paired = figure.ratio
        spread = f"{_ratio(paired.median)} ({_ratio(paired.lower)} to {_ratio(paired.upper)})"
    ratio = "" if figure.ratio_of_medians is None else _ratio(figure.ratio_of_medians)
    return figure.row, what, median, ratio, spread, target, f"{figure.others:.1f}"


def _by_folder(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    found: dict[str, list[Figure]] = {}
    for figure in figures:
        found.setdefault(figure.folder, []).append(figure)
    return found


def terminal(console: Console, figures: Sequence[Figure]) -> None:
    for folder, those in _by_folder(figures).items():
        table = Table(title=folder, title_justify="left", box=box.SIMPLE_HEAD)
        for k, name in enumerate(_COLUMNS):
            table.add_column(name, justify="left" if k < 2 else "right")
        for figure in those:
            table.add_row(*_cells(figure))
        console.print(table)


def markdown(machine: Mapping[str, object], figures: Sequence[Figure]) -> str:
    lines = ["# Results", "", "Made by `python -m benchmarks --markdown`; [README.md](README.md) "]
    lines[-1] += "says what the rows are."
    return "\n".join([*lines, "", *facts(machine), *tables(figures)]) + "\n"


def facts(machine: Mapping[str, object]) -> list[str]:
    """Lines of a table of what a machine is."""
    return ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in machine.items())]


def tables(figures: Sequence[Figure]) -> list[str]:
    """Lines of a section for each folder."""
    lines: list[str] = []
    for folder, those in _by_folder(figures).items():
        lines += ["", f"## {folder}", "", line(_COLUMNS)]
        lines += ["|---|---" + "|---:" * (len(_COLUMNS) - 2) + "|"]
        lines += [line(_cells(figure)) for figure in those]
    return lines


def line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("\n", "<br>") for cell in cells) + " |"
