"""Rows of one file that several processes write, and of averages; `README.md` explains them."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks import limits, results
from benchmarks.bench import (
    WORKERS,
    Bench,
    Row,
    planned,
    recording,
    run,
)
from benchmarks.functions import identity
from benchmarks.measure import Figure, alone, compare, interleave
from hpcio.journals import rundir
from hpcio.writers import backend_of


def one_file(label: str, rows: int, columns: int, quick: int, full: int, target: float) -> Row:
    """The one file of `direct`: results that cost nothing, and whole runs."""

    def row(bench: Bench) -> Iterator[Figure]:
        count = bench.size(quick, full) // WORKERS * WORKERS
        source = recording(bench, count, rows, columns)
        what, whole = (
            f"results of {label} into one file, direct",
            f"trials of {label} into one file, direct, read to journal",
        )
        against, synced = (f"{WORKERS} processes, pwrite into one file{x}" for x in ("", ", fsync"))
        starts = [k * (count // WORKERS) * rows * columns * 4 for k in range(WORKERS)]

        def size(_: int) -> tuple[int, int]:
            return 4 * rows * columns, count // WORKERS

        with (
            limits.Writers(WORKERS, size) as raw,
            limits.Writers(WORKERS, lambda k: (k, WORKERS), results.serve) as ours,
        ):

            def limit(*, sync: bool) -> float:
                with bench.fresh() as folder:
                    return raw.run([folder / "out"] * WORKERS, sync=sync, first=starts)

            def writing() -> float:
                with bench.fresh() as folder:
                    plan = rundir.prepare(planned(source, folder, rows, "direct"))
                    backend_of(plan).reserve(plan)
                    return ours.run([Path(plan.out)] * WORKERS, sync=False)

            def running() -> float:
                with bench.fresh() as folder:
                    return run(source, folder, rows, identity, writer="direct")

            values = interleave(
                {against: lambda: limit(sync=False), what: writing, whole: running,
                 synced: lambda: limit(sync=True)},
                bench.repetitions,
            )  # fmt: skip
        yield compare(values, what=what, against=against, target=target)
        yield compare(values, what=whole, against=against)
        yield compare(values, what=whole, against=synced)

    return row


def ranks(bench: Bench) -> Iterator[Figure]:
    """Results of 1 MB through parallel HDF5; needs the Python that `make mpi-env` prints."""
    python = os.environ.get("HPCIO_MPI_PYTHON")
    if not python:
        return
    rows, columns, count = 2_500, 100, bench.size(200, 1_000)
    source = recording(bench, count, rows, columns)
    against = f"{WORKERS} processes, pwrite into one file"
    names = {w: f"results of 1 MB into one file, {w}" for w in ("mpi", "mpi-collective")}
    starts = [k * (count // WORKERS) * rows * columns * 4 for k in range(WORKERS)]
    with limits.Writers(WORKERS, lambda _: (4 * rows * columns, count // WORKERS)) as raw:

        def limit() -> float:
            with bench.fresh() as folder:
                return raw.run([folder / "out"] * WORKERS, sync=False, first=starts)

        def ours(writer: str) -> float:
            with bench.fresh() as folder:
                script = (
                    "import hpcio, sys\nfrom hpcio.journals import prepare\n"
                    "from hpcio.writers import backend_of\n"
                    "from benchmarks.functions import identity\n"
                    "source, out, rows, writer = sys.argv[1:]\n"
                    "plan = hpcio.Plan.create(identity, source, trials=int(rows), out=out,"
                    " writer=writer)\n"
                    "plan = prepare(plan)\n"
                    "backend_of(plan).reserve(plan)\n"
                )
                out = str(folder / "out.h5")
                options: dict[str, Any] = {
                    "cwd": Path(__file__).parents[1], "text": True,
                    "env": {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1",
                            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"},
                }  # fmt: skip
                subprocess.run(
                    [python, "-c", script, f"{source}::data", out, str(rows), writer],
                    check=True, **options,
                )  # fmt: skip
                command = [str(Path(python).with_name("mpirun")), "--oversubscribe", "-n",
                           str(WORKERS), python, "-m", "benchmarks.ranks", out]  # fmt: skip
                return float(subprocess.check_output(command, **options))

        values = interleave(
            {against: limit, **{n: lambda w=w: ours(w) for w, n in names.items()}},
            bench.repetitions,
        )
    yield compare(values, what=names["mpi"], against=against, target=1.5)
    yield compare(values, what=names["mpi-collective"], against=against)


def mutex(bench: Bench) -> Iterator[Figure]:
    """The same run under a lock."""
    rows, columns, count = 25, 100, bench.size(2_000, 8_000)
    source = recording(bench, count, rows, columns)
    what, against = (f"trials of 10 kB into one file, {w}" for w in ("direct", "mutex"))

    def side(writer: str) -> float:
        with bench.fresh() as folder:
            return run(source, folder, rows, identity, writer=writer)

    values = interleave(
        {against: lambda: side("mutex"), what: lambda: side("direct")}, bench.repetitions
    )
    yield compare(values, what=what, against=against, target=1 / 40)


def mean(bench: Bench) -> Iterator[Figure]:
    """How far the mean of float32 trials is from the exact one, and whether its bits differ."""
    trials, columns = 4_000, 100
    source = recording(bench, trials, 1, columns)
    with h5py.File(source, "r+") as f:
        f["data"][...] += 1000
        data = f["data"][...]
    exact = np.asarray([math.fsum(column) / trials for column in data.T.tolist()])
    naive = np.zeros(columns, np.float32)
    for row in data:
        naive += row
    errors, found = [], set()
    for workers in (0, 1, 2, 5):
        with bench.fresh() as folder:
            plan = planned(source, folder, 1, "virtual", keeptrials=False)
            plan.run(workers=workers, progress=False)
            with h5py.File(plan.out) as f:
                got = f["data"][0]
        found.add(got.tobytes())
        errors.append(float(np.abs(got / exact - 1).max()))
    yield alone("mean of 4,000 float32 trials, relative error", errors, "", 1e-6)
    yield alone("... added up in float32", [float(np.abs(naive / trials / exact - 1).max())] * 2,
                "", None)  # fmt: skip
    yield alone("... different bits of 0, 1, 2 and 5 workers", [len(found) - 1] * 2, "", 0)
