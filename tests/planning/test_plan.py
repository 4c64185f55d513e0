"""Plan: the dry run, where every block goes, and what is kept of it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcio
from hpcio import Plan, per_trial
from hpcio.errors import FunctionError, OutputError, PlanError, SourceError, TrialError
from hpcio.journals import rundir
from hpcio.recording.trials import Blocks, Form

# 30 rows of 4 channels, cut into trials of 6, 6, 8, 6 and 4 rows
LFP = np.random.default_rng(3).normal(size=(30, 4))
TRIALS = [[0, 6, 1], [6, 12, 2], [12, 20, 3], [20, 26, 4], [26, 30, 5]]

Planner = Callable[..., Plan]


@pytest.fixture
def plan(tmp_path: Path) -> Planner:
    """Plans the run of a function over the recording."""
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = LFP
        f["other"] = 2 * LFP
        f["trials"] = TRIALS

    def make(func: Any, *, dataset: str = "lfp", trials: Any = TRIALS, **options: Any) -> Plan:
        options = {"out": tmp_path / "out.h5", **options}
        return Plan.create(func, f"{tmp_path}/rec.h5::{dataset}", trials=trials, **options)

    return make


def asked(calls: list[Any]) -> Callable[..., Any]:
    """A compute function that notes what its dry runs ask."""

    def power(trial, *args, chunkShape=None, noCompute=None, **kwargs):
        if noCompute:
            calls.append((trial.shape, *args, *kwargs.values()))
            return trial.shape, np.dtype("f8")
        return trial**2

    return power


# ---- the dry run --------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("func", "options", "error", "message"),
    [
        (lambda trial: None, {}, FunctionError, r"trial \d \(shape.*nothing \(None\)"),
        (lambda trial: 1 / 0, {}, FunctionError, "ZeroDivisionError in the dry run"),
        (lambda trial: trial.astype("U"), {}, FunctionError, "type <U"),
        (lambda trial, noCompute=None: 5, {}, FunctionError, "Return .shape, dtype."),
        (lambda trial, noCompute=None: ((-1,), "f8"), {}, FunctionError, "announced the shape"),
        (lambda trial, noCompute=None: ((2, 4), "M8[s]"), {}, FunctionError, r"datetime64\[s\]"),
        (lambda trial, noCompute=None: (trial.mean(), "f8"), {}, FunctionError, "dry run"),
        (lambda trial: trial.astype(f"i{len(trial) // 6 * 4 + 4}"), {"trials": [[0, 6], [0, 4]]},
         FunctionError, r"for trial \d, but int\d\d for others"),
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
        (np.add, {"args": [lambda: (yield)]}, FunctionError, "TypeError in the dry run"),
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


# ---- where the results go -----------------------------------------------------------------------


def spread(trial, chunkShape=None, noCompute=None):
    """Channels first, and two more axes: (channels, 1, rows, 2)."""
    result = (trial.shape[1], 1, trial.shape[0], 2)
    return (result, np.dtype("f8")) if noCompute else np.stack([trial.T[:, None]] * 2, axis=-1)


@pytest.mark.parametrize(
    ("func", "options", "shape", "region"),
    [
        # region: of the last block, which is (the last channels of) trial 4
        (np.negative, {}, (30, 4), (slice(26, 30), slice(0, 4))),
        (np.transpose, {"join_axis": 1}, (4, 30), (slice(0, 4), slice(26, 30))),
        (np.transpose, {"join_axis": -1}, (4, 30), (slice(0, 4), slice(26, 30))),
        (lambda x: x[:2], {"join": "stack"}, (5, 2, 4), (slice(4, 5), slice(0, 2), slice(0, 4))),
        (lambda x: x.mean(), {"join": "stack"}, (5,), (slice(4, 5),)),
        (lambda x: x.mean(0), {}, (20,), (slice(16, 20),)),
        (np.negative, {"channels_per_block": 3}, (30, 4), (slice(26, 30), slice(3, 4))),
        (lambda x: x[:2], {"channels_per_block": 3, "join": "stack"}, (5, 2, 4),
         (slice(4, 5), slice(0, 2), slice(3, 4))),
        (lambda x: x.mean(0), {"channels_per_block": 3, "join": "stack", "out_channel_axis": 0},
         (5, 4), (slice(4, 5), slice(3, 4))),
        (spread, {"join_axis": 2, "out_channel_axis": 0, "channels_per_block": 2}, (4, 1, 30, 2),
         (slice(2, 4), slice(0, 1), slice(26, 30), slice(0, 2))),
        (spread, {"join_axis": 1, "trials": 6}, (4, 5, 6, 2),
         (slice(0, 4), slice(4, 5), slice(0, 6), slice(0, 2))),
    ],
)  # fmt: skip
def test_results_are_joined_or_stacked(plan, func, options, shape, region):
    made = plan(func, **options)
    assert made.target.shape == shape
    assert made.target.region(len(made) - 1) == region
    check_tiles(made)


def check_tiles(made: Plan) -> None:
    """The regions of all blocks fill the result, and no two overlap."""
    seen = np.zeros(made.target.shape, np.int64)
    for i in range(len(made)):
        region = made.target.region(i)
        seen[region] += 1
        size = made.target.sizes()[i] // made.target.dtype.itemsize
        assert seen[region].size == size
    assert (seen == 1).all()


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    edges = np.cumsum([0, *lengths])
    join = draw(st.sampled_from(["concatenate", "stack"]))
    options: dict[str, Any] = {
        "trials": np.column_stack([edges[:-1], edges[1:]]), "join": join,
        "channels_per_block": draw(st.none() | st.integers(1, 4)),
    }  # fmt: skip
    if join == "stack":
        options["func"] = lambda x: x[:1]
    elif draw(st.booleans()):
        options |= {"func": lambda x: x.T, "join_axis": 1, "out_channel_axis": 0}
    else:
        options["func"] = lambda x: np.concatenate([x, x])
    return options


@given(cases())
@settings(max_examples=60, deadline=None)
def test_any_regions_fill_the_result(tmp_path_factory, options):
    folder = tmp_path_factory.getbasetemp() / "tiles"
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = LFP
    func = options.pop("func")
    check_tiles(Plan.create(func, f"{folder}/rec.h5::lfp", out=folder / "out.h5", **options))


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


# ---- names and coordinates of axes --------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path: Path) -> Planner:
    """Plans over a recording whose axes are `time` and `channel`."""
    with h5py.File(tmp_path / "labelled.h5", "w") as f:
        lfp = f.create_dataset("lfp", data=LFP)
        for axis, (name, values) in enumerate(
            {"time": np.arange(30) / 1000, "channel": np.array([b"a", b"b", b"c", b"d"])}.items()
        ):
            f[name] = values
            f[name].make_scale(name)
            lfp.dims[axis].label = name
            lfp.dims[axis].attach_scale(f[name])

    def make(func: Any, **options: Any) -> Plan:
        options = {"out": tmp_path / "out.h5", "trials": 6, **options}
        return Plan.create(func, f"{tmp_path}/labelled.h5::lfp", **options)

    return make


def axes_of(made: Plan) -> list[Any]:
    return [
        (axis.name, None if axis.values is None else axis.values.tolist()) for axis in made.axes
    ]


def test_names_and_scales_come_from_the_source(labelled):
    channels = ("channel", [b"a", b"b", b"c", b"d"])
    assert axes_of(labelled(np.negative)) == [("time", None), channels]
    assert axes_of(labelled(np.negative, channels_per_block=3)) == [("time", None), channels]
    stacked = labelled(np.negative, join="stack")
    assert axes_of(stacked) == [("trial", [0, 1, 2, 3, 4]), ("time", None), channels]


def test_scales_follow_the_selection(labelled):
    trials = hpcio.Trials.equal(6, rows=30).select(trials=[3, 1], channels=[3, 0, 3])
    made = labelled(np.negative, trials=trials, join="stack")
    assert axes_of(made) == [("trial", [3, 1]), ("time", None), ("channel", [b"d", b"a", b"d"])]


def test_axes_that_the_source_does_not_have_are_unnamed(labelled):
    assert axes_of(labelled(lambda x: x[:, :2])) == [("time", None), ("", None)]
    assert axes_of(labelled(spread, join_axis=2)) == [("", None)] * 4
    assert axes_of(labelled(np.mean, join="stack")) == [("trial", [0, 1, 2, 3, 4])]


@pytest.mark.parametrize("name", ["data", "trials", "hpcio", "metadata", "trial"])
def test_a_name_of_the_source_that_is_taken_in_a_result_is_dropped(tmp_path, name):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        lfp = f.create_dataset("lfp", data=LFP)
        f[name] = np.arange(4)
        f[name].make_scale(name)
        lfp.dims[1].attach_scale(f[name])
    made = Plan.create(
        np.negative, f"{tmp_path}/rec.h5::lfp", trials=6, join="stack", out=tmp_path / "out.h5"
    )
    assert [axis.name for axis in made.axes] == ["trial", "", ""]
    made.run(workers=0, progress=False)
    with hpcio.open(made.out) as f:
        np.testing.assert_array_equal(f["data"], -LFP.reshape(5, 6, 4))


def test_axes_can_be_named(labelled):
    made = labelled(
        lambda x: np.abs(np.fft.rfft(x, axis=0)), join="stack",
        axes={"utterance": None, "frequency": np.arange(4) / 6, "electrode": ["Fz", "Cz", "ä", ""]},
    )  # fmt: skip
    assert axes_of(made) == [
        ("utterance", [0, 1, 2, 3, 4]),
        ("frequency", [0.0, 1 / 6, 2 / 6, 3 / 6]),
        ("electrode", [b"Fz", b"Cz", "ä".encode(), b""]),
    ]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"time": None}, "has 2 axes .* names 1"),
        ({"time": None, "channel": [1, 2]}, r"'channel' have shape \(2,\).*4 rows"),
        ({"time": None, "channel": [None] * 4}, "type object"),
        ({"time": None, "": None}, "'' cannot be the name"),
        ({"time": None, "data": None}, "'data' cannot be the name"),
        ({"time": None, "a/b": None}, "'a/b' cannot be the name"),
    ],
)
def test_axes_that_do_not_fit_are_refused(labelled, axes, message):
    with pytest.raises(PlanError, match=message):
        labelled(np.negative, axes=axes)


# ---- kept on disk -------------------------------------------------------------------------------


def weighted(trial, weight, *, gain=1.0, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, np.dtype("f4")
    return (gain * weight * trial).astype("f4")


def rich(plan: Planner, **options: Any) -> Plan:
    """A plan with something of everything."""
    trials = hpcio.Trials.from_array(TRIALS).select(
        trials=[4, 0, 2, 0], time=slice(None, None, -1), channels=[3, 0, 3]
    )
    return plan(
        weighted,
        **{
            "trials": trials, "args": [per_trial([1.0, 2.0, 3.0, 4.0])], "kwargs": {"gain": 0.5},
            "channels_per_block": 2, "axes": {"time": None, "channel": [9, 8, 7]},
            **options,
        },
    )  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Whether two parts of plans are equal, arrays by type and bytes."""
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    if dataclasses.is_dataclass(a):
        names = [field.name for field in dataclasses.fields(a)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    if isinstance(a, tuple) and a and dataclasses.is_dataclass(a[0]):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_a_plan_comes_back_as_it_was(plan):
    made = rich(plan)
    rundir.prepare(made)
    for name in (made.out, f"{made.out}.run", Path(made.out)):
        loaded = Plan.load(name)
        for field in dataclasses.fields(Plan):
            if field.name == "trials":  # what is selected of them, is in the blocks
                for column in ("start", "stop", "offset", "index", "axis"):
                    assert same(getattr(loaded.trials, column), getattr(made.trials, column))
            elif field.name != "live":  # the function itself stays in the session
                assert same(getattr(loaded, field.name), getattr(made, field.name)), field.name
        assert [loaded.trl_dat(i) for i in range(8)] == [made.trl_dat(i) for i in range(8)]
        assert loaded.arguments().of(2) == ((3.0,), {"gain": 0.5})
    assert isinstance(loaded.blocks, Blocks)
    assert all(isinstance(form, Form) for form in loaded.blocks.forms)


def test_a_plan_is_its_owners_alone(plan):
    made = plan(np.negative)
    rundir.prepare(made)
    modes = [path.stat().st_mode & 0o777 for path in made.run_directory.iterdir() if path.is_file()]
    assert modes == [0o600]
    assert made.run_directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.root
def test_a_plan_of_another_user_is_never_unpickled(plan):
    made = plan(np.negative)
    rundir.prepare(made)
    os.chown(made.run_directory / "plan.h5", 12345, -1)
    with pytest.raises(PlanError, match="belongs to another user"):
        Plan.load(made.out)


def test_there_is_no_plan(tmp_path):
    with pytest.raises(PlanError, match=r"no plan '.*none\.h5\.run/plan\.h5'"):
        Plan.load(tmp_path / "none.h5")


# ---- the digest ---------------------------------------------------------------------------------


def test_equal_plans_have_equal_digests_wherever_they_go(plan, tmp_path):
    first, second = rich(plan), rich(plan, out=tmp_path / "elsewhere.h5")
    assert first.digest == second.digest
    assert first.token != second.token


def other(trial, weight, *, gain=1.0, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, np.dtype("f4")
    return (gain * weight * trial).astype("f4")[:]


EQUAL = {"trials": [[0, 4, 1]] * 4, "axes": None}
TABLE = hpcio.Trials.from_array(TRIALS[:4])


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (EQUAL | {"trials": TABLE}, {"trials": TABLE.select(trials=[0, 1, 3, 2])}),
        (EQUAL | {"trials": TABLE}, {"trials": TABLE.select(time=slice(-2, None))}),
        (EQUAL | {"trials": TABLE}, {"trials": TABLE.select(channels=[1, 0, 2, 3])}),
        ({}, {"args": [per_trial([1.0, 2.0, 3.0, 5.0])]}),
        ({}, {"args": [per_trial([1.0, 2.0, 3.0, 4])]}),
        ({}, {"args": [2.0]}),
        ({}, {"kwargs": {}}),
        ({}, {"kwargs": {"gain": 0.25}}),
        ({}, {"channels_per_block": 1}),
        ({}, {"out_dtype": "f8"}),
        ({}, {"out_dtype": "f4"}),
        ({}, {"sources": "task"}),
        ({}, {"dataset": "other"}),
        (EQUAL, {"trials": [[0, 4, 1]] * 3 + [[1, 5, 1]]}),
        (EQUAL, {"trials": [[0, 4, 1]] * 3 + [[0, 4, 2]]}),
        (EQUAL, {"trials": [[0, 4, 1]] * 3 + [[0, 5, 1]]}),
        (EQUAL, {"join": "stack"}),
        (EQUAL, {"join_axis": 1, "out_channel_axis": 0}),
    ],
)
def test_a_plan_that_gives_other_bytes_has_another_digest(plan, base, change):
    assert rich(plan, **{**base, **change}).digest != rich(plan, **base).digest


