"""Results as files of NWB: pynwb's validator takes them, and pynwb reads the same numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import hpcio
from hpcio import Trials
from hpcio.cli import cli
from hpcio.errors import OutputError, ResultError

pynwb = pytest.importorskip("pynwb")

RAW = np.random.default_rng(0).integers(-3000, 3000, (3000, 4)).astype("i2")
ROWS_OF = [slice(100, 300), slice(600, 750), slice(250, 500), slice(2000, 2400)]
CONDITIONS = ["face", "house", "face", "häuser"]
BEGAN = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> str:
    nwb = pynwb.NWBFile(session_description="", identifier="s", session_start_time=BEGAN)
    probe = nwb.create_device(name="probe")
    group = nwb.create_electrode_group("shank", description="", location="", device=probe)
    for _ in range(4):
        nwb.add_electrode(location="CA1", group=group)
    region = nwb.create_electrode_table_region(list(range(4)), "")
    nwb.add_acquisition(
        pynwb.ecephys.ElectricalSeries(
            name="ES", data=RAW, rate=1000.0, starting_time=5.0, electrodes=region, conversion=1e-6
        )
    )
    for name in ("condition", "rt", "correct"):
        nwb.add_trial_column(name=name, description="")
    for k, rows in enumerate(ROWS_OF):
        nwb.add_trial(
            start_time=5 + rows.start / 1000, stop_time=5 + rows.stop / 1000, rt=k / 8,
            condition=CONDITIONS[k], correct=k % 2 == 0,
        )  # fmt: skip
    path = tmp_path_factory.mktemp("nwb") / "s.nwb"
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    return str(path)


@contextmanager
def read_by_pynwb(path: Path) -> Iterator[Any]:
    """A file of NWB that is valid, as pynwb reads it."""
    assert pynwb.validate(path=str(path)) == []
    with pynwb.NWBHDF5IO(path, "r") as io:
        yield io.read()


def finished(source: str, tmp_path: Path, func: Any, **options: Any) -> Path:
    plan = hpcio.Plan.create(func, source, out=tmp_path / "out.h5", **options)
    plan.run(workers=0, progress=False)
    return Path(plan.out)


# Functions of numpy are tried in place, which is quick.
MEAN: dict[str, Any] = {"func": np.mean, "kwargs": {"axis": 0}}


@pytest.mark.parametrize("chunks", [None, True])
def test_rows_of_trials_are_a_time_series(
    session: str, tmp_path: Path, chunks: bool | None
) -> None:
    out = finished(f"{session}::ES", tmp_path, np.abs, trials=session, units="V")
    done = hpcio.repack(out, tmp_path / "x.nwb", chunks=chunks)
    assert (done.blocks, done.gaps) == (4, 0)
    with read_by_pynwb(tmp_path / "x.nwb") as nwb:
        series = nwb.processing["hpcio"]["data"]
        expected = np.concatenate([RAW[rows] * 1e-6 for rows in ROWS_OF])
        np.testing.assert_array_equal(series.data[:], np.abs(expected))
        times = np.concatenate([5 + np.arange(3000)[rows] / 1000 for rows in ROWS_OF])
        np.testing.assert_allclose(series.timestamps[:], times, atol=1e-12)
        trials = nwb.trials.to_dataframe()
        assert trials["condition"].tolist() == CONDITIONS
        assert trials["correct"].tolist() == [True, False, True, False]
        np.testing.assert_array_equal(trials["rt"], np.arange(4) / 8)
        np.testing.assert_allclose(trials["start_time"], [5.1, 5.6, 5.25, 7.0])
        np.testing.assert_allclose(trials["stop_time"], [5.3, 5.75, 5.5, 7.4])
        assert trials.columns.tolist() == [
            "start_time", "stop_time", "condition", "rt", "correct", "start_row", "stop_row",
            "offset", "first", "last", "done",
        ]  # fmt: skip
        assert trials["first"].tolist() == [0, 200, 350, 600]
        assert trials["done"].all()
        assert nwb.session_start_time == BEGAN
        assert nwb.scratch["channel"].data[:].tolist() == [0, 1, 2, 3]
        assert f"source: {session}" in nwb.notes
        assert "numpy:absolute" in nwb.notes
    again = Trials.read(tmp_path / "x.nwb", rate=1000, t_start=5)
    assert again.start.tolist() == [rows.start for rows in ROWS_OF]
    assert again.stop.tolist() == [rows.stop for rows in ROWS_OF]


def test_results_by_condition_lie_in_scratch(session: str, tmp_path: Path) -> None:
    out = finished(
        f"{session}::ES", tmp_path, **MEAN, trials=session, keeptrials=False, by="condition"
    )
    hpcio.repack(out, tmp_path / "x.nwb")
    with read_by_pynwb(tmp_path / "x.nwb") as nwb, hpcio.open(out) as f:
        np.testing.assert_array_equal(nwb.scratch["data"].data[:], f["data"][()])
        assert nwb.scratch["condition"].data[:].tolist() == ["face", "house", "häuser"]
        assert nwb.scratch["count"].data[:].tolist() == [2, 1, 1]
        assert "Axes: condition, " in nwb.scratch["data"].description
        assert not nwb.processing


def test_stacked_results_of_plain_hdf5_have_no_times(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = RAW
    trials = Trials.equal(500, rows=3000).with_columns(id=list("abcdef"))
    out = finished(f"{tmp_path}/rec.h5::lfp", tmp_path, **MEAN, trials=trials, join="stack",
                   axes={"trial": None, "frequency": [1.0, 2.0, 4.0, 8.0]})  # fmt: skip
    hpcio.repack(out, tmp_path / "x.nwb")
    with read_by_pynwb(tmp_path / "x.nwb") as nwb:
        np.testing.assert_array_equal(
            nwb.scratch["data"].data[:], RAW.reshape(6, 500, 4).mean(axis=1)
        )
        assert nwb.scratch["frequency"].data[:].tolist() == [1, 2, 4, 8]
        assert nwb.trials is None
        table = nwb.scratch["trials"].to_dataframe()
        assert table["trial_id"].tolist() == list("abcdef")
        assert table["start_row"].tolist() == list(range(0, 3000, 500))
        assert "not known" in nwb.session_description


def test_trials_in_seconds_of_plain_hdf5_have_times(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = RAW
    trials = Trials.from_events([1.0, 2.0], rate=500, post=0.5, t_start=-1)
    out = finished(f"{tmp_path}/rec.h5::lfp", tmp_path, np.abs, trials=trials,
                   axes={"time": None, "channel": None})  # fmt: skip
    hpcio.repack(out, tmp_path / "x.nwb")
    with read_by_pynwb(tmp_path / "x.nwb") as nwb:
        assert nwb.trials["start_time"][:].tolist() == [1.0, 2.0]
        stamps = nwb.processing["hpcio"]["data"].timestamps[:]
        np.testing.assert_allclose(stamps[[0, 249, 250]], [1.0, 1.498, 2.0])


def test_windows_around_trials_have_their_own_times(session: str, tmp_path: Path) -> None:
    trials = Trials.read(session, recording=session, pre=0.1, post=0.05)
    out = finished(session, tmp_path, np.abs, trials=trials)
    hpcio.repack(out, tmp_path / "x.nwb")
    with read_by_pynwb(tmp_path / "x.nwb") as nwb:
        starts = np.array([5.1, 5.6, 5.25, 7.0])
        np.testing.assert_allclose(nwb.trials["start_time"][:], starts - 0.1)
        np.testing.assert_allclose(nwb.trials["stop_time"][:], starts + 0.05)
        np.testing.assert_allclose(nwb.trials["trial_start_time"][:], starts)
        assert set(nwb.trials["offset"][:].tolist()) == {100}


@pytest.mark.parametrize("time", [slice(None, None, -1), slice(10, 60)])
def test_rows_that_were_selected_are_no_time_series(
    session: str, tmp_path: Path, time: slice
) -> None:
    """Their times are not those of the trials, one after the other."""
    trials = Trials.read(session, rate=1000, t_start=5).select(time=time)
    out = finished(f"{session}::ES", tmp_path, np.negative, trials=trials)
    hpcio.repack(out, tmp_path / "x.nwb")
    with read_by_pynwb(tmp_path / "x.nwb") as nwb:
        expected = np.concatenate([-RAW[rows][time] for rows in ROWS_OF])
        np.testing.assert_array_equal(nwb.scratch["data"].data[:], expected)
        assert len(nwb.trials) == 4


def test_channel_blocks_and_gaps(session: str, tmp_path: Path) -> None:
    def picky(x: np.ndarray) -> np.ndarray:
        if len(x) == 250:
            raise ValueError("not this one")
        return x.astype("f4")

    plan = hpcio.Plan.create(
        picky, f"{session}::ES", trials=session, out=tmp_path / "out.h5", channels_per_block=2,
        out_shape=lambda shape: shape, out_dtype="f4",
    )  # fmt: skip
    plan.run(workers=0, progress=False, gaps=True)
    done = hpcio.repack(plan.out, tmp_path / "x.nwb")
    assert (done.blocks, done.gaps) == (6, 2)
    with read_by_pynwb(tmp_path / "x.nwb") as nwb:
        data = nwb.processing["hpcio"]["data"].data[:]
        np.testing.assert_array_equal(data[:350], RAW[np.r_[100:300, 600:750]])
        assert np.isnan(data[350:600]).all()
        assert nwb.trials["done"][:].tolist() == [True, True, False, True]


@pytest.mark.parametrize("names", [("time", "channel"), ("a", "b")])
@pytest.mark.parametrize("dtype", ["?", "u1", "f2", ">i4", "i8", "f8"])
def test_types_of_numbers(tmp_path: Path, dtype: str, names: tuple[str, str]) -> None:
    """As a time series, and in scratch."""
    values = np.arange(40).reshape(20, 2).astype(dtype)
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["x"] = values
    trials = Trials.from_events([0.0, 1.0], rate=10, post=1.0)
    out = finished(f"{tmp_path}/rec.h5::x", tmp_path, np.copy, trials=trials,
                   axes=dict.fromkeys(names))  # fmt: skip
    hpcio.repack(out, tmp_path / "x.nwb")
    with read_by_pynwb(tmp_path / "x.nwb") as nwb:
        where = nwb.processing["hpcio"] if names[0] == "time" else nwb.scratch
        np.testing.assert_array_equal(where["data"].data[:], values)
        assert where["data"].data.dtype == values.dtype


def test_complex_numbers_are_refused(session: str, tmp_path: Path) -> None:
    out = finished(f"{session}::ES", tmp_path, np.fft.fft, trials=session)
    with pytest.raises(OutputError, match="NWB has no complex numbers"):
        hpcio.repack(out, tmp_path / "x.nwb")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.h5", "out.h5.run"]


def test_a_damaged_result_makes_no_file(session: str, tmp_path: Path) -> None:
    out = finished(f"{session}::ES", tmp_path, np.abs, trials=session)
    hpcio.repack(out)
    with h5py.File(out, "r+") as f:
        f["data"][100, 1] += 1
    with pytest.raises(ResultError, match="differs from what was computed"):
        hpcio.repack(out, tmp_path / "x.nwb")
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]


def test_in_the_shell(session: str, tmp_path: Path) -> None:
    out = finished(f"{session}::ES", tmp_path, np.abs, trials=session)
    done = CliRunner().invoke(
        cli, ["repack", str(out), f"{tmp_path}/x.nwb", "--compression", "gzip"]
    )
    assert done.exit_code == 0, done.output
    assert "x.nwb: 4 trials" in done.output
    with read_by_pynwb(tmp_path / "x.nwb") as nwb:
        data = nwb.processing["hpcio"]["data"].data
        assert data.compression == "gzip"
        np.testing.assert_array_equal(data[:200], np.abs(RAW[100:300]))
    twice = CliRunner().invoke(cli, ["repack", str(out), f"{tmp_path}/x.nwb"])
    assert "exists" in str(twice.exception)


def power(x: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.rfft(x - x.mean(axis=0), axis=0)) ** 2


def test_from_a_session_to_spectra_by_condition_and_back(tmp_path: Path) -> None:
    """32 channels, 300 trials in seconds, two conditions; in volts, of one shank."""
    rng = np.random.default_rng(1)
    raw = rng.integers(-(2**15), 2**15, (62_000, 32)).astype("i2")
    nwb = pynwb.NWBFile(session_description="", identifier="s", session_start_time=BEGAN)
    probe = nwb.create_device(name="probe")
    for shank in range(2):
        group = nwb.create_electrode_group(
            f"shank{shank}", description="", location="CA1", device=probe
        )
        for _ in range(16):
            nwb.add_electrode(location="CA1", group=group)
    region = nwb.create_electrode_table_region(list(range(32)), "")
    nwb.add_acquisition(
        pynwb.ecephys.ElectricalSeries(
            name="ES", data=raw, rate=1000.0, starting_time=2.5, electrodes=region,
            conversion=1.95e-7, offset=-3e-4,
        )
    )  # fmt: skip
    nwb.add_trial_column(name="condition", description="")
    starts = 3.0 + 0.2 * np.arange(300)
    for k, start in enumerate(starts):
        nwb.add_trial(start_time=start, stop_time=start + 0.25, condition=("go", "stop")[k % 2])
    session = tmp_path / "session.nwb"
    with pynwb.NWBHDF5IO(session, "w") as io:
        io.write(nwb)
    with pynwb.NWBHDF5IO(session, "r") as io:
        series = io.read().acquisition["ES"]
        volts, rate = series.get_data_in_units(), series.rate
    first = np.floor((starts - 2.5) * rate + 0.5).astype(int)
    spectra = np.array([power(volts[a : a + 250, 16:]) for a in first])

    shank = hpcio.electrodes(session).where(group_name="shank1")
    trials = Trials.read(session, recording=session).select(channels=shank)
    plan = hpcio.Plan.create(
        power, session, trials=trials, units="V", keeptrials=False, by="condition",
        out=tmp_path / "spectra.h5",
        axes={"condition": None, "frequency": np.fft.rfftfreq(250, 1e-3), "channel": None},
    )  # fmt: skip
    plan.run(workers=0, progress=False)
    hpcio.repack(plan.out, tmp_path / "spectra.nwb")
    with read_by_pynwb(tmp_path / "spectra.nwb") as nwb:
        data = nwb.scratch["data"].data[:]
        expected = [spectra[::2].mean(axis=0), spectra[1::2].mean(axis=0)]
        np.testing.assert_allclose(data, expected, rtol=1e-12)
        assert nwb.scratch["condition"].data[:].tolist() == ["go", "stop"]
        assert nwb.scratch["count"].data[:].tolist() == [150, 150]
        np.testing.assert_array_equal(nwb.scratch["frequency"].data[:], np.fft.rfftfreq(250, 1e-3))
        np.testing.assert_allclose(nwb.trials["start_time"][:], starts, atol=1e-9)
