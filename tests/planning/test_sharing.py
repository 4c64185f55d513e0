"""A plan of many trials holds its arrays in memory once."""

import re

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import MemoryLimitError
from hpcio.planning import check_memory, load_plan, plan_memory, write_plan
from hpcio.planning.limits import BASE

COUNT = 20_000


def mean(trial):
    return trial.mean(axis=0)


@pytest.fixture
def source(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["data"] = np.arange(4 * COUNT, dtype="f4").reshape(2 * COUNT, 2)
    return f"{tmp_path}/rec.h5::data"


@pytest.mark.parametrize("loaded", [False, True])
def test_equal_trials_take_three_numbers_each(source, tmp_path, loaded):
    plan = hpcio.Plan.create(mean, source, trials=2, out=tmp_path / "out.h5", join="stack")
    if loaded:
        plan.run_directory.mkdir(mode=0o700)
        assert write_plan(plan, plan.run_directory)
        plan = load_plan(tmp_path / "out.h5")
    # Where it starts, where it stops, and which one it is.
    assert plan.memory == 3 * 8 * COUNT
    assert np.array_equal(plan.trials.start, 2 * np.arange(COUNT))
    assert np.array_equal(plan.trials.stop, 2 * np.arange(COUNT) + 2)
    assert np.array_equal(plan.trials.offset, np.zeros(COUNT))
    assert np.array_equal(plan.blocks.base, plan.trials.start)
    assert np.array_equal(plan.target.start, np.arange(COUNT))


def test_several_results_lie_at_the_same_places(source, tmp_path):
    def both(trial):
        return {"mean": trial.mean(axis=0), "top": trial.max(axis=0)}

    plan = hpcio.Plan.create(both, source, trials=2, out=tmp_path / "out.h5")
    first, second = plan.outputs
    assert first.target.start is second.target.start


def test_arrays_of_the_caller_stay_his_own(source, tmp_path):
    start = 2 * np.arange(COUNT)
    trials = hpcio.Trials(start, start + 2, 0 * start, np.arange(COUNT))
    plan = hpcio.Plan.create(mean, source, trials=trials, out=tmp_path / "out.h5")
    start[:] = 0
    assert np.array_equal(plan.blocks.base, 2 * np.arange(COUNT))
    assert np.array_equal(plan.trials.start, 2 * np.arange(COUNT))


def test_many_trials_need_memory_in_each_worker(source, tmp_path):
    plan = hpcio.Plan.create(mean, source, trials=2, out=tmp_path / "out.h5", join="stack")
    needed = BASE + plan_memory(plan) + 2 * 2 * 4 + 2 * 4
    assert plan_memory(plan) > plan.memory
    check_memory(plan, needed)
    with pytest.raises(MemoryLimitError, match="MB for Python and the plan"):
        check_memory(plan, needed - 1)


def test_too_little_memory_for_any_trial_is_told_how_much_is_needed(source, tmp_path):
    plan = hpcio.Plan.create(mean, source, trials=2, out=tmp_path / "out.h5", join="stack")
    with pytest.raises(MemoryLimitError, match=r"may use 1 kB\. Allow at least \d+MB") as told:
        check_memory(plan, "1kB")
    check_memory(plan, re.search(r"at least (\S+)", str(told.value))[1])
