"""Averages over trials: exact, and the same bits however the run goes."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcio
import slurm as slurm_side
from hpcio.errors import BlocksFailed, OptionError, ResultError, TrialError
from hpcio.journals.ledger import Ledger
from hpcio.journals.rundir import prepare
from hpcio.layout.averages import Average
from hpcio.layout.states import Moments, combine
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.writers.backend import WRITERS
from tests.rigs.bench import Bench
from tests.rigs.everyday import combinations
from tests.rigs.waiting import PATIENCE

Array = np.ndarray
REDUCE = ["mean", "sum", "var", "min", "max", "count"]


def recording(folder: Path, data: Array) -> str:
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = data
    return f"{folder}/rec.h5::lfp"


def average(folder: Path, data: Array, func: Any = np.copy, **options: Any) -> Array:
    """The result of a run, as plain h5py reads it."""
    run = {k: options.pop(k) for k in ("workers", "gaps", "retries") if k in options}
    out = folder / options.pop("name", "out.h5")
    plan = hpcio.Plan.create(
        func, recording(folder, data), out=out, keeptrials=False, **options
    )  # fmt: skip
    plan.run(**{"workers": 0, "progress": False, **run})
    hpcio.verify(out)
    with h5py.File(out) as f:
        found: Array = f["data"][...]
        assert f["data"].attrs["reduce"] == options.get("reduce", "mean")
    return found


def numpys(reduce: str, stack: Array) -> Array:
    if reduce == "count":
        count: Array = (~np.isnan(stack)).sum(axis=0)
        return count
    kind = np.complex128 if stack.dtype.kind == "c" else np.float64
    found: Array = getattr(np, reduce)(stack.astype(kind), axis=0)
    return found


@pytest.mark.parametrize("reduce", REDUCE)
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "i1", "<u2", ">i4", "?", "<c8", "<c16"])
def test_every_type_and_kind(tmp_path, dtype, reduce):
    rng = np.random.default_rng(1)
    data = (100 * rng.normal(size=(60, 3))).astype(dtype)
    if np.dtype(dtype).kind == "c":
        if reduce in ("min", "max"):
            with pytest.raises(OptionError, match="of complex numbers"):
                average(tmp_path, data, trials=6, reduce=reduce)
            return
        data = (data + 1j * rng.normal(size=data.shape)).astype(dtype)
    found = average(tmp_path, data, trials=6, reduce=reduce)
    expected = numpys(reduce, data.reshape(10, 6, 3))
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("writer", ["virtual", "direct", "mutex", "mpi"])
def test_every_writer_gives_the_same(tmp_path, writer):
    if writer not in WRITERS.names():
        pytest.skip("no such writer")
    data = np.random.default_rng(1).normal(size=(60, 3))
    found = average(tmp_path, data, trials=6, writer=writer)
    np.testing.assert_allclose(found, data.reshape(10, 6, 3).mean(axis=0), rtol=1e-14)


def test_channel_blocks_and_axes(tmp_path):
    data = np.random.default_rng(1).normal(size=(60, 5)).astype("f4")
    found = average(tmp_path, data, trials=6, channels_per_block=2, workers=2,
                    axes={"time": np.arange(6), "channel": list("abcde")})  # fmt: skip
    np.testing.assert_allclose(found, numpys("mean", data.reshape(10, 6, 5)), rtol=1e-14)
    hpcio.repack(tmp_path / "out.h5")
    with hpcio.open(tmp_path / "out.h5") as f:
        assert [d.label for d in f["data"].dims] == ["time", "channel"]
        assert f["data"].attrs["trials"] == 10
        assert f["trials"]["done"].all()
        assert f["trials"]["last"].tolist() == [5] * 10


def total(trial: Array) -> Array:
    found: Array = trial.sum(axis=0)
    return found


def scalar(trial: Array) -> Any:
    return trial.max()


def test_results_of_fewer_axes(tmp_path):
    data = np.random.default_rng(1).normal(size=(60, 3))
    found = average(tmp_path, data, total, trials=6, out_shape=(3,), out_dtype="f8")
    np.testing.assert_allclose(found, data.reshape(10, 6, 3).sum(axis=1).mean(axis=0), rtol=1e-13)
    found = average(
        tmp_path, data, scalar, trials=6, name="scalar.h5", out_shape=(), out_dtype="f8"
    )
    assert found.shape == (1,)
    np.testing.assert_allclose(found[0], data.reshape(10, -1).max(axis=1).mean(), rtol=1e-14)


@pytest.mark.parametrize("reduce", ["min", "max", "count"])
def test_what_is_not_a_number(tmp_path, reduce):
    """It is the least and the largest, as for numpy, and is not counted."""
    data = np.random.default_rng(1).normal(size=(60, 3))
    data[7, 1] = data[20, 2] = np.nan
    found = average(tmp_path, data, trials=6, reduce=reduce)
    np.testing.assert_array_equal(found, numpys(reduce, data.reshape(10, 6, 3)))


# ---------------------------------------------------------------------- by condition


def conditions(count: int) -> hpcio.Trials:
    kind = np.array(["house", "face", "tool"])[np.arange(count) % 3]
    return hpcio.Trials.equal(1, rows=count).with_columns(kind=kind, side=np.arange(count) % 2)


@pytest.mark.parametrize(
    ("reduce", "workers", "writer"),
    combinations(
        REDUCE, [0, 1, 3], ["virtual", "direct", "mutex"],
        everyday=[("mean", 3, "virtual"), ("var", 1, "direct"), ("max", 0, "mutex"),
                  ("count", 1, "virtual"), ("sum", 3, "direct"), ("min", 0, "direct")],
    ),
)  # fmt: skip
def test_by_one_column(tmp_path, reduce, workers, writer):
    data = noisy(tmp_path)
    found = average(
        tmp_path, data, trials=conditions(len(data)), reduce=reduce, by="kind", workers=workers,
        writer=writer, channels_per_block=3,
    )  # fmt: skip
    here = average(
        tmp_path, data, trials=conditions(len(data)), reduce=reduce, by="kind", name="here.h5",
        channels_per_block=3,
    )  # fmt: skip
    assert found.tobytes() == here.tobytes()
    kind = conditions(len(data))["kind"]
    for k, name in enumerate(["face", "house", "tool"]):
        np.testing.assert_allclose(found[k, 0], numpys(reduce, data[kind == name]), rtol=1e-12)
    with hpcio.open(tmp_path / "out.h5") as f:
        assert f["data"].dims[0].label == "kind"
        assert f["kind"].asstr()[()].tolist() == ["face", "house", "tool"]
        assert f["count"][()].tolist() == [433, 434, 433]
        assert f["trial_kind"].asstr()[:4].tolist() == kind[:4].tolist()
        assert f["trials"]["first"][:4].tolist() == [1, 0, 2, 1]


def test_by_two_columns_of_which_not_all_pairs_are_there(tmp_path):
    data = noisy(tmp_path, 60)
    trials = conditions(60).where(kind=["face", "house"])
    trials = trials.select(trials=~((trials["kind"] == "face") & (trials["side"] == 1)))
    found = average(tmp_path, data, trials=trials, by=["kind", "side"], workers=2)
    pairs = [("face", 0), ("house", 0), ("house", 1)]
    for k, (kind, side) in enumerate(pairs):
        rows = trials.where(kind=kind, side=side).start
        np.testing.assert_allclose(found[k, 0], data[rows].mean(axis=0), rtol=1e-12)
    hpcio.repack(tmp_path / "out.h5")
    hpcio.verify(tmp_path / "out.h5")
    with hpcio.open(tmp_path / "out.h5") as f:
        assert f["data"].dims[0].label == "kind_side"
        assert f["data"].attrs["coordinates"] == "count kind side"
        assert len(f["count"]) == 3


def test_gaps_are_counted_in_their_condition(tmp_path):
    data = noisy(tmp_path)
    found = average(
        tmp_path, data, fails_for_some, trials=conditions(len(data)), by="kind", gaps=True,
        out_shape=(1, 4), out_dtype="f8", workers=2,
    )  # fmt: skip
    kind = conditions(len(data))["kind"]
    kept = ~np.isin(np.arange(len(data)), (7, 500, 1299))
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["count"][()].tolist() == [
            int((kept & (kind == name)).sum()) for name in ("face", "house", "tool")
        ]
    for k, name in enumerate(["face", "house", "tool"]):
        wanted = data[kept & (kind == name)].mean(axis=0)
        np.testing.assert_allclose(found[k, 0], wanted, rtol=1e-12)


def test_conditions_that_cannot_be(tmp_path):
    data = noisy(tmp_path, 12)
    trials = conditions(12).with_columns(rt=[np.nan] + [0.5] * 11)
    with pytest.raises(TrialError, match=r"no column 'sort' to average by\. They have kind"):
        average(tmp_path, data, trials=trials, by="sort")
    with pytest.raises(TrialError, match="no column 'start' to average by"):
        average(tmp_path, data, trials=trials, by="start")
    with pytest.raises(TrialError, match=r"Trial 0 has no 'rt'.*trials\.where"):
        average(tmp_path, data, trials=trials, by="rt")
    with pytest.raises(OptionError, match="goes with averages: say keeptrials=False"):
        hpcio.Plan.create(
            np.copy, f"{tmp_path}/rec.h5::lfp", trials=trials, by="kind", out=tmp_path / "a.h5"
        )


# ---------------------------------------------------------------------- how exact


def test_the_mean_of_4000_trials_is_exact_to_a_millionth(tmp_path):
    """Where the same mean, added up in the type of the trials, errs by far more."""
    data = (1000 + np.random.default_rng(1).normal(size=(4000, 50))).astype("f4")
    found = average(tmp_path, data, trials=1)[0]
    exact = [Fraction(0)] * data.shape[1]
    for row in data.tolist():
        exact = [total + Fraction(x) for total, x in zip(exact, row, strict=True)]
    truth = np.asarray([float(total / len(data)) for total in exact])
    assert np.abs(found - truth).max() < 1e-6 * 1e-3
    naive = np.zeros(data.shape[1], "f4")
    for row in data:
        naive += row
    assert np.abs(naive / len(data) - truth).max() > 1e-4


def test_the_variance_does_not_cancel(tmp_path):
    data = 1e8 + np.random.default_rng(1).normal(size=(2000, 4))
    found = average(tmp_path, data, trials=1, reduce="var")[0]
    truth = [
        float(sum((Fraction(x) - m) ** 2 for x in column) / len(column))
        for column in data.T.tolist()
        for m in [sum(map(Fraction, column)) / len(column)]
    ]
    np.testing.assert_allclose(found, truth, rtol=1e-7)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_joined_moments_are_those_of_all(values, size):
    for what in REDUCE:
        kind = Average(what, size, 1, np.dtype("f8"))
        parts = []
        for k in range(0, len(values), size):
            parts.append(Moments(kind, ()))
            for value in values[k : k + size]:
                parts[-1].add(np.asarray(value))
        numpys = {
            "mean": np.mean, "sum": math.fsum, "var": np.var, "min": min, "max": max, "count": len
        }  # fmt: skip
        expected = numpys[what](values)
        scale = max(map(abs, values)) ** (2 if what == "var" else 1)
        found = combine(kind, (), iter(parts))
        assert abs(found - expected) <= 1e-12 * max(scale, 1) * len(values)


# ---------------------------------------------------------------------- the same bits


@pytest.mark.parametrize(
    ("reduce", "workers"),
    combinations(
        REDUCE,
        [1, 2, 5],
        everyday=[
            ("mean", 5),
            ("sum", 1),
            ("var", 2),
            ("min", 2),
            ("max", 1),
            ("count", 5),
        ],
    ),
)
def test_the_same_bits_for_any_number_of_workers(tmp_path, reduce, workers):
    data = (1e3 * np.random.default_rng(1).normal(size=(3000, 7))).astype("f4")
    options = {"trials": 1, "reduce": reduce}
    here = average(tmp_path, data, **options, name="here.h5")
    found = average(tmp_path, data, **options, workers=workers)
    assert found.tobytes() == here.tobytes()


def noisy(folder: Path, trials: int = 1300) -> Array:
    """Trials that begin with their number."""
    data = 1e3 * np.random.default_rng(1).normal(size=(trials, 4))
    data[:, 0] = np.arange(trials)
    return data


@pytest.mark.parametrize("by", [None, "kind"])
def test_failed_and_repeated_blocks_change_no_bit(tmp_path, by):
    data = noisy(tmp_path)
    trials = conditions(len(data))
    (tmp_path / "work.py").write_text(
        "import os\n"
        "def func(trial):\n"
        "    k = int(trial[0, 0])\n"
        "    if k in (7, 500, 1299) and not os.path.exists(f'mended-{k}'):\n"
        "        open(f'mended-{k}', 'w').close()\n"
        "        raise ValueError('sick')\n"
        "    return trial\n"
    )
    plain = average(tmp_path, data, trials=trials, by=by, name="plain.h5")
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        func = f"{tmp_path}/work.py:func"
        options: dict[str, Any] = {
            "out_shape": (1, 4), "out_dtype": "f8", "trials": trials, "by": by
        }  # fmt: skip
        for name, run in {"retried": {"retries": 1}, "resumed": {}}.items():
            for path in tmp_path.glob("mended-*"):
                path.unlink()
            plan = hpcio.Plan.create(
                func, f"{tmp_path}/rec.h5::lfp", out=tmp_path / f"{name}.h5", keeptrials=False,
                **options,
            )  # fmt: skip
            if not run:
                with pytest.raises(BlocksFailed, match="3 of 1,300 trials failed"):
                    plan.run(workers=2, progress=False)
                # Only the groups of these three.
                assert Ledger.read(plan).missing().size == 3 * plan.average.stretches[0][1] - (
                    -len(plan) % plan.average.stretches[0][1]
                )
            done = plan.run(workers=2, progress=False, **run)
            assert done.blocks == len(data)
            with h5py.File(plan.out) as f:
                assert f["data"][...].tobytes() == plain.tobytes()
    finally:
        os.chdir(here)


def fails_for_some(trial: Array) -> Array:
    if trial[0, 0] in (7, 500, 1299):
        raise ValueError("sick")
    return trial


def test_with_gaps_the_average_is_of_the_others(tmp_path):
    data = noisy(tmp_path)
    found = average(tmp_path, data, fails_for_some, trials=1, gaps=True, out_shape=(1, 4),
                    out_dtype="f8", workers=2)  # fmt: skip
    others = np.delete(data, (7, 500, 1299), axis=0)
    np.testing.assert_allclose(found[0], others.mean(axis=0), rtol=1e-12)
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["data"].attrs["trials"] == 1297
        assert np.flatnonzero(~f["trials"]["done"]).tolist() == [7, 500, 1299]


def test_killed_and_resumed(tmp_path):
    """Killed in the middle of a group: its blocks are computed again, all others kept."""
    bench = Bench(tmp_path, trials=1100, keeptrials=False)
    plan = bench.plan(out=tmp_path / "whole.h5")
    assert plan.average.stretches[0][1] == 3
    plan.run(workers=0, progress=False)
    bench.forget_calls()
    bench.kill_in(604, workers=2)
    before = set(bench.calls)
    plan = bench.plan()
    kept = set(np.flatnonzero(Ledger.read(plan).done).tolist())
    assert kept <= before
    assert not {603, 604, 605} & kept
    assert len(before - kept) <= 2 * plan.average.stretches[0][1]
    bench.forget_calls()
    plan.run(workers=2, progress=False)
    assert set(bench.calls) == set(range(1100)) - kept
    with h5py.File(bench.out) as f, h5py.File(tmp_path / "whole.h5") as g:
        assert f["data"][...].tobytes() == g["data"][...].tobytes()


def test_a_block_that_kills_its_worker_is_the_one_that_is_named(tmp_path):
    """Not the first of its group, whose results were lost with it."""
    data = noisy(tmp_path)
    (tmp_path / "work.py").write_text(
        "import os\n"
        "def func(trial):\n"
        "    if trial[0, 0] == 604:\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return trial\n"
    )
    plan = hpcio.Plan.create(
        f"{tmp_path}/work.py:func", recording(tmp_path, data), trials=1, out=tmp_path / "out.h5",
        keeptrials=False, out_shape=(1, 4), out_dtype="f8",
    )  # fmt: skip
    done = plan.run(workers=2, gaps=True, progress=False)
    assert [f.block for f in done.failed] == [604]
    with h5py.File(plan.out) as f:
        np.testing.assert_allclose(
            f["data"][0], np.delete(data, 604, axis=0).mean(axis=0), rtol=1e-12
        )


def test_a_damaged_sum_is_found(tmp_path):
    data = noisy(tmp_path)
    plan = prepare(
        hpcio.Plan.create(
            np.copy,
            recording(tmp_path, data),
            trials=1,
            out=tmp_path / "out.h5",
            keeptrials=False,
        )
    )
    with Attempt(plan, "here") as attempt:
        run_batch(attempt, np.arange(len(plan)))
        attempt.sync()
    (path,) = (plan.run_directory / "sources").glob("*.sums")
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(ResultError, match=r"is not what was written\. Remove that file"):
        plan.run(workers=0, progress=False)
    path.unlink()
    assert plan.run(workers=0, progress=False).computed == len(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The average of `noisy` trials by a single attempt."""
    folder = tmp_path_factory.mktemp("whole")
    return average(folder, noisy(folder), trials=1).tobytes()


