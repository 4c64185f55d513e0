"""Job scripts, defaults, and claims: what needs no SLURM."""

from __future__ import annotations

import subprocess
from pathlib import Path

import h5py
import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpcio
from hpcio.errors import ClusterError, PlanError
from slurm.site.config import DEFAULTS, location, settings
from slurm.submissions.claims import Claim, Claims, Pulses
from slurm.submissions.script import (
    Ask,
    array_script,
    check_options,
    finish_script,
    join_words,
    names_option,
)


@pytest.fixture
def plan(tmp_path: Path) -> hpcio.Plan:
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((40, 2))
    return hpcio.Plan.create(
        np.negative, f"{tmp_path}/rec.h5::/lfp", trials=4, out=tmp_path / "it's $(here).h5"
    )


def ask(**options: object) -> Ask:
    plain = {
        "partition": None, "seconds": None, "memory": None, "cpus": 1, "throttle": None,
        "name": "hpcio", "signal": 90,
    }  # fmt: skip
    return Ask(**{**plain, **options})


def test_a_script_says_what_was_asked_for(plan):
    asked = ask(partition="short", seconds=5400, memory=8 * 10**9, cpus=4, throttle=3,
                prologue="module load hdf5\n", sbatch=("--qos=high", "-A lab"))  # fmt: skip
    lines = array_script(plan, asked, submission=2, first=1000, size=64).splitlines()
    for line in (
        "#SBATCH --array=0-63%3",
        "#SBATCH --partition=short",
        "#SBATCH --time=01:30:00",
        "#SBATCH --mem=7630M",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --signal=B:USR1@90",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --qos=high",
        "#SBATCH --account=lab",
        "trap '' USR1 TERM",
        "module load hdf5",
    ):
        assert line in lines
    assert lines.index("trap '' USR1 TERM") < lines.index("module load hdf5")
    assert "OMP_NUM_THREADS=4" in lines[-3]
    assert lines[-1].startswith("exec ")
    assert lines[-1].endswith(" 2 1000")


def test_what_is_not_asked_for_is_left_to_the_site(plan):
    text = array_script(plan, ask(), submission=1, first=0, size=1)
    for name in ("partition", "time", "mem", "signal"):
        assert f"--{name}" not in text


def test_the_finalizer_asks_for_no_devices(plan):
    options = ("--gres=gpu:1", "--gpus=1", "-c4", "--mem-per-cpu=3G", "--nodes=1",
               "--exclusive", "--qos=high", "-Alab", "--nodelist=n1")  # fmt: skip
    text = finish_script(plan, ask(sbatch=options), submission=1)
    asked = {line.split("--")[1].split("=")[0] for line in text.splitlines() if "#SBATCH" in line}
    assert asked == {"job-name", "output", "open-mode", "requeue", "mem", "qos", "account",
                     "nodelist"}  # fmt: skip


def test_bash_hands_on_the_path_as_it_is(plan):
    text = array_script(plan, ask(python="printf %s\\n"), submission=1, first=0, size=1)
    command = text.splitlines()[-1].replace(
        "exec 'printf %s\\n' -P -m slurm.submissions.task run", "printf %s"
    )
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert said.stdout.startswith(plan.out)
    assert not Path("here").exists()


def test_options_of_sbatch():
    assert join_words(["--qos", "high", "-p", "x y", "--exclusive", "--nice=3"]) == (
        "--qos=high", "-px y", "--exclusive", "--nice=3",
    )  # fmt: skip
    assert [names_option(o) for o in ("--gres=gpu:1", "-Alab", "-C x")] == [
        "gres", "account", "constraint",
    ]  # fmt: skip
    with pytest.raises(ClusterError, match="'high' is no option"):
        names_option("high")
    with pytest.raises(ClusterError, match="'--array' of sbatch is set by hpcio: say tasks and"):
        check_options(["--array=1-3"])
    check_options(["--qos=high"])


def test_a_line_end_is_refused(plan):
    with pytest.raises(ClusterError, match="line end"):
        array_script(plan, ask(name="a\nb"), submission=1, first=0, size=1)


# ---------------------------------------------------------------------- defaults


