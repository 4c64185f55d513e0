"""Tables of trials as the programs write them that people use: pynwb, MNE, MATLAB, pandas, BIDS.

MATLAB's files are written here as version 7.3 lays them out, since MATLAB is not at hand.
"""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import hpcio
from hpcio import Trials
from hpcio.cli import cli
from hpcio.errors import HpcioWarning, SourceError, TrialError

Rows = list[tuple[int, ...]]


def rows_of(trials: Trials) -> Rows:
    columns = (trials.start, trials.stop, trials.offset)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def mean(trial: np.ndarray) -> np.ndarray:
    return trial.mean(axis=0)


# ---------------------------------------------------------------------- NWB, by pynwb

SESSION = np.random.default_rng(0).integers(-3000, 3000, (8000, 32)).astype("i2")
STARTS = np.arange(6) + 6.25


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A session whose recording begins at 5 s, with tables of intervals of all sorts."""
    pynwb = pytest.importorskip("pynwb")
    nwb = pynwb.NWBFile(
        session_description="", identifier="s", session_start_time=datetime(2024, 1, 1, tzinfo=UTC)
    )
    probe = nwb.create_device(name="probe")
    group = nwb.create_electrode_group("shank", description="", location="CA1", device=probe)
    for _ in range(32):
        nwb.add_electrode(location="CA1", group=group)
    region = nwb.create_electrode_table_region(list(range(32)), "all")
    common: dict[str, Any] = {"electrodes": region, "conversion": 1e-6}
    series = pynwb.ecephys.ElectricalSeries(
        name="ElectricalSeries", data=SESSION, rate=1000.0, starting_time=5.0, **common
    )
    nwb.add_acquisition(series)
    stamps = 5 + np.arange(8000) / 1000
    for name, shift in (("even", 0.0), ("gap", 0.5)):
        nwb.add_acquisition(
            pynwb.ecephys.ElectricalSeries(
                name=name, data=SESSION, timestamps=stamps + shift * (stamps > 8), **common
            )
        )
    for name, options in {
        "condition": {}, "rt": {}, "correct": {}, "licks": {"index": True}, "site": {"index": 2},
        "electrode": {"table": nwb.electrodes}, "reward_index": {},
    }.items():  # fmt: skip
        nwb.add_trial_column(name=name, description=name, **options)
    for k, start in enumerate(STARTS):
        nwb.add_trial(
            start_time=start, stop_time=start + 0.5, condition="face" if k % 2 else "house",
            rt=np.nan if k == 3 else 0.25 + k / 8, correct=k % 3 > 0, licks=[0.5] * k,
            site=[[1, 2], [3]], electrode=k, reward_index=2 * k, timeseries=[series],
        )  # fmt: skip
    nwb.add_epoch(start_time=6.0, stop_time=7.5, tags=["first", "quiet"], timeseries=[series])
    nwb.add_epoch(start_time=8.0, stop_time=9.0, tags=["second"], timeseries=[series])
    nwb.add_invalid_time_interval(start_time=5.5, stop_time=5.75, tags=["noise"])
    path = tmp_path_factory.mktemp("nwb") / "s.nwb"
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    return str(path)


def data(session: str, series: str = "ElectricalSeries") -> str:
    return f"{session}::/acquisition/{series}/data"


def test_columns_of_pynwb(session: str) -> None:
    trials = Trials.read(f"{session}::/intervals/trials", rate=1000, t_start=5)
    assert rows_of(trials)[0] == (1250, 1750, 0)
    assert trials["condition"].tolist() == ["house", "face"] * 3
    assert trials["correct"].tolist() == [False, True, True] * 2
    np.testing.assert_array_equal(trials["rt"], [0.25, 0.375, 0.5, np.nan, 0.75, 0.875])
    assert trials["electrode"].tolist() == list(range(6))
    assert trials["reward_index"].tolist() == list(range(0, 12, 2))  # it is no index of lists
    assert not {"licks", "licks_index", "site", "timeseries"} & set(trials.columns)


@pytest.mark.parametrize(
    ("table", "rows"),
    [("epochs", [(1000, 2500, 0), (3000, 4000, 0)]), ("invalid_times", [(500, 750, 0)])],
)
def test_other_intervals_of_pynwb(session: str, table: str, rows: Rows) -> None:
    assert rows_of(Trials.read(f"{session}::/intervals/{table}", rate=1000, t_start=5)) == rows


@pytest.mark.parametrize("series", ["ElectricalSeries", "even"])
@pytest.mark.parametrize("said", [{"rate": 1000, "t_start": 5.0}, None])
def test_a_session_of_nwb_to_the_end(
    session: str, tmp_path: Path, series: str, said: dict[str, float] | None
) -> None:
    """With rate and start said or, if the file has them, by the name of the table alone."""
    trials: Any = f"{session}::/intervals/trials"
    if said is not None:
        trials = Trials.read(trials, **said)
    plan = hpcio.Plan.create(
        mean, data(session, series), trials=trials, join="stack", out=tmp_path / "out.h5"
    )
    plan.run(workers=0, progress=False)
    firsts = np.round((STARTS - 5) * 1000).astype(int)
    with hpcio.open(plan.out) as f:
        expected = [SESSION[a : a + 500].mean(axis=0) for a in firsts]
        np.testing.assert_array_equal(f["data"][()], expected)
        assert f["condition"].asstr()[()].tolist() == ["house", "face"] * 3


def test_a_session_of_nwb_in_the_shell(session: str, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def f(x):\n    return x[0] + x[-1]\n")
    done = CliRunner().invoke(
        cli,
        ["run", f"{tmp_path}/f.py:f", data(session), "--trials", f"{session}::/intervals/trials",
         "--pre", "0.25", "--post", "0.5", "--where", "correct=true", "--join", "stack",
         "--workers", "0", "--quiet", "--out", f"{tmp_path}/out.h5"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    at = np.round((STARTS[[1, 2, 4, 5]] - 5) * 1000).astype(int)
    with hpcio.open(tmp_path / "out.h5") as f:
        assert (f["data"][()] == SESSION[at - 250] + SESSION[at + 499]).all()
        assert set(f["trials"]["offset"].tolist()) == {250}


@pytest.mark.parametrize(
    ("series", "said", "message"),
    [
        ("ElectricalSeries", {"rate": 1000}, r"begins at 5\.0 s.*Give t_start=5\.0, rate=1000\.0"),
        ("ElectricalSeries", {"rate": 999, "t_start": 5}, r"and rate=999\.0\. Give t_start=5\.0"),
        ("even", {"rate": 1000}, r"has timestamps.* row 6250 is at 11\.25.* first one at 5\.0 s"),
        ("gap", {"rate": 1000, "t_start": 5}, "has timestamps.*row 3001 is at 8.501.*searchsorted"),
    ],
)
def test_a_clock_that_is_not_that_of_the_recording_is_refused(
    session: str, tmp_path: Path, series: str, said: dict[str, float], message: str
) -> None:
    """Else the rows would be there, and be those of other times."""
    trials = Trials.read(f"{session}::/intervals/trials", **said)
    with pytest.raises(TrialError, match=message):
        hpcio.Plan.create(mean, data(session, series), trials=trials, out=tmp_path / "out.h5")
    events = Trials.from_events(STARTS, rate=said["rate"], post=0.5, t_start=said.get("t_start"))
    with pytest.raises(TrialError, match=message):
        hpcio.Plan.create(mean, data(session, series), trials=events, out=tmp_path / "out.h5")


def test_rows_need_no_clock(session: str, tmp_path: Path) -> None:
    plan = hpcio.Plan.create(mean, data(session), trials=[[10, 20]], out=tmp_path / "out.h5")
    assert rows_of(plan.trials) == [(10, 20, 0)]


def test_trials_before_a_recording_that_began_later_are_dropped(
    session: str, tmp_path: Path
) -> None:
    onsets = [4.0, 6.0, 12.75]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", HpcioWarning)
        trials = Trials.from_events(onsets, rate=1000, post=0.5, t_start=5, outside="drop")
        plan = hpcio.Plan.create(mean, data(session), trials=trials, out=tmp_path / "out.h5")
    assert plan.trials.index.tolist() == [1]
    assert [str(w.message).rpartition(": ")[2] for w in told] == ["0.", "2."]


# ---------------------------------------------------------------------- MNE


@pytest.fixture(scope="module")
def raw() -> Any:
    """Two channels and triggers at 500 Hz; the acquisition began 2000 samples before."""
    mne = pytest.importorskip("mne")
    mne.set_log_level("ERROR")
    values = np.random.default_rng(1).normal(size=(3, 5000))
    values[2] = 0
    for k, at in enumerate(range(500, 4500, 800)):
        values[2, at : at + 20] = 1 + k % 2
    info = mne.create_info(["a", "b", "trigger"], 500.0, ["eeg", "eeg", "stim"])
    return mne.io.RawArray(values, info, first_samp=2000)


def test_events_of_mne_count_from_the_start_of_the_acquisition(raw: Any, tmp_path: Path) -> None:
    import mne

    with h5py.File(tmp_path / "raw.h5", "w") as f:
        f["eeg"] = raw.get_data().T
    events = mne.find_events(raw, stim_channel="trigger")
    assert events[0].tolist() == [2500, 0, 1]  # in the data it is sample 500
    trials = Trials.read(events, rate=500, pre=0.2, post=0.4, t_start=raw.first_time)
    plan = hpcio.Plan.create(
        mean, f"{tmp_path}/raw.h5::eeg", trials=trials.where(event=2), join="stack",
        out=tmp_path / "out.h5",
    )  # fmt: skip
    plan.run(workers=0, progress=False)
    epochs = mne.Epochs(raw, events, {"odd": 2}, -0.2, 0.398, baseline=None, picks="all")
    with hpcio.open(plan.out) as f:
        np.testing.assert_allclose(f["data"][()], epochs.get_data().mean(axis=2), atol=1e-15)


def test_events_of_equal_distance(raw: Any) -> None:
    import mne

    events = mne.make_fixed_length_events(raw, id=3, start=1, stop=5, duration=1.0)
    trials = Trials.read(events, rate=500, post=1.0, t_start=raw.first_time)
    assert rows_of(trials) == [(500 + 500 * k, 1000 + 500 * k, 0) for k in range(4)]
    assert trials["event"].tolist() == [3] * 4


def test_steps_of_a_trigger_have_a_value_before(raw: Any) -> None:
    """Their second column is no 0, and yet no row."""
    import mne

    events = mne.find_events(raw, stim_channel="trigger", output="step")
    trials = Trials.read(events, rate=500, post=0.02, t_start=raw.first_time)
    assert trials.start.tolist()[:2] == [500, 520]
    assert trials["previous"].tolist()[:2] == [0, 1]


@pytest.mark.parametrize("name", ["x.eve", "x-eve.lst", "x-eve.txt", "x-eve.fif"])
def test_files_of_events_of_mne_are_refused_in_words(raw: Any, tmp_path: Path, name: str) -> None:
    import mne

    mne.write_events(tmp_path / name, mne.find_events(raw, stim_channel="trigger"))
    with pytest.raises((TrialError, SourceError), match=r"array of mne\.read_events"):
        Trials.read(tmp_path / name, rate=500, post=1)


def test_annotations_of_mne_have_their_names_in_a_comment(tmp_path: Path) -> None:
    mne = pytest.importorskip("mne")
    for texts, read in ((["1", "2"], [1, 2]), (["face #1", "face #2"], ["face #1", "face #2"])):
        path = tmp_path / "a-annot.txt"
        mne.Annotations([2.0, 4.0], [3.0, 1.0], texts).save(path, overwrite=True)
        trials = Trials.read(path, rate=500)
        assert rows_of(trials) == [(1000, 2500, 0), (2000, 2500, 0)]
        assert trials["description"].tolist() == read
    mne.Annotations([2.0], [3.0], ["1"]).save(tmp_path / "a-annot.csv")  # with times of a calendar
    with pytest.raises(TrialError, match=r"column 1: '1970-01-01.*no time"):
        Trials.read(tmp_path / "a-annot.csv", rate=500)


def test_a_table_of_starts_is_no_table_of_events() -> None:
    with pytest.raises(TrialError, match="looks like start and stop"):
        Trials.read([[0, 100, 20], [100, 200, 20]], rate=100, post=1)


# ---------------------------------------------------------------------- MATLAB 7.3


class MatFile:
    """Writes what MATLAB writes with -v7.3."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with h5py.File(path, "w", userblock_size=512) as f:
            f.create_group("#refs#")
        text = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon Jan  1 00:00:00 2024 HDF5 "
        with path.open("r+b") as raw:
            raw.write((text + b"schema 1.00 .").ljust(116) + b"\0" * 8 + b"\x00\x02IM")

    def __call__(self, name: str, value: Any) -> str:
        with h5py.File(self.path, "r+") as f:
            self._write(f, name, value)
        return f"{self.path}::/{name}"

    def _write(self, where: h5py.Group, name: str, value: Any) -> None:
        if isinstance(value, list) and not value:
            where[name] = np.zeros(2, "u8")
            where[name].attrs["MATLAB_class"] = np.bytes_("double")
            where[name].attrs["MATLAB_empty"] = np.uint8(1)
        elif isinstance(value, dict):
            group = where.create_group(name)
            group.attrs["MATLAB_class"] = np.bytes_("struct")
            letters = h5py.vlen_dtype(np.dtype("S1"))
            fields = np.empty(len(value), object)
            fields[:] = [np.array([*field], "S1") for field in value]
            group.attrs.create("MATLAB_fields", fields, dtype=letters)
            for field, content in value.items():
                self._write(group, field, content)
        elif isinstance(value, list | tuple):  # elements of a struct array, or a cell
            refs = where.file["#refs#"]
            held = np.empty((len(value), 1), h5py.ref_dtype)
            for k, element in enumerate(value):
                self._write(refs, f"{name}{len(refs)}", element)
                held[k] = refs[f"{name}{len(refs) - 1}"].ref
            where.create_dataset(name, data=held, dtype=h5py.ref_dtype)
            if isinstance(value, tuple):
                where[name].attrs["MATLAB_class"] = np.bytes_("cell")
        elif isinstance(value, str):
            where[name] = np.array([*map(ord, value)], "u2")[:, None]
            where[name].attrs["MATLAB_class"] = np.bytes_("char")
            where[name].attrs["MATLAB_int_decode"] = np.int32(2)
        else:
            matrix = np.atleast_2d(value)
            logical = matrix.dtype == bool
            where[name] = (matrix.astype("u1") if logical else matrix.astype("f8")).T
            where[name].attrs["MATLAB_class"] = np.bytes_("logical" if logical else "double")
            if logical:
                where[name].attrs["MATLAB_int_decode"] = np.int32(1)

    def opaque(self, name: str, of_class: str) -> str:
        """An object, whose values are elsewhere."""
        with h5py.File(self.path, "r+") as f:
            f[name] = np.array([[0xDD000000, 2, 1, 1, 1, 1]], "u4")
            f[name].attrs["MATLAB_class"] = np.bytes_(of_class)
            f[name].attrs["MATLAB_object_decode"] = np.int32(3)
        return f"{self.path}::/{name}"


