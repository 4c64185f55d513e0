"""The row of `hpcio bench`: every writer beside its limit, on the file system of a folder."""

from __future__ import annotations

from collections.abc import Iterator

import click

from benchmarks.bench import Bench
from benchmarks.measure import Figure, compare
from hpcio.bench import SCALES, TEAMS, Team, measure
from hpcio.bench import Figure as Measured
from hpcio.machine import cores
from hpcio.words import size

_GB = (1.0, "s/GB")


def writers(bench: Bench) -> Iterator[Figure]:
    scale = SCALES["normal" if bench.full else "quick"]
    with Team(bench.folder / "team", cores(), TEAMS["processes"]) as team:
        for one in measure(bench.folder, team, scale):
            if not isinstance(one, Measured):
                click.echo(f"Left out: {one.what}, since {one.why}", err=True)
            elif one.limits and one.part == "write":
                yield _held(one)


def _held(one: Measured) -> Figure:
    """What it takes for each gigabyte, over what its limit takes for as many trials."""
    what = f"{size(one.size)} by {one.processes}: {one.what}"
    times = {what: one.values, one.limit: one.limits}
    taken = {name: [1e9 / rate for rate in rates] for name, rates in times.items()}
    return compare(taken, what=what, against=one.limit, scale=_GB)
