"""Rows of functions that return more than an array: several results, details."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import hpcio
from benchmarks.bench import Bench, Row, recording, run
from benchmarks.functions import identity, thirds, with_a_detail
from benchmarks.limits import clock
from benchmarks.measure import Figure, alone, compare, interleave
from hpcio.journals import rundir
from hpcio.results import publish
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.writers import backend_of, trusted_ledger


def outputs(label: str, rows: int, quick: int, full: int) -> Row:
    """Runs of three results, over runs of one with the same bytes."""

    def row(bench: Bench) -> Iterator[Figure]:
        source = recording(bench, bench.size(quick, full), rows, 100)
        for writer in ("virtual", "direct"):
            what = f"trials of {label} in three results, {writer}"
            against = f"trials of {label} in one, {writer}"

            def seconds(func: object, writer: str = writer) -> float:
                with bench.fresh() as folder:
                    return run(source, folder, rows, func, writer=writer)  # type: ignore[arg-type]

            sides = {against: lambda: seconds(identity), what: lambda: seconds(thirds)}
            values = interleave(sides, bench.repetitions)
            yield compare(values, what=what, against=against, target=1.3)

    return row


def details(bench: Bench) -> Iterator[Figure]:
    """Trials of 400 bytes with a detail each: computing them, and making the result."""
    count = bench.size(20_000, 70_000)
    source = recording(bench, count, 1, 100)
    computing: dict[str, list[float]] = {"with": [], "without": []}
    publishing: dict[str, list[float]] = {"with": [], "without": []}
    for repetition in range(bench.repetitions + 1):
        for name, func in (("without", identity), ("with", with_a_detail)):
            with bench.fresh() as folder:
                plan = rundir.prepare(
                    hpcio.Plan.create(func, f"{source}::data", trials=1, out=folder / "out.h5")
                )
                backend_of(plan).reserve(plan)
                started = clock()
                with Attempt(plan, "bench") as attempt:
                    run_batch(attempt, np.arange(count))
                    attempt.sync()
                computed = clock()
                publish(trusted_ledger(plan))
                if repetition:
                    computing[name].append(computed - started)
                    publishing[name].append(clock() - computed)
    yield alone(f"{count:,} trials with a detail, computing", computing["with"], "s", None)
    yield alone("... without", computing["without"], "s", None)
    yield alone("... with, publishing", publishing["with"], "s", 5.0)
    yield alone("... without, publishing", publishing["without"], "s", None)
