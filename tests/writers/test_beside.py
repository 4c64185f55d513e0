"""Averages beside results of trials: some of several results of a call are averaged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from distributed import Client, LocalCluster

import hpcio
import slurm as slurm_side
from hpcio.errors import BlocksFailed, ResultError
from hpcio.journals.journal import DONE
from hpcio.journals.ledger import Ledger, read_logs
from hpcio.journals.rundir import prepare
from hpcio.layout import averages
from hpcio.onefile import direct
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.status import status
from hpcio.writers.backend import backend_of, trusted_ledger

TRIALS, ROWS, CHANNELS = 40, 6, 4
DATA = np.random.default_rng(5).normal(size=(TRIALS * ROWS, CHANNELS))
EACH = DATA.reshape(TRIALS, ROWS, CHANNELS)
KIND = np.arange(TRIALS) % 3
POWER, WAVE = EACH**2, EACH[:, :4]
PEAK = EACH.argmax(axis=1).astype("i4")
HIGH = (EACH.max(axis=(1, 2)) > 2).astype("u1")
WAYS = [{"writer": "virtual"}, {"writer": "direct"}]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way.values()))
SICK = float(EACH[17, 0, 0])
CODE = f"""
import os, signal

def measured(trial):
    mark = os.environ.get("MARK", "")
    if trial[0, 0] == {SICK!r} and os.path.exists(mark):
        os.unlink(mark)
        os.kill(os.getpid(), signal.SIGKILL)
    return {{"high": (trial.max() > 2).astype("u1"), "power": trial**2, "wave": trial[:4],
            "peak": trial.argmax(axis=0).astype("i4")}}
"""


def measured(trial, chunkShape=None, noCompute=None):
    """What is averaged lies behind one byte in the record, so that it is not aligned."""
    if noCompute:
        n = trial.shape[1]
        return {"high": ((), "u1"), "power": (trial.shape, "f8"), "wave": ((4, n), "f8"),
                "peak": ((n,), "i4")}  # fmt: skip
    return {"high": (trial.max() > 2).astype("u1"), "power": trial**2, "wave": trial[:4],
            "peak": trial.argmax(axis=0).astype("i4")}  # fmt: skip


def power(trial, chunkShape=None, noCompute=None):
    return measured(trial, noCompute=noCompute)["power"]


def wave(trial, chunkShape=None, noCompute=None):
    return measured(trial, noCompute=noCompute)["wave"]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plans a run whose averages have groups of five trials."""
    monkeypatch.setattr(averages, "MOST_GROUPS", 8)
    monkeypatch.setattr(averages, "FEWEST_GROUPS", 8)
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = DATA
        f["trials/start"] = np.arange(0, TRIALS * ROWS, ROWS)
        f["trials/stop"] = np.arange(ROWS, (TRIALS + 1) * ROWS, ROWS)
        f["trials/kind"] = KIND

    def make(func: Any = measured, **options: Any) -> hpcio.Plan:
        trials = hpcio.Trials.equal(ROWS, rows=len(DATA)).with_columns(kind=KIND)
        given = {"reduce": {"power": "mean"}, "join": {"peak": "stack"}, **options}
        named = {"trials": trials, "out": tmp_path / "out.h5", **given}
        return hpcio.Plan.create(func, f"{tmp_path}/rec.h5::lfp", **named)

    return make


def run(plan: hpcio.Plan, **options: Any) -> hpcio.Plan:
    plan.run(**{"workers": 0, "progress": False, **options})
    return plan


def check(out: str | Path, *, gaps: tuple[int, ...] = (), by: bool = False) -> None:
    """The mean is that of plain numpy over trials that are no gaps; the rest is each trial's."""
    there = np.delete(np.arange(TRIALS), gaps)
    peak, wave = PEAK.copy(), WAVE.reshape(-1, CHANNELS).copy()
    peak[[*gaps]] = 0
    wave.reshape(TRIALS, 4, -1)[[*gaps]] = np.nan
    mean = POWER[there].mean(axis=0)
    if by:
        mean = np.stack([POWER[there[KIND[there] == k]].mean(axis=0) for k in range(3)])
    with hpcio.open(out) as f:
        assert json.loads(f.attrs["results"]) == ["high", "power", "wave", "peak"]
        np.testing.assert_allclose(f["power"][()], mean, rtol=1e-13)
        assert f["power"].attrs["reduce"] == "mean"
        assert f["power"].attrs["trials"] == len(there)
        np.testing.assert_array_equal(f["peak"][()], peak)
        np.testing.assert_array_equal(f["wave"][()], wave)
        assert "reduce" not in f["peak"].attrs
        assert f["trials"]["first"].tolist() == list(range(0, 4 * TRIALS, 4))
        assert np.flatnonzero(~f["trials"]["done"]).tolist() == list(gaps)
        if by:
            assert f["count"][()].tolist() == np.bincount(KIND[there]).tolist()
            assert f["power"].attrs["coordinates"] == "count"
            assert f["kind"][()].tolist() == [0, 1, 2]
    checked = hpcio.verify(out)
    assert (checked.blocks, checked.gaps) == (len(there), len(gaps))
    assert checked.nbytes == len(there) * (4 * CHANNELS * 8 + CHANNELS * 4 + 1) + mean.nbytes


