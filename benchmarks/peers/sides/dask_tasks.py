"""dask: a task for each trial, which writes a file; one virtual dataset at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks.peers.serving import Side
from benchmarks.peers.work import Work, dask_client, join, read, write_trial


@contextmanager
def side(work: Work) -> Iterator[Side]:
    with dask_client() as client:

        def run(folder: Path) -> Path:
            tasks = client.map(partial(write_trial, work, folder), range(work.trials), pure=False)
            client.gather(tasks)
            return join(work, folder)

        yield Side(run, read)
