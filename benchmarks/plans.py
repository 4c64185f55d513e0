"""Rows of plans: a million trials planned and loaded, averages by condition, runs that are done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import hpcio
from benchmarks import planning
from benchmarks.bench import Bench, new_process, recording
from benchmarks.functions import identity
from benchmarks.limits import clock
from benchmarks.measure import Figure, alone, compare, interleave
from hpcio.journals import discard

_MIB = 2**20
_CONDITIONS = 4


def plans(bench: Bench) -> Iterator[Figure]:
    with h5py.File(bench.folder / "rec.h5", "w") as f:  # nothing but one trial is ever read
        f.create_dataset("data", (planning.TRIALS * planning.ROWS, 4), np.float32)
    found: dict[str, list[dict[str, float]]] = {}

    def call(action: str) -> None:
        said = json.loads(new_process("planning", action, bench.folder))
        found.setdefault(action, []).append(said)

    for _ in range(bench.repetitions):
        call("nothing")
        for make in ("make", "make_of_events"):  # those of events are loaded
            discard(bench.folder / "out.h5")
            call(make)
        call("load")
        call("load_for_worker")

    def figure(what: str, action: str, key: str, target: float | None) -> Figure:
        values = [said[key] / (_MIB if key == "peak" else 1) for said in found[action]]
        return alone(what, values, "MiB" if key == "peak" else "s", target)

    yield figure("planning 1,000,000 trials", "make", "seconds", 10.0)
    yield figure("... its peak of memory", "make", "peak", 1024.0)
    yield figure("... writing that plan", "make", "write", None)
    yield figure("the same of events, four columns, written", "make_of_events", "whole", 2.0)
    yield figure("... its peak of memory", "make_of_events", "peak", 300e6 / _MIB)
    yield figure("... that of a process that plans nothing", "nothing", "peak", None)
    yield figure("loading that plan", "load", "seconds", 2.0)
    yield figure("... its peak of memory", "load", "peak", None)
    yield figure("... likewise in a worker", "load_for_worker", "peak", None)


def averages(bench: Bench) -> Iterator[Figure]:
    rows, columns, count = 100, 16, bench.size(10_000, 100_000)
    source = recording(bench, count, rows, columns)
    condition = np.random.default_rng(0).integers(0, _CONDITIONS, count)
    trials = hpcio.Trials.equal(rows, rows=count * rows).with_columns(condition=condition)
    what, against = f"an average by {_CONDITIONS} conditions, in this process", "one of all trials"

    def run(by: str | None) -> float:
        with bench.fresh() as folder:
            plan = hpcio.Plan.create(
                identity, f"{source}::data", trials=trials, out=folder / "out.h5",
                keeptrials=False, by=by,
            )  # fmt: skip
            started = clock()
            plan.run(workers=0, progress=False)
            return clock() - started

    sides = {against: lambda: run(None), what: lambda: run("condition")}
    values = interleave(sides, bench.repetitions)
    yield compare(values, what=what, against=against, target=1.1)


def extend(bench: Bench) -> Iterator[Figure]:
    """A result of 100,000 trials that gets one more: the plan, the run, and the new file."""
    rows, count = 10, 100_000
    with h5py.File(bench.folder / "rec.h5", "w") as f:
        f.create_dataset("data", ((count + 2 * bench.repetitions) * rows, 4), np.float32)
    values: dict[str, list[float]] = {}
    for what, options in {"virtual": {}, "an average": {"keeptrials": False}}.items():
        out = bench.folder / f"{'average' if options else 'out'}.h5"
        start = np.arange(count) * rows
        made = hpcio.Plan.create(
            identity, f"{bench.folder}/rec.h5::data", trials=np.stack([start, start + rows], 1),
            out=out, **options,
        )  # fmt: skip
        made.run(workers=2, progress=False)
        for k in range(bench.repetitions):
            begin = (count + k) * rows
            started = clock()
            plan = hpcio.Plan.load(out).extend(trials=[[begin, begin + rows]])
            assert plan.run(workers=0, progress=False).computed == 1
            values.setdefault(what, []).append(clock() - started)
    yield alone("one more trial behind 100,000, virtual", values["virtual"], "s", 1.0)
    yield alone("... of an average", values["an average"], "s", 1.0)


def done_already(bench: Bench) -> Iterator[Figure]:
    recording(bench, 200, planning.ROWS, 4)
    assert _said("script", bench.folder)["computed"] == 200
    command = [sys.executable, "-m", "hpcio", *planning.shell_arguments(str(bench.folder))]
    sides = {
        "script": ("a script", lambda: new_process("planning", "script", bench.folder)),
        "shell": ("hpcio run", lambda: _quietly(command)),
    }
    for action, (what, whole) in sides.items():
        file = bench.folder / f"{action}.json"
        file.write_text(json.dumps(_said(action, bench.folder)["modules"]))
        imports = partial(new_process, "planning", "imports", file)
        values = interleave({"imports": _timed(imports), what: _timed(whole)}, bench.repetitions)
        beyond = [a - b for a, b in zip(values[what], values["imports"], strict=True)]
        yield alone(f"{what} that is done, beyond its imports", beyond, "s", 0.3)


def _said(action: str, folder: Path) -> dict[str, Any]:
    """The last line that a process says."""
    said: dict[str, Any] = json.loads(new_process("planning", action, folder).splitlines()[-1])
    return said


def _quietly(command: list[str]) -> None:
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.DEVNULL)


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        started = clock()
        call()
        return clock() - started

    return seconds
