"""``mpirun -n R python -m benchmarks.ranks OUT``: seconds that ranks take to write all results."""

from __future__ import annotations

import sys

import numpy as np
from mpi4py import MPI

from benchmarks.limits import clock
from benchmarks.results import write
from hpcio.planning import load_plan
from hpcio.running.attempt import Attempt


def main(out: str) -> None:
    world = MPI.COMM_WORLD
    plan = load_plan(out)
    data = np.random.default_rng(world.rank).random(plan.target.shapes[0])
    data = data.astype(plan.target.dtype)
    blocks = np.array_split(np.arange(len(plan)), world.size)[world.rank]
    with Attempt(plan, f"r{world.rank}") as attempt:
        world.barrier()
        started = clock()
        write(attempt, data, blocks)
        ended = clock()
    first, last = world.reduce(started, MPI.MIN), world.reduce(ended, MPI.MAX)
    if world.rank == 0:
        print(last - first)


if __name__ == "__main__":
    main(sys.argv[1])
