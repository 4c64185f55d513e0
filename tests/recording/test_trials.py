"""Trials: tables, selections, and the regions that are read for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcio.errors import SourceError, TrialError
from hpcio.recording.trials import Blocks, Trials

Array = npt.NDArray[Any]


def read_block(source: Any, blocks: Blocks, i: int) -> Array:
    """What the worker does with block `i`."""
    form = blocks.forms[blocks.form[i]]
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
        form, k = blocks.forms[blocks.form[i]], int(blocks.trial[i])
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


# ---- any source, any selection: what numpy gives ------------------------------------------------


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
@settings(max_examples=400, deadline=None)
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


# ---- forms --------------------------------------------------------------------------------------


def test_equal_trials_share_one_form() -> None:
    blocks = Trials.equal(10, rows=1000).blocks((1000, 4))
    assert (len(blocks), len(blocks.forms)) == (100, 1)
    (form,) = blocks.forms
    assert form.inshape == (10, 4)
    assert form.grid == (slice(0, 10, 1), slice(0, 4, 1))
    assert form.sigrid is None
    assert form.channels == (0, 4)
    assert blocks.ingrid(-1) == (slice(990, 1000, 1), slice(0, 4, 1))


@pytest.mark.parametrize("time", [slice(2, 5), [2, 3, 4]])
def test_trials_that_read_alike_share_a_form_whatever_their_length(time: Any) -> None:
    trials = Trials.from_array([[0, 10], [10, 17], [17, 40]]).select(time=time)
    assert len(trials.blocks((40, 2)).forms) == 1


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
    form = Trials.equal(10, rows=10).select(channels=channels).blocks((10, 8)).forms[0]
    assert form.grid == (slice(0, 10, 1), region)
    assert form.sigrid == (None if sigrid is None else (range(10), sigrid))


def test_channel_blocks_come_trial_by_trial() -> None:
    trials = Trials.equal(5, rows=10).select(channels=slice(1, None))
    blocks = trials.with_blocks(channels_per_block=3).blocks((10, 8))
    assert blocks.trial.tolist() == [0, 0, 0, 1, 1, 1]
    assert blocks.channel_block.tolist() == [0, 1, 2, 0, 1, 2]
    assert blocks.base.tolist() == [0, 0, 0, 5, 5, 5]
    assert [form.channels for form in blocks.forms] == [(0, 3), (3, 6), (6, 7)]
    assert (blocks.channel_blocks, blocks.channel_axis) == (3, 1)


def test_arrays_have_the_promised_types() -> None:
    trials = Trials.read(np.array([[0, 5], [5, 9]], np.uint8), rows=9)
    blocks = trials.blocks((9,))
    columns = (trials.start, trials.stop, trials.offset, trials.index, blocks.trial, blocks.base)
    assert {column.dtype.name for column in columns} == {"int64"}
    assert {column.dtype.name for column in (blocks.form, blocks.channel_block)} == {"int32"}


def test_a_million_trials_of_a_thousand_lengths() -> None:
    length = np.random.default_rng(0).integers(500, 1500, 1_000_000)
    stop = np.cumsum(length)
    trials = Trials.from_array(np.column_stack([stop - length, stop])).select(channels=[5, 1, 9])
    blocks = trials.blocks((int(stop[-1]), 64))
    assert (len(blocks), len(blocks.forms)) == (1_000_000, 1000)
    assert blocks.forms[blocks.form[77]].inshape == (length[77], 3)


# ---- tables -------------------------------------------------------------------------------------


def rows_of(trials: Trials) -> list[tuple[int, ...]]:
    columns = (trials.start, trials.stop, trials.offset)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_from_array() -> None:
    assert rows_of(Trials.from_array([[0, 10], [5, 20]])) == [(0, 10, 0), (5, 20, 0)]
    assert rows_of(Trials.from_array([[0.0, 10.0, -3.0]])) == [(0, 10, -3)]


def test_the_table_can_change_afterwards() -> None:
    table = np.array([[0, 10, 1]])
    trials = Trials.from_array(table)
    table[:] = 7
    assert rows_of(trials) == [(0, 10, 1)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[0, 10], [20, 20]], r"Trial 1 of the table: its rows are \[20, 20\)"),
        ([[0, 10], [20, 30], [-4, 2]], r"Trial 2 .*\[-4, 2\).*negative"),
        ([[0, 10], [0.5, 2]], "Trial 1 .*start is 0.5"),
        ([[0, np.nan]], "Trial 0 .*stop is nan"),
        ([[0, np.inf]], "Trial 0 .*stop is inf"),
        ([[0, 1e300]], "Trial 0 .*stop is 1e"),
        ([[0, 10, 0.25]], "Trial 0 .*offset is 0.25"),
        (np.array([[0, 2**64 - 1]], np.uint64), "Trial 0 .*stop is 18446744073709551615"),
        ([[0, 1, 2, 3]], r"shape \(1, 4\).*start, stop"),
        ([[1]], r"shape \(1, 1\)"),
        ([0, 10], r"shape \(2,\)"),
        (np.zeros((0, 2)), "no rows"),
        ([["a", "b"]], "type <U1"),
        ([[True, False]], "type bool"),
        ([[0, 10], [1]], "differ in length"),
        (None, "shape"),
    ],
)
def test_a_bad_table_is_refused(table: Any, message: str) -> None:
    with pytest.raises(TrialError, match=message):
        Trials.from_array(table)


def test_from_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "rec.h5"
    with h5py.File(path, "w") as f:
        f["good"] = np.array([[0.0, 10.0, 2.0], [10.0, 30.0, -2.0]])
        f["bad"] = np.array([[0, 10], [10, 3]])
        f["empty"] = h5py.Empty("f")
        f["lfp"] = np.zeros((10, 64))
    assert rows_of(Trials.from_hdf5(f"{path}::/good")) == [(0, 10, 2), (10, 30, -2)]
    with pytest.raises(TrialError, match=r"Trial 1 of '/bad' in '.*rec.h5': .*\[10, 3\)"):
        Trials.from_hdf5(f"{path}::/bad")
    with pytest.raises(TrialError, match=r"'/lfp' in '.*rec.h5' has the shape \(10, 64\)"):
        Trials.from_hdf5(f"{path}::/lfp")
    with pytest.raises(TrialError, match=r"'/empty'.*shape None"):
        Trials.from_hdf5(f"{path}::/empty")
    with pytest.raises(SourceError, match=r"'/absent'.*does not exist"):
        Trials.from_hdf5(f"{path}::/absent")


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rec.h5"
    with h5py.File(path, "w") as f:
        table = f.create_dataset("t", data=np.ones((9, 2)), chunks=(9, 2), fletcher32=True)
        where = table.id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as raw:
        raw.seek(where)
        raw.write(b"damage")
    with pytest.raises(SourceError, match=r"cannot read '/t' in '.*rec.h5'"):
        Trials.from_hdf5(f"{path}::/t")


@pytest.mark.parametrize(
    "text",
    [
        "0,10,1\n10,30,-2\n",
        "0\t10\t1\n10\t30\t-2",
        "start,stop,offset\n0,10,1\n10,30,-2\n",
        "\ufeffstart,stop,offset\r\n0,10,1\r\n10,30,-2\r\n",
        '"Offset","name","STOP","start"\n1,"a, b",10,0\n-2,"c",30,10\n',
        "begin,end,trigger\n0,10,1\n10,30,-2\n",
        "# by hand\n\nstart\tstop\toffset # samples\n0\t10\t1\n# 5\t6\t7\n10 \t30\t-2 # last\n",
        "0.0,1e1,1.0\n 10 , 30.0 ,-2.00\n,,\n",
    ],
)
def test_from_csv(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trials.txt"
    path.write_bytes(text.encode())
    assert rows_of(Trials.from_csv(path)) == [(0, 10, 1), (10, 30, -2)]


def test_the_ending_decides_between_commas_and_tabs(tmp_path: Path) -> None:
    commas, tabs = tmp_path / "a.csv", tmp_path / "a.tsv"
    commas.write_text("start,stop,a\tb\n0,10,x\n")
    tabs.write_text("start\tstop\ta,b\n0\t10\tx\n")
    assert rows_of(Trials.from_csv(commas)) == rows_of(Trials.from_csv(tabs)) == [(0, 10, 0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start,stop\n0,10\n10,1O0\n", "line 3, column 2: '1O0'"),
        ("0,10\n1O,20\n", "line 2, column 1: '1O'"),
        ("0,1O\n10,20\n", "line 1, column 2: '1O'"),
        ("# c\n0,10.5\n", "line 2, column 2: '10.5'"),
        ("0,nan\n", "line 1, column 2: 'nan'"),
        ("0,inf\n", "line 1, column 2: 'inf'"),
        ("0,99999999999999999999\n", "column 2"),
        ("start,x,stop\n0,1,2\n3,4,\n", "line 3, column 3: ''"),
        ("start,stop\n0,10\n\n9,3\n", r"Trial 1 of '.*' \(line 4\): its rows are \[9, 3\)"),
        ("0,10\n1,2,3\n", "line 2 has 3 columns, the first line has 2"),
        ("0 10\n", "line 1 has 1 columns"),
        ("0,1,2,3\n", "line 1 has 4 columns"),
        ("start,start,stop\n0,1,2\n", "two columns 'start'"),
        ("offset,begin,end\n0,1,2\n", "names the column 'offset'"),
        ("start,stop\n", "no trials"),
        ("", "no trials"),
    ],
)
def test_a_bad_text_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trials.csv"
    path.write_text(text)
    with pytest.raises(TrialError, match=message) as caught:
        Trials.from_csv(path)
    assert str(path) in str(caught.value)


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file"):
        Trials.from_csv(tmp_path / "absent.csv")
    with pytest.raises(SourceError, match="Is a directory"):
        Trials.from_csv(tmp_path)
    with h5py.File(tmp_path / "rec.h5", "w"):
        pass
    with pytest.raises(SourceError, match="FILE::DATASET"):
        Trials.read(tmp_path / "rec.h5", rows=10)


def test_equal() -> None:
    trials = Trials.equal(30, rows=100, axis=-1)
    assert rows_of(trials) == [(0, 30, 0), (30, 60, 0), (60, 90, 0)]
    assert trials.axis == -1
    for length in (0, -5, 101):
        with pytest.raises(TrialError, match=f"{length} rows"):
            Trials.equal(length, rows=100)
    with pytest.raises(TrialError, match=r"'length' is 2\.5"):
        Trials.equal(2.5, rows=100)  # type: ignore[arg-type]


def test_read_takes_whatever_names_trials(tmp_path: Path) -> None:
    table = np.array([[0, 10, 0], [10, 20, 0]])
    csv, hdf5 = tmp_path / "t.csv", tmp_path / "t.h5"
    np.savetxt(csv, table, fmt="%d", delimiter=",")
    with h5py.File(hdf5, "w") as f:
        f["t"] = table
    trials = Trials.from_array(table, axis=1)
    assert Trials.read(trials, rows=20) is trials
    for spec in (10, np.int32(10), table, table.tolist(), csv, str(csv), f"{hdf5}::t"):
        found = Trials.read(spec, rows=20, axis=1)
        assert rows_of(found) == rows_of(trials)
        assert found.axis == 1


# ---- selections ---------------------------------------------------------------------------------


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


def test_columns_that_are_no_trials_are_refused() -> None:
    one = np.array([1])
    with pytest.raises(TrialError, match="'stop' has the type"):
        Trials(one, np.array([2.5]), one, one)
    with pytest.raises(TrialError, match=r"'offset' has .* shape \(2,\)"):
        Trials(one, one + 1, np.array([1, 2]), one)
    with pytest.raises(TrialError, match="Trial 7: "):
        Trials(one, one, one, one * 7)
    with pytest.raises(TrialError, match="no trials"):
        Trials(one[:0], one[:0], one[:0], one[:0])


# ---- a source that does not fit -----------------------------------------------------------------


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
