"""The rows of the table, one function each; `README.md` says what they mean."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import hpcio
from benchmarks import limits
from benchmarks.bench import (
    MICRO,
    WORKERS,
    Bench,
    Row,
    Sources,
    data_offset,
    new_process,
    recording,
    run,
)
from benchmarks.functions import identity, subtract_mean
from benchmarks.limits import clock
from benchmarks.measure import Figure, alone, compare, interleave
from benchmarks.one_file import mean, mutex, one_file, ranks
from benchmarks.outputs import details, outputs
from benchmarks.packing import compression, repack
from benchmarks.plans import averages, done_already, extend, plans, recordings
from benchmarks.writers import writers
from hpcio.files.bytes import checksum
from hpcio.journals import rundir
from hpcio.journals.journal import DONE, Journal
from hpcio.journals.ledger import Ledger
from hpcio.planning import RunPolicy
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.running.run import Work

# ---------------------------------------------------------------------- whole runs


def _workload(trials: int, rows: int, columns: int, target: float) -> Row:
    def row(bench: Bench) -> Iterator[Figure]:
        source = recording(bench, trials, rows, columns)
        what, against = f"{WORKERS} workers, done.seconds", "1 process, h5py loop"
        synced = f"{against}, fsync"

        def ours() -> float:
            with bench.fresh() as folder:
                return run(source, folder, rows, subtract_mean)

        def limit(*options: str) -> float:
            with bench.fresh() as folder:
                return float(new_process("limits", source, folder / "out.h5", rows, *options))

        values = interleave(
            {against: limit, what: ours, synced: lambda: limit("fsync")}, bench.repetitions
        )
        yield compare(values, what=what, against=against, target=target)
        yield compare(values, what=what, against=synced)

    return row


def hard_records(bench: Bench) -> Iterator[Figure]:
    rows, columns = 1, 47_008 // 4
    count = bench.size(4_000, 40_000)
    source = recording(bench, count, rows, columns)
    what = f"{WORKERS} workers, done.seconds"
    against = f"{WORKERS} processes, raw file each"
    synced = f"{WORKERS} processes, raw file each, fsync"

    with limits.Writers(WORKERS, lambda _: (4 * columns, count // WORKERS)) as writers:

        def raw(*, sync: bool) -> float:
            with bench.fresh() as folder:
                return writers.run([folder / str(i) for i in range(WORKERS)], sync=sync)

        def ours() -> float:
            with bench.fresh() as folder:
                return run(source, folder, rows, identity, "task")

        values = interleave(
            {against: lambda: raw(sync=False), what: ours, synced: lambda: raw(sync=True)},
            bench.repetitions,
        )
    yield compare(values, what=what, against=against, target=1.5)
    yield compare(values, what=what, against=synced)


# ---------------------------------------------------------------------- one trial


class _Unsynced(Attempt):
    """An attempt that leaves the disk out: nothing is made safe against a crash."""

    def begin_sync(self) -> None:
        pass


def _per_trial(bench: Bench, source: Path, rows: int, sources: Sources, count: int) -> float:
    """Seconds a trial in the loop over a batch; files, journal and reader are open before."""
    with bench.fresh() as folder:
        plan = hpcio.Plan.create(
            identity, f"{source}::data", trials=rows, out=folder / "out.h5", sources=sources
        )
        with _Unsynced(rundir.prepare(plan), "bench") as attempt:
            started = clock()
            run_batch(attempt, np.arange(count))
            return (clock() - started) / count


def trial_file(bench: Bench) -> Iterator[Figure]:
    rows, columns, count = 25, 100, bench.size(1_000, 20_000)
    source = recording(bench, count, rows, columns)
    data = np.random.default_rng(1).random((rows, columns), np.float32)
    what, against = "trial of 10 kB, read to journal", "open + pwrite + close"

    def limit() -> float:
        with bench.fresh() as folder:
            return limits.files(folder, data.data, count) / count

    def ours() -> float:
        return _per_trial(bench, source, rows, "trial", count)

    values = interleave({against: limit, what: ours}, bench.repetitions)
    yield compare(values, what=what, against=against, scale=MICRO, target=4)


def _task_file(label: str, rows: int, quick: int, full: int, target: float) -> Row:
    def row(bench: Bench) -> Iterator[Figure]:
        columns, count = 100, bench.size(quick, full)
        source = recording(bench, count, rows, columns)
        offset = data_offset(source)
        data = np.random.default_rng(1).random((rows, columns), np.float32)
        buffer = data.copy()
        what = f"trial of {label}, read to journal"
        against, reading = "pwrite into one file", "pread + pwrite"

        def limit() -> float:
            with bench.fresh() as folder:
                return limits.one_file(folder / "out", data.data, count) / count

        def copy() -> float:
            with bench.fresh() as folder:
                return limits.copy(source, offset, folder / "out", buffer.data, count) / count

        def ours() -> float:
            return _per_trial(bench, source, rows, "task", count)

        values = interleave({against: limit, what: ours, reading: copy}, bench.repetitions)
        for limit_name, limit_target in ((against, target), (reading, None)):
            yield compare(values, what=what, against=limit_name, scale=MICRO, target=limit_target)

    return row


def journal(bench: Bench) -> Iterator[Figure]:
    count = 20_000
    data = np.random.default_rng(0).random((25, 100), np.float32)
    what, against = "journal and checksum of 10 kB", "pwrite into one file"

    def limit() -> float:
        with bench.fresh() as folder:
            return limits.one_file(folder / "out", data.data, count) / count

    def ours() -> float:
        with bench.fresh() as folder:
            book = Journal(folder, "bench", "0" * 32, {})
            append = book.append
            started = clock()
            for i in range(count):
                append(
                    DONE, i, file=0, offset=i, check=checksum(data), nbytes=data.nbytes,
                    compute=1e-6, io=1e-6,
                )  # fmt: skip
            ended = clock()
            book.close()
            return (ended - started) / count

    values = interleave({against: limit, what: ours}, bench.repetitions)
    yield compare(values, what=what, against=against, scale=MICRO, target=1.0, absolute=True)


# ---------------------------------------------------------------------- the result


def full_read(bench: Bench) -> Iterator[Figure]:
    rows, columns, count = 500, 32, bench.size(2_100, 17_000)
    source = recording(bench, count, rows, columns)
    what, checked = "h5py, full read of the result", "hpcio.open, full read of the result"
    against = "h5py, one contiguous dataset"
    values: dict[str, list[float]] = {against: [], what: [], checked: []}
    with h5py.File(source) as f:
        data = f["data"][...]

    def read(open_file: Callable[[Path], Any], path: Path) -> float:
        started = clock()
        with open_file(path) as f:
            f["data"][...]
        return clock() - started

    # All files are new each time, and that of the limit is written trial by trial, too. How fast a
    # file reads depends on where its pages lie in memory, and on the size of the writes.
    for _ in range(bench.repetitions):
        with bench.fresh() as folder:
            whole, result = folder / "whole.h5", folder / "out.h5"
            limits.h5py_copy(whole, data, rows)
            run(source, folder, rows, identity, "task")
            with h5py.File(result) as f:
                assert np.array_equal(data, f["data"])
            sides = {
                against: lambda whole=whole: read(h5py.File, whole),
                what: lambda result=result: read(h5py.File, result),
                checked: lambda result=result: read(hpcio.open, result),
            }
            for name, times in interleave(sides, 3).items():
                values[name] += times
    yield compare(values, what=what, against=against, target=1.15)
    yield compare(values, what=checked, against=against)


# ---------------------------------------------------------------------- through dask


def dask_session(bench: Bench) -> Iterator[Figure]:
    """Blocks that cost nothing, so that only the way there and back is measured."""
    from distributed import Client, LocalCluster

    from slurm import DaskExecutor

    blocks, batches = 100_000, 1_000
    source = recording(bench, blocks, 1, 25)
    whole, idle, against = (
        "a block in 1,000 chunks, dask",
        "... CPU of session and scheduler",
        (f"the same, {WORKERS} local workers"),
    )
    values: dict[str, list[float]] = {whole: [], idle: [], against: []}
    options = {"host": "127.0.0.1", "security": True, "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, **options) as cluster,
        Client(cluster) as client,
    ):
        executor = DaskExecutor(client, chunks_per_worker=batches // WORKERS)
        for repetition in range(bench.repetitions + 1):
            with bench.fresh() as folder:
                plan = hpcio.Plan.create(
                    identity, f"{source}::data", trials=1, out=folder / "out.h5", sources="task"
                )
                plan = rundir.prepare(plan)
                work = Work(plan, np.arange(blocks), retries=0, max_failed=0)
                started, cpu = clock(), time.process_time()
                executor.execute(work)
                took = clock() - started, time.process_time() - cpu
                assert Ledger.read(plan).done.all()
            with bench.fresh() as folder:
                local = run(source, folder, 1, identity, "task")
            if repetition:
                for name, seconds in zip(values, (*took, local), strict=True):
                    values[name].append(seconds / blocks)
    yield compare(values, what=whole, against=against, scale=MICRO, target=20, absolute=True)
    yield alone(idle, [1e6 * v for v in values[idle]], "µs", None)


def array_task(bench: Bench) -> Iterator[Figure]:
    """Tasks with one block each that costs nothing, started as a job script starts them."""
    from slurm.site import Site, SubmitOptions
    from slurm.submissions.making import write_submission
    from slurm.submissions.request import make_request

    tasks = bench.size(20, 200)
    source = recording(bench, tasks, 1, 25)
    site = Site("bench", "", 1001, 10_000, ())
    options = SubmitOptions(tasks=tasks, name="bench")
    computing: list[float] = []
    for _ in range(bench.repetitions):
        with bench.fresh() as folder:
            plan = rundir.prepare(
                hpcio.Plan.create(
                    identity, f"{source}::data", trials=1, out=folder / "out.h5", sources="task"
                )
            )
            write_submission(
                plan, make_request(plan, options, site), np.arange(tasks), site=site,
                ledger=Ledger.read(plan), options=options,
                policy=RunPolicy(),
            )  # fmt: skip
            before = os.times()
            for task in range(tasks):
                subprocess.run(
                    [sys.executable, "-P", "-m", "slurm.tasks", "run", plan.out,
                     "1", "0"],
                    env={**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "OMP_NUM_THREADS": "1",
                         "OPENBLAS_NUM_THREADS": "1"},
                    check=True,
                )  # fmt: skip
            after = os.times()
            assert Ledger.read(plan).done.all()
            spent = (after.children_user - before.children_user) + (
                after.children_system - before.children_system
            )
            computing.append(spent / tasks)
    yield alone("an array task of nothing, CPU", computing, "s", 0.3)


ROWS: dict[str, Row] = {
    "loop-a": _workload(200, 2_000, 64, 1.0),
    "loop-b": _workload(2_000, 500, 32, 0.65),
    "loop-c": _workload(20, 100_000, 64, 0.7),
    "trial-file": trial_file,
    "task-10kB": _task_file("10 kB", 25, 2_000, 20_000, 5),
    "task-1MB": _task_file("1 MB", 2_500, 200, 1_000, 1.4),
    "task-64MB": _task_file("64 MB", 160_000, 12, 24, 1.15),
    "records": hard_records,
    "direct-10kB": one_file("10 kB", 25, 100, 4_000, 20_000, 1.3),
    "direct-47kB": one_file("47,008 bytes", 1, 11_752, 2_000, 20_000, 1.2),
    "direct-1MB": one_file("1 MB", 2_500, 100, 200, 1_000, 1.15),
    "direct-64MB": one_file("64 MB", 160_000, 100, 8, 16, 1.05),
    "mutex": mutex,
    "ranks": ranks,
    "mean": mean,
    "journal": journal,
    "read": full_read,
    "repack": repack,
    "compression": compression,
    "plan": plans,
    "recordings": recordings,
    "averages": averages,
    "extend": extend,
    "outputs-10kB": outputs("10 kB", 25, 4_000, 20_000),
    "outputs-1MB": outputs("1 MB", 2_500, 200, 1_000),
    "details": details,
    "done-already": done_already,
    "dask": dask_session,
    "array-task": array_task,
    "writers": writers,
}