def bits(out: str | Path, name: str) -> bytes:
    with hpcio.open(out) as f:
        found: bytes = f[name][()].tobytes()
    return found


@ways
@pytest.mark.parametrize("by", [None, "kind"])
def test_those_that_are_named_are_averaged_and_the_others_kept(plan, way, by):
    check(run(plan(by=by, **way)).out, by=by is not None)


@pytest.mark.parametrize("by", [None, "kind"])
@pytest.mark.parametrize("reduce", ["mean", "sum", "var", "min", "max", "count", "cov"])
def test_the_bits_are_those_of_a_plan_of_that_result_alone(plan, tmp_path, reduce, by):
    both = run(plan(reduce={"power": reduce, "wave": reduce}, by=by))
    for name, func in {"power": power, "wave": wave}.items():
        alone = run(plan(func, out=tmp_path / f"{name}.h5", keeptrials=False, reduce=reduce,
                         join="concatenate", by=by))  # fmt: skip
        assert bits(both.out, name) == bits(alone.out, "data")
        with hpcio.open(both.out) as f, hpcio.open(alone.out) as g:
            assert f[name].dtype == g["data"].dtype
            assert [d.label for d in f[name].dims] == [d.label for d in g["data"].dims]


def test_the_bits_are_the_same_for_any_number_of_workers(plan, tmp_path):
    options = {"reduce": {"power": "var", "high": "sum"}, "by": "kind"}
    whole = run(plan(**options, out=tmp_path / "whole.h5"))
    spread = run(plan(**options), workers=2)
    for name in ("power", "high", "peak", "wave"):
        assert bits(whole.out, name) == bits(spread.out, name)
    np.testing.assert_array_equal(
        np.frombuffer(bits(spread.out, "high")), np.bincount(KIND, weights=HIGH)
    )


@pytest.mark.parametrize("way", [{}, {"writer": "mutex"}], ids=["virtual", "mutex"])
def test_all_may_be_averaged(plan, way):
    made = run(plan(keeptrials=False, reduce=None, join="concatenate", **way))
    with hpcio.open(made.out) as f:
        for name, values in {"high": HIGH, "power": POWER, "wave": WAVE, "peak": PEAK}.items():
            mean = values.mean(axis=0).reshape(f[name].shape)
            np.testing.assert_allclose(f[name][()], mean, rtol=1e-13)
        assert f["trials"]["done"].all()
    checked = hpcio.verify(made.out)
    assert (checked.blocks, checked.nbytes) == (TRIALS, 8 * (1 + 24 + 16 + 4))
    assert run(plan(keeptrials=False, reduce=None, join="concatenate", **way)).out == made.out
    assert status(made.out).done == TRIALS


def test_blocks_of_channels_are_averaged_side_by_side(plan):
    made = run(plan(channels_per_block=3, reduce={"power": "mean"}, join="concatenate",
                    func=lambda trial: {"power": trial**2, "wave": trial}))  # fmt: skip
    with hpcio.open(made.out) as f:
        np.testing.assert_allclose(f["power"][()], POWER.mean(axis=0), rtol=1e-13)
        np.testing.assert_array_equal(f["wave"][()], DATA)
        assert f["power"].attrs["trials"] == TRIALS
    checked = hpcio.verify(made.out)
    assert (checked.blocks, checked.counted) == (2 * TRIALS, "block")


# ---------------------------------------------------------------------- what goes wrong


@ways
def test_a_failed_trial_is_in_no_average(plan, way):
    def failing(trial, chunkShape=None, noCompute=None):
        if not noCompute and trial[0, 0] in (EACH[7, 0, 0], EACH[39, 0, 0]):
            raise ValueError("no")
        return measured(trial, noCompute=noCompute)

    made = plan(failing, by="kind", **way)
    with pytest.raises(BlocksFailed, match="2 of 40 trials failed"):
        run(made)
    check(run(made, gaps=True).out, gaps=(7, 39), by=True)


