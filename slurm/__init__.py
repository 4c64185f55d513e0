"""SLURM job arrays for the plans of hpcio.

A live session, whose workers are the tasks of a job array:

>>> import hpcio, slurm
>>> plan = hpcio.Plan.create(spectrum, "rec.h5::/lfp", trials="rec.h5::/trials",
...                          out="out.h5")                            # doctest: +SKIP
>>> with slurm.SLURMArrayCluster(tasks=64, memory="8GB", walltime="01:00:00") as cluster:
...     done = plan.run(cluster)                                      # doctest: +SKIP

A submission, which needs nobody to wait for it:

>>> run = slurm.submit(plan, tasks=64, memory="8GB", walltime="01:00:00")  # doctest: +SKIP
>>> run.status()                                                      # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcio.machine import lazily

if TYPE_CHECKING:
    from slurm.live import DaskExecutor, SLURMArrayCluster, SLURMArrayJob, run
    from slurm.simulation import (
        Cluster,
        Disk,
        Recommendation,
        Simulated,
        Work,
        recommend,
        simulate,
    )
    from slurm.site import read_site
    from slurm.submissions import Submitted, attach, submit, write_scripts

__all__ = [
    "Cluster",
    "DaskExecutor",
    "Disk",
    "Recommendation",
    "SLURMArrayCluster",
    "SLURMArrayJob",
    "Simulated",
    "Submitted",
    "Work",
    "attach",
    "read_site",
    "recommend",
    "run",
    "simulate",
    "submit",
    "write_scripts",
]

# Imported when they are asked for: an array task has no use for dask, and starts in a
# fraction of the time without it.
__getattr__ = lazily(
    __name__,
    {
        "Cluster": "simulation",
        "DaskExecutor": "live",
        "Disk": "simulation",
        "Recommendation": "simulation",
        "SLURMArrayCluster": "live",
        "SLURMArrayJob": "live",
        "Simulated": "simulation",
        "Submitted": "submissions",
        "Work": "simulation",
        "attach": "submissions",
        "read_site": "site",
        "recommend": "simulation",
        "run": "live",
        "simulate": "simulation",
        "submit": "submissions",
        "write_scripts": "submissions",
    },
)