@pytest.fixture
def mat(tmp_path: Path) -> MatFile:
    return MatFile(tmp_path / "study.mat")


TRL = [[1, 100, -20, 5, 0.5], [101, 200, -20, 6, np.nan], [301, 400, 30, 5, 0.75]]
WANTED = [(0, 100, 20), (100, 200, 20), (300, 400, -30)]


def test_trl_and_sampleinfo_of_fieldtrip(mat: MatFile) -> None:
    mat("cfg", {"dataset": "a.ds", "trl": np.array(TRL), "event": []})
    trials = Trials.read(f"{mat.path}::/cfg/trl")
    assert rows_of(trials) == WANTED
    assert trials["trialinfo1"].tolist() == [5, 6, 5]
    np.testing.assert_array_equal(trials["trialinfo2"], [0.5, np.nan, 0.75])
    assert rows_of(Trials.read(mat("trl", np.array(TRL)[:, :3]))) == WANTED
    spec = mat("data", {"fsample": 1000.0, "sampleinfo": np.array(TRL)[:, :2]})
    assert rows_of(Trials.read(f"{spec}/sampleinfo")) == [(a, b, 0) for a, b, _ in WANTED]
    one = mat("one", {"trl": np.array(TRL)[:1, :3]})
    assert rows_of(Trials.read(f"{one}/trl")) == WANTED[:1]