@given(st.data())
@settings(max_examples=12, deadline=None)
def test_whichever_attempts_did_which_chunks(tmp_path_factory, whole, data):
    """Attempts that stop anywhere, twice and thrice the same, in any order: the same bits."""
    folder = tmp_path_factory.mktemp("any")
    values = noisy(folder)
    plan = prepare(
        hpcio.Plan.create(
            np.copy, recording(folder, values), trials=1, out=folder / "out.h5", keeptrials=False
        )
    )
    units = -(-len(plan) // plan.average.stretches[0][1])
    for k in range(data.draw(st.integers(1, 4))):
        first = data.draw(st.integers(0, units - 1))
        last = data.draw(st.integers(first + 1, units))
        with Attempt(plan, f"a{k}") as attempt:
            stop = data.draw(st.integers(1, len(plan)))
            attempt.until = stop  # in the middle of a group
            run_batch(
                attempt,
                np.arange(
                    first * plan.average.stretches[0][1],
                    min(last * plan.average.stretches[0][1], len(plan)),
                ),
            )
            attempt.sync()
    plan.run(workers=0, progress=False)
    with h5py.File(plan.out) as f:
        assert f["data"][...].tobytes() == whole


# ---------------------------------------------------------------------- elsewhere


def elsewhere(folder: Path, name: str) -> hpcio.Plan:
    return hpcio.Plan.create(
        np.copy, f"{folder}/rec.h5::lfp", trials=1, out=folder / name, keeptrials=False,
        reduce="var",
    )  # fmt: skip


@pytest.mark.slurm
@pytest.mark.parametrize("numbers", [(1, 7), pytest.param((1, 7, 40), marks=pytest.mark.torture)])
def test_the_same_bits_for_any_number_of_array_tasks(slurm, tmp_path, monkeypatch, numbers):
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "no.toml"))
    recording(tmp_path, noisy(tmp_path))
    found = {}
    runs = {}
    for tasks in numbers:
        plan = elsewhere(tmp_path, f"{tasks}.h5")
        runs[tasks] = slurm_side.submit(plan, tasks=tasks, memory="300MB", walltime="00:30:00")
    elsewhere(tmp_path, "here.h5").run(workers=2, progress=False)
    for tasks, run in runs.items():
        run.wait(timeout=PATIENCE)
        with run.result() as f:
            found[tasks] = f["data"][...].tobytes()
    with h5py.File(tmp_path / "here.h5") as f:
        found[0] = f["data"][...].tobytes()
    assert len(set(found.values())) == 1


def test_the_same_bits_through_dask_with_a_worker_that_dies(tmp_path):
    values = noisy(tmp_path)
    recording(tmp_path, values)
    elsewhere(tmp_path, "here.h5").run(workers=0, progress=False)
    (tmp_path / "work.py").write_text(
        "import os\n"
        "def func(trial):\n"
        f"    here = {str(tmp_path)!r}\n"
        "    if trial[0, 0] == 604 and not os.path.exists(f'{here}/died'):\n"
        "        open(f'{here}/died', 'w').close()\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return trial\n"
    )
    plan = hpcio.Plan.create(
        f"{tmp_path}/work.py:func", f"{tmp_path}/rec.h5::lfp", trials=1, out=tmp_path / "out.h5",
        keeptrials=False, reduce="var", out_shape=(1, 4), out_dtype="f8",
    )  # fmt: skip
    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as there, Client(there) as c:
        slurm_side.run(plan, c, progress=False)
    assert (tmp_path / "died").exists()
    with h5py.File(tmp_path / "here.h5") as f, h5py.File(plan.out) as g:
        assert f["data"][...].tobytes() == g["data"][...].tobytes()
