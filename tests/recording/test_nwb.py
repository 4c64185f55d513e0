"""Sessions of NWB as pynwb writes them: series by name, volts, clocks, electrodes, trials."""

from __future__ import annotations

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
from hpcio.errors import OptionError, OutputError, PlanError, SourceError, TrialError
from hpcio.recording import Recording

pynwb = pytest.importorskip("pynwb")

ROWS, CHANNELS = 4000, 8
RAW = np.random.default_rng(0).integers(-3000, 3000, (ROWS, CHANNELS)).astype("i2")
FACTORS = np.linspace(0.5, 2.0, CHANNELS)
STARTS = 5.5 + np.arange(6) / 2
ROWS_OF = [slice(500 + 500 * k, 750 + 500 * k) for k in range(6)]
ON_SHANK_1 = np.arange(4, 8)


def make_session(path: Path) -> Path:
    nwb = pynwb.NWBFile(
        session_description="", identifier="s", session_start_time=datetime(2024, 1, 1, tzinfo=UTC)
    )
    probe = nwb.create_device(name="probe")
    nwb.add_electrode_column("channel_name", "")
    for shank in range(2):
        group = nwb.create_electrode_group(
            f"shank{shank}", description="", location="", device=probe
        )
        for k in range(4):
            nwb.add_electrode(
                group=group, location=("CA1", "DG")[k % 2], x=20.0 * k,
                channel_name=f"ch{4 * shank + k}",
            )  # fmt: skip
    region = nwb.create_electrode_table_region(list(range(8)), "")
    ecephys = nwb.create_processing_module("ecephys", "")

    def series(name: str, data: Any, **options: Any) -> Any:
        return pynwb.ecephys.ElectricalSeries(name=name, data=data, electrodes=region, **options)

    clock = {"rate": 1000.0, "starting_time": 5.0}
    scaled = {"conversion": 2.5e-6, "offset": 1e-4, "channel_conversion": FACTORS}
    packed = pynwb.H5DataIO(RAW, chunks=(500, 3), compression="gzip")
    nwb.add_acquisition(series("ES", RAW, **clock, **scaled))
    nwb.add_acquisition(series("packed", packed, **clock, **scaled))
    nwb.add_acquisition(series("twice", RAW[:100], **clock))
    ecephys.add(pynwb.ecephys.LFP(electrical_series=series("twice", RAW[:200], **clock)))
    stamps = 5 + np.arange(ROWS) / 1000
    nwb.add_acquisition(series("even", RAW, timestamps=stamps))
    nwb.add_acquisition(series("gap", RAW, timestamps=stamps + 0.5 * (stamps > 7)))
    nwb.add_acquisition(
        pynwb.ecephys.SpikeEventSeries(
            name="spikes", data=RAW[:60].reshape(20, 8, 3), timestamps=np.arange(20) ** 1.5,
            electrodes=region,
        )
    )  # fmt: skip
    nwb.add_acquisition(pynwb.TimeSeries(name="pupil", data=RAW[:, 0], unit="mm", **clock))
    nwb.add_acquisition(pynwb.TimeSeries(name="counts", data=RAW, unit="unknown", **clock))
    nwb.add_trial_column(name="condition", description="")
    for k, start in enumerate(STARTS):
        nwb.add_trial(start_time=start, stop_time=start + 0.25, condition="ab"[k % 2])
    nwb.add_epoch(start_time=6.0, stop_time=7.0, tags=["rest"])
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    return path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_session(tmp_path_factory.mktemp("nwb") / "s.nwb"))


def volts() -> np.ndarray:
    return RAW * (2.5e-6 * FACTORS) + 1e-4


def plan_of(source: str, tmp_path: Path, func: Any = np.abs, **options: Any) -> hpcio.Plan:
    given = {"trials": 250, "out": tmp_path / "out.h5", **options}
    return hpcio.Plan.create(func, source, **given)


