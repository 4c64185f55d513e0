"""Several results of one call: what the dry run is told, how each is laid out, what is refused."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import hpcio
from hpcio.errors import FunctionError, OptionError, PlanError, TrialError
from hpcio.journals.rundir import prepare
from hpcio.layout import averages
from tests.rigs.plans import LFP, TRIALS

STACKED = {"peak": "stack", "flag": "stack"}


def announced(trial, chunkShape=None, noCompute=None):
    """Power in all rows, the row of the peak of each channel, and whether it is high."""
    if noCompute:
        channels = trial.shape[1]
        return {"power": (trial.shape, "f8"), "peak": ((channels,), "i4"), "flag": ((), "?")}
    return several(trial)


def several(trial):
    peak = trial.argmax(axis=0).astype("i4")
    return {"power": trial**2, "peak": peak, "flag": bool(trial.max() > 2)}


class Named(NamedTuple):
    power: np.ndarray
    peak: np.ndarray
    flag: bool


def tupled(trial):
    return Named(**several(trial))


@pytest.mark.parametrize("func", [announced, several, tupled])
def test_each_result_has_a_shape_and_type_and_joining_of_its_own(plan, func):
    made = plan(func, join=STACKED)
    found = {o.name: (o.target.shape, o.target.dtype, o.target.stacked) for o in made.outputs}
    assert found == {
        "power": ((30, 4), np.dtype("f8"), False),
        "peak": ((5, 4), np.dtype("i4"), True),
        "flag": ((5,), np.dtype("?"), True),
    }
    rows = np.diff(TRIALS)[:, 0]
    assert made.target.sizes().tolist() == (rows * 4 * 8 + 4 * 4 + 1).tolist()


def test_a_plan_of_several_results_is_loaded_as_it_was(plan):
    axes = {"power": {"time": None, "channel": list("abcd")}, "peak": {"trial": None, "unit": None}}
    made = prepare(plan(announced, join=STACKED, axes=axes))
    loaded = hpcio.Plan.load(made.out)
    assert loaded.digest == made.digest
    for one, other in zip(made.outputs, loaded.outputs, strict=True):
        assert one.name == other.name
        assert [axis.name for axis in one.axes] == [axis.name for axis in other.axes]
        assert one.target.shapes == other.target.shapes
        assert (one.target.start == other.target.start).all()
    values = loaded.outputs[0].axes[1].values
    assert values is not None
    assert values.tolist() == [b"a", b"b", b"c", b"d"]
    assert loaded.outputs[1].axes[0].values is not None  # trials count from 0


def test_the_digest_tells_results_of_other_names_and_joinings(plan):
    made = [plan(announced, join=join) for join in (STACKED, {**STACKED, "peak": "concatenate"})]
    assert made[0].digest != made[1].digest
    assert made[0].digest == plan(announced, join=STACKED).digest


def test_the_digest_tells_how_each_result_is_packed(plan):
    ways = [{}, {"compression": "gzip"}, {"compression": {"power": "gzip"}},
            {"chunks": {"power": True}}, {"compression": {"peak": "gzip"}}]  # fmt: skip
    assert len({plan(announced, join=STACKED, **way).digest for way in ways}) == len(ways)


def test_an_option_that_names_no_result_is_refused_with_the_names(plan):
    with pytest.raises(OptionError, match=r"'peek'.*power, peak, flag"):
        plan(announced, join={"peek": "stack"})
    with pytest.raises(OptionError, match=r"'power'.*one array"):
        plan(np.negative, join={"power": "stack"})
    with pytest.raises(OptionError, match=r"compression= names 'peek'.*power, peak, flag"):
        plan(announced, compression={"peek": "gzip"})


def test_what_does_not_fit_one_result_is_said_of_it(plan):
    with pytest.raises(OptionError, match=r"Of the result 'peak': .*join_axis=3"):
        plan(announced, join_axis={"peak": 3})


def test_what_cannot_be_done_with_several_results_is_refused(plan):
    with pytest.raises(OptionError, match="functions of your own make the average of one"):
        plan(announced, keeptrials=False, reduce=(abs, abs, abs))
    with pytest.raises(OptionError, match=r"Of the result 'power': .*direct.*repack"):
        plan(announced, join=STACKED, compression="gzip", writer="direct")
    with pytest.raises(OptionError, match=r"Of the result 'peak': .*2 axes, .* has 1"):
        plan(announced, join=STACKED, chunks=(5, 4))
    with pytest.raises(OptionError, match="out_shape"):
        plan(announced, join=STACKED, out_dtype="f4")
    with pytest.raises(PlanError, match="Of the result 'power': The writer 'direct' joins"):
        plan(
            lambda trial: {"power": trial, "peak": trial.argmax(axis=0)}, writer="direct",
            join={"peak": "stack"}, channels_per_block=2, out_channel_axis={"power": 1, "peak": 0},
        )  # fmt: skip


def averaging(plan, **options):
    trials = hpcio.Trials.from_array(TRIALS).with_columns(kind=[2, 1, 2, 1, 1])
    given = {"reduce": {"peak": "mean", "flag": "sum"}, "by": "kind", **options}
    return plan(announced, trials=trials, **given)


def test_those_that_reduce_names_are_averages_and_the_others_records(plan):
    made = averaging(plan)
    found = {o.name: (o.target.shape, o.target.dtype, o.dtype) for o in made.outputs}
    f8, i4, flag = np.dtype("f8"), np.dtype("i4"), np.dtype("?")
    assert found == {
        "power": ((30, 4), f8, f8), "peak": ((2, 4), f8, i4), "flag": ((2,), f8, flag),
    }  # fmt: skip
    assert [o.name for o in made.of_trials] == ["power"]
    assert [str(o.average) for o in made.averaged] == [
        "the mean of all trials by kind", "the sum of all trials by kind"
    ]  # fmt: skip
    rows = np.diff(TRIALS)[:, 0]
    assert made.target.sizes().tolist() == (rows * 4 * 8).tolist()
    peak, of_flag = 2 * 4 * 8, 2 * 8
    assert made.group_bytes == peak + of_flag
    assert made.stored_bytes(np.arange(5)) == 30 * 4 * 8 + 5 * (peak + of_flag)


def test_a_plan_of_averages_of_some_results_is_loaded_as_it_was(plan):
    made = prepare(averaging(plan))
    loaded = hpcio.Plan.load(made.out)
    assert loaded.digest == made.digest
    for one, other in zip(made.averaged, loaded.averaged, strict=True):
        assert (one.name, str(one.average), one.shapes) == (
            other.name, str(other.average), other.shapes
        )  # fmt: skip
        assert other.average.condition.tolist() == [1, 0, 1, 0, 0]
        assert other.average.stretches == one.average.stretches
    others = [averaging(plan, reduce={"peak": "mean", "flag": "mean"}), averaging(plan, by=None)]
    assert len({made.digest, *(other.digest for other in others)}) == 3


def test_averages_share_the_groups_of_the_one_with_the_largest_states(plan, monkeypatch):
    monkeypatch.setattr(averages, "MOST_GROUPS", 5)
    monkeypatch.setattr(averages, "FEWEST_GROUPS", 2)
    monkeypatch.setattr(averages, "MOST_BYTES", 2 * 4 * 16)  # two sums of four channels
    made = averaging(plan, by=None)
    assert [o.average.stretches for o in made.averaged] == [((0, 3),), ((0, 3),)]
    assert made.group_of(np.arange(5)).tolist() == [0, 0, 0, 1, 1]
    alone = averaging(plan, by=None, reduce={"flag": "sum"})
    assert [o.average.stretches for o in alone.averaged] == [((0, 1),)]


def test_averages_of_some_results_that_cannot_be_are_refused(plan):
    with pytest.raises(OptionError, match=r"'peek'.*power, peak, flag"):
        averaging(plan, reduce={"peek": "mean"})
    with pytest.raises(OptionError, match=r"'power'.*one array"):
        plan(np.negative, reduce={"power": "mean"})
    with pytest.raises(FunctionError, match="Of the result 'power': An average needs equal"):
        averaging(plan, reduce={"power": "mean"})
    with pytest.raises(OptionError, match="median"):
        averaging(plan, reduce={"peak": "median"})
    with pytest.raises(OptionError, match="by='kind' goes with averages"):
        averaging(plan, reduce={})
    with pytest.raises(OptionError, match="Leave out one of the two"):
        averaging(plan, keeptrials=False)
    with pytest.raises(OptionError, match="Name an average, such as 'mean'"):
        averaging(plan, reduce={"peak": "own.py:parts"})
    with pytest.raises(OptionError, match="trials are done by groups"):
        averaging(plan, sources="trial")
    with pytest.raises(OptionError, match="joins nothing"):
        averaging(plan, join={"peak": "stack"})
    with pytest.raises(TrialError, match="no column 'kin'"):
        averaging(plan, by="kin")
    with pytest.raises(OptionError, match="repack"):
        averaging(plan, compression="gzip")


def test_names_that_a_file_of_a_result_cannot_have_are_refused(plan):
    with pytest.raises(FunctionError, match="'trials', which is the name of another thing"):
        plan(lambda trial: {"trials": trial, "b": trial})
    with pytest.raises(FunctionError, match="'a/b'"):
        plan(lambda trial: {"a/b": trial})


def test_trials_with_other_names_are_refused(plan):
    with pytest.raises(FunctionError, match="Return the same names"):
        plan(lambda trial: {"a" if len(trial) == 6 else "b": trial})


def test_one_array_is_planned_as_ever(plan):
    made = plan(np.negative)
    assert made.several == ()
    assert [o.name for o in made.outputs] == ["data"]
    assert made.target.shape == LFP.shape
