"""Predicted against measured: runs of a real SLURM on this machine, and `slurm.simulate`.

``python -m benchmarks.simulated`` starts a SLURM of two nodes, submits some configurations, and
measures from sbatch to the verified result. Trials sleep, so that tasks need no cores but to start.
What the cluster is like is read off two other configurations, and is the same for all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import hpcio
import slurm
from benchmarks.on_slurm import NBYTES, NODES, SLOTS, planned, started, verified
from hpcio.journals import Ledger
from hpcio.machine import cores
from hpcio.reporting import COLOURS, canvas, read_timeline
from slurm.submissions import newest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CORES = cores()
# Predictions are to be as close as this.
BAND = 0.15


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

    def __str__(self) -> str:
        each = f"{self.trials} trials of {self.seconds:g} s"
        how = f"{self.writer}{', a file a trial' if self.sources == 'trial' else ''}"
        uneven = f", {self.uneven}" if self.uneven else ""
        return f"{self.tasks} x {self.chunks} chunks, {each}{uneven}, {how}"

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
    plan = planned(
        folder, configuration.trials, hpcio.per_trial(configuration.sleeps()),
        writer=configuration.writer, sources=configuration.sources,
    )  # fmt: skip
    options: dict[str, Any] = {"memory": "400MB", "walltime": "00:30:00"}
    slurm.submit(
        plan, tasks=configuration.tasks, chunks_per_task=configuration.chunks,
        stale=configuration.stale, **options,
    )  # fmt: skip
    published, plan = verified(plan.out), hpcio.Plan.load(plan.out)
    made = newest(plan)
    assert made is not None
    times = read_timeline(Ledger.read(plan))
    began = [float(times.start[times.attempt == a].min()) for a in np.unique(times.attempt)]
    return Measured(
        configuration, tuple(sorted(t - made.time for t in began)),
        float(times.end.max() - made.time), published - made.time,
        float((times.compute + times.io).sum()),
    )  # fmt: skip


def measure_all(inside: Path, *, repetitions: int) -> list[Measured]:
    """Measure all configurations on a SLURM that is started for it."""
    found = []
    with started(inside) as (_, folder):
        for repetition in range(repetitions):
            for one in (*CALIBRATION, *COMPARED):
                found.append(measure(one, folder / f"{one.name}-{repetition}"))
                click.echo(f"{one.name}: {found[-1].published:.1f} s", err=True)
    return found


# ---------------------------------------------------------------------- predicting


def _of(measured: Sequence[Measured], one: Configuration) -> list[Measured]:
    return [m for m in measured if m.configuration == one]


def calibrated(measured: Sequence[Measured]) -> tuple[slurm.Cluster, slurm.Disk]:
    """What the cluster is like: from a task that was alone, and from eight that came together.

    Both nodes of the SLURM are one machine: tasks that start share its cores. So eight of them take
    8 / CORES times as long as one until their first trial; what is left is the latency of SLURM.
    """
    alone, crowd = (_of(measured, one) for one in CALIBRATION)
    first = median(m.began[0] for m in alone)
    together = median(float(np.mean(m.began)) for m in crowd)
    tasks = CALIBRATION[1].tasks
    startup = max(0.0, together - first) / (tasks / CORES - 1)
    guessed = slurm.Disk()
    io = float(guessed.rates["virtual"].seconds(NBYTES)) + NBYTES / guessed.read_one
    per_trial = [
        m.busy / m.configuration.trials - m.configuration.seconds - io for m in (*alone, *crowd)
    ]
    publish = [
        m.published - m.last
        - guessed.publish_source * m.configuration.tasks * m.configuration.chunks
        for m in (*alone, *crowd)
    ]  # fmt: skip
    cluster = slurm.Cluster(
        nodes=1, slots=NODES * SLOTS, latency=max(0.0, first - startup), startup=startup,
        startup_cores=CORES,
    )  # fmt: skip
    return cluster, replace(guessed, per_trial=median(per_trial), publish=median(publish))


def predicted(one: Configuration, cluster: slurm.Cluster, disk: slurm.Disk) -> float:
    """Seconds from sbatch to the verified result."""
    work = slurm.Work(
        trials=one.trials, seconds=one.sleeps(), read=float(NBYTES), written=float(NBYTES)
    )
    writer = "virtual-trial" if one.sources == "trial" else one.writer
    return slurm.simulate(
        work, replace(cluster, stale=one.stale), disk, tasks=one.tasks,
        chunks_per_task=one.chunks, writer=writer,
    ).makespan  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """A configuration, its prediction, and the median of what was measured."""

    configuration: Configuration
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        """Of the prediction to what was measured."""
        return self.predicted / self.measured


def compare(measured: Sequence[Measured]) -> list[Compared]:
    """Hold predictions against what was measured, one set of parameters for all."""
    cluster, disk = calibrated(measured)
    return [
        Compared(one, predicted(one, cluster, disk), median(m.published for m in those))
        for one in COMPARED
        if (those := _of(measured, one))
    ]


# ---------------------------------------------------------------------- showing


def table(compared: Sequence[Compared]) -> Table:
    """A row for each configuration."""
    made = Table(box=box.SIMPLE_HEAD)
    for k, name in enumerate(("", "configuration", "predicted", "measured", "ratio")):
        made.add_column(name, justify="left" if k < 2 else "right")
    for one in compared:
        told = one.configuration
        made.add_row(
            told.name, str(told), f"{one.predicted:.1f} s", f"{one.measured:.1f} s",
            f"{one.ratio:.2f}",
        )  # fmt: skip
    return made


def draw(ax: Axes, compared: Sequence[Compared]) -> None:
    """Predicted against measured, with the band that is aimed at."""
    most = 1.12 * max(max(c.measured, c.predicted) for c in compared)
    line = np.array([0.0, most])
    ax.fill_between(
        line, line * (1 - BAND), line * (1 + BAND), color=COLOURS["pale"], linewidth=0,
        label=f"within {BAND:.0%}",
    )  # fmt: skip
    ax.plot(line, line, color=COLOURS["grey"], linewidth=0.8)
    for writer, colour, marker in (("virtual", "blue", "o"), ("direct", "green", "^")):
        for uneven in (False, True):
            those = [
                c for c in compared
                if c.configuration.writer == writer and bool(c.configuration.uneven) == uneven
            ]  # fmt: skip
            ax.plot(
                [c.measured for c in those], [c.predicted for c in those], marker, markersize=6,
                color=COLOURS[colour], markerfacecolor="white" if uneven else COLOURS[colour],
                label=f"{writer}{', uneven trials' if uneven else ''}",
            )  # fmt: skip
    low = 0.85 * min(min(c.measured, c.predicted) for c in compared)
    ax.set(
        xlim=(low, most), ylim=(low, most), xlabel="measured, s", ylabel="predicted, s",
        title="From sbatch to the verified result", aspect="equal",
    )  # fmt: skip
    ax.legend(loc="upper left")


def save_picture(path: Path, compared: Sequence[Compared]) -> None:
    """Draw it as SVG or PNG, by the suffix."""
    with canvas(path, 800, 800) as figure:
        draw(figure.subplots(), compared)


@click.command()
@click.option("--repetitions", default=1, help="The median of so many counts.")
@click.option("--dir", "folder", type=click.Path(exists=True, path_type=Path), default=Path("/tmp"))
@click.option("--json", "kept", type=click.Path(path_type=Path), help="Keep what was measured.")
@click.option("--from", "given", multiple=True, type=click.Path(exists=True, path_type=Path),
              help="Show what was kept, instead of measuring.")  # fmt: skip
@click.option("--picture", type=click.Path(path_type=Path), help="Draw it, as SVG or PNG.")
def main(
    repetitions: int, folder: Path, kept: Path | None, given: tuple[Path, ...], picture: Path | None
) -> None:
    """Hold predictions of submissions against a real SLURM on this machine."""
    if given:
        measured = [_read(one) for path in given for one in json.loads(path.read_text())]
    else:
        if CORES >= CALIBRATION[1].tasks:
            raise click.ClickException(
                f"What a start takes is known from {CALIBRATION[1].tasks} tasks that share fewer "
                f"cores, and here are {CORES}. Use fewer of them: taskset --cpu-list 0,1 ..."
            )
        measured = measure_all(folder, repetitions=repetitions)
    if kept is not None:
        kept.write_text(json.dumps([asdict(one) for one in measured], indent=1))
    compared = compare(measured)
    Console(width=100).print(table(compared))
    if picture is not None:
        save_picture(picture, compared)


def _read(said: dict[str, Any]) -> Measured:
    told = Configuration(**said["configuration"])
    return Measured(**{**said, "configuration": told, "began": tuple(said["began"])})


if __name__ == "__main__":
    main()
