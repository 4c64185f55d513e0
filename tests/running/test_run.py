"""Plan.run: what plain h5py reads from the result, against numpy, bit by bit."""

from __future__ import annotations

import calendar
import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcio
from hpcio import Plan, Trials, per_trial
from hpcio.errors import (
    BlocksFailed,
    FunctionError,
    HpcioError,
    OutputError,
    PlanError,
    ResultError,
    SourceError,
)
from hpcio.journals.rundir import prepare
from hpcio.running.run import Done

# 30 rows of 4 channels, cut into trials of 6, 6, 8, 6 and 4 rows
LFP = np.random.default_rng(5).normal(size=(30, 4))
TABLE = [[0, 6, 1], [6, 12, 2], [12, 20, 3], [20, 26, 4], [26, 30, -5]]

Array = np.ndarray


def record(path: Path, data: Array = LFP, **storage: Any) -> str:
    with h5py.File(path, "w") as f:
        f.create_dataset("lfp", data=data, **storage)
    return f"{path}::lfp"


@pytest.fixture
def lfp(tmp_path: Path) -> str:
    return record(tmp_path / "rec.h5")


def check(out: str | os.PathLike[str], expected: Array) -> None:
    """Plain h5py, `hpcio.open` and `hpcio.verify` all see exactly these bytes."""
    for opened in (h5py.File(out), hpcio.open(out)):
        with opened as f:
            found = f["data"][...]
            assert found.dtype == expected.dtype
            assert found.shape == expected.shape
            assert found.tobytes() == np.ascontiguousarray(expected).tobytes()
    assert hpcio.verify(out).nbytes == expected.nbytes


def run(func: Any, source: str, out: Path, *, workers: int = 0, **options: Any) -> Done:
    options = {"trials": TABLE, **options}
    return Plan.create(func, source, out=out, **options).run(workers=workers, progress=False)


def pieces(data: Array = LFP, table: Any = TABLE) -> list[Array]:
    return [data[first:last] for first, last, *_ in table]


# ---- the numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sources", ["trial", "task", "auto"])
def test_every_trial_is_computed_and_stored(tmp_path, lfp, workers, sources):
    def scaled(trial, gain, *, shift, chunkShape=None, noCompute=None):
        if noCompute:
            return trial.shape, np.dtype("f8")
        return gain * trial**3 + shift

    gains = [1.0, 0.1, -3.0, 7.0, np.pi]
    done = run(
        scaled, lfp, tmp_path / "out.h5", workers=workers, sources=sources,
        args=[per_trial(gains)], kwargs={"shift": 0.1},
    )  # fmt: skip
    expected = [g * x**3 + 0.1 for g, x in zip(gains, pieces(), strict=True)]
    check(tmp_path / "out.h5", np.concatenate(expected))
    assert (done.out, done.workers) == (str(tmp_path / "out.h5"), max(1, workers))
    assert (done.blocks, done.computed, done.failed) == (5, 5, ())
    assert (done.nbytes, done.nbytes_read) == (LFP.nbytes, LFP.nbytes)
    assert done.blocks_per_second == 5 / done.seconds
    assert done.mb_per_second == 2 * LFP.nbytes / 1e6 / done.seconds
    assert str(done).startswith(f"5 blocks in {done.seconds:.2f} s (")


def test_a_second_run_has_nothing_to_do(tmp_path, lfp):
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    plan.run(workers=0, progress=False)
    before = (tmp_path / "out.h5").read_bytes()
    done = plan.run(workers=2, progress=False)
    assert (done.blocks, done.computed, done.nbytes, done.nbytes_read) == (5, 0, 0, 0)
    assert done.seconds == done.blocks_per_second == done.mb_per_second == 0.0
    assert str(done).endswith(", 5 from earlier runs")
    assert (tmp_path / "out.h5").read_bytes() == before


def test_fresh_starts_over(tmp_path, lfp):
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    plan.run(workers=0, progress=False)
    assert plan.run(workers=0, fresh=True, progress=False).computed == 5
    check(tmp_path / "out.h5", -LFP)


DTYPES = [
    "?", "i1", "u1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<u4", ">u4", "<i8", ">i8", "<u8",
    ">u8", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "g", "<c8", ">c8", "<c16", ">c16", "G",
]  # fmt: skip


@pytest.mark.parametrize("sources", ["trial", "task"])
@pytest.mark.parametrize("name", DTYPES)
def test_every_type_of_number_is_kept(tmp_path, name, sources):
    rng = np.random.default_rng(0)
    dtype = np.dtype(name)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        data = rng.integers(info.min, info.max, (30, 4), dtype.newbyteorder("="), endpoint=True)
    else:
        data = rng.normal(size=(30, 4)) + (1j * rng.normal(size=(30, 4)) if name[-1] > "b" else 0)
        data = data.real if dtype.kind in "bf" else data
        data[0] = [0, np.nan, np.inf, -np.inf]
    data = (data > 0 if dtype.kind == "b" else data).astype(dtype)
    source = record(tmp_path / "rec.h5", data)
    run(np.copy, source, tmp_path / "out.h5", sources=sources)
    check(tmp_path / "out.h5", data)
    # and through HDF5 instead of as plain bytes: rows and channels in reverse
    trials = Trials.from_array(TABLE).select(time=slice(None, None, -1), channels=[3, 2, 1, 0])
    run(np.copy, source, tmp_path / "back.h5", sources=sources, trials=trials)
    check(tmp_path / "back.h5", np.concatenate([x[::-1, ::-1] for x in pieces(data)], dtype=dtype))


