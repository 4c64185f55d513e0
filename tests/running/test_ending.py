"""A run ends, whatever its function leaves running, and whoever is asked to stop stops."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.files import holder_of
from tests.rigs.everyday import combinations
from tests.rigs.support import ended, run, start
from tests.rigs.waiting import PATIENCE, until

LFP = np.arange(1.0, 81.0).reshape(40, 2)
SUMS = LFP.reshape(4, 10, 2).sum(axis=1)
BEGIN = """
import ctypes, os, signal, subprocess, sys, threading, time, multiprocessing
import numpy as np

here = os.path.dirname(os.path.abspath(__file__))

def note(pid):
    with open(os.path.join(here, "left"), "a") as f:
        f.write(f"{pid}\\n")
"""
SESSION = """
import hpcio, sys
import left_running
plan = hpcio.Plan.create(left_running.func, "rec.h5::lfp", trials=10, out="out.h5", join="stack",
                         out_shape=(2,), out_dtype="f8")
plan.run(workers=int(sys.argv[1]), gaps=True, progress=False)
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a recording; what functions have left is ended with the test."""
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = LFP
    yield tmp_path
    left = tmp_path / "left"
    for pid in left.read_text().split() if left.exists() else ():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass


def write(folder: Path, body: str) -> None:
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    (folder / "left_running.py").write_text(f"{BEGIN}\ndone = []\ndef func(trial):\n{lines}")


def data(folder: Path) -> np.ndarray:
    with hpcio.open(folder / "out.h5") as f:
        return f["data"][...]


LEFT = {
    "program": "note(subprocess.Popen(['sleep', '600'], close_fds=False).pid)",
    "shell": "os.system('sleep 600 & echo $! >> ' + here + '/left')",
    "thread": "threading.Thread(target=time.sleep, args=(600,)).start()",
    "process": "p = multiprocessing.get_context('fork').Process(target=time.sleep, args=(600,))\n"
    "    p.start()\n    note(p.pid)",
    "fork": "pid = os.fork()\n    if not pid:\n        time.sleep(600)\n    note(pid)",
    "daemon": "if os.fork() == 0:\n        os.setsid()\n        note(os.getpid())\n"
    "        time.sleep(600)",
}


@pytest.mark.parametrize(
    ("left", "workers"),
    combinations(LEFT, ["1", "2"], everyday=[*zip(LEFT, ["1", "2"] * 3, strict=True)]),
)
def test_a_run_ends_whatever_the_function_leaves_running(folder, left, workers):
    write(folder, f"if not done:\n    done.append(1)\n    {LEFT[left]}\nreturn trial.sum(axis=0)")
    run(SESSION, folder, workers)
    np.testing.assert_array_equal(data(folder), SUMS)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_copy_that_a_function_forks_of_its_process_ends(folder, workers):
    write(folder, "note(os.fork() or os.getpid())\nreturn trial.sum(axis=0)")
    run(SESSION, folder, workers)
    np.testing.assert_array_equal(data(folder), SUMS)
    copies = {int(pid) for pid in (folder / "left").read_text().split()}
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in copies), "the ends of copies")


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("by", ["KeyboardInterrupt", "SystemExit(0)", "ValueError"])
def test_a_copy_that_leaves_the_function_by_an_exception_touches_nothing(folder, by, workers):
    """As one that Ctrl-C reaches: the journal that it holds open is its parent's."""
    write(
        folder,
        f"pid = os.fork()\nif not pid:\n    raise {by}\nos.waitpid(pid, 0)\n"
        "note(pid)\nreturn trial.sum(axis=0)",
    )
    run(SESSION, folder, workers)
    np.testing.assert_array_equal(data(folder), SUMS)


@pytest.mark.parametrize("left", ["fork", "process", "daemon", "shell"])
def test_a_worker_is_dead_when_its_process_is(folder, left):
    write(
        folder,
        f"if not done:\n    done.append(1)\n    {LEFT[left]}\n"
        "if trial[0, 0] == 21:\n    os.kill(os.getpid(), signal.SIGKILL)\nreturn trial.sum(axis=0)",
    )
    run(SESSION, folder, "2")
    want = SUMS.copy()
    want[1] = np.nan
    np.testing.assert_array_equal(data(folder), want)


def test_a_child_that_a_session_forked_does_not_keep_its_lock(folder):
    write(
        folder,
        "if not os.path.exists(f'{here}/once'):\n    open(f'{here}/once', 'w').close()\n"
        "    pid = os.fork()\n"
        "    if not pid:\n        time.sleep(600)\n    note(pid)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\nreturn trial.sum(axis=0)",
    )
    with ended(start(SESSION, folder, "0")) as child:
        until(lambda: child.poll() is not None, "the end of the session")
        assert child.returncode == -signal.SIGKILL
        plan = hpcio.Plan.load(folder / "out.h5")
        # The child lets go of it as the first thing that it does.
        until(lambda: holder_of(plan.rundir.lock) is None, "the child")
        plan.run(workers=1, progress=False)
    np.testing.assert_array_equal(data(folder), SUMS)


SWALLOWS = """
number = int(trial[0, 0]) // 20
open(f"{here}/began-{number}", "w").close()
try:
    while not os.path.exists(f"{here}/go"):
        time.sleep(0.01)
except:
    return trial.sum(axis=0) * np.nan
return trial.sum(axis=0)
"""


@pytest.mark.parametrize(
    ("ends", "workers"),
    combinations(
        ["returns", "raises"], ["0", "1", "2"],
        everyday=[("returns", "0"), ("raises", "0"), ("raises", "1"), ("returns", "2")],
    ),
)  # fmt: skip
def test_a_function_that_catches_everything_is_stopped_all_the_same(folder, workers, ends):
    body = SWALLOWS
    if ends == "raises":
        body = body.replace("return trial.sum(axis=0) * np.nan", "raise ValueError('no fit')")
    write(folder, body)
    with ended(start(SESSION, folder, workers)) as child:
        until(lambda: len(list(folder.glob("began-*"))) >= max(1, int(workers)), "the trials")
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=PATIENCE)
    assert child.returncode != 0
    assert "Stopped with 0 of 4 trials done" in err
    (folder / "go").touch()
    hpcio.Plan.load(folder / "out.h5").run(workers=1, progress=False)
    np.testing.assert_array_equal(data(folder), SUMS)


@pytest.mark.parametrize("left", ["thread", "process"])
def test_the_command_ends_whatever_the_function_leaves_running(folder, left):
    write(folder, f"if not done:\n    done.append(1)\n    {LEFT[left]}\nreturn trial.sum(axis=0)")
    script = (
        "import sys\nsys.argv = 'hpcio run left_running.py:func rec.h5::lfp --trials 10 "
        "--join stack --out out.h5 --workers 0 --quiet'.split()\nfrom hpcio.cli import main\nmain()"
    )
    with ended(start(script, folder)) as child:
        until(lambda: child.poll() is not None, "the end of the command")
        assert child.returncode == 0
    np.testing.assert_array_equal(data(folder), SUMS)