# ---------------------------------------------------------------------- which series is meant


@pytest.mark.parametrize("name", ["ES", "/acquisition/ES", "acquisition/ES", "packed"])
def test_a_series_is_named_by_its_name_or_path(session: str, name: str) -> None:
    found = Recording.read(f"{session}::{name}")
    assert found.dataset == f"/acquisition/{name.rpartition('/')[2]}/data"
    assert (found.shape, found.dtype, found.scaling) == (RAW.shape, RAW.dtype, None)


def test_a_series_in_a_processing_module(session: str) -> None:
    found = Recording.read(f"{session}::/processing/ecephys/LFP/twice")
    assert (found.dataset, found.shape) == ("/processing/ecephys/LFP/twice/data", (200, CHANNELS))


def test_the_data_of_a_series_are_a_plain_dataset(session: str, tmp_path: Path) -> None:
    found = Recording.read(f"{session}::/acquisition/ES/data")
    assert (found.kind, found.dtype) == ("hdf5", RAW.dtype)
    plan = plan_of(f"{session}::/acquisition/ES/data", tmp_path)
    np.testing.assert_array_equal(plan.trial(3), RAW[750:1000])
    with pytest.raises(OptionError, match=r"says nothing of units.*FILE\.nwb::NAME"):
        plan_of(f"{session}::/acquisition/ES/data", tmp_path, units="V")


def test_a_name_that_two_series_have(session: str) -> None:
    two = r"/acquisition/twice \(ElectricalSeries, 100 x 8\), /processing/ecephys/LFP/twice \("
    with pytest.raises(SourceError, match=f"2 series 'twice': {two}.*Name one: '"):
        Recording.read(f"{session}::twice")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lfp", r"no series 'lfp'\. The series are /acquisition/ES \(ElectricalSeries, 4000 x 8\)"),
        ("/intervals/trials", "no series '/intervals/trials'"),
        ("/processing/ecephys/LFP", "no series '/processing/ecephys/LFP'"),
    ],
)
def test_a_series_that_is_not_there(session: str, name: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Recording.read(f"{session}::{name}")


def test_a_file_alone_means_its_only_series_of_electrodes(session: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="6 series of electrodes: /acquisition/ES"):
        Recording.read(session)
    with h5py.File(session) as f, h5py.File(tmp_path / "one.nwb", "w") as g:
        g.attrs.update({k: f.attrs[k] for k in ("nwb_version", "neurodata_type", "namespace")})
        f.copy("acquisition/even", g, "acquisition/even")
        f.copy("acquisition/even/electrodes", g["acquisition/even"], "electrodes_")
        f.copy("acquisition/pupil", g, "acquisition/pupil")
    assert Recording.read(tmp_path / "one.nwb").dataset == "/acquisition/even/data"
    with h5py.File(tmp_path / "one.nwb", "a") as g:
        del g["acquisition/even"]
    with pytest.raises(SourceError, match=r"no series of electrodes. The series are /acq.*pupil"):
        Recording.read(tmp_path / "one.nwb")


@pytest.mark.parametrize("name", [".zattrs", "zarr.json"])
def test_nwb_in_zarr_is_refused_in_words(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "s.nwb.zarr"
    folder.mkdir()
    (folder / name).write_text('{"neurodata_type": "NWBFile", "nwb_version": "2.9.0"}')
    for spec in (folder, f"{folder}::ES"):
        with pytest.raises(SourceError, match=r"is NWB in Zarr.*NWBHDF5IO.*export"):
            Recording.read(spec)


# ---------------------------------------------------------------------- units


@pytest.mark.parametrize("series", ["ES", "packed"])
@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"channels": [6, 1, 3]},
        {"channels": slice(None, None, 2)},
        {"time": slice(None, None, -1)},
        {"time": [9, 3, 3], "channels": [-1]},
    ],
)
def test_volts_are_those_of_pynwb(
    session: str, tmp_path: Path, series: str, chosen: dict[str, Any]
) -> None:
    """To the last bit, however trials are read."""
    with pynwb.NWBHDF5IO(session, "r") as io:
        whole = io.read().acquisition[series].get_data_in_units()
    np.testing.assert_array_equal(whole, volts())
    trials = Trials.equal(250, rows=ROWS).select(**chosen)
    plan = plan_of(f"{session}::{series}", tmp_path, trials=trials, units="V")
    assert plan.source.dtype == np.float64
    for k in (0, 5):
        expected = whole[250 * k : 250 * (k + 1)][chosen.get("time", slice(None))]
        found = plan.trial(k)
        np.testing.assert_array_equal(found, expected[:, chosen.get("channels", slice(None))])


