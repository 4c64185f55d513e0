"""One simulation: what it says of a submission, and where its time goes."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpcio.errors import MissingPackageError, check_whole
from hpcio.words import count, duration, html_table, in_lines
from slurm.simulation.costs import Costs
from slurm.simulation.disk import Disk, as_disk
from slurm.simulation.given import Cluster, Work

if TYPE_CHECKING:
    from slurm.simulation.tasks import Run

__all__ = ["Simulated", "run_once", "simulate"]

# The file system is the reason if it had too little for this share of the time.
_FULL = 0.3


@dataclass(frozen=True, kw_only=True, repr=False)
class Simulated:
    """What a submission would take; it shows as a table.

    Attributes
    ----------
    tasks, chunks : int
        Array tasks that have work, and chunks of it.
    writer : str
    makespan : float
        Seconds from sbatch until the result is published and verified.
    queue, startup, computing, overhead, io, idle : float
        Seconds of all tasks together: until they are started, until their first trial, in the
        function, in hpcio itself, reading and writing, and without anything to do. Tasks that
        still wait, or start, when the last trial is done have no part in it.
    publishing : float
        Seconds of the task that publishes and verifies.
    node_hours : float
        Hours of nodes in which tasks have their slots.
    full_at : float
        How many tasks at work the file system can keep up with.
    done : int
        Trials that were computed.
    bottleneck : str
        What most of the time goes into, in words.
    rests_on : str
        What is known of the file system, and what is a guess.
    """

    tasks: int
    chunks: int
    writer: str
    makespan: float
    queue: float
    startup: float
    computing: float
    overhead: float
    io: float
    idle: float
    publishing: float
    node_hours: float
    full_at: float
    done: int
    bottleneck: str
    rests_on: str

    @property
    def chunk_words(self) -> str:
        """How many chunks there are, and how large they are in the mean."""
        each = count(round(self.done / self.chunks), "trial")
        return f"{count(self.chunks, 'chunk')} of about {each}"

    def rows(self) -> list[tuple[str, str]]:
        """Names and values, for a table."""
        each = self.tasks
        return [
            ("array tasks", f"{count(self.tasks, 'task')}, {self.chunk_words}"),
            ("writer", self.writer),
            ("until the result", duration(self.makespan)),
            ("of it, a task: queue", duration(self.queue / each)),
            ("start-up", duration(self.startup / each)),
            ("function", duration(self.computing / each)),
            ("hpcio itself", duration(self.overhead / each)),
            ("reading, writing", duration(self.io / each)),
            ("idle", duration(self.idle / each)),
            ("publishing", duration(self.publishing)),
            ("node hours", f"{self.node_hours:.3g}"),
            ("bottleneck", self.bottleneck),
            ("rests on", self.rests_on),
        ]

    def __repr__(self) -> str:
        return in_lines(self.rows())

    def _repr_html_(self) -> str:
        return html_table("What a submission would take", self.rows())


def simulate(
    work: Work,
    cluster: Cluster,
    disk: Disk | str | os.PathLike[str],
    *,
    tasks: int,
    chunks_per_task: int = 4,
    writer: str = "virtual",
    seed: int = 0,
) -> Simulated:
    """Say what a submission would take, without submitting it.

    Chunks are simulated, not trials, so that ten million trials on a thousand nodes take seconds.
    The same arguments give the same answer.

    Parameters
    ----------
    work : Work
    cluster : Cluster
    disk : Disk, str or path
        A path is that of a benchmark: see `Disk.of`.
    tasks : int
        Array tasks at the most.
    chunks_per_task : int
    writer : str
        One of `disk.rates`: ``"virtual"``, ``"virtual-trial"`` (a file for each trial),
        ``"direct"`` or ``"mutex"``.
    seed : int
        Of what happens by chance: waits, preemptions, which nodes are slow.

    Returns
    -------
    Simulated

    Raises
    ------
    OptionError
        If that makes no sense.
    SourceError
        If the benchmark cannot be read.
    MissingPackageError
        If simpy is not installed.

    Examples
    --------
    >>> said = simulate(Work(trials=1000, seconds=0.5), Cluster(), Disk(), tasks=8)
    >>> said.done, 63 < said.makespan < 67
    (1000, True)
    """
    check_whole("tasks", tasks, least=1)
    check_whole("chunks_per_task", chunks_per_task, least=1)
    return run_once(
        Costs(work, as_disk(disk), writer), cluster, tasks=tasks, chunks_per_task=chunks_per_task,
        seed=seed,
    )  # fmt: skip


def run_once(
    costs: Costs, cluster: Cluster, *, tasks: int, chunks_per_task: int, seed: int
) -> Simulated:
    """The same, of costs that serve for several simulations."""
    try:
        from slurm.simulation.tasks import Run
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "Simulations need simpy. Install it: pip install 'hpcio[slurm]'"
        ) from error
    cluster.check_can_do(costs.longest)
    run = Run(costs, cluster, tasks=tasks, chunks_per_task=chunks_per_task, seed=seed)
    with _uncollected():
        computed = run.run()
    publishing = costs.publishing(len(run.parts))
    spent = run.spent
    times = {
        "queue": spent.queue, "startup": spent.startup, "computing": spent.computing,
        "overhead": spent.overhead, "io": spent.io, "idle": spent.idle, "publishing": publishing,
    }  # fmt: skip
    return Simulated(
        tasks=run.tasks, chunks=run.chunks, writer=costs.writer, makespan=computed + publishing,
        **times,
        node_hours=(spent.held + publishing) / cluster.slots / 3600, full_at=costs.full_at,
        done=sum(stop - start for start, stop in run.parts),
        bottleneck=_bottleneck(times, run, computed, full_at=costs.full_at),
        rests_on=costs.disk.rests_on(run.tasks),
    )  # fmt: skip


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without collection of garbage, which takes half of the time where tasks are many."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


_WORDS = {
    "queue": "the queue, and how fast SLURM starts tasks", "startup": "the start of tasks",
    "computing": "the function", "overhead": "what hpcio itself does for each trial",
    "io": "reading and writing", "idle": "waiting for the tasks that have most",
    "publishing": "publishing and verifying",
}  # fmt: skip


def _bottleneck(times: dict[str, float], run: Run, computed: float, *, full_at: float) -> str:
    """What most of the time goes into: of a task in the mean, or of the one that publishes."""
    of_each = {
        name: seconds if name == "publishing" else seconds / run.tasks
        for name, seconds in times.items()
    }
    most = max(of_each, key=of_each.__getitem__)
    disk, files = (seconds / computed for seconds in run.file_system.short)
    if most in ("io", "computing", "overhead") and max(disk, files) > _FULL:
        by = "" if disk >= files else " with making files"
        return f"the file system is full{by} at {count(max(1, round(full_at)), 'task')}"
    return _WORDS[most]
