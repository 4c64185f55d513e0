"""Results as Datasets of xarray: names, coordinates, values where they are asked for."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import ResultError

xarray = pytest.importorskip("xarray")

X = np.arange(160.0).reshape(40, 4)


@pytest.fixture
def trials(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File("rec.h5", "w") as f:
        f["lfp"] = X
    return hpcio.Trials.equal(10, rows=40).with_columns(
        condition=["b", "a", "b", "a"], good=[True, True, False, True]
    )


def made(trials, func=np.negative, **options):
    plan = hpcio.Plan.create(func, "rec.h5::lfp", trials=trials, out="out.h5", **options)
    plan.run(workers=1, progress=False)
    return hpcio.open("out.h5").to_xarray()


@pytest.mark.parametrize("form", ["parts", "one file"])
def test_stacked_trials(trials, form):
    axes = {"trial": None, "time": np.arange(10) / 10, "channel": list("wxyz")}
    found = made(trials, join="stack", axes=axes)
    if form == "one file":
        found.close()
        hpcio.repack("out.h5")
        found = hpcio.open("out.h5").to_xarray()
    with found:
        data = found["data"]
        assert data.dims == ("trial", "time", "channel")
        assert found["condition"].values.tolist() == ["b", "a", "b", "a"]
        assert found["good"].dtype == bool
        picked = data.where(found["condition"] == "a", drop=True).sel(channel=["z", "w"])
        np.testing.assert_array_equal(picked, -X.reshape(4, 10, 4)[1::2][..., [3, 0]])
        np.testing.assert_array_equal(
            data.isel(trial=[2, 0], time=slice(None, None, -3), channel=[1, 1]),
            -X.reshape(4, 10, 4)[[2, 0]][:, ::-3][..., [1, 1]],
        )
        by = data.groupby("condition").mean()
        np.testing.assert_allclose(by.sel(condition="b"), -X.reshape(4, 10, 4)[::2].mean(axis=0))


def test_joined_trials_keep_what_is_known_of_each(trials):
    with made(trials) as found:
        assert found["data"].dims == ("axis_0", "axis_1")
        assert found["condition"].dims == ("trial",)
        np.testing.assert_array_equal(found["data"][3:7, 1], -X[3:7, 1])


@pytest.mark.parametrize("by", ["condition", ["condition", "good"]])
def test_averages_by_condition(trials, by):
    with made(trials, keeptrials=False, by=by) as found:
        if by == "condition":
            of_b = found["data"].sel(condition="b")
            assert found["count"].values.tolist() == [2, 2]
        else:
            assert found["data"].dims[0] == "condition_good"
            assert found["condition"].values.tolist()[:3] == ["a", "b", "b"]
            assert found["count"].values.tolist() == [2, 1, 1]
            of_b = found["data"][1:].mean("condition_good")
        np.testing.assert_allclose(of_b, -X.reshape(4, 10, 4)[::2].mean(axis=0))


def test_columns_whose_names_are_taken(trials):
    """`count` is that of the average."""
    trials = trials.with_columns(count=[9, 8, 7, 6])
    with made(trials, keeptrials=False, by="condition") as found:
        assert found["count"].values.tolist() == [2, 2]
        assert found["trial_count"].values.tolist() == [9, 8, 7, 6]
        assert found["trial_count"].dims == ("trial",)


def test_what_is_missing_is_refused_when_it_is_asked_for(trials, tmp_path):
    found = made(trials, join="stack", sources="trial")
    part = min((tmp_path / "out.h5.run/sources").iterdir())
    part.rename(tmp_path / "away")
    with pytest.raises(ResultError):
        found["data"].load()
    (tmp_path / "away").rename(part)
    found.close()
