"""The demo: its recording holds what it says, its function finds it, its picture is drawn."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import demo
from hpcio.errors import OutputError, PlanError, TrialError

HERTZ = demo.frequencies()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return demo.make_recording(tmp_path_factory.mktemp("demo") / "rec.h5", trials=80, channels=4)


@pytest.fixture(scope="module")
def mean(recording):
    """Mean spectra (frequency, channel)."""
    with h5py.File(recording) as f:
        lfp, table = f["lfp"][()], f["trials"][()]
    return np.mean([demo.power(lfp[a:b]) for a, b, _ in table], axis=0, dtype=np.float64)


def band(low: float, high: float) -> np.ndarray:
    return (low <= HERTZ) & (high >= HERTZ)


# ---- the recording


def test_recording_is_labelled_and_in_microvolts(recording):
    with h5py.File(recording) as f:
        lfp = f["lfp"]
        assert lfp.dtype == np.float32
        assert lfp.chunks is None
        assert (lfp.attrs["units"], lfp.attrs["rate"]) == ("uV", 1000.0)
        assert [dim.label for dim in lfp.dims] == ["time", "channel"]
        time, names = lfp.dims[0]["time"], lfp.dims[1]["channel"]
        np.testing.assert_array_equal(time, np.arange(len(lfp)) / 1000)
        assert names.asstr()[...].tolist() == ["ch01", "ch02", "ch03", "ch04"]
        assert 15 < lfp[()].std() < 25


def test_trials_are_unequal_and_have_gaps(recording):
    with h5py.File(recording) as f:
        start, stop, offset = f["trials"][()].T
        rows = len(f["lfp"])
    length, gap = stop - start, np.append(start, rows) - np.insert(stop, 0, 0)
    assert len(start) == 80
    assert 800 <= length.min() < 900 < 1500 < length.max() <= 1600
    assert 200 <= gap.min() < gap.max() <= 600
    assert set(offset) == {300}


def test_a_seed_gives_the_same_bytes(tmp_path):
    def make(name: str, seed: int) -> bytes:
        path = demo.make_recording(tmp_path / name, trials=3, channels=2, seed=seed)
        return path.read_bytes()

    assert make("a.h5", 5) == make("b.h5", 5) != make("c.h5", 6)


def test_recording_replaces_its_own_kind_only(tmp_path):
    path = demo.make_recording(tmp_path / "rec.h5", trials=2, channels=2)
    demo.make_recording(path, trials=3, channels=2)
    with h5py.File(path) as f:
        assert len(f["trials"]) == 3
    with h5py.File(path, "w") as f:
        f["lfp"] = [1.0]
    before = path.read_bytes()
    with pytest.raises(OutputError, match="not made by the demo"):
        demo.make_recording(path, trials=2, channels=2)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rec.h5"]


@pytest.mark.parametrize("wrong", [{"trials": 0}, {"channels": 0}, {"rate": 200.0}])
def test_impossible_recordings_are_refused(tmp_path, wrong):
    with pytest.raises(PlanError, match="make no recording"):
        demo.make_recording(tmp_path / "rec.h5", **wrong)
    assert not list(tmp_path.iterdir())


# ---- the function


def test_peaks_are_where_they_were_put(mean):
    first, last = mean[:, 0], mean[:, -1]
    for spectrum, (low, high), peak in (
        (first, (8, 20), "alpha"),
        (last, (30, 46), "gamma"),
        (first, (46, 80), "mains"),
        (last, (46, 80), "mains"),
    ):
        some = band(low, high)
        assert HERTZ[some][spectrum[some].argmax()] == demo.PEAKS[peak]


def test_alpha_fades_and_gamma_grows_along_the_channels(mean):
    at = {name: mean[HERTZ == hertz][0] for name, hertz in demo.PEAKS.items()}
    assert (np.diff(at["alpha"]) < 0).all()
    assert (np.diff(at["gamma"]) > 0).all()
    assert np.ptp(at["mains"]) < 0.2 * at["mains"].mean()


def test_noise_has_the_density_that_was_asked_for(mean):
    between = band(20, 30) | band(60, 400)
    expected = demo._density(HERTZ[between], 0.0)
    ratio = mean[between].mean(axis=1) / expected
    assert abs(ratio.mean() - 1) < 0.01
    assert abs(ratio - 1).max() < 0.15


@pytest.mark.parametrize("samples", [200, 499, 500, 501, 1000, 1600])
def test_as_many_frequencies_whatever_the_length(samples):
    trial = np.random.default_rng(0).normal(size=(samples, 3)).astype("f4")
    faux = hpcio.FauxTrial(trial.shape, (slice(0, samples), slice(0, 3)), "f4")
    density = demo.power(trial)
    assert demo.power(faux, noCompute=True) == (density.shape, density.dtype)
    assert (density.shape, density.dtype) == ((251, 3), np.float32)


@pytest.mark.parametrize(("samples", "nfft"), [(1000, 500), (1000, 501), (500, 500), (100, 500)])
def test_density_adds_up_to_the_power_of_a_sine(samples, nfft):
    rate, hertz, amplitude = 1000.0, 100.0, 3.0
    sine = amplitude * np.sin(2 * np.pi * hertz / rate * np.arange(samples) + 1)
    density = demo.power(sine[:, None], rate=rate, nfft=nfft)[:, 0]
    assert density.sum() * rate / nfft == pytest.approx(amplitude**2 / 2, rel=2e-3)
    assert abs(np.fft.rfftfreq(nfft, 1 / rate)[density.argmax()] - hertz) <= rate / nfft


def test_power_is_that_of_scipy():
    signal = pytest.importorskip("scipy.signal")
    trial = np.random.default_rng(2).normal(size=(1234, 2))
    _, expected = signal.welch(trial, 1000.0, nperseg=500, axis=0)
    np.testing.assert_allclose(demo.power(trial), expected, rtol=1e-5)


def test_one_sample_is_no_spectrum():
    with pytest.raises(TrialError, match="two samples"):
        demo.power(np.ones((1, 2)))


# ---- all together


def test_run_leaves_a_result_that_plain_h5py_reads(tmp_path, capsys):
    done = demo.run(tmp_path / "new", workers=2, trials=30)
    printed = capsys.readouterr().out
    folder = tmp_path / "new"
    assert (done.blocks, done.workers) == (30, 2)
    with h5py.File(folder / "power.h5") as f, h5py.File(folder / "recording.h5") as rec:
        data = f["data"]
        assert (data.shape, data.dtype) == ((30, 251, 16), np.float32)
        assert [dim.label for dim in data.dims] == ["trial", "frequency", "channel"]
        np.testing.assert_array_equal(data.dims[1]["frequency"], HERTZ)
        np.testing.assert_array_equal(data.dims[2]["channel"], rec["channel"])
        start, stop, _ = rec["trials"][7]
        np.testing.assert_array_equal(data[7], demo.power(rec["lfp"][start:stop]))
    assert "float32 of shape (30, 251, 16)" in printed
    assert f"{done.blocks_per_second:.0f} trials/s, {done.mb_per_second:.0f} MB/s" in printed
    snippet = printed.partition("plain h5py:\n\n")[2]
    said = subprocess.run(
        [sys.executable, "-c", snippet], capture_output=True, text=True, check=True
    )
    assert said.stdout == "(30, 251, 16) [0. 2. 4.]\n"


def test_run_starts_over_in_its_folder(tmp_path):
    demo.run(tmp_path, workers=0, trials=3)
    (tmp_path / "mine.txt").write_text("kept")
    demo.run(tmp_path, workers=0, trials=4)
    with hpcio.open(tmp_path / "power.h5") as f:
        assert f["data"].shape[0] == 4
    names = {"mine.txt", "recording.h5", "power.h5", "power.h5.run", "power.png"}
    assert {p.name for p in tmp_path.iterdir()} == names


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder with a run of three trials, to be copied."""
    folder = tmp_path_factory.mktemp("three")
    demo.run(folder, workers=0, trials=3)
    return folder


