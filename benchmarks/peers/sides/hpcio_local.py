"""hpcio by workers that it starts itself: the plan, their start, the run, the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hpcio
from benchmarks.functions import subtract_mean
from benchmarks.peers.serving import Side
from benchmarks.peers.work import DATASET, WORKERS, Work, read


@contextmanager
def side(work: Work) -> Iterator[Side]:
    def run(folder: Path) -> Path:
        plan = hpcio.Plan.create(
            subtract_mean, f"{work.source}::{DATASET}", trials=work.rows, out=folder / "out.h5"
        )
        plan.run(workers=WORKERS, progress=False)
        return Path(plan.out)

    yield Side(run, read)
