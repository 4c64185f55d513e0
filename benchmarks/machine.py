"""Where a measurement was made."""

from __future__ import annotations

import datetime
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from hpcio.bench import machine_facts
from hpcio.words import size


def below(pid: int) -> Iterator[int]:
    """A process, and all that it, and they, have started and that live."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in map(int, children):
            yield from below(child)


def _ticks(pid: int) -> int:
    """What a process has used of cores, and those that it has waited for."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    return sum(map(int, said.rpartition(")")[2].split()[11:15]))


class Others:
    """How many cores all but this program and its workers use, between making and asking.

    The kernel's own writing to disk is among them, which no program is charged for.
    """

    def __init__(self) -> None:
        self._started = self._look()

    @staticmethod
    def _look() -> tuple[float, float]:
        hertz = os.sysconf("SC_CLK_TCK")
        ticks = [int(x) for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        idle = ticks[3] + ticks[4]  # idle, and waiting for a disk
        ours = sum(map(_ticks, below(os.getpid())))
        return time.monotonic(), (sum(ticks) - idle - ours) / hertz

    def cores(self) -> float:
        since, before = self._started
        now, after = self._look()
        return max(0.0, (after - before) / (now - since))


def describe() -> dict[str, object]:
    """Machine, versions, date, and the commit if this is a checkout."""
    facts = machine_facts()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        **{name: value for name, value in facts.items() if name != "versions"},
        "memory": size(facts["memory"]),
        **facts["versions"],
    }


def _commit() -> str | None:
    def git(*args: str) -> str:
        folder = Path(__file__).parent
        return subprocess.check_output(
            ["git", "-C", folder, *args], text=True, stderr=subprocess.DEVNULL
        ).strip()

    try:
        packages = git("status", "--porcelain", "--", "../hpcio", "../slurm")
        changed = " and changes" if packages else ""
        return git("rev-parse", "--short=12", "HEAD") + changed
    except (OSError, subprocess.CalledProcessError):
        return None
