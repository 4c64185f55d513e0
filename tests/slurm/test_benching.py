"""A benchmark by tasks of a job array on several nodes: they begin together, and end with it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from hpcio.bench import SCALES, TEAMS, Scale, Team
from hpcio.cli import cli
from hpcio.errors import ClusterError, WorkerError
from slurm.site import call, queued_jobs
from slurm.site.squeue import ENDED
from tests.rigs.slurm import until

pytestmark = pytest.mark.slurm


@pytest.fixture(autouse=True)
def no_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "no.toml"))


def write(path: Path) -> dict[str, object]:
    return {"path": str(path), "size": 1000, "count": 3, "first": 0, "step": 1000, "sync": True}


def at_work() -> list[str]:
    return [row.state for row in queued_jobs() if row.state not in ENDED]


def test_tasks_of_an_array_are_a_team(slurm, tmp_path):
    """On nodes of their own, if there is one for each."""
    with Team(tmp_path / "team", 2, TEAMS["array"], ["--exclusive"]) as team:
        assert team.nodes == 2
        done = team.do("write", [write(tmp_path / "a"), write(tmp_path / "b")])
        assert at_work() == ["RUNNING"] * 2
    assert done.nbytes == 6000
    assert at_work() == []
    assert "#SBATCH --exclusive" in (tmp_path / "team" / "team.sh").read_text()


def test_a_task_that_ends_is_not_waited_for(slurm, tmp_path):
    with Team(tmp_path / "team", 2, TEAMS["array"]) as team:
        (job,) = {row.job for row in queued_jobs() if row.state not in ENDED}
        call(["scancel", f"{job}_1"])
        until(lambda: len(at_work()) == 1)
        with pytest.raises(WorkerError, match=rf"Task 1 of the job {job} has ended"):
            team.do("write", [write(tmp_path / "a"), write(tmp_path / "b")])
    assert at_work() == []


def test_options_that_make_no_sense_are_refused(slurm, tmp_path):
    with pytest.raises(ClusterError, match="'--array' of sbatch is set by hpcio"):
        Team(tmp_path / "team", 1, TEAMS["array"], ["--array=3"])
    with pytest.raises(ClusterError, match="refuses"):
        Team(tmp_path / "again", 1, TEAMS["array"], ["--partition=nowhere"])


@pytest.mark.slow
def test_from_the_shell_to_one_sentence(slurm, tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "quick", Scale((64_000,), 1, 0.01, 600.0, 64 << 20))
    done = CliRunner().invoke(cli, [
        "bench", "--dir", str(tmp_path), "--quick", "--tasks", "2",
        "--json", str(tmp_path / "b.json"), "--", "--exclusive",
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads((tmp_path / "b.json").read_text())
    assert (said["place"]["processes"], len(said["place"]["hosts"])) == (2, 2)
    assert {f["nodes"] for f in said["figures"] if f["processes"] == 2} == {2}
    assert said["advice"]["sentence"] in done.output
    assert os.listdir(tmp_path) == ["b.json"]
    assert at_work() == []
