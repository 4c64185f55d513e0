"""Plan.run: what plain h5py reads from the result, against numpy, bit by bit."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan, Trials, per_trial
from hpcio.errors import (
    BlocksFailed,
    Done,
    HpcioWarning,
    PlanError,
)
from tests.rigs.bench import TRIALS, Bench
from tests.rigs.everyday import combinations
from tests.rigs.resuming import half_done
from tests.rigs.runs import LARGE, LFP, TABLE, Array, check, pieces, record, run


@pytest.mark.parametrize(
    ("sources", "workers"),
    combinations(
        ["trial", "task", "auto"], [0, 2],
        everyday=[("trial", 0), ("trial", 2), ("task", 0), ("task", 2), ("auto", 0)],
    ),
)  # fmt: skip
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
    assert str(done).startswith(f"5 trials in {done.seconds:.2f} s (")


def test_one_trial_is_not_several():
    done = Done("out.h5", seconds=2.0, blocks=1, computed=1, counted="trial")
    assert str(done) == "1 trial in 2.00 s (0.5 trials/s, 0 MB/s)"
    assert str(Done("out.h5", blocks=1, counted="trial")).startswith("done already, 1 trial;")


def test_a_second_run_has_nothing_to_do(tmp_path, lfp):
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    plan.run(workers=0, progress=False)
    before = (tmp_path / "out.h5").read_bytes()
    done = plan.run(workers=2, progress=False)
    assert (done.blocks, done.computed, done.nbytes, done.nbytes_read) == (5, 0, 0, 0)
    assert done.seconds == done.blocks_per_second == done.mb_per_second == 0.0
    assert str(done) == "done already, 5 trials; nothing was computed"
    assert (tmp_path / "out.h5").read_bytes() == before


def test_fresh_starts_over(tmp_path, lfp):
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    plan.run(workers=0, progress=False)
    assert plan.run(workers=0, fresh=True, progress=False).computed == 5
    check(tmp_path / "out.h5", -LFP)


def test_starting_over_says_what_is_thrown_away_of_the_same_plan(tmp_path):
    bench = Bench(tmp_path)
    half_done(bench, safe=3, unsafe=2)
    said = "Starting over: 5 done trials of an unfinished run of this same plan are thrown away"
    with pytest.warns(HpcioWarning, match=f"{said}; without fresh=True"):
        done = bench.plan().run(workers=0, progress=False, fresh=True)
    assert done.computed == TRIALS
    # A result that is whole is computed anew since somebody wants to, and so is another plan.
    bench.plan().run(workers=0, progress=False, fresh=True)
    bench.out.unlink()
    bench.plan(join="stack").run(workers=0, progress=False, fresh=True)


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
    told = {"out_shape": (), "out_dtype": "?"}
    run(lambda x: x[0, 0] > 0, lfp, tmp_path / "flags.h5", join="stack", sources=sources, **told)
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


@pytest.mark.parametrize(
    ("sources", "workers"),
    combinations(["trial", "task"], [0, 2], everyday=[("trial", 2), ("task", 0)]),
)
def test_blocks_of_channels_lie_side_by_side(tmp_path, lfp, workers, sources):
    def sort(trial, noCompute=None):
        assert trial.shape[1] <= 3
        return (trial.shape, "f8") if noCompute else np.sort(trial, axis=0)

    def most(trial, noCompute=None):
        return (trial.shape[1:], "f8") if noCompute else trial.max(axis=0)

    options = {"channels_per_block": 3, "workers": workers, "sources": sources}
    done = run(sort, lfp, tmp_path / "out.h5", **options)
    assert done.blocks == 10
    check(tmp_path / "out.h5", np.concatenate([np.sort(x, axis=0) for x in pieces()]))
    run(most, lfp, tmp_path / "max.h5", join="stack", out_channel_axis=0, **options)
    check(tmp_path / "max.h5", np.stack([x.max(axis=0) for x in pieces()]))


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


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_of_numerical_libraries(tmp_path, lfp, threads):
    names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"]

    def allowed(trial):
        return np.array([int(os.environ.get(name, "0")) for name in names])

    plan = Plan.create(
        allowed, lfp, trials=6, out=tmp_path / "out.h5", join="stack", out_shape=(4,),
        out_dtype="i8",
    )  # fmt: skip
    plan.run(workers=1, threads=threads, progress=False)
    check(tmp_path / "out.h5", np.full((5, 4), threads))


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


def test_what_makes_no_sense_is_refused(tmp_path, lfp):
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    for options in ({"workers": -1}, {"threads": 0}):
        with pytest.raises(hpcio.errors.WorkerError, match="makes no sense"):
            plan.run(progress=False, **options)
    assert not plan.run_directory.exists()
