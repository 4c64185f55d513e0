"""Live sessions: dask clusters of job arrays, and plans that run on any dask client.

This room uses `slurm.site`, `slurm.mapping` and `slurm.forecast`, hpcio, and dask. The package
takes from it `SLURMArrayCluster`, `SLURMArrayJob`, `DaskExecutor` and `run`; no other room does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcio.machine import lazily

if TYPE_CHECKING:
    from slurm.live.cluster import SLURMArrayCluster
    from slurm.live.job import SLURMArrayJob
    from slurm.live.session import DaskExecutor, run

__all__ = ["DaskExecutor", "SLURMArrayCluster", "SLURMArrayJob", "run"]

# Imported when they are asked for: a dask worker, which runs `slurm.live.worker`, has no use for
# dask-jobqueue, nor for what hands out its work.
__getattr__ = lazily(
    __name__,
    {
        "DaskExecutor": "session",
        "SLURMArrayCluster": "cluster",
        "SLURMArrayJob": "job",
        "run": "session",
    },
)