def test_events_of_fieldtrip(mat: MatFile) -> None:
    """A struct array, as ft_read_event gives it; its samples count from 1."""
    spec = mat(
        "event",
        {
            "type": ["trigger", "response", "trigger"],
            "sample": [501.0, 700.0, 901.0],
            "value": [1.0, [], 2.0],
            "offset": [[], [], []],
            "duration": [100.0, [], 200.0],
        },
    )
    trials = Trials.read(spec, onset="sample", one_based=True, rate=1000, pre=0.1, post=0.2)
    assert rows_of(trials) == [(400, 700, 100), (599, 899, 100), (800, 1100, 100)]
    assert trials["type"].tolist() == ["trigger", "response", "trigger"]
    np.testing.assert_array_equal(trials["value"], [1, np.nan, 2])
    assert trials.where(type="trigger", value=2).start.tolist() == [800]
    with pytest.raises(TrialError, match=r"is of MATLAB, which counts from 1.*one_based=True"):
        Trials.read(spec, onset="sample", rate=1000, pre=0.1, post=0.2)
    with pytest.raises(TrialError, match=r"has the columns type, sample, value.*onset='NAME'"):
        Trials.read(spec, rate=1000, post=0.2)


def test_a_struct_of_columns(mat: MatFile) -> None:
    columns: dict[str, Any] = {
        "start": np.array([[1.0], [11.0]]),
        "stop": np.array([10.0, 20.0]),
        "condition": ("face", "house"),
        "good": np.array([True, False]),
    }
    spec = mat("s", columns)
    trials = Trials.read(spec, one_based=True)
    assert rows_of(trials) == [(0, 10, 0), (10, 20, 0)]
    assert trials["condition"].tolist() == ["face", "house"]
    assert trials["good"].tolist() == [True, False]
    with pytest.raises(TrialError, match="is of MATLAB, which counts from 1"):
        Trials.read(spec)
    seconds = mat("t", {"onset": np.array([0.5, 1.5]), "duration": np.array([0.25, 0.5])})
    assert rows_of(Trials.read(seconds, rate=100)) == [(50, 75, 0), (150, 200, 0)]
    with pytest.raises(TrialError, match="unequal length: 'fs' has 1, 'onset' has 2"):
        Trials.read(mat("u", {"fs": 100.0, "onset": np.array([0.5, 1.5])}), rate=100)


