"""esi-syncopy: a routine of its own kind, computed trial by trial on dask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import syncopy
from syncopy.shared.computational_routine import ComputationalRoutine, propagate_properties
from syncopy.shared.kwarg_decorators import process_io

from benchmarks.functions import subtract_mean
from benchmarks.peers.serving import Side
from benchmarks.peers.work import DATASET, Work, dask_client


@process_io
def centred(trial: Any, noCompute: bool = False, chunkShape: Any = None) -> Any:
    if noCompute:
        return trial.shape, np.float32
    return subtract_mean(trial)


class Centring(ComputationalRoutine):
    """What syncopy's own functions are made of."""

    computeFunction = staticmethod(centred)  # noqa: N815

    def process_metadata(self, data: Any, out: Any) -> None:
        propagate_properties(data, out)


def _read(out: Any) -> np.ndarray:
    data: np.ndarray = out.data[...]
    return data


@contextmanager
def side(work: Work) -> Iterator[Side]:
    begin = np.arange(work.trials) * work.rows
    trials = np.stack([begin, begin + work.rows, np.zeros_like(begin)], axis=1)
    with dask_client():  # which it finds by itself

        def run(_: Path) -> Any:
            # It closes the file, and opens it again as it needs it.
            data = syncopy.AnalogData(
                data=h5py.File(work.source)[DATASET], samplerate=1000, trialdefinition=trials
            )
            out = syncopy.AnalogData(dimord=data.dimord)
            routine = Centring()
            routine.initialize(data, out._stackingDim)
            routine.compute(data, out, parallel=True)
            return out

        yield Side(run, _read)
