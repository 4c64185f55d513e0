"""The rows of the table, one function each; `README.md` says what they mean."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

import hpcio
from benchmarks import limits, planning, results
from benchmarks.functions import identity, subtract_mean
from benchmarks.limits import clock
from benchmarks.measure import Figure, alone, compare, interleave
from hpcio import rundir
from hpcio.chunks import Attempt, run_chunk
from hpcio.journal import DONE, Journal
from hpcio.ledger import Ledger
from hpcio.plan import Plan
from hpcio.run import Work
from hpcio.slab import checksum
from hpcio.writers import onefile

MICRO = (1e6, "µs")
WORKERS = 2
Sources = Literal["auto", "trial", "task"]


@dataclass(frozen=True)
class Bench:
    """Where and how long to measure."""

    folder: Path
    full: bool

    @property
    def repetitions(self) -> int:
        return 15 if self.full else 5

    def size(self, quick: int, full: int) -> int:
        return full if self.full else quick

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """A folder for one repetition."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Path(folder)


Row = Callable[[Bench], Iterator[Figure]]


def recording(bench: Bench, trials: int, rows: int, columns: int) -> Path:
    """A source of random float32 numbers, dataset `data`, in the page cache."""
    path = bench.folder / "rec.h5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as f:
        data = f.create_dataset("data", (trials * rows, columns), np.float32)
        for i in range(trials):
            data[i * rows : (i + 1) * rows] = random.random((rows, columns), np.float32)
        f.flush()
        os.fsync(f.id.get_vfd_handle())  # or its writing back would disturb what is measured
    return path


def data_offset(path: Path) -> int:
    with h5py.File(path) as f:
        return int(f["data"].id.get_offset())