def test_what_matlab_alone_can_read_is_refused(mat: MatFile) -> None:
    for of_class in ("table", "string"):
        with pytest.raises(TrialError, match=f"MATLAB's class {of_class}.*table2struct.*-v7.3"):
            Trials.read(mat.opaque(of_class, of_class))
    with pytest.raises(TrialError, match=r"'/c' in .* is of MATLAB's class cell\. Name a matrix"):
        Trials.read(mat("c", (1.0, 2.0)))
    with pytest.raises(TrialError, match=r"'/trl' in .* is empty"):
        Trials.read(mat("trl", []))
    with pytest.raises(TrialError, match=r"no field with one value.*FILE::/cfg/trl"):
        Trials.read(mat("cfg", {"trl": np.array(TRL)}))


@pytest.mark.parametrize("version", ["4", "5"])
def test_files_of_matlab_before_73_are_refused(tmp_path: Path, version: Any) -> None:
    io = pytest.importorskip("scipy.io")
    io.savemat(tmp_path / "old.mat", {"trl": np.array(TRL)}, format=version)
    with pytest.raises(SourceError, match=r"-v7\.3.*scipy\.io\.loadmat"):
        Trials.read(f"{tmp_path}/old.mat::trl")
    with pytest.raises(SourceError, match=r"FILE::NAME, in a file .* -v7\.3"):
        Trials.read(tmp_path / "old.mat")


