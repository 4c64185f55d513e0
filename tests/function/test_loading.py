"""A function runs only where it is what was planned: in the session, in workers, later on."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan
from hpcio.errors import HpcioWarning, PlanError
from hpcio.fingerprints.origins import version_of
from hpcio.journals import prepare
from tests.rigs.runs import LFP, check

SCALED = "import threading\nGAIN = {}\n\ndef scaled(trial):\n    return trial * GAIN\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes and imports the module `scaling_`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(gain: float):
        (tmp_path / "scaling_.py").write_text(SCALED.format(gain))
        sys.modules.pop("scaling_", None)
        importlib.invalidate_caches()
        return importlib.import_module("scaling_")

    yield make
    sys.modules.pop("scaling_", None)


def plan_of(func, lfp, tmp_path, **options) -> Plan:
    return Plan.create(func, lfp, trials=6, out=tmp_path / "out.h5", **options)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_value_that_was_set_since_is_noticed_or_plays_no_part(lfp, tmp_path, module, workers):
    scaling = module(2.0)
    made = plan_of(scaling.scaled, lfp, tmp_path)
    scaling.GAIN = 3.0
    if workers:  # which imports the module anew
        made.run(workers=1, progress=False)
        check(tmp_path / "out.h5", 2.0 * LFP)
        return
    with pytest.raises(PlanError, match=r"has changed since .* \(in 'scaling_.GAIN'\)"):
        made.run(workers=0, progress=False)
    with pytest.raises(PlanError, match="fills while it computes, should be an argument"):
        made.load_function()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_function_without_a_module_is_that_of_the_plan(lfp, tmp_path, workers):
    space = {"__name__": "__main__", "GAIN": 2.0}
    exec("def scaled(trial):\n    return trial * GAIN\n", space)
    made = plan_of(space["scaled"], lfp, tmp_path)
    space["GAIN"] = 3.0
    made.run(workers=workers, progress=False)
    check(tmp_path / "out.h5", 2.0 * LFP)


def test_a_module_that_was_edited_and_not_reloaded_is_noticed(lfp, tmp_path, module):
    scaled = module(2.0).scaled
    (tmp_path / "scaling_.py").write_text(SCALED.format(3.25))
    with pytest.raises(PlanError, match=r"has changed since .* \(in 'scaling_.GAIN'\)"):
        plan_of(scaled, lfp, tmp_path)  # which tries it in a process of its own
    made = plan_of(scaled, lfp, tmp_path, out_shape=lambda shape: shape, out_dtype="f8")
    with pytest.raises(PlanError, match=r"has changed since .* \(in 'scaling_.GAIN'\)"):
        made.run(workers=1, progress=False)
    made.run(workers=0, progress=False)
    check(tmp_path / "out.h5", 2.0 * LFP)


def test_code_among_the_arguments_is_noticed(lfp, tmp_path, module):
    made = plan_of(applied, lfp, tmp_path, args=[module(2.0).scaled])
    (tmp_path / "scaling_.py").write_text(SCALED.format(3.25))
    with pytest.raises(PlanError, match="An argument of the plan leads to code that has changed"):
        made.run(workers=1, progress=False)
    assert made.digest != plan_of(applied, lfp, tmp_path, args=[module(3.25).scaled]).digest


def applied(trial, func):
    return func(trial)


def other_versions(plan: Plan, **versions: str) -> Plan:
    """The plan as if it had been made with other versions."""
    seen = plan.function.fingerprint
    seen = dataclasses.replace(seen, packages={**seen.packages, **versions})
    return dataclasses.replace(
        plan, function=dataclasses.replace(plan.function, fingerprint=seen), live=None
    )


def rms(trial):
    return np.sqrt((trial**2).mean(axis=0, keepdims=True))


def test_another_version_of_a_package_is_said(lfp, tmp_path):
    old = other_versions(plan_of(rms, lfp, tmp_path), numpy="1.0")
    prepare(old)
    with pytest.warns(HpcioWarning, match=rf"made with numpy 1.0 \(now {np.__version__}\)"):
        plan_of(rms, lfp, tmp_path).run(workers=1, progress=False)
    with h5py.File(tmp_path / "out.h5") as f:
        assert f'"numpy": "{np.__version__}"' in f.attrs["versions"]


@pytest.mark.parametrize("how", ["continued", "loaded"])
def test_another_version_of_a_package_is_refused_on_request(lfp, tmp_path, how):
    old = other_versions(plan_of(rms, lfp, tmp_path, same_versions=True), numpy="1.0")
    prepare(old)
    again = Plan.load(old.out) if how == "loaded" else plan_of(
        rms, lfp, tmp_path, same_versions=True
    )  # fmt: skip
    with pytest.raises(PlanError, match=r"made with numpy 1\.0 .*Use that environment"):
        again.run(workers=1, progress=False)


def test_another_python_is_refused(lfp, tmp_path):
    prepare(other_versions(plan_of(rms, lfp, tmp_path), python="3.8.1"))
    with (
        pytest.raises(PlanError, match=r"made by Python 3\.8\.1, and this is Python 3"),
        pytest.warns(HpcioWarning, match=r"python 3\.8\.1"),
    ):
        Plan.load(tmp_path / "out.h5").run(workers=0, progress=False)


def test_versions_are_found_without_importing():
    script = (
        "from hpcio.fingerprints.origins import version_of; import sys\n"
        "print(version_of('pytest'), version_of('no_such_package_'), 'pytest' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().split() == [pytest.__version__, "False"]
    assert version_of("numpy") == np.__version__


def test_what_is_not_seen_is_said_when_a_plan_is_made(lfp, tmp_path, module):
    scaling = module("threading.Lock()")
    with pytest.warns(HpcioWarning, match=r"scaling_.GAIN: a _thread.lock cannot be looked into"):
        plan_of(scaling.scaled, lfp, tmp_path, out_shape=(6, 4), out_dtype="f8")


class Stand:
    """What another system hands to a function to ask for the shape of its result."""

    shape, dtype = (4, 2), np.dtype("f4")


def test_the_stand_ins_of_others_are_handed_through():
    @hpcio.unwrap_io
    def mean(trial, chunkShape=None, noCompute=None):
        return ((1, trial.shape[1]), trial.dtype) if noCompute else trial.mean(axis=0)

    assert mean(Stand(), noCompute=True) == ((1, 2), np.dtype("f4"))


def test_loading_reads_no_metadata_of_all_that_is_installed(lfp, tmp_path, module):
    """Each array task loads the function, and a shared folder may hold hundreds of packages."""
    (tmp_path / "numeric_.py").write_text(
        "import numpy as np\n\ndef halved(trial):\n    return np.divide(trial, 2)\n"
    )
    prepare(plan_of(importlib.import_module("numeric_").halved, lfp, tmp_path))
    script = (
        "import sys\nfrom hpcio.planning import load_plan\nload_plan(sys.argv[1]).load_function()\n"
        "print('importlib.metadata' in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out.h5")]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    assert said.stdout == "False\n"
