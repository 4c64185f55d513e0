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

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slurm.live.arrays import SLURMArrayCluster, SLURMArrayJob
    from slurm.live.session import DaskExecutor, run
    from slurm.site.partitions import read_site
    from slurm.submissions.submit import Submitted, attach, submit, write_scripts

__all__ = [
    "DaskExecutor",
    "SLURMArrayCluster",
    "SLURMArrayJob",
    "Submitted",
    "attach",
    "read_site",
    "run",
    "submit",
    "write_scripts",
]

# Imported when they are asked for: an array task has no use for dask, and starts in a
# fraction of the time without it.
_WHERE = {
    "DaskExecutor": "slurm.live.session",
    "SLURMArrayCluster": "slurm.live.arrays",
    "SLURMArrayJob": "slurm.live.arrays",
    "Submitted": "slurm.submissions.submit",
    "attach": "slurm.submissions.submit",
    "read_site": "slurm.site.partitions",
    "run": "slurm.live.session",
    "submit": "slurm.submissions.submit",
    "write_scripts": "slurm.submissions.submit",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'slurm' has no attribute '{name}'")
    found = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = found
    return found
