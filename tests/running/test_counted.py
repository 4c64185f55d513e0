"""What a trial costs, counted: system calls, bytes that pass through them, files that are opened.

Counts are the same on every machine, however busy it is. A limit that is broken here is work that
every trial of every run would do; it is not raised without a reason that stands in the commit.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("strace") is None, reason="no strace: apt install strace"),
]

ROWS, CHANNELS = 64, 20
TRIAL = ROWS * CHANNELS * 8
FEW, MANY = 200, 600
SCRIPT = """
import json, sys
import numpy as np
import hpcio

if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    workers = options.pop("workers", 0)
    plan = hpcio.Plan.create(
        np.negative, "rec.h5::x", trials=64, out="out.h5", **options
    )
    plan.run(workers=workers, progress=False)
"""
# Where a file is asked for by its name.
_OPENED = re.compile(r"^(open|openat|creat|stat|lstat|newfstatat|unlink\w*|rename\w*|mkdir\w*)$")
_BYTES = re.compile(r"^p?(read|write)(64|v|v2)?$")
# Which process, which call, what came of it: as `strace -f` writes a line.
_LINE = re.compile(r"^\d+ +(?:<\.\.\. )?(\w+)(?: resumed>|\().*= (-?\d+)")


class Counted(NamedTuple):
    """What one trial more costs."""

    calls: float
    named: float
    nbytes: float


def traced(folder: Path, trials: int, options: str) -> dict[str, tuple[int, int]]:
    """How often each system call was made by a run, and the bytes that it returned."""
    folder.mkdir()
    with h5py.File(folder / "rec.h5", "w") as f:
        f["x"] = np.random.default_rng(0).random((trials * ROWS, CHANNELS))
    (folder / "run.py").write_text(SCRIPT)
    trace = folder / "trace"
    subprocess.run(
        ["strace", "-f", "-qq", "-o", str(trace), sys.executable, "run.py", str(trials), options],
        cwd=folder, check=True,
    )  # fmt: skip
    found: dict[str, tuple[int, int]] = {}
    with trace.open(errors="replace") as lines:
        for line in lines:
            if match := _LINE.match(line):
                calls, nbytes = found.get(match[1], (0, 0))
                found[match[1]] = calls + 1, nbytes + max(0, int(match[2]))
    return found


def counted(folder: Path, options: str) -> Counted:
    """What a trial costs: the difference of many and few, divided by that of their numbers."""
    few, many = (traced(folder / str(n), n, options) for n in (FEW, MANY))

    def more(names: re.Pattern[str], which: int) -> float:
        totals = [sum(v[which] for name, v in each.items() if names.match(name))
                  for each in (few, many)]  # fmt: skip
        return (totals[1] - totals[0]) / (MANY - FEW)

    # What threads do to wait for each other depends on which is faster.
    by_chance = (
        r"^(?!futex|sched_yield|clock_nanosleep|poll|select|epoll\w*|madvise|munmap|mmap|brk)"
    )
    return Counted(more(re.compile(by_chance), 0), more(_OPENED, 0), more(_BYTES, 1))


@pytest.mark.parametrize(
    ("options", "most"),
    [
        # Write; and what is once for twelve trials, which are read together, or for 512.
        ('{"sources": "task"}', Counted(1.5, 0.1, 2.2 * TRIAL)),
        # ... and read again before it is published, from the disk.
        ('{"writer": "direct"}', Counted(2.5, 0.1, 3.2 * TRIAL)),
        # A file: open, write, close; and publishing looks at each.
        ('{"sources": "trial"}', Counted(11.5, 5.1, 3.0 * TRIAL)),
        ('{"sources": "task", "keeptrials": false}', Counted(1.2, 0.1, 1.7 * TRIAL)),
        ('{"sources": "task", "workers": 2}', Counted(1.6, 0.2, 2.3 * TRIAL)),
    ],
    ids=["virtual", "direct", "a file a trial", "average", "workers"],
)
def test_a_trial_costs_no_more_than_it_must(tmp_path, options, most):
    found = counted(tmp_path, options)
    print(found)
    assert found.calls <= most.calls, found
    assert found.named <= most.named, found
    assert found.nbytes <= most.nbytes, found