def test_another_function_has_another_digest(plan):
    digests = {plan(func, args=[1.0]).digest for func in (weighted, other)}
    closures = [lambda trial, _, k=k: k * trial for k in (1, 2)]
    digests |= {plan(func, args=[1.0]).digest for func in closures}
    assert len(digests) == 4


def test_a_changed_recording_has_another_digest(plan, tmp_path):
    before = plan(np.negative).digest
    os.utime(tmp_path / "rec.h5", ns=(1, 1))
    touched = plan(np.negative).digest
    with h5py.File(tmp_path / "rec.h5", "a") as f:
        f["more"] = 1
    assert len({before, touched, plan(np.negative).digest}) == 3


# A script with what makes pickles differ from process to process: sets of strings, classes
# and helpers of its own, a file name.
SCRIPT = """
import dataclasses
import sys
import hpcio

WORDS = {"alpha", "beta", "gamma", "delta"}

@dataclasses.dataclass
class Config:
    order: int = 3

def helper(x):
    "A helper."
    return x, "some more words"

@hpcio.unwrap_io
def func(trial, config, words, chunkShape=None, noCompute=None):
    "What it does."
    if noCompute:
        return trial.shape, "f8"
    if trial.dtype.name in {"float64", "float32", "int16"} and not words & WORDS:
        return helper(trial * 2.5)[0] + Config(4).order
    return [k for k in range(config.order)]

plan = hpcio.Plan.create(
    func, "rec.h5::lfp", trials=6, out=sys.argv[-1] + ".h5",
    args=(Config(), {"x", "y", "z"}), kwargs={},
)
print(plan.function.name, plan.digest)
"""


