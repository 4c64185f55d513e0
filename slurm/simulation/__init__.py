"""Simulating a submission before it is made: how many tasks, which chunks, which writer.

This room uses `slurm.site` and `hpcio.bench`; `slurm.submissions` asks it what to recommend.
`given` holds what is asked about, `disk` what a file system can do, `costs` what trials cost there,
`shares` what many have together, `dealing` who takes which part of the work, `helping` who helps
whom, `tasks` what a task does, `running` one simulation, `advice` the comparison of several. Only
`shares`, `helping` and `tasks` import simpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpcio.machine import lazily

if TYPE_CHECKING:
    from slurm.simulation.advice import Recommendation, recommend
    from slurm.simulation.disk import Disk, Rates
    from slurm.simulation.given import Cluster, Work
    from slurm.simulation.running import Simulated, simulate

__all__ = [
    "Cluster",
    "Disk",
    "Rates",
    "Recommendation",
    "Simulated",
    "Work",
    "recommend",
    "simulate",
]

__getattr__ = lazily(
    __name__,
    {
        "Cluster": "given",
        "Disk": "disk",
        "Rates": "disk",
        "Recommendation": "advice",
        "Simulated": "running",
        "Work": "given",
        "recommend": "advice",
        "simulate": "running",
    },
)
