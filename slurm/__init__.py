"""SLURM job arrays for the plans of hpcio.

>>> import hpcio, slurm
>>> plan = hpcio.Plan.create(spectrum, "rec.h5::/lfp", trials="rec.h5::/trials",
...                          out="out.h5")                            # doctest: +SKIP
>>> with slurm.SLURMArrayCluster(tasks=64, memory="8GB", walltime="01:00:00") as cluster:
...     done = plan.run(cluster)                                      # doctest: +SKIP
"""

from slurm.arrays import SLURMArrayCluster, SLURMArrayJob
from slurm.session import DaskExecutor, run
from slurm.site import read_site

__all__ = ["DaskExecutor", "SLURMArrayCluster", "SLURMArrayJob", "read_site", "run"]
