"""The limits of a process and what it used, kept so that the next submission asks for less.

Each attempt has one small JSON file in ``OUT.run/usage``. Processes that run under limits write it,
such as the tasks of a job array. A run on one machine has none.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
import resource
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hpcio.errors import PlanError, as_output_error
from hpcio.machine import read_whole, write_whole
from hpcio.planning import Plan

__all__ = [
    "Usage",
    "measure_usage",
    "memory_to_ask",
    "read_usage",
    "walltime_to_ask",
    "write_usage",
]


@dataclass(frozen=True)
class Usage:
    """The limits of the process of one attempt (None where it had none), and what it used.

    Attributes
    ----------
    label : str
        Whose attempt it was, such as ``123_4``.
    memory_asked : int or None
        Bytes.
    memory_peak : int
        Bytes.
    walltime_asked : float or None
        Seconds.
    seconds : float
        How long the attempt took.
    cpus_asked : int or None
    cpu_seconds : float
        Of all threads, and of child processes that have ended.

    Raises
    ------
    PlanError
        If a value makes no sense.
    """

    label: str
    memory_asked: int | None
    memory_peak: int
    walltime_asked: float | None
    seconds: float
    cpus_asked: int | None
    cpu_seconds: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type)
            if not _fits(value, kind, asked=field.name.endswith("_asked")):
                raise PlanError(
                    f"'{field.name}' is {reprlib.repr(value)}, which is no {kind} that a process "
                    "asks for or uses. Give numbers that were measured, in bytes and seconds."
                )


def _fits(value: object, kind: str, *, asked: bool) -> bool:
    if kind == "str":
        return isinstance(value, str)
    if value is None:
        return kind.endswith("None")
    types = int if kind.startswith("int") else int | float
    if not isinstance(value, types) or isinstance(value, bool):
        return False
    return math.isfinite(value) and (value > 0 if asked else value >= 0)


@dataclass(frozen=True)
class Damage:
    """A file of usage that cannot be read: its name, and why."""

    name: str
    why: str


# ---------------------------------------------------------------------- measuring


def measure_usage(
    started: float,
    label: str,
    *,
    memory_asked: int | None = None,
    walltime_asked: float | None = None,
    cpus_asked: int | None = None,
) -> Usage:
    """What this process has used since it began.

    Parameters
    ----------
    started : float
        When the process began, in seconds since 1970.
    label : str
        Whose attempt it is, such as ``123_4``.
    memory_asked, walltime_asked, cpus_asked : optional
        Its limits, in bytes, seconds and numbers of CPUs.

    Returns
    -------
    Usage

    Examples
    --------
    >>> used = measure_usage(time.time() - 5, "123_4", memory_asked=4_000_000_000)
    >>> 5 <= used.seconds < 6, used.memory_peak > 1_000_000
    (True, True)
    """
    spent = os.times()
    return Usage(
        label=label,
        memory_asked=memory_asked,
        memory_peak=_memory_peak(),
        walltime_asked=walltime_asked,
        seconds=max(0.0, time.time() - started),
        cpus_asked=cpus_asked,
        cpu_seconds=spent.user + spent.system + spent.children_user + spent.children_system,
    )


def _memory_peak() -> int:
    """The most memory that this process ever had, in bytes.

    The number of getrusage is inherited: if a larger process started this one, it is the peak
    of the larger one. Children are left out for the same reason.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        status = ""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# ---------------------------------------------------------------------- keeping


def write_usage(plan: Plan, attempt_name: str, usage: Usage) -> None:
    """Keep what an attempt used: complete, or not at all; a second time replaces the first.

    Parameters
    ----------
    plan : Plan
        With a run directory.
    attempt_name : str
    usage : Usage

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = plan.rundir.usage / f"{attempt_name}.json"
    try:
        path.parent.mkdir(mode=plan.modes.record_folder, exist_ok=True)
        write_whole(path, json.dumps(asdict(usage)).encode(), mode=plan.modes.record)
    except OSError as error:
        raise as_output_error(error, path) from error


def read_usage(plan: Plan) -> tuple[tuple[Usage, ...], tuple[Damage, ...]]:
    """What the attempts of a run used, by their names, and the files that cannot be read.

    Nothing is raised: a report is useful without some of them, if it says so.

    Returns
    -------
    usages : tuple of Usage
    damaged : tuple of Damage
    """
    usages, damaged = [], []
    for path in sorted(plan.rundir.usage.glob("*.json")):
        try:
            usages.append(_parse(read_whole(path)))
        except (OSError, ValueError, RecursionError) as error:
            damaged.append(Damage(path.name, str(error)))
    return tuple(usages), tuple(damaged)


def _parse(raw: bytes) -> Usage:
    held: Any = json.loads(raw)
    if not isinstance(held, dict):
        raise PlanError(f"It holds {reprlib.repr(held)} instead of an object.")
    # Fields that a later version added are ignored.
    names = [field.name for field in fields(Usage)]
    missing = [name for name in names if name not in held]
    if missing:
        raise PlanError(f"It lacks {', '.join(missing)}.")
    return Usage(**{name: held[name] for name in names})


# ---------------------------------------------------------------------- suggesting

# Below which value a suggestion is rounded up to which step: bytes, and seconds.
_MEMORY_STEPS = ((10**9, 10**8), (10**10, 5 * 10**8), (10**11, 10**9))
_WALLTIME_STEPS = ((3600, 300), (6 * 3600, 900), (48 * 3600, 3600))


def memory_to_ask(peak: float) -> int:
    """The memory to ask for after a peak, in bytes: a fifth more, rounded up.

    Examples
    --------
    >>> memory_to_ask(310e6), memory_to_ask(3.4e9), memory_to_ask(33.1e9)
    (400000000, 4500000000, 40000000000)
    """
    need = 1.2 * peak
    step = next((s for below, s in _MEMORY_STEPS if need < below), 10**10)
    return max(1, math.ceil(need / step)) * step


def walltime_to_ask(longest: float) -> int:
    """The walltime to ask for after the longest attempt, in seconds: half more, rounded up.

    Examples
    --------
    >>> [walltime_to_ask(seconds) / 60 for seconds in (2, 700, 6000)]
    [5.0, 20.0, 150.0]
    """
    need = 1.5 * longest
    step = next((s for below, s in _WALLTIME_STEPS if need < below), 6 * 3600)
    return max(1, math.ceil(need / step)) * step
