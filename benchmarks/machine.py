"""Where a measurement was made."""

from __future__ import annotations

import datetime
import os
import subprocess
import time
from pathlib import Path

from hpcio.bench import machine_facts
from hpcio.words import size


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
        mine = os.times()
        ours = mine.user + mine.system + mine.children_user + mine.children_system
        return time.monotonic(), (sum(ticks) - idle) / hertz - ours

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
