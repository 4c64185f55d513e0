"""The results of ``--peers`` in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from benchmarks import show
from benchmarks.measure import Figure
from benchmarks.peers.rows import SIZES
from benchmarks.peers.systems import LOOP, SYSTEMS, LeftOut
from hpcio.bench import Spread

# By row, then by system.
Seconds = Mapping[str, Mapping[str, Spread]]


def seconds_of(figures: Sequence[Figure]) -> Seconds:
    """What each system took in each row, in the order of `SYSTEMS`."""
    raw: dict[str, dict[str, Sequence[float]]] = {}
    for figure in figures:
        raw.setdefault(figure.row, {}).update(figure.raw)
    names = [system.name for system in SYSTEMS]
    return {
        row: {name: Spread.of(values[name]) for name in names if name in values}
        for row, values in raw.items()
    }


def markdown(
    machine: Mapping[str, object], figures: Sequence[Figure], left_out: Sequence[LeftOut]
) -> str:
    lines = ["# The same work by others", ""]
    lines += ["Made by `python -m benchmarks --peers --markdown`;"]
    lines += ["[README.md](README.md#the-same-work-by-others) says what is measured.", ""]
    lines += show.facts(machine)
    for one in left_out:
        lines += ["", f"Left out: {', '.join(one.names)} ({one.why})."]
    lines += ["", "## Seconds", "", *_seconds(seconds_of(figures))]
    return "\n".join(lines + show.tables(figures)) + "\n"


def _seconds(found: Seconds) -> Iterator[str]:
    """A line for each system: the median, its quartiles, and how often the loop fits into it."""
    titles = [f"{row}: {SIZES[row]}" if row in SIZES else row for row in found]
    yield show.line(("seconds, median (quartiles), over the loop", *titles))
    yield "|---" + "|---:" * len(titles) + "|"
    for name in dict.fromkeys(name for each in found.values() for name in each):
        cells = [_cell(each[name], each[LOOP].median) for each in found.values()]
        yield show.line((name, *cells))


def _cell(spread: Spread, loop: float) -> str:
    number = show.number
    quartiles = f"{number(spread.lower)} to {number(spread.upper)}"
    return f"{number(spread.median)} ({quartiles}), {number(spread.median / loop)}"
