"""Making a submission: writing its files into the run directory."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from hpcio.errors import as_output_error
from hpcio.journals import ClaimFolder, Follower, Ledger
from hpcio.machine import user_name, write_whole
from hpcio.planning import Plan, RunPolicy
from slurm.mapping import JobArray, TaskPlan, arrays_of, map_blocks
from slurm.site import Site, SubmitOptions
from slurm.submissions import records
from slurm.submissions.records import Submission, Why
from slurm.submissions.request import JobRequest
from slurm.submissions.script import array_script, finish_script, ranks_script

__all__ = ["job_scripts", "plan_tasks", "write_submission"]

FINISH = "finish.sh"


def plan_tasks(plan: Plan, request: JobRequest, blocks: np.ndarray) -> TaskPlan:
    """Which task will do which blocks."""
    if request.ranks is not None:  # they share out the work among themselves
        return TaskPlan((blocks,), np.zeros(1, np.int64))
    return map_blocks(
        blocks,
        plan.work_sizes()[blocks],
        tasks=request.tasks,
        batches_per_task=request.chunks_per_task,
        together=plan.group_of(blocks),
    )


def job_scripts(
    plan: Plan, request: JobRequest, arrays: Sequence[JobArray], *, submission: int
) -> dict[str, str]:
    """The scripts of a submission by their file names, that of the finalizer last."""
    kind = "array" if request.ranks is None else "ranks"
    names = [f"{kind}{'' if k == 0 else f'-{k + 1}'}.sh" for k in range(len(arrays))]
    texts = [_script(plan, request, array, submission=submission) for array in arrays]
    finish = {FINISH: finish_script(plan, request, submission=submission)}
    return dict(zip(names, texts, strict=True)) | finish


def _script(plan: Plan, request: JobRequest, array: JobArray, *, submission: int) -> str:
    if request.ranks is not None:
        return ranks_script(plan, request, submission=submission, ranks=request.ranks)
    return array_script(plan, request, submission=submission, first=array.first, size=array.size)


def write_submission(
    plan: Plan,
    request: JobRequest,
    blocks: np.ndarray,
    *,
    site: Site,
    ledger: Ledger,
    options: SubmitOptions,
    policy: RunPolicy,
    first: int = 0,
    why: Why = "",
) -> Submission:
    """Write the scripts of a submission, and what its tasks read.

    Parameters
    ----------
    plan : Plan
        Its run directory exists.
    request : JobRequest
    blocks : numpy.ndarray of int
        Those to do, ascending.
    site : Site
    ledger : Ledger
        As it is before.
    options : SubmitOptions
        To be kept.
    policy : RunPolicy
    first, why
        If it is a pass of an earlier one; see `Submission`.

    Returns
    -------
    Submission

    Raises
    ------
    OutputError
    """
    number = max(records.numbers(plan), default=0) + 1
    work = plan_tasks(plan, request, blocks)
    arrays = arrays_of(work.tasks, max_array_size=site.max_array_size)
    scripts = job_scripts(plan, request, arrays, submission=number)
    _write_scripts(plan, scripts)
    folder = plan.rundir.path
    journals = Follower(plan)
    journals.look()
    counted = tuple(journals.seen.get(log.path.name, 0) for log in ledger.logs)
    made = Submission(
        number=number, run_id=plan.run_id, cluster=site.cluster, user=user_name(),
        time=time.time(), tasks=work.tasks, arrays=arrays,
        script=tuple(str(folder / name) for name in scripts if name != FINISH),
        finish_script=str(folder / FINISH), options=options, cpus=request.cpus,
        memory=request.memory, seconds=request.seconds, signal=request.signal,
        stale=request.stale, retries=policy.retries, max_failed=policy.most_failed(len(plan)),
        gaps=policy.gaps, trial_time=policy.trial_time, ranks=request.ranks,
        known=tuple(log.path.name for log in ledger.logs), mem_retry=request.mem_retry,
        time_retry=request.time_retry, mem_max=request.mem_max, first=first or number, why=why,
        counted=counted,
    )  # fmt: skip
    records.write(plan, made, work)
    return made


def _write_scripts(plan: Plan, scripts: dict[str, str]) -> None:
    """Make the folders that tasks use, and write the scripts."""
    run = plan.rundir
    try:
        ClaimFolder(run.claims).make()
        for folder in (run.heartbeats, run.logs, run.usage):
            folder.mkdir(mode=plan.modes.record_folder, exist_ok=True)
        for name, text in scripts.items():
            # They are run by their owner, who may run what he may read.
            write_whole(run.path / name, text.encode(), mode=plan.modes.record_folder)
    except OSError as error:
        raise as_output_error(error, run.path) from error
