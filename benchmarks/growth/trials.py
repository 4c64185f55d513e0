"""What a run takes as its trials grow: seconds, memory, open files.

``python -m benchmarks.growth.trials WRITER TRIALS DIR`` is one run, in a process that has done
nothing before.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import h5py
import numpy as np

import hpcio
from benchmarks.bench import new_process
from benchmarks.functions import subtract_mean
from benchmarks.growth.part import Part, line, nbytes, per, style, value, word
from benchmarks.machine import below
from hpcio.watching import status

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS, CHANNELS = 8, 40
NBYTES = 4 * ROWS * CHANNELS
COUNTS = (100, 1_000, 10_000, 100_000, 1_000_000)
WRITERS = ("virtual", "direct")
WORKERS = 2
# How often, in seconds, memory and open files of all processes are looked at.
_LOOK = 0.02


@dataclass(frozen=True)
class Grown:
    """One run: seconds of planning, of work, and of all else, and what its processes held.

    `session` and `worker` are bytes of memory at their peaks, `files` the most that one had open,
    `beside` bytes of the result beside its data, `looked` seconds of `hpcio status`.
    """

    writer: str
    trials: int
    plan: float
    work: float
    around: float
    session: int
    worker: int
    files: int
    beside: int
    looked: float


class Watch:
    """Looks at this process and at all below it."""

    def __init__(self) -> None:
        self.memory: dict[int, int] = {}
        self.files = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK):
            for pid in below(os.getpid()):
                try:
                    said = Path(f"/proc/{pid}/status").read_text()
                    files = len(os.listdir(f"/proc/{pid}/fd"))
                except (FileNotFoundError, ProcessLookupError):  # it has just ended
                    continue
                peak = next((x for x in said.splitlines() if x.startswith("VmHWM:")), "VmHWM: 0 kB")
                self.memory[pid] = max(self.memory.get(pid, 0), 1024 * int(peak.split()[1]))
                self.files = max(self.files, files)


def measure(folder: Path, writer: str, trials: int) -> Grown:
    """Plan and run so many trials in this process, which has done nothing before."""
    out, source = folder / "out.h5", folder / "rec.h5"
    with h5py.File(source, "w") as f:
        f.create_dataset("data", (trials * ROWS, CHANNELS), np.float32)
    with Watch() as watch:
        begin = time.perf_counter()
        plan = hpcio.Plan.create(
            subtract_mean, f"{source}::data", trials=ROWS, out=out, writer=writer, join="stack"
        )
        planned = time.perf_counter()
        done = plan.run(workers=WORKERS, progress=False)
        over = time.perf_counter()
    looking = time.perf_counter()
    status(str(out))
    looked = time.perf_counter() - looking
    own = watch.memory.pop(os.getpid())
    data = trials * NBYTES if writer == "direct" else 0
    return Grown(
        writer, trials, planned - begin, done.seconds, over - planned - done.seconds, own,
        max(watch.memory.values()), watch.files, out.stat().st_size - data, looked,
    )  # fmt: skip


def measure_all(inside: Path, most: int, repetitions: int) -> list[Grown]:
    """Runs of all sizes up to one, each in a new process."""
    found = []
    for _ in range(repetitions):
        for trials in (count for count in COUNTS if count <= most):
            for writer in WRITERS:
                with TemporaryDirectory(prefix="hpcio-bench-", dir=inside) as folder:
                    said = new_process("growth.trials", writer, trials, folder)
                found.append(Grown(**json.loads(said)))
    return found


def megabytes(name: str) -> Callable[[Grown], float]:
    """A number of bytes."""
    return lambda one: float(getattr(one, name) / 1e6)


def draw(figure: Figure, groups: Sequence[Sequence[Grown]]) -> None:
    """Seconds a trial, and memory, against the number of trials."""
    times, memories = figure.subplots(1, 2)
    across = attrgetter("trials")
    kinds = (
        ("work", "-", "work"),
        ("plan", ":", "planning"),
        ("around", "--", "start, publishing"),
    )
    for writer, colour, marker in (("virtual", "blue", "o"), ("direct", "green", "^")):
        those = [group for group in groups if group[0].writer == writer]
        for name, dashes, words in kinds:
            line(times, those, across, per("trials", name, 1e6), dashes, colour, marker,
                 f"{writer}: {words}")  # fmt: skip
        for name, dashes in (("session", "-"), ("worker", "--")):
            line(memories, those, across, megabytes(name), dashes, colour, marker,
                 f"{writer}: {name}")  # fmt: skip
    style(times, "Time of a trial", "trials", "µs")
    style(memories, "Memory at its peak", "trials", "MB")
    memories.set_yticks([30, 100, 300])
    memories.set_ylim(25, 400)


PART = Part(
    name="trials",
    title="Trials",
    about=(
        f"Plans of trials of 1,280 bytes, run by {WORKERS} workers; each run in a new process. "
        "Medians, and the range of repetitions."
    ),
    picture="growth.svg",
    alt="Time of a trial, and memory, against the number of trials",
    size=(1600, 760),
    row=Grown,
    key=lambda one: (one.writer, one.trials),
    measure=measure_all,
    cells={
        "writer": word(lambda one: one.writer),
        "trials": word(lambda one: f"{one.trials:,}"),
        "planning": value(lambda one: one.plan, "s"),
        "work": value(lambda one: one.work, "s", spread=True),
        "all else": value(lambda one: one.around, "s"),
        "work a trial": value(lambda one: 1e6 * one.work / one.trials, "µs"),
        "session": nbytes(lambda one: one.session),
        "largest other": nbytes(lambda one: one.worker),
        "open files": value(lambda one: one.files, form=".0f"),
        "beside the data": value(lambda one: one.beside / one.trials, "B"),
        "status": value(lambda one: one.looked, "s"),
    },
    draw=draw,
)


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Path(sys.argv[3]), sys.argv[1], int(sys.argv[2])))))
