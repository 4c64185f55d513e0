"""Runs on ranks of an MPI job, of functions that come to all sorts of ends."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.words import count
from hpcio.writers.backend import trusted_ledger
from tests.rigs.mpi import mpirun

FUNCTIONS = """
import os, sys
import numpy as np

def negative(trial):
    return -trial

def identity(trial):
    return trial

def bad(how):
    if how == "raise": raise ValueError("sick")
    if how == "exit": sys.exit(3)
    if how == "leave": os._exit(0)
    if how == "leave with 5": os._exit(5)
    if how == "kill": os.kill(os.getpid(), 9)
    if how == "terminate": os.kill(os.getpid(), 15)
    if how == "abort": os.abort()

def once(trial, how="raise", at=13.0):
    if trial[0, 0] == at and not os.path.exists("mended"):
        bad(how)
    return -trial
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(FUNCTIONS)
    data = np.random.default_rng(1).normal(size=(200, 6))
    data[:, 0] = np.arange(200) // 10
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = data
    return tmp_path


def recorded(place: Path) -> np.ndarray:
    with h5py.File(place / "rec.h5") as f:
        data: np.ndarray = f["lfp"][...]
    return data


RUN = ["-m", "hpcio", "run", "work.py:negative", "rec.h5::lfp", "--trials", "10", "--out", "out.h5"]


def started(python: Path, place: Path, ranks: int, *args: str) -> str:
    """The output of a run on ranks that ends well."""
    done = mpirun(python, ranks, *RUN, "--quiet", *args, folder=place)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


ONCE = ["-m", "hpcio", "run", "work.py:once", "rec.h5::lfp", "--trials", "10", "--out", "out.h5",
        "--quiet"]  # fmt: skip


def resumed(python: Path, place: Path, ranks: int = 2) -> None:
    """What the journals have is kept, the rest computed, and the result right."""
    (place / "mended").touch()
    kept = int(trusted_ledger(hpcio.Plan.load(place / "out.h5")).done.sum())
    done = mpirun(python, ranks, "-m", "hpcio", "resume", "out.h5", "--quiet", folder=place)
    assert done.returncode == 0, done.stderr
    assert ("done already" if kept == 20 else f"{count(20 - kept, 'trial')} in") in done.stdout
    with h5py.File(place / "out.h5") as f:
        assert f["data"][...].tobytes() == (-recorded(place)).tobytes()
