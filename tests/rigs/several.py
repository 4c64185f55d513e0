"""Three recordings of unequal length that are read as one, and runs over all of their trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np

import hpcio
from hpcio import Plan
from tests.rigs.runs import check

ROWS = (100, 70, 130)
LFP = [np.random.default_rng(k).normal(size=(n, 4)) for k, n in enumerate(ROWS)]
LFP[1][:, 0] = 77  # by which a function knows the second one
# Trials of each recording, the last ones up to its last row.
TABLES = [[[0, 10], [20, 45], [90, 100]], [[60, 70]], [[0, 10], [30, 50], [40, 60], [120, 130]]]
PIECES = [LFP[k][start:stop] for k in range(3) for start, stop in TABLES[k]]
NAMES = [f"s{k}" for k in range(3) for _ in TABLES[k]]

# What a shell is told to read.
SOURCE, TRIALS = "s*.h5::/lfp", "::/trials"

WORK = """
import os

import numpy as np
import hpcio


@hpcio.unwrap_io
def double(trial, chunkShape=None, noCompute=None):
    return (trial.shape, trial.dtype) if noCompute else 2 * trial


def mean(trial, noCompute=None):
    return ((trial.shape[1],), trial.dtype) if noCompute else trial.mean(axis=0)


def fragile(trial, mended="mended", noCompute=None):
    if noCompute:
        return trial.shape, trial.dtype
    if trial[0, 0] == 77 and not os.path.exists(mended):
        os.kill(os.getpid(), 9)
    return 2 * trial
"""


def make_study(parent: Path) -> Path:
    """A folder `study` with three recordings, the last one compressed, and functions."""
    folder = parent / "study"
    folder.mkdir()
    for k in range(3):
        record(folder, k)
    (folder / "study.py").write_text(WORK)
    return folder


def record(folder: Path, k: int, *, gain: float = 1.0) -> None:
    """One of the recordings, with its trials."""
    with h5py.File(folder / f"s{k}.h5", "w") as f:
        f.create_dataset("lfp", data=gain * LFP[k], compression="gzip" if k == 2 else None)
        f["trials"] = np.array(TABLES[k])


def plan_of(folder: Path, func: str = "double", **options: Any) -> Plan:
    options = {"trials": TRIALS, "out": folder / "out.h5", **options}
    return Plan.create(f"{folder}/study.py:{func}", f"{folder}/{SOURCE}", **options)


def check_all(out: Path) -> None:
    """All trials are there, and each says where it came from."""
    check(out, 2 * np.concatenate(PIECES))
    with hpcio.open(out) as f:
        assert f["recording"].asstr()[:].tolist() == NAMES
        found = f["trials"][:][["start", "stop"]].tolist()
        assert found == [tuple(rows) for table in TABLES for rows in table]
        assert f["trials"]["trial"].tolist() == list(range(8))
        assert f["hpcio/recording_of_trial"][()].tolist() == [0, 0, 0, 1, 2, 2, 2, 2]
