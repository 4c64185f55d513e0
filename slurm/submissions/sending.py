"""Submitting what a plan lacks: the steps, from what was asked for to the jobs in the queue."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from hpcio.errors import ClusterError
from hpcio.journals import held, published
from hpcio.planning import Plan, check_disk
from hpcio.results import publish
from hpcio.running import begin
from hpcio.watching import check_queues
from hpcio.words import say
from hpcio.writers import backend_of, trusted_ledger
from slurm.forecast import BASE_TASK, check_memory, check_walltime, measured_speed
from slurm.mapping import arrays_of
from slurm.site import Site, SubmitOptions, call, environment, job_number, read_site
from slurm.submissions import records
from slurm.submissions.choosing import resolved
from slurm.submissions.making import job_scripts, plan_tasks, write_submission
from slurm.submissions.records import Jobs, Submission
from slurm.submissions.request import JobRequest, make_request

__all__ = ["preview", "send_jobs", "submit_missing", "write_missing"]

Send = Callable[[Plan, Submission], None]


def submit_missing(plan: Plan, options: SubmitOptions) -> None:
    """Submit the blocks that a plan lacks; see `slurm.submit`."""
    _make_and_send(plan, options, send_jobs)


def write_missing(plan: Plan, options: SubmitOptions) -> None:
    """Do the same, but for the call of sbatch; see `slurm.write_scripts`."""
    _make_and_send(plan, options, lambda *_: None)


def preview(plan: Plan, options: SubmitOptions) -> list[str]:
    """The job scripts of the whole plan, the finalizer's last; nothing is written."""
    options.policy()
    site = read_site()
    options = _decided(plan, options, site, np.arange(len(plan)))
    request = make_request(plan, options, site)
    _check_memory(plan, request)
    work = plan_tasks(plan, request, np.arange(len(plan)))
    arrays = arrays_of(work.tasks, max_array_size=site.max_array_size)
    return list(job_scripts(plan, request, arrays, submission=1).values())


def _make_and_send(plan: Plan, options: SubmitOptions, send: Send) -> None:
    policy = options.policy()
    site = read_site()
    request = make_request(plan, options, site)
    _check_memory(plan, request)
    if options.probe and request.seconds is not None:
        speed = measured_speed(plan, trial_time=policy.trial_time)
        check_walltime(plan, request.seconds - request.signal, bytes_per_second=speed)
    if plan.starts_over:
        check_queues(plan)
    plan = begin(plan)
    with held(plan):
        if published(plan):
            return
        check_queues(plan)
        plan.source.check_content()  # else tasks would find out, after their time in the queue
        ledger = trusted_ledger(plan)
        missing = ledger.missing()
        if not missing.size:
            publish(ledger)
            return
        check_disk(plan, missing)
        options = _decided(plan, options, site, missing)
        request = make_request(plan, options, site)
        backend_of(plan).reserve(plan)

        def attempt(request: JobRequest) -> None:
            made = write_submission(
                plan, request, missing, site=site, ledger=ledger, options=options, policy=policy
            )
            send(plan, made)

        _with_fewer_tasks_if_refused(attempt, request)


def _decided(plan: Plan, options: SubmitOptions, site: Site, blocks: np.ndarray) -> SubmitOptions:
    """The options, with a number where they ask for ``tasks="auto"``; it is told why."""
    decided, why = resolved(plan, options, site, blocks)
    if why:
        say(why, err=True)
    return decided


def _check_memory(plan: Plan, request: JobRequest) -> None:
    """Hold the largest block against the memory of a task."""
    if request.memory is not None:
        check_memory(plan, request.memory, base=BASE_TASK)


def _with_fewer_tasks_if_refused(
    attempt: Callable[[JobRequest], None], request: JobRequest
) -> None:
    """Submit; if that is beyond a limit of the site, submit fewer tasks of more blocks."""
    while True:
        try:
            return attempt(request)
        except ClusterError as error:
            if request.tasks == 1 or not re.search(r"MaxSubmit|submit limit", str(error)):
                raise
        request = replace(request, tasks=request.tasks // 2)


def send_jobs(plan: Plan, made: Submission) -> None:
    """Call sbatch for each array, then for the finalizer; if one is refused, for none."""
    sent: list[int] = []
    try:
        for script in made.script:
            sent.append(_sbatch([script]))  # noqa: PERF401  (those sent count if one fails)
        after = ":".join(map(str, sent))
        finish = _sbatch(
            [f"--dependency=afterany:{after}", "--kill-on-invalid-dep=yes", made.finish_script]
        )
    except BaseException:
        if sent:
            call(["scancel", "--quiet", *map(str, sent)])
        else:
            records.forget(plan, made.number)  # as if nobody had asked
        raise
    records.note_jobs(plan, made.number, Jobs(tuple(sent), finish))


def _sbatch(arguments: Sequence[str]) -> int:
    return job_number(call(["sbatch", "--parsable", *arguments], environment=environment.outside()))