@ways
def test_a_block_is_done_when_the_sums_of_its_group_are_written(plan, way):
    calls = []

    def noted(trial, chunkShape=None, noCompute=None):
        if not noCompute:
            calls.append(int(np.flatnonzero(EACH[:, 0, 0] == trial[0, 0])[0]))
        return measured(trial, noCompute=noCompute)

    made = prepare(plan(noted, **way))
    backend_of(made).reserve(made)
    with Attempt(made, "here") as attempt:
        attempt.limit_to(13)  # in the middle of the third group
        run_batch(attempt, np.arange(20))
    assert np.flatnonzero(trusted_ledger(made).done).tolist() == list(range(10))
    calls.clear()
    run(made)
    assert calls == list(range(10, 40))
    check(made.out)


@ways
@pytest.mark.parametrize("seed", range(2))
def test_whichever_attempts_did_which_groups(plan, tmp_path, way, seed):
    whole = run(plan(by="kind", reduce={"power": "var"}, out=tmp_path / "whole.h5"))
    rng = np.random.default_rng(seed)
    made = prepare(plan(by="kind", reduce={"power": "var"}, **way))
    backend_of(made).reserve(made)
    for k in range(4):
        first, last = sorted(5 * rng.choice(9, 2, replace=False))
        with Attempt(made, f"a{k}") as attempt:
            attempt.limit_to(int(rng.integers(first, last + 5)))  # perhaps in the middle of a group
            run_batch(attempt, np.arange(first, last))
            if rng.integers(2):
                attempt.sync()
    for path in made.rundir.path.glob("sources/*.sums"):
        if rng.integers(3) == 0:
            path.unlink()
    run(made)
    for name in ("power", "peak", "wave", "high"):
        assert bits(made.out, name) == bits(whole.out, name)
    hpcio.verify(made.out)


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@ways
def test_a_block_counts_if_what_is_kept_and_its_sum_are_there(plan, way):
    made = prepare(plan(**way))
    backend_of(made).reserve(made)
    with Attempt(made, "here") as attempt:
        run_batch(attempt, np.arange(10))
    (log,) = read_logs(made)
    assert (log.records["kind"] == DONE).sum() == 10
    (sums,) = made.rundir.path.glob("sources/*.sums")
    flip(sums)  # of the second group
    assert np.flatnonzero(trusted_ledger(made).done).tolist() == list(range(5))
    flip(sums)
    with backend_of(made).open_reader(made, log) as stored:
        (record,) = log.records[(log.records["block"] == 3) & (log.records["kind"] == DONE)]
        assert stored.intact(record)
    sources = sorted(made.rundir.path.rglob("*.h5"))
    damaged = next(path for path in sources if path.name != "plan.h5" and DATA_OF_3 in raw(path))
    flip(damaged, raw(damaged).index(DATA_OF_3))
    assert np.flatnonzero(~trusted_ledger(made).done)[0] == 3
    assert trusted_ledger(made).missing().tolist() == [*range(5), *range(10, 40)]
    run(made)
    check(made.out)
    sums.unlink()
    assert not trusted_ledger(made).done[5:10].any()


DATA_OF_3 = WAVE[3].tobytes()


def raw(path: Path) -> bytes:
    return path.read_bytes()


@ways
@pytest.mark.parametrize("name", ["power", "wave", "peak"])
def test_a_flipped_byte_is_found_in_what_is_kept_and_in_averages(plan, way, name):
    made = run(plan(**way))
    with h5py.File(made.out) as f:
        path, inside = made.out, name
        if f[name].is_virtual:
            folder = os.path.dirname(made.out)
            path = os.path.join(folder, f[name].virtual_sources()[-1].file_name)
    with h5py.File(path) as f:
        last = f[inside].id.get_offset() + f[inside].nbytes - 1
    flip(Path(path), last)
    said = "average 'power' differs" if name == "power" else f"Block 39 .*of '{name}'"
    with pytest.raises(ResultError, match=said):
        hpcio.verify(made.out)


def test_direct_on_a_shared_file_system_holds_nothing_back_for_longer_than_a_group(
    plan, monkeypatch
):
    monkeypatch.setattr(direct, "is_local", lambda _: False)
    made = prepare(plan(writer="direct"))
    backend_of(made).reserve(made)
    with Attempt(made, "here") as attempt:
        attempt.limit_to(12)
        run_batch(attempt, np.arange(20))
    assert np.flatnonzero(Ledger.read(made).done).tolist() == list(range(10))
    check(run(made).out)