def test_a_table_on_its_side_is_refused(mat: MatFile) -> None:
    lengthwise = np.array([[0, 100, 200], [90, 190, 290]])
    with pytest.raises(TrialError, match=r"looks transposed.*Give table\.T"):
        Trials.read(lengthwise)
    with pytest.raises(TrialError, match="looks transposed"):
        Trials.read(mat("trl", np.column_stack([lengthwise + 1, [[300], [390]]])))


# ---------------------------------------------------------------------- frames

WINDOW: dict[str, float] = {"rate": 100, "pre": 0.1, "post": 0.2}


def frame(**columns: Any) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"onset": [1.0, 2.0, 3.0], "kind": ["a", "b", "a"], **columns})


def test_a_frame_that_was_filtered() -> None:
    table = frame()
    some = table[table["kind"] == "a"]
    trials = Trials.read(some, **WINDOW)
    assert rows_of(trials) == [(90, 120, 10), (290, 320, 10)]
    assert trials["kind"].tolist() == ["a", "a"]
    again = Trials.from_events(some["onset"], **WINDOW, columns={"kind": some["kind"]})
    assert (rows_of(again), again["kind"].tolist()) == (rows_of(trials), ["a", "a"])


def test_types_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    trials = Trials.read(
        frame(
            category=pandas.Categorical(["x", None, "y"]),
            count=pandas.array([1, None, 3], dtype="Int64"),
            good=pandas.array([True, None, False], dtype="boolean"),
            text=pandas.array(["p", None, "q"], dtype="string"),
            mixed=["m", 1, None],
            arrays=[np.zeros(2), None, "n"],
        ),
        **WINDOW,
    )
    assert trials["category"].tolist() == ["x", "", "y"]
    assert trials["text"].tolist() == ["p", "", "q"]
    assert trials["mixed"].tolist() == ["m", "1", ""]
    np.testing.assert_array_equal(trials["count"], [1, np.nan, 3])
    np.testing.assert_array_equal(trials["good"], [1, np.nan, 0])
    assert trials["arrays"].tolist()[1:] == ["", "n"]


