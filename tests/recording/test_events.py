"""Trials in seconds, and of tables whose names say what they mean; columns that go with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import HpcioWarning, OptionError, TrialError
from hpcio.recording.trials import Trials
from hpcio.recording.windows import to_rows


def rows_of(trials: Trials) -> list[tuple[int, ...]]:
    columns = (trials.start, trials.stop, trials.offset)
    return list(zip(*(column.tolist() for column in columns), strict=True))


# ---------------------------------------------------------------------- seconds


def test_windows_around_events() -> None:
    trials = Trials.from_events(
        [1.0, 2.5], rate=1000, pre=0.2, post=[0.5, 0.8], columns={"condition": ["face", "house"]}
    )
    assert rows_of(trials) == [(800, 1500, 200), (2300, 3300, 200)]
    assert trials["condition"].tolist() == ["face", "house"]
    assert list(trials.columns) == ["condition"]


def test_a_window_may_begin_after_its_event() -> None:
    with pytest.warns(HpcioWarning, match="windows begin after their events"):
        trials = Trials.from_events([1.0], rate=100, pre=-0.1, post=0.5)
    assert rows_of(trials) == [(110, 150, -10)]


def test_a_day_at_30_khz_is_rounded_to_the_nearest_row() -> None:
    """Onsets that lie on rows are found exactly, however late; windows have one length."""
    rng = np.random.default_rng(0)
    rows = np.sort(rng.integers(30_000, 30_000 * 86_400, 100_000))
    for onsets in (rows / 30_000, rows / 30_000.0 + rng.uniform(-0.49, 0.49, rows.size) / 30_000):
        trials = Trials.from_events(onsets, rate=30_000, pre=0.1, post=0.4)
        assert (trials.start + trials.offset == rows).all()
        assert set(trials.lengths.tolist()) == {15_000}
    assert to_rows([0.5, 1.5, 2.5, -0.5], 1).tolist() == [1, 2, 3, 0]  # of two the later one


@pytest.mark.parametrize(
    ("onsets", "options", "message"),
    [
        ([1.0, np.nan], {}, "Trial 1 of the events: onset is nan, which is no time"),
        (["a", "b"], {}, "Trial 0 of the events: onset is a, which is no time"),
        ([], {}, "no rows"),
        ([0.1], {}, r"Trial 0 of the events: its rows are \[-100, 1000\).*outside='drop'"),
        ([1.0, 2.0], {"pre": [0.1, 0.2, 0.3]}, "pre=.*nor one for each of 2 events"),
        ([1.0], {"post": -0.5}, "Give a stop after start"),
        ([1.0], {"columns": {"a": [1, 2]}}, "unequal length"),
    ],
)
def test_events_that_make_no_trials(onsets: Any, options: dict[str, Any], message: str) -> None:
    options = {"rate": 1000, "pre": 0.2, "post": 0.9, **options}
    with pytest.raises(TrialError, match=message):
        Trials.from_events(onsets, **options)


@pytest.mark.parametrize("options", [{"rate": 0}, {"rate": "fast"}, {"rate": 1, "outside": "keep"}])
def test_options_without_sense(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        Trials.from_events([1.0], post=1, **options)


def test_trials_that_leave_the_recording_are_dropped_on_request_and_told(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.arange(40.0).reshape(20, 2)
    onsets, kind = [0.1, 0.6, 1.2, 1.9], ["a", "b", "c", "d"]
    with pytest.warns(HpcioWarning, match="1 of 4 trials leave the recording.*dropped: 0"):
        trials = Trials.from_events(
            onsets, rate=10, pre=0.3, post=0.4, columns={"kind": kind}, outside="drop"
        )
    assert trials.index.tolist() == [1, 2, 3]
    with pytest.warns(HpcioWarning, match="1 of 3 trials leave the recording.*dropped: 3"):
        plan = hpcio.Plan.create(
            np.negative, f"{tmp_path}/rec.h5::lfp", trials=trials, out=tmp_path / "out.h5"
        )
    assert rows_of(plan.trials) == [(3, 10, 3), (9, 16, 3)]
    assert plan.trials["kind"].tolist() == ["b", "c"]
    late = Trials.from_events([9.0], rate=10, post=0.4, outside="drop")
    with pytest.raises(TrialError, match=r"All 1 trials leave the recording\. Check rate"):
        hpcio.Plan.create(
            np.negative, f"{tmp_path}/rec.h5::lfp", trials=late, out=tmp_path / "no.h5"
        )


# ---------------------------------------------------------------------- tables with names


BIDS = "onset\tduration\ttrial_type\tresponse_time\n1.0\t0.5\tface\t0.31\n2.5\t0.5\thouse\tn/a\n"


def test_events_of_bids(tmp_path: Path) -> None:
    path = tmp_path / "sub-01_events.tsv"
    path.write_text(BIDS)
    trials = Trials.read(path, rate=1000, pre=0.2, post=0.8)
    assert rows_of(trials) == [(800, 1800, 200), (2300, 3300, 200)]
    assert trials["trial_type"].tolist() == ["face", "house"]
    np.testing.assert_array_equal(trials["response_time"], [0.31, np.nan])
    assert trials["onset"].tolist() == [1.0, 2.5]
    assert rows_of(Trials.read(path, rate=1000)) == [(1000, 1500, 0), (2500, 3000, 0)]
    assert rows_of(Trials.read(path, rate=1000, pre=0.1)) == [(900, 1500, 100), (2400, 3000, 100)]


TABLE = {"start_time": [0.5, 1.25], "stop_time": [1.0, 2.0], "condition": ["a", "b"]}


@pytest.mark.parametrize("form", ["dict", "frame", "records", "fields"])
def test_a_table_in_memory(form: str) -> None:
    table: Any = TABLE
    if form == "frame":
        table = pytest.importorskip("pandas").DataFrame(TABLE, index=[7, 3])
    elif form == "records":
        table = [dict(zip(TABLE, row, strict=True)) for row in zip(*TABLE.values(), strict=True)]
    elif form == "fields":
        table = np.array(
            list(zip(*TABLE.values(), strict=True)),
            [("start_time", "f8"), ("stop_time", "f4"), ("condition", "S3")],
        )
    trials = Trials.read(table, rate=100)
    assert rows_of(trials) == [(50, 100, 0), (125, 200, 0)]
    assert trials["condition"].tolist() == ["a", "b"]


def test_a_group_of_columns_as_nwb_has_it(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.nwb", "w") as f:
        group = f.create_group("intervals/trials")
        group.attrs["colnames"] = ["start_time", "stop_time", "condition", "spikes"]
        group["start_time"], group["stop_time"] = [0.5, 1.25], [1.0, 2.0]
        group.create_dataset("condition", data=["a", "b"], dtype=h5py.string_dtype())
        group["id"] = [0, 1]
        group["spikes"], group["spikes_index"] = np.arange(7.0), [3, 7]
        group.create_dataset("timeseries", (2,), dtype=h5py.ref_dtype)
    trials = Trials.read(f"{tmp_path}/s.nwb::/intervals/trials", rate=100)
    assert rows_of(trials) == [(50, 100, 0), (125, 200, 0)]
    assert list(trials.columns) == ["start_time", "stop_time", "condition", "id"]
    assert trials.where(condition="b").start.tolist() == [125]


def trl(path: Path, values: Any, name: str = "trl") -> str:
    """As MATLAB writes a matrix into a file of version 7.3."""
    with h5py.File(path, "w", userblock_size=512) as f:
        f[name] = np.asarray(values, "f8").T
        f[name].attrs["MATLAB_class"] = np.bytes_("double")
    return f"{path}::{name}"


FIELDTRIP = [[1, 100, -20, 5], [101, 200, -20, 6], [301, 400, 30, 5]]


def test_a_trl_of_fieldtrip(tmp_path: Path) -> None:
    """From 1 up to the last row; where a trial begins, seen from its event."""
    wanted = [(0, 100, 20), (100, 200, 20), (300, 400, -30)]
    trials = Trials.read(trl(tmp_path / "a.mat", FIELDTRIP))
    assert rows_of(trials) == wanted
    assert trials["trialinfo"].tolist() == [5, 6, 5]
    spec = trl(tmp_path / "b.mat", FIELDTRIP, "my_trials")
    with pytest.raises(TrialError, match=r"'my_trials' in .* is of MATLAB.*one_based=True"):
        Trials.read(spec)
    assert rows_of(Trials.read(spec, one_based=True)) == wanted
    three = [row[:3] for row in FIELDTRIP]
    assert rows_of(Trials.read(three, one_based=True)) == wanted
    names = dict(zip(("begsample", "endsample", "offset"), zip(*three, strict=True), strict=True))
    assert rows_of(Trials.read(names)) == wanted


def test_events_of_mne() -> None:
    events = np.array([[100, 0, 1], [250, 0, 2], [400, 0, 1]])
    trials = Trials.read(events, rate=100, pre=0.2, post=0.5)
    assert rows_of(trials) == [(80, 150, 20), (230, 300, 20), (380, 450, 20)]
    assert trials.where(event=1).start.tolist() == [80, 380]
    with pytest.raises(TrialError, match=r"looks like events of MNE.*rate=, pre= and post="):
        Trials.read(events)


def test_any_column_may_hold_the_times_of_events(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("stim_on,kind\n1000,x\n2500,y\n")
    trials = Trials.read(path, onset="stim_on", unit="ms", rate=100, pre=0.1, post=0.2)
    assert rows_of(trials) == [(90, 120, 10), (240, 270, 10)]
    with pytest.raises(TrialError, match=r"'.*a.csv' has no column 'on'.*onset='NAME'"):
        Trials.read(path, onset="on", rate=100, post=1)


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        ({"onset": [1.0]}, {"post": 1}, r"'onset' of The trial table is a time.*Give rate="),
        ({"onset": [1.0]}, {"rate": 10}, "holds events. Say which window.*pre= and post="),
        ({"onset": [1.0]}, {"rate": 10, "pre": 1}, "how long trials last after the event: post="),
        ({"start": [0.5], "stop": [2.5]}, {}, r"start is 0.5.*so: Trials.read.*unit='s', rate="),
        (
            {"begin": [1], "end": [2]},
            {},
            "has the columns begin, end. Name those that hold.*onset=",
        ),
        (np.arange(20).reshape(2, 10), {}, "looks transposed: give table.T"),
        ([[1, 100], [101, 200], [201, 300]], {}, "looks one-based.*one_based=True"),
        ({"start": [1, 11, 21], "stop": [10, 20, 30]}, {}, "looks one-based"),
        ({"Start": [1], "start": [2], "stop": [3]}, {}, "two columns 'start'"),
        ({"start": [1], "stop": [3]}, {"rate": 10}, "rate= is given, and .* counts rows.*unit='s'"),
        ({"onset": [1.0]}, {"rate": 10, "post": 1, "one_based": True}, "one_based= goes with rows"),
        ({"onset": [1e300]}, {"rate": 10, "post": 1}, "beyond any recording. Check the unit"),
        ([[0, 10]], {"rate": 10, "post": 1}, "two columns without names, and pre= and post="),
    ],
)
def test_a_table_that_needs_a_word_says_which(
    table: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrialError, match=message):
        Trials.read(table, **options)


def test_labels_that_look_like_numbers_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("start,stop,subject,run,level\n0000,10,01,1,0.5\n0010,20,007,2,0\n")
    trials = Trials.read(path)
    assert rows_of(trials) == [(0, 10, 0), (10, 20, 0)]
    assert trials["subject"].tolist() == ["01", "007"]
    assert trials["run"].tolist() == [1, 2]
    assert trials["level"].tolist() == [0.5, 0.0]


def test_a_text_file_of_onsets_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Onset\n1.0\n2.5\n")
    trials = Trials.read(tmp_path / "a.csv", rate=100, post=0.5)
    assert rows_of(trials) == [(100, 150, 0), (250, 300, 0)]


def test_an_offset_is_in_the_unit_of_its_table() -> None:
    table = {"start": [1.0], "stop": [2.5], "offset": [0.25]}
    assert rows_of(Trials.read(table, unit="s", rate=100)) == [(100, 250, 25)]


def test_what_looks_one_based_and_is_not() -> None:
    table = [[1, 100], [101, 200], [201, 300]]
    assert rows_of(Trials.read(table, one_based=False))[1] == (101, 200, 0)
    assert rows_of(Trials.read(table, one_based=True))[1] == (100, 200, 0)


@pytest.mark.parametrize("spec", [10, Trials.equal(10, rows=20)])
def test_options_of_tables_are_refused_where_there_is_none(spec: Any) -> None:
    with pytest.raises(OptionError, match="pre= says how a table is read"):
        Trials.read(spec, rows=20, pre=0.5)


# ---------------------------------------------------------------------- columns


def study() -> Trials:
    return Trials.equal(10, rows=40).with_columns(
        condition=["a", "b", "a", "b"], rt=[0.3, 0.4, 0.9, np.nan], good=[True, True, False, True]
    )


def test_where() -> None:
    trials = study()
    assert trials.where(condition="a", rt=(0.2, 0.8)).index.tolist() == [0]
    assert trials.where(condition=["a", "b"], good=True).index.tolist() == [0, 1, 3]
    assert trials.where(rt=(None, 0.5)).index.tolist() == [0, 1]
    assert trials.where(rt=np.isnan).index.tolist() == [3]
    assert trials.where(start=(10, 20)).where(condition="a")["rt"].tolist() == [0.9]
    assert "columns condition, rt, good" in repr(trials)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"condition": "c"}, r"No trial is left with condition='c'. The values .* are 'a', 'b'"),
        ({"kind": "a"}, "have no column 'kind'. They have condition, rt, good, start"),
        ({"condition": 1}, "condition=1 is never so"),
        ({"condition": ("a", "b")}, "no pair of least and most.*Give a list"),
        ({"rt": lambda rt: rt.sum()}, "gives no mask"),
    ],
)
def test_a_condition_that_leaves_nothing(wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(TrialError, match=message):
        study().where(**wanted)


@pytest.mark.parametrize(
    "columns", [{"a": [1, 2]}, {"a": [[1], [2], [3], [4]]}, {"a": [1j] * 4}, {"": [1] * 4}]
)
def test_columns_that_cannot_be(columns: dict[str, Any]) -> None:
    with pytest.raises(TrialError):
        Trials.equal(10, rows=40).with_columns(**columns)


def test_nobody_changes_a_column() -> None:
    values = np.arange(4)
    trials = Trials.equal(10, rows=40).with_columns(a=values)
    values[:] = 7
    assert trials["a"].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        trials["a"][0] = 1


X = np.arange(80.0).reshape(40, 2)


def scaled(x: np.ndarray, gain: float = 1.0) -> np.ndarray:
    return x * gain


@pytest.mark.parametrize("join", ["stack", "concatenate"])
@pytest.mark.parametrize("form", ["run", "repacked"])
def test_columns_travel_into_the_result_and_the_next_step(
    tmp_path: Path, join: Any, form: str
) -> None:
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = X
    trials = study().with_columns(gain=[1.0, 2.0, 3.0, 4.0], data=["é", "", "ü", "x/y"])
    plan = hpcio.Plan.create(
        scaled, f"{tmp_path}/rec.h5::lfp", trials=trials, kwargs={"gain": hpcio.per_trial("gain")},
        join=join, out=tmp_path / "one.h5",
    )  # fmt: skip
    assert hpcio.Plan.create(
        scaled, f"{tmp_path}/rec.h5::lfp", trials=trials.with_columns(rt=[0.3, 0.4, 0.9, 0.1]),
        kwargs={"gain": hpcio.per_trial("gain")}, join=join, out=tmp_path / "other.h5",
    ).digest != plan.digest  # fmt: skip
    plan.run(workers=1, progress=False)
    if form == "repacked":
        hpcio.repack(plan.out)
        hpcio.verify(plan.out)
    with hpcio.open(plan.out) as f:
        found = f["data"][()].reshape(4, 10, 2)
        assert (found == X.reshape(4, 10, 2) * [[[1]], [[2]], [[3]], [[4]]]).all()
        assert f["condition"].asstr()[()].tolist() == ["a", "b", "a", "b"]
        assert f["trial_data"].asstr()[()].tolist() == ["é", "", "ü", "x/y"]
        assert f["condition"].dims[0][0] == f["trial"]
        if join == "stack":
            assert f["data"].attrs["coordinates"] == "condition rt good gain trial_data"
    step = hpcio.Plan.create(
        lambda x: x.sum(axis=0), f"{plan.out}::data", trials=f"{plan.out}::trials",
        join="stack", out=tmp_path / "two.h5",
    ) if join == "concatenate" else None  # fmt: skip
    again = Trials.read(f"{plan.out}::trials") if step is None else step.trials
    for name, values in trials.columns.items():
        np.testing.assert_array_equal(again[name], values)
        assert again[name].dtype.kind == values.dtype.kind


def test_a_column_that_is_not_there_cannot_be_an_argument(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = X
    with pytest.raises(TrialError, match="have no column 'loudness'"):
        hpcio.Plan.create(
            scaled, f"{tmp_path}/rec.h5::lfp", trials=study(), out=tmp_path / "one.h5",
            kwargs={"gain": hpcio.per_trial("loudness")},
        )  # fmt: skip


def test_xarray_knows_the_columns(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = X
    plan = hpcio.Plan.create(
        scaled, f"{tmp_path}/rec.h5::lfp", trials=study(), join="stack", out=tmp_path / "one.h5"
    )
    plan.run(workers=0, progress=False)
    hpcio.repack(plan.out)
    with xarray.open_dataset(plan.out, engine="h5netcdf") as found:
        data = found["data"]
        assert data.coords["condition"].dims == ("trial",)
        assert data.coords["good"].dtype == bool
        assert (
            data.groupby("condition").mean("trial")[0] == X.reshape(4, 10, 2)[::2].mean(0)
        ).all()


def test_rows_have_the_seconds_from_their_event_as_coordinates(tmp_path):
    """Where all trials have the same, and the function has kept the axis."""
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["eeg"] = np.arange(400.0).reshape(200, 2)
        f["eeg"].dims[0].label = "time"
    around = {"rate": 10, "pre": 0.2, "post": 0.3}
    same = Trials.from_events([1.0, 4.0, 9.0], **around)
    unequal = Trials.from_events([1.0, 4.0, 9.0], **{**around, "pre": [0.2, 0.1, 0.2]})
    turned = same.select(time=[4, 3, 2, 1, 0])
    for number, (trials, times) in enumerate(
        [(same, [-0.2, -0.1, 0.0, 0.1, 0.2]), (unequal, None), (turned, None)]
    ):
        options = {"join": "concatenate" if trials is unequal else "stack"}
        out = tmp_path / f"{number}.h5"
        plan = hpcio.Plan.create(np.negative, f"{tmp_path}/rec.h5::/eeg", trials=trials, out=out,
                                 **options)  # fmt: skip
        found = {axis.name: axis.values for axis in plan.axes}["time"]
        assert (found is None) if times is None else np.allclose(found, times)


def test_trials_of_a_result_are_cut_from_what_they_count_rows_of(tmp_path):
    """A second step over some trials of the first: their rows are its own, their numbers stay."""
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["x"] = np.arange(1000.0)[:, None] * [1, 2]
    events = Trials.from_events([1, 3, 5, 7], rate=100, pre=0, post=0.5).select(trials=[1, 2, 3])
    one, source = tmp_path / "one.h5", f"{tmp_path}/rec.h5::/x"
    hpcio.Plan.create(np.negative, source, trials=events, out=one).run(workers=0, progress=False)
    options = {"out": tmp_path / "two.h5", "join": "stack"}
    for alone in (Trials.read(one), Trials.from_hdf5(f"{one}::/trials").select(trials=[0, 1])):
        with pytest.raises(TrialError, match=r"read from the table .* Trials\.read\("):
            hpcio.Plan.create(np.negative, f"{one}::/data", trials=alone, **options)
        assert hpcio.Plan.create(np.negative, source, trials=alone, **options).blocks.base[0] == 300
    trials = Trials.read(one, recording=one).select(trials=[0, 2])
    plan = hpcio.Plan.create(np.negative, one, trials=trials, **options)
    plan.run(workers=0, progress=False)
    with h5py.File(tmp_path / "rec.h5") as f, hpcio.open(plan.out) as two:
        np.testing.assert_array_equal(two["data"], [f["x"][300:350], f["x"][700:750]])
        assert two["trial"][:].tolist() == [1, 3]


def test_trials_in_brackets_have_the_name_of_a_column():
    with pytest.raises(TrialError, match=r"trials\.select\("):
        Trials.read(5, rows=50)[:3]


def test_text_that_no_file_can_hold_is_refused_at_once():
    trials = Trials.read(5, rows=10)
    assert trials.with_columns(k=["\U0001f600", "z"])["k"][0] == "\U0001f600"
    with pytest.raises(TrialError, match="UTF-8 cannot hold"):
        trials.with_columns(k=["a\ud800", "b"])
    with pytest.raises(TrialError, match="cannot be the name of a column"):
        trials.with_columns(**{"\ud800": [1, 2]})
