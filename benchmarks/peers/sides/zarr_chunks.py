"""zarr: two processes that write one array with a chunk for each trial."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import zarr

from benchmarks.functions import subtract_mean
from benchmarks.peers.serving import Side
from benchmarks.peers.work import DATASET, WORKERS, Work


def _write_part(work: Work, out: Path, trials: range) -> None:
    array = zarr.open_array(out, mode="r+")
    with h5py.File(work.source) as source:
        data = source[DATASET]
        for trial in trials:
            rows = work.of(trial)
            array[rows] = subtract_mean(data[rows])


def _parts(work: Work) -> list[range]:
    ends = [k * work.trials // WORKERS for k in range(WORKERS + 1)]
    return [range(a, b) for a, b in pairwise(ends)]


def _read(out: Path) -> np.ndarray:
    return np.asarray(zarr.open_array(out, mode="r")[...])


@contextmanager
def side(work: Work) -> Iterator[Side]:
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as pool:

        def run(folder: Path) -> Path:
            out = folder / "out.zarr"
            # Noise does not compress: a compressor would only cost time.
            zarr.create_array(
                out, shape=work.shape, chunks=(work.rows, work.columns), dtype=np.float32,
                compressors=None,
            )  # fmt: skip
            list(pool.map(partial(_write_part, work, out), _parts(work)))
            return out

        yield Side(run, _read)
