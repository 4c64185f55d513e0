"""hpcio on a dask cluster: the plan, the run, and the result under its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hpcio
import slurm
from benchmarks.functions import subtract_mean
from benchmarks.peers.serving import Side
from benchmarks.peers.work import DATASET, Work, dask_client, read


@contextmanager
def side(work: Work, **options: Any) -> Iterator[Side]:
    with dask_client() as client:

        def run(folder: Path) -> Path:
            plan = hpcio.Plan.create(
                subtract_mean, f"{work.source}::{DATASET}", trials=work.rows,
                out=folder / "out.h5", **options,
            )  # fmt: skip
            slurm.run(plan, client, progress=False)
            return Path(plan.out)

        yield Side(run, read)


@contextmanager
def told(work: Work) -> Iterator[Side]:
    """Likewise, but it is told shape and type of a result, as most others are: no dry run."""
    with side(work, out_shape=(work.rows, work.columns), out_dtype="float32") as found:
        yield found
