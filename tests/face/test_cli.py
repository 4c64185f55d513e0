"""The command: what it prints, and its exit status."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import h5py
import numpy as np
import pytest

import hpcio
from hpcio import cli
from hpcio.command import options
from hpcio.errors import OutputError
from tests.rigs.support import ended
from tests.rigs.waiting import PATIENCE, until

WORK = """
import numpy as np

def demean(trial, scale=1.0, noCompute=None):
    if noCompute:
        return trial.shape, "f8"
    if len(trial) == 13:
        raise ValueError("unlucky")
    return (trial - trial.mean(axis=0)) * scale
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = np.random.default_rng(1).standard_normal((1000, 3))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = data
        f["trials"] = [[10 * k, 10 * k + 8] for k in range(100)]
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "unlucky.csv").write_text("start,stop\n0,8\n20,33\n40,48\n")
    return tmp_path


def command(folder: Path, *words: str) -> tuple[int, str, str]:
    """Exit status, output and error output of the command."""
    call = "import sys; from hpcio.cli import main; sys.argv[0] = 'hpcio'; main()"
    done = subprocess.run(
        [sys.executable, "-c", call, *words], cwd=folder, capture_output=True, text=True,
        check=False, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def command_here(folder: Path, *words: str) -> tuple[int, str]:
    """Exit status and error output of the command, called in this process."""
    said = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stderr(said),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["hpcio", *words])
        patch.setenv("COLUMNS", "200")
        status = cli._status()
    return status, said.getvalue()


RUN = ("work.py:demean", "rec.h5::/lfp", "--trials", "rec.h5::/trials", "--out", "out.h5")


def test_run_status_verify_repack(folder):
    status, said, _ = command(folder, "run", *RUN, "--kwarg", "scale=2", "--workers", "2")
    assert status == 0
    assert said.startswith(f"{folder}/out.h5: 100 trials in ")
    with h5py.File(folder / "rec.h5") as f, hpcio.open(folder / "out.h5") as g:
        trials = [f["lfp"][a:b] for a, b in f["trials"]]
        expected = np.concatenate([(t - t.mean(axis=0)) * 2 for t in trials])
        assert np.array_equal(g["data"][...], expected)
    status, said, _ = command(folder, "status", "out.h5", "--json")
    state = json.loads(said)
    assert (status, state["done"], state["failed"], state["left"]) == (0, 100, 0, 0)
    assert command(folder, "verify", "out.h5")[:2] == (0, "out.h5: 100 trials, 19.2 kB verified\n")
    assert command(folder, "repack", "out.h5")[0] == 0
    assert not (folder / "out.h5.run").exists()
    assert command(folder, "verify", "out.h5")[0] == 0


def test_a_plan_says_what_its_run_takes_and_is_run_later(folder):
    status, said, _ = command(folder, "plan", *RUN)
    assert status == 0
    for part in (
        "work:demean",
        "100 trials",
        "19.2 kB: float64 of shape (800, 3)",
        "one file a block",
        "the longest",
        "expected",
        "hpcio run out.h5",
    ):
        assert part in said
    assert not (folder / "out.h5").exists()
    assert command(folder, "run", "out.h5", "--quiet")[0] == 0
    assert (folder / "out.h5").exists()


