"""What SLURM tells an array task by its environment."""

from __future__ import annotations

import os
import resource

__all__ = ["index", "job", "label", "limit_memory", "memory", "restarts"]

# Memory of an array task beside the data of Python, in bytes: code, stacks, and what the kernel
# counts for it.
_ASIDE = 64 << 20


def label() -> str:
    """``ARRAY_TASK``, as SLURM's commands take it; "" outside of an array."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{x}_ID") for x in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else ""


def job() -> str:
    """What SLURM's commands call this array task, or this job; "" outside of jobs."""
    return label() or os.environ.get("SLURM_JOB_ID", "")


def index() -> int:
    """The index of this task in its array."""
    return int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))


def restarts() -> int:
    """How often SLURM has started this task again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def memory() -> int | None:
    """Bytes that this task may use on its node; None if that is not limited."""
    megabytes = os.environ.get("SLURM_MEM_PER_NODE")
    per_cpu, cpus = (os.environ.get(f"SLURM_{x}") for x in ("MEM_PER_CPU", "CPUS_ON_NODE"))
    if megabytes is None and per_cpu and cpus:
        megabytes = str(int(per_cpu) * int(cpus))
    return int(megabytes) << 20 if megabytes else None


def limit_memory() -> None:
    """Set a limit below that of SLURM: Python names the block then, where SLURM would kill."""
    limit = (memory() or 0) - _ASIDE
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if limit > 0 and (hard == resource.RLIM_INFINITY or limit < hard):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