def digest_of(script: list[str], folder: Path, stdin: str = "") -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, *script, "out"], cwd=folder, input=stdin, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    name, digest = done.stdout.split()
    return name, digest


def test_a_function_typed_again_elsewhere_has_the_same_digest(plan, tmp_path):
    (tmp_path / "first.py").write_text(SCRIPT)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "second.py").write_text("# moved\n\n" + SCRIPT)
    digests = {
        digest_of(["first.py"], tmp_path),
        digest_of(["first.py"], tmp_path),
        digest_of(["deep/second.py"], tmp_path),
        digest_of(["-c", SCRIPT], tmp_path),
        digest_of(["-"], tmp_path, stdin=SCRIPT),
    }
    assert len(digests) == 1
    assert digests.pop()[0] == "__main__:func"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2.5", "2.75"),
        ('"delta"', '"epsilon"'),
        ('"int16"', '"int8"'),
        ("order: int = 3", "order: int = 5"),
        ("return x, ", "return -x, "),
        ('"x", "y"', '"x"'),
    ],
)
def test_a_changed_script_has_another_digest(plan, tmp_path, old, new):
    assert SCRIPT.count(old) == 1
    changed = digest_of(["-c", SCRIPT.replace(old, new)], tmp_path)
    assert changed != digest_of(["-c", SCRIPT], tmp_path)


