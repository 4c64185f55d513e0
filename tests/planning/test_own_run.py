"""Plans and journals that others can have written are refused, and nothing in them is run."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hpcio import Plan
from hpcio.errors import PlanError
from hpcio.files import open_own, own_run_folder
from hpcio.journals import Ledger, rundir

NOBODY = 65534


def test_what_is_checked_is_what_is_read(plan):
    """The folder gets another name, and another folder takes its own: the first one is read."""
    made = plan(np.negative)
    rundir.prepare(made)
    with own_run_folder(made.rundir) as folder:
        kept = made.rundir.plan.read_bytes()
        made.run_directory.rename(made.run_directory.with_name("moved"))
        made.run_directory.mkdir()
        made.rundir.plan.write_bytes(b"another one")
        with open_own(made.rundir.plan, folder=folder) as fd:
            assert os.read(fd, len(kept) + 1) == kept


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_directory_that_was_there_before_and_is_open_to_others(plan, mode):
    made = plan(np.negative)
    made.run_directory.mkdir()
    made.run_directory.chmod(mode)
    with pytest.raises(PlanError, match=r"Others may write to .*chmod -R go-w"):
        made.run(workers=0, progress=False)
    assert not any(made.run_directory.iterdir())


@pytest.mark.root
def test_a_directory_that_another_user_made_before(plan):
    made = plan(np.negative)
    made.run_directory.mkdir()
    os.chown(made.run_directory, NOBODY, -1)
    with pytest.raises(PlanError, match="belongs to another user"):
        made.run(workers=0, progress=False)
    assert not any(made.run_directory.iterdir())


@pytest.mark.parametrize("name", [".", "plan.h5", "journal"])
def test_a_plan_that_others_may_have_changed(plan, name):
    made = plan(np.negative)
    rundir.prepare(made)
    victim = made.run_directory / name
    victim.chmod(victim.stat().st_mode | 0o020)
    with pytest.raises(PlanError, match="Others may write to"):
        Plan.load(made.out)


def test_a_journal_that_others_may_have_written(plan):
    made = plan(np.negative)
    made.run(workers=0, progress=False)
    (journal,) = made.rundir.journals.glob("*.jnl")
    journal.chmod(0o666)
    with pytest.raises(PlanError, match=f"Others may write to '{journal}'"):
        Ledger.read(made)
