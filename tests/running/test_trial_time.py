"""Trials that take too long: each fails, says where it was, and the others go on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import hpcio
from hpcio import Plan, per_trial
from hpcio.errors import BlocksFailed, OptionError
from hpcio.status import status
from tests.rigs.runs import LFP, TABLE

# Far more than a trial takes on a busy machine.
LIMIT = 3.0
TRIALS = len(TABLE)

STUCK = """
import ctypes, time

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
    ("name", "workers"),
    [("sleeping", 0), ("returning", 0), ("sleeping", 2), ("returning", 1), ("swallowing", 1),
     ("holding", 2)],
)  # fmt: skip
@pytest.mark.parametrize("way", ["virtual", "packed", "direct"])
def test_a_trial_that_takes_too_long_fails_and_the_others_go_on(made, tmp_path, name, workers, way):
    if way != "virtual" and name not in ("sleeping", "holding"):
        pytest.skip("what it does to a writer is as for the others")
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
