"""What a run may use: memory of a worker against the largest block, and free disk."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np

from hpcio.errors import MemoryLimitError, OutputError, PlanError
from hpcio.planning.plan import Plan
from hpcio.recording.reading import LARGE

__all__ = ["available", "block_memory", "check_disk", "check_memory", "check_room", "parse_bytes"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}

# Python, numpy, h5py and the plan itself, in bytes.
BASE = 80 << 20


def parse_bytes(value: str | int) -> int:
    """A size in bytes, from a number or text such as ``"4GB"`` or ``"512MiB"``.

    Examples
    --------
    >>> parse_bytes("4GB"), parse_bytes("1 KiB")
    (4000000000, 1024)
    """
    if isinstance(value, int):
        return value
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?i?)b?\s*", value.lower())
    if not match or (match[2] and match[2] not in _UNITS | _BINARY):
        raise PlanError(f"'{value}' is no size. Write a number of bytes, or such as 4GB.")
    return int(float(match[1]) * (_UNITS | _BINARY)[match[2]])


def available() -> int:
    """Bytes of memory that this process may still take: of the machine, or of its cgroup."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:
        with open("/proc/meminfo") as f:
            free = next(int(x.split()[1]) * 1024 for x in f if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass  # not Linux: what sysconf said must do
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            with open(limit) as a, open(used) as b:
                free = min(free, int(a.read()) - int(b.read()))
        except (OSError, ValueError):
            continue  # no such kind of cgroup, or "max"
    return max(free, 0)


def block_memory(plan: Plan) -> np.ndarray:
    """Bytes that each block needs at the least, shape (B,).

    Its trial and its result, and for large trials the next one, which is read ahead. With
    averages, also the sums.
    """
    trial = plan.input_sizes()
    need: np.ndarray = trial * np.where(trial < LARGE, 1, 2) + plan.target.sizes()
    return need if plan.average is None else need + 2 * plan.target.nbytes


def check_memory(plan: Plan, limit: str | int) -> None:
    """Raise MemoryLimitError if the largest block does not fit into a worker of `limit` bytes."""
    limit = parse_bytes(limit)
    need = block_memory(plan)
    largest = int(need.argmax())
    total = int(need[largest]) + BASE
    if total > limit:
        trial = int(plan.trials.index[plan.blocks.trial[largest]])
        raise MemoryLimitError(
            f"Trial {trial} needs {total / 1e6:.0f} MB (trial, result, and "
            f"{BASE / 1e6:.0f} MB for Python), but a worker may use {limit / 1e6:.0f} MB. "
            "Use fewer workers, allow more memory, select less, or plan with channels_per_block."
        )


def check_disk(plan: Plan, blocks: np.ndarray) -> None:
    """Raise OutputError if the results of `blocks` cannot fit on the disk."""
    if plan.compression is not None:
        return  # who knows how small they get; a full disk is said when it is full
    check_room(Path(plan.out), plan.stored_bytes(blocks))


def check_room(out: Path, need: int) -> None:
    """Raise OutputError if `need` bytes cannot fit on the disk where `out` will lie."""
    free = shutil.disk_usage(out.parent).free
    if need > free:
        raise OutputError(
            f"The results need {need / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free where "
            f"'{out}' will lie. Free some space, or choose another output."
        )
