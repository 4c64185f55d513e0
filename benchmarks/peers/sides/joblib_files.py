"""joblib: a call for each trial, which writes a file; one virtual dataset at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from joblib import Parallel, delayed

from benchmarks.peers.serving import Side
from benchmarks.peers.work import WORKERS, Work, join, read, write_trial


@contextmanager
def side(work: Work) -> Iterator[Side]:
    def run(folder: Path) -> Path:
        # Its processes stay for the next call, as loky keeps them.
        Parallel(n_jobs=WORKERS)(delayed(write_trial)(work, folder, i) for i in range(work.trials))
        return join(work, folder)

    yield Side(run, read)
