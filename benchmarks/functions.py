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