def test_a_failed_run_ends_with_1_and_can_be_looked_into(folder):
    words = ("work.py:demean", "rec.h5::/lfp", "--trials", "unlucky.csv", "--out", "out.h5")
    status, _, said = command(folder, "run", *words, "--workers", "1")
    assert status == 1
    assert "1 of 3 trials failed; nothing was published" in said
    assert "trial 1: ValueError: unlucky" in said
    assert not (folder / "out.h5").exists()
    status, said, _ = command(folder, "status", "out.h5", "--failed")
    assert status == 1
    assert 'raise ValueError("unlucky")' in said
    assert command(folder, "resume", "out.h5", "--gaps", "--quiet")[0] == 0
    with hpcio.open(folder / "out.h5") as f:
        assert f["trials"]["done"].tolist() == [True, False, True]
        assert np.isnan(f["data"][8:21]).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", *RUN[:-2]), "Missing option '--out'"),
        (("run", "nowhere:func", *RUN[1:]), "Cannot import module 'nowhere'"),
        (("run", RUN[0], "rec.h5::/eeg", *RUN[2:]), "'/eeg' in"),
        (("run", *RUN, "--kwarg", "scale"), "is not NAME=VALUE"),
        (("run", *RUN, "--select-trials", "x"), "START:STOP:STEP"),
        (("verify", "nothing.h5"), "There is no file"),
        (("resume", "nothing.h5"), "There is no result and no run"),
        (("status", "nothing.h5"), "There is no result and no run"),
        (("resume", "rec.h5"), "rec.h5' is no result of hpcio, and there is no run of it"),
    ],
)
def test_misuse_ends_with_2(folder, words, said):
    status, error = command_here(folder, *words)
    assert status == 2
    assert said in error
    assert not (folder / "out.h5").exists()
    assert not (folder / "out.h5.run").exists()


def test_selections(folder):
    options = ("--select-trials", "5,2", "--select-channels", "2,0", "--select-time", "1:4")
    assert command(folder, "run", *RUN, *options, "--quiet")[0] == 0
    with h5py.File(folder / "rec.h5") as f, hpcio.open(folder / "out.h5") as g:
        trials = [f["lfp"][10 * k + 1 : 10 * k + 4][:, [2, 0]] for k in (5, 2)]
        assert np.array_equal(g["data"][...], np.concatenate([t - t.mean(axis=0) for t in trials]))


def test_help_names_every_subcommand(folder):
    status, said, _ = command(folder, "--help")
    assert status == 0
    for name in ("run", "plan", "resume", "status", "verify", "repack", "demo"):
        assert f"\n  {name} " in said


@pytest.mark.parametrize("name", ["out.h5.run", "out.h5.run/"])
def test_a_run_directory_stands_for_its_result(folder, name):
    assert command(folder, "run", *RUN, "--workers", "0", "--quiet")[0] == 0
    for words in (["status", "--json"], ["resume", "--quiet"], ["verify"], ["run", "--quiet"]):
        status, _, said = command(folder, words[0], name, *words[1:])
        assert status == 0, said
    assert command_here(folder, "repack", name, "one.h5") == (0, "")
    assert hpcio.verify(folder / "one.h5").blocks == 100


def test_a_run_that_is_not_finished_is_neither_verified_nor_repacked(folder):
    assert command(folder, "plan", *RUN)[0] == 0
    for words in (["verify", "out.h5"], ["repack", "out.h5"], ["repack", "out.h5", "one.h5"]):
        status, said = command_here(folder, *words)
        assert status == 2
        assert "not there yet: its run is not finished" in said
        assert f"hpcio resume {folder}/out.h5)" in said


