"""One trial by itself: what the function gets and returns, now, for whoever looks for an error."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import BlocksFailed, TrialError
from tests.rigs.waiting import PATIENCE

X = np.arange(120.0).reshape(40, 3)
WORK = """
def scaled(trial, gain, chunkShape=None):
    if trial[0, 0] == 30:
        raise ValueError("sick")
    return trial * gain, {"seen": chunkShape[0]}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work_single.py").write_text(WORK)
    with h5py.File("rec.h5", "w") as f:
        f["lfp"] = X
    return tmp_path


def planned(**options):
    trials = hpcio.Trials.equal(10, rows=40).with_columns(gain=[1.0, 2.0, 3.0, 4.0])
    trials = trials.select(trials=[3, 1, 0])
    return hpcio.Plan.create(
        "work_single.py:scaled", "rec.h5::lfp", trials=trials, out="out.h5",
        kwargs={"gain": hpcio.per_trial("gain")}, out_shape=(10, 3), out_dtype="f8", **options,
    )  # fmt: skip


def test_a_trial_and_its_call_go_by_the_number_of_the_trial(folder):
    plan = planned()
    np.testing.assert_array_equal(plan.trial(3), X[30:])
    found, details = plan.call(3)
    np.testing.assert_array_equal(found, X[30:] * 4)
    assert details == {"seen": 10}
    with pytest.raises(ValueError, match="sick"):
        plan.call(1)
    with pytest.raises(TrialError, match=r"no trial 2\. Its 3 trials have numbers from 0 to 3"):
        plan.call(2)


def test_channel_blocks(folder):
    trials = hpcio.Trials.equal(10, rows=40)
    plan = hpcio.Plan.create(
        np.negative, "rec.h5::lfp", trials=trials, channels_per_block=2, out="out.h5"
    )
    np.testing.assert_array_equal(plan.call(1, channel_block=1), -X[10:20, 2:])
    with pytest.raises(TrialError, match="no channel block 2: there are 2"):
        plan.trial(1, channel_block=2)


def hpcio_call(*words: str, **options):
    call = "import sys; from hpcio.cli import main; sys.argv[0] = 'hpcio'; main()"
    return subprocess.run(
        [sys.executable, "-c", call, "call", *words], text=True, capture_output=True,
        check=False, timeout=PATIENCE, **options,
    )  # fmt: skip


def test_the_command_calls_the_function_as_it_is_now(folder):
    with contextlib.suppress(BlocksFailed):
        planned().run(workers=1, progress=False)
    ran = hpcio_call("out.h5", "0")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "trial 0: float64 of shape (10, 3)" in ran.stdout
    assert "returns float64 of shape (10, 3)\n[[ 0.  1.  2.]" in ran.stdout
    assert "returns details seen" in ran.stdout
    ran = hpcio_call("out.h5", "1")
    assert ran.returncode == 1
    assert "ValueError: sick" in ran.stderr
    ran = hpcio_call("out.h5", "1", "--pdb", input="p trial.shape\nq\n")
    assert "(10, 3)" in ran.stdout.partition("(Pdb)")[2]
    Path("work_single.py").write_text(WORK.replace('raise ValueError("sick")', "gain = 0"))
    ran = hpcio_call("out.h5", "1")
    assert (ran.returncode, "[[0. 0. 0.]" in ran.stdout) == (0, True)


def test_a_result_is_a_recording_with_its_trials(folder):
    trials = hpcio.Trials.equal(10, rows=40).with_columns(kind=list("abab"))
    options = {"out": "one.h5", "trials": trials}
    hpcio.Plan.create(np.negative, "rec.h5::lfp", **options).run(workers=0, progress=False)
    hpcio.Plan.create(np.abs, "one.h5", trials="one.h5", out="two.h5").run(
        workers=0, progress=False
    )
    step = hpcio.Plan.create(
        np.copy, "two.h5", trials="two.h5", by="kind", keeptrials=False, out="three.h5"
    )
    step.run(workers=1, progress=False)
    with hpcio.open("three.h5") as f:
        of_a = np.stack([X[:10], X[20:30]]).mean(axis=0)
        np.testing.assert_allclose(f["data"][0], of_a)
        steps = json.loads(f.attrs["chain"])
        assert [step["function"] for step in steps] == ["numpy:negative", "numpy:absolute"]
        assert steps[0]["source"].endswith("rec.h5")
