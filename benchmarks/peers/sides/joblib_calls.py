"""joblib: a call for each trial, in processes that stay from call to call, as loky keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from joblib import Parallel, delayed

from benchmarks.functions import subtract_mean
from benchmarks.peers.serving import Side
from benchmarks.peers.work import DATASET, WORKERS, Work, join, read, read_trial, write_trial


def _centred(work: Work, trial: int) -> np.ndarray:
    return subtract_mean(read_trial(work, trial))


@contextmanager
def files(work: Work) -> Iterator[Side]:
    """Each call writes a file; one virtual dataset at the end."""

    def run(folder: Path) -> Path:
        Parallel(n_jobs=WORKERS)(delayed(write_trial)(work, folder, i) for i in range(work.trials))
        return join(work, folder)

    yield Side(run, read)


@contextmanager
def returned(work: Work) -> Iterator[Side]:
    """Results come back, and are written into one open file as they come."""

    def run(folder: Path) -> Path:
        out = folder / "out.h5"
        results = Parallel(n_jobs=WORKERS, return_as="generator")(
            delayed(_centred)(work, i) for i in range(work.trials)
        )
        with h5py.File(out, "w") as f:
            data = f.create_dataset(DATASET, work.shape, np.float32)
            for trial, result in enumerate(results):
                data[work.of(trial)] = result
        return out

    yield Side(run, read)
