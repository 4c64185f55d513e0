"""What can be planned, and what is refused before anything is written."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from hpcio import Plan, per_trial
from hpcio.errors import FunctionError, OptionError, OutputError, PlanError, SourceError, TrialError
from hpcio.planning import Plan as Value

# If it fails, there is no other of its shape to be tried.
ONE = {"trials": [[0, 6]]}


@pytest.mark.parametrize(
    ("func", "options", "error", "message"),
    [
        (lambda trial: None, ONE, FunctionError, r"trial \d \(shape.*nothing \(None\)"),
        (lambda trial: 1 / 0, ONE, FunctionError, "ZeroDivisionError in the dry run"),
        (lambda trial: trial.astype("U"), ONE, FunctionError, "type <U"),
        (lambda trial, noCompute=None: 5, {}, FunctionError, "Return .shape, dtype."),
        (lambda trial, noCompute=None: ((-1,), "f8"), {}, FunctionError, "announced the shape"),
        (lambda trial, noCompute=None: ((2, 4), "M8[s]"), {}, FunctionError, r"datetime64\[s\]"),
        (lambda trial, noCompute=None: (trial.mean(), "f8"), {}, FunctionError, "dry run"),
        (lambda trial: trial.astype(f"i{len(trial) // 6 * 4 + 4}"), {"trials": [[0, 6], [0, 4]]},
         FunctionError, r"for trial \d, but int\d\d for others"),
        (np.negative, {"axes": ("trial", "channel")}, OptionError, "is no dict. .* axes={'trial'"),
        (np.negative, {"out_dtype": "i4"}, FunctionError, "int32 is asked for"),
        (np.negative, {"out_shape": (1, 4)}, FunctionError, r"out_shape says \(1, 4\)"),
        (np.sum, {}, PlanError, "Use join='stack'"),
        (lambda trial: trial[:, : len(trial) // 2], {}, FunctionError, "cannot be joined"),
        (np.negative, {"join": "stack"}, FunctionError, "cannot be stacked"),
        (lambda trial: trial[0, 0] if len(trial) == 6 else trial, {}, FunctionError, r"\[0, 2\]"),
        (np.negative, {"join": "stack", "join_axis": 0, "trials": 6}, PlanError, "join_axis goes"),
        (np.negative, {"join_axis": 2}, PlanError, "join_axis=2 does not exist"),
        (np.negative, {"join": "sum"}, PlanError, "'sum' is unknown"),
        (np.negative, {"sources": "node"}, PlanError, "'node' is unknown"),
        (np.negative, {"keeptrials": False}, FunctionError, "average needs equal results"),
        (np.negative, {"keeptrials": False, "join": "stack"}, PlanError, "joins nothing"),
        (np.negative, {"keeptrials": False, "compression": "gzip", "trials": 6}, PlanError,
         "Compress it afterwards"),
        (np.negative, {"reduce": "mean"}, PlanError, "goes with keeptrials=False"),
        (np.negative, {"keeptrials": False, "reduce": "mode", "trials": 6}, PlanError, "mode"),
        (lambda x: x[: x.shape[1]], {"channels_per_block": 3, "trials": 6}, FunctionError,
         r"trial 0 give \[3, 1\] rows"),
        (lambda x: x[:4, : 2 - (len(x) == 8)], {"channels_per_block": 2}, FunctionError,
         r"Trial 2 gives \[1, 1\] channels in its blocks, trial 0 \[2, 2\]"),
        (np.negative, {"out_shape": (6, 4), "out_dtype": "f8", "args": [(x for x in "ab")]},
         PlanError, "cannot be pickled"),
        (np.negative, {"writer": "floppy"}, PlanError, "no writer 'floppy'"),
        (np.negative, {"axis": 2}, PlanError, "axis=2 does not exist"),
        (np.negative, {"channels_per_block": 2, "join_axis": 1}, PlanError, "both lie along"),
        (np.negative, {"channels_per_block": 2, "out_channel_axis": 5}, PlanError, "=5 does not"),
        (np.add, {"args": [per_trial([1, 2])]}, PlanError, "argument 0 has 2 values for 5 trials"),
        (np.add, {"kwargs": {"gain": per_trial([])}}, PlanError, "'gain' has 0 values"),
        (np.add, {"kwargs": {"noCompute": True}}, PlanError, "'noCompute' is set by the plan"),
        (np.add, {"args": [lambda: (yield)], **ONE}, FunctionError, "TypeError in the dry run"),
        ("nothing", {}, FunctionError, "names no function"),
        ("no_such_module:f", {}, FunctionError, "Cannot import module 'no_such_module'"),
        ("none/such.py:f", {}, FunctionError, "no file 'none/such.py'"),
        ("numpy:no_such", {}, FunctionError, "'numpy' has no 'no_such'"),
        ("numpy:pi", {}, FunctionError, "is a float"),
        (5, {}, FunctionError, "5 is not callable"),
        (np.negative, {"dataset": "none"}, SourceError, "'none'.*does not exist"),
        (np.negative, {"trials": [[0, 31]]}, TrialError, "Trial 0 ends after 'lfp'"),
        (np.negative, {"out": "/none/out.h5"}, OutputError, "no folder '/none'"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_said_before_anything_is_written(
    plan, tmp_path, func, options, error, message
):
    with pytest.raises(error, match=message):
        plan(func, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["rec.h5"]


def test_an_output_that_exists_is_not_touched(plan, tmp_path):
    (tmp_path / "out.h5").write_text("precious")
    with pytest.raises(OutputError, match=r"out\.h5' exists"):
        plan(np.negative)
    assert (tmp_path / "out.h5").read_text() == "precious"


@pytest.mark.parametrize("value", [5, None, iter([1, 2, 3, 4, 5])])
def test_per_trial_needs_a_sequence(value):
    with pytest.raises(PlanError, match=f"not {type(value).__name__}"):
        per_trial(value)


def test_per_trial_of_per_trial_is_the_same():
    gain = per_trial([1, 2])
    assert per_trial(gain) is gain
    assert len(gain) == 2


@pytest.mark.parametrize(("trials", "sources"), [(512, "trial"), (513, "task")])
def test_few_blocks_get_files_of_their_own(tmp_path, trials, sources):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros(trials)
    options = {"trials": 1, "out": tmp_path / "out.h5"}
    assert Plan.create(np.negative, f"{tmp_path}/rec.h5::lfp", **options).sources == sources


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": "trial"}, "100001 blocks would make as many files"),
        ({"func": np.transpose, "join_axis": 1}, "100001 blocks that do not follow each other"),
    ],
)
def test_more_blocks_than_hdf5_can_join_are_refused(tmp_path, options, message):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f.create_dataset("lfp", (100_001, 2), "i1")
    options = {"func": np.negative, "trials": 1, "out": tmp_path / "out.h5", **options}
    with pytest.raises(PlanError, match=message):
        Plan.create(source=f"{tmp_path}/rec.h5::lfp", **options)


def test_bytes_read_and_written_of_each_block(plan):
    made = plan(lambda x: x[:2].astype("f4"), channels_per_block=3)
    np.testing.assert_array_equal(made.input_sizes(), np.outer([6, 6, 8, 6, 4], [3, 1]).ravel() * 8)
    np.testing.assert_array_equal(made.target.sizes(), [24, 8] * 5)
    assert made.target.nbytes == 10 * 4 * 4


def test_a_plan_shows_in_few_lines(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((100_000, 4))
    plan = Plan.create(
        np.negative, f"{tmp_path}/rec.h5::/lfp", trials=2, channels_per_block=2,
        out=tmp_path / "out.h5", axes={"time": range(100_000), "channel": None},
    )  # fmt: skip
    for shown in (str(plan), repr(plan), repr(Value(**vars(plan)))):
        assert shown.splitlines() == [
            f"     plan  {plan.digest[:8]}",
            " function  numpy:negative",
            f"recording  {plan.source.path}::/lfp",
            "   trials  50,000 trials of 2 rows along axis 0, 2 channels per block; "
            "in 100,000 blocks",
            "   result  100,000 time x 4 channel, float64, 3.2 MB",
            f"     into  {plan.out} (writer virtual)",
        ]
