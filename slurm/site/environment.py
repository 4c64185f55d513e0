"""What SLURM tells an array task by its environment."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

__all__ = [
    "index",
    "job",
    "label",
    "limit_memory",
    "memory",
    "oom_kills",
    "outside",
    "restarts",
]

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


def oom_kills() -> int:
    """How many processes of this task the system has killed for want of memory.

    0 if it does not count them: where SLURM puts no tasks into cgroups.
    """
    try:
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return 0
    mount = Path("/sys/fs/cgroup")
    for number, kinds, path in (line.split(":", 2) for line in groups):
        name = {"0": "memory.events"}.get(number) if not kinds else "memory.oom_control"
        where = mount if not kinds else mount / "memory"
        if name is None or (kinds and "memory" not in kinds.split(",")):
            continue
        try:
            said = (where / path.lstrip("/") / name).read_text()
        except OSError:
            continue
        found = re.search(r"^oom_kill (\d+)$", said, re.MULTILINE)
        if found:
            return int(found[1])
    return 0


# What users set for SLURM's commands; all else of that name describes the job at hand.
_FOR_COMMANDS = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")


def outside() -> dict[str, str]:
    """The environment without what describes this job, for jobs that it submits."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SLURM_") or name in _FOR_COMMANDS
    }
