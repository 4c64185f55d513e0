"""The logs of the jobs of a submission."""

from __future__ import annotations

import re
from pathlib import Path

from hpcio.errors import OptionError
from hpcio.machine import read_whole
from hpcio.planning import Plan
from hpcio.words import plain
from slurm.submissions import records
from slurm.submissions.records import Submission

__all__ = ["last_words", "log_files"]

# What a log holds when something went wrong: words of ours, of Python, of SLURM.
_TROUBLE = re.compile(rb"^(hpcio: |Traceback |slurmstepd: error)", re.MULTILINE)


def log_files(plan: Plan, submission: Submission, *, task: int | None = None) -> list[Path]:
    """Logs of a submission, oldest first.

    Parameters
    ----------
    plan : Plan
    submission : Submission
    task : int, optional
        Of this array task; by default of all in which something went wrong.
    """
    if task is not None:
        return _of_task(plan, submission, task)
    paths = [p for p in plan.rundir.logs.glob("*.log") if _is_of_a_job(p)]
    jobs = records.jobs(plan, submission.number)
    if jobs:
        ours = {*map(str, jobs.arrays), f"finish-{jobs.finish}"}
        paths = [p for p in paths if p.stem in ours or p.stem.partition("_")[0] in ours]
    wrong = [p for p in paths if _TROUBLE.search(read_whole(p)) or p.stem.startswith("finish")]
    return sorted(wrong, key=lambda p: p.stat().st_mtime)


def last_words(plan: Plan, submission: Submission, task: int) -> str:
    """The last line that an array task has printed; "" if there is none."""
    for path in reversed(_of_task(plan, submission, task)):
        lines = path.read_text(errors="replace").split("\n")
        if said := [line.strip() for line in lines if line.strip()]:
            return plain(said[-1])[:300]
    return ""


def _of_task(plan: Plan, submission: Submission, task: int) -> list[Path]:
    if not 0 <= task < submission.tasks:
        raise OptionError(f"There is no task {task}; they are 0 to {submission.tasks - 1}.")
    jobs = records.jobs(plan, submission.number)
    k = max(k for k, array in enumerate(submission.arrays) if array.first <= task)
    job = str(jobs.arrays[k]) if jobs else "*"
    return sorted(plan.rundir.logs.glob(f"{job}_{task - submission.arrays[k].first}.log"))


def _is_of_a_job(path: Path) -> bool:
    return re.fullmatch(r"\d+_\d+|finish-\d+", path.stem) is not None
