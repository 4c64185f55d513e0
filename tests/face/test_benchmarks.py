"""The benchmarks keep up with the code: all of them are imported, some rows are run."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

import benchmarks
from benchmarks.bench import Bench, recording
from benchmarks.growth import tasks
from benchmarks.peers import page, picture, sides
from benchmarks.peers.asking import Peer, PeerError, expected_of, measured
from benchmarks.peers.environments import Environment
from benchmarks.peers.rows import figures
from benchmarks.peers.systems import ACME, HPCIO, LOOP, SYNCOPY, SYSTEMS, LeftOut, System, at_hand
from benchmarks.peers.work import Work
from tests.rigs import traced
from tests.rigs.support import REPOSITORY


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(benchmarks.__path__)])
def test_every_module_can_be_imported(name):
    if name == "ranks":
        pytest.importorskip("mpi4py")
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.slow
def test_a_row_of_one_file_and_one_of_the_loop_run(tmp_path):
    rows = ["--only", "direct-47kB", "--only", "journal", "--dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *rows], cwd=REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "direct-47kB" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "most", "row", "picture"),
    [
        ("trials", 100, "| virtual | 100 |", "growth.svg"),
        ("plans", 10_000, "| events | 10,000 |", "growth-plans.svg"),
        pytest.param(
            "files", 100, "| virtual | 10 | 10 | at work |", "growth-files.svg",
            marks=pytest.mark.skipif(bool(traced.missing()), reason=traced.missing()),
        ),
    ],
)  # fmt: skip
def test_growth_is_measured_and_drawn(tmp_path, part, most, row, picture):
    options = ["--only", part, "--most", str(most), "--repetitions", "1", "--dir", str(tmp_path)]
    page, kept = tmp_path / "growth.md", tmp_path / "growth.json"
    _growth(*options, "--json", str(kept), "--markdown", str(page), "--pictures", str(tmp_path))
    said = page.read_text()
    assert row in said
    assert "<svg" in (tmp_path / picture).read_text()
    assert sorted(os.listdir(tmp_path)) == sorted([picture, "growth.json", "growth.md"])
    page.write_text(f"{said}\n## Others\n\nstay\n")
    _growth("--from", str(kept), "--markdown", str(page))
    assert page.read_text() == f"{said}\n## Others\n\nstay\n"


def _growth(*options: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", *options], cwd=REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.slurm
def test_growth_of_tasks_is_measured_on_a_slurm(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "TASKS", (2, 3))
    monkeypatch.setattr(tasks, "TRIALS", 24)
    before = dict(os.environ)
    found = tasks.PART.measure(tmp_path, 2, 1)
    assert dict(os.environ) == before
    assert [one.tasks for one in found] == [2]
    assert 1 <= found[0].began <= 2
    tasks.PART.save_picture(tmp_path, found)
    assert os.listdir(tmp_path) == [tasks.PART.picture]


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(sides.__path__)])
def test_every_way_to_do_the_same_work_can_be_imported(name):
    library = {"acme_map": "acme", "syncopy_routine": "syncopy"}.get(name, name.partition("_")[0])
    if library != "loop":
        pytest.importorskip(library)
    importlib.import_module(f"benchmarks.peers.sides.{name}")


@pytest.fixture
def work(tmp_path):
    return Work(str(recording(Bench(tmp_path, full=False), 6, 40, 3)), 6, 40, 3)


@pytest.mark.slow
def test_peers_do_the_same_work_in_turn_and_are_shown(work, tmp_path):
    there = [s for s in SYSTEMS if s.environment is None]
    if find_spec("joblib"):
        there += [s for s in SYSTEMS if s.side.startswith("joblib")]
    values = measured(there, work, tmp_path, repetitions=1)
    assert list(values) == [s.name for s in there]
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in values.values())
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith("tmp")] == []
    found = [replace(f, row="peers-a", folder="here") for f in figures(values, 1 / 8)]
    text = page.markdown({"cores": 2}, found, [LeftOut((ACME, SYNCOPY), "no network")])
    assert all(f"| {name} |" in text for name in values)
    assert f"Left out: {ACME}, {SYNCOPY} (no network)." in text
    facts = dict.fromkeys(("cores", "processor", "hpcio", "python", "numpy", "h5py", "date"), "?")
    picture.draw(tmp_path / "peers.svg", page.seconds_of(found), facts)
    assert all(name in (tmp_path / "peers.svg").read_text() for name in values)


def test_results_of_peers_are_compared_with_the_right_values(work, tmp_path):
    loop = next(s for s in SYSTEMS if s.name == LOOP)
    folder = tmp_path / "out"
    folder.mkdir()
    right = expected_of(work)
    with Peer(loop, work, tmp_path / "peer") as peer, peer.awake():
        peer.go(folder)
        peer.check(right)
        wrong = right.copy()
        wrong[-1, -1] += 0.001
        with pytest.raises(PeerError, match="wrong values"):
            peer.check(wrong)
        for other in (right[1:], right.astype(np.float64)):
            with pytest.raises(PeerError, match="its result is float32"):
                peer.check(other)


def test_a_peer_that_fails_says_why(work, tmp_path):
    with (
        pytest.raises(PeerError, match=r"odd has ended:(?s:.)*No module named '\S*nothing'"),
        Peer(System("odd", "nothing:side", "grey"), work, tmp_path / "peer"),
    ):
        pass


def test_peers_of_an_environment_that_cannot_be_made_are_left_out():
    missing = System("x", "x:side", "grey", lambda: Environment("python0.0", ("numpy",)))
    here = System("y", "loop:side", "grey")
    left, found = at_hand((missing, here))
    assert left == LeftOut(("x",), "peers: needs python0.0, which is not on PATH.")
    assert found == here


def test_the_faster_of_two_peers_has_the_target():
    values = {HPCIO: [1.0], LOOP: [0.05], ACME: [9.0], SYNCOPY: [8.0], "other": [2.0]}
    targets = {f.against: f.target for f in figures(values, 0.125)}
    assert targets == {LOOP: None, ACME: None, SYNCOPY: 0.125, "other": 1.0}
    targets = {f.against: f.target for f in figures(values | {LOOP: [0.2]}, 0.125)}
    assert targets[LOOP] == 1.0
