"""What the trials are put through; a module of its own, since the workers import it."""

from __future__ import annotations

import numpy as np


def subtract_mean(trial: np.ndarray) -> np.ndarray:
    centred: np.ndarray = trial - trial.mean(axis=0)
    return centred


def identity(trial: np.ndarray) -> np.ndarray:
    return trial


def first_sample(trial: np.ndarray) -> np.ndarray:
    return trial[:1]


def thirds(trial: np.ndarray) -> dict[str, np.ndarray]:
    """Three results, which together are the trial."""
    a, b = len(trial) // 3, 2 * len(trial) // 3
    return {"first": trial[:a], "second": trial[a:b], "third": trial[b:]}


def with_a_detail(trial: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return trial, {"peak": trial.max()}