def test_the_type_of_results_may_be_chosen(tmp_path, lfp):
    run(np.negative, lfp, tmp_path / "out.h5", out_dtype=">f4")
    check(tmp_path / "out.h5", (-LFP).astype(">f4"))


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_one_number_for_each_trial_makes_a_vector(tmp_path, lfp, sources):
    run(np.max, lfp, tmp_path / "out.h5", join="stack", sources=sources)
    check(tmp_path / "out.h5", np.array([x.max() for x in pieces()]))
    run(lambda x: x[0, 0] > 0, lfp, tmp_path / "flags.h5", join="stack", sources=sources)
    check(tmp_path / "flags.h5", np.array([x[0, 0] > 0 for x in pieces()]))


def test_results_may_be_empty(tmp_path, lfp):
    def peaks(trial, count, noCompute=None):
        return ((count, 4), "f8") if noCompute else trial[:count]

    counts = [0, 2, 0, 6, 0]
    run(peaks, lfp, tmp_path / "out.h5", args=[per_trial(counts)], sources="task")
    expected = [x[:n] for x, n in zip(pieces(), counts, strict=True)]
    check(tmp_path / "out.h5", np.concatenate(expected))
    with hpcio.open(tmp_path / "out.h5") as f:
        assert f["trials"]["first"].tolist() == [0, 0, 2, 2, 8]
        assert f["trials"]["last"].tolist() == [-1, 1, 1, 7, 7]
    run(lambda x: x[:0], lfp, tmp_path / "none.h5")
    check(tmp_path / "none.h5", np.zeros((0, 4)))


# ---- what is read -------------------------------------------------------------------------------

CUBE = np.arange(12 * 12 * 12, dtype="i4").reshape(12, 12, 12)
STORAGE: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunked": {"chunks": (5, 4, 12)},
    "compressed": {"chunks": (3, 12, 7), "compression": "gzip", "shuffle": True},
    "checked": {"chunks": True, "fletcher32": True},
    "growing": {"maxshape": (None, 12, 12)},
}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("storage", STORAGE)
def test_any_axis_of_any_dataset_is_cut_into_trials(tmp_path, axis, storage):
    source = record(tmp_path / "rec.h5", CUBE, **STORAGE[storage])
    trials = Trials.from_array([[0, 3], [3, 8], [8, 12]], axis=axis)
    run(lambda x: 2 * x, source, tmp_path / "out.h5", trials=trials, axis=axis)
    check(tmp_path / "out.h5", 2 * CUBE)
    run(np.sum, source, tmp_path / "sums.h5", trials=trials, axis=axis, join="stack")
    parts = np.split(CUBE, [3, 8], axis)
    check(tmp_path / "sums.h5", np.array([part.sum() for part in parts]))


def with_userblock(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=1024) as f:
        f["lfp"] = LFP
    with path.open("r+b") as f:
        f.write(b"a header of another program")


def with_external_data(path: Path) -> None:
    raw = path.with_suffix(".raw")
    raw.write_bytes(LFP.tobytes())
    with h5py.File(path, "w") as f:
        f.create_dataset("lfp", LFP.shape, "f8", external=[(str(raw), 0, LFP.nbytes)])


def with_link(path: Path) -> None:
    other = path.with_name("other.h5")
    with h5py.File(other, "w") as f:
        f["before"], f["lfp"] = np.zeros(1000), LFP
    with h5py.File(path, "w") as f:
        f["lfp"], f["behind"] = h5py.ExternalLink("other.h5", "lfp"), np.full(1000, 7.0)


def as_virtual_dataset(path: Path) -> None:
    layout = h5py.VirtualLayout(LFP.shape, "f8")
    for k, rows in enumerate(np.split(LFP, 5)):
        name = path.with_name(f"part{k}.h5")
        with h5py.File(name, "w") as f:
            f["x"] = rows
        layout[6 * k : 6 * k + 6] = h5py.VirtualSource(name.name, "x", rows.shape)
    with h5py.File(path, "w") as f:
        f.create_virtual_dataset("lfp", layout)


def never_written(path: Path) -> None:
    with h5py.File(path, "w") as f:
        f.create_dataset("lfp", LFP.shape, "f8", fillvalue=1.5)


def of_twelve_bits(path: Path) -> None:
    """Samples of an ADC: 12 significant bits in 16, which numpy cannot hold as they are."""
    with h5py.File(path, "w") as f:
        kind = h5py.h5t.STD_I16LE.copy()
        kind.set_precision(12)
        kind.set_offset(2)
        space = h5py.h5s.create_simple(LFP.shape)
        dataset = h5py.Dataset(h5py.h5d.create(f.id, b"lfp", kind, space))
        dataset[...] = np.round(100 * LFP).astype("i2")


@pytest.mark.parametrize(
    "make",
    [with_userblock, with_external_data, with_link, as_virtual_dataset, never_written,
     of_twelve_bits],
)  # fmt: skip
def test_a_recording_in_any_form_that_hdf5_reads(tmp_path, make):
    make(tmp_path / "rec.h5")
    with h5py.File(tmp_path / "rec.h5") as f:
        expected = f["lfp"][...]
    run(np.copy, f"{tmp_path}/rec.h5::lfp", tmp_path / "out.h5")
    check(tmp_path / "out.h5", expected)


def test_the_result_of_one_run_is_the_recording_of_the_next(tmp_path, lfp):
    run(lambda x: x - x.mean(axis=0), lfp, tmp_path / "first.h5")
    run(np.abs, f"{tmp_path}/first.h5::data", tmp_path / "second.h5", workers=2)
    check(tmp_path / "second.h5", np.concatenate([abs(x - x.mean(axis=0)) for x in pieces()]))


