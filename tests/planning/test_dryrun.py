"""The dry run asks the function once for each shape, and calls it only if it must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest

from hpcio import Plan, per_trial
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
    plan(asked(calls), args=[per_trial("abaab")], kwargs={"taper": per_trial([0, 0, 0, 1, 1])})
    shapes = [(6, 4), (6, 4), (8, 4), (6, 4), (4, 4)]
    assert sorted(calls) == sorted(zip(shapes, "abaab", [0, 0, 0, 1, 1], strict=True))
    calls.clear()
    plan(asked(calls), args=[per_trial("aaaab")], kwargs={"taper": 2})
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


def test_a_function_without_dry_run_is_called_with_a_trial_of_each_shape(plan):
    seen: list[Any] = []

    def total(trial, gain):
        seen.append(trial * gain)
        return trial.sum(axis=0, keepdims=True)

    made = plan(total, args=[per_trial([1, 2, 3, 4, 5])])
    assert made.target.shape == (5, 4)
    seen.sort(key=len)
    for found, expected in zip(seen, (5 * LFP[26:], LFP[:6], 3 * LFP[12:20]), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_with_shape_and_type_given_nothing_is_called(plan):
    def never(trial):
        pytest.fail("called")

    made = plan(never, out_shape=lambda shape: (shape[0] // 2, 3), out_dtype="f4")
    assert made.target.shape == (15, 3)
    assert made.target.dtype == np.float32
    assert plan(never, out_shape=(2, 3), out_dtype="f4").target.shape == (10, 3)


def test_a_type_alone_is_what_results_are_cast_to(plan):
    assert plan(np.negative, out_dtype="f4").target.dtype == np.float32
