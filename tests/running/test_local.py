"""Worker processes of this machine: stopped, killed, orphaned, or ended by a trial."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hpcio
from hpcio.errors import (
    BlocksFailed,
    Interrupted,
    WorkerError,
)
from hpcio.journals.journal import DONE
from hpcio.journals.ledger import read_logs
from tests.rigs.bench import ROWS, TRIALS, Bench
from tests.rigs.everyday import combinations
from tests.rigs.resuming import ALL, finished, resume, resume_here
from tests.rigs.support import ended, group, names
from tests.rigs.waiting import PATIENCE, until


@pytest.mark.parametrize(
    ("sources", "workers"),
    combinations(["trial", "task"], [0, 1, 2], everyday=[("trial", 0), ("trial", 1), ("task", 2)]),
)
def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(bench, workers, sources):
    bench.hold(6)
    with ended(bench.start(workers=workers)) as child:
        until(lambda: 6 in bench.calls, "the trial")
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does
        _, err = child.communicate(timeout=PATIENCE)
        assert child.returncode != 0
        assert not group(child.pid)
    done = finished(bench.out)
    assert f"Stopped with {len(done)} of {TRIALS} trials done" in err
    assert f"hpcio resume {bench.out}" in err
    assert not bench.out.exists()
    assert names(bench.folder, ".out.h5*") == []
    assert 6 not in done
    # What was finished before Ctrl-C is not lost, and safe.
    assert len(done) >= len(set(bench.calls)) - max(1, workers)
    for log in read_logs(hpcio.Plan.load(bench.out)):
        late = log.records["kind"][log.safe :]
        assert workers == 0 or not (late == DONE).any()
    resume(bench, workers=workers)


def test_the_command_that_ctrl_c_names_goes_on(bench):
    bench.hold(6)
    with ended(bench.start(workers=1)) as child:
        until(lambda: 6 in bench.calls, "the trial")
        os.killpg(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=PATIENCE)
    bench.hold()
    (command,) = re.findall(r"Continue with: (hpcio resume .*)", err)
    bench.forget_calls()
    program, *args = shlex.split(command)
    subprocess.run(
        [Path(sys.executable).with_name(program), *args], cwd="/", check=True, capture_output=True
    )
    assert sorted(bench.calls) == list(range(6, TRIALS))
    bench.check()


def test_ctrl_c_in_a_session_is_an_error_that_can_be_caught(bench):
    bench.stop(6)
    with pytest.raises(
        Interrupted, match=r"Stopped with 6 of 12 trials done.*hpcio resume"
    ) as info:
        bench.plan().run(workers=0, progress=False)
    assert "Nothing was done" not in str(info.value)
    bench.stop()
    resume_here(bench, bench.out, set(range(6)))


@pytest.mark.parametrize(
    ("sources", "workers"),
    combinations(["trial", "task"], [1, 2], everyday=[("trial", 1), ("task", 2)]),
)
def test_a_worker_that_is_killed_is_replaced(bench, workers, sources):
    bench.hold(5)
    with ended(bench.start(workers=workers)) as child:
        until(lambda: 5 in bench.calls, "the trial")
        os.kill(bench.pid(5), signal.SIGKILL)
        bench.hold()
        out, err = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0, err
    assert "failed" not in out
    assert set(bench.calls) == ALL
    assert bench.calls.count(5) == 2
    bench.check()


def test_all_workers_killed_at_once_are_replaced(bench):
    bench.hold(0, 1, 6, 7)
    with ended(bench.start(workers=2)) as child:
        until(lambda: len(bench.calls) == 2, "both workers")
        for pid in {bench.pid(trial) for trial in bench.calls}:
            os.kill(pid, signal.SIGKILL)
        bench.hold()
        _, err = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0, err
    bench.check()


def test_ctrl_c_after_a_long_silence_tells_of_limits(bench, monkeypatch):
    monkeypatch.setattr("hpcio.running.run._LONG", 0.0)
    bench.stop(0)  # at the first trial: the silence is that since the run began
    with pytest.raises(Interrupted, match=r"Nothing was done for .*If a trial hangs.*--trial-time"):
        bench.plan().run(workers=0, progress=False)


def test_ctrl_c_keeps_what_a_writer_still_holds_in_memory(tmp_path):
    """Rows are gathered into chunks before they are packed."""
    bench = Bench(tmp_path, compression="gzip")
    bench.stop(6)
    with pytest.raises(Interrupted, match=r"Stopped with 6 of 12 trials done"):
        bench.plan().run(workers=0, progress=False)
    bench.stop()
    resume_here(bench, bench.out, set(range(6)))


DEADLY_FUNCTIONS = {
    "signal 9": "os.kill(os.getpid(), 9)",
    "exit status 0": "signal.raise_signal(15)",  # a worker's way to stop
    "exit status 7": "os._exit(7)",
    "signal 11": "ctypes.string_at(0)",
    "signal 6": "os.abort()",
}


def deadly(bench: Bench, how: str, trials: tuple[int, ...]) -> None:
    """A function that ends its worker in some trials."""
    path = bench.folder / f"{bench.module}.py"
    path.write_text(
        path.read_text() + "\n\ndef deadly(trial, chunkShape=None, noCompute=None):\n"
        "    import ctypes, faulthandler, resource, signal, sys, time\n"
        "    if noCompute:\n"
        "        return trial.shape, 'f8'\n"
        f"    if called(trial) in {trials}:\n"
        "        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "        print('last words', flush=True)\n"
        f"        {how}\n"
        "    return 2.0 * trial\n"
    )


def test_a_trial_that_asks_python_to_exit_fails_as_any_other(bench):
    deadly(bench, "sys.exit(3)", (4,))
    with pytest.raises(BlocksFailed) as info:
        bench.plan("deadly").run(workers=2, progress=False)
    (failure,) = info.value.done.failed
    assert (failure.block, failure.reason) == (4, "SystemExit: 3")
    assert info.value.done.workers <= 2


@pytest.mark.parametrize(
    ("ends", "workers"),
    combinations(
        DEADLY_FUNCTIONS, [1, 2],
        everyday=[("signal 9", 2), *((ends, 1) for ends in [*DEADLY_FUNCTIONS][1:])],
    ),
)  # fmt: skip
def test_only_the_trial_that_ends_its_worker_fails(bench, ends, workers):
    deadly(bench, DEADLY_FUNCTIONS[ends], (4,))
    with pytest.raises(BlocksFailed, match="1 of 12 trials failed; nothing was pub") as info:
        bench.plan("deadly").run(workers=workers, progress=False)
    (failure,) = info.value.done.failed
    assert (failure.block, failure.trial) == (4, 4)
    assert failure.reason.startswith(f"WorkerError: the worker ended with {ends}")
    assert "last words" in failure.traceback
    assert sorted(bench.calls) == sorted([*ALL, 4])  # a second chance, for that one alone
    assert finished(bench.out) == ALL - {4}
    assert not bench.out.exists()
    bench.forget_calls()
    done = hpcio.Plan.load(bench.out).run(workers=workers, progress=False, gaps=True)
    assert set(bench.calls) == {4}
    assert [f.block for f in done.failed] == [4]
    with hpcio.open(bench.out) as f:
        data, rows = f["data"][...], slice(4 * ROWS, 5 * ROWS)
        assert np.isnan(data[rows]).all()
        data[rows] = bench.expected[rows]
        assert data.tobytes() == bench.expected.tobytes()
        assert np.flatnonzero(~f["trials"]["done"]).tolist() == [4]


def test_several_deadly_trials_and_retries(bench):
    deadly(bench, "os._exit(7)", (0, 5, 6, 11))
    with pytest.raises(BlocksFailed) as info:
        bench.plan("deadly").run(workers=2, progress=False, retries=1)
    assert [f.block for f in info.value.done.failed] == [0, 5, 6, 11]
    assert finished(bench.out) == ALL - {0, 5, 6, 11}


def test_a_function_that_ends_every_worker_ends_the_run(tmp_path):
    bench = Bench(tmp_path, trials=100)
    deadly(bench, "os._exit(7)", tuple(range(100)))
    with pytest.raises(WorkerError, match="workers in a row died before they had finished") as info:
        bench.plan("deadly").run(workers=2, progress=False)
    assert "last words" in str(info.value)
    assert len(bench.calls) < 30
    path = tmp_path / f"{bench.module}.py"
    path.write_text(path.read_text().replace("os._exit(7)", "pass"))
    bench.plan("deadly").run(workers=2, progress=False, fresh=True)
    bench.check()


@pytest.mark.parametrize(
    ("number", "workers"),
    combinations(
        [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], [1, 2],
        everyday=[(signal.SIGKILL, 2), (signal.SIGTERM, 1), (signal.SIGHUP, 1)],
    ),
)  # fmt: skip
def test_workers_end_with_their_session(bench, workers, number):
    """Even if nothing of Python can run there, as in a function in C that does not return."""
    bench.mark("spin", 5)
    with ended(bench.start(workers=workers)) as child:
        until(lambda: 5 in bench.calls, "the trial")
        child.send_signal(number)  # to the session alone
        child.communicate()
        until(lambda: not group(child.pid), "the end of the orphans")
    bench.clear("spin")
    resume(bench, workers=workers)
