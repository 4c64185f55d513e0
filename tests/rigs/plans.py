"""A small recording, and plans of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan, per_trial

# 30 rows of 4 channels, cut into trials of 6, 6, 8, 6 and 4 rows
LFP = np.random.default_rng(3).normal(size=(30, 4))
TRIALS = [[0, 6, 1], [6, 12, 2], [12, 20, 3], [20, 26, 4], [26, 30, 5]]

Planner = Callable[..., Plan]


@pytest.fixture
def plan(tmp_path: Path) -> Planner:
    """Plans the run of a function over the recording."""
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = LFP
        f["other"] = 2 * LFP
        f["trials"] = TRIALS

    def make(func: Any, *, dataset: str = "lfp", trials: Any = TRIALS, **options: Any) -> Plan:
        options = {"out": tmp_path / "out.h5", **options}
        return Plan.create(func, f"{tmp_path}/rec.h5::{dataset}", trials=trials, **options)

    return make


def spread(trial, chunkShape=None, noCompute=None):
    """Channels first, and two more axes: (channels, 1, rows, 2)."""
    result = (trial.shape[1], 1, trial.shape[0], 2)
    return (result, np.dtype("f8")) if noCompute else np.stack([trial.T[:, None]] * 2, axis=-1)


def weighted(trial, weight, *, gain=1.0, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, np.dtype("f4")
    return (gain * weight * trial).astype("f4")


def rich(plan: Planner, **options: Any) -> Plan:
    """A plan with something of everything."""
    trials = hpcio.Trials.from_array(TRIALS).select(
        trials=[4, 0, 2, 0], time=slice(None, None, -1), channels=[3, 0, 3]
    )
    return plan(
        weighted,
        **{
            "trials": trials, "args": [per_trial([1.0, 2.0, 3.0, 4.0])], "kwargs": {"gain": 0.5},
            "channels_per_block": 2, "axes": {"time": None, "channel": [9, 8, 7]},
            **options,
        },
    )  # fmt: skip
