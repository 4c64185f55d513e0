"""Where a row is measured, and what rows have in common: a recording, a plan, a run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

import hpcio
from benchmarks.functions import identity
from benchmarks.measure import Figure
from hpcio.planning.plan import Plan

MICRO = (1e6, "µs")
WORKERS = 2
Sources = Literal["auto", "trial", "task"]


@dataclass(frozen=True)
class Bench:
    """Where and how long to measure."""

    folder: Path
    full: bool

    @property
    def repetitions(self) -> int:
        return 15 if self.full else 5

    def size(self, quick: int, full: int) -> int:
        return full if self.full else quick

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """A folder for one repetition."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Path(folder)


Row = Callable[[Bench], Iterator[Figure]]


def recording(bench: Bench, trials: int, rows: int, columns: int) -> Path:
    """A source of random float32 numbers, dataset `data`, in the page cache."""
    path = bench.folder / "rec.h5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as f:
        data = f.create_dataset("data", (trials * rows, columns), np.float32)
        for i in range(trials):
            data[i * rows : (i + 1) * rows] = random.random((rows, columns), np.float32)
        f.flush()
        os.fsync(f.id.get_vfd_handle())  # or its writing back would disturb what is measured
    return path


def data_offset(path: Path) -> int:
    with h5py.File(path) as f:
        return int(f["data"].id.get_offset())


def new_process(module: str, *arguments: object) -> str:
    """What a module of this package prints, run as a program."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return subprocess.check_output(command, cwd=Path(__file__).parents[1], text=True)


def run(
    source: Path,
    folder: Path,
    rows: int,
    func: Callable[..., Any],
    sources: Sources = "auto",
    writer: str = "virtual",
) -> float:
    """Seconds of a run, without the start of its workers."""
    plan = hpcio.Plan.create(
        func, f"{source}::data", trials=rows, out=folder / "out.h5", sources=sources,
        writer=writer,
    )  # fmt: skip
    return plan.run(workers=WORKERS, progress=False).seconds


def planned(source: Path, folder: Path, rows: int, writer: str, **options: Any) -> Plan:
    return hpcio.Plan.create(
        identity, f"{source}::data", trials=rows, out=folder / "out.h5", writer=writer, **options
    )
