"""A small recording with unequal trials, runs of it, and what plain h5py reads then."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import hpcio
from hpcio import Plan
from hpcio.errors import Done
from hpcio.journals.rundir import prepare
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.writers.backend import backend_of

# 30 rows of 4 channels, cut into trials of 6, 6, 8, 6 and 4 rows
LFP = np.random.default_rng(5).normal(size=(30, 4))
TABLE = [[0, 6, 1], [6, 12, 2], [12, 20, 3], [20, 26, 4], [26, 30, -5]]

Array = np.ndarray


def record(path: Path, data: Array = LFP, **storage: Any) -> str:
    with h5py.File(path, "w") as f:
        f.create_dataset("lfp", data=data, **storage)
    return f"{path}::lfp"


def check(out: str | os.PathLike[str], expected: Array) -> None:
    """Plain h5py, `hpcio.open` and `hpcio.verify` all see exactly these bytes."""
    for opened in (h5py.File(out), hpcio.open(out)):
        with opened as f:
            found = f["data"][...]
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            assert found.tobytes() == np.ascontiguousarray(expected).tobytes()
    assert hpcio.verify(out).nbytes == expected.nbytes


def run(func: Any, source: str, out: Path, *, workers: int = 0, **options: Any) -> Done:
    options = {"trials": TABLE, **options}
    return Plan.create(func, source, out=out, **options).run(workers=workers, progress=False)


def pieces(data: Array = LFP, table: Any = TABLE) -> list[Array]:
    return [data[first:last] for first, last, *_ in table]


def as_virtual_dataset(path: Path) -> None:
    layout = h5py.VirtualLayout(LFP.shape, "f8")
    for k, rows in enumerate(np.split(LFP, 5)):
        name = path.with_name(f"part{k}.h5")
        with h5py.File(name, "w") as f:
            f["x"] = rows
        layout[6 * k : 6 * k + 6] = h5py.VirtualSource(name.name, "x", rows.shape)
    with h5py.File(path, "w") as f:
        f.create_virtual_dataset("lfp", layout)


LARGE = np.random.default_rng(1).normal(size=(6 * 2**15, 16)).astype("f4")

WORK = "SHIFT = 1.5\n\ndef shifted(trial):\n    return trial + SHIFT\n"


@hpcio.unwrap_io
def tripled(trial, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, np.dtype("f8")
    return 3.0 * trial


def left_by_a_kill(plan: Plan, *, safe: int, more: int) -> Plan:
    """A run that was killed: some trials are safe, some more have reached the system."""
    plan = prepare(plan)
    backend_of(plan).reserve(plan)
    if not (pid := os.fork()):
        with Attempt(plan, "killed") as attempt:
            run_batch(attempt, np.arange(safe))
            attempt.sync()
            run_batch(attempt, np.arange(safe, safe + more))
            attempt.writer.flush()
            os._exit(0)
    os.waitpid(pid, 0)
    return plan
