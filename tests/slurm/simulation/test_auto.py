"""``--tasks auto`` on a real SLURM: what was recommended is submitted, told, and kept."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import pytest

import hpcio
import slurm as slurm_side
from hpcio.bench import Figure, Found, Place
from hpcio.errors import OptionError
from slurm.site import settings
from slurm.submissions import newest
from tests.rigs.cluster_bench import HPCIO, OPTIONS, ClusterBench
from tests.rigs.waiting import PATIENCE

SLOW = """
import time


def slept(trial):
    time.sleep(0.1)
    return -trial
"""


@pytest.fixture
def slow(place: ClusterBench) -> ClusterBench:
    (place.folder / "slow.py").write_text(SLOW)
    return place


@pytest.mark.slurm
def test_in_the_shell(slurm, slow):
    done = subprocess.run(
        [HPCIO, "submit", "slow.py:slept", "rec.h5::/lfp", "--trials", str(slow.rows),
         "--out", "out.h5", "--tasks", "auto", "--mem", "400M", "--time", "00:30:00"],
        capture_output=True, text=True, check=True, timeout=PATIENCE, cwd=slow.folder,
    )  # fmt: skip
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("tasks auto: ")]
    number, why = re.fullmatch(r"tasks auto: (\d+), since (.*)", told).groups()
    assert "a guessed file system" in why
    assert int(number) > 1  # 48 trials of a tenth of a second
    made = newest(hpcio.Plan.load(slow.out))
    assert made.tasks == int(number)
    assert made.options.tasks == int(number)
    with slurm_side.attach(slow.out).result(timeout=PATIENCE) as f:
        assert f["data"].shape == slow.lfp.shape
        assert (f["data"][:] == -slow.lfp).all()


@pytest.mark.slurm
def test_what_was_decided_is_kept(slurm, place, capsys, monkeypatch):
    config = place.folder / "config.toml"
    config.write_text('[submit]\ntasks = "auto"\n')
    monkeypatch.setenv("HPCIO_CONFIG", str(config))
    run = slurm_side.write_scripts(place.plan(), **OPTIONS)
    assert capsys.readouterr().err.startswith("tasks auto: 1, since 1 task: ")
    assert newest(hpcio.Plan.load(place.out)).options.tasks == 1
    config.unlink()
    run.resume()
    place.finished(run)
    made = newest(hpcio.Plan.load(place.out))
    assert (made.number, made.tasks) == (2, 1)
    assert "tasks auto" not in capsys.readouterr().err


@pytest.mark.slurm
@pytest.mark.parametrize("matches", [True, False])
def test_what_was_measured_there_counts(slurm, place, capsys, monkeypatch, matches):
    """If the benchmark that was kept is of the file system of the result."""
    monkeypatch.setenv("HPCIO_CONFIG", str(place.folder / "config.toml"))
    where = Place.of(place.folder, ["a", "b"])
    if not matches:
        where = dataclasses.replace(where, filesystem="lustre")
    figures = tuple(
        Figure("write", writer, 10_000, processes, 1, "B/s", (1e8 * processes,))
        for writer in ("virtual", "virtual-trial")
        for processes in (1, 2)
    )
    kept = json.dumps(dataclasses.asdict(Found(where, figures, (), None)))
    (place.folder / "bench.json").write_text(kept)
    slurm_side.write_scripts(place.plan(), tasks="auto", **OPTIONS)
    told = capsys.readouterr().err
    assert ("as 2 processes measured it" in told) == matches
    assert ("a guessed file system" in told) != matches


@pytest.mark.slurm
def test_what_nobody_fits_is_refused(slurm, place):
    with pytest.raises(OptionError, match="No node of the partition has 999 CPUs"):
        slurm_side.submit(place.plan(), tasks="auto", cpus=999)


def test_the_word_may_stand_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("HPCIO_CONFIG", str(path))
    path.write_text('[submit]\ntasks = "auto"\n')
    assert settings().values["tasks"] == "auto"
    path.write_text('[submit]\ntasks = "most"\n')
    with pytest.raises(OptionError, match='must be of type int, or "auto"'):
        settings()
    path.write_text('[submit]\ncpus = "auto"\n')
    with pytest.raises(OptionError, match=r"'cpus' .* must be of type int\."):
        settings()
