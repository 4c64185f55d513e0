"""What was submitted, kept in the run directory: which array task has which blocks.

A submission is written before sbatch is called, since its tasks read it, and never changed.
The numbers that SLURM gives its jobs are noted beside it. Nothing depends on them alone, since
SLURM may give out a number again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hpcio.errors import DAMAGE, PlanError, as_output_error
from hpcio.files import check_types, read_own
from hpcio.journals import ClaimFolder
from hpcio.machine import write_whole
from hpcio.planning import Plan, RunPolicy
from slurm.mapping import JobArray, TaskPlan
from slurm.site import SubmitOptions

__all__ = [
    "Jobs",
    "Submission",
    "Why",
    "jobs",
    "newest",
    "note_jobs",
    "numbers",
    "passes",
    "read_submission",
    "task_plan",
    "write",
]


Why = Literal["", "left", "memory", "time"]
# The claim by which a submission is stopped.
_STOP = "{}.stop"
# More records than a journal may have.
_ALL = 1 << 32


@dataclass(frozen=True, eq=False)
class Submission:
    """One submission of a plan.

    Attributes
    ----------
    number : int
        From 1 on, within a run directory.
    run_id : str
        Of the plan.
    cluster, user : str
        Where, and by whom.
    time : float
        Seconds since 1970.
    tasks : int
    arrays : tuple of JobArray
        The job arrays that tasks are divided into.
    script : tuple of str
        The job script of each, as its path was then.
    finish_script : str
        That of the finalizer.
    options : SubmitOptions
        What `slurm.submit` was asked for, so that a resumed run asks for the same.
    cpus : int
    memory : int or None
        Bytes of a task.
    seconds : int or None
        Its walltime.
    signal : int
        How many seconds before its end a task is told of it.
    stale : float
        After how many seconds without a sign of life a task counts as dead.
    retries, max_failed : int
    gaps : bool
    known : tuple of str
        Journals that existed before: blocks that failed in those are tried again.
    trial_time : float or None
        After how many seconds a trial has failed.
    ranks : int or None
        How many ranks, if this is one MPI job; None for job arrays.
    mem_retry, time_retry : float or None
        How much more of it another pass gives to trials that failed for want of it.
    mem_max : int or None
        Bytes of memory that another pass asks for at the most.
    first : int
        Number of the submission whose pass this is: its own, if a user has made it.
    why : {"", "left", "memory", "time"}
        Why its blocks are done in another pass: their tasks were gone, or they need more.
    counted : tuple of int
        How many records each of the known journals had.
    """

    number: int
    run_id: str
    cluster: str
    user: str
    time: float
    tasks: int
    arrays: tuple[JobArray, ...]
    script: tuple[str, ...]
    finish_script: str
    options: SubmitOptions
    cpus: int
    memory: int | None
    seconds: int | None
    signal: int
    stale: float
    retries: int
    max_failed: int
    gaps: bool
    known: tuple[str, ...]
    ranks: int | None = None
    trial_time: float | None = None
    mem_retry: float | None = None
    time_retry: float | None = None
    mem_max: int | None = None
    first: int = 0
    why: Why = ""
    counted: tuple[int, ...] = ()

    def records_before(self, plan: Plan) -> dict[str, int]:
        """By its journal, how many records count no more: what is to be done was found by them.

        What its journals get since then was done by tasks that SLURM has lost sight of. A block of
        a sum counts only together with all others, which such a task may not have done.
        """
        if plan.averaged or len(self.counted) != len(self.known):
            return dict.fromkeys(self.known, _ALL)
        return dict(zip(self.known, self.counted, strict=True))

    def journals_before(self, plan: Plan) -> set[Path]:
        """The journals that existed before."""
        return {plan.rundir.journals / name for name in self.known}

    @property
    def policy(self) -> RunPolicy:
        """What the run does about blocks that fail."""
        return RunPolicy(
            retries=self.retries, max_failed=self.max_failed, gaps=self.gaps,
            trial_time=self.trial_time,
        )  # fmt: skip


@dataclass(frozen=True)
class Jobs:
    """The numbers that SLURM gave: one for each array, and that of the finalizer."""

    arrays: tuple[int, ...]
    finish: int | None


def numbers(plan: Plan) -> list[int]:
    """The submissions of a run, the newest last.

    Raises
    ------
    PlanError
        If they cannot be listed.
    """
    try:
        names = os.listdir(plan.rundir.submissions)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(plan.rundir.submissions, error) from error
    return sorted(int(m[1]) for n in names if (m := re.fullmatch(r"(\d+)\.json", n)))


def newest(plan: Plan) -> Submission | None:
    """The last submission of a run; None if it was never submitted."""
    found = numbers(plan)
    return read_submission(plan, found[-1]) if found else None


def passes(plan: Plan, last: Submission) -> list[Submission]:
    """The submission that a user has made, and its passes up to one of them."""
    first = last.first or last.number
    found = (read_submission(plan, n) for n in numbers(plan) if first <= n <= last.number)
    return [made for made in found if (made.first or made.number) == first]


def write(plan: Plan, submission: Submission, work: TaskPlan) -> None:
    """Keep a submission and its blocks.

    Raises
    ------
    OutputError
    """
    where = plan.rundir.submissions
    try:
        where.mkdir(mode=plan.modes.record_folder, exist_ok=True)
        edges = np.cumsum([0, *(batch.size for batch in work.batches)])
        with open(where / f"{submission.number}.npz", "xb") as f:
            np.savez(f, blocks=work.blocks, edges=edges, task=work.task)
            f.flush()
            os.fsync(f.fileno())
        said = {**dataclasses.asdict(submission), "options": submission.options.said()}
        text = json.dumps(said, indent=1)
        write_whole(where / f"{submission.number}.json", text.encode(), mode=plan.modes.record)
    except OSError as error:
        raise as_output_error(error, where) from error


def stop(plan: Plan, number: int) -> None:
    """Let all tasks of a submission end, and nothing of it be submitted again."""
    claims = ClaimFolder(plan.rundir.claims)
    claims.make()
    claims.take(_STOP.format(number))


def is_stopped(plan: Plan, number: int) -> bool:
    """Whether a submission was stopped: too many blocks have failed, or somebody has cancelled."""
    return ClaimFolder(plan.rundir.claims).is_taken(_STOP.format(number))


def forget(plan: Plan, number: int) -> None:
    """Remove what is kept of a submission that SLURM has refused; best effort."""
    for ending in ("json", "npz"):
        with contextlib.suppress(OSError):
            (plan.rundir.submissions / f"{number}.{ending}").unlink(missing_ok=True)


def note_jobs(plan: Plan, number: int, found: Jobs) -> None:
    """Keep the numbers of a submission's jobs."""
    path = plan.rundir.submissions / f"{number}.jobs.json"
    try:
        write_whole(path, json.dumps(dataclasses.asdict(found)).encode())
    except OSError as error:
        raise as_output_error(error, path) from error


