"""Trials that take too long: each fails, says where it was, and the others go on."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest

import hpcio
from hpcio import Plan, per_trial
from hpcio.errors import BlocksFailed, OptionError
from hpcio.journals import Ledger, prepare
from hpcio.running import Attempt, failed_for_time, run_batch
from hpcio.running.clock import stacks_of
from hpcio.status import status
from tests.rigs.runs import LFP, TABLE

# Far more than a trial takes on a busy machine.
LIMIT = 3.0
TRIALS = len(TABLE)

STUCK = """
import ctypes, os, signal, stat, time

def sleeping(trial, number):
    if number == 2:
        time.sleep(10_000)
    return -trial

def returning(trial, number):
    '''Swallows what is raised in it, and returns in the end.'''
    if number == 2:
        try:
            time.sleep(10_000)
        except:
            pass
    return -trial

def swallowing(trial, number):
    while number == 2:
        try:
            time.sleep(10_000)
        except:
            pass
    return -trial

def stopping(trial, number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(10_000)
    return -trial

def chatting(trial, number):
    if number == 2:
        for fd in range(3, 40):
            try:
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    os.write(fd, b"garbage\\n")
            except OSError:
                pass
        time.sleep(10_000)  # until the session ends it
    return -trial

def raising(trial, number):
    if number == 2:
        raise ValueError("sick")
    return -trial

def holding(trial, number):
    '''In C, without letting go of the interpreter.'''
    if number == 2:
        ctypes.PyDLL(None).pause()
    return -trial
"""


@pytest.fixture
def made(lfp, tmp_path):
    (tmp_path / "stuck.py").write_text(STUCK)

    def make(name: str, **options) -> Plan:
        options = {"trials": TABLE, "out_shape": lambda shape: shape, "out_dtype": LFP.dtype,
                   "args": [per_trial(range(TRIALS))], **options}  # fmt: skip
        return Plan.create(f"{tmp_path}/stuck.py:{name}", lfp, out=tmp_path / "out.h5", **options)

    return make


@pytest.mark.parametrize(
    ("name", "workers", "way"),
    [("sleeping", 0, "virtual"), ("returning", 0, "virtual"), ("sleeping", 2, "virtual"),
     ("returning", 1, "virtual"), ("swallowing", 1, "virtual"), ("holding", 2, "virtual"),
     ("sleeping", 0, "packed"), ("sleeping", 2, "direct"),
     *(pytest.param("holding", 2, way, marks=pytest.mark.torture) for way in ("packed", "direct"))],
)  # fmt: skip
def test_a_trial_that_takes_too_long_fails_and_the_others_go_on(made, tmp_path, name, workers, way):
    options = {"packed": {"compression": "gzip"}, "direct": {"writer": "direct"}}.get(way, {})
    plan = made(name, **options)
    with pytest.raises(BlocksFailed, match=r"1 of 5 trials failed") as info:
        plan.run(workers=workers, trial_time=LIMIT, retries=3, progress=False)
    (failure,) = info.value.done.failed
    assert failure.trial == 2
    assert failure.reason == "TimeoutError: the trial took longer than 3 s (trial_time)"
    assert f"in {name}" in failure.traceback
    assert info.value.done.blocks == TRIALS - 1
    assert not list(Path(f"{plan.out}.run/logs").glob("*.stack.log"))
    # It is tried again, and may become a gap.
    done = made(name, **options).run(workers=workers, trial_time=LIMIT, gaps=True, progress=False)
    assert done.computed == 0
    with hpcio.open(tmp_path / "out.h5") as f:
        expected = -LFP
        expected[slice(*TABLE[2][:2])] = np.nan
        np.testing.assert_array_equal(f["data"][...], expected)
    assert status(str(tmp_path / "out.h5")).failed == 1


def test_trials_that_take_their_time_together_do_not_fail(made, tmp_path):
    """The limit is that of one trial, and holds from its own begin on."""
    (tmp_path / "slow.py").write_text(
        "import time\ndef slow(trial):\n    time.sleep(1.5)\n    return -trial\n"
    )
    plan = Plan.create(
        f"{tmp_path}/slow.py:slow", made("sleeping").source.path + "::/lfp", trials=TABLE,
        out=tmp_path / "slow.h5", out_shape=lambda shape: shape, out_dtype=LFP.dtype,
    )  # fmt: skip
    assert plan.run(workers=1, trial_time="10s", progress=False).failed == ()


@pytest.mark.parametrize("limit", [0, -1, "soon", "", "3 weeks", [1]])
def test_no_time(made, limit):
    with pytest.raises(OptionError, match="is no time"):
        made("sleeping").run(workers=0, trial_time=limit, progress=False)


def test_a_worker_that_waits_for_work_after_a_failure_is_not_taken_for_a_slow_one(made, tmp_path):
    plan = prepare(made("raising"))
    if not (pid := os.fork()):
        with Attempt(plan, "w0", trial_time=0.2) as attempt:
            failed = run_batch(attempt, np.arange(3)).failed
            time.sleep(2.0)  # longer than the limit, and what comes on top
        os._exit(0 if failed == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert failed_for_time(plan, 0.2) == []


def test_each_worker_that_ended_for_time_is_told_by_its_own_file(made):
    plan = prepare(made("holding"))
    for name, block in (("w0-00000000", 2), ("w1-00000000", 4)):
        stacks_of(plan, name).write_bytes(struct.pack("<q4088x", block) + b"a stack\n")
    assert failed_for_time(plan, 1.0, "w1-00000000") == [4]
    assert failed_for_time(plan, 1.0) == [2]
    assert [failure.block for failure in Ledger.read(plan).failures()] == [2, 4]


def test_a_trial_that_stops_its_worker_fails_and_the_others_go_on(made, tmp_path):
    """A process that is stopped cannot look at the time itself."""
    plan = made("stopping")
    with pytest.raises(BlocksFailed, match=r"1 of 5 trials failed") as info:
        plan.run(workers=2, trial_time=0.5, progress=False)
    (failure,) = info.value.done.failed
    assert (failure.trial, failure.cause) == (2, "time")
    assert "took longer than 500 ms (trial_time)" in failure.reason
    assert "Its process was stopped, as by SIGSTOP" in failure.traceback


def test_a_function_that_writes_to_the_session_is_told_of(made, tmp_path):
    plan = made("chatting")
    with pytest.raises(BlocksFailed, match=r"1 of 5 trials failed") as info:
        plan.run(workers=1, progress=False)
    (failure,) = info.value.done.failed
    assert failure.trial == 2
