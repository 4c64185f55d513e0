"""A function by name or by value: any callable, and the one that was planned."""

from __future__ import annotations

import functools
import subprocess
import sys

import numpy as np
import pytest

import hpcio
from hpcio import Plan
from hpcio.errors import (
    FunctionError,
    HpcioError,
)
from hpcio.journals.rundir import prepare
from tests.rigs.runs import LFP, WORK, Array, check, run, tripled


def test_a_function_of_a_file_or_module(tmp_path, lfp, monkeypatch):
    (tmp_path / "my-work").mkdir()
    (tmp_path / "my-work" / "shifting.py").write_text(WORK)
    file = f"{tmp_path}/my-work/shifting.py:shifted"
    run(file, lfp, tmp_path / "file.h5", workers=1)
    check(tmp_path / "file.h5", LFP + 1.5)
    monkeypatch.syspath_prepend(tmp_path / "my-work")
    run("shifting:shifted", lfp, tmp_path / "module.h5", workers=1)
    check(tmp_path / "module.h5", LFP + 1.5)


def test_files_of_the_same_name_do_not_mix(tmp_path, lfp):
    plans = []
    for k in range(3):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "work.py").write_text(WORK.replace("1.5", f"{k}.5"))
        func, out = f"{tmp_path}/{k}/work.py:shifted", tmp_path / f"{k}.h5"
        plans.append(Plan.create(func, lfp, trials=6, out=out))
    for k, workers in [(2, 0), (0, 0), (1, 1)]:
        plans[k].run(workers=workers, progress=False)
        check(tmp_path / f"{k}.h5", LFP + (k + 0.5))


def test_a_plan_that_was_loaded_leaves_its_name_to_others(tmp_path, lfp):
    """In a session that has never heard of either file."""
    for k in range(2):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "work.py").write_text(WORK.replace("1.5", f"{k}.5"))
    prepare(Plan.create(f"{tmp_path}/0/work.py:shifted", lfp, trials=6, out=tmp_path / "0.h5"))
    script = (
        "import hpcio\n"
        "hpcio.Plan.load('0.h5').run(workers=0, progress=False)\n"
        f"plan = hpcio.Plan.create('1/work.py:shifted', {lfp!r}, trials=6, out='1.h5')\n"
        "plan.run(workers=0, progress=False)\n"
        "hpcio.Plan.load('1.h5').run(workers=0, progress=False)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    for k in range(2):
        check(tmp_path / f"{k}.h5", LFP + (k + 0.5))


def test_a_file_that_was_edited_is_read_anew(tmp_path, lfp):
    for shift in (1.5, 10.25):
        (tmp_path / "work.py").write_text(WORK.replace("1.5", str(shift)))
        out = tmp_path / f"{shift}.h5"
        run(f"{tmp_path}/work.py:shifted", lfp, out)
        check(out, LFP + shift)


@pytest.mark.parametrize("name", ["signal", "statistics", "pytest"])
def test_a_file_that_hides_another_module_is_refused(tmp_path, lfp, name):
    (tmp_path / f"{name}.py").write_text(WORK)
    with pytest.raises(FunctionError, match=f"name of another module, '{name}'. Rename the file"):
        run(f"{tmp_path}/{name}.py:shifted", lfp, tmp_path / "out.h5")


class Gain:
    """A function with a memory; never equal to itself, and so without a hash."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, trial: Array) -> Array:
        return self.factor * trial


@pytest.mark.parametrize(
    "func",
    [
        tripled,
        hpcio.unwrap_io(lambda trial: 3.0 * trial),
        lambda trial, *, factor=3.0, **_: factor * trial,
        functools.partial(np.multiply, 3.0),
        Gain(3.0),
        Gain(3.0).__call__,
    ],
)
def test_any_callable_is_a_function(tmp_path, lfp, func):
    told = {"out_shape": lambda shape: shape, "out_dtype": "f8"}
    run(func, lfp, tmp_path / "out.h5", workers=1, **told)
    check(tmp_path / "out.h5", 3.0 * LFP)


def test_the_function_is_told_the_largest_shape(tmp_path, lfp):
    def shape(trial, chunkShape=None, noCompute=None):
        return ((2,), "i8") if noCompute else np.array(chunkShape[:1] * 2)

    def rows(trial, chunkShape=None, noCompute=None):
        return (trial.shape, "f8") if noCompute else np.full(trial.shape, float(chunkShape[0]))

    run(shape, lfp, tmp_path / "out.h5", join="stack")
    check(tmp_path / "out.h5", np.full((5, 2), 2))
    run(rows, lfp, tmp_path / "rows.h5", workers=1)
    check(tmp_path / "rows.h5", np.full((30, 4), 8.0))


def test_a_function_that_cannot_be_loaded_is_said_at_once(tmp_path, lfp):
    (tmp_path / "work.py").write_text(WORK)
    plan = Plan.create(f"{tmp_path}/work.py:shifted", lfp, trials=6, out=tmp_path / "out.h5")
    (tmp_path / "work.py").write_text("import no_such_module\n")
    with pytest.raises(HpcioError, match="no_such_module"):
        plan.run(workers=1, progress=False)
    assert not (tmp_path / "out.h5").exists()


def test_a_function_that_changes_is_noticed(tmp_path, lfp):
    (tmp_path / "work.py").write_text(WORK)
    plan = Plan.create(f"{tmp_path}/work.py:shifted", lfp, trials=6, out=tmp_path / "out.h5")
    (tmp_path / "work.py").write_text(WORK.replace("trial + SHIFT", "trial - 2 * SHIFT"))
    resume = f"hpcio resume {plan.out}"
    with pytest.raises(HpcioError, match="'work:shifted' has changed since the plan") as info:
        plan.run(workers=1, progress=False)
    assert f"go on with the new one ({resume} --keep-done; the result says" in str(info.value)
    assert f"or put the old one back and finish with it ({resume})" in str(info.value)
    assert "functools.cache" not in str(info.value)  # somebody has edited it
    # This process has the function that was planned.
    assert plan.run(workers=0, progress=False).computed == 5