def read_submission(plan: Plan, number: int) -> Submission:
    """One submission of a run.

    Raises
    ------
    PlanError
        If there is no such submission, it cannot be read, or others may write it.
    """
    path = plan.rundir.submissions / f"{number}.json"
    try:
        kept = read_own(path)  # there are commands in it
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        said = json.loads(kept)
        said["arrays"] = tuple(JobArray(**a) for a in said["arrays"])
        for name in ("script", "known", "counted"):
            said[name] = tuple(said.get(name, ()))
        said["options"] = SubmitOptions.of(dict(said["options"]))
        found = Submission(**said)
        check_types(found)
        return found
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _unreadable(path, error) from error


def task_plan(plan: Plan, number: int) -> TaskPlan:
    """Which task of a submission has which blocks."""
    path = plan.rundir.submissions / f"{number}.npz"
    try:
        with np.load(path) as kept:
            blocks, edges, task = (_numbers(kept[name]) for name in ("blocks", "edges", "task"))
        whole = np.append(edges[:1], edges[-1:]).tolist() == [0, blocks.size]
        if not whole or edges.size != task.size + 1 or (np.diff(edges) < 0).any():
            raise ValueError("its batches do not fit its blocks")
        if blocks.max(initial=-1) >= len(plan) or (np.diff(task) < 0).any():
            raise ValueError("its tasks have blocks that the plan has not")
        return TaskPlan(tuple(np.split(blocks, edges[1:-1])), task)
    except (*DAMAGE, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(path, error) from error


def _numbers(array: np.ndarray) -> np.ndarray:
    """An array of whole numbers from 0 on along one axis, or a ValueError."""
    if array.dtype.kind not in "iu" or array.ndim != 1 or array.min(initial=0) < 0:
        raise ValueError(f"it has {array.dtype} of shape {array.shape} for numbers")
    return array


def _unreadable(path: Path, error: Exception) -> PlanError:
    return PlanError(
        f"The submission '{path}' cannot be read ({error}). Submit the run again: hpcio resume"
    )


def jobs(plan: Plan, number: int) -> Jobs | None:
    """The jobs of a submission, if its submitter noted them."""
    try:
        said = json.loads((plan.rundir.submissions / f"{number}.jobs.json").read_text())
        found = Jobs(tuple(said["arrays"]), said["finish"])
        check_types(found)
        return found
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
