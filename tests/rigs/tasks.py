"""One array task of a run of many, without SLURM: what all others have done is there."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Literal, Self

import h5py
import numpy as np

import hpcio
from hpcio.journals import Ledger, rundir
from hpcio.planning import RunPolicy
from hpcio.running import Attempt, run_batch
from hpcio.writers import backend_of
from slurm.site import Site, SubmitOptions
from slurm.submissions import read_submission, task_plan
from slurm.submissions.making import write_submission
from slurm.submissions.request import make_request
from slurm.tasks.assignment import Assignment
from slurm.tasks.claims import Claims

ROWS, CHANNELS = 8, 40
# Seconds between two signs of life of tasks that are at work.
_BEAT = 0.05


def write_for_tasks(
    plan: hpcio.Plan,
    tasks: int,
    *,
    chunks: int = 4,
    stale: float = 12.0,
    policy: RunPolicy | None = None,
) -> None:
    """Write the submission of a plan, which has its run directory."""
    backend_of(plan).reserve(plan)
    site = Site("rig", "", tasks + 1, 100_000, ())
    options = SubmitOptions(tasks=tasks, chunks_per_task=chunks, name="rig", stale=stale)
    write_submission(
        plan, make_request(plan, options, site), np.arange(len(plan)), site=site,
        ledger=Ledger.read(plan), options=options, policy=policy or RunPolicy(),
    )  # fmt: skip


def command(plan: hpcio.Plan, verb: str = "run") -> list[str]:
    """What a job script of a submission starts."""
    first = ["0"] if verb == "run" else []
    return [sys.executable, "-P", "-m", "slurm.tasks", verb, plan.out, "1", *first]


def environment(task: int) -> dict[str, str]:
    """That of a task."""
    return {
        **os.environ, "SLURM_ARRAY_TASK_ID": str(task), "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip


class ManyTasks:
    """A submission whose last task is to be started, when all others have begun, or none has.

    Parameters
    ----------
    folder : path
        It is made.
    tasks : int
    trials : int
        Of each task.
    at_work : int
        So many tasks, the first ones, have one trial to do, and live; the others are through.
    begun : bool
        Whether they have begun.
    chunks : int
        Of each task.
    writer : str
    stale : float
        Whoever waits looks again after a twentieth of it.
    """

    def __init__(
        self,
        folder: Path,
        tasks: int,
        trials: int,
        *,
        at_work: int = 0,
        begun: bool = True,
        chunks: int = 4,
        writer: str = "virtual",
        stale: float = 12.0,
    ) -> None:
        folder.mkdir()
        count = tasks * trials
        with h5py.File(folder / "rec.h5", "w") as f:  # of which nothing is ever written
            f.create_dataset("x", (count * ROWS, CHANNELS), np.float32)
        self.tasks = tasks
        # However few the trials are: as in a run that has many.
        sources: Literal["auto", "task"] = "task" if writer == "virtual" else "auto"
        self.plan = rundir.prepare(
            hpcio.Plan.create(
                np.negative, f"{folder}/rec.h5::x", trials=ROWS, out=folder / "out.h5",
                writer=writer, sources=sources,
            )
        )  # fmt: skip
        write_for_tasks(self.plan, tasks, chunks=chunks, stale=stale)
        self._submission, self._work = read_submission(self.plan, 1), task_plan(self.plan, 1)
        others = range(tasks - 1 if begun else 0)
        beats = [self.do(task, leave=int(task < at_work)) for task in others]
        self._beats, self._over = beats[:at_work], threading.Event()
        self._thread = threading.Thread(target=self._beat)

    def do(self, task: int, *, leave: int = 0) -> Path:
        """Do what a task has to do, but for some trials at the end; the file of its heartbeat."""
        own = Assignment(self.plan, self._submission, task, self._work)
        with Attempt(self.plan, own.label, max_failed=0) as attempt:
            claims = Claims(self.plan, 1, attempt.name)
            for batch in own.batches:
                blocks = self._work.batches[batch]
                claims.take(batch, int(blocks[0]))
                last = batch == own.batches[-1]
                run_batch(attempt, blocks[: blocks.size - leave] if last else blocks)
            attempt.sync()
            if not leave:
                claims.tell_done()
        beat = self.plan.rundir.heartbeats / attempt.name
        beat.touch()
        return beat

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        number = 0
        while not self._over.wait(_BEAT):
            number += 1
            for beat in self._beats:
                beat.write_bytes(b"%016d" % number)

    def command(self, verb: str = "run") -> list[str]:
        """What a job script starts."""
        return command(self.plan, verb)

    @property
    def environment(self) -> dict[str, str]:
        """That of the last task."""
        return environment(self.tasks - 1)
