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
    from slurm.submissions.queue import pending_tasks
    from slurm.submissions.records import Submission, jobs, newest, read_submission, task_plan
    from slurm.submissions.status import outcome
    from slurm.submissions.submitting import scripts, submit, write_scripts

__all__ = [
    "Submission",
    "Submitted",
    "attach",
    "jobs",
    "log_files",
    "newest",
    "outcome",
    "pending_tasks",
    "read_submission",
    "scripts",
    "submit",
    "task_plan",
    "write_scripts",
]

# Imported when they are asked for: an array task, `slurm.tasks`, has no use for what
# submits it.
__getattr__ = lazily(
    __name__,
    {
        "Submission": "records",
        "Submitted": "handle",
        "attach": "handle",
        "jobs": "records",
        "log_files": "logs",
        "newest": "records",
        "outcome": "status",
        "pending_tasks": "queue",
        "read_submission": "records",
        "scripts": "submitting",
        "submit": "submitting",
        "task_plan": "records",
        "write_scripts": "submitting",
    },
)