def test_messages_of_repack_name_no_option_that_it_does_not_have(folder):
    assert command(folder, "run", *RUN, "--workers", "0", "--quiet")[0] == 0
    (folder / "one.h5").write_text("something else")
    status, said = command_here(folder, "repack", "out.h5", "one.h5")
    assert status == 2
    assert said.endswith(
        "one.h5' exists, and was not made by hpcio, or is damaged. Choose another name, or move it "
        "away.\n"
    )
    shutil.copy(folder / "out.h5", folder / "one.h5")
    status, said = command_here(folder, "repack", "out.h5", "one.h5")
    assert status == 2
    assert said.endswith("one.h5' exists. Choose another name, or remove it first.\n")


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("false", False), ("true", True), ("False", False), ("True", True), ("None", None),
        ("7", 7), ("-1.5", -1.5), ("1e3", 1000.0), ("[1, 2]", [1, 2]), ("2024_01", "2024_01"),
        ("rec_007", "rec_007"), ("1_0.5", "1_0.5"), ("007", "007"), ("'7'", "7"),
    ],
)  # fmt: skip
def test_values_in_the_shell(given, value):
    context, option = click.Context(click.Command("run")), click.Option(["--kwarg"])
    read = options._pair(context, option, (f"name={given}",))["name"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_the_command_works_without_standard_streams(folder, closed):
    arguments = f"run {' '.join(RUN)} --workers 1 {closed}"
    done = subprocess.run(
        ["bash", "-c", f"exec {sys.executable} -m hpcio {arguments}"], cwd=folder, check=False
    )
    assert done.returncode == 0
    assert hpcio.verify(folder / "out.h5").blocks == 100


def test_what_is_left_of_a_result_says_what_can_be_done(folder):
    assert command_here(folder, "run", "numpy:negative", *RUN[1:], "--quiet")[0] == 0
    assert command_here(folder, "repack", "out.h5")[0] == 0
    for words in (("run", "out.h5"), ("resume", "out.h5")):
        status, said = command_here(folder, *words)
        assert status == 2
        assert "is finished and has no plan" in said
        assert "FUNCTION SOURCE ... --fresh" in said
    status, said = command_here(folder, "report", "rec.h5")
    assert status == 1
    assert "rec.h5' is no result of hpcio. Name the OUT of a run." in said


def test_access_is_one_or_the_other(folder):
    status, said = command_here(folder, "run", "numpy:negative", *RUN[1:], "--shared", "--private")
    assert status == 2
    assert "--shared and --private exclude each other." in said


def test_messages_of_resume_name_no_option_that_it_does_not_have(folder):
    assert command(folder, "plan", *RUN)[0] == 0
    with h5py.File(folder / "rec.h5", "a") as f:
        f["more"] = 1
    status, _, said = command(folder, "resume", "out.h5", "--workers", "0", "--quiet")
    assert status == 2
    assert said.endswith(
        "(run(fresh=True), in the shell: hpcio run FUNCTION SOURCE ... --fresh).\n"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--writer", "direct"), "--writer: this says how a plan is made, and that of 'out.h5'"),
        (("--writer", "virtual"), "--writer: "),  # what is the default is said all the same
        (("--arg", "3", "--private", "--same-versions"), "--arg, --private, --same-versions: "),
        (("--select-trials", "0:3"), "--select-trials: "),
        (("--trials", "8"), "Missing argument 'SOURCE' (with --trials)"),
    ],
)
@pytest.mark.parametrize("subcommand", ["run", "submit"])
def test_a_plan_that_is_made_takes_no_options_of_one_to_be_made(folder, subcommand, words, said):
    assert command_here(folder, "plan", "numpy:negative", *RUN[1:])[0] == 0
    status, error = command_here(folder, subcommand, "out.h5", *words)
    assert status == 2
    assert said in error
    assert not (folder / "out.h5").exists()


def test_a_plan_that_is_made_takes_all_options_of_runs(folder):
    assert command_here(folder, "plan", "numpy:negative", *RUN[1:])[0] == 0
    assert command_here(
        folder, "run", "out.h5", "--workers", "0", "--quiet", "--retries", "1", "--fresh"
    )[0] == 0  # fmt: skip
    with hpcio.open(folder / "out.h5") as f:
        assert f["trials"].size == 100


SLOW = """
import os, sys, time

def waits(trial):
    open("begun", "w").close()
    time.sleep(600)
"""


