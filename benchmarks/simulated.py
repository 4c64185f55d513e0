"""Predicted against measured: runs of a real SLURM on this machine, and `slurm.simulate`.

``python -m benchmarks.simulated`` starts a SLURM of two nodes, submits some configurations, and
takes from sbatch to the verified result. What the cluster is like is read off the first two, which
are no part of the comparison.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np

import hpcio
import slurm
from hpcio.journals import Ledger
from hpcio.reporting import read_timeline
from slurm.submissions import newest
from tests.rigs.slurm import Slurm, until

ROWS, CHANNELS = 50, 4
# Two nodes; no task waits for another's end before it may begin.
NODES, SLOTS = 2, 8


@dataclass(frozen=True)
class Configuration:
    """What is submitted: `seconds` is what each trial sleeps, `uneven` how they differ."""

    name: str
    tasks: int
    chunks: int
    trials: int
    seconds: float
    writer: str = "virtual"
    sources: str = "auto"
    uneven: str = ""
    stale: float = 120.0

    def sleeps(self) -> np.ndarray:
        """Seconds of each trial."""
        if self.uneven == "lognormal":
            drawn = np.random.default_rng(1).lognormal(0.0, 0.8, self.trials)
            return self.seconds * drawn / drawn.mean()
        if self.uneven == "late":  # the last tenth takes most of the time
            shape = np.where(np.arange(self.trials) < 0.9 * self.trials, 0.5, 5.5)
            return self.seconds * shape / shape.mean()
        return np.full(self.trials, self.seconds)


CALIBRATION = (
    Configuration("alone", 1, 1, 40, 0.05),
    Configuration("crowd", 8, 2, 1600, 0.02),
)
COMPARED = (
    Configuration("a", 1, 4, 100, 0.1),
    Configuration("b", 2, 4, 60, 0.5),
    Configuration("c", 2, 1, 800, 0.02, "direct"),
    Configuration("d", 3, 8, 240, 0.1),
    Configuration("e", 4, 4, 400, 0.1, "direct"),
    Configuration("f", 4, 1, 1200, 0.02),
    Configuration("g", 5, 3, 97, 0.4),
    Configuration("h", 6, 8, 600, 0.05, "direct"),
    Configuration("i", 8, 4, 400, 0.2),
    Configuration("j", 8, 1, 4000, 0.02),
    Configuration("k", 8, 8, 160, 0.5, "direct"),
    Configuration("l", 4, 4, 300, 0.1, uneven="lognormal"),
    Configuration("m", 4, 2, 300, 0.15, "direct", uneven="late", stale=12.0),
    Configuration("n", 6, 4, 500, 0.1, sources="trial"),
    Configuration("o", 3, 1, 200, 0.1, uneven="late"),
)

_FUNCTION = """
import time


def slept(trial, seconds, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, "f8"
    time.sleep(float(seconds))
    return trial
"""


@dataclass(frozen=True)
class Measured:
    """What became of a submission: seconds after sbatch was called.

    Attributes
    ----------
    began : tuple of float
        When each task was at its first trial.
    last : float
        When the last trial was done.
    published : float
        When its result was published and verified.
    busy : float
        Seconds that all trials took together, with reading and writing.
    """

    configuration: Configuration
    began: tuple[float, ...]
    last: float
    published: float
    busy: float


def measure(configuration: Configuration, folder: Path) -> Measured:
    """Submit a configuration to the SLURM at hand, and wait for its result."""
    folder.mkdir(parents=True)
    count = configuration.trials
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((count * ROWS, CHANNELS))
    (folder / "napping.py").write_text(_FUNCTION)
    seconds = configuration.sleeps()
    plan = hpcio.Plan.create(
        f"{folder}/napping.py:slept", f"{folder}/rec.h5::/lfp", trials=ROWS,
        args=(hpcio.per_trial(seconds),), out=folder / "out.h5", writer=configuration.writer,
        sources=configuration.sources,
    )  # fmt: skip
    options: dict[str, Any] = {"memory": "400MB", "walltime": "00:30:00"}
    run = slurm.submit(
        plan, tasks=configuration.tasks, chunks_per_task=configuration.chunks,
        stale=configuration.stale, **options,
    )  # fmt: skip
    outcome = Path(f"{run.out}.run", "outcome.json")
    until(outcome.exists, "the result")
    run.wait(timeout=60)
    plan = hpcio.Plan.load(run.out)
    made, said = newest(plan), json.loads(outcome.read_text())
    assert made is not None
    assert said["status"] == "complete", said["message"]
    times = read_timeline(Ledger.read(plan))
    began = [float(times.start[times.attempt == a].min()) for a in np.unique(times.attempt)]
    return Measured(
        configuration, tuple(sorted(t - made.time for t in began)),
        float(times.end.max() - made.time), said["time"] - made.time,
        float((times.compute + times.io).sum()),
    )  # fmt: skip


def measure_all(folder: Path, wanted: tuple[Configuration, ...]) -> list[Measured]:
    """Measure on a SLURM that is started for it."""
    rig = Slurm(folder / "slurm", nodes=NODES, cpus=SLOTS, memory=16_000)
    (folder / "slurm").mkdir()
    before = dict(os.environ)
    try:
        rig.up()
        os.environ.update(rig.environment)
        found = []
        for one in wanted:
            found.append(measure(one, folder / one.name))
            click.echo(json.dumps(asdict(found[-1])), err=True)
            time.sleep(0.5)
        return found
    finally:
        rig.down()
        os.environ.clear()
        os.environ.update(before)
