"""Several recordings are one: each trial is read from its own, or nothing is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan, Trials
from hpcio.errors import HpcioError, HpcioWarning, OptionError, SourceError, TrialError
from hpcio.recording import InputKind, Reader, Recording, read_recording, read_trials
from hpcio.recording.reading import MOST_OPEN
from hpcio.recording.several import SeveralRecordings, matching_files, short_names

ROWS = (100, 70, 130)
LFP = [np.random.default_rng(k).normal(size=(n, 3)) for k, n in enumerate(ROWS)]
# Trials of each recording: unequal in number, out of order, up to its last row.
TABLES = [[[0, 10], [90, 100]], [[60, 70]], [[20, 45], [0, 10], [120, 130]]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three recordings with trials of their own, and one table with the trials of all."""
    for k, (lfp, table) in enumerate(zip(LFP, TABLES, strict=True)):
        with h5py.File(tmp_path / f"s{k}.h5", "w") as f:
            f["lfp"], f["trials"] = lfp, np.array(table)
        rows = [f"{start},{stop},{'ab'[stop % 20 == 0]}" for start, stop in table]
        (tmp_path / f"t{k}.csv").write_text("\n".join(["start,stop,kind", *rows]))
    # In this order: the last trial of each recording, then those before.
    mixed = [(k, *TABLES[k][n]) for n in (2, 1, 0) for k in range(3) if n < len(TABLES[k])]
    rows = [f"s{k},{start},{stop},{10 * i}" for i, (k, start, stop) in enumerate(mixed)]
    (tmp_path / "all.csv").write_text("\n".join(["recording,start,stop,gain", *rows]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(source: Any = "s*.h5::/lfp", trials: Any = "::/trials", **options: Any) -> Plan:
    return Plan.create(np.negative, source, trials=trials, out="out.h5", **options)


def where(made: Plan) -> list[tuple[str, int, int]]:
    """Recording, start and stop of each trial; and the function gets just these rows of it."""
    rows = zip(made.trials["recording"], made.trials.start, made.trials.stop, strict=True)
    found = [(str(name), int(start), int(stop)) for name, start, stop in rows]
    for number, (name, start, stop) in zip(made.trials.index.tolist(), found, strict=True):
        np.testing.assert_array_equal(made.trial(number), LFP[int(name[1])][start:stop])
    return found


EACH = [(f"s{k}", *rows) for k in range(3) for rows in TABLES[k]]


@pytest.mark.parametrize(
    "trials",
    [
        "::/trials",
        "s*.h5::/trials",
        ["s0.h5::/trials", "::/trials", TABLES[2]],
        [np.array(table) for table in TABLES],
        [Trials.read(table) for table in TABLES],
        [{"start": [a for a, _ in table], "stop": [b for _, b in table]} for table in TABLES],
        "t*.csv",
    ],
)
def test_trials_of_each_recording(folder, trials):
    assert where(plan(trials=trials)) == EACH


def test_numbers_of_trials_run_on(folder):
    assert plan().trials.index.tolist() == [0, 1, 2, 3, 4, 5]


def test_equal_trials_of_each(folder):
    equal = [(f"s{k}", n, n + 30) for k in range(3) for n in range(0, ROWS[k] - 29, 30)]
    assert where(plan(trials=30)) == equal
    assert where(plan(trials=[30, 30, 30])) == equal


@pytest.mark.parametrize("name", ["s{}", "s{}.h5", "./s{}.h5", "{}", "s{}.h5::lfp"])
def test_one_table_says_which_recording(folder, name):
    text = (folder / "all.csv").read_text()
    for k in range(3):
        said = name.format(k) if name != "{}" else str(folder / f"s{k}.h5")
        text = text.replace(f"s{k},", f"{said},")
    (folder / "named.csv").write_text(text.replace("recording", "Recording"))
    made = plan(trials="named.csv")
    # Sorted by recording, else as in the table; the column is the one that was given.
    order = sorted(range(6), key=lambda row: text.splitlines()[1 + row].split(",")[0])
    assert made.trials.index.tolist() == order
    lines = [text.splitlines()[1 + row].split(",") for row in order]
    assert made.trials["recording"].tolist() == [line[0] for line in lines]
    for row, line in zip(order, lines, strict=True):
        k = next(k for k in range(3) if f"s{k}" in line[0])
        expected = LFP[k][int(line[1]) : int(line[2])]
        np.testing.assert_array_equal(made.trial(row), expected)


def test_a_recording_that_is_spelled_in_two_ways_has_one_name(folder):
    records = [{"recording": name, "start": 0, "stop": 5} for name in ("s1", "s1.h5", "s0")]
    assert plan(trials=records).trials["recording"].tolist() == ["s0", "s1", "s1"]


def test_values_of_trials_follow_them_when_they_are_sorted(folder):
    table = np.genfromtxt("all.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")

    def tagged(trial, by_place, by_name, a_list):
        return np.array([by_place, by_name, a_list, trial[0, 0]])

    kwargs = {
        "by_place": hpcio.per_trial(table["gain"]), "by_name": hpcio.per_trial("gain"),
        "a_list": hpcio.per_trial(table["gain"].tolist()),
    }  # fmt: skip
    for trials in ("all.csv", table, Trials.read("all.csv").select(trials=slice(None))):
        made = Plan.create(
            tagged, "s*.h5::/lfp", trials=trials, out="o.h5", kwargs=kwargs, join="stack",
            out_shape=(4,), out_dtype="f8",
        )  # fmt: skip
        made.run(workers=0, exists="fresh", progress=False)
        with hpcio.open("o.h5") as f:
            found, index = f["data"][:], f["trials"]["trial"]
        first = [LFP[int(name[1])][start, 0]
                 for name, start in table[["recording", "start"]][index].tolist()]  # fmt: skip
        gain = table["gain"][index]
        np.testing.assert_array_equal(found, np.column_stack([gain, gain, gain, first]))


def test_values_go_with_trials_in_the_order_of_a_selection(folder):
    table = Trials.read("all.csv").select(trials=[5, 1, 2, 0])
    gain = hpcio.per_trial(table["gain"])
    made = Plan.create(
        scaled, "s*.h5::/lfp", trials=table, out="o.h5", args=[gain], join="stack",
        out_shape=(), out_dtype="f8",
    )  # fmt: skip
    made.run(workers=0, progress=False)
    with hpcio.open("o.h5") as f:
        np.testing.assert_array_equal(f["data"][:], f["gain"][:])


def scaled(trial, gain):
    return np.float64(gain)


def test_trials_are_selected_by_recording(folder):
    trials = Trials.read("all.csv").where(recording=["s0", "s2"])
    assert {name for name, *_ in where(plan(trials=trials))} == {"s0", "s2"}


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("trials", "says"),
    [
        ([[[0, 10]], [[65, 75]], [[0, 10]]], r"Trial 1 ends after.*s1\.h5::.*\[65, 75\).*are 70"),
        ([[[0, 10]], [[0, 70]], [[-5, 10]]], r"Trials of '.*s2\.h5::.*\[-5, 10\)"),
        ([[[0, 10]], [[0, 10]]], r"3 recordings and trials= is a list of 2"),
        ([10, 10], r"3 recordings and trials= is a list of 2"),
        (80, r"Trials of '.*s1\.h5.*80 rows cannot be cut from a source of 70"),
        ([[0, 10], [20, 30], [40, 50]], r"Trials of '.*s0\.h5.*two axes"),
        (np.array([[0, 10]]), "does not say which of 3 recordings"),
        ("t0.csv", "'t0.csv' does not say which of 3 recordings"),
        ("x*.csv", r"3 recordings, and 'x\*\.csv' matches 0 files"),
        ({"start": [0], "stop": [5], "recording": ["s3"]}, "'s3', which names none of 3.*s0, s1"),
        ({"start": [0], "stop": [5], "recording": [""]}, "'', which names none of 3"),
        ([{"start": [0], "stop": [5], "recording": ["s1"]}] * 3, "says 's1' of a trial of .*s0"),
    ],
)  # fmt: skip
def test_trials_that_are_no_trials_of_these_recordings(folder, trials, says):
    with pytest.raises(HpcioError, match=says):
        plan(trials=trials)


def test_trials_that_leave_their_recording_are_dropped_and_told(folder):
    tables = [Trials.read(t, outside="drop") for t in (TABLES[0], [[0, 9], [65, 75]], TABLES[2])]
    with pytest.warns(HpcioWarning, match=r"s1\.h5::/lfp': 1 of 2 trials leave.*dropped: 1"):
        assert where(plan(trials=tables))[2:4] == [("s1", 0, 9), ("s2", 20, 45)]
    table = {"recording": ["s2", "s1", "s0"], "start": [0, 65, 95], "stop": [5, 75, 100]}
    with pytest.raises(TrialError, match=r"'.*s1\.h5::/lfp': All 1 trials leave the recording"):
        plan(trials=Trials.read(table, outside="drop"))
    table = {name: [*column, *column] for name, column in table.items()}
    table["start"][1], table["stop"][1] = 3, 9
    with pytest.warns(HpcioWarning, match=r"s1\.h5::/lfp': 1 of 2 trials leave.*dropped: 4"):
        made = plan(trials=Trials.read(table, outside="drop"))
    dropped = [("s0", 95, 100)] * 2 + [("s1", 3, 9)] + [("s2", 0, 5)] * 2
    assert where(made) == dropped
    assert made.trials.index.tolist() == [2, 5, 1, 0, 3]
    table["start"][3] = -1  # which only a table can say
    with pytest.warns(HpcioWarning, match="1 of 2 trials leave") as told:
        given = read_trials(table, read_recording("s*.h5::/lfp"), outside="drop")
    assert [str(one.message)[-2:] for one in told] == ["4.", "3."]
    assert given.trials.index.tolist() == [2, 5, 1, 0]
    assert given.order.tolist() == [2, 3, 1, 0]


def test_columns_have_the_same_names_in_all(folder):
    one, two = ({"start": [0], "stop": [5], **more} for more in ({"kind": ["a"]}, {}))
    with pytest.raises(TrialError, match=r"of '.*s1\.h5.*have no column 'kind'.*s0\.h5"):
        plan(trials=[one, two, one])
    three = {**two, "kind": [7]}
    with pytest.raises(TrialError, match=r"'kind' is text in the trials of .*s0.*numbers in.*s1"):
        plan(trials=[one, three, one])
    # Where nothing is said at all, it is missing, of whatever type.
    four = {**two, "kind": [np.nan]}
    assert plan(trials=[one, four, one]).trials["kind"].tolist() == ["a", "", "a"]
    five = {**two, "kind": ["n/a"]}
    assert np.isnan(plan(trials=[three, five, three]).trials["kind"]).tolist() == [
        False,
        True,
        False,
    ]


def test_selections_are_the_same_in_all(folder):
    tables = [Trials.read(table) for table in TABLES]
    some = [table.select(channels=[2, 0]) for table in tables]
    np.testing.assert_array_equal(plan(trials=some).trial(2), LFP[1][60:70][:, [2, 0]])
    with pytest.raises(OptionError, match=r"have channels=\(2, 0\), those of '.*s1\.h5.* None"):
        plan(trials=[some[0], *tables[1:]])


def test_files_of_trials_go_with_recordings_by_their_names(folder):
    (folder / "t1.csv").rename("t7.csv")
    with pytest.raises(TrialError, match=r"'t2\.csv' does not seem to go with '.*s1\.h5': '2' and"):
        plan(trials="t*.csv")
    with pytest.raises(TrialError, match="does not seem to go with"):
        plan(source=["s1.h5::/lfp", "s0.h5::/lfp", "s2.h5::/lfp"], trials="s*.h5::/trials")


def test_a_table_of_several_is_not_that_of_one(folder):
    with pytest.raises(TrialError, match=r"of 's1', others of 's0'.*where\(recording='s1'\)"):
        plan(source="s1.h5::/lfp", trials="all.csv")
    own = Trials.read("all.csv").where(recording="s1")
    np.testing.assert_array_equal(plan(source="s1.h5::/lfp", trials=own).trial(4), LFP[1][60:70])


def rewritten(path: Path, **changes: Any) -> None:
    data = changes.pop("data", np.zeros((50, 3)))
    with h5py.File(path, "w") as f:
        f["lfp"] = data
        if names := changes.pop("channels", None):
            f["channel"] = names
            f["channel"].make_scale("channel")
            f["lfp"].dims[1].attach_scale(f["channel"])


def series(path: Path, rate: float) -> None:
    """A time series as NWB has it."""
    with h5py.File(path, "w") as f:
        group = f.create_group("lfp")
        group["data"], group["starting_time"] = np.zeros((50, 3)), 0.0
        group["starting_time"].attrs["rate"] = rate
        group.attrs["neurodata_type"] = "ElectricalSeries"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": np.zeros((50, 4))}, r"s0\.h5.*s1\.h5.* shape, .*\(100, 3\) and \(50, 4\)"),
        ({"data": np.zeros(50)}, r"s0\.h5.*s1\.h5.* shape"),
        ({"data": np.zeros((50, 3), "f4")}, r"s0\.h5.*s1\.h5.* type: float64 and float32"),
    ],
)
def test_recordings_agree(folder, changes, says):
    rewritten(folder / "s1.h5", **changes)
    with pytest.raises(SourceError, match=says):
        plan()


