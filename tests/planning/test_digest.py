"""Plans that give equal bytes have equal digests, and no others do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import per_trial
from tests.rigs.plans import TRIALS, rich, weighted


def test_equal_plans_have_equal_digests_wherever_they_go(plan, tmp_path):
    first, second = rich(plan), rich(plan, out=tmp_path / "elsewhere.h5")
    assert first.digest == second.digest
    assert first.run_id != second.run_id


def other(trial, weight, *, gain=1.0, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, np.dtype("f4")
    return (gain * weight * trial).astype("f4")[:]


EQUAL = {"trials": [[0, 4, 1]] * 4, "axes": None}
TABLE = hpcio.Trials.from_array(TRIALS[:4])


@pytest.mark.parametrize(
    ("base", "change"),
    [
        (EQUAL | {"trials": TABLE}, {"trials": TABLE.select(trials=[0, 1, 3, 2])}),
        (EQUAL | {"trials": TABLE}, {"trials": TABLE.select(time=slice(-2, None))}),
        (EQUAL | {"trials": TABLE}, {"trials": TABLE.select(channels=[1, 0, 2, 3])}),
        ({}, {"args": [per_trial([1.0, 2.0, 3.0, 5.0])]}),
        ({}, {"args": [per_trial([1.0, 2.0, 3.0, 4])]}),
        ({}, {"args": [2.0]}),
        ({}, {"kwargs": {}}),
        ({}, {"kwargs": {"gain": 0.25}}),
        ({}, {"channels_per_block": 1}),
        ({}, {"out_dtype": "f8"}),
        ({}, {"out_dtype": "f4"}),
        ({}, {"sources": "task"}),
        ({}, {"dataset": "other"}),
        (EQUAL, {"trials": [[0, 4, 1]] * 3 + [[1, 5, 1]]}),
        (EQUAL, {"trials": [[0, 4, 1]] * 3 + [[0, 4, 2]]}),
        (EQUAL, {"trials": [[0, 4, 1]] * 3 + [[0, 5, 1]]}),
        (EQUAL, {"join": "stack"}),
        (EQUAL, {"join_axis": 1, "out_channel_axis": 0}),
    ],
)
def test_a_plan_that_gives_other_bytes_has_another_digest(plan, base, change):
    assert rich(plan, **{**base, **change}).digest != rich(plan, **base).digest


def test_another_function_has_another_digest(plan):
    digests = {plan(func, args=[1.0]).digest for func in (weighted, other)}
    closures = [lambda trial, _, k=k: k * trial for k in (1, 2)]
    digests |= {plan(func, args=[1.0]).digest for func in closures}
    assert len(digests) == 4


def test_a_changed_recording_has_another_digest(plan, tmp_path):
    before = plan(np.negative).digest
    os.utime(tmp_path / "rec.h5", ns=(1, 1))
    touched = plan(np.negative).digest
    with h5py.File(tmp_path / "rec.h5", "a") as f:
        f["more"] = 1
    assert len({before, touched, plan(np.negative).digest}) == 3


# A script with what makes pickles differ from process to process: sets of strings, classes
# and helpers of its own, a file name.
SCRIPT = """
import dataclasses
import sys
import hpcio

WORDS = {"alpha", "beta", "gamma", "delta"}

@dataclasses.dataclass
class Config:
    order: int = 3

def helper(x):
    "A helper."
    return x, "some more words"

@hpcio.unwrap_io
def func(trial, config, words, chunkShape=None, noCompute=None):
    "What it does."
    if noCompute:
        return trial.shape, "f8"
    if trial.dtype.name in {"float64", "float32", "int16"} and not words & WORDS:
        return helper(trial * 2.5)[0] + Config(4).order
    return [k for k in range(config.order)]

plan = hpcio.Plan.create(
    func, "rec.h5::lfp", trials=6, out=sys.argv[-1] + ".h5",
    args=(Config(), {"x", "y", "z"}), kwargs={},
)
print(plan.function.name, plan.digest)
"""


def digest_of(script: list[str], folder: Path, stdin: str = "") -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, *script, "out"], cwd=folder, input=stdin, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    name, digest = done.stdout.split()
    return name, digest


def test_a_function_typed_again_elsewhere_has_the_same_digest(plan, tmp_path):
    (tmp_path / "first.py").write_text(SCRIPT)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "second.py").write_text("# moved\n\n" + SCRIPT)
    digests = {
        digest_of(["first.py"], tmp_path),
        digest_of(["first.py"], tmp_path),
        digest_of(["deep/second.py"], tmp_path),
        digest_of(["-c", SCRIPT], tmp_path),
        digest_of(["-"], tmp_path, stdin=SCRIPT),
    }
    assert len(digests) == 1
    assert digests.pop()[0] == "__main__:func"


def test_a_changed_script_has_another_digest(plan, tmp_path):
    before = digest_of(["-c", SCRIPT], tmp_path)
    for old, new in (
        ("2.5", "2.75"),
        ('"delta"', '"epsilon"'),
        ('"int16"', '"int8"'),
        ("order: int = 3", "order: int = 5"),
        ("return x, ", "return -x, "),
        ('"x", "y"', '"x"'),
    ):
        assert SCRIPT.count(old) == 1
        assert digest_of(["-c", SCRIPT.replace(old, new)], tmp_path) != before, (old, new)


def test_an_imported_function_has_the_same_digest_in_another_process(plan, tmp_path):
    (tmp_path / "work.py").write_text("def double(trial):\n    return 2 * trial\n")
    script = (
        "import hpcio\n"
        "plan = hpcio.Plan.create('work.py:double', 'rec.h5::lfp', trials=6, out='out.h5')\n"
        "print(plan.function.name, plan.digest)\n"
    )
    first = digest_of(["-c", script], tmp_path)
    assert first[0] == "work:double"
    assert digest_of(["-c", script], tmp_path) == first
    (tmp_path / "work.py").write_text("def double(trial):\n    return 3 * trial\n")
    assert digest_of(["-c", script], tmp_path) != first
