"""Which rows make which trial, and what of them is read, against numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcio
from hpcio.errors import HpcioWarning, TrialError
from hpcio.recording.blocks import Blocks
from hpcio.recording.trials import Trials

Array = npt.NDArray[Any]


def read_block(source: Any, blocks: Blocks, i: int) -> Array:
    """What the worker does with block `i`."""
    form = blocks.input_kinds[blocks.input_kind[i]]
    array: Array = source[blocks.ingrid(i)]
    assert array.size
    return array if form.sigrid is None else array[np.ix_(*form.sigrid)]


def naive(source: Array, trials: Trials, k: int) -> Array:
    """Trial `k` by numpy alone, before it is cut into blocks."""

    def pick(array: Array, axis: int, selection: Any) -> Array:
        entries = np.arange(array.shape[axis])
        wanted = slice(None) if selection is None else selection
        return np.take(array, entries[list(wanted) if isinstance(wanted, tuple) else wanted], axis)

    trial = np.take(source, np.arange(trials.start[k], trials.stop[k]), trials.axis)
    trial = pick(trial, trials.axis, trials.time)
    if trials.channels is not None:
        axis = trials.channel_axis
        trial = pick(trial, 1 - trials.axis % 2 if axis is None else axis, trials.channels)
    return trial


def check_against_naive(source: Array, trials: Trials, data: Any = None) -> None:
    blocks = trials.blocks(source.shape)
    assert len(blocks) == len(trials) * blocks.channel_blocks
    for i in range(len(blocks)):
        form, k = blocks.input_kinds[blocks.input_kind[i]], int(blocks.trial[i])
        assert (k, blocks.channel_block[i]) == divmod(i, blocks.channel_blocks)
        assert blocks.base[i] == trials.start[k]
        expected = naive(source, trials, k)
        if blocks.channel_axis is None:
            assert form.channels == (0, 0)
        else:
            expected = np.take(expected, np.arange(*form.channels), blocks.channel_axis)
        found = read_block(source if data is None else data, blocks, i)
        assert found.shape == form.inshape
        np.testing.assert_array_equal(found, expected)
        for region, size in zip(blocks.ingrid(i), source.shape, strict=True):
            assert all(type(end) is int for end in (region.start, region.stop, region.step))
            assert 0 <= region.start < region.stop <= size
            assert region.step > 0


@st.composite
def selections(draw: st.DrawFn, size: int) -> Any:
    """A selection that leaves something of `size` entries."""
    entry = st.integers(-size, size - 1)
    regular = st.slices(size).filter(lambda s: len(range(*s.indices(size))) > 0)
    return draw(st.none() | regular | st.lists(entry, min_size=1, max_size=6))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, Trials]:
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    shape[axis] = rows = draw(st.integers(1, 30))
    start = draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=5))
    stop = [draw(st.integers(first + 1, rows)) for first in start]
    trials = Trials.from_array(np.column_stack([start, stop]), axis=axis)
    shortest = int(trials.lengths.min())
    time = draw(selections(shortest))
    if isinstance(time, slice):  # a slice that leaves something of every trial
        sizes = {len(range(*time.indices(n))) for n in trials.lengths.tolist()}
        time = None if 0 in sizes else time
    trials = trials.select(time=time)
    if len(shape) > 1 and draw(st.booleans()):
        others = [n for n in range(-len(shape), len(shape)) if (n - axis) % len(shape)]
        channel_axis = draw(st.sampled_from(others))
        trials = trials.select(channels=draw(selections(shape[channel_axis]))).with_blocks(
            channel_axis=channel_axis, channels_per_block=draw(st.none() | st.integers(1, 9))
        )
    return np.arange(np.prod(shape)).reshape(shape), trials


@given(cases())
@settings(max_examples=150, deadline=None)
def test_blocks_read_what_numpy_reads(case: tuple[Array, Trials]) -> None:
    check_against_naive(*case)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_selecting_trials_keeps_their_numbers(data: st.DataObject) -> None:
    trials = Trials.from_array([[10 * k, 10 * k + k + 1, -k] for k in range(8)])
    numbers = np.arange(8)
    for _ in range(2):
        wanted = data.draw(selections(len(trials)).filter(lambda s: s is not None))
        trials, numbers = trials.select(trials=wanted), numbers[wanted]
        np.testing.assert_array_equal(trials.index, numbers)
        np.testing.assert_array_equal(trials.start, 10 * numbers)
        np.testing.assert_array_equal(trials.lengths, numbers + 1)
        np.testing.assert_array_equal(trials.offset, -numbers)


@pytest.mark.parametrize("axis", [0, 1])
def test_regions_are_read_by_hdf5(tmp_path: Path, axis: int) -> None:
    source = np.arange(600).reshape((50, 12) if axis == 0 else (12, 50))
    trials = Trials.from_array([[0, 20], [13, 50], [7, 27]], axis=axis)
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        data = f.create_dataset("lfp", data=source)
        for time, channels in [
            (None, None),
            (slice(15, 2, -3), slice(None, None, -1)),
            ([3, 3, 0, -1], [11, 2, 2, 5]),
            ([1, 4, 7], [0, 4, 8]),
        ]:
            selected = trials.select(time=time, channels=channels)
            check_against_naive(source, selected, data)
            check_against_naive(source, selected.with_blocks(channels_per_block=3), data)


def test_equal_trials_share_one_form() -> None:
    blocks = Trials.equal(10, rows=1000).blocks((1000, 4))
    assert (len(blocks), len(blocks.input_kinds)) == (100, 1)
    (form,) = blocks.input_kinds
    assert form.inshape == (10, 4)
    assert form.grid == (slice(0, 10, 1), slice(0, 4, 1))
    assert form.sigrid is None
    assert form.channels == (0, 4)
    assert blocks.ingrid(-1) == (slice(990, 1000, 1), slice(0, 4, 1))


@pytest.mark.parametrize("time", [slice(2, 5), [2, 3, 4]])
def test_trials_that_read_alike_share_a_form_whatever_their_length(time: Any) -> None:
    trials = Trials.from_array([[0, 10], [10, 17], [17, 40]]).select(time=time)
    assert len(trials.blocks((40, 2)).input_kinds) == 1


@pytest.mark.parametrize(
    ("channels", "region", "sigrid"),
    [
        ([2, 4, 6], slice(2, 7, 2), None),
        ([3], slice(3, 4, 1), None),
        (slice(1, None, 3), slice(1, 8, 3), None),
        (slice(5, 6, 4), slice(5, 6, 1), None),
        (slice(None, None, -2), slice(1, 8, 2), range(3, -1, -1)),
        ([6, 2], slice(2, 7, 4), (1, 0)),
        ([1, 2, 5, 1], slice(1, 6, 1), (0, 1, 4, 0)),
        ([-1, 0], slice(0, 8, 7), (1, 0)),
    ],
)
def test_the_smallest_regular_region_is_read(channels: Any, region: slice, sigrid: Any) -> None:
    form = Trials.equal(10, rows=10).select(channels=channels).blocks((10, 8)).input_kinds[0]
    assert form.grid == (slice(0, 10, 1), region)
    assert form.sigrid == (None if sigrid is None else (range(10), sigrid))


def test_channel_blocks_come_trial_by_trial() -> None:
    trials = Trials.equal(5, rows=10).select(channels=slice(1, None))
    blocks = trials.with_blocks(channels_per_block=3).blocks((10, 8))
    assert blocks.trial.tolist() == [0, 0, 0, 1, 1, 1]
    assert blocks.channel_block.tolist() == [0, 1, 2, 0, 1, 2]
    assert blocks.base.tolist() == [0, 0, 0, 5, 5, 5]
    assert [form.channels for form in blocks.input_kinds] == [(0, 3), (3, 6), (6, 7)]
    assert (blocks.channel_blocks, blocks.channel_axis) == (3, 1)


def test_arrays_have_the_promised_types() -> None:
    trials = Trials.read(np.array([[0, 5], [5, 9]], np.uint8), rows=9)
    blocks = trials.blocks((9,))
    columns = (trials.start, trials.stop, trials.offset, trials.index, blocks.trial, blocks.base)
    assert {column.dtype.name for column in columns} == {"int64"}
    assert {column.dtype.name for column in (blocks.input_kind, blocks.channel_block)} == {"int32"}


def test_a_million_trials_of_a_thousand_lengths() -> None:
    length = np.random.default_rng(0).integers(500, 1500, 1_000_000)
    stop = np.cumsum(length)
    trials = Trials.from_array(np.column_stack([stop - length, stop])).select(channels=[5, 1, 9])
    blocks = trials.blocks((int(stop[-1]), 64))
    assert (len(blocks), len(blocks.input_kinds)) == (1_000_000, 1000)
    assert blocks.input_kinds[blocks.input_kind[77]].inshape == (length[77], 3)


def test_trials_by_mask() -> None:
    trials = Trials.equal(10, rows=30)
    assert trials.select(trials=[True, False, True]).index.tolist() == [0, 2]
    with pytest.raises(TrialError, match="2 entries for 3 trials"):
        trials.select(trials=[True, False])
    with pytest.raises(TrialError, match="none of the 3"):
        trials.select(trials=[False] * 3)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"trials": [0, 5]}, "Trial 5 does not exist: there are 5 trials.*0 to 4"),
        ({"trials": [-6]}, "Trial -6"),
        ({"trials": []}, "none of the 5"),
        ({"trials": slice(9, None)}, "none of the 5"),
        ({"trials": [0.0]}, "'trials'.*float64"),
        ({"trials": 3}, r"'trials'.*shape \(\)"),
        ({"time": [[0, 1]]}, "'time'.*flat"),
        ({"time": [[0, 1], [2]]}, "'time'.*flat"),
        ({"time": 3}, "'time'.*list"),
        ({"time": []}, "'time' is empty"),
        ({"time": slice(0.5, None)}, "'time' is 0.5"),
        ({"time": slice(None, None, 0)}, "'time' is 0"),
        ({"channels": "abc"}, "'channels'"),
        ({"channels": [True, False]}, r"np.flatnonzero\(mask\)"),
        ({"channels": [2**70]}, "'channels'"),
    ],
)
def test_a_bad_selection_is_refused(selection: dict[str, Any], message: str) -> None:
    with pytest.raises(TrialError, match=message):
        Trials.equal(10, rows=50).select(**selection)


def test_time_and_channels_are_selected_once() -> None:
    trials = Trials.equal(10, rows=50).select(time=slice(2, 8)).select(channels=[1])
    with pytest.raises(TrialError, match=r"'time' is selected already \(2:8\).*before"):
        trials.select(time=[0])
    with pytest.raises(TrialError, match="'channels' is selected already"):
        trials.select(channels=[0])
    assert trials.select(trials=[1]).channels == (1,)


def test_with_blocks_keeps_what_is_not_given() -> None:
    trials = Trials.equal(10, rows=50).with_blocks(channel_axis=2)
    trials = trials.with_blocks(channels_per_block=4)
    assert (trials.channel_axis, trials.channels_per_block) == (2, 4)
    for size in (0, -1, 1.5, True):
        with pytest.raises(TrialError, match="channels_per_block"):
            trials.with_blocks(channels_per_block=size)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trials", "shape", "message"),
    [
        (
            Trials.from_array([[0, 10], [10, 60], [5, 99]]),
            (50, 4),
            r"Trial 1 \(and 1 more trials\) ends after 'lfp': .*\[10, 60\).*has 50",
        ),
        (Trials.equal(10, rows=50).select(trials=[4, 3]), (45, 2), r"Trial 4 ends.*\[40, 50\)"),
        (Trials.equal(10, rows=50, axis=2), (50, 4), "stacking axis 2.*0 to 1"),
        (Trials.equal(10, rows=50, axis=-3), (50, 4), "stacking axis -3"),
        (Trials.equal(10, rows=50), (), "'lfp' has the shape"),
        (Trials.equal(10, rows=50), (50, 0), r"Nothing.*\(50, 0\)"),
        (Trials.equal(10, rows=50).select(channels=[0, 4]), (50, 4), "Channel 4.*'lfp' has 4"),
        (Trials.equal(10, rows=50).select(channels=[-5]), (50, 4), "Channel -5"),
        (Trials.equal(10, rows=50).select(channels=slice(9, None)), (50, 4), "9: leaves none"),
        (Trials.equal(10, rows=50).select(channels=[0]), (50,), "Leave out channels"),
        (Trials.equal(10, rows=50).select(channels=[0]), (50, 2, 2), "channel_axis="),
        (Trials.equal(10, rows=50).with_blocks(channels_per_block=1), (50, 2, 2), "channel_axis="),
        (Trials.equal(10, rows=50).with_blocks(channel_axis=2), (50, 4), "channel axis 2"),
        (Trials.equal(10, rows=50).with_blocks(channel_axis=-2), (50, 4), "both"),
        (
            Trials.from_array([[0, 10], [10, 15]]).select(time=slice(7, None)),
            (50, 4),
            "time 7: leaves nothing of trial 1, which has 5",
        ),
        (
            Trials.from_array([[0, 10], [10, 15]]).select(time=[0, 5, 7]),
            (50, 4),
            "Trial 1 has no sample 5: it has 5",
        ),
        (
            Trials.from_array([[0, 10], [10, 15]]).select(time=[0, -6]),
            (50, 4),
            "Trial 1 has no sample -6",
        ),
    ],
)
def test_a_source_that_does_not_fit_is_refused(
    trials: Trials, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(TrialError, match=message):
        trials.blocks(shape, name="'lfp'")


def test_there_is_no_block_beyond_the_last() -> None:
    blocks = Trials.equal(10, rows=50).blocks((50,))
    for i in (5, -6):
        with pytest.raises(TrialError, match=f"no block {i}: there are 5"):
            blocks.ingrid(i)


def test_repr_says_what_was_selected() -> None:
    trials = Trials.from_array([[0, 10], [10, 15]]).select(time=slice(None, None, 2))
    trials = trials.select(trials=[1], channels=list(range(20))).with_blocks(
        channels_per_block=4, channel_axis=-1
    )
    assert repr(trials) == (
        "Trials(1 trial of 5 rows along axis 0, time ::2, channels [0, 1, 2, 3, 4, 5, ...] "
        "(20 entries), channel axis -1, 4 channels per block)"
    )


def test_trials_along_another_axis_are_dropped_by_its_length(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((50, 4000))
    trials = Trials(
        start=np.array([0, 1000, 3990]), stop=np.array([100, 1100, 4090]),
        offset=np.zeros(3, int), index=np.arange(3), axis=1, outside="drop",
    )  # fmt: skip
    with pytest.warns(HpcioWarning, match="1 of 3 trials leave"):
        plan = hpcio.Plan.create(
            np.abs, tmp_path / "rec.h5::lfp", trials=trials, out=tmp_path / "out.h5"
        )
    assert plan.trials.start.tolist() == [0, 1000]
