"""The README and the guide run as they are pasted, in the order of reading."""

from __future__ import annotations

import os
import re
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

REPOSITORY = Path(__file__).resolve().parents[2]


def snippets(document: str, language: str) -> list[str]:
    """The code of a document in one language."""
    text = (REPOSITORY / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the recording of the demo."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "demo").mkdir()
    demo.make_recording(folder / "demo" / "recording.h5")
    return folder


def run(command: list[str], folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    said = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stdout + said.stderr
    return said.stdout


def test_python_of_the_readme_runs_as_pasted(folder):
    (code,) = snippets("README.md", "python")
    assert len([line for line in code.splitlines() if line]) <= 10
    printed = run([sys.executable, "-c", code], folder)
    assert printed.startswith("400 trials in ")
    assert printed.endswith("(400, 16) float64\n")
    with h5py.File(folder / "demo" / "recording.h5") as f, hpcio.open(folder / "rms.h5") as g:
        start, stop, _ = f["trials"][399]
        expected = np.sqrt(np.mean(np.square(f["lfp"][start:stop], dtype="f8"), axis=0))
        np.testing.assert_array_equal(g["data"][399], expected)


def test_shell_of_the_readme_runs_as_pasted(folder):
    _, commands = snippets("README.md", "sh")
    printed = run(["sh", "-e", "-c", commands], folder)
    assert "400 done, 0 failed, 0 left" in printed
    with h5py.File(folder / "out.h5") as f, h5py.File(folder / "two.h5") as g:
        assert f["data"].is_virtual
        assert not g["data"].is_virtual
        np.testing.assert_array_equal(f["data"], g["data"])
    assert not (folder / "two.h5.run").exists()
    assert (folder / "demo" / "power.png").exists()


def test_first_commands_of_the_readme_are_targets_of_the_makefile():
    first, _ = snippets("README.md", "sh")
    targets = re.findall(r"^make (\w+)", first, re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (REPOSITORY / "Makefile").read_text()
    assert all(f"\n{target}: " in makefile for target in targets)


def test_guide_runs_from_top_to_bottom(folder):
    pytest.importorskip("pynwb")
    place = folder / "guide"
    place.mkdir()
    shutil.copytree(folder / "demo", place / "demo")
    for name, code in re.findall(
        r"^`([\w.]+\.py)`:\n\n```python\n(.*?)^```$",
        (REPOSITORY / "docs/guide.md").read_text(),
        re.DOTALL | re.MULTILINE,
    ):
        (place / name).write_text(code)
    code = "\n".join(snippets("docs/guide.md", "python"))
    printed = run([sys.executable, "-c", code], place).splitlines()
    # What a comment says is printed, but for numbers of this machine.
    said = re.findall(r"print\(.*\)  # ([T(\d].*[)\d])$", code, re.MULTILINE)
    assert len(said) == 13
    assert all(line in printed or "..." in line for line in said)
    for commands in snippets("docs/guide.md", "sh"):
        run(["sh", "-e", "-c", commands], place)
    check_the_experiment(place)
    check_the_sessions(place)


def check_the_experiment(place: Path) -> None:
    """The means by condition, in Python and in the shell, are those of plain numpy."""
    assert (place / "erp.png").stat().st_size > 10_000
    table = [line.split("\t") for line in (place / "events.tsv").read_text().splitlines()[1:]]
    with h5py.File(place / "eeg.h5") as f:
        eeg = f["eeg"][...].astype("f8")
    for name in ("erp.h5", "erp_too.h5"):
        with hpcio.open(place / name) as f:
            assert f["time"][[0, 200, 999]].tolist() == [-0.2, 0.0, 0.799]
            for k, kind in enumerate(f["trial_type"].asstr()[...]):
                starts = [
                    round(1000 * float(onset)) - 200
                    for onset, _, found, rt in table
                    if found == kind and 0.3 <= float(rt) <= 0.45
                ]
                trials = np.stack([eeg[start:][:1000] for start in starts])
                trials -= trials[:, :200].mean(axis=1, keepdims=True)
                assert f["count"][k] == len(starts)
                np.testing.assert_allclose(f["data"][k], trials.mean(axis=0), atol=1e-4)


def check_the_sessions(place: Path) -> None:
    """All numbers of both results, Python's and the shell's, are those of pynwb and numpy."""
    import pynwb

    assert (place / "spectra.png").stat().st_size > 10_000
    power, peak, bad, conditions = [], [], [], []
    for name in ("s1", "s2", "s10"):
        with pynwb.NWBHDF5IO(place / f"{name}.nwb", "r") as io:
            nwb = io.read()
            volts = nwb.acquisition["ElectricalSeries"].get_data_in_units()
            conditions += nwb.trials["condition"][:].tolist()
            starts, stops = nwb.trials["start_time"][:], nwb.trials["stop_time"][:]
        for start, stop in zip(starts, stops, strict=True):
            trial = volts[round(1000 * (start - 10)) : round(1000 * (stop - 10))]
            size = np.abs(np.fft.fft(trial - trial.mean(axis=0), axis=0)[:51])
            power.append(size**2)
            peak.append(size.argmax(axis=0))
            bad.append(trial.max() - trial.min() > 2e-3)
    assert np.flatnonzero(bad).tolist() == list(range(30, 900, 60))
    for out in ("spectra.h5", "spectra_too.h5"):
        assert hpcio.verify(place / out).blocks == 900
        with hpcio.open(place / out).to_xarray() as found:
            largest = np.max(power)
            np.testing.assert_allclose(found["power"], power, rtol=1e-9, atol=1e-12 * largest)
            np.testing.assert_array_equal(found["peak"], peak)
            np.testing.assert_array_equal(found["bad"], bad)
            assert found["power"].dims == ("trial", "frequency", "channel")
            assert found["condition"].values.tolist() == conditions
            names = [name for name in ("s1", "s2", "s10") for _ in range(300)]
            assert found["recording"].values.tolist() == names
            assert found["location"].values.tolist() == ["CA1"] * 16 + ["DG"] * 16
            assert found["y"].values.tolist() == [20.0 * site for site in range(32)]
            chosen = found["power"][~found["bad"].values, :, :16]
            for kind, where in (("go", 20), ("stop", 10)):
                means = chosen[chosen["condition"] == kind].mean(["trial", "channel"])
                assert means.values.argmax() == where


def test_links_lead_somewhere():
    written = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
    assert {"README.md", "CONTRIBUTING.md", "design.md", "formats.md"} < {p.name for p in written}
    for document in written:
        text = document.read_text()
        links = re.findall(r"\]\(([^)#]+)[)#]|src=\"([^\"]+)\"", text)
        for link in filter(None, (a or b for a, b in links)):
            if "://" not in link:
                assert document.parent.joinpath(link).exists(), (document, link)


def test_picture_of_the_readme_is_one_of_the_demo():
    picture = (REPOSITORY / "docs/images/demo.png").read_bytes()
    assert struct.unpack(">II", picture[16:24]) == demo.SIZE
    assert len(picture) < 200_000
