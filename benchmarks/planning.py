"""What is measured of plans in a process of its own: ``python -m benchmarks.planning WHAT DIR``.

So the peak of its memory belongs to the plan, and its time to a whole script.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

import hpcio
from benchmarks.functions import first_sample

TRIALS = 1_000_000
RECORDINGS, TRIALS_OF_EACH = 100, 1_000
ROWS = 10
RATE = 1000.0


def peak() -> int:
    """Largest resident memory of this program in bytes.

    Not `ru_maxrss`, which a new program inherits from whoever started it.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM"))


def make(folder: str) -> None:
    """Plan equal trials, then write the plan."""
    started = time.perf_counter()
    plan = _planned(folder, ROWS)
    _write(plan, started)


def make_of_events(folder: str) -> None:
    """Plan trials around events, with four columns, then write the plan."""
    random = np.random.default_rng(0)
    columns = {
        "condition": np.array(["left", "right", "catch"])[random.integers(0, 3, TRIALS)],
        "rt": random.random(TRIALS),
        "block": np.arange(TRIALS) // 1000,
        "correct": random.random(TRIALS) < 0.8,
    }
    onsets = np.arange(TRIALS) * ROWS / RATE
    started = time.perf_counter()
    trials = hpcio.Trials.from_events(onsets, rate=RATE, post=ROWS / RATE, columns=columns)
    _write(_planned(folder, trials), started)


def make_of_recordings(folder: str, source: str, trials: str, units: str) -> None:
    """Plan all trials of several recordings, each in its own file, then write the plan."""
    started = time.perf_counter()
    plan = hpcio.Plan.create(
        first_sample, f"{folder}/{source}", trials=trials, units=units or None,
        out=f"{folder}/out.h5", sources="task",
    )  # fmt: skip
    assert len(plan) == RECORDINGS * TRIALS_OF_EACH
    _write(plan, started)


def _planned(folder: str, trials: hpcio.Trials | int) -> hpcio.Plan:
    plan = hpcio.Plan.create(
        first_sample, f"{folder}/rec.h5::data", trials=trials, out=f"{folder}/out.h5",
        sources="task",
    )  # fmt: skip
    assert len(plan) == TRIALS
    return plan


def _write(plan: hpcio.Plan, started: float) -> None:
    from hpcio.journals import prepare

    made = time.perf_counter()
    prepare(plan)
    ended = time.perf_counter()
    _say(seconds=made - started, write=ended - made, whole=ended - started)


def load(folder: str) -> None:
    """Load a plan, as sessions do."""
    started = time.perf_counter()
    assert len(hpcio.Plan.load(f"{folder}/out.h5")) == TRIALS
    _say(seconds=time.perf_counter() - started)


def load_for_worker(folder: str) -> None:
    """Load a plan, as workers do."""
    from hpcio.planning import load_for_worker

    started = time.perf_counter()
    assert len(load_for_worker(f"{folder}/out.h5")) == TRIALS
    _say(seconds=time.perf_counter() - started)


def nothing(_: str) -> None:
    """Import what planning imports."""
    assert hpcio.Plan is not None
    _say()


def _say(**values: float) -> None:
    print(json.dumps({**values, "peak": peak()}))


def script(folder: str) -> None:
    """The script of a user, and what it has imported at its end."""
    plan = hpcio.Plan.create(
        first_sample, f"{folder}/rec.h5::data", trials=ROWS, out=f"{folder}/out.h5"
    )
    done = plan.run(workers=2, progress=False)
    print(json.dumps({"computed": done.computed, "modules": list(sys.modules)}))


def shell(folder: str) -> None:
    """The same by the command, in this process; what it has imported."""
    from hpcio.cli import main

    sys.argv[1:] = shell_arguments(folder)
    with suppress(SystemExit):
        main()
    print(json.dumps({"modules": list(sys.modules)}))


def shell_arguments(folder: str) -> list[str]:
    """What follows ``hpcio`` on the command line."""
    return [
        "run", "benchmarks.functions:first_sample", f"{folder}/rec.h5::data",
        "--trials", str(ROWS), "--out", f"{folder}/out.h5",
    ]  # fmt: skip


def imports(file: str) -> None:
    """Import what another process has imported."""
    for name in json.loads(Path(file).read_text()):
        with suppress(ImportError):  # made by hand, as those of Cython
            importlib.import_module(name)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
