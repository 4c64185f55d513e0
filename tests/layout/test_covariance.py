"""The covariance of channels over trials: that of numpy, and the same bits however the run goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcio
from hpcio.errors import OptionError
from hpcio.layout.averages import Average
from hpcio.layout.states import begin, combine, nbytes_of
from tests.rigs.bench import Bench

Array = np.ndarray


def recording(folder: Path, data: Array, names: list[str] | None = None) -> str:
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = data
        if names is not None:
            f["electrode"] = names
            f["electrode"].make_scale("electrode")
            f["lfp"].dims[1].attach_scale(f["electrode"])
            f["lfp"].dims[1].label = "electrode"
    return f"{folder}/rec.h5::lfp"


def covariance(folder: Path, func: Any = np.copy, **options: Any) -> Array:
    """The result of a run over the recording, as plain h5py reads it."""
    run = {k: options.pop(k) for k in ("workers", "gaps") if k in options}
    out = folder / options.pop("name", "out.h5")
    plan = hpcio.Plan.create(
        func, f"{folder}/rec.h5::lfp", out=out, keeptrials=False, reduce="cov", **options
    )
    plan.run(**{"workers": 0, "progress": False, **run})
    hpcio.verify(out)
    with h5py.File(out) as f:
        found: Array = f["data"][...]
        assert f["data"].attrs["reduce"] == "cov"
    assert plan.target.shape == found.shape
    return found


def values(dtype: str, shape: tuple[int, ...], seed: int = 1) -> Array:
    rng = np.random.default_rng(seed)
    data = 100 * rng.normal(size=shape) + np.arange(shape[-1])
    if data.size:
        data[..., 0] += data[..., -1]
    kind = np.dtype(dtype)
    made: Array = (data + 1j * rng.normal(size=shape) if kind.kind == "c" else data).astype(kind)
    return made


def observations(trials: Array, axis: int) -> Array:
    """All observations of some trials, shape (channels, n), with channels along an axis of each."""
    found: Array = np.moveaxis(trials, axis + 1, 0).reshape(trials.shape[axis + 1], -1)
    return found.astype(np.complex128 if trials.dtype.kind == "c" else np.float64)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "i1", ">u2", "<i8", "?", "<c8", ">c16"])
def test_every_type(tmp_path, dtype):
    data = values(dtype, (60, 5))
    recording(tmp_path, data)
    found = covariance(tmp_path, trials=6)
    expected = np.cov(observations(data.reshape(10, 6, 5), 1))
    assert (found.dtype, found.shape) == (expected.dtype, (5, 5))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-9)
    assert (found == found.conj().T).all()


def spectrum(trial: Array) -> Array:
    """Shape (channels, frequencies, 2), complex."""
    found: Array = np.stack([np.fft.rfft(trial, axis=0).T] * 2, axis=-1)
    return found


def mean_of_rows(trial: Array) -> Array:
    found: Array = trial.mean(axis=0)
    return found


@pytest.mark.parametrize(
    ("func", "axis", "options"),
    [
        (np.copy, 1, {}),
        (np.copy, 0, {"out_channel_axis": -2}),
        (np.transpose, 0, {"out_channel_axis": 0}),
        (spectrum, 0, {"out_channel_axis": 0}),
        (mean_of_rows, 0, {}),
    ],
)
@pytest.mark.parametrize("by", [None, ["kind", "side"]])
def test_observations_are_all_axes_but_that_of_channels(tmp_path, func, axis, options, by):
    data = values("f4", (120, 4))
    recording(tmp_path, data)
    kind, side = np.arange(20) % 3, np.array(list("ab"))[np.arange(20) % 2]
    trials = hpcio.Trials.equal(6, rows=120).with_columns(kind=kind, side=side)
    found = covariance(tmp_path, func, trials=trials, by=by, **options)
    stack = np.stack([func(trial) for trial in data.reshape(20, 6, 4)])
    if by is None:
        expected = np.cov(observations(stack, axis))
    else:
        pairs = [(k, s) for k in range(3) for s in "ab"]
        expected = np.stack(
            [np.cov(observations(stack[(kind == k) & (side == s)], axis)) for k, s in pairs]
        )
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-9)


def test_it_does_not_cancel(tmp_path):
    """Where sums of products, as one adds them up by hand, have lost all digits."""
    noise = values("f8", (4000, 3)) / 100
    recording(tmp_path, 1e9 + noise)
    found = covariance(tmp_path, trials=10)
    np.testing.assert_allclose(found, np.cov(((1e9 + noise) - 1e9).T), atol=1e-7)
    raw = (1e9 + noise).T
    naive = raw @ raw.T / 3999 - np.outer(raw.mean(axis=1), raw.mean(axis=1)) * 4000 / 3999
    assert np.abs(naive - found).max() > 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_a_number_goes_where_it_goes_in_numpy(tmp_path, bad):
    data = values("f8", (60, 4))
    data[17, 2] = bad
    recording(tmp_path, data)
    with np.errstate(invalid="ignore"):
        found = covariance(tmp_path, trials=6)
        expected = np.cov(data.T)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.isnan(found[2]).all()


def fails_for_some(trial: Array) -> Array:
    if trial[0, 0] in (1, 4, 7):
        raise ValueError("sick")
    return trial


def test_gaps_and_too_few_observations(tmp_path):
    """A failed trial is left out. Of one observation, or none, there is no covariance."""
    data = values("f8", (9, 3))
    data[:, 0] = np.arange(9)
    recording(tmp_path, data)
    trials = hpcio.Trials.equal(1, rows=9).with_columns(kind=[0, 0, 0, 0, 1, 1, 2, 2, 2])
    trials = trials.select(trials=[0, 1, 2, 3, 4, 5, 7])  # of kind 1 one is left, of kind 2 none
    shape = {"out_shape": (1, 3), "out_dtype": "f8"}
    found = covariance(
        tmp_path, fails_for_some, trials=trials, by="kind", gaps=True, workers=1, **shape
    )
    np.testing.assert_allclose(found[0], np.cov(data[[0, 2, 3]].T), rtol=1e-12)
    assert np.isnan(found[1:]).all()
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["count"][()].tolist() == [3, 1, 0]


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_any_split_gives_that_of_all(data):
    """Trials of any number and shape, in groups of any size; the same groups give the same bits."""
    rank = data.draw(st.integers(1, 3))
    axis = data.draw(st.integers(0, rank - 1))
    shape = tuple(data.draw(st.integers(int(k == axis), 4)) for k in range(rank))
    stack = values(data.draw(st.sampled_from(["f4", "c8"])), (data.draw(st.integers(1, 9)), *shape))
    average = Average("cov", 1, 1, stack.dtype, result=shape, channel_axis=axis)
    size = data.draw(st.integers(1, 9))

    def groups() -> list[Any]:
        made = []
        for first in range(0, len(stack), size):
            made.append(begin(average, shape))
            for trial in stack[first : first + size]:
                made[-1].add(trial)
        return made

    found, again = (combine(average, shape, groups()) for _ in range(2))
    assert found.tobytes() == again.tobytes()
    assert nbytes_of(average, shape) == sum(part.nbytes for part in groups()[0].parts())
    seen = observations(stack, axis)
    if seen.shape[1] > 1:
        np.testing.assert_allclose(found, np.cov(seen).reshape(found.shape), rtol=1e-9, atol=1e-6)
    else:
        assert np.isnan(found).all()


def test_a_large_trial_is_taken_in_pieces():
    stack = values("f4", (3, 50_000, 16))
    average = Average("cov", 1, 1, stack.dtype, result=stack.shape[1:], channel_axis=1)
    state = begin(average, stack.shape[1:])
    for trial in stack:
        state.add(trial)
    np.testing.assert_allclose(state.made(), np.cov(observations(stack, 1)), rtol=1e-10, atol=1e-7)


# ---------------------------------------------------------------------- the same bits


def test_the_same_bits_for_any_number_of_workers(tmp_path):
    recording(tmp_path, values("f4", (4800, 7)))
    found = {
        workers: covariance(tmp_path, trials=4, workers=workers, name=f"{workers}.h5").tobytes()
        for workers in range(4)
    }
    assert len(set(found.values())) == 1


def test_killed_and_resumed(tmp_path):
    bench = Bench(tmp_path, trials=1100, keeptrials=False, reduce="cov")
    plan = bench.plan(out=tmp_path / "whole.h5")
    plan.run(workers=0, progress=False)
    bench.forget_calls()
    bench.kill_in(604, workers=2)
    bench.forget_calls()
    hpcio.Plan.load(bench.out).run(workers=2, progress=False)
    assert 604 in bench.calls
    with h5py.File(bench.out) as f, h5py.File(plan.out) as g:
        assert f["data"][...].tobytes() == g["data"][...].tobytes()
        np.testing.assert_allclose(f["data"], np.cov(2.0 * bench.lfp.T), rtol=1e-10)


# ---------------------------------------------------------------------- its axes


def test_both_axes_have_the_names_of_channels(tmp_path):
    xarray = pytest.importorskip("xarray")
    data = values("f8", (60, 3))
    recording(tmp_path, data, ["Fz", "Cz", "Pz"])
    trials = hpcio.Trials.equal(6, rows=60).with_columns(kind=list("ab") * 5)
    trials = trials.select(channels=[2, 0])
    covariance(tmp_path, trials=trials, by="kind")
    with hpcio.open(tmp_path / "out.h5").to_xarray() as found:
        assert found["data"].dims == ("kind", "electrode", "electrode_2")
        assert found["electrode"].values.tolist() == ["Pz", "Fz"]
        one = found["data"].sel(kind="b", electrode="Fz", electrode_2="Pz")
        expected = np.cov(data.reshape(10, 6, 3)[1::2].reshape(-1, 3).T)[0, 2]
        np.testing.assert_allclose(one, expected, rtol=1e-12)
        assert isinstance(found, xarray.Dataset)
    hpcio.repack(tmp_path / "out.h5")
    hpcio.verify(tmp_path / "out.h5")


def test_axes_without_names_and_with_those_of_the_caller(tmp_path):
    recording(tmp_path, values("f8", (60, 3)))
    covariance(tmp_path, trials=6)
    covariance(tmp_path, trials=6, name="named.h5", axes={"row": list("abc"), "column": None})
    with hpcio.open(tmp_path / "out.h5") as f, hpcio.open(tmp_path / "named.h5") as g:
        assert [d.label for d in f["data"].dims] == ["channel", "channel_2"]
        assert [d.label for d in g["data"].dims] == ["row", "column"]


# ---------------------------------------------------------------------- what is refused


def scalar(trial: Array) -> Any:
    return trial.max()


@pytest.mark.parametrize(
    ("func", "options", "said"),
    [
        (np.transpose, {}, r"shape \(3, 6\); trials have 3 channels, on axis 1\. Say out_channel"),
        (scalar, {}, r"has shape \(\).*Say out_channel_axis="),
        (np.copy, {"out_channel_axis": 2}, r"there is no axis 2\. Correct out_channel_axis"),
        (np.copy, {"channels_per_block": 2}, r"into 2 blocks\. Leave out channels_per_block"),
    ],
)
def test_channels_that_are_not_known_or_not_all_there(tmp_path, func, options, said):
    recording(tmp_path, values("f8", (60, 3)))
    with pytest.raises(OptionError, match=said):
        covariance(tmp_path, func, trials=6, **options)


def test_channels_of_recordings_of_more_axes_are_to_be_said(tmp_path):
    data = values("f8", (20, 2, 4))
    recording(tmp_path, data)
    with pytest.raises(OptionError, match=r"shape \(5, 2, 4\)\. Say out_channel_axis="):
        covariance(tmp_path, trials=5)
    found = covariance(tmp_path, trials=5, channel_axis=2)
    np.testing.assert_allclose(found, np.cov(data.reshape(-1, 4).T), rtol=1e-12)
    same = covariance(tmp_path, trials=5, out_channel_axis=2, name="same.h5")
    assert found.tobytes() == same.tobytes()


def test_there_is_no_median_but_a_way(tmp_path):
    data = values("f8", (60, 3))
    source = recording(tmp_path, data)
    for kept in ({}, {"keeptrials": False}):
        with pytest.raises(OptionError, match=r"needs all trials at once.*median\('trial'\)"):
            hpcio.Plan.create(
                np.copy, source, trials=6, out=tmp_path / "a.h5", reduce="median", **kept
            )
    pytest.importorskip("xarray")
    plan = hpcio.Plan.create(np.copy, source, trials=6, out=tmp_path / "kept.h5", join="stack")
    plan.run(workers=0, progress=False)
    with hpcio.open(plan.out).to_xarray() as found:
        median = found["data"].median("trial").values
    np.testing.assert_array_equal(median, np.median(data.reshape(10, 6, 3), axis=0))