@pytest.mark.parametrize("move", ["part2.h5", "everything"])
def test_a_virtual_recording_without_its_parts_is_refused(tmp_path, move):
    # HDF5 would read zeros in their place, and say nothing
    (tmp_path / "100% full").mkdir()
    rec = tmp_path / "100% full" / "rec.h5"
    as_virtual_dataset(rec)
    plan = Plan.create(np.copy, f"{rec}::lfp", trials=6, out=tmp_path / "early.h5")
    if move == "everything":
        (tmp_path / "lone.h5").write_bytes(rec.read_bytes())
        rec = tmp_path / "lone.h5"
    else:
        rec.with_name(move).rename(tmp_path / move)
        with pytest.raises(SourceError, match=rf"its source '.*{move}' cannot be read"):
            plan.run(workers=0, progress=False)
    with pytest.raises(SourceError, match="virtual dataset, and its source"):
        Plan.create(np.copy, f"{rec}::lfp", trials=6, out=tmp_path / "out.h5")
    with pytest.raises(SourceError, match="virtual dataset, and its source"):
        tripled({**plan.trl_dat(0), "infile": rec})


def test_a_virtual_recording_of_more_files_than_may_be_open_is_refused(tmp_path):
    files = len(os.listdir("/proc/self/fd")) + 200
    layout = h5py.VirtualLayout((files, 4), "f8")
    for k in range(files):
        (tmp_path / f"{k}.h5").touch()
        layout[k] = h5py.VirtualSource(f"{k}.h5", "x", (4,))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f.create_virtual_dataset("lfp", layout)
    script = (
        "import resource, hpcio, numpy as np\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))\n"
        "hpcio.Plan.create(np.copy, 'rec.h5::lfp', trials=1, out='out.h5')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"is made of {files} files, more than HDF5 can hold open" in done.stderr


def test_trials_may_overlap_and_come_in_any_order(tmp_path, lfp):
    table = [[20, 30], [0, 30], [5, 6], [20, 30], [4, 9]]
    run(np.cumsum, lfp, tmp_path / "out.h5", trials=table, kwargs={"axis": 0})
    expected = [np.cumsum(LFP[a:b], axis=0) for a, b in table]
    check(tmp_path / "out.h5", np.concatenate(expected))


@pytest.mark.parametrize("storage", ["contiguous", "compressed"])
def test_of_trials_time_and_channels_anything_may_be_selected(tmp_path, storage):
    chunks = {"chunks": (7, 3), "compression": "gzip"} if storage == "compressed" else {}
    source = record(tmp_path / "rec.h5", LFP, **chunks)
    trials = Trials.from_array(TABLE).select(
        trials=[4, 0, 2, 0], time=[3, -1, 0, 3], channels=[3, 0, 3, 1]
    )
    run(np.negative, source, tmp_path / "out.h5", trials=trials, workers=2)
    parts = [pieces()[k][[3, -1, 0, 3]][:, [3, 0, 3, 1]] for k in (4, 0, 2, 0)]
    check(tmp_path / "out.h5", -np.concatenate(parts))
    with hpcio.open(tmp_path / "out.h5") as f:
        assert f["trials"]["trial"].tolist() == [4, 0, 2, 0]
        assert f["trials"]["start"].tolist() == [26, 0, 12, 0]
        assert f["trials"]["offset"].tolist() == [-5, 1, 3, 1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sources", ["trial", "task"])
def test_blocks_of_channels_lie_side_by_side(tmp_path, lfp, workers, sources):
    def sort(trial):
        assert trial.shape[1] <= 3
        return np.sort(trial, axis=0)

    options = {"channels_per_block": 3, "workers": workers, "sources": sources}
    done = run(sort, lfp, tmp_path / "out.h5", **options)
    assert done.blocks == 10
    check(tmp_path / "out.h5", np.concatenate([np.sort(x, axis=0) for x in pieces()]))
    run(lambda x: x.max(0), lfp, tmp_path / "max.h5", join="stack", out_channel_axis=0, **options)
    check(tmp_path / "max.h5", np.stack([x.max(axis=0) for x in pieces()]))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, dict[str, Any]]:
    """A recording of three axes, trials and selections of it, and ways to join the results."""
    shape = [draw(st.integers(1, 4)) for _ in range(3)]
    axis = draw(st.integers(0, 2))
    channel_axis = draw(st.sampled_from([a for a in range(3) if a != axis]))
    shape[axis] = rows = draw(st.integers(2, 12))
    start = draw(st.lists(st.integers(0, rows - 2), min_size=1, max_size=6))
    table = [[a, draw(st.integers(a + 2, rows))] for a in start]
    entries = st.lists(st.integers(-shape[channel_axis], shape[channel_axis] - 1), min_size=1)
    trials = Trials.from_array(table, axis=axis).select(
        trials=draw(st.none() | st.lists(st.integers(0, len(start) - 1), min_size=1)),
        time=draw(st.sampled_from([None, slice(None, None, -1), slice(0, None, 2), [1, 0, 1]])),
        channels=draw(st.none() | entries),
    )
    # Whole numbers, whose sums are exact in whatever order numpy adds them.
    data = np.round(100 * np.random.default_rng(len(start)).normal(size=shape))
    data = data.astype(draw(st.sampled_from(["f8", ">f4", "c8"])))
    return data, {
        "trials": trials.with_blocks(
            channel_axis=channel_axis, channels_per_block=draw(st.none() | st.integers(1, 3))
        ),
        "axis": axis, "sources": draw(st.sampled_from(["trial", "task"])),
        "storage": draw(st.sampled_from([{}, {"chunks": True}])),
        "stack": draw(st.booleans()),
    }  # fmt: skip


@given(cases())
@settings(max_examples=60, deadline=None)
def test_any_run_gives_what_numpy_gives(tmp_path_factory, case):
    data, options = case
    folder = tmp_path_factory.mktemp("any")
    trials, axis = options["trials"], options["axis"]
    expected = []
    for first, last in zip(trials.start, trials.stop, strict=True):
        x = np.take(data, range(first, last), axis)
        x = np.take(x, np.arange(last - first)[_index(trials.time)], axis)
        x = np.take(x, np.arange(data.shape[trials.channel_axis])[_index(trials.channels)],
                    trials.channel_axis)  # fmt: skip
        expected.append(2 * (x.sum(axis=axis, keepdims=True) if options["stack"] else x))

    def double(trial):
        return 2 * (trial.sum(axis=axis, keepdims=True) if options["stack"] else trial)

    run(
        double, record(folder / "rec.h5", data, **options["storage"]), folder / "out.h5",
        trials=trials, axis=axis, sources=options["sources"],
        join="stack" if options["stack"] else "concatenate",
    )  # fmt: skip
    check(
        folder / "out.h5",
        np.stack(expected) if options["stack"] else np.concatenate(expected, axis),
    )


def _index(selection: Any) -> Any:
    return slice(None) if selection is None else selection if isinstance(selection, slice) else (
        list(selection)
    )  # fmt: skip


@pytest.mark.parametrize("channels", [slice(1, None, 1000), [2999, 0, 5, 5]])
def test_some_channels_of_many(tmp_path, channels):
    # rows of 24 kB are not read whole for a few of their values
    data = np.random.default_rng(6).normal(size=(30, 3000))
    trials = Trials.from_array(TABLE).select(channels=channels)
    source = record(tmp_path / "rec.h5", data)
    run(np.negative, source, tmp_path / "out.h5", trials=trials, workers=2)
    check(tmp_path / "out.h5", -data[:, channels])


LARGE = np.random.default_rng(1).normal(size=(6 * 2**15, 16)).astype("f4")


def of_large(trial: Array) -> Array:
    trial *= 2.0  # in place: the trial is the function's own
    return trial[::-1]


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_large_trials(tmp_path, sources):
    source = record(tmp_path / "rec.h5", LARGE)
    expected = np.concatenate([2 * x[::-1] for x in np.split(LARGE, 4)])
    options = {"trials": len(LARGE) // 4, "sources": sources, "out_dtype": "f4"}
    run(of_large, source, tmp_path / "out.h5", out_shape=(len(LARGE) // 4, 16), **options)
    check(tmp_path / "out.h5", expected)
    with h5py.File(tmp_path / "rec.h5") as f:
        np.testing.assert_array_equal(f["lfp"], LARGE)


@pytest.mark.parametrize("shape", [(600, 4), (6 * 2**15, 16)])
def test_a_function_may_keep_its_trials(tmp_path, shape):
    data = np.random.default_rng(2).normal(size=shape).astype("f4")
    source = record(tmp_path / "rec.h5", data)
    kept: list[Array] = []

    def difference(trial):
        kept.append(trial[:])  # a view of it
        return trial - kept[0]

    plan = Plan.create(
        difference, source, trials=shape[0] // 6, out=tmp_path / "out.h5",
        out_shape=(shape[0] // 6, shape[1]), out_dtype="f4",
    )  # fmt: skip
    kept.clear()
    plan.run(workers=0, progress=False)
    trials = np.split(data, 6)
    check(tmp_path / "out.h5", np.concatenate([x - trials[0] for x in trials]))


# ---- the function -------------------------------------------------------------------------------

WORK = "SHIFT = 1.5\n\ndef shifted(trial):\n    return trial + SHIFT\n"


def test_a_function_of_a_file_or_module(tmp_path, lfp, monkeypatch):
    (tmp_path / "my-work").mkdir()
    (tmp_path / "my-work" / "shifting.py").write_text(WORK)
    file = f"{tmp_path}/my-work/shifting.py:shifted"
    run(file, lfp, tmp_path / "file.h5", workers=2)
    check(tmp_path / "file.h5", LFP + 1.5)
    monkeypatch.syspath_prepend(tmp_path / "my-work")
    run("shifting:shifted", lfp, tmp_path / "module.h5", workers=2)
    check(tmp_path / "module.h5", LFP + 1.5)


def test_files_of_the_same_name_do_not_mix(tmp_path, lfp):
    plans = []
    for k in range(3):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "work.py").write_text(WORK.replace("1.5", f"{k}.5"))
        func, out = f"{tmp_path}/{k}/work.py:shifted", tmp_path / f"{k}.h5"
        plans.append(Plan.create(func, lfp, trials=6, out=out))
    for k, workers in [(2, 0), (0, 0), (1, 2)]:
        plans[k].run(workers=workers, progress=False)
        check(tmp_path / f"{k}.h5", LFP + (k + 0.5))


def test_a_plan_that_was_loaded_leaves_its_name_to_others(tmp_path, lfp):
    """In a session that has never heard of either file."""
    for k in range(2):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "work.py").write_text(WORK.replace("1.5", f"{k}.5"))
    prepare(Plan.create(f"{tmp_path}/0/work.py:shifted", lfp, trials=6, out=tmp_path / "0.h5"))
    script = (
        "import hpcio\n"
        "hpcio.Plan.load('0.h5').run(workers=0, progress=False)\n"
        f"plan = hpcio.Plan.create('1/work.py:shifted', {lfp!r}, trials=6, out='1.h5')\n"
        "plan.run(workers=0, progress=False)\n"
        "hpcio.Plan.load('1.h5').run(workers=0, progress=False)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    for k in range(2):
        check(tmp_path / f"{k}.h5", LFP + (k + 0.5))


def test_a_file_that_was_edited_is_read_anew(tmp_path, lfp):
    for shift in (1.5, 10.25):
        (tmp_path / "work.py").write_text(WORK.replace("1.5", str(shift)))
        out = tmp_path / f"{shift}.h5"
        run(f"{tmp_path}/work.py:shifted", lfp, out)
        check(out, LFP + shift)


@pytest.mark.parametrize("name", ["signal", "statistics", "pytest"])
def test_a_file_that_hides_another_module_is_refused(tmp_path, lfp, name):
    (tmp_path / f"{name}.py").write_text(WORK)
    with pytest.raises(FunctionError, match=f"name of another module, '{name}'. Rename the file"):
        run(f"{tmp_path}/{name}.py:shifted", lfp, tmp_path / "out.h5")


class Gain:
    """A function with a memory; never equal to itself, and so without a hash."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, trial: Array) -> Array:
        return self.factor * trial


@hpcio.unwrap_io
def tripled(trial, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, np.dtype("f8")
    return 3.0 * trial


@pytest.mark.parametrize(
    "func",
    [
        tripled,
        hpcio.unwrap_io(lambda trial: 3.0 * trial),
        lambda trial, *, factor=3.0, **_: factor * trial,
        functools.partial(np.multiply, 3.0),
        Gain(3.0),
        Gain(3.0).__call__,
    ],
)
def test_any_callable_is_a_function(tmp_path, lfp, func):
    run(func, lfp, tmp_path / "out.h5", workers=2)
    check(tmp_path / "out.h5", 3.0 * LFP)


def test_the_function_is_told_the_largest_shape(tmp_path, lfp):
    def shape(trial, chunkShape=None, noCompute=None):
        return ((2,), "i8") if noCompute else np.array(chunkShape[:1] * 2)

    def rows(trial, chunkShape=None, noCompute=None):
        return (trial.shape, "f8") if noCompute else np.full(trial.shape, float(chunkShape[0]))

    run(shape, lfp, tmp_path / "out.h5", join="stack")
    check(tmp_path / "out.h5", np.full((5, 2), 2))
    run(rows, lfp, tmp_path / "rows.h5", workers=2)
    check(tmp_path / "rows.h5", np.full((30, 4), 8.0))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_of_numerical_libraries(tmp_path, lfp, threads):
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"]

    def allowed(trial):
        return np.array([int(os.environ.get(name, "0")) for name in names])

    plan = Plan.create(
        allowed, lfp, trials=6, out=tmp_path / "out.h5", join="stack", out_shape=(4,),
        out_dtype="i8",
    )  # fmt: skip
    plan.run(workers=2, threads=threads, progress=False)
    check(tmp_path / "out.h5", np.full((5, 4), threads))


# ---- what else is in the file -------------------------------------------------------------------


def test_the_table_of_trials(tmp_path, lfp):
    run(lambda x: x[::2], lfp, tmp_path / "out.h5", channels_per_block=3)
    with h5py.File(tmp_path / "out.h5") as f:
        table = f["trials"][...]
        data = f["data"][...]
    assert table.dtype.names == ("first", "last", "done", "trial", "start", "stop", "offset")
    assert table.tolist() == [
        (0, 2, True, 0, 0, 6, 1),
        (3, 5, True, 1, 6, 12, 2),
        (6, 9, True, 2, 12, 20, 3),
        (10, 12, True, 3, 20, 26, 4),
        (13, 14, True, 4, 26, 30, -5),
    ]
    for row in table:
        found = data[row["first"] : row["last"] + 1]
        np.testing.assert_array_equal(found, LFP[row["start"] : row["stop"] : 2])


def test_the_table_of_stacked_trials(tmp_path, lfp):
    run(np.mean, lfp, tmp_path / "out.h5", join="stack")
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["trials"]["first"].tolist() == f["trials"]["last"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_axes_have_dimension_scales(tmp_path, lfp, sources):
    trials = Trials.equal(6, rows=30).select(trials=[3, 1])
    frequencies = np.fft.rfftfreq(6, 0.001)
    run(
        lambda x: np.abs(np.fft.rfft(x, axis=0)), lfp, tmp_path / "out.h5", trials=trials,
        join="stack", sources=sources,
        axes={"trial": None, "frequency": frequencies, "channel": ["Fz", "Cz", "Pz", "ö"]},
    )  # fmt: skip
    with h5py.File(tmp_path / "out.h5") as f:
        dims = f["data"].dims
        assert [dim.label for dim in dims] == ["trial", "frequency", "channel"]
        assert [dim.keys() for dim in dims] == [["trial"], ["frequency"], ["channel"]]
        assert dims[0][0][...].tolist() == [3, 1]
        assert dims[1]["frequency"][...].tobytes() == frequencies.tobytes()
        assert [name.decode() for name in f["channel"]] == ["Fz", "Cz", "Pz", "ö"]
        assert f["frequency"].is_scale


def test_the_file_says_where_it_came_from(tmp_path, lfp):
    before = int(time.time())
    (tmp_path / "work.py").write_text("__version__ = '7.1'\n" + WORK.replace("l)", "l, n, a=1)"))
    run(f"{tmp_path}/work.py:shifted", lfp, tmp_path / "out.h5", args=[5], kwargs={"a": "b"})
    with h5py.File(tmp_path / "out.h5") as f:
        attrs = dict(f.attrs)
    versions = json.loads(attrs.pop("versions"))
    assert versions["numpy"] == np.__version__
    assert versions["h5py"] == h5py.__version__
    assert versions["hpcio"] == hpcio.__version__
    created = time.strptime(attrs.pop("created"), "%Y-%m-%dT%H:%M:%SZ")
    assert before <= calendar.timegm(created) <= time.time()
    assert re.fullmatch("[0-9a-f]{64}", attrs.pop("function_digest"))
    stat = os.stat(tmp_path / "rec.h5")
    assert attrs.pop("source_mtime") == time.strftime(
        "%Y-%m-%dT%H:%M:%SZ", time.gmtime(stat.st_mtime_ns // 10**9)
    )
    assert attrs.pop("host")
    assert attrs.pop("user")
    assert attrs == {
        "function": "work:shifted",
        "function_version": "7.1",
        "args": "(5,)",
        "kwargs": "{'a': 'b'}",
        "source": str(tmp_path / "rec.h5"),
        "source_dataset": "lfp",
        "source_size": stat.st_size,
    }


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sources", ["trial", "task"])
def test_details_are_kept_beside_the_result(tmp_path, lfp, workers, sources):
    def fitted(trial):
        details = {
            "mean": trial.mean(axis=0),
            "rows": np.array(len(trial), "u2"),
            "unit": np.array("µV"),
            "raw": np.repeat(trial, 1000),  # too large for an attribute
        }
        return trial - details["mean"], details if len(trial) != 4 else {}

    options = {"channels_per_block": 3, "workers": workers, "sources": sources}
    run(fitted, lfp, tmp_path / "out.h5", **options)
    check(tmp_path / "out.h5", np.concatenate([x - x.mean(axis=0) for x in pieces()]))
    with hpcio.open(tmp_path / "out.h5") as f:
        attributes = dict(f["metadata"].attrs)
        datasets = {name: item[...] for name, item in f["metadata"].items()}
    expected: dict[str, Any] = {}
    raw = {}
    for k, trial in enumerate(pieces()[:4]):
        for part, x in enumerate((trial[:, :3], trial[:, 3:])):
            expected[f"mean__{k}_{part}"] = x.mean(axis=0)
            expected[f"rows__{k}_{part}"] = np.uint16(len(trial))
            expected[f"unit__{k}_{part}"] = np.bytes_("µV".encode())
            raw[f"raw__{k}_{part}"] = np.repeat(x, 1000)
    small = {name for name, value in raw.items() if value.nbytes < 60_000}
    assert datasets.keys() == raw.keys() - small
    assert attributes.keys() == expected.keys() | small
    for name, value in {**expected, **raw}.items():
        found = {**attributes, **datasets}[name]
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)


# ---- functions that fail ------------------------------------------------------------------------


def failing(counts: Path, *, times: int) -> Callable[..., Array]:
    """Negates; fails in trials 1 and 3 at the first so many calls in each."""

    def negative(trial, number, noCompute=None):
        if noCompute:
            return trial.shape, trial.dtype
        if number in (1, 3):
            with (counts / str(number)).open("ab+") as f:
                f.write(b".")
            if (counts / str(number)).stat().st_size <= times:
                raise ValueError(f"no such luck in trial {number}")
        return -trial

    return negative


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    (tmp_path / "counts").mkdir()
    return tmp_path / "counts"


def calls(counts: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in counts.iterdir()}


FAILING = {"trials": TABLE, "args": [per_trial(range(5))]}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_block_that_raises_is_tried_again(tmp_path, lfp, counts, workers):
    plan = Plan.create(failing(counts, times=2), lfp, out=tmp_path / "out.h5", **FAILING)
    done = plan.run(workers=workers, retries=2, progress=False)
    assert (done.computed, done.failed) == (5, ())
    check(tmp_path / "out.h5", -LFP)
    assert calls(counts) == {"1": 3, "3": 3}


def test_a_large_block_is_read_anew_before_it_is_tried_again(tmp_path):
    source = record(tmp_path / "rec.h5", LARGE)
    seen = tmp_path / "seen"

    def spoiling(trial):
        with seen.open("ab+") as f:
            f.write(trial[0].tobytes())
        trial *= 2.0
        if seen.stat().st_size // trial[0].nbytes % 3:
            raise ValueError("not yet")
        return trial

    plan = Plan.create(
        spoiling, source, trials=len(LARGE) // 3, out=tmp_path / "out.h5",
        out_shape=(len(LARGE) // 3, 16), out_dtype="f4",
    )  # fmt: skip
    plan.run(workers=0, retries=2, progress=False)
    check(tmp_path / "out.h5", 2 * LARGE)
    assert seen.read_bytes() == np.repeat(LARGE[:: len(LARGE) // 3], 3, axis=0).tobytes()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sources", ["trial", "task"])
def test_of_failed_blocks_nothing_is_published(tmp_path, lfp, counts, workers, sources):
    func = failing(counts, times=2)
    plan = Plan.create(func, lfp, out=tmp_path / "out.h5", sources=sources, **FAILING)
    with pytest.raises(BlocksFailed, match="2 of 5 blocks failed; nothing was published") as caught:
        plan.run(workers=workers, retries=1, progress=False)
    assert not plan.run_directory.with_name("out.h5").exists()
    done = caught.value.done
    assert (done.blocks, done.computed) == (3, 3)
    assert done.nbytes == done.nbytes_read == LFP[:18].nbytes
    assert [(f.block, f.trial, f.reason) for f in done.failed] == [
        (1, 1, "ValueError: no such luck in trial 1"),
        (3, 3, "ValueError: no such luck in trial 3"),
    ]
    assert "in negative\n" in done.failed[0].traceback
    assert "block 3 (trial 3): ValueError: no such luck in trial 3" in str(caught.value)
    assert str(done).endswith(", 2 failed")
    # what was missing is done by the next run, and nothing else
    done = plan.run(workers=workers, progress=False)
    assert (done.blocks, done.computed, done.failed) == (5, 2, ())
    check(tmp_path / "out.h5", -LFP)
    assert calls(counts) == {"1": 3, "3": 3}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sources", ["trial", "task"])
@pytest.mark.parametrize(("dtype", "fill"), [("f4", np.nan), ("c8", np.nan), ("i2", 0)])
def test_gaps_are_published_if_asked_for(tmp_path, counts, workers, sources, dtype, fill):
    data = np.round(100 * LFP).astype(dtype)
    source = record(tmp_path / "rec.h5", data)
    plan = Plan.create(
        failing(counts, times=9), source, out=tmp_path / "out.h5", sources=sources, **FAILING
    )
    done = plan.run(workers=workers, gaps=True, progress=False)
    assert [f.trial for f in done.failed] == [1, 3]
    expected = -data
    expected[6:12] = expected[20:26] = fill
    for opened in (h5py.File(tmp_path / "out.h5"), hpcio.open(tmp_path / "out.h5")):
        with opened as f:
            assert f["data"].dtype == dtype
            np.testing.assert_array_equal(f["data"], expected)
            assert f["trials"]["done"].tolist() == [True, False, True, False, True]
            assert f["trials"]["first"].tolist() == [0, 6, 12, 20, 26]
    verified = hpcio.verify(tmp_path / "out.h5")
    assert (verified.blocks, verified.gaps) == (3, 2)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("gaps", [False, True])
def test_a_run_stops_when_too_many_blocks_have_failed(tmp_path, workers, gaps):
    data = np.arange(4000.0).reshape(-1, 1)
    plan = Plan.create(
        lambda trial: 1 / 0, record(tmp_path / "rec.h5", data), trials=4,
        out=tmp_path / "out.h5", out_shape=(4, 1), out_dtype="f8",
    )  # fmt: skip
    options = {"workers": workers, "gaps": gaps, "progress": False}
    with pytest.raises(BlocksFailed, match="not tried, since more than 20 had failed") as caught:
        plan.run(**options, max_failed=20)
    # A worker stops at 20 of its own; what others are at when one says so is finished.
    assert 21 <= len(caught.value.done.failed) <= 21 * max(1, workers)
    assert not (tmp_path / "out.h5").exists()  # what was not tried is no gap
    with pytest.raises(BlocksFailed, match="more than 100 had failed"):
        plan.run(**options)


def test_everything_may_be_a_gap(tmp_path, lfp):
    plan = Plan.create(
        lambda trial: 1 / 0, lfp, trials=TABLE, out=tmp_path / "out.h5",
        out_shape=lambda shape: shape, out_dtype="f8",
    )  # fmt: skip
    done = plan.run(workers=0, gaps=True, progress=False)
    assert len(done.failed) == 5
    with hpcio.open(tmp_path / "out.h5") as f:
        np.testing.assert_array_equal(f["data"], np.full((30, 4), np.nan))
        assert not f["trials"]["done"].any()


@pytest.mark.parametrize(
    ("func", "reason"),
    [
        (lambda x: x[: 6 - (x[0, 0] == LFP[6, 0])], r"shape \(5, 4\), but \(6, 4\) was planned"),
        (lambda x: x.astype("f4" if x[0, 0] == LFP[6, 0] else "f8"), "float32, but float64 was"),
        (lambda x: None if x[0, 0] == LFP[6, 0] else x, r"returned nothing \(None\)"),
    ],
)
def test_a_result_that_was_not_planned_is_a_failure(tmp_path, lfp, func, reason):
    plan = Plan.create(func, lfp, trials=6, out=tmp_path / "out.h5")
    with pytest.raises(BlocksFailed) as caught:
        plan.run(workers=0, progress=False)
    (failure,) = caught.value.done.failed
    assert failure.block == 1
    assert re.search(f"FunctionError: .*{reason}", failure.reason)


def test_a_function_that_cannot_be_loaded_is_said_at_once(tmp_path, lfp):
    (tmp_path / "work.py").write_text(WORK)
    plan = Plan.create(f"{tmp_path}/work.py:shifted", lfp, trials=6, out=tmp_path / "out.h5")
    (tmp_path / "work.py").write_text("import no_such_module\n")
    with pytest.raises(HpcioError, match="no_such_module"):
        plan.run(workers=2, progress=False)
    assert not (tmp_path / "out.h5").exists()


# ---- names and places ---------------------------------------------------------------------------

NAMES = [
    "with space", "it's", 'say "so"', "100%", "%b %d", "%%", "a::b", "zwölf µV 脳波", "$HOME;`ls`",
    "back\\slash", "-dash", "{braces}*[x]?", "new\nline", "tab\t", "~user", "#1&2",
]  # fmt: skip


@pytest.mark.parametrize(("sources", "workers"), [("trial", 0), ("task", 0), ("task", 2)])
@pytest.mark.parametrize("name", NAMES)
def test_files_and_folders_have_any_name(tmp_path, name, sources, workers):
    folder = tmp_path / name
    folder.mkdir()
    source = record(folder / f"{name}.h5")
    out = folder / f"{name} out.h5"
    run(np.negative, source, out, trials=[[0, 15], [15, 30]], sources=sources, workers=workers)
    check(out, -LFP)
    assert {p.name for p in folder.iterdir()} == {f"{name}.h5", out.name, f"{out.name}.run"}
    with hpcio.open(out) as f:
        assert f.attrs["source"] == str(folder / f"{name}.h5")


def test_names_may_be_relative(tmp_path, lfp, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    plan = Plan.create(np.negative, "../rec.h5::lfp", trials=6, out="out.h5")
    monkeypatch.chdir("/")
    plan.run(workers=2, progress=False)
    check(tmp_path / "here" / "out.h5", -LFP)
    monkeypatch.chdir(tmp_path / "here")
    check("out.h5", -LFP)


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_a_result_can_be_moved_with_its_folder(tmp_path, lfp, sources, monkeypatch):
    (tmp_path / "old").mkdir()
    run(np.negative, lfp, tmp_path / "old" / "out.h5", sources=sources)
    (tmp_path / "old").rename(tmp_path / "new 100%")
    check(tmp_path / "new 100%" / "out.h5", -LFP)
    monkeypatch.chdir(tmp_path / "new 100%")
    check("out.h5", -LFP)


def test_a_link_leads_to_the_result(tmp_path, lfp):
    (tmp_path / "results").mkdir()
    run(np.negative, lfp, tmp_path / "results" / "out.h5")
    (tmp_path / "latest.h5").symlink_to("results/out.h5")
    check(tmp_path / "latest.h5", -LFP)


def test_a_folder_may_be_a_link(tmp_path, lfp):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "work").symlink_to("scratch")
    run(np.negative, lfp, tmp_path / "work" / "out.h5", workers=2)
    check(tmp_path / "work" / "out.h5", -LFP)
    check(tmp_path / "scratch" / "out.h5", -LFP)


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_a_result_without_its_folder_is_not_opened(tmp_path, lfp, sources):
    run(np.negative, lfp, tmp_path / "out.h5", sources=sources)
    (tmp_path / "out.h5.run").rename(tmp_path / "lost")
    with pytest.raises(ResultError, match=r"out\.h5\.run/sources/.*cannot be read"):
        hpcio.open(tmp_path / "out.h5")


def test_an_output_that_appears_meanwhile_is_not_touched(tmp_path, lfp):
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    (tmp_path / "out.h5").write_text("precious")
    with pytest.raises(OutputError, match="not the result of this plan"):
        plan.run(workers=0, progress=False)
    assert (tmp_path / "out.h5").read_text() == "precious"


def test_another_plan_does_not_continue_a_run(tmp_path, lfp):
    def broken(trial):
        raise ValueError

    shape = {"out_shape": (6, 4), "out_dtype": "f8", "trials": 6, "out": tmp_path / "out.h5"}
    with pytest.raises(BlocksFailed):
        Plan.create(broken, lfp, **shape).run(workers=0, progress=False)
    mended = Plan.create(np.negative, lfp, **shape)
    with pytest.raises(PlanError, match="belongs to another plan"):
        mended.run(workers=0, progress=False)
    mended.run(workers=0, progress=False, fresh=True)
    check(tmp_path / "out.h5", -LFP)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_recording_that_changes_is_noticed(tmp_path, lfp, workers):
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    with h5py.File(tmp_path / "rec.h5", "a") as f:
        f["more"] = 1
    with pytest.raises(hpcio.errors.SourceError, match="has changed since the plan was made"):
        plan.run(workers=workers, progress=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_another_dataset_in_a_file_of_the_same_size_and_time_is_noticed(tmp_path, lfp, workers):
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    time_ns = os.stat(tmp_path / "rec.h5").st_mtime_ns
    record(tmp_path / "rec.h5", LFP.reshape(60, 2))
    os.utime(tmp_path / "rec.h5", ns=(time_ns, time_ns))
    with pytest.raises(SourceError, match="is not what the plan was made for"):
        plan.run(workers=workers, progress=False)


def test_a_function_that_changes_is_noticed(tmp_path, lfp):
    (tmp_path / "work.py").write_text(WORK)
    plan = Plan.create(f"{tmp_path}/work.py:shifted", lfp, trials=6, out=tmp_path / "out.h5")
    (tmp_path / "work.py").write_text(WORK.replace("trial + SHIFT", "trial - 2 * SHIFT"))
    with pytest.raises(HpcioError, match="'work:shifted' has changed since the plan was made"):
        plan.run(workers=1, progress=False)
    # This process has the function that was planned.
    assert plan.run(workers=0, progress=False).computed == 5


def test_what_makes_no_sense_is_refused(tmp_path, lfp):
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    for options in ({"workers": -1}, {"threads": 0}):
        with pytest.raises(hpcio.errors.WorkerError, match="makes no sense"):
            plan.run(progress=False, **options)
    assert not plan.run_directory.exists()


def test_a_masked_result_is_refused_when_planned(tmp_path, lfp):
    with pytest.raises(FunctionError, match=r"result\.filled"):
        run(lambda x: np.ma.masked_less(x, 0), lfp, tmp_path / "out.h5")
