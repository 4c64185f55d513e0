"""Array tasks that are cancelled, killed, requeued, or run out of time: the bytes are right."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.journals.journal import DONE
from hpcio.journals.ledger import read_logs
from slurm import SLURMArrayCluster
from tests.rigs.slurm import until

pytestmark = pytest.mark.slurm

TRIALS, ROWS = 24, 100

# The first sample of a trial is its number; trial 5 waits, the first time, until `go` appears.
WORK = """
import os, time

HERE = os.path.dirname(os.path.abspath(__file__))


def held(trial):
    number = int(trial[0, 0])
    with open(f"{HERE}/calls", "ab", buffering=0) as calls:
        calls.write(b"%d %d\\n" % (number, os.getpid()))
    if number == 5:
        try:
            os.close(os.open(f"{HERE}/held", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            while not os.path.exists(f"{HERE}/go"):
                time.sleep(0.01)
    return trial * 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    data = np.random.default_rng(3).standard_normal((TRIALS * ROWS, 4))
    data[::ROWS, 0] = np.arange(TRIALS)
    with h5py.File("rec.h5", "w") as f:
        f["lfp"] = data
    Path("work.py").write_text(WORK)
    return tmp_path


def plan() -> hpcio.Plan:
    shape = {"out_shape": lambda inshape: inshape, "out_dtype": "f8"}
    return hpcio.Plan.create("work.py:held", "rec.h5::/lfp", trials=ROWS, out="out.h5", **shape)


def calls() -> list[tuple[int, int]]:
    lines = Path("calls").read_text().split("\n") if Path("calls").exists() else []
    return [(int(a), int(b)) for a, b in (line.split() for line in lines if line)]


class Meanwhile:
    """Does something to the array task that holds trial 5, while the run waits for it."""

    def __init__(self, what: Callable[[Any, str, int], None], there: SLURMArrayCluster) -> None:
        self.what, self.there = what, there
        self.error: BaseException | None = None

    def __call__(self) -> None:
        try:
            until(lambda: Path("held").exists() and any(n == 5 for n, _ in calls()))
            pid = next(pid for number, pid in calls() if number == 5)
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            of = dict(v.decode().split("=", 1) for v in variables if b"=" in v)
            task = f"{of['SLURM_ARRAY_JOB_ID']}_{of['SLURM_ARRAY_TASK_ID']}"
            self.what(of, task, pid)
        except BaseException as error:
            self.error = error
            raise


def disturbed(
    what: Callable[[Any, str, int], None], *, tasks: int = 2, **options: Any
) -> hpcio.running.run.Done:
    """Run the plan on array tasks, and do `what` to the one that holds trial 5."""
    options = {"memory": "400MB", "walltime": "00:30:00", **options}
    local = {"scheduler_options": {"host": "127.0.0.1"}}
    with SLURMArrayCluster(tasks=tasks, **options, **local) as there:
        meanwhile = Meanwhile(what, there)
        thread = threading.Thread(target=meanwhile)
        thread.start()
        done = plan().run(there, progress=False)
        thread.join()
    assert meanwhile.error is None
    return done


def check(done: hpcio.running.run.Done) -> int:
    """The result is right; returns how many blocks were computed more than once."""
    with h5py.File("rec.h5") as f, hpcio.open("out.h5") as g:
        assert g["data"][...].tobytes() == (f["lfp"][...] * 2).tobytes()
    assert hpcio.verify("out.h5").blocks == TRIALS
    assert done.blocks == TRIALS
    assert not done.failed
    found = [
        log.records["block"][log.records["kind"] == DONE]
        for log in read_logs(hpcio.Plan.load("out.h5"))
    ]
    blocks = np.concatenate(found)
    assert set(blocks.tolist()) == set(range(TRIALS))
    return len(calls()) - TRIALS


def test_scancel_of_one_task(slurm, folder):
    def cancel(_: Any, task: str, pid: int) -> None:
        slurm.call("scancel", task)

    assert check(disturbed(cancel)) == 1


def test_a_worker_killed_by_signal_9(slurm, folder):
    def kill(_: Any, task: str, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    assert check(disturbed(kill, nanny=False)) == 1


def test_a_worker_killed_under_its_nanny(slurm, folder):
    def kill(_: Any, task: str, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    assert check(disturbed(kill, nanny=True)) == 1


def test_requeue(slurm, folder):
    def requeue(_: Any, task: str, pid: int) -> None:
        slurm.call("scontrol", "requeue", task)

    assert check(disturbed(requeue)) == 1


def test_a_worker_near_its_walltime_hands_the_rest_to_another(slurm, folder):
    def wait(of: Any, task: str, pid: int) -> None:
        until(lambda: time.time() > float(of["HPCIO_UNTIL"]), "the end of its time")
        Path("go").touch()

    done = disturbed(wait, tasks=1, walltime="00:01:00")
    assert check(done) == 0  # nothing was lost
    assert done.workers == 2


def test_a_node_that_is_gone(slurm, folder):
    """SLURM starts its tasks elsewhere while they go on, cut off: two copies at a time."""

    def unplug(of: Any, task: str, pid: int) -> None:
        node = of["SLURMD_NODENAME"]
        try:
            slurm.kill(f"slurmd-{node}")

            def copied() -> bool:
                said = slurm.call("scontrol", "show", "job", "-o", task)
                return "JobState=RUNNING" in said and "Restarts=1" in said

            until(copied, "its copy", seconds=120)
            Path("go").touch()
        finally:
            slurm.start_node(int(node[1:]))

    assert check(disturbed(unplug)) >= 0


@pytest.mark.torture
def test_a_task_whose_walltime_is_over(slurm, folder):
    assert check(disturbed(lambda of, task, pid: None, walltime="00:01:00")) == 1
