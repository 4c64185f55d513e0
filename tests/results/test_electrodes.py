"""What a session of NWB knows of its electrodes, along the channels of results."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan, Trials
from hpcio.errors import ResultError, SourceError

pynwb = pytest.importorskip("pynwb")
xarray = pytest.importorskip("xarray")

RAW = np.random.default_rng(3).integers(-99, 99, (60, 4)).astype("i2")
# Of each channel, in the order of the series, which is not that of the table.
REGION = [3, 0, 4, 1]
KNOWN: dict[str, list[Any]] = {
    "label": ["d", "a", "ö", "b"],
    "location": ["DG", "CA1", "CA1", "DG"],
    "group_name": ["shank1", "shank0", "shank1", "shank0"],
    "x": [60.0, 0.0, 80.0, 20.0],
    "y": [np.nan, 0.5, 1.5, np.nan],
    "good": [True, True, False, False],
    "id": REGION,
}


def make_session(path: Path, **changed: Any) -> str:
    """A session with five electrodes, four of them recorded; a column of lists, too."""
    nwb = pynwb.NWBFile("", path.stem, datetime(2024, 1, 1, tzinfo=UTC))
    probe = nwb.create_device(name="probe")
    shanks = [nwb.create_electrode_group(f"shank{k}", "", "", probe) for k in range(2)]
    for name in ("label", "good"):
        nwb.add_electrode_column(name, "")
    nwb.add_electrode_column("neighbours", "", index=True)
    known = {**KNOWN, **changed}
    for row in range(5):
        channel = REGION.index(row) if row in REGION else 2
        of_row = {name: known[name][channel] for name in ("label", "location", "x", "y", "good")}
        group = shanks[int(known["group_name"][channel][-1])]
        nwb.add_electrode(group=group, neighbours=[row] * row, **of_row)
    region = nwb.create_electrode_table_region(REGION, "")
    series = pynwb.ecephys.ElectricalSeries(
        name="ES", data=RAW, electrodes=region, rate=10.0, conversion=1e-6
    )
    nwb.add_acquisition(series)
    nwb.add_trial_column(name="x", description="")
    for k in range(3):
        nwb.add_trial(start_time=2.0 * k, stop_time=2.0 * k + 2, x=k / 2)
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    return f"{path}::ES"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_session(tmp_path_factory.mktemp("nwb") / "s.nwb")


def finished(source: Any, out: Path, func: Any = np.negative, **options: Any) -> Path:
    options = {"trials": "::/intervals/trials", **options}
    Plan.create(func, source, out=out, **options).run(workers=0, progress=False)
    return out


# Trials that have an `x` and an `id` have taken these names.
TAKEN = {"x": "channel_x", "id": "channel_id"}


def check_channels(out: Path, channels: Any = range(4), places: Any = TAKEN) -> None:
    """Electrodes are coordinates of these channels."""
    with hpcio.open(out).to_xarray() as found:
        for name, values in KNOWN.items():
            place = found[places.get(name, name)]
            assert place.dims == ("channel",)
            np.testing.assert_array_equal(place.values, np.array(values)[[*channels]])
        assert found["good"].dtype == bool
        assert found["channel"].values.tolist() == [KNOWN["label"][k] for k in channels]
        assert not {"group", "neighbours", "neighbours_index"} & {*found.coords}
        assert [*found.data_vars] == ["data"]
    assert hpcio.verify(out).gaps == 0


@pytest.mark.parametrize("form", ["parts", "one file", "gzip"])
def test_all_columns_are_coordinates_of_channels(session: str, tmp_path: Path, form: str) -> None:
    out = finished(session, tmp_path / "out.h5", join="stack")
    if form != "parts":
        hpcio.repack(out, compression=None if form == "one file" else form)
    check_channels(out)
    with hpcio.open(out).to_xarray() as found:
        assert found["x"].dims == ("trial",)
        assert found["x"].values.tolist() == [0, 0.5, 1]
        picked = found["data"].where(found["group_name"] == "shank1", drop=True)
        np.testing.assert_array_equal(picked, -RAW.reshape(3, 20, 4)[..., [0, 2]])
    with xarray.open_dataset(out, engine="h5netcdf") as plain:
        assert plain["location"].dims == ("channel",)
        assert [*plain.data_vars] == ["data"]


def test_selected_channels_in_blocks(session: str, tmp_path: Path) -> None:
    shank = hpcio.electrodes(session).where(group_name="shank1")
    assert shank.tolist() == [0, 2]
    chosen = [*shank[::-1].tolist(), 3]
    trials = Trials.read(session.partition("::")[0], recording=session).select(channels=chosen)
    out = finished(session, tmp_path / "out.h5", trials=trials, channels_per_block=2)
    check_channels(out, chosen)


# Functions of numpy are tried in place, which is quick.
MEAN: dict[str, Any] = {"func": np.mean, "kwargs": {"axis": 0}, "join": "stack"}


def test_an_axis_that_has_the_name_of_channels(session: str, tmp_path: Path) -> None:
    """The function has lost the axis of time: the name says which one is left."""
    axes = {"trial": None, "channel": None}
    out = finished(session, tmp_path / "out.h5", **MEAN, axes=axes)
    check_channels(out)
    named = {"trial": None, "channel": ["p", "q", "r", "s"]}
    out = finished(session, tmp_path / "named.h5", **MEAN, axes=named)
    with hpcio.open(out).to_xarray() as found:
        assert found["data"].sel(channel="r")["location"] == "CA1"
    other = {"trial": None, "electrode": None}
    out = finished(session, tmp_path / "other.h5", **MEAN, axes=other)
    with hpcio.open(out) as f:
        assert "location" not in f


@pytest.mark.parametrize("reduce", ["mean", "cov"])
def test_averages(session: str, tmp_path: Path, reduce: str) -> None:
    out = finished(session, tmp_path / "out.h5", trials=20, keeptrials=False, reduce=reduce)
    for _ in range(2):
        check_channels(out, places={})
        hpcio.repack(out)


def test_averages_keep_what_is_known_of_conditions(session: str, tmp_path: Path) -> None:
    out = finished(session, tmp_path / "out.h5", keeptrials=False, by="x")
    hpcio.repack(out)
    check_channels(out)
    with hpcio.open(out).to_xarray() as found:
        assert found["count"].dims == ("x",)
        assert found["count"].values.tolist() == [1, 1, 1]


def test_several_results_share_them(session: str, tmp_path: Path) -> None:
    def both(trial: Any, noCompute: bool = False) -> dict[str, Any]:
        if noCompute:
            found = {"wave": (20, 4), "peak": (4,), "first": (20, 2)}
            return {name: (shape, "i2") for name, shape in found.items()}
        return {"wave": -trial, "peak": trial.max(axis=0), "first": trial[:, :2]}

    out = finished(
        session, tmp_path / "out.h5", both, join="stack",
        axes={"peak": {"trial": None, "channel": None}},
    )  # fmt: skip
    hpcio.repack(out)
    with hpcio.open(out).to_xarray() as found:
        for name in ("wave", "peak"):
            assert found[name]["location"].values.tolist() == KNOWN["location"]
        assert "location" not in found["first"].coords


def test_the_next_step_keeps_them(session: str, tmp_path: Path) -> None:
    first = finished(session, tmp_path / "a.h5")
    again = finished(first, tmp_path / "b.h5", trials=first)
    check_channels(again)
    with hpcio.open(again) as f:
        np.testing.assert_array_equal(f["data"], RAW)


def test_a_file_of_nwb_keeps_them(session: str, tmp_path: Path) -> None:
    out = finished(session, tmp_path / "out.h5", trials=20)
    hpcio.repack(out, tmp_path / "x.nwb")
    assert pynwb.validate(path=str(tmp_path / "x.nwb")) == []
    with pynwb.NWBHDF5IO(tmp_path / "x.nwb", "r") as io:
        scratch = io.read().scratch
        for name, values in KNOWN.items():
            np.testing.assert_array_equal(scratch[name].data[:], values)
            assert "along the axis channel" in scratch[name].description


def test_a_plan_keeps_them(session: str, tmp_path: Path) -> None:
    made = Plan.create(np.negative, session, trials=20, out=tmp_path / "out.h5")
    made.run(workers=2, progress=False)
    (_, channel) = Plan.load(tmp_path / "out.h5").axes
    for name, values in KNOWN.items():
        np.testing.assert_array_equal(channel.columns[name], values)
    check_channels(tmp_path / "out.h5", places={})


def test_a_column_that_was_changed_is_found(session: str, tmp_path: Path) -> None:
    out = finished(session, tmp_path / "out.h5")
    hpcio.repack(out)
    with h5py.File(out, "r+") as f:
        f["location"][1] = "DG"
    with pytest.raises(ResultError, match=r"'location' of .* differs from what was published"):
        hpcio.verify(out)


def test_electrodes_that_are_in_no_table(tmp_path: Path) -> None:
    session = make_session(tmp_path / "s.nwb")
    with h5py.File(tmp_path / "s.nwb", "r+") as f:
        f["acquisition/ES/electrodes"][1] = 5
    with pytest.raises(SourceError, match=r"names row 5 of '/general.*which has 5\..*ES/data"):
        Plan.create(np.negative, session, trials=20, out=tmp_path / "out.h5")


def test_several_recordings_with_equal_electrodes(tmp_path: Path) -> None:
    for name in ("s1", "s2"):
        make_session(tmp_path / f"{name}.nwb")
    source = f"{tmp_path}/s*.nwb::ES"
    out = finished(source, tmp_path / "out.h5", join="stack")
    check_channels(out)
    for several in (source, [f"{tmp_path}/s2.nwb::ES", f"{tmp_path}/s1.nwb::ES"]):
        assert hpcio.electrodes(several).where(location="CA1").tolist() == [1, 2]
    with hpcio.open(out) as f:
        assert f["recording"].asstr()[:].tolist() == ["s1"] * 3 + ["s2"] * 3
        assert "session_start_time" not in f.attrs  # each has its own
    hpcio.repack(out, tmp_path / "x.nwb")
    assert pynwb.validate(path=str(tmp_path / "x.nwb")) == []
    with pynwb.NWBHDF5IO(tmp_path / "x.nwb", "r") as io:
        nwb = io.read()
        assert nwb.scratch["location"].data[:].tolist() == KNOWN["location"]
        table = nwb.scratch["trials"].to_dataframe()
        assert table["recording"].tolist() == ["s1"] * 3 + ["s2"] * 3
        assert "2 recordings, the first of them " in nwb.session_description


def test_several_recordings_with_other_electrodes(tmp_path: Path) -> None:
    make_session(tmp_path / "s1.nwb")
    make_session(tmp_path / "s2.nwb", location=["DG", "CA1", "CA3", "DG"])
    with pytest.raises(SourceError, match="the column 'location' along axis 1: entry 2 is CA1 and"):
        finished(f"{tmp_path}/s*.nwb::ES", tmp_path / "out.h5")
    make_session(tmp_path / "s2.nwb")
    with h5py.File(tmp_path / "s2.nwb", "r+") as f:
        table = f["general/extracellular_ephys/electrodes"]
        table.attrs["colnames"] = [n for n in table.attrs["colnames"] if n != "y"]
        del table["y"]
    with pytest.raises(SourceError, match=r"the column 'y' along axis 1, which '\S*s1\.nwb::"):
        finished(f"{tmp_path}/s*.nwb::ES", tmp_path / "out.h5")
    out = finished(f"{tmp_path}/s*.nwb::/acquisition/ES/data", tmp_path / "out.h5", trials=20)
    with hpcio.open(out) as f:
        assert "location" not in f
