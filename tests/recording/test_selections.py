"""Of trials, time and channels anything may be selected, and is what numpy selects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcio
from hpcio import Trials
from tests.rigs.runs import LFP, TABLE, Array, check, pieces, record, run


def test_trials_may_overlap_and_come_in_any_order(tmp_path, lfp):
    table = [[20, 30], [0, 30], [5, 6], [20, 30], [4, 9]]
    run(np.cumsum, lfp, tmp_path / "out.h5", trials=table, kwargs={"axis": 0})
    expected = [np.cumsum(LFP[a:b], axis=0) for a, b in table]
    check(tmp_path / "out.h5", np.concatenate(expected))


@pytest.mark.parametrize("storage", ["contiguous", "compressed"])
def test_of_trials_time_and_channels_anything_may_be_selected(tmp_path, storage):
    chunks = {"chunks": (7, 3), "compression": "gzip"} if storage == "compressed" else {}
    source = record(tmp_path / "rec.h5", LFP, **chunks)
    trials = Trials.from_array(TABLE).select(
        trials=[4, 0, 2, 0], time=[3, -1, 0, 3], channels=[3, 0, 3, 1]
    )
    run(np.negative, source, tmp_path / "out.h5", trials=trials, workers=2)
    parts = [pieces()[k][[3, -1, 0, 3]][:, [3, 0, 3, 1]] for k in (4, 0, 2, 0)]
    check(tmp_path / "out.h5", -np.concatenate(parts))
    with hpcio.open(tmp_path / "out.h5") as f:
        assert f["trials"]["trial"].tolist() == [4, 0, 2, 0]
        assert f["trials"]["start"].tolist() == [26, 0, 12, 0]
        assert f["trials"]["offset"].tolist() == [-5, 1, 3, 1]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, dict[str, Any]]:
    """A recording of three axes, trials and selections of it, and ways to join the results."""
    shape = [draw(st.integers(1, 4)) for _ in range(3)]
    axis = draw(st.integers(0, 2))
    channel_axis = draw(st.sampled_from([a for a in range(3) if a != axis]))
    shape[axis] = rows = draw(st.integers(2, 12))
    start = draw(st.lists(st.integers(0, rows - 2), min_size=1, max_size=6))
    table = [[a, draw(st.integers(a + 2, rows))] for a in start]
    entries = st.lists(st.integers(-shape[channel_axis], shape[channel_axis] - 1), min_size=1)
    trials = Trials.from_array(table, axis=axis).select(
        trials=draw(st.none() | st.lists(st.integers(0, len(start) - 1), min_size=1)),
        time=draw(st.sampled_from([None, slice(None, None, -1), slice(0, None, 2), [1, 0, 1]])),
        channels=draw(st.none() | entries),
    )
    # Whole numbers, whose sums are exact in whatever order numpy adds them.
    data = np.round(100 * np.random.default_rng(len(start)).normal(size=shape))
    data = data.astype(draw(st.sampled_from(["f8", ">f4", "c8"])))
    return data, {
        "trials": trials.with_blocks(
            channel_axis=channel_axis, channels_per_block=draw(st.none() | st.integers(1, 3))
        ),
        "axis": axis, "sources": draw(st.sampled_from(["trial", "task"])),
        "storage": draw(st.sampled_from([{}, {"chunks": True}])),
        "stack": draw(st.booleans()),
    }  # fmt: skip


@given(cases())
@settings(max_examples=30, deadline=None)
def test_any_run_gives_what_numpy_gives(tmp_path_factory, case):
    data, options = case
    folder = tmp_path_factory.mktemp("any")
    trials, axis = options["trials"], options["axis"]
    expected = []
    for first, last in zip(trials.start, trials.stop, strict=True):
        x = np.take(data, range(first, last), axis)
        x = np.take(x, np.arange(last - first)[_index(trials.time)], axis)
        x = np.take(x, np.arange(data.shape[trials.channel_axis])[_index(trials.channels)],
                    trials.channel_axis)  # fmt: skip
        expected.append(2 * (x.sum(axis=axis, keepdims=True) if options["stack"] else x))

    def double(trial, noCompute=None):
        if noCompute:
            shape = list(trial.shape)
            shape[axis] = 1 if options["stack"] else shape[axis]
            return shape, expected[0].dtype
        return 2 * (trial.sum(axis=axis, keepdims=True) if options["stack"] else trial)

    run(
        double, record(folder / "rec.h5", data, **options["storage"]), folder / "out.h5",
        trials=trials, axis=axis, sources=options["sources"],
        join="stack" if options["stack"] else "concatenate",
    )  # fmt: skip
    check(
        folder / "out.h5",
        np.stack(expected) if options["stack"] else np.concatenate(expected, axis),
    )


def _index(selection: Any) -> Any:
    return slice(None) if selection is None else selection if isinstance(selection, slice) else (
        list(selection)
    )  # fmt: skip


@pytest.mark.parametrize("channels", [slice(1, None, 1000), [2999, 0, 5, 5]])
def test_some_channels_of_many(tmp_path, channels):
    # rows of 24 kB are not read whole for a few of their values
    data = np.random.default_rng(6).normal(size=(30, 3000))
    trials = Trials.from_array(TABLE).select(channels=channels)
    source = record(tmp_path / "rec.h5", data)
    run(np.negative, source, tmp_path / "out.h5", trials=trials, workers=2)
    check(tmp_path / "out.h5", -data[:, channels])