def test_an_imported_function_has_the_same_digest_in_another_process(plan, tmp_path):
    (tmp_path / "work.py").write_text("def double(trial):\n    return 2 * trial\n")
    script = (
        "import hpcio\n"
        "plan = hpcio.Plan.create('work.py:double', 'rec.h5::lfp', trials=6, out='out.h5')\n"
        "print(plan.function.name, plan.digest)\n"
    )
    first = digest_of(["-c", script], tmp_path)
    assert first[0] == "work:double"
    assert digest_of(["-c", script], tmp_path) == first
    (tmp_path / "work.py").write_text("def double(trial):\n    return 3 * trial\n")
    assert digest_of(["-c", script], tmp_path) != first


# ---- the dict of one block ----------------------------------------------------------------------


def test_the_dict_of_a_block(plan, tmp_path):
    trl_dat = rich(plan).trl_dat(5)  # the second channel block of the third trial
    assert trl_dat == {
        "keeptrials": True,
        "infile": str(tmp_path / "rec.h5"),
        "indset": "lfp",
        "ingrid": (slice(12, 20, 1), slice(3, 4, 1)),
        "inshape": (8, 1),
        "sigrid": [[7, 6, 5, 4, 3, 2, 1, 0], [0]],
        "fancy": True,
        "vdsdir": str(tmp_path / "out.h5.byhand"),
        "outfile": str(tmp_path / "out.h5.byhand" / "2_1.h5"),
        "outdset": "data",
        "outgrid": (slice(10, 18), slice(2, 3)),
        "outshape": (8, 1),
        "dtype": np.dtype("f4"),
        "call_id": "__2_1",
    }


