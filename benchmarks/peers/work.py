"""The work that all do, and the pieces that several of them are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.functions import subtract_mean

DATASET = "data"
# Of each system that has any: workers, with one thread each.
WORKERS = 2


@dataclass(frozen=True)
class Work:
    """Subtract the mean of each trial of a recording.

    Attributes
    ----------
    source : str
        The file; its dataset `data` has the trials below each other.
    trials, rows, columns : int
        How many trials, and the shape of each.
    """

    source: str
    trials: int
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.trials * self.rows, self.columns

    def of(self, trial: int) -> slice:
        return slice(trial * self.rows, (trial + 1) * self.rows)


def read_trial(work: Work, trial: int) -> np.ndarray:
    with h5py.File(work.source) as f:
        data: np.ndarray = f[DATASET][work.of(trial)]
    return data


def write_trial(work: Work, folder: Path, trial: int) -> None:
    """One call of a worker that has a file for each trial."""
    result = subtract_mean(read_trial(work, trial))
    with h5py.File(folder / f"{trial}.h5", "w") as f:
        f[DATASET] = result


def join(work: Work, folder: Path) -> Path:
    """Make one dataset of the files of all trials."""
    layout = h5py.VirtualLayout(work.shape, np.float32)
    for trial in range(work.trials):
        layout[work.of(trial)] = h5py.VirtualSource(
            folder / f"{trial}.h5", DATASET, (work.rows, work.columns)
        )
    out = folder / "out.h5"
    with h5py.File(out, "w") as f:
        f.create_virtual_dataset(DATASET, layout)
    return out


def read(path: Path, name: str = DATASET) -> np.ndarray:
    with h5py.File(path) as f:
        data: np.ndarray = f[name][...]
    return data


@contextmanager
def dask_client() -> Iterator[Any]:
    """A client of two processes on this machine, which have been called before."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        client.gather(client.map(abs, range(WORKERS)))
        yield client