def test_ctrl_c_while_a_plan_is_made_says_what_was_tried_and_ends_with_130(folder):
    (folder / "slow.py").write_text(SLOW)
    call = "import sys; from hpcio.cli import main; sys.argv[0] = 'hpcio'; main()"
    words = ("plan", "slow.py:waits", *RUN[1:])
    child = subprocess.Popen(
        [sys.executable, "-c", call, *words], cwd=folder, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with ended(child):
        until((folder / "begun").exists, "the function is probed")
        os.killpg(child.pid, signal.SIGINT)
        said, error = child.communicate(timeout=PATIENCE)
    assert (child.returncode, said) == (130, "")
    (line,) = error.split("\n", 1)[-1].splitlines()  # after that of ^C
    assert "which had tried 'slow:waits' for" in line
    assert "with trial 0 (shape (8, 3)). If it hangs" in line
    assert not (folder / "out.h5.run").exists()


HANGS = """
import time

def hangs(trial):
    while trial[0, 0] == 0:
        time.sleep(1)
    return trial.sum(0)
"""


def test_a_trial_that_hangs_is_left_by_plan_and_run_alike(folder):
    (folder / "slow.py").write_text(HANGS)
    with h5py.File(folder / "rec.h5", "r+") as f:
        f["lfp"][:1] = 0
    words = ("slow.py:hangs", *RUN[1:], "--trial-time", "1s")
    status, said, _ = command(folder, "plan", *words)
    assert status == 0
    assert "TimeoutError for trial 0: it took longer than" in " ".join(said.split())
    status, _, said = command(folder, "run", *words, "--gaps", "--quiet", "--fresh")
    assert status == 0, said
    with h5py.File(folder / "rec.h5") as f, hpcio.open(folder / "out.h5") as g:
        sums = [f["lfp"][a:b].sum(axis=0) for a, b in f["trials"]]
        assert np.array_equal(
            g["data"][...], np.concatenate([sums[0] * np.nan, *sums[1:]]), equal_nan=True
        )


@pytest.mark.parametrize("table", ["out.h5::/trials", "out.h5.run/sources/table.csv", "link.csv"])
@pytest.mark.parametrize("more", [(), ("--select-trials", "0:1")], ids=["all", "selected"])
def test_a_trial_table_in_the_output_itself_is_refused(folder, table, more):
    assert command_here(folder, "run", "numpy:negative", *RUN[1:], "--workers", "0")[0] == 0
    (folder / "out.h5.run/sources/table.csv").write_text("0,8\n10,18\n")
    (folder / "link.csv").symlink_to("out.h5.run/sources/table.csv")
    before = (folder / "out.h5").read_bytes()
    words = ("numpy:negative", "rec.h5::/lfp", "--trials", table, "--out", "out.h5", *more)
    for subcommand in ("run", "plan"):
        status, error = command_here(folder, subcommand, *words, "--fresh")
        assert status == 2
        assert f"The trial table '{table}' lies in the output 'out.h5' itself" in error.replace(
            str(folder) + "/", ""
        )
        assert "a file of its own, such as CSV" in error
    assert (folder / "out.h5").read_bytes() == before
    other = (*words[:5], "two.h5", *more)
    assert command_here(folder, "run", *other, "--workers", "0")[0] == 0


def test_a_source_among_the_parts_of_the_output_is_not_replaced(folder):
    first = hpcio.Plan.create(
        np.negative, f"{folder}/rec.h5::/lfp", trials=100, out=folder / "out.h5", sources="trial"
    )
    first.run(workers=0, progress=False)
    part = min(first.rundir.sources.rglob("*.h5"))
    again = hpcio.Plan.create(np.negative, f"{part}::/data", trials=10, out=folder / "out.h5")
    with pytest.raises(OutputError, match="which is its own source"):
        again.run(workers=0, progress=False, fresh=True)
    hpcio.verify(folder / "out.h5")


def test_shape_type_and_axes_of_results_can_be_said(folder):
    words = ["numpy:negative", "rec.h5::lfp", "--trials", "25", "--out", "said.h5", "--quiet"]
    with h5py.File(folder / "rec.h5") as f:
        shape = f"25,{f['lfp'].shape[1]}"
        expected = -f["lfp"][: len(f["lfp"]) // 25 * 25].astype("f4")
    asked = ["--out-shape", shape, "--out-dtype", "float32", "--axes", "time,ch"]
    assert command_here(folder, "run", *words, *asked)[0] == 0
    with hpcio.open(folder / "said.h5") as f:
        assert f["data"].dtype == "f4"
        assert [dim.label for dim in f["data"].dims] == ["time", "ch"]
        np.testing.assert_array_equal(f["data"][...], expected)
    for wrong, said in (
        (["--out-shape", "8,x"], "is no list of lengths"),
        (["--out-dtype", "float33"], "is no type of numpy"),
        (["--axes", "a,a"], "has a name twice"),
        (["--axes", "data=a,b=0:3"], "'b=0:3' is no name of an axis"),
        (["--axes", "a,b", "--axes", "c,d"], "'c,d' comes after 'a,b'"),
        (["--axes", "p=a,b", "--axes", "p=c,d"], "once for each"),
    ):
        status, error = command_here(folder, "run", *words[:-2], "other.h5", *wrong)
        assert status == 2
        assert said in error


ANY = ("numpy:negative", "rec.h5::/lfp", "--trials", "100", "--out")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("verify", "pipe"), "pipe or a device"),
        (("status", "pipe"), "pipe or a device"),
        (("repack", "pipe"), "pipe or a device"),
        (("repack", "out.h5", "pipe"), "not made by hpcio"),
        (("report", "out.h5", "-o", "pipe"), "no report of hpcio"),
        (("run", *ANY, "pipe"), "not made by hpcio"),
        (("run", *ANY, "pipe", "--fresh"), "not made by hpcio"),
        (("run", "numpy:negative", "pipe::/lfp", *ANY[2:], "new.h5"), "pipe or a device"),
        (("plan", *RUN[:2], "--trials", "pipe", "--out", "new.h5"), "pipe or a device"),
        (("plan", *RUN[:2], "--trials", "/dev/zero", "--out", "new.h5"), "pipe or a device"),
        (("plan", *RUN[:2], "--trials", "pipe::/t", "--out", "new.h5"), "pipe or a device"),
        (("config",), "pipe or a device"),
        (("demo", "--dir", "demo"), "not of the demo"),
    ],
)
def test_a_pipe_is_refused_and_nobody_waits_for_it(folder, words, said, monkeypatch):
    os.mkfifo(folder / "pipe")
    (folder / "demo").mkdir()
    os.mkfifo(folder / "demo/power.png")
    if words == ("config",):
        monkeypatch.setenv("HPCIO_CONFIG", str(folder / "pipe"))
    if "out.h5" in words:
        assert command_here(folder, "run", *ANY, "out.h5", "--workers", "0", "--quiet")[0] == 0
    status, err = command_here(folder, *words)
    assert (status, said in err) == (2, True)