def test_recordings_agree_in_what_they_say_of_channels(folder):
    rewritten(folder / "s1.h5", channels=["a", "b", "c"])
    assert len(read_recording("s*.h5::lfp").parts) == 3  # the first says nothing
    rewritten(folder / "s2.h5", channels=["a", "c", "b"])
    with pytest.raises(SourceError, match=r"s1\.h5.*s2\.h5.* axis 1: entry 1 is b and c"):
        plan()


def test_recordings_agree_in_what_they_say_of_rates(folder):
    for k, rate in enumerate((1000.0, 1000.0 + 1e-6, 500.0)):
        series(folder / f"n{k}.h5", rate)
    assert read_recording(["n0.h5::lfp/data", "n1.h5::lfp/data"]).shape == (100, 3)
    with pytest.raises(SourceError, match=r"n0\.h5.*n2\.h5.* rate: 1000.0 and 500.0 rows"):
        read_recording("n*.h5::lfp/data")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("x*.h5::/lfp", r"No file matches 'x\*\.h5::/lfp'"),
        ([], "source= is empty"),
        (["s0.h5::/lfp", "s0.h5::lfp"], "named twice"),
        (["s0.h5::/lfp", "gone.h5::/lfp"], r"gone\.h5"),
        ({"s0.h5::/lfp"}, "is no path"),
    ],
)
def test_recordings_that_cannot_be(folder, source, says):
    with pytest.raises(HpcioError, match=says):
        plan(source=source)


