"""The dry run asks the function once for each shape, and calls it only if it must."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan, per_trial
from hpcio.errors import BlocksFailed, FunctionError, HpcioWarning
from tests.rigs.everyday import combinations
from tests.rigs.plans import LFP


def asked(calls: list[Any]) -> Callable[..., Any]:
    """A compute function that notes what its dry runs ask."""

    def power(trial, *args, chunkShape=None, noCompute=None, **kwargs):
        if noCompute:
            calls.append((trial.shape, *args, *kwargs.values()))
            return trial.shape, np.dtype("f8")
        return trial**2

    return power


def test_the_function_is_asked_once_for_each_shape(plan):
    calls: list[Any] = []
    made = plan(asked(calls))
    assert sorted(calls) == [((4, 4),), ((6, 4),), ((8, 4),)]
    assert len(made) == 5
    assert made.target.shape == (30, 4)
    assert made.target.dtype == np.float64


def test_the_function_is_asked_once_for_each_shape_and_arguments(plan):
    calls: list[Any] = []
    plan(
        asked(calls), args=[per_trial(list("abaab"))], kwargs={"taper": per_trial([0, 0, 0, 1, 1])}
    )
    shapes = [(6, 4), (6, 4), (8, 4), (6, 4), (4, 4)]
    assert sorted(calls) == sorted(zip(shapes, "abaab", [0, 0, 0, 1, 1], strict=True))
    calls.clear()
    plan(asked(calls), args=[per_trial(list("aaaab"))], kwargs={"taper": 2})
    assert sorted(calls) == [((4, 4), "b", 2), ((6, 4), "a", 2), ((8, 4), "a", 2)]


def test_arguments_that_are_arrays_are_compared_by_value(plan):
    calls: list[Any] = []
    windows = [np.hanning(n) for n in (3, 3, 5, 3, 5)]
    plan(asked(calls), trials=6, args=[per_trial(windows)])
    assert [len(window) for _, window in calls] == [3, 5]


def test_channel_blocks_are_asked_for_by_their_shape(plan):
    calls: list[Any] = []
    made = plan(asked(calls), trials=10, channels_per_block=3)
    assert calls == [((10, 3),), ((10, 1),)]
    assert len(made) == 6


def test_a_million_equal_trials_are_asked_once(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f.create_dataset("lfp", (4_000_000, 2), "i2")
    calls: list[Any] = []
    made = Plan.create(asked(calls), f"{tmp_path}/rec.h5::lfp", trials=4, out=tmp_path / "out.h5")
    assert calls == [((4, 2),)]
    assert len(made) == 1_000_000
    assert made.sources == "task"
    assert made.target.shape == (4_000_000, 2)
    assert made.trl_dat(999_999)["ingrid"] == (slice(3_999_996, 4_000_000, 1), slice(0, 2, 1))
    assert made.trl_dat(999_999)["outgrid"] == (slice(3_999_996, 4_000_000), slice(0, 2))


def test_a_function_without_dry_run_is_called_with_a_trial_of_each_shape(plan, tmp_path):
    def total(trial, gain):
        with open(tmp_path / f"{len(trial)}-{gain}-{os.getpid()}.npy", "xb") as f:
            np.save(f, trial)
        return trial.sum(axis=0, keepdims=True)

    made = plan(total, args=[per_trial([1, 2, 3, 4, 5])])
    assert made.target.shape == (5, 4)
    seen = {path.name.rpartition("-")[0]: np.load(path) for path in tmp_path.glob("*.npy")}
    assert not list(tmp_path.glob(f"*-{os.getpid()}.npy"))  # not in this process
    np.testing.assert_equal(seen, {"4-5": LFP[26:], "6-1": LFP[:6], "8-3": LFP[12:20]})


LENGTHS = np.array([*range(20, 60)])
STARTS = np.arange(len(LENGTHS)) * 60


@pytest.fixture
def unequal(tmp_path):
    """Plans a function over forty trials of forty lengths; how many were called is counted."""
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.repeat(np.arange(40.0), 60)[:, None] * np.ones(2)
    table = np.c_[STARTS, STARTS + LENGTHS]

    def make(func: Callable[..., Any], **options: Any) -> Plan:
        source, out = f"{tmp_path}/rec.h5::lfp", tmp_path / f"{func.__name__}.h5"
        return Plan.create(func, source, trials=table, out=out, **options)

    return make


def counted(folder: Path) -> int:
    return len(list(folder.glob("called-*")))


@pytest.mark.parametrize(
    ("result", "length"),
    [
        (lambda n: n, lambda n: n),
        (lambda n: 7, lambda n: 7),
        (lambda n: n - 3, lambda n: n - 3),
        (lambda n: n // 2 + 1, lambda n: n // 2 + 1),
        (lambda n: -(-n // 5), lambda n: -(-n // 5)),
        (lambda n: 3 * n, lambda n: 3 * n),
    ],
)
def test_shapes_that_follow_a_rule_are_tried_a_few_times(unequal, tmp_path, result, length):
    def func(trial):
        (tmp_path / f"called-{len(trial)}").touch()
        return np.ones((result(len(trial)), 2))

    made = unequal(func)
    assert [shape[0] for shape in map(made.target.shape_of, range(40))] == [
        length(n) for n in LENGTHS
    ]
    assert counted(tmp_path) <= 8


def test_shapes_without_a_rule_are_all_tried(unequal, tmp_path):
    def func(trial):
        (tmp_path / f"called-{len(trial)}").touch()
        return np.ones((len(trial) ** 2 % 7 + 1, 2))

    made = unequal(func)
    assert [made.target.shape_of(k)[0] for k in range(40)] == [n**2 % 7 + 1 for n in LENGTHS]
    assert counted(tmp_path) == 40


def test_a_shape_that_a_rule_got_wrong_fails_that_trial_alone(unequal):
    def func(trial):
        return np.ones((3 if len(trial) == 33 else 2, 2))

    made = unequal(func, join="stack")
    with pytest.raises(BlocksFailed) as info:
        made.run(workers=1, progress=False)
    (failure,) = info.value.done.failed
    assert failure.trial == 13
    assert "returned shape (3, 2), but (2, 2) was planned" in failure.reason


HARM = {
    "raises": "raise ValueError('artefact')",
    "exits": "os._exit(0)",
    "crashes": "os.kill(os.getpid(), 11)",
}


@pytest.mark.parametrize(
    ("harm", "bad"),
    combinations(
        HARM, [0, 1, 2],
        everyday=[("raises", 0), ("crashes", 0), ("exits", 1), ("raises", 2), ("exits", 2)],
    ),
)  # fmt: skip
def test_a_bad_trial_does_not_end_the_planning(plan, harm, bad):
    space: dict[str, Any] = {"os": os}
    exec(
        f"def func(trial):\n    if trial[0, 0] == {LFP[(0, 6, 12)[bad], 0]}:\n"
        f"        {HARM[harm]}\n    return trial.sum(axis=0)",
        space,
    )
    trials = [[0, 6], [6, 12], [12, 20]]
    if bad == 0:  # another trial of that shape is tried
        made = plan(space["func"], trials=trials, join="stack")
    else:
        with contextlib.ExitStack() as stack:
            if bad == 2:  # the only one of its shape
                stack.enter_context(pytest.warns(HpcioWarning, match="failed in the dry run, tri"))
            made = plan(space["func"], trials=trials, join="stack")
    made.run(workers=1, gaps=True, progress=False)
    with hpcio.open(made.out) as f:
        want = np.stack([LFP[a:b].sum(axis=0) for a, b in trials])
        want[bad] = np.nan
        np.testing.assert_array_equal(f["data"], want)


def test_a_function_that_fails_for_all_trials_cannot_be_planned(plan):
    def func(trial):
        raise ValueError(f"no fit for {len(trial)}")

    with pytest.raises(FunctionError, match=r"raised ValueError in the dry run, trial . \(shape"):
        plan(func)


def test_a_process_that_crashes_is_told_of(plan):
    def func(trial):
        os.kill(os.getpid(), 11)

    with pytest.raises(FunctionError, match=r"WorkerError in the dry run.*ended with signal 11"):
        plan(func)


def test_with_shape_and_type_given_nothing_is_called(plan):
    def never(trial):
        pytest.fail("called")

    made = plan(never, out_shape=lambda shape: (shape[0] // 2, 3), out_dtype="f4")
    assert made.target.shape == (15, 3)
    assert made.target.dtype == np.float32
    assert plan(never, out_shape=(2, 3), out_dtype="f4").target.shape == (10, 3)


def test_a_type_alone_is_what_results_are_cast_to(plan):
    assert plan(np.negative, out_dtype="f4").target.dtype == np.float32


def test_arguments_that_do_not_vary_are_asked_for_once(tmp_path):
    """Neither a dict that a call could change, nor a generator for each trial, makes more cases."""
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f.create_dataset("lfp", (400_000, 2), "i2")
    calls: list[Any] = []
    made = Plan.create(
        asked(calls), f"{tmp_path}/rec.h5::lfp", trials=4, out=tmp_path / "out.h5",
        args=[{"taper": "hann"}], kwargs={"rng": np.random.default_rng(1)},
    )  # fmt: skip
    assert len(calls) == 1
    assert len(made) == 100_000


def test_a_rule_needs_more_than_a_trial_or_two(unequal, tmp_path):
    """Most of the shapes that are tried first fail: then all others are tried, too."""

    def func(trial):
        (tmp_path / f"called-{len(trial)}").touch()
        if len(trial) in (20, 22, 27, 35, 43, 51):
            raise ValueError("no fit")
        return np.ones((len(trial) % 7 + 1, 2))

    with pytest.raises(FunctionError, match="raised ValueError in the dry run"):
        unequal(func)
    assert counted(tmp_path) == 40
