"""What squeue says of jobs; whose they are, others find out."""

from __future__ import annotations

import os
from dataclasses import dataclass

from slurm.site.commands import call

__all__ = ["ENDED", "FIRST_LOOK", "LAST_LOOK", "QueuedJob", "queued_jobs"]

# States of a task that will not run again by itself.
ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL",
     "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT")
)  # fmt: skip
# Seconds between two calls of squeue while somebody waits: first the one, in the end the other.
FIRST_LOOK, LAST_LOOK = 2.0, 30.0
# A character that no name holds.
_BETWEEN = "\x1f"
# squeue waits for 9 s for a controller that is down.
_PATIENCE = 5.0


@dataclass(frozen=True)
class QueuedJob:
    """One job, or one task of a job array, as SLURM has it.

    Attributes
    ----------
    job, index : int
        Number of the array (or job), and index in it (or 0).
    state, reason, node : str
    script : str
        Path of its script, perhaps with arguments behind.
    """

    job: int
    index: int
    state: str
    reason: str
    node: str
    script: str


def queued_jobs() -> list[QueuedJob]:
    """All jobs of this user that SLURM still knows, those that have ended included.

    Raises
    ------
    ClusterError
        If SLURM does not answer within some seconds.
    """
    answer = call(
        ["squeue", "--noheader", "--array", "--states=all", f"--user={os.geteuid()}",
         f"--format={_BETWEEN.join(('%F', '%K', '%T', '%r', '%N', '%Z', '%o'))}"],
        timeout=_PATIENCE,
    )  # fmt: skip
    rows = (line.split(_BETWEEN) for line in answer.splitlines())
    return [_read(*row) for row in rows if len(row) == 7]


def _read(
    job: str, index: str, state: str, reason: str, node: str, folder: str, script: str
) -> QueuedJob:
    # A script may have been given to sbatch by a relative path.
    path = os.path.normpath(os.path.join(folder, script))
    return QueuedJob(int(job), int(index) if index.isdigit() else 0, state, reason, node, path)