# ---------------------------------------------------------------------- names


def test_a_pattern_is_sorted_as_people_sort(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("s10.h5", "s2.h5", "s1.h5", "[a].h5"):
        Path(name).touch()
    Path("s3.h5").mkdir()
    assert matching_files("s*.h5::/x") == ["s1.h5::/x", "s2.h5::/x", "s10.h5::/x"]
    assert matching_files("s?.h5") == ["s1.h5", "s2.h5"]
    assert matching_files("[a].h5::/x") is None  # there is a file of that very name
    assert matching_files("s1.h5::/x*") is None
    assert matching_files("y*") == []


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["/d/s1.h5::x", "/d/s2.h5::x"], ["s1", "s2"]),
        (["/d/s1.h5::x", "/d/s1.nwb::x"], ["s1.h5", "s1.nwb"]),
        (["/d/a/1/lfp.h5::x", "/d/b/1/lfp.h5::x"], ["a/1/lfp", "b/1/lfp"]),
        (["/d/s.h5::/one", "/d/s.h5::/two"], ["one", "two"]),
        (["/d/s.h5::one", "/d/s.h5::two", "/d/t.h5::two"], ["s::one", "s::two", "t::two"]),
    ],
)
def test_the_shortest_names_that_tell_recordings_apart(files, names):
    parts = [Recording(*name.split("::"), (4, 2), np.dtype("f4"), 0, 0) for name in files]
    assert short_names(SeveralRecordings.joined(parts, 0)) == tuple(names)