@ways
def test_a_group_that_was_left_is_computed_again_by_the_same_attempt(plan, way):
    made = prepare(plan(**way))
    backend_of(made).reserve(made)
    with Attempt(made, "here") as attempt:
        attempt.limit_to(7)  # others have been given the rest, and have died
        run_batch(attempt, np.arange(20))
        attempt.limit_to(TRIALS)
        run_batch(attempt, np.arange(5, TRIALS))
        attempt.sync()
    assert trusted_ledger(made).done.all()
    assert made.run(workers=0, progress=False).computed == 0
    check(made.out)


def test_bits_after_a_kill_in_the_middle_of_a_group(plan, tmp_path):
    options = {"by": "kind"}
    whole = run(plan(**options, out=tmp_path / "whole.h5"))
    (tmp_path / "own.py").write_text(CODE)
    made = prepare(plan(f"{tmp_path}/own.py:measured", **options))
    mark = tmp_path / "mark"
    mark.touch()

    def resume() -> int:
        words = ["-m", "hpcio", "resume", made.out, "--workers", "0"]
        done = subprocess.run(
            [sys.executable, *words], check=False, env={**os.environ, "MARK": str(mark)}
        )
        return done.returncode

    assert resume() == -signal.SIGKILL
    assert np.flatnonzero(trusted_ledger(made).done).tolist() == list(range(15))
    assert resume() == 0
    check(made.out, by=True)
    for name in ("power", "wave", "peak"):
        assert bits(made.out, name) == bits(whole.out, name)


def test_the_command_line_names_averages(plan, tmp_path):
    plan()  # makes the recording
    (tmp_path / "own.py").write_text(CODE)
    words = ["plan", "own.py:measured", "rec.h5::lfp", "--trials", "rec.h5::trials", "--out",
             "cli.h5", "--join", "peak=stack", "--reduce", "power=mean,high=sum",
             "--by", "kind"]  # fmt: skip
    said = subprocess.run(
        [sys.executable, "-m", "hpcio", *words], cwd=tmp_path, text=True, check=True,
        capture_output=True,
    )  # fmt: skip
    assert "power float64 of shape (3, 6, 4)" in " ".join(said.stdout.split())
    made = hpcio.Plan.load(tmp_path / "cli.h5")
    averaged = {o.name: (o.average.what, o.average.by) for o in made.averaged}
    assert averaged == {"high": ("sum", ("kind",)), "power": ("mean", ("kind",))}
    assert [o.name for o in made.of_trials] == ["wave", "peak"]


def test_dask_stores_both(plan, tmp_path):
    (tmp_path / "own.py").write_text(CODE)
    made = plan(f"{tmp_path}/own.py:measured", by="kind")
    options = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as there, Client(there) as c:
        slurm_side.run(made, c, progress=False)
    check(made.out, by=True)


# ---------------------------------------------------------------------- what becomes of a result


@ways
def test_repack_keeps_averages_and_their_conditions(plan, tmp_path, way):
    made = run(plan(by="kind", **way))
    hpcio.repack(made.out, tmp_path / "one.h5", compression="gzip")
    check(tmp_path / "one.h5", by=True)
    hpcio.repack(made.out)
    check(made.out, by=True)
    with h5py.File(made.out) as f:
        assert f["count"].dims[0][0].name == "/kind"
    flip(tmp_path / "one.h5", raw(tmp_path / "one.h5").index(np.bincount(KIND).tobytes()))
    with pytest.raises(ResultError, match="'count'"):
        hpcio.verify(tmp_path / "one.h5")


def test_a_file_of_nwb_has_both(plan, tmp_path):
    made = run(plan(by="kind"))
    hpcio.repack(made.out, tmp_path / "one.nwb")
    with h5py.File(tmp_path / "one.nwb") as f:
        assert f["scratch/power"][()].tobytes() == bits(made.out, "power")
        np.testing.assert_array_equal(f["scratch/peak"][()], PEAK)
        assert f["scratch/count"][()].tolist() == np.bincount(KIND).tolist()


def test_xarray_and_tables_have_both(plan):
    pytest.importorskip("xarray")
    made = run(plan(by="kind", axes={"power": {"kind": None, "time": None, "channel": None}}))
    assert "the mean of all trials by kind" in repr(made)
    with hpcio.open(made.out) as f:
        assert "mean of 40 trials" in repr(f)
        found = f.to_xarray()
        assert found["power"].dims == ("kind", "time", "channel")
        assert found["power"].attrs["reduce"] == "mean"
        assert found["count"].dims == ("kind",)
        np.testing.assert_allclose(
            found["power"].sel(kind=1), POWER[KIND == 1].mean(axis=0), rtol=1e-13
        )
