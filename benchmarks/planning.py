"""Make or load one plan in this process: ``python -m benchmarks.planning make|load DIR``.

A fresh process, so that the peak of its memory belongs to the plan. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import hpcio
from benchmarks.functions import first_sample
from hpcio.journals import rundir

TRIALS = 1_000_000
ROWS = 10


def _peak() -> int:
    """Largest resident memory of this program in bytes.

    Not `ru_maxrss`, which a new program inherits from whoever started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM"))


def main(action: str, folder: str) -> None:
    started = time.perf_counter()
    if action == "make":
        plan = hpcio.Plan.create(
            first_sample, f"{folder}/rec.h5::data", trials=ROWS, out=f"{folder}/out.h5",
            sources="task",
        )  # fmt: skip
    else:
        plan = hpcio.Plan.load(f"{folder}/out.h5")
    seconds, peak = time.perf_counter() - started, _peak()
    assert len(plan) == TRIALS
    started = time.perf_counter()
    if action == "make":
        rundir.prepare(plan)
    print(json.dumps({"seconds": seconds, "peak": peak, "write": time.perf_counter() - started}))


if __name__ == "__main__":
    main(*sys.argv[1:])
