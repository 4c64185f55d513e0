"""What an array task asks of the file system: calls that name, list or sync files, by strace.

Counts are the same on every machine but for those of looks at others: who waits looks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from benchmarks.growth.part import Part, line, style, value, word
from tests.rigs.tasks import ManyTasks
from tests.rigs.traced import LISTED, LOOKED_UP, OPENED, SYNCED, missing, of_kind, traced

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = (10, 100, 1_000, 2_000)
TRIALS = (10, 100, 1_000, 10_000, 100_000)
FEW = 10
WRITERS = ("virtual", "direct")


@dataclass(frozen=True)
class Asked:
    """What the last task of a run asks for, in the folder of the result and of the recording.

    `tasks` has the run, `trials` each of them; `at_work` says whether the others are at work, all
    but their last trial done, or all but one are through. `opened`, `looked_up`, `listed`, `synced`
    are numbers of calls; `others` is how many files of other tasks were asked for, `made` how many
    it has left behind, and `beside` how many files are opened elsewhere, by Python for the most.
    """

    writer: str
    tasks: int
    trials: int
    at_work: bool
    opened: int
    looked_up: int
    listed: int
    synced: int
    others: int
    made: int
    beside: int


def measure(folder: Path, writer: str, tasks: int, trials: int, *, at_work: bool) -> Asked:
    """Trace the last task of a run."""
    run = ManyTasks(folder, tasks, trials, at_work=tasks - 1 if at_work else 1, writer=writer)
    there = _files(folder)
    with run:
        calls = traced(run.command(), folder, environment=run.environment)
    opened, looked_up = of_kind(calls, OPENED), of_kind(calls, LOOKED_UP)
    of_tasks = {path for path in there if path.parent.name in ("journal", "beats", "sources")}
    return Asked(
        writer, tasks, trials, at_work, opened.total(), looked_up.total(),
        of_kind(calls, LISTED).total(), of_kind(calls, SYNCED).total(),
        len({*opened, *looked_up} & of_tasks), len(_files(folder) - there),
        sum(n for (name, path), n in calls.items() if name in OPENED and path.is_absolute()),
    )  # fmt: skip


def _files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def measure_all(inside: Path, most: int, _: int) -> list[Asked]:
    """Runs of more and more tasks, and tasks of more and more trials."""
    if missing():
        raise click.ClickException(missing())
    runs = [(writer, FEW, trials, False) for writer in WRITERS for trials in TRIALS]
    runs += [("virtual", tasks, FEW, at_work) for tasks in TASKS for at_work in (False, True)]
    found = []
    for writer, tasks, trials, at_work in dict.fromkeys(runs):
        if tasks * trials <= most:
            with TemporaryDirectory(prefix="hpcio-bench-", dir=inside) as folder:
                found.append(measure(Path(folder, "run"), writer, tasks, trials, at_work=at_work))
    return found


_KINDS = (
    ("opened", "opened or made", "blue", "o"), ("looked_up", "looked up, renamed", "orange", "s"),
    ("listed", "listed", "red", "v"), ("synced", "synced", "green", "^"),
    ("others", "files of other tasks", "pink", "D"), ("beside", "opened elsewhere", "grey", "x"),
)  # fmt: skip


def draw(figure: Figure, groups: Sequence[Sequence[Asked]]) -> None:
    """Calls of a task, against its trials, and against the tasks of the run."""
    of_trials, of_tasks = figure.subplots(1, 2, sharey=True)
    run = [group for group in groups if group[0].writer == "virtual"]
    few = [group for group in run if group[0].tasks == FEW and not group[0].at_work]
    many = [group for group in run if group[0].trials == FEW]
    for name, words, colour, marker in _KINDS:
        of = attrgetter(name)
        line(of_trials, few, attrgetter("trials"), of, "-", colour, marker, words)
        for at_work, dashes, more in ((False, "-", ""), (True, "--", ", those at work")):
            those = [group for group in many if group[0].at_work == at_work]
            # What it looks at of others that are at work is all that differs.
            if not at_work or name in ("opened", "others"):
                line(of_tasks, those, attrgetter("tasks"), of, dashes, colour, marker, words + more)
    style(of_trials, f"A task of a run of {FEW} tasks", "trials of the task", "calls of a task")
    style(of_tasks, f"A task of {FEW} trials", "tasks of the run", "")


PART = Part(
    name="files",
    title="Files and metadata of an array task",
    about=(
        f"The last task of a run of {TASKS[0]:,} to {TASKS[-1]:,} tasks, each of four batches, "
        "under strace: both of its processes. The others are through but for one, or all of them "
        "have one trial left. Counted are calls by which files of the recording, the result and "
        "its run directory are asked for by name (opened or made; looked up, renamed, removed), "
        "directories are read (`getdents`, 32 kB of names each), and files synced. `of others` are "
        "files of other tasks that it asks for, `made` those it leaves (four of `virtual` are "
        "parts of the result), `elsewhere` what is opened outside, by Python for the most. What "
        "grows is `listed`: the names of all claims, nine for each task, and of all journals, "
        "twice and more."
    ),
    picture="growth-files.svg",
    alt="Calls of an array task, against its trials, and against the tasks of its run",
    size=(1600, 760),
    row=Asked,
    key=lambda one: (one.writer, one.at_work, one.tasks, one.trials),
    measure=measure_all,
    cells={
        "writer": word(lambda one: one.writer),
        "tasks": word(lambda one: f"{one.tasks:,}"),
        "trials of a task": word(lambda one: f"{one.trials:,}"),
        "others": word(lambda one: "at work" if one.at_work else "through"),
        "opened": value(lambda one: one.opened, form=".0f"),
        "looked up": value(lambda one: one.looked_up, form=".0f"),
        "listed": value(lambda one: one.listed, form=".0f"),
        "synced": value(lambda one: one.synced, form=".0f"),
        "of others": value(lambda one: one.others, form=".0f"),
        "made": value(lambda one: one.made, form=".0f"),
        "elsewhere": value(lambda one: one.beside, form=",.0f"),
    },
    draw=draw,
)
