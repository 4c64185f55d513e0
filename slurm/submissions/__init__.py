"""Submissions: what was asked of SLURM for a plan, kept on the shared file system.

This room uses `slurm.site`, `slurm.mapping` and `slurm.forecast`, and hpcio. Others take `submit`
and the handle `Submitted` from it; the tasks of a submission read there what is theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcio.machine import lazily

if TYPE_CHECKING:
    from slurm.submissions.handle import Submitted, attach
    from slurm.submissions.logs import log_files
    from slurm.submissions.passes import is_alone_in, next_pass, pass_words, submit_pass
    from slurm.submissions.queue import Row, pending_tasks, read_queue
    from slurm.submissions.records import (
        Submission,
        is_stopped,
        jobs,
        newest,
        numbers,
        read_submission,
        stop,
        task_plan,
    )
    from slurm.submissions.script import job_script, plain_path
    from slurm.submissions.status import outcome
    from slurm.submissions.submitting import scripts, submit, write_scripts

__all__ = [
    "Row",
    "Submission",
    "Submitted",
    "attach",
    "is_alone_in",
    "is_stopped",
    "job_script",
    "jobs",
    "log_files",
    "newest",
    "next_pass",
    "numbers",
    "outcome",
    "pass_words",
    "pending_tasks",
    "plain_path",
    "read_queue",
    "read_submission",
    "scripts",
    "stop",
    "submit",
    "submit_pass",
    "task_plan",
    "write_scripts",
]

# Imported when they are asked for: an array task, `slurm.tasks`, has no use for what
# submits it.
__getattr__ = lazily(
    __name__,
    {
        "job_script": "script",
        "plain_path": "script",
        "Row": "queue",
        "Submission": "records",
        "Submitted": "handle",
        "attach": "handle",
        "is_stopped": "records",
        "jobs": "records",
        "log_files": "logs",
        "newest": "records",
        "is_alone_in": "passes",
        "next_pass": "passes",
        "numbers": "records",
        "outcome": "status",
        "pass_words": "passes",
        "pending_tasks": "queue",
        "read_queue": "queue",
        "read_submission": "records",
        "scripts": "submitting",
        "stop": "records",
        "submit": "submitting",
        "submit_pass": "passes",
        "task_plan": "records",
        "write_scripts": "submitting",
    },
)