@hpcio.unwrap_io
def filtered(trial, taps=(0.5, 0.5), chunkShape=None, noCompute=None):
    """A moving average, channels first, with the mean of each channel as detail."""
    if noCompute:
        return trial.shape[::-1], np.dtype("f8")
    smooth = np.apply_along_axis(np.convolve, 0, trial, taps, mode="same")
    return smooth.T, {"mean": trial.mean(axis=0)}


@pytest.mark.parametrize(
    "options",
    [
        {"join_axis": 1},
        {"join_axis": 1, "out_channel_axis": 0, "channels_per_block": 3},
        {"join": "stack", "trials": 6},
        {"join": "stack", "trials": 6, "out_channel_axis": 0, "channels_per_block": 1},
        {"join_axis": 1, "sources": "task", "out_dtype": "f4"},
        {"join_axis": 1, "args": [per_trial([[1.0], [0.5, 0.5], [0.25] * 4, [2.0], [1.0, 1.0]])]},
        {"join_axis": 1, "trials": hpcio.Trials.from_array(TRIALS).select(
            trials=[4, 0, 2, 0], time=[3, 0, 2, 2], channels=[3, 0, 3])},
    ],
)  # fmt: skip
def test_blocks_driven_by_hand_give_what_a_run_gives(plan, options):
    made = plan(filtered, **options)
    byhand = np.full(made.target.shape, np.nan, made.target.dtype)
    details = {}
    for i in range(len(made)):
        trl_dat = made.trl_dat(i)
        args, kwargs = made.arguments().of(int(made.blocks.trial[i]))
        assert filtered((trl_dat, *args), **kwargs) is None
        with h5py.File(trl_dat["outfile"]) as f:
            byhand[trl_dat["outgrid"]] = f["data"][...]
            details.update(f["metadata"].attrs)
    made.run(workers=0, progress=False)
    with h5py.File(made.out) as f:
        assert f["data"].dtype == byhand.dtype
        assert f["data"][...].tobytes() == byhand.tobytes()
        kept = dict(f["metadata"].attrs)
    assert kept.keys() == details.keys()
    assert all(np.array_equal(kept[name], details[name]) for name in kept)