def test_a_pipe_that_appears_at_the_output_is_told(folder):
    (folder / "mine.py").write_text(
        "import os\n\ndef func(trial):\n    if not os.path.exists('out.h5'):\n"
        "        os.mkfifo('out.h5')\n    return trial\n"
    )
    options = ("--workers", "0", "--quiet", "--out-shape", "100,3", "--out-dtype", "f8")
    status, err = command_here(folder, "run", "mine.py:func", *ANY[1:], "out.h5", *options)
    assert (status, "has appeared during the run" in err) == (2, True)


def test_a_pipe_among_what_was_left_does_not_hold_up_repacking(folder):
    assert command_here(folder, "run", *ANY, "out.h5", "--workers", "0", "--quiet")[0] == 0
    os.mkfifo(folder / ".one.h5.0123.repack")
    assert command_here(folder, "repack", "out.h5", "one.h5") == (0, "")


def test_a_table_from_the_shell_is_read(folder):
    call = (
        f"{sys.executable} -m hpcio run numpy:negative rec.h5::/lfp --out out.h5 --workers 0 "
        "--quiet --trials <(printf '0,8\\n20,30\\n')"
    )
    subprocess.run(["bash", "-c", call], cwd=folder, check=True, capture_output=True)
    assert hpcio.verify(folder / "out.h5").blocks == 2