@pytest.mark.parametrize("name", ["recording.h5", "power.h5", "power.png"])
def test_run_refuses_a_folder_with_files_of_somebody_else(tmp_path, three, name):
    shutil.copytree(three, tmp_path, dirs_exist_ok=True)
    kept = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    foreign = tmp_path / name
    foreign.write_bytes(b"somebody's work")
    kept[foreign] = b"somebody's work"
    with pytest.raises(OutputError, match=name):
        demo.run(tmp_path, workers=0, trials=3)
    assert {p: p.read_bytes() for p in kept} == kept


def test_a_folder_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        demo.run(tmp_path / "file" / "folder", trials=3)
    with pytest.raises(OutputError, match=r"nowhere/rec\.h5"):
        demo.make_recording(tmp_path / "nowhere" / "rec.h5", trials=1, channels=1)


def test_picture_has_the_announced_size(tmp_path):
    demo.run(tmp_path, workers=0, trials=5)
    assert size_of_png(tmp_path / "power.png") == demo.SIZE
    assert size_of_png(demo.draw(tmp_path / "again.png", tmp_path / "power.h5")) == demo.SIZE


def test_run_without_matplotlib_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    demo.run(tmp_path, workers=0, trials=3)
    assert "pip install 'hpcio[plot]'" in capsys.readouterr().out
    assert (tmp_path / "power.h5").exists()
    assert not (tmp_path / "power.png").exists()


def size_of_png(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", head[16:])
    return width, height
