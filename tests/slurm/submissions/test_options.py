"""Options of a submission: each is declared once, and holds wherever it is given."""

from __future__ import annotations

import inspect
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
import slurm as slurm_side
from hpcio.errors import PlanError, TimeLimitError
from slurm.site.config import DEFAULTS
from slurm.site.options import SubmitOptions
from slurm.submissions.records import newest
from slurm.submissions.submitting import scripts

SENDERS = [slurm_side.submit, slurm_side.write_scripts, scripts]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> hpcio.Plan:
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "no.toml"))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((40, 2))
    return hpcio.Plan.create(
        np.negative, f"{tmp_path}/rec.h5::/lfp", trials=4, out=tmp_path / "out.h5"
    )


@pytest.mark.parametrize("sender", SENDERS)
def test_all_options_are_keywords(sender):
    found = inspect.signature(sender).parameters
    assert tuple(found) == ("plan", *SubmitOptions.names())
    assert all(found[n].kind is inspect.Parameter.KEYWORD_ONLY for n in SubmitOptions.names())


@pytest.mark.parametrize("sender", SENDERS)
def test_what_is_no_option(plan, sender):
    with pytest.raises(TypeError, match="no option memroy"):
        sender(plan, memroy="1GB")
    with pytest.raises(TypeError, match="as keywords"):
        sender(plan, 3)


def test_every_option_is_documented():
    for name in SubmitOptions.names():
        assert name in slurm_side.submit.__doc__
    assert set(DEFAULTS) < set(SubmitOptions.names())


@pytest.mark.parametrize("option", ["retries", "max_failed"])
@pytest.mark.parametrize("sender", SENDERS)
def test_what_a_run_refuses_a_submission_refuses(plan, sender, option):
    with pytest.raises(PlanError) as here:
        plan.run(**{option: -1})
    with pytest.raises(PlanError) as there:
        sender(plan, **{option: -1})
    assert str(there.value) == str(here.value) == f"{option}=-1 makes no sense. Use 0 or more."
    assert not plan.run_directory.exists()


def slow(trial: np.ndarray) -> np.ndarray:
    time.sleep(len(trial) / 500)
    return -trial


@pytest.mark.slurm
@pytest.mark.parametrize("sender", [slurm_side.submit, slurm_side.write_scripts])
def test_a_probe_refuses_a_walltime_that_is_too_short(slurm, tmp_path, plan, sender):
    table = [[20 * k, 20 * k + 20] for k in range(20)] + [[400, 60_000]]
    with h5py.File(tmp_path / "long.h5", "w") as f:
        f["lfp"] = np.zeros((60_000, 2))
    plan = hpcio.Plan.create(
        slow, f"{tmp_path}/long.h5::/lfp", trials=table, out=tmp_path / "long_out.h5",
        out_shape=lambda shape: shape, out_dtype="f8",
    )  # fmt: skip
    with pytest.raises(TimeLimitError, match="Trial 20 takes about"):
        sender(plan, tasks=2, walltime="00:01:00", probe=True)
    assert not plan.run_directory.exists()


@pytest.mark.slurm
def test_what_was_asked_for_is_kept_for_the_next_time(slurm, plan):
    slurm_side.write_scripts(plan, tasks=2, memory="400MB", sbatch=["--nice=5"], probe=True)
    made = newest(hpcio.Plan.load(plan.out))
    assert made.options == SubmitOptions(tasks=2, memory="400MB", sbatch=["--nice=5"])
    assert made.tasks == 2
