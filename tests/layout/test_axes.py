"""Names and coordinates of the axes of a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray

import hpcio
from hpcio import Plan
from hpcio.errors import PlanError
from tests.rigs.plans import LFP, Planner, spread


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


def test_what_remains_of_a_trial_has_its_names(labelled):
    """Of a result with fewer axes than its trial, if only one choice of them is as long."""
    channels = ("channel", [b"a", b"b", b"c", b"d"])
    trial, mean = ("trial", [0, 1, 2, 3, 4]), {"join": "stack"}
    assert axes_of(labelled(lambda x: x.mean(axis=0), **mean)) == [trial, channels]
    assert axes_of(labelled(lambda x: x.mean(axis=1), **mean)) == [trial, ("time", None)]
    assert axes_of(labelled(lambda x: x.mean(axis=1))) == [("time", None)]
    assert axes_of(labelled(lambda x: x.mean(axis=0))) == [("", None)]  # those of all, in a row
    assert axes_of(labelled(lambda x: x[0, :3], **mean)) == [trial, ("", None)]
    square = labelled(lambda x: x.mean(axis=0), trials=[[0, 4], [4, 8]], **mean)
    assert axes_of(square) == [("trial", [0, 1]), ("", None)]  # which one it is, nobody knows
    uneven = labelled(lambda x: x.mean(axis=0), trials=[[0, 4], [4, 9]], **mean)
    assert axes_of(uneven) == [("trial", [0, 1]), channels]
    averaged = labelled(lambda x: x.mean(axis=0), keeptrials=False)
    assert axes_of(averaged) == [channels]
    several = labelled(lambda x: {"peak": x.max(axis=0), "all": x}, join={"peak": "stack"})
    assert [[a.name for a in o.axes] for o in several.outputs] == [
        ["trial", "channel"], ["time", "channel"],
    ]  # fmt: skip


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


def test_an_axis_with_a_name_of_the_source_has_its_coordinates(labelled):
    """Wherever it lies, if it is as long in each trial, and unless others are given."""
    channels, stacked = [b"a", b"b", b"c", b"d"], ("trial", [0, 1, 2, 3, 4])
    axes = {"trial": None, "channel": None}
    made = labelled(lambda x: x.mean(axis=0), join="stack", axes=axes)
    assert axes_of(made) == [stacked, ("channel", channels)]
    made = labelled(lambda x: x.max(axis=0)[:3], join="stack", axes=axes)
    assert axes_of(made) == [stacked, ("channel", None)]
    axes = {"trial": None, "channel": None, "time": None}
    trials = hpcio.Trials.from_events([0.6, 1.2], rate=10, pre=0.2, post=0.4)
    made = labelled(np.transpose, trials=trials.select(channels=[2, 0]), join="stack", axes=axes)
    times = (np.arange(6) - 2) / 10
    assert axes_of(made)[1:] == [("channel", [b"c", b"a"]), ("time", times.tolist())]
    axes["channel"] = [7, 8]
    made = labelled(np.transpose, trials=trials.select(channels=[2, 0]), join="stack", axes=axes)
    assert axes_of(made)[1] == ("channel", [7, 8])


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


AXES = {
    "none": None,
    "names": {"trial": None, "channel": None},
    "some": {"trial": None, "channel": ["a", "b", "ö", ""]},
    "not the first": {"time": None, "channel": [4.0, 3.0, 2.0, 1.0]},
}


@pytest.mark.parametrize("engine", ["h5netcdf", "netcdf4"])
@pytest.mark.parametrize("named", AXES)
def test_xarray_opens_a_result_and_writes_it_again(plan, tmp_path, engine, named):
    join = "concatenate" if named == "not the first" else "stack"
    made = plan(lambda x: x.mean(axis=0, keepdims=join != "stack"), join=join, axes=AXES[named])
    made.run(workers=0, progress=False)
    hpcio.repack(made.out, tmp_path / "one.h5")
    for name in (made.out, tmp_path / "one.h5"):
        with xarray.open_dataset(name, engine=engine) as opened:
            loaded = opened.load()
        loaded.to_netcdf(tmp_path / "copy.nc", engine=engine)
        with hpcio.open(made.out) as f, xarray.open_dataset(tmp_path / "copy.nc") as copy:
            assert copy["data"].values.tolist() == f["data"][()].tolist()
            assert list(copy.data_vars) == ["data"]
            for axis, dim in zip(made.axes, copy["data"].dims, strict=True):
                assert dim == (axis.name or "axis_1")
                if axis.values is not None:
                    want = axis.values.tolist()
                    want = [v.decode() if isinstance(v, bytes) else v for v in want]
                    assert copy[dim].values.tolist() == want
                else:
                    assert dim not in copy.coords


@pytest.mark.parametrize(
    "names", [["Fz", "ö"] * 2, np.array(["Fz", "ö"] * 2), np.array(["Fz", "ö"] * 2, dtype=object)]
)
def test_names_of_channels_are_text_in_any_array(plan, names):
    names[2:] = ["a", "b"]
    made = plan(lambda x: x.mean(axis=0), join="stack", axes={"trial": None, "channel": names})
    made.run(workers=0, progress=False)
    with xarray.open_dataset(made.out, engine="h5netcdf") as opened:
        one = opened["data"].sel(channel="ö").values
    with hpcio.open(made.out) as f:
        assert one.tolist() == f["data"][:, 1].tolist()


def test_the_next_step_takes_names_from_a_result(plan, tmp_path):
    names = {"trial": None, "channel": ["a", "b", "ö", "d"]}
    first = plan(lambda x: x.mean(axis=0), join="stack", axes=names)
    first.run(workers=0, progress=False)
    again = Plan.create(np.negative, f"{first.out}::data", trials=1, out=tmp_path / "b.h5")
    assert axes_of(again) == [("trial", None), ("channel", [b"a", b"b", "ö".encode(), b"d"])]


def test_an_axis_without_a_name_has_none_in_the_next_step(plan, tmp_path):
    first = plan(lambda x: x.mean(axis=0), join="stack")
    first.run(workers=0, progress=False)
    again = Plan.create(np.negative, f"{first.out}::data", trials=1, out=tmp_path / "b.h5")
    assert axes_of(again) == [("trial", None), ("", None)]
