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
    from slurm.arrays import SLURMArrayCluster, SLURMArrayJob
    from slurm.batch import Submitted, attach, submit, write_scripts
    from slurm.session import DaskExecutor, run
    from slurm.site import read_site

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
    "DaskExecutor": "session",
    "SLURMArrayCluster": "arrays",
    "SLURMArrayJob": "arrays",
    "Submitted": "batch",
    "attach": "batch",
    "read_site": "site",
    "run": "session",
    "submit": "batch",
    "write_scripts": "batch",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'slurm' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"slurm.{_WHERE[name]}"), name)
    globals()[name] = found
    return found
