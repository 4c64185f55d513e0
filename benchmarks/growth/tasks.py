"""What array tasks cost on a real SLURM of this machine: the same work, by more and more of them.

Its nodes have more CPUs than the machine has cores; trials sleep, so that tasks need none but to
start. A task that is done takes what those have that wait in the queue, so that no more of them
begin than have room: whoever is left over is cancelled. What a run takes of which all tasks have
computed their own is measured beside: its result is published, and looked at.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

import hpcio
import slurm
from benchmarks.growth.part import Part, line, per, style, value, word
from benchmarks.on_slurm import LONG, NODES, SLOTS, planned, started, verified
from hpcio.journals import Ledger
from hpcio.reporting import read_timeline
from tests.rigs.slurm import Slurm, until
from tests.rigs.tasks import ManyTasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = (1, 10, 100, 1_000, 2_000)
# The work: 40 s for one task, 20 ms for each of 2,000.
TRIALS, SECONDS = 8_000, 0.005
# An array of the largest size is one job array; all jobs of all repetitions are remembered.
_LIMITS = f"MaxArraySize={TASKS[-1] + 1}\nMaxJobCount=100000"
_MEMORY = "400M"


@dataclass(frozen=True)
class Submitted:
    """One submission.

    Attributes
    ----------
    tasks : int
    slots : int
        How many of them SLURM runs at a time.
    submit : float
        Seconds of `slurm.submit`.
    sbatch : float
        Seconds of sbatch with an array of as many tasks that do nothing.
    empty : float
        Seconds from that sbatch until all of these have ended.
    whole : float
        Seconds from submitting to the verified result.
    work : float
        Seconds that the trials take, by as many tasks as may run at a time.
    began : int
        Tasks that computed a trial.
    queued : float
        Seconds of ``hpcio status`` when all have just been submitted.
    publish : float
        Seconds of the finalizer, if each task has computed its own: publishing and verifying.
    status : float
        Seconds of ``hpcio status`` then.
    files : int
        Files in the run directory then.
    nbytes : int
        Bytes of the result, parts not included.
    """

    tasks: int
    slots: int
    submit: float
    sbatch: float
    empty: float
    whole: float
    work: float
    began: int
    queued: float
    publish: float
    status: float
    files: int
    nbytes: int

    @property
    def overhead(self) -> float:
        """Seconds of a run that are not the work of its trials."""
        return self.whole - self.work


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _command(*words: str, status: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(words, check=False, stdout=subprocess.DEVNULL)
    assert done.returncode in status, done


def _empty(rig: Slurm, tasks: int) -> tuple[float, float]:
    """Seconds of sbatch, and until all tasks have ended, of an array that does nothing."""
    started = time.perf_counter()
    job = rig.call(
        "sbatch", "--parsable", f"--array=0-{tasks - 1}", f"--mem={_MEMORY}", "--output=/dev/null",
        "--wrap=true",
    ).strip()  # fmt: skip
    sent = time.perf_counter() - started
    states = "PENDING,RUNNING,COMPLETING"
    until(lambda: not rig.call("squeue", "-h", "-j", job, "-t", states), "the empty array",
          seconds=LONG)  # fmt: skip
    return sent, time.perf_counter() - started


def _submitted(folder: Path, tasks: int) -> dict[str, Any]:
    """Submit the work, and wait for its result."""
    plan = planned(folder, TRIALS, SECONDS)
    began = time.time()
    options: dict[str, Any] = {"memory": _MEMORY, "walltime": "02:00:00"}
    submit = _timed(lambda: slurm.submit(plan, tasks=tasks, **options))
    # Of a run that is not complete it is 1.
    queued = _timed(
        lambda: _command(sys.executable, "-m", "hpcio", "status", plan.out, status=(0, 1))
    )
    whole = verified(plan.out) - began
    times = read_timeline(Ledger.read(hpcio.Plan.load(plan.out)))
    return {
        "submit": submit, "queued": queued, "whole": whole,
        "began": np.unique(times.attempt).size,
    }  # fmt: skip


def _all_done(folder: Path, tasks: int) -> dict[str, Any]:
    """What is done about a run of which each task has computed its own, four trials and more."""
    run = ManyTasks(folder, tasks, TRIALS // tasks)
    run.do(tasks - 1)
    publish = _timed(lambda: _command(*run.command("finish")))
    status = _timed(lambda: _command(sys.executable, "-m", "hpcio", "status", run.plan.out))
    files = sum(path.is_file() for path in run.plan.run_directory.rglob("*"))
    nbytes = Path(run.plan.out).stat().st_size
    return {"publish": publish, "status": status, "files": files, "nbytes": nbytes}


def measure_all(inside: Path, most: int, repetitions: int) -> list[Submitted]:
    """Submissions of all sizes up to one, to a SLURM that is started for it."""
    found = []
    with started(inside, extra=_LIMITS) as (rig, folder):
        for repetition in range(repetitions):
            for tasks in (count for count in TASKS if count <= most):
                name = f"{tasks}-{repetition}"
                sbatch, empty = _empty(rig, tasks)
                slots = min(tasks, NODES * SLOTS)
                found.append(
                    Submitted(
                        tasks=tasks, slots=slots, sbatch=sbatch, empty=empty,
                        work=TRIALS * SECONDS / slots, **_submitted(folder / name, tasks),
                        **_all_done(folder / f"all-{name}", tasks),
                    )
                )  # fmt: skip
                click.echo(f"{tasks} tasks: {found[-1].whole:.1f} s", err=True)
    return found


def draw(figure: Figure, groups: Sequence[Sequence[Submitted]]) -> None:
    """Milliseconds a task, against the number of tasks."""
    on_slurm, done = figure.subplots(1, 2)
    across = attrgetter("tasks")
    kinds = (
        ("overhead", "-", "blue", "o", "all but the work of trials"),
        ("empty", "--", "grey", "x", "limit: an array of `true`"),
        ("submit", "-", "orange", "s", "submitting"),
        ("sbatch", "--", "grey", "v", "limit: sbatch of `true`"),
        ("queued", "-", "green", "^", "hpcio status"),
    )
    for name, dashes, colour, marker, label in kinds:
        line(on_slurm, groups, across, per("tasks", name, 1e3), dashes, colour, marker, label)
    for name, colour, marker, label in (
        ("publish", "red", "o", "finalizer: publishing, verifying"),
        ("status", "green", "^", "hpcio status"),
    ):
        line(done, groups, across, per("tasks", name, 1e3), "-", colour, marker, label)
    style(on_slurm, "On SLURM", "array tasks", "ms a task")
    style(done, "When each task has computed its own", "array tasks", "ms a task")


PART = Part(
    name="tasks",
    title="Array tasks",
    about=(
        f"The same work ({TRIALS:,} trials that sleep for {1e3 * SECONDS:g} ms) by more and more "
        f"array tasks, on a real SLURM of this machine with {NODES * SLOTS} CPUs, that is more "
        "than it has cores. `whole` is from submitting to the verified result; `but the work` is "
        "without the sleep of trials, by as many tasks as may run at a time. Beside it, an array "
        "of as many tasks that do nothing (`true`). A task that is done takes what others have "
        "that wait in the queue: `began` says how many computed a trial; the others were "
        "cancelled. Publishing and the last status are of another run, in which each task has "
        "computed its own. Medians, and the range of repetitions."
    ),
    picture="growth-tasks.svg",
    alt="Milliseconds of an array task, against the number of array tasks",
    size=(1600, 760),
    row=Submitted,
    key=lambda one: (one.tasks,),
    measure=measure_all,
    cells={
        "tasks": word(lambda one: f"{one.tasks:,}"),
        "at a time": value(lambda one: one.slots, form=".0f"),
        "began": value(lambda one: one.began, form=".0f", spread=True),
        "submitting": value(lambda one: one.submit, "s", spread=True),
        "`true`: sbatch": value(lambda one: one.sbatch, "s", spread=True),
        "whole": value(lambda one: one.whole, "s", spread=True),
        "but the work": value(lambda one: one.overhead, "s", spread=True),
        "`true`: whole": value(lambda one: one.empty, "s", spread=True),
        "status, queued": value(lambda one: one.queued, "s", spread=True),
        "publishing": value(lambda one: one.publish, "s", spread=True),
        "status, done": value(lambda one: one.status, "s", spread=True),
        "files of a task": value(lambda one: one.files / one.tasks, form=".1f"),
        "result, a task": value(lambda one: one.nbytes / one.tasks, "B", form=",.0f"),
    },
    draw=draw,
)