def test_one_recording_in_a_list_has_the_column_all_the_same(folder):
    assert where(plan(source=["s1.h5::/lfp"])) == [("s1", 60, 70)]
    assert where(plan(source="s1*.h5::/lfp", trials=TABLES[1:2])) == [("s1", 60, 70)]


def test_datasets_of_one_file(folder):
    with h5py.File("both.h5", "w") as f:
        f["left/lfp"], f["right/lfp"] = LFP[0], LFP[1]
    made = plan(source=["both.h5::/left/lfp", "both.h5::/right/lfp"], trials=50)
    assert made.trials["recording"].tolist() == ["left/lfp", "left/lfp", "right/lfp"]
    np.testing.assert_array_equal(made.trial(2), LFP[1][:50])
    with pytest.raises(TrialError, match=r"'both', which may be each of 2: left/lfp, right/lfp"):
        plan(
            source=["both.h5::/left/lfp", "both.h5::/right/lfp"],
            trials={"recording": ["both"], "start": [0], "stop": [5]},
        )


# ---------------------------------------------------------------------- reading


def whole(rows: int, channels: slice = slice(0, 3, 1), length: int = 3) -> InputKind:
    return InputKind((rows, length), (slice(0, rows, 1), channels), None, (0, length))


@pytest.mark.parametrize("storage", [{}, {"chunks": (7, 2), "compression": "gzip"}])
def test_few_are_open_at_a_time(tmp_path, storage):
    data = [np.full((20, 3), k, "f4") for k in range(12)]
    for k, values in enumerate(data):
        with h5py.File(tmp_path / f"r{k}.h5", "w") as f:
            f.create_dataset("x", data=values, **storage)
    recording = read_recording(f"{tmp_path}/r*.h5::x")
    kind, some = whole(20), whole(5, slice(0, 3, 2), 2)
    before = len(os.listdir("/proc/self/fd"))
    with Reader(recording, axis=0) as reader:
        for k in (*range(12), 3, 11, 3, 0):
            np.testing.assert_array_equal(reader.of_kind(kind)(20 * k), data[k])
            np.testing.assert_array_equal(reader.of_kind(some)(20 * k + 15), data[k][15:, ::2])
            assert len(os.listdir("/proc/self/fd")) <= before + 2 * MOST_OPEN
        with pytest.raises(TrialError, match=r"The rows \[30, 50\) of 12 recordings"):
            reader.of_kind(kind)(30)
        with pytest.raises(TrialError, match=r"\[240, 260\)"):
            reader.of_kind(kind)(240)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("axis", [1, -1])
