"""Array tasks that are cancelled, killed, requeued, or run out of time: the bytes are right."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcio
from hpcio.errors import Done
from hpcio.journals.journal import DONE
from hpcio.journals.ledger import read_logs
from slurm import SLURMArrayCluster
from slurm.live import dispatch
from tests.rigs.bench import Bench
from tests.rigs.slurm import until

pytestmark = pytest.mark.slurm

TRIALS = 24


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, trials=TRIALS, rows=100, channels=4, sources="auto")


class Meanwhile:
    """Does something to the array task that holds trial 5, while the run waits for it."""

    def __init__(self, what: Callable[[Any, str, int], None], bench: Bench) -> None:
        self.what, self.bench = what, bench
        self.error: BaseException | None = None

    def __call__(self) -> None:
        try:
            until(lambda: 5 in self.bench.calls, "trial 5")
            pid = self.bench.pid(5)
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            of = dict(v.decode().split("=", 1) for v in variables if b"=" in v)
            task = f"{of['SLURM_ARRAY_JOB_ID']}_{of['SLURM_ARRAY_TASK_ID']}"
            self.what(of, task, pid)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.bench.hold()


def disturbed(
    bench: Bench, what: Callable[[Any, str, int], None], *, tasks: int = 2, **options: Any
) -> Done:
    """Run the plan on array tasks, and do `what` to the one that holds trial 5; then let go."""
    options = {"memory": "400MB", "walltime": "00:30:00", **options}
    local = {"scheduler_options": {"host": "127.0.0.1"}}
    bench.hold(5)
    with SLURMArrayCluster(tasks=tasks, **options, **local) as there:
        meanwhile = Meanwhile(what, bench)
        thread = threading.Thread(target=meanwhile)
        thread.start()
        done = bench.plan().run(there, progress=False)
        thread.join()
    assert meanwhile.error is None
    return done


def check(bench: Bench, done: Done) -> int:
    """The result is right; returns how many blocks were computed more than once."""
    bench.check()
    assert done.blocks == TRIALS
    assert not done.failed
    found = [
        log.records["block"][log.records["kind"] == DONE]
        for log in read_logs(hpcio.Plan.load(bench.out))
    ]
    blocks = np.concatenate(found)
    assert set(blocks.tolist()) == set(range(TRIALS))
    return len(bench.calls) - TRIALS


def gone(pid: int) -> None:
    """Wait for the end of a process that is about to be ended."""

    def over() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
        except OSError:
            return True

    until(over, "the end of the worker")


def test_scancel_of_one_task(slurm, bench):
    def cancel(_: Any, task: str, pid: int) -> None:
        slurm.call("scancel", task)
        gone(pid)

    assert check(bench, disturbed(bench, cancel)) == 1


@pytest.mark.parametrize("nanny", [False, True])
def test_a_worker_killed_by_signal_9(slurm, bench, nanny):
    def kill(_: Any, task: str, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    assert check(bench, disturbed(bench, kill, nanny=nanny)) == 1


def test_requeue(slurm, bench):
    def requeue(_: Any, task: str, pid: int) -> None:
        slurm.call("scontrol", "requeue", task)
        gone(pid)

    assert check(bench, disturbed(bench, requeue)) == 1


def test_a_worker_near_its_walltime_hands_the_rest_to_another(slurm, bench):
    def wait(of: Any, task: str, pid: int) -> None:
        until(lambda: time.time() > float(of["HPCIO_UNTIL"]), "the end of its time")

    done = disturbed(bench, wait, tasks=1, walltime="00:01:00")
    assert check(bench, done) == 0  # nothing was lost
    assert done.workers >= 2


def test_a_node_that_is_gone(slurm, bench):
    """SLURM starts its tasks elsewhere while they go on, cut off: two copies at a time."""

    def unplug(of: Any, task: str, pid: int) -> None:
        node = of["SLURMD_NODENAME"]
        try:
            slurm.kill(f"slurmd-{node}")

            def copied() -> bool:
                said = slurm.call("scontrol", "show", "job", "-o", task)
                return "JobState=RUNNING" in said and "Restarts=1" in said

            until(copied, "its copy")
            bench.hold()
        finally:
            slurm.start_node(int(node[1:]))

    assert check(bench, disturbed(bench, unplug)) >= 0


@pytest.mark.torture
def test_a_task_whose_walltime_is_over(slurm, bench):
    lost = disturbed(bench, lambda of, task, pid: gone(pid), walltime="00:01:00")
    assert check(bench, lost) == 1


def test_what_lies_behind_a_trial_that_hangs_is_done_by_others(slurm, bench, monkeypatch):
    monkeypatch.setattr(dispatch, "_LONG", 2.0)
    monkeypatch.setattr(dispatch, "_LOOK_FOR_STUCK", 0.5)

    def wait_for_the_others(*_: object) -> None:
        until(lambda: set(bench.calls) >= set(range(TRIALS)), "all other trials")

    disturbed(bench, wait_for_the_others)
    assert sorted(bench.calls) == list(range(TRIALS))
