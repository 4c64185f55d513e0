"""Job scripts as text: what was asked for, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hpcio.errors import ClusterError
from slurm.site.sbatch import check_options, join_words, names_option
from slurm.submissions.request import JobRequest
from slurm.submissions.script import array_script, finish_script


def ask(**options: object) -> JobRequest:
    plain = {
        "tasks": 1, "ranks": None, "partition": None, "seconds": None, "memory": None, "cpus": 1,
        "throttle": None, "name": "hpcio", "signal": 90, "stale": 120.0, "sbatch": (),
        "prologue": "", "launcher": "mpirun",
    }  # fmt: skip
    return JobRequest(**{**plain, **options})


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
    for name in ("partition", "time", "mem"):
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
        "exec 'printf %s\\n' -P -m slurm.tasks run", "printf %s"
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