def test_recordings_are_joined_along_any_axis(folder, axis):
    for k in range(3):
        rewritten(folder / f"s{k}.h5", data=LFP[k].T)
    made = plan(trials=35, axis=axis)
    assert made.source.shape == (3, 300)
    np.testing.assert_array_equal(made.trial(2), LFP[1].T[:, :35])
    trials = [Trials.read(table, axis=axis) for table in TABLES]
    np.testing.assert_array_equal(plan(trials=trials).trial(2), LFP[1].T[:, 60:70])


def test_the_recording_that_has_changed_is_named(folder):
    made = plan()
    os.utime("s1.h5", ns=(0, 0))
    with pytest.raises(SourceError, match=r"'.*s1\.h5' has changed.*touch -d \S+ \S*s1\.h5"):
        made.source.check_unchanged()
    os.utime("s2.h5", ns=(0, 0))
    with pytest.raises(SourceError, match=r"2 of 3 recordings are not.*first: .*'.*s1\.h5' has"):
        made.source.check_unchanged()
    os.utime("s1.h5", ns=(0, made.source.parts[1].mtime_ns))
    with open("s2.h5", "r+b") as f:
        f.seek(-8, os.SEEK_END)
        f.write(b"changed!")
    os.utime("s2.h5", ns=(0, made.source.parts[2].mtime_ns))
    with pytest.raises(SourceError, match=r"'.*s2\.h5' has been replaced"):
        made.source.check_content()


def test_each_recording_has_a_part_in_the_digest(folder):
    made = plan()
    assert plan().digest == made.digest
    assert plan(source=["s0.h5::/lfp", "s1.h5::/lfp", "s2.h5::/lfp"]).digest == made.digest
    os.utime("s1.h5", ns=(0, 0))
    assert plan().digest != made.digest


def test_the_dict_of_a_block_names_one_file(folder):
    made = plan()
    told = made.trl_dat(4)
    assert (told["infile"], told["indset"]) == (str(folder / "s2.h5"), "/lfp")
    assert told["ingrid"] == (slice(0, 10, 1), slice(0, 3, 1))
    assert told["outgrid"] == (slice(55, 65), slice(0, 3))


def test_no_short_name_is_that_of_another_file(tmp_path: Path) -> None:
    for name in ("a.h5", "a.h5.h5"):
        with h5py.File(tmp_path / name, "w") as f:
            f["lfp"] = np.zeros((10, 2))
    found = read_recording([f"{tmp_path}/a.h5::lfp", f"{tmp_path}/a.h5.h5::lfp"])
    assert short_names(found) == ("a.h5", "a.h5.h5")
