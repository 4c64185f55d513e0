"""Rows of results that are made one file, and compressed; `README.md` explains them."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np

import hpcio
from benchmarks import limits
from benchmarks.bench import (
    WORKERS,
    Bench,
    recording,
)
from benchmarks.functions import identity
from benchmarks.limits import clock
from benchmarks.measure import Figure, compare, interleave
from hpcio.journals import rundir
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch


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
            run_batch(attempt, blocks)
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