def test_a_virtual_dataset_in_volts(session: str, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout(RAW.shape, "i2")
    layout[...] = h5py.VirtualSource(session, "/acquisition/ES/data", RAW.shape)
    with h5py.File(session) as f, h5py.File(tmp_path / "v.nwb", "w") as g:
        g.attrs["nwb_version"] = "2.9.0"
        group = g.create_group("acquisition/ES")
        group.attrs["neurodata_type"] = "ElectricalSeries"
        group["channel_conversion"] = f["acquisition/ES/channel_conversion"][()]
        group.create_virtual_dataset("data", layout)
        group["data"].attrs.update(f["acquisition/ES/data"].attrs)
    plan = plan_of(f"{tmp_path}/v.nwb::ES", tmp_path, units="V")
    np.testing.assert_array_equal(plan.trial(2), volts()[500:750])


def test_channels_and_time_in_blocks_and_along_other_axes(session: str, tmp_path: Path) -> None:
    plan = plan_of(f"{session}::ES", tmp_path, channels_per_block=3, units="V")
    np.testing.assert_array_equal(plan.trial(1, channel_block=1), volts()[250:500, 3:6])
    np.testing.assert_array_equal(plan.trial(1, channel_block=2), volts()[250:500, 6:])
    spikes = plan_of(f"{session}::spikes", tmp_path, trials=5, units="V", channel_axis=1)
    np.testing.assert_array_equal(spikes.trial(1), RAW[:60].reshape(20, 8, 3)[5:10])
    assert [axis.name for axis in spikes.axes] == ["event", "channel", "time"]


def test_a_run_in_volts(session: str, tmp_path: Path) -> None:
    def announced(x: Any, noCompute: bool = False) -> Any:
        return (x.shape, x.dtype) if noCompute else x * 2

    plan = plan_of(f"{session}::ES", tmp_path, announced, trials=session, units="V")
    assert plan.target.dtype == np.float64
    plan.run(workers=2, progress=False)
    with hpcio.open(plan.out) as f:
        expected = np.concatenate([volts()[rows] * 2 for rows in ROWS_OF])
        np.testing.assert_array_equal(f["data"][()], expected)
        assert f.attrs["source_units"] == "V"


def test_units_are_part_of_the_digest(session: str, tmp_path: Path) -> None:
    stored, scaled = (plan_of(f"{session}::ES", tmp_path, units=u) for u in (None, "V"))
    assert stored.digest != scaled.digest
    assert stored.trial(0).dtype == RAW.dtype
    with pytest.raises(PlanError, match=r"in V, and a dict.*without units"):
        scaled.trl_dat(0)


@pytest.mark.parametrize(
    ("series", "units", "message"),
    [
        ("ES", "mV", r"can be read in V alone. Say units='V'"),
        ("pupil", "V", r"can be read in mm alone"),
        ("counts", "V", "says nothing of units"),
    ],
)
def test_units_that_a_series_does_not_have(
    session: str, tmp_path: Path, series: str, units: str, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        plan_of(f"{session}::{series}", tmp_path, units=units)


def test_units_of_plain_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = RAW
    with pytest.raises(OptionError, match="says nothing of units"):
        plan_of(f"{tmp_path}/rec.h5::lfp", tmp_path, units="V")


@pytest.mark.parametrize(
    ("values", "message"), [(FACTORS[:3], "has the shape"), (np.full(8, np.nan), "is no number")]
)
def test_conversions_that_make_no_sense(tmp_path: Path, values: np.ndarray, message: str) -> None:
    path = make_session(tmp_path / "s.nwb")
    with h5py.File(path, "a") as f:
        del f["acquisition/ES/channel_conversion"]
        f["acquisition/ES/channel_conversion"] = values
    with pytest.raises(SourceError, match=f"{message}.*/acquisition/ES/data"):
        Recording.read(f"{path}::ES")


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [("ES/data", "conversion", "abc"), ("ES/data", "offset", [1.0, 2.0]),
     ("ES/starting_time", "rate", "fast")],
)  # fmt: skip
def test_attributes_that_are_no_numbers(tmp_path: Path, where: str, name: str, value: Any) -> None:
    path = make_session(tmp_path / "s.nwb")
    with h5py.File(path, "a") as f:
        f[f"acquisition/{where}"].attrs[name] = value
    with pytest.raises(SourceError, match=f"'{name}' of '/acquisition/{where}'.* no number"):
        plan_of(f"{path}::ES", tmp_path, units="V")


@pytest.mark.parametrize("rows", [[0, -1, 2, 3, 4, 5, 6, 7], [b"a"] * 8])
def test_electrodes_that_are_no_rows(tmp_path: Path, rows: list[Any]) -> None:
    path = make_session(tmp_path / "s.nwb")
    with h5py.File(path, "a") as f:
        attrs = dict(f["acquisition/ES/electrodes"].attrs)
        del f["acquisition/ES/electrodes"]
        f["acquisition/ES/electrodes"] = rows
        f["acquisition/ES/electrodes"].attrs.update(attrs)
    with pytest.raises(SourceError, match=r"names (row -1|no rows).*/acquisition/ES/data"):
        plan_of(f"{path}::ES", tmp_path)


def test_electrodes_of_other_channels(tmp_path: Path) -> None:
    path = make_session(tmp_path / "s.nwb")
    with h5py.File(path, "a") as f:
        attrs = dict(f["acquisition/ES/electrodes"].attrs)
        del f["acquisition/ES/electrodes"]
        f["acquisition/ES/electrodes"] = [0, 1, 2]
        f["acquisition/ES/electrodes"].attrs.update(attrs)
    with pytest.raises(SourceError, match=r"names 3 electrodes.*\(4000, 8\)"):
        hpcio.electrodes(f"{path}::ES")
    with pytest.raises(SourceError, match="No file matches"):
        hpcio.electrodes(f"{tmp_path}/t*.nwb::ES")


# ---------------------------------------------------------------------- several sessions


def scaled(path: Path, conversion: float) -> Path:
    """A session with another conversion."""
    make_session(path)
    with h5py.File(path, "a") as f:
        f["acquisition/ES/data"].attrs["conversion"] = conversion
    return path


def test_sessions_of_several_conversions_are_joined_in_volts_alone(tmp_path: Path) -> None:
    pattern = f"{tmp_path}/s*.nwb::ES"
    for k in (1, 2):
        scaled(tmp_path / f"s{k}.nwb", k * 1e-6)
    with pytest.raises(SourceError, match=r"becomes V: .*units='V'"):
        plan_of(pattern, tmp_path)
    plan = plan_of(pattern, tmp_path, np.negative, units="V")
    with pytest.raises(PlanError, match="in V, and a dict"):
        plan.trl_dat(0)
    plan.run(workers=0, progress=False)
    scaled(tmp_path / "s3.nwb", 3e-6)
    more = hpcio.Plan.load(plan.out).extend(source=pattern, trials=250)
    more.run(workers=0, progress=False)
    with hpcio.open(plan.out) as f:
        assert f.attrs["source_units"] == "V"
        for k in range(3):
            want = -(RAW * ((k + 1) * 1e-6 * FACTORS) + 1e-4)
            np.testing.assert_allclose(f["data"][ROWS * k : ROWS * (k + 1)], want, rtol=1e-12)


def test_a_session_that_grew_and_is_scaled_otherwise_is_another(tmp_path: Path) -> None:
    path = scaled(tmp_path / "s.nwb", 1e-6)
    plan = plan_of(f"{path}::ES", tmp_path, np.negative, units="V")
    plan.run(workers=0, progress=False)
    with h5py.File(path, "a") as f:
        series = f["acquisition/ES"]
        attrs = {**series["data"].attrs, "conversion": 5e-6}
        del series["data"]
        series["data"] = np.concatenate([RAW, RAW])
        series["data"].attrs.update(attrs)
    with pytest.raises(SourceError, match="has changed"):
        hpcio.Plan.load(plan.out).extend(trials=[[ROWS, ROWS + 250]])


# ---------------------------------------------------------------------- clocks and trials


@pytest.mark.parametrize("series", ["ES", "even", "/acquisition/ES/data"])
def test_a_session_alone_names_its_trials(session: str, tmp_path: Path, series: str) -> None:
    plan = plan_of(
        f"{session}::{series}", tmp_path, trials=session, by="condition", keeptrials=False
    )
    assert plan.trials.start.tolist() == [rows.start for rows in ROWS_OF]
    assert plan.trials.stop.tolist() == [rows.stop for rows in ROWS_OF]
    assert plan.trials["condition"].tolist() == ["a", "b"] * 3
    by_name = not series.endswith("data")
    names = ["condition", *(("time", "channel") if by_name else ("", ""))]
    assert [axis.name for axis in plan.axes] == names


def test_other_intervals(session: str, tmp_path: Path) -> None:
    plan = plan_of(f"{session}::ES", tmp_path, trials=f"{session}::/intervals/epochs")
    assert (plan.trials.start.tolist(), plan.trials.stop.tolist()) == ([1000], [2000])


def test_a_session_without_trials(session: str, tmp_path: Path) -> None:
    with h5py.File(session) as f, h5py.File(tmp_path / "s.nwb", "w") as g:
        g.attrs["nwb_version"] = "2.9.0"
        f.copy("intervals/epochs", g, "intervals/epochs")
    with pytest.raises(TrialError, match=r"no '/intervals/trials'.*It has /intervals/epochs"):
        Trials.read(tmp_path / "s.nwb")
    with h5py.File(tmp_path / "s.nwb", "a") as g:
        del g["intervals"]
    with pytest.raises(TrialError, match="no intervals at all"):
        Trials.read(tmp_path / "s.nwb")


@pytest.mark.parametrize("series", ["gap", "spikes"])
def test_timestamps_that_are_not_evenly_spaced(session: str, tmp_path: Path, series: str) -> None:
    with pytest.raises(TrialError, match=r"not evenly spaced.*numpy\.searchsorted"):
        plan_of(f"{session}::{series}", tmp_path, trials={"start_time": [6.0], "stop_time": [6.1]})


def test_rows_before_a_gap_with_their_own_rate(session: str, tmp_path: Path) -> None:
    events = Trials.from_events([5.5, 6.0], rate=1000, post=0.25, t_start=5)
    plan = plan_of(f"{session}::gap", tmp_path, trials=events)
    np.testing.assert_array_equal(plan.trial(1), RAW[1000:1250])


# ---------------------------------------------------------------------- electrodes


def test_electrodes_are_coordinates_of_channels(session: str, tmp_path: Path) -> None:
    trials = Trials.read(session, recording=f"{session}::ES")
    plan = plan_of(f"{session}::ES", tmp_path, trials=trials.select(channels=[5, 2]))
    plan.run(workers=0, progress=False)
    with hpcio.open(plan.out) as f:
        assert [dim.label for dim in f.virtual.dims] == ["time", "channel"]
        assert f["channel"].asstr()[()].tolist() == ["ch5", "ch2"]


def test_electrodes_without_names_are_known_by_their_number(tmp_path: Path) -> None:
    path = make_session(tmp_path / "s.nwb")
    with h5py.File(path, "a") as f:
        f["general/extracellular_ephys/electrodes/channel_name"][3] = "ch0"  # not distinct
    with Recording.read(f"{path}::ES").open() as opened:
        np.testing.assert_array_equal(opened.coordinates(1), np.arange(8))
        assert opened.coordinates(0) is None


def test_channels_by_their_electrodes(session: str, tmp_path: Path) -> None:
    electrodes = hpcio.electrodes(f"{session}::ES")
    assert len(electrodes) == CHANNELS
    assert {"group_name", "location", "x", "id", "channel_name"} <= set(electrodes.columns)
    assert "group" not in electrodes.columns  # a reference
    assert electrodes.where(group_name="shank1").tolist() == ON_SHANK_1.tolist()
    assert electrodes.where(group_name="shank1", location="CA1").tolist() == [4, 6]
    assert electrodes.where(x=(30, None)).tolist() == [2, 3, 6, 7]
    trials = Trials.equal(250, rows=ROWS).select(channels=electrodes.where(group_name="shank1"))
    plan = plan_of(f"{session}::ES", tmp_path, trials=trials, units="V")
    np.testing.assert_array_equal(plan.trial(1), volts()[250:500, 4:])


def test_electrodes_that_are_not_there(session: str, tmp_path: Path) -> None:
    electrodes = hpcio.electrodes(f"{session}::ES")
    with pytest.raises(TrialError, match="'group_name' are 'shank0', 'shank1'"):
        electrodes.where(group_name="shank7")
    with pytest.raises(TrialError, match=r"no column 'depth'\. They have "):
        electrodes.where(depth=3)
    with pytest.raises(SourceError, match=r"'/acquisition/pupil' .* has no electrodes"):
        hpcio.electrodes(f"{session}::pupil")
    with pytest.raises(SourceError, match="is no series in a file of NWB"):
        hpcio.electrodes(tmp_path / "rec.h5")


def test_a_result_in_other_units_is_told_apart_by_them_alone(session: str, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def f(x):\n    return x.mean(axis=0)\n")

    def plan(units: str | None) -> hpcio.Plan:
        return hpcio.Plan.create(
            f"{tmp_path}/f.py:f", f"{session}::ES", trials=session, units=units,
            out=tmp_path / "out.h5",
        )  # fmt: skip

    assert "ES/data, as it is stored (in V with units='V')" in repr(plan(None).describe())
    assert "ES/data, in V" in repr(plan("V").describe())
    plan(None).run(workers=0, progress=False)
    with pytest.raises(OutputError, match=r"\(other units\)"):
        plan("V").run(workers=0, progress=False)


# ---------------------------------------------------------------------- in the shell


def test_a_session_in_the_shell(session: str, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("def f(x):\n    return x.mean(axis=0)\n")
    arguments = [
        "run", f"{tmp_path}/f.py:f", f"{session}::ES", "--trials", session, "--units", "V",
        "--electrodes", "group_name=shank1", "--electrodes", "x=0:40", "--join", "stack",
        "--workers", "0", "--quiet", "--out", f"{tmp_path}/out.h5",
    ]  # fmt: skip
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    with hpcio.open(tmp_path / "out.h5") as f:
        expected = [volts()[rows, 4:7].mean(axis=0) for rows in ROWS_OF]
        np.testing.assert_array_equal(f["data"][()], expected)
    both = CliRunner().invoke(cli, [*arguments, "--select-channels", "1"])
    assert "exclude each other" in both.output
