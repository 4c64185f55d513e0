"""Rows of plans: a million trials planned and loaded, averages by condition, runs that are done."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import hpcio
from benchmarks import planning
from benchmarks.bench import Bench, new_process, recording
from benchmarks.functions import identity
from benchmarks.limits import clock
from benchmarks.measure import Figure, alone, compare, interleave
from hpcio.journals import discard

_MIB = 2**20
_CONDITIONS = 4


def plans(bench: Bench) -> Iterator[Figure]:
    with h5py.File(bench.folder / "rec.h5", "w") as f:  # nothing but one trial is ever read
        f.create_dataset("data", (planning.TRIALS * planning.ROWS, 4), np.float32)
    found: dict[str, list[dict[str, float]]] = {}

    def call(action: str) -> None:
        said = json.loads(new_process("planning", action, bench.folder))
        found.setdefault(action, []).append(said)

    for _ in range(bench.repetitions):
        call("nothing")
        for make in ("make", "make_of_events"):  # those of events are loaded
            discard(bench.folder / "out.h5")
            call(make)
        call("load")
        call("load_for_worker")

    def figure(what: str, action: str, key: str, target: float | None) -> Figure:
        values = [said[key] / (_MIB if key == "peak" else 1) for said in found[action]]
        return alone(what, values, "MiB" if key == "peak" else "s", target)

    yield figure("planning 1,000,000 trials", "make", "seconds", 10.0)
    yield figure("... its peak of memory", "make", "peak", 1024.0)
    yield figure("... writing that plan", "make", "write", None)
    yield figure("the same of events, four columns, written", "make_of_events", "whole", 2.0)
    yield figure("... its peak of memory", "make_of_events", "peak", 300e6 / _MIB)
    yield figure("... that of a process that plans nothing", "nothing", "peak", None)
    yield figure("loading that plan", "load", "seconds", 2.0)
    yield figure("... its peak of memory", "load", "peak", None)
    yield figure("... likewise in a worker", "load_for_worker", "peak", None)


def recordings(bench: Bench) -> Iterator[Figure]:
    count, each = planning.RECORDINGS, planning.TRIALS_OF_EACH
    samples = np.zeros((each * planning.ROWS, 32), np.int16)
    begin = np.arange(each) * planning.ROWS
    with h5py.File(bench.folder / "s0.h5", "w") as f:
        f["lfp"], f["trials"] = samples, np.stack([begin, begin + planning.ROWS], axis=1)
    _write_session(bench.folder / "s0.nwb", samples, begin / planning.RATE)
    for suffix in ("h5", "nwb"):
        for k in range(1, count):
            shutil.copy(bench.folder / f"s0.{suffix}", bench.folder / f"s{k}.{suffix}")
    kinds = {
        "HDF5": ("s*.h5::/lfp", "::/trials", ""), "NWB": ("s*.nwb::lfp", "::/intervals/trials", "V")
    }  # fmt: skip
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(bench.repetitions):
        for kind, spec in kinds.items():
            discard(bench.folder / "out.h5")
            said = new_process("planning", "make_of_recordings", bench.folder, *spec)
            found[kind].append(json.loads(said)["seconds"])
    for kind, values in found.items():
        yield alone(f"planning {count} recordings of {each:,} trials, {kind}", values, "s", 3.0)


def _write_session(path: Path, samples: np.ndarray, starts: np.ndarray) -> None:
    """A session of NWB with electrodes, volts, and trials in seconds."""
    import pynwb

    nwb = pynwb.NWBFile("", "s", datetime(2026, 1, 1, tzinfo=UTC))
    probe = nwb.create_device(name="probe")
    shank = nwb.create_electrode_group("shank0", description="", location="", device=probe)
    for site in range(samples.shape[1]):
        nwb.add_electrode(group=shank, location="CA1", y=20.0 * site)
    region = nwb.create_electrode_table_region(list(range(samples.shape[1])), "")
    nwb.add_acquisition(
        pynwb.ecephys.ElectricalSeries(
            name="lfp", data=samples, electrodes=region, rate=planning.RATE, conversion=1e-6
        )
    )
    nwb.add_trial_column(name="condition", description="")
    for k, start in enumerate(starts):
        stop = start + planning.ROWS / planning.RATE
        nwb.add_trial(start_time=start, stop_time=stop, condition=("go", "stop")[k % 2])
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)


def averages(bench: Bench) -> Iterator[Figure]:
    rows, columns, count = 100, 16, bench.size(10_000, 100_000)
    source = recording(bench, count, rows, columns)
    condition = np.random.default_rng(0).integers(0, _CONDITIONS, count)
    trials = hpcio.Trials.equal(rows, rows=count * rows).with_columns(condition=condition)
    what, against = f"an average by {_CONDITIONS} conditions, in this process", "one of all trials"

    def run(by: str | None) -> float:
        with bench.fresh() as folder:
            plan = hpcio.Plan.create(
                identity, f"{source}::data", trials=trials, out=folder / "out.h5",
                keeptrials=False, by=by,
            )  # fmt: skip
            started = clock()
            plan.run(workers=0, progress=False)
            return clock() - started

    sides = {against: lambda: run(None), what: lambda: run("condition")}
    values = interleave(sides, bench.repetitions)
    yield compare(values, what=what, against=against, target=1.1)


def extend(bench: Bench) -> Iterator[Figure]:
    """A result of 100,000 trials that gets one more: the plan, the run, and the new file."""
    rows, count = 10, 100_000
    with h5py.File(bench.folder / "rec.h5", "w") as f:
        f.create_dataset("data", ((count + 2 * bench.repetitions) * rows, 4), np.float32)
    values: dict[str, list[float]] = {}
    for what, options in {"virtual": {}, "an average": {"keeptrials": False}}.items():
        out = bench.folder / f"{'average' if options else 'out'}.h5"
        start = np.arange(count) * rows
        made = hpcio.Plan.create(
            identity, f"{bench.folder}/rec.h5::data", trials=np.stack([start, start + rows], 1),
            out=out, **options,
        )  # fmt: skip
        made.run(workers=2, progress=False)
        for k in range(bench.repetitions):
            begin = (count + k) * rows
            started = clock()
            plan = hpcio.Plan.load(out).extend(trials=[[begin, begin + rows]])
            assert plan.run(workers=0, progress=False).computed == 1
            values.setdefault(what, []).append(clock() - started)
    yield alone("one more trial behind 100,000, virtual", values["virtual"], "s", 1.0)
    yield alone("... of an average", values["an average"], "s", 1.0)


def done_already(bench: Bench) -> Iterator[Figure]:
    recording(bench, 200, planning.ROWS, 4)
    assert _said("script", bench.folder)["computed"] == 200
    command = [sys.executable, "-m", "hpcio", *planning.shell_arguments(str(bench.folder))]
    sides = {
        "script": ("a script", lambda: new_process("planning", "script", bench.folder)),
        "shell": ("hpcio run", lambda: _quietly(command)),
    }
    for action, (what, whole) in sides.items():
        file = bench.folder / f"{action}.json"
        file.write_text(json.dumps(_said(action, bench.folder)["modules"]))
        imports = partial(new_process, "planning", "imports", file)
        values = interleave({"imports": _timed(imports), what: _timed(whole)}, bench.repetitions)
        beyond = [a - b for a, b in zip(values[what], values["imports"], strict=True)]
        yield alone(f"{what} that is done, beyond its imports", beyond, "s", 0.3)


def _said(action: str, folder: Path) -> dict[str, Any]:
    """The last line that a process says."""
    said: dict[str, Any] = json.loads(new_process("planning", action, folder).splitlines()[-1])
    return said


def _quietly(command: list[str]) -> None:
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True, stdout=subprocess.DEVNULL)


def _timed(call: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        started = clock()
        call()
        return clock() - started

    return seconds
