"""esi-acme: ParallelMap over trials, with its own files and its virtual dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from acme import ParallelMap

from benchmarks.functions import subtract_mean
from benchmarks.peers.serving import Side
from benchmarks.peers.work import Work, dask_client, read, read_trial


def centred(trial: int, source: str, trials: int, rows: int, columns: int) -> np.ndarray:
    return subtract_mean(read_trial(Work(source, trials, rows, columns), trial))


@contextmanager
def side(work: Work) -> Iterator[Side]:
    with dask_client():  # which it finds by itself

        def run(folder: Path) -> Path:
            with ParallelMap(
                centred, list(range(work.trials)), work.source, work.trials, work.rows,
                work.columns, n_inputs=work.trials, output_dir=str(folder),
                result_shape=(None, work.rows, work.columns), result_dtype="float32",
                verbose=False, logfile=False,
            ) as mapped:  # fmt: skip
                mapped.compute()
                return Path(mapped.results_container)

        yield Side(run, partial(read, name="result_0"))
