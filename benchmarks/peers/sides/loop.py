"""The plain loop: one process, an open input and an open output."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from benchmarks.functions import subtract_mean
from benchmarks.peers.serving import Side
from benchmarks.peers.work import DATASET, Work, read


@contextmanager
def side(work: Work) -> Iterator[Side]:
    def run(folder: Path) -> Path:
        out = folder / "out.h5"
        with h5py.File(work.source) as source, h5py.File(out, "w") as target:
            data = source[DATASET]
            result = target.create_dataset(DATASET, work.shape, np.float32)
            for trial in range(work.trials):
                rows = work.of(trial)
                result[rows] = subtract_mean(data[rows])
        return out

    yield Side(run, read)