@pytest.fixture
def toml(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    monkeypatch.setenv("HPCIO_CONFIG", str(path))

    def write(text: str) -> Path:
        path.write_text(text)
        return path

    return write


def test_defaults_of_a_cluster_come_before_those_of_all(toml):
    path = toml(
        '[submit]\npartition = "a"\ntasks = 7\n[submit.big]\npartition = "b"\nstale = 60\n'
        '[submit.other]\ntasks = 99\nsbatch = ["--qos=x"]\n'
    )
    found = settings("big")
    assert found.path == location() == path
    assert (found.values["partition"], found.values["tasks"]) == ("b", 7)
    assert found.values["sbatch"] == []
    assert found.origin["partition"] == "[submit.big]"
    assert found.origin["tasks"] == "[submit]"
    assert found.origin["memory"] == "default"
    assert settings().values["partition"] == "a"


def test_without_a_file_there_are_defaults(toml):
    found = settings("big")
    assert found.values == {name: value for name, (_, value) in DEFAULTS.items()}


def test_where_the_file_is(monkeypatch, tmp_path):
    monkeypatch.delenv("HPCIO_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert location() == tmp_path / "hpcio" / "config.toml"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("submit = 3", r"'submit' in .* is no section"),
        ("[submit]\ntasks = '3'", r"'tasks' in \[submit\] .* must be of type int"),
        ("[submit]\ntasks = true", r"'tasks' in \[submit\] .* must be of type int"),
        ("[submit.x]\nnodes = 3", r"'nodes' in \[submit.x\] .* not known. There are: tasks"),
        ("[other]\na = 1", r"has 'other', which nobody reads"),
        ("[submit", r"cannot be read"),
    ],
)
def test_what_a_file_may_not_say(toml, text, match):
    toml(text)
    with pytest.raises(PlanError, match=match):
        settings("big")


# ---------------------------------------------------------------------- claims


@pytest.fixture
def claims(plan):
    plan.run_directory.mkdir()
    for name in ("claims", "beats"):
        (plan.run_directory / name).mkdir()

    def of(attempt: str) -> Claims:
        found = Claims(plan, 1, attempt)
        found.look()
        return found

    return of


def test_one_of_two_gets_a_chunk(claims):
    a, b = claims("a"), claims("b")
    claim = a.take(3, 17)
    assert claim == Claim(3, 1, 17, "a")
    assert b.take(3, 17) is None  # it had looked before
    b.look()
    assert b.latest(3) == claim
    assert b.take(3, 20) == Claim(3, 2, 20, "b")
    assert b.latest(4) is None


def test_a_claim_whose_owner_is_not_known_is_a_claim(claims, plan):
    (plan.run_directory / "claims" / "1-5.g1").touch()
    (plan.run_directory / "claims" / "2-5.g7@0@other").touch()  # of another submission
    seen = claims("a")
    assert seen.latest(5) == Claim(5, 1)


def test_who_has_left_and_who_has_stopped_all(claims):
    a = claims("a")
    claim = a.take(0, 0)
    a.leave(claim)
    seen = claims("b")
    assert seen.latest(0).left
    assert not seen.stopped
    a.stop()
    seen.look()
    assert seen.stopped


@hypothesis.settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_the_parts_of_a_chunk_cover_it_once(starts):
    """However often it is taken over: from its first block on, each belongs to one claim."""
    seen = Claims.__new__(Claims)
    starts = [0, *starts]
    seen.of = {0: {g + 1: Claim(0, g + 1, s, f"a{g}") for g, s in enumerate(starts)}}
    parts = [range(c.start, seen.until(c, end=31)) for c in seen.of[0].values()]
    assert sorted(block for part in parts for block in part) == list(range(31))


def test_life_is_told_by_a_change_alone(plan, claims, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    claims("a")
    beat = plan.run_directory / "beats" / "x"
    beat.write_text("1")
    pulses = Pulses(plan, stale=10)
    pulses.look("x")
    assert not pulses.lives("x")
    assert not pulses.dead("x")
    now[0] = 105.0
    beat.write_text("2")
    pulses.look("x")
    assert pulses.lives("x")
    now[0] = 114.0
    pulses.look("x")
    assert pulses.lives("x")
    assert not pulses.dead("x")
    now[0] = 115.0
    pulses.look("x")
    assert pulses.dead("x")
    assert not pulses.lives("x")
