"""What SLURM says of the jobs of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import zip_longest
from typing import Self

from hpcio.errors import ClusterError
from hpcio.planning import Plan
from slurm.site import ENDED, queued_jobs
from slurm.submissions import records

__all__ = ["Queue", "Row", "living_rows", "pending_tasks", "read_queue"]


@dataclass(frozen=True)
class Row:
    """One array task, or the finalizer, as SLURM has it.

    Attributes
    ----------
    submission : int
    task : int or None
        Number of the task in its submission; None for the finalizer.
    job, index : int
        SLURM's own: of the array, and in it.
    state, reason, node : str
    """

    submission: int
    task: int | None
    job: int
    index: int
    state: str
    reason: str
    node: str

    @property
    def alive(self) -> bool:
        """Whether it waits, runs, or will run again."""
        return self.state not in ENDED

    @property
    def ends(self) -> bool:
        """Whether SLURM waits for the end of its processes, which it has told to end."""
        return self.state == "COMPLETING"


@dataclass(frozen=True)
class Queue:
    """The jobs of a run.

    Attributes
    ----------
    rows : tuple of Row
        Jobs that have ended are among them, as long as SLURM remembers them.
    trouble : str
        Why SLURM gave no answer; "" if it did.
    """

    rows: tuple[Row, ...]
    trouble: str = ""


def read_queue(plan: Plan) -> Queue | None:
    """The jobs of a run, by one call of squeue; None if it was never submitted.

    A job is known by its script, not by its number alone, since SLURM's controller may give the
    number to somebody else after a crash.
    """
    if not records.numbers(plan):
        return None
    try:
        jobs = queued_jobs()
    except ClusterError as error:
        return Queue((), str(error))
    # Read last: a finalizer that has just submitted another pass may have left the queue meanwhile.
    scripts = _Scripts.of(plan, records.numbers(plan))
    rows = []
    for job in jobs:
        script = scripts.find(job.script)
        if script is not None:
            number, first = scripts.whose(script, job.job)
            task = None if first is None else first + job.index
            rows.append(Row(number, task, job.job, job.index, job.state, job.reason, job.node))
    return Queue(tuple(rows))


def living_rows(plan: Plan) -> list[Row]:
    """The jobs of a run that wait or run.

    Raises
    ------
    ClusterError
        If SLURM does not answer.
    """
    found = read_queue(plan)
    if found is None:
        return []
    if found.trouble:
        raise ClusterError(found.trouble)
    return [row for row in found.rows if row.alive]


def pending_tasks(plan: Plan, submission: int) -> list[str]:
    """The tasks of a submission that have not begun, as SLURM's commands take them."""
    rows = [row for row in living_rows(plan) if row.submission == submission]
    waiting = [row for row in rows if row.task is not None and row.state == "PENDING"]
    return [f"{row.job}_{row.index}" for row in waiting]


@dataclass(frozen=True)
class _Scripts:
    """The job scripts of a run, and whose they are.

    A script is of a submission, and of the array whose first task has a number; None stands for the
    finalizer. A script that is written again for a later submission keeps its path. Then the number
    of the job tells the submissions apart, if it was noted.

    Attributes
    ----------
    of_job : dict
        By path and number of the job.
    newest : dict
        By path alone.
    """

    of_job: dict[tuple[str, int | None], tuple[int, int | None]]
    newest: dict[str, tuple[int, int | None]]

    @classmethod
    def of(cls, plan: Plan, numbers: list[int]) -> Self:
        """Those of all submissions of a run."""
        scripts = cls({}, {})
        for number in numbers:
            made, jobs = records.read_submission(plan, number), records.jobs(plan, number)
            named = [*zip(made.script, made.arrays, strict=True), (made.finish_script, None)]
            ids = (*jobs.arrays, jobs.finish) if jobs else ()
            for (script, array), job in zip_longest(named, ids[: len(named)]):
                first = None if array is None else array.first
                # As it was named then, and as it is named if the tree has moved since.
                for path in (script, str(plan.rundir.path / os.path.basename(script))):
                    scripts.newest[path] = scripts.of_job[path, job] = (number, first)
        return scripts

    def find(self, words: str) -> str | None:
        """The script that a job was submitted by, perhaps with arguments behind."""
        return next((s for s in self.newest if words == s or words.startswith(f"{s} ")), None)

    def whose(self, script: str, job: int) -> tuple[int, int | None]:
        """The submission of a script, and the first task of its array."""
        return self.of_job.get((script, job), self.newest[script])