def test_onsets_of_a_calendar_are_no_seconds() -> None:
    pandas = pytest.importorskip("pandas")
    seconds = [1.0, 2.0, 3.0]
    for onset in (
        pandas.to_datetime(seconds, unit="s"),
        pandas.to_datetime(seconds, unit="s", utc=True),
        pandas.to_timedelta(seconds, unit="s"),
        ["1.0", "2.0", "3.0"],
        pandas.array([1, None, 3], dtype="Int64"),
    ):
        with pytest.raises(TrialError, match=r"Trial . of the table: onset is .*Give numbers"):
            Trials.read(frame(onset=onset), **WINDOW)


def test_a_masked_value_is_no_value() -> None:
    onset, seen = np.ma.array([1.0, 2.0], mask=[0, 1]), np.ma.array([5, 6], mask=[0, 1])
    with pytest.raises(TrialError, match="Trial 1 of the table: onset is nan, which is no time"):
        Trials.read({"onset": onset}, **WINDOW)
    trials = Trials.read({"onset": [1.0, 2.0], "seen": seen}, **WINDOW)
    np.testing.assert_array_equal(trials["seen"], [5, np.nan])
    with pytest.raises(TrialError, match="has the type object"):
        Trials.read(np.ma.array([[0, 10], [10, 20]], mask=[[0, 0], [0, 1]]))


def test_windows_around_one_of_two_columns_need_its_name() -> None:
    table = frame(start=[0, 100, 200], stop=[90, 190, 290])
    with pytest.raises(TrialError, match=r"has 'start' and 'onset'\. Say which"):
        Trials.read(table, **WINDOW)
    assert Trials.read(table, onset="onset", **WINDOW).start.tolist() == [90, 190, 290]
    assert Trials.read(table).start.tolist() == [0, 100, 200]


def test_a_frame_as_a_dict_of_dicts_is_refused() -> None:
    """Its keys, the numbers of its rows, would pass for seconds."""
    with pytest.raises(TrialError, match=r"'onset' of .* is a dict.*\.to_dict\('list'\)"):
        Trials.read(frame().to_dict(), rate=100, post=0.2)
    assert Trials.read(frame().to_dict("list"), **WINDOW).start.tolist() == [90, 190, 290]
    assert Trials.read(frame().to_dict("records"), **WINDOW).start.tolist() == [90, 190, 290]
    assert Trials.read(frame().to_records(), **WINDOW).start.tolist() == [90, 190, 290]


# ---------------------------------------------------------------------- BIDS

BIDS = (
    "\ufeffonset\tduration\tsample\ttrial_type\tresponse_time\tstim_file\r\n"
    "0.1\t0\t100\tn/a\tn/a\tface#1.png\r\n"
    "1.0\tn/a\t1000\tface #1\t0.31\tface#2.png\r\n"
    "2.5\t0.5\t2500\tface #2\tn/a\t#ff0000\r\n"
)


