"""What a plan takes as its trials grow, up to ten million: seconds, memory, room on the disk.

``python -m benchmarks.growth.plans make KIND TRIALS DIR`` makes one, ``load`` loads it as a worker
does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import h5py
import numpy as np

import hpcio
from benchmarks.bench import new_process
from benchmarks.functions import first_sample
from benchmarks.growth.part import Part, line, nbytes, per, style, value, word
from benchmarks.planning import peak
from hpcio.journals import prepare
from hpcio.planning import load_for_worker
from hpcio.words import size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COUNTS = (10_000, 100_000, 1_000_000, 10_000_000)
KINDS = ("equal", "events")
ROWS, CHANNELS, RATE = 10, 4, 1000.0


@dataclass(frozen=True)
class Planned:
    """One plan.

    `plan`, `write`, `load` are seconds of making it, of writing it, and of loading it as a worker
    does. `peak` and `worker` are bytes of memory at the peaks of these processes, `nothing` of one
    that only imports hpcio; `nbytes` is what lies on the disk.
    """

    kind: str
    trials: int
    plan: float
    write: float
    load: float
    peak: int
    worker: int
    nothing: int
    nbytes: int


def make(kind: str, trials: int, folder: Path) -> dict[str, float]:
    """Make a plan of equal trials, or of such at random times that have two columns."""
    source = folder / "rec.h5"
    with h5py.File(source, "w") as f:  # nothing but one trial is ever read
        f.create_dataset("data", (trials * ROWS, CHANNELS), np.float32)
    what: hpcio.Trials | int = ROWS
    started = time.perf_counter()
    if kind == "events":
        random = np.random.default_rng(0)
        onsets = np.sort(random.integers(0, (trials - 1) * ROWS, trials)) / RATE
        columns = {
            "condition": np.array(["left", "right"])[random.integers(0, 2, trials)],
            "rt": random.random(trials),
        }
        started = time.perf_counter()
        what = hpcio.Trials.from_events(onsets, rate=RATE, post=ROWS / RATE, columns=columns)
    plan = hpcio.Plan.create(
        first_sample, f"{source}::data", trials=what, out=folder / "out.h5", sources="task"
    )
    made = time.perf_counter()
    rundir = prepare(plan).rundir
    written = time.perf_counter()
    assert len(plan) == trials
    return {
        "plan": made - started, "write": written - made, "peak": peak(),
        "nbytes": (rundir.path / "plan.h5").stat().st_size,
    }  # fmt: skip


def load(folder: Path) -> dict[str, float]:
    """Load it as workers do."""
    started = time.perf_counter()
    assert len(load_for_worker(folder / "out.h5"))
    return {"load": time.perf_counter() - started, "worker": peak()}


def measure_all(inside: Path, most: int, repetitions: int) -> list[Planned]:
    """Plans of all sizes up to one, each made and loaded in new processes."""
    found = []
    for _ in range(repetitions):
        nothing = json.loads(new_process("planning", "nothing", inside))["peak"]
        for trials in (count for count in COUNTS if count <= most):
            for kind in KINDS:
                with TemporaryDirectory(prefix="hpcio-bench-", dir=inside) as folder:
                    made = json.loads(new_process("growth.plans", "make", kind, trials, folder))
                    loaded = json.loads(new_process("growth.plans", "load", folder))
                found.append(Planned(kind, trials, **made, **loaded, nothing=nothing))
    return found


def beyond(name: str) -> Callable[[Planned], float]:
    """Bytes a trial of memory, without what a process has that plans nothing."""
    return lambda one: float((getattr(one, name) - one.nothing) / one.trials)


def draw(figure: Figure, groups: Sequence[Sequence[Planned]]) -> None:
    """Seconds and bytes a trial, against the number of trials."""
    times, sizes = figure.subplots(1, 2)
    across = attrgetter("trials")
    for kind, colour, marker in (("equal", "blue", "o"), ("events", "red", "s")):
        those = [group for group in groups if group[0].kind == kind]
        for name, dashes, words in (
            ("plan", "-", "planning"), ("write", "--", "writing"), ("load", ":", "loading")
        ):  # fmt: skip
            line(times, those, across, per("trials", name, 1e6), dashes, colour, marker,
                 f"{kind}: {words}")  # fmt: skip
        for name, dashes, words in (("peak", "-", "planning"), ("worker", ":", "loading")):
            line(sizes, those, across, beyond(name), dashes, colour, marker,
                 f"{kind}: memory, {words}")  # fmt: skip
        line(sizes, those, across, per("trials", "nbytes"), "--", colour, marker,
             f"{kind}: on the disk")  # fmt: skip
    style(times, "Time of a trial", "trials in the plan", "µs")
    style(sizes, "Bytes of a trial, beyond a process that plans nothing", "trials in the plan", "B")


PART = Part(
    name="plans",
    title="Plans",
    about=(
        "Plans that are made, written and loaded, nothing computed: of equal trials that lie back "
        "to back, and of trials at random times with a column of text and one of numbers. Memory "
        "is that of the whole process; one that only imports hpcio is beside it. Medians, and the "
        "range of repetitions."
    ),
    picture="growth-plans.svg",
    alt="Time and bytes of a trial of a plan, against the number of trials",
    size=(1600, 760),
    row=Planned,
    key=lambda one: (one.kind, one.trials),
    measure=measure_all,
    cells={
        "trials are": word(lambda one: one.kind),
        "trials": word(lambda one: f"{one.trials:,}"),
        "planning": value(lambda one: one.plan, "s", spread=True),
        "writing": value(lambda one: one.write, "s", spread=True),
        "loading": value(lambda one: one.load, "s", spread=True),
        "memory, planning": nbytes(lambda one: one.peak),
        "loading it": nbytes(lambda one: one.worker),
        "doing nothing": nbytes(lambda one: one.nothing),
        "on the disk": nbytes(lambda one: one.nbytes, size),
        "a trial": value(lambda one: one.nbytes / one.trials, "B"),
    },
    draw=draw,
)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        print(json.dumps(make(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))))
    else:
        print(json.dumps(load(Path(sys.argv[2]))))
