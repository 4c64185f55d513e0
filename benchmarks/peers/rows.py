"""The rows of ``--peers``: one for each size of trials."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.bench import Bench, Row, recording
from benchmarks.measure import Figure, compare
from benchmarks.peers.asking import measured
from benchmarks.peers.systems import ACME, HPCIO, LOCAL, LOOP, SYNCOPY, TOLD, System
from benchmarks.peers.work import Work

# A loop that is done sooner leaves nothing to share out.
_WORTH_SHARING = 0.1


@dataclass(frozen=True)
class Size:
    """Trials of one size, and what hpcio is to take of the time of the faster of esi-*."""

    trials: int
    rows: int
    columns: int
    target: float

    def __str__(self) -> str:
        return f"{self.trials:,} trials of {self.rows:,} x {self.columns}"


SIZES = {
    "peers-a": Size(200, 2_000, 64, 1 / 8),
    "peers-b": Size(2_000, 500, 32, 1 / 60),
    "peers-c": Size(20, 100_000, 64, 1 / 2),
}


def rows(systems: Sequence[System], sizes: Mapping[str, Size] = SIZES) -> dict[str, Row]:
    """A row for each size, of these systems."""
    return {name: _row(systems, size) for name, size in sizes.items()}


def _row(systems: Sequence[System], size: Size) -> Row:
    def row(bench: Bench) -> Iterator[Figure]:
        source = recording(bench, size.trials, size.rows, size.columns)
        work = Work(str(source), size.trials, size.rows, size.columns)
        values = measured(systems, work, bench.folder, repetitions=bench.repetitions)
        yield from figures(values, size.target)

    return row


def figures(values: Mapping[str, Sequence[float]], target: float) -> Iterator[Figure]:
    """hpcio over each of the others, and what its variants are over the loop and over it."""
    medians = {name: statistics.median(each) for name, each in values.items()}
    esi = [name for name in (ACME, SYNCOPY) if name in values]
    targets: dict[str, float | None] = {
        name: 1.0 for name in values if name not in (HPCIO, TOLD, LOCAL)
    }
    targets |= dict.fromkeys(esi)
    if esi:
        targets[min(esi, key=medians.__getitem__)] = target
    if medians[LOOP] <= _WORTH_SHARING:
        targets[LOOP] = None
    for against, limit in targets.items():
        yield compare(values, what=HPCIO, against=against, target=limit)
    for what, against in ((TOLD, HPCIO), (TOLD, LOOP), (LOCAL, LOOP)):
        if what in values:
            yield compare(values, what=what, against=against)