def test_events_of_bids_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "sub-01_task-x_events.tsv"
    path.write_bytes(BIDS.encode())
    trials = Trials.read(path, rate=1000, pre=0.1, post=0.5)
    assert rows_of(trials) == [(0, 600, 100), (900, 1500, 100), (2400, 3000, 100)]
    assert trials["trial_type"].tolist() == ["n/a", "face #1", "face #2"]  # "#" is no comment here
    assert trials["stim_file"].tolist() == ["face#1.png", "face#2.png", "#ff0000"]
    np.testing.assert_array_equal(trials["response_time"], [np.nan, 0.31, np.nan])
    rows = Trials.read(path, onset="sample", rate=1000, pre=0.1, post=0.5)
    assert rows_of(rows) == rows_of(trials)
    with pytest.raises(TrialError, match=r"line 3, column 2: 'n/a', which is no time"):
        Trials.read(path, rate=1000)
    with pytest.raises(TrialError, match="how long trials last"):
        Trials.read(path, rate=1000, pre=0.1, onset="sample")  # durations are seconds
    early = tmp_path / "early.tsv"
    early.write_text("onset\tduration\n-0.5\t0.2\n1.0\t0.2\n2.0\t0\n")
    with pytest.raises(TrialError, match=r"Trial 0 of .*\[-500, -300\).*outside='drop'"):
        Trials.read(early, rate=1000)
    with pytest.raises(TrialError, match=r"Trial 2 of .* \(line 4\).*\[2000, 2000\)"):
        Trials.read(early, rate=1000, outside="drop")
    (tmp_path / "e.tsv.gz").write_bytes(b"\x1f\x8b\x08\x00\xff")
    with pytest.raises(SourceError, match="Unpack it"):
        Trials.read(tmp_path / "e.tsv.gz", rate=1000)


@pytest.mark.parametrize(
    "text", ["# stop,start\n10,0\n30,10\n", "# made by a, b\n# stop, start\n10, 0 # x\n30,10\n"]
)
def test_names_in_the_comment_of_numpy_decide(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert rows_of(Trials.read(tmp_path / "a.csv")) == [(0, 10, 0), (10, 30, 0)]
    (tmp_path / "a.csv").write_text("# stop, start\nstart,stop # as they are\n0,10\n")
    assert rows_of(Trials.read(tmp_path / "a.csv")) == [(0, 10, 0)]
    (tmp_path / "a.csv").write_text("# made by a, b\n0,10\n")
    assert rows_of(Trials.read(tmp_path / "a.csv")) == [(0, 10, 0)]


def test_spikes_in_seconds_are_those_in_samples(tmp_path: Path) -> None:
    """Grasshopper receptors of nitime: 10 s of sound at 20 kHz, and times of spikes."""
    found = find_spec("nitime")
    folder = Path(found.submodule_search_locations[0], "data") if found else None  # type: ignore[index]
    if folder is None or not folder.is_dir():
        pytest.skip("needs the recordings of nitime: pip install nitime")
    sound = np.loadtxt(folder / "grasshopper_stimulus1.txt", usecols=1)
    microseconds = np.loadtxt(folder / "grasshopper_spike_times1.txt").astype(int)
    with h5py.File(tmp_path / "sound.h5", "w") as f:
        f["sound"] = sound
    lines = "".join(f"{t / 1e6}\t0\tspike\n" for t in microseconds)
    (tmp_path / "spikes.tsv").write_text("onset\tduration\ttrial_type\n" + lines)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HpcioWarning)  # windows at both ends
        trials = Trials.read(
            tmp_path / "spikes.tsv", rate=20_000, pre=0.015, post=0.005, outside="drop"
        )
        plan = hpcio.Plan.create(
            np.negative, f"{tmp_path}/sound.h5::sound", trials=trials, join="stack",
            out=tmp_path / "out.h5",
        )  # fmt: skip
    plan.run(workers=0, progress=False)
    at = microseconds // 50
    at = at[(at >= 300) & (at + 100 <= len(sound))]
    with hpcio.open(plan.out) as f:
        assert (f["data"][()] == np.stack([-sound[k - 300 : k + 100] for k in at])).all()