def test_blocks_driven_by_hand_into_one_shared_file(plan, tmp_path):
    made = rich(plan)
    with h5py.File(tmp_path / "shared.h5", "w") as f:
        f.create_dataset("data", made.target.shape, made.target.dtype)
    worker = hpcio.unwrap_io(weighted)
    for i in range(len(made)):
        args, kwargs = made.arguments().of(int(made.blocks.trial[i]))
        shared = {**made.trl_dat(i), "vdsdir": None, "outfile": tmp_path / "shared.h5"}
        worker((shared, *args), **kwargs)
    made.run(workers=0, progress=False)
    with h5py.File(made.out) as f, h5py.File(tmp_path / "shared.h5") as g:
        np.testing.assert_array_equal(g["data"], f["data"])
        assert g["data"].dtype == f["data"].dtype


# ---- sizes --------------------------------------------------------------------------------------


def test_bytes_read_and_written_of_each_block(plan):
    made = plan(lambda x: x[:2].astype("f4"), channels_per_block=3)
    np.testing.assert_array_equal(made.input_sizes(), np.outer([6, 6, 8, 6, 4], [3, 1]).ravel() * 8)
    np.testing.assert_array_equal(made.target.sizes(), [24, 8] * 5)
    assert made.target.nbytes == 10 * 4 * 4
