"""``tasks="auto"``: how many tasks and chunks, by a simulation of what is to be submitted."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcio.errors import HpcioError
from hpcio.machine import bench_file, on_one_mount, parse_bytes
from hpcio.planning import Plan
from slurm.forecast import measured_speed
from slurm.site import Site, SubmitOptions, parse_time, settings

if TYPE_CHECKING:
    from slurm.simulation import Disk

__all__ = ["resolved"]


def resolved(
    plan: Plan, options: SubmitOptions, site: Site, blocks: np.ndarray
) -> tuple[SubmitOptions, str]:
    """The options with a number of tasks where they ask for ``"auto"``, and why, in one line.

    Parameters
    ----------
    plan : Plan
    options : SubmitOptions
    site : Site
    blocks : numpy.ndarray of int
        Those to do.

    Returns
    -------
    SubmitOptions
    str
        "" if a number was asked for.

    Raises
    ------
    OptionError, FunctionError
        If no task fits on a node, or the function fails for all that are tried.
    """
    values = {**settings(site.cluster).values, **options.said()}
    if values["tasks"] != "auto" or values.get("ranks") is not None or not blocks.size:
        return options, ""
    # Imported here: the finalizer submits passes, too, and has no use for simulations.
    from slurm.simulation import Cluster, Disk, Work, recommend

    memory = 0 if values["memory"] is None else parse_bytes(values["memory"])
    seconds = None if values["walltime"] is None else parse_time(values["walltime"])
    partition = site.choose(
        values["partition"], cpus=values["cpus"], memory=memory, seconds=seconds
    )
    cluster = Cluster.of(
        site, partition, cpus=values["cpus"], memory=memory, stale=float(values["stale"])
    )
    speed = measured_speed(plan, trial_time=options.policy().trial_time)
    work = Work.of(plan, bytes_per_second=speed, blocks=blocks)
    disk, writer = _disk(plan), _writer(plan)
    if writer not in disk.rates:
        disk = Disk()
    # More than this the controller does not hold, or may not run at a time.
    most = min(max(1, site.max_jobs // 2), values["throttle"] or site.max_jobs)
    found = recommend(work, cluster, disk, writers=[writer], most=most)
    chunks = values["chunks_per_task"] or found.chunks_per_task
    return (
        replace(options, tasks=found.tasks, chunks_per_task=chunks),
        f"tasks auto: {found.tasks}, since {found.why}; predicted for {found.simulated.rests_on}",
    )


def _writer(plan: Plan) -> str:
    """The writer of a plan, as benchmarks call it; what is packed is written as it is otherwise."""
    if plan.writer == "virtual":
        return "virtual-trial" if plan.sources == "trial" else "virtual"
    return plan.writer if plan.writer == "mutex" else "direct"


def _disk(plan: Plan) -> Disk:
    """What the user's benchmark has measured where the result goes; else a guess."""
    from slurm.simulation import Disk

    path = bench_file()
    folder = Path(os.path.abspath(plan.out)).parent
    try:
        if path.exists():
            from hpcio.bench import read_found

            place = read_found(path).place
            if on_one_mount(place.folder, folder, kind=place.filesystem):
                return Disk.of(path)
    except HpcioError:  # a file that cannot be read is as good as none: it only advises
        pass
    return Disk()
