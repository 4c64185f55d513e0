"""A script that is run once more does not call its function: not even in the dry run."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcio.files import checksum
from hpcio.journals import rundir
from hpcio.planning.planfile import _SEAL, _seal
from tests.rigs.plans import LFP, TRIALS, Planner


def noted(trial, *, log, gain=1.0):
    with open(log, "a") as f:
        f.write("x")
    return gain * trial.mean(axis=0, keepdims=True)


def noted_else(trial, *, log, gain=1.0):
    with open(log, "a") as f:
        f.write("x")
    return gain * trial.max(axis=0, keepdims=True)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def calls(log: Path) -> int:
    """How often the function was called since the last time that this was asked."""
    found = len(log.read_text()) if log.exists() else 0
    log.write_text("")
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"out_dtype": "f4"},
        {"channels_per_block": 3},
        {"trials": 6, "join": "stack"},
        {"keeptrials": False, "reduce": "var"},
    ],
    ids=str,
)
def test_a_finished_plan_is_planned_again_without_a_call(plan, log, options):
    options = {"kwargs": {"log": str(log)}, **options}
    made = plan(noted, **options)
    made.run(workers=0, progress=False)
    assert calls(log) > len(made)
    again = plan(noted, **options)
    assert again.digest == made.digest
    done = again.run(workers=0, progress=False)
    assert (done.computed, done.blocks) == (0, len(made))
    assert calls(log) == 0


def test_what_is_computed_afresh_is_what_it_would_be(plan, log):
    options = {"kwargs": {"log": str(log)}}
    plan(noted, **options).run(workers=0, progress=False)
    calls(log)
    again = plan(noted, **options)
    assert again.run(workers=0, progress=False, fresh=True).computed == 5
    assert calls(log) == 5
    with h5py.File(again.out) as f:
        expected = [LFP[a:b].mean(axis=0) for a, b, _ in TRIALS]
        np.testing.assert_allclose(f["data"][()], expected)


@pytest.mark.parametrize(
    "other",
    [
        {"func": noted_else},
        {"kwargs": {"gain": 2.0}},
        {"dataset": "other"},
        {"trials": [[0, 6], [6, 12]]},
        {"trials": [[0, 6], [6, 12], [12, 20], [20, 26], [25, 29]]},
        {"channels_per_block": 2},
        {"out_dtype": "f4"},
        {"out_shape": (1, 4)},
    ],
    ids=", ".join,
)
def test_the_function_is_called_for_anything_else(plan, log, other):
    kwargs = {"log": str(log)}
    plan(noted, kwargs=kwargs).run(workers=0, progress=False)
    calls(log)
    options = {"func": noted, **other, "kwargs": kwargs | other.get("kwargs", {})}
    plan(options.pop("func"), **options)
    assert calls(log) > 0


def begin(plan: Planner, log: Path) -> None:
    rundir.prepare(plan(noted, kwargs={"log": str(log)}))


def remove_the_plan(plan: Planner, log: Path) -> None:
    made = plan(noted, kwargs={"log": str(log)})
    made.run(workers=0, progress=False)
    shutil.rmtree(made.run_directory)


def damage_the_plan(plan: Planner, log: Path) -> None:
    made = plan(noted, kwargs={"log": str(log)})
    made.run(workers=0, progress=False)
    image = bytearray(made.rundir.plan.read_bytes())
    image[3000] ^= 1
    made.rundir.plan.write_bytes(image)


def start_over_in_vain(plan: Planner, log: Path) -> None:
    made = plan(noted, kwargs={"log": str(log)})
    made.run(workers=0, progress=False)
    rundir.prepare(rundir.start_over(made))


def use_other_versions(plan: Planner, log: Path) -> None:
    made = plan(noted, kwargs={"log": str(log)})
    made.run(workers=0, progress=False)
    path = made.rundir.plan
    image = path.read_bytes()[: -_SEAL.size]
    version = platform.python_version().encode()
    assert b'"python": "' + version in image
    image = image.replace(version, b"x" * len(version))
    path.write_bytes(image + _seal(checksum(image)))


@pytest.mark.parametrize(
    "before",
    [begin, remove_the_plan, damage_the_plan, start_over_in_vain, use_other_versions],
)
def test_only_the_plan_of_the_result_itself_is_trusted(plan, log, before):
    before(plan, log)
    calls(log)
    plan(noted, kwargs={"log": str(log)})
    assert calls(log) > 0