def _new_process(module: str, *arguments: object) -> str:
    """What a module of this package prints, run as a program."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return subprocess.check_output(command, cwd=Path(__file__).parents[1], text=True)


# ---------------------------------------------------------------------- whole runs


def _workload(trials: int, rows: int, columns: int, target: float) -> Row:
    def row(bench: Bench) -> Iterator[Figure]:
        source = recording(bench, trials, rows, columns)
        what, against = f"{WORKERS} workers, done.seconds", "1 process, h5py loop"
        synced = f"{against}, fsync"

        def ours() -> float:
            with bench.fresh() as folder:
                return _run(source, folder, rows, subtract_mean)

        def limit(*options: str) -> float:
            with bench.fresh() as folder:
                return float(_new_process("limits", source, folder / "out.h5", rows, *options))

        values = interleave(
            {against: limit, what: ours, synced: lambda: limit("fsync")}, bench.repetitions
        )
        yield compare(values, what=what, against=against, target=target)
        yield compare(values, what=what, against=synced)

    return row


def _run(
    source: Path,
    folder: Path,
    rows: int,
    func: Callable[..., Any],
    sources: Sources = "auto",
    writer: str = "virtual",
) -> float:
    """Seconds of a run, without the start of its workers."""
    plan = hpcio.Plan.create(
        func, f"{source}::data", trials=rows, out=folder / "out.h5", sources=sources,
        writer=writer,
    )  # fmt: skip
    return plan.run(workers=WORKERS, progress=False).seconds


def _one_file(label: str, rows: int, columns: int, quick: int, full: int, target: float) -> Row:
    """The one file of `direct`: results that are there at once, and whole runs."""

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
                    plan = rundir.prepare(_planned(source, folder, rows, "direct"))
                    onefile.reserve(plan)
                    return ours.run([Path(plan.out)] * WORKERS, sync=False)

            def running() -> float:
                with bench.fresh() as folder:
                    return _run(source, folder, rows, identity, writer="direct")

            values = interleave(
                {against: lambda: limit(sync=False), what: writing, whole: running,
                 synced: lambda: limit(sync=True)},
                bench.repetitions,
            )  # fmt: skip
        yield compare(values, what=what, against=against, target=target)
        yield compare(values, what=whole, against=against)
        yield compare(values, what=whole, against=synced)

    return row


def _planned(source: Path, folder: Path, rows: int, writer: str, **options: Any) -> Plan:
    return hpcio.Plan.create(
        identity, f"{source}::data", trials=rows, out=folder / "out.h5", writer=writer, **options
    )


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
                    "import hpcio, sys\nfrom hpcio import rundir\n"
                    "from hpcio.writers import onefile\n"
                    "from benchmarks.functions import identity\n"
                    "source, out, rows, writer = sys.argv[1:]\n"
                    "plan = hpcio.Plan.create(identity, source, trials=int(rows), out=out,"
                    " writer=writer)\n"
                    "onefile.reserve(rundir.prepare(plan))\n"
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
            return _run(source, folder, rows, identity, writer=writer)

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
            plan = _planned(source, folder, 1, "virtual", keeptrials=False)
            plan.run(workers=workers, progress=False)
            with h5py.File(plan.out) as f:
                got = f["data"][0]
        found.add(got.tobytes())
        errors.append(float(np.abs(got / exact - 1).max()))
    yield alone("mean of 4,000 float32 trials, relative error", errors, "", 1e-6)
    yield alone("... added up in float32", [float(np.abs(naive / trials / exact - 1).max())] * 2,
                "", None)  # fmt: skip
    yield alone("... different bits of 0, 1, 2 and 5 workers", [len(found) - 1] * 2, "", 0)


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
                return _run(source, folder, rows, identity, "task")

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
    """Seconds a trial in the loop over a chunk: files, journal and reader are open before."""
    with bench.fresh() as folder:
        plan = hpcio.Plan.create(
            identity, f"{source}::data", trials=rows, out=folder / "out.h5", sources=sources
        )
        with _Unsynced(rundir.prepare(plan), "bench") as attempt:
            started = clock()
            run_chunk(attempt, np.arange(count))
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

    # New files each time, the one of the limit written trial by trial, too: where pages lie
    # in memory, and how large the writes were that made them, decides how fast they read.
    for _ in range(bench.repetitions):
        with bench.fresh() as folder:
            whole, result = folder / "whole.h5", folder / "out.h5"
            limits.h5py_copy(whole, data, rows)
            _run(source, folder, rows, identity, "task")
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


def repack(bench: Bench) -> Iterator[Figure]:
    """A result of 100 files, copied into one; the recording has gone by then."""
    rows, columns, files = 2_500, 100, 100
    count = files * bench.size(3, 10)
    source = recording(bench, count, rows, columns)
    out = bench.folder / "out.h5"
    plan = rundir.prepare(
        hpcio.Plan.create(identity, f"{source}::data", trials=rows, out=out, sources="task")
    )
    with Attempt(plan, "bench") as attempt:
        for blocks in np.array_split(np.arange(count), files):
            run_chunk(attempt, blocks)
        attempt.sync()
    plan.run(workers=0, progress=False)
    source.unlink()
    sources = sorted((plan.run_directory / "sources").iterdir())
    assert len(sources) == files
    offset = os.path.getsize(sources[0]) - count // files * rows * columns * 4

    def raw(*, sync: bool) -> float:
        with bench.fresh() as folder:
            return limits.join(sources, offset, folder / "out", sync=sync)

    def ours() -> float:
        with bench.fresh() as folder:
            started = clock()
            hpcio.repack(out, folder / "one.h5")
            return clock() - started

    def in_place() -> float:
        with bench.fresh() as folder:
            copied = folder / "out.h5"
            shutil.copytree(f"{out}.run", f"{copied}.run")
            shutil.copy(out, copied)
            os.sync()
            started = clock()
            hpcio.repack(copied)
            return clock() - started

    what, instead = f"{files} files into one, verified", "... in place, verified from the disk"
    against, synced = "pread + pwrite, fsync", "pread + pwrite"
    values = interleave(
        {
            against: lambda: raw(sync=True),
            what: ours,
            synced: lambda: raw(sync=False),
            instead: in_place,
        },
        bench.repetitions,
    )
    yield compare(values, what=what, against=against, target=1.2)
    yield compare(values, what=what, against=synced)
    yield compare(values, what=instead, against=against)


def _signal(kind: str, rows: int, columns: int) -> np.ndarray:
    """Values as recordings and results have them."""
    random = np.random.default_rng(2)
    if kind == "sparse":  # spikes in trains that are zero elsewhere
        return (random.random((rows, columns)) < 0.002).astype(np.float32)
    noise = random.normal(size=(rows, columns))
    if kind == "noise":
        return noise
    steps = (noise * 50).astype(np.int16)
    return steps if kind == "int16" else steps * 0.195  # what a converter gives, as volts


def _repacked(out: Path, compression: str | None) -> tuple[float, int]:
    """Seconds that one process takes to repack a result into chunks, and the size it gets."""
    one = out.with_name("one.h5")
    started = clock()
    hpcio.repack(out, one, chunks=True, compression=compression, workers=1)
    took, size = clock() - started, one.stat().st_size
    one.unlink()
    return took, size


def compression(bench: Bench) -> Iterator[Figure]:
    """The same result repacked by each filter: seconds over those of chunks without one."""
    names = ["gzip:1", "gzip:1+shuffle", "lzf"]
    if importlib.util.find_spec("hdf5plugin"):
        names += ["zstd:1", "zstd:1+shuffle", "lz4", "blosc+shuffle"]
    columns, trials = 64, 40
    against = "chunks, no filter"
    for kind in ("noise", "int16", "volts", "sparse"):
        with bench.fresh() as folder:
            source, out = folder / "rec.h5", folder / "out.h5"
            rows = bench.size(32 << 20, 128 << 20) // trials // columns // 8
            with h5py.File(source, "w") as f:
                f["data"] = _signal(kind, trials * rows, columns)
            plan = hpcio.Plan.create(identity, f"{source}::data", trials=rows, out=out)
            plan.run(workers=WORKERS, progress=False)
            sizes = {name: _repacked(out, name)[1] for name in [None, *names]}
            sides = {name: partial(lambda o, n: _repacked(o, n)[0], out, name) for name in names}
            sides[against] = partial(lambda o: _repacked(o, None)[0], out)
            values = interleave(sides, bench.repetitions)
        for name in names:
            what = f"{kind}, {name}: 1/{sizes[None] / sizes[name]:.2f}"
            found = {what: values[name], against: values[against]}
            yield compare(found, what=what, against=against)


def plans(bench: Bench) -> Iterator[Figure]:
    path = bench.folder / "rec.h5"
    with h5py.File(path, "w") as f:  # no data: nothing but one trial is ever read
        f.create_dataset("data", (planning.TRIALS * planning.ROWS, 4), np.float32)

    def call(action: str) -> dict[str, float]:
        found: dict[str, float] = json.loads(_new_process("planning", action, bench.folder))
        return found

    made, loaded = [], []
    for _ in range(bench.repetitions):
        made.append(call("make"))
        loaded.append(call("load"))
        rundir.discard(bench.folder / "out.h5")
    for what, values, unit, target in (
        ("planning 1,000,000 trials", [m["seconds"] for m in made], "s", 10.0),
        ("... its peak of memory", [m["peak"] / 2**20 for m in made], "MiB", 1024.0),
        ("... writing that plan", [m["write"] for m in made], "s", None),
        ("loading that plan", [m["seconds"] for m in loaded], "s", 2.0),
        ("... its peak of memory", [m["peak"] / 2**20 for m in loaded], "MiB", None),
    ):
        yield alone(what, values, unit, target)


# ---------------------------------------------------------------------- through dask


def dask_session(bench: Bench) -> Iterator[Figure]:
    """Blocks that cost nothing, so that what is left is the way there and back."""
    from distributed import Client, LocalCluster

    from slurm import DaskExecutor

    blocks, chunks = 100_000, 1_000
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
        executor = DaskExecutor(client, chunks_per_worker=chunks // WORKERS)
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
                local = _run(source, folder, 1, identity, "task")
            if repetition:
                for name, seconds in zip(values, (*took, local), strict=True):
                    values[name].append(seconds / blocks)
    yield compare(values, what=whole, against=against, scale=MICRO, target=20, absolute=True)
    yield alone(idle, [1e6 * v for v in values[idle]], "µs", None)


def array_task(bench: Bench) -> Iterator[Figure]:
    """Tasks that have one block of nothing each, started as a job script starts them."""
    from slurm.batch import write_submission
    from slurm.script import Ask
    from slurm.site import Site

    tasks = bench.size(20, 200)
    source = recording(bench, tasks, 1, 25)
    site = Site("bench", "", 1001, 10_000, ())
    ask = Ask(
        partition=None, seconds=None, memory=None, cpus=1, throttle=None, name="bench", signal=90
    )
    computing: list[float] = []
    for _ in range(bench.repetitions):
        with bench.fresh() as folder:
            plan = rundir.prepare(
                hpcio.Plan.create(
                    identity, f"{source}::data", trials=1, out=folder / "out.h5", sources="task"
                )
            )
            write_submission(
                plan, site, ask, np.arange(tasks), Ledger.read(plan), tasks=tasks, options={},
                stale=120.0,
            )  # fmt: skip
            before = os.times()
            for task in range(tasks):
                subprocess.run(
                    [sys.executable, "-P", "-m", "slurm.task", "run", plan.out, "1", "0"],
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
    "direct-10kB": _one_file("10 kB", 25, 100, 4_000, 20_000, 1.3),
    "direct-47kB": _one_file("47,008 bytes", 1, 11_752, 2_000, 20_000, 1.2),
    "direct-1MB": _one_file("1 MB", 2_500, 100, 200, 1_000, 1.15),
    "direct-64MB": _one_file("64 MB", 160_000, 100, 8, 16, 1.05),
    "mutex": mutex,
    "ranks": ranks,
    "mean": mean,
    "journal": journal,
    "read": full_read,
    "repack": repack,
    "compression": compression,
    "plan": plans,
    "dask": dask_session,
    "array-task": array_task,
}
