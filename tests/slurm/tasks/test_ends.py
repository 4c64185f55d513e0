"""Every submission comes to an end that helps, on a real SLURM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hpcio
import slurm as slurm_side
from hpcio.errors import BlocksFailed, PlanError
from hpcio.journals import Ledger
from slurm.submissions import records
from tests.rigs.cluster_bench import OPTIONS, hpcio_command
from tests.rigs.slurm import until
from tests.rigs.support import ended
from tests.rigs.waiting import PATIENCE

pytestmark = pytest.mark.slurm


def test_what_lies_behind_a_trial_that_hangs_is_done_by_others(slurm, place):
    # It hangs in its last batch, whose rest seems to be worth nothing.
    place.mark("hold", place.trials // 2 - 2)
    run = place.submit(2, stale=6.0)
    others = set(range(place.trials)) - {place.trials // 2 - 2}
    until(lambda: others <= set(place.calls), "all but the one that hangs")
    place.clear("hold")
    place.finished(run)


def test_a_trial_whose_process_is_stopped_is_ended_for_time(slurm, place):
    """It cannot look at the time itself."""
    place.mark("freeze", 3)
    run = place.submit(2, stale=6.0, trial_time=1, gaps=True)
    run.wait()
    (failure,) = Ledger.read(hpcio.Plan.load(place.out)).failures()
    assert (failure.trial, failure.cause) == (3, "time")


def test_too_many_failures_count_over_all_tasks(slurm, place):
    # In each task three trials fail, and the next one takes long: too few for any of them.
    firsts = range(0, place.trials, 12)
    place.mark("raise", *(first + k for first in firsts for k in range(3)))
    place.mark("hold", *(first + 3 for first in firsts))
    run = place.submit(4, max_failed=8)
    until(Path(f"{place.out}.run", "claims", "1.stop").exists, "the end of all")
    place.clear("hold")
    run.wait(timeout=PATIENCE)
    said = place.outcome()
    assert said["status"] == "incomplete"
    assert 8 < said["failed"] <= 12
    assert said["missing"] > 0


def test_throttle_holds_over_several_arrays(place, small_slurm):
    small_slurm("MaxArraySize=3")
    run = place.submit(7, throttle=2)
    place.finished(run)
    (array,) = records.newest(hpcio.Plan.load(place.out)).arrays
    assert array.size == 3
    place.out = place.folder / "more.h5"
    place.forget_calls()
    run = place.submit(7, throttle=5)  # no more tasks than may run at a time
    place.finished(run)
    assert sum(a.size for a in records.newest(hpcio.Plan.load(place.out)).arrays) == 5


def test_more_tasks_than_trials_make_fewer(slurm, place):
    plan = place.plan(trials=place.rows * (place.trials // 3))
    run = slurm_side.submit(plan, tasks=40, **OPTIONS)
    run.result(timeout=PATIENCE).close()
    assert records.newest(hpcio.Plan.load(place.out)).tasks == 3


def test_a_prologue_that_fails_is_told(slurm, place):
    run = place.submit(2, prologue="true\n[ -e nothing ] && true\nmodule load hdf5\nexport X=1")
    run.wait(timeout=PATIENCE)
    said = hpcio_command("status", "out.h5")
    assert "2 tasks ended before any trial" in said.replace("\n", " ")
    assert "the prologue failed (status 127): module load hdf5" in " ".join(said.split())
    assert not place.calls
    place.finished(run.resume(prologue="grep -q nobody-has-this /etc/passwd || true"))


def test_one_works_at_a_time(slurm, place):
    place.mark("hold", 5)
    run = place.submit(2)
    place.task_of(5)
    for at_once in (
        lambda: hpcio.Plan.load(place.out).run(workers=0, progress=False),
        lambda: place.plan().run(workers=0, progress=False, fresh=True),
    ):
        with pytest.raises(PlanError, match="at work in the queue already"):
            at_once()
    place.clear("hold")
    place.finished(run)
    assert place.outcome()["run_id"] == hpcio.Plan.load(place.out).run_id
    assert len(place.calls) == place.trials


def test_a_task_that_slurm_has_lost_sight_of_leaves_and_nothing_is_done_twice(slurm, place):
    """A controller that loses its last seconds leaves tasks that nobody knows."""
    place.mark("hold", 5)
    slurm_side.write_scripts(place.plan(), tasks=2, **OPTIONS)
    stray = subprocess.Popen(
        [sys.executable, "-P", "-m", "slurm.tasks", "run", str(place.out), "1", "0"],
        env={**os.environ, "SLURM_ARRAY_TASK_ID": "0", "SLURM_JOB_ID": "77"}, cwd=place.folder,
        text=True, start_new_session=True,
    )  # fmt: skip
    with ended(stray):
        until(lambda: 5 in place.calls, "trial 5")
        run = slurm_side.submit(hpcio.Plan.load(place.out), tasks=2, **OPTIONS)
        until(lambda: place.calls.count(5) == 2, "trial 5 in the new submission")
        place.clear("hold")
        place.finished(run)
        stray.wait(PATIENCE)
    assert stray.returncode == 0
    # What it had done before was not done again, nor did it take more than what was at hand.
    assert len(place.calls) <= place.trials + 3


@pytest.mark.parametrize(
    "code", [0, *(pytest.param(code, marks=pytest.mark.torture) for code in (1, 75, 143))]
)
def test_a_function_that_ends_its_process_with_any_status(slurm, place, code):
    place.mark(f"exit-{code}", 7)
    run = place.submit(2)
    run.wait(timeout=PATIENCE)
    (failure,) = slurm_side.attach(place.out).status().failures
    assert (failure.block, failure.cause) == (7, "died")
    assert set(place.calls) == set(range(place.trials))
    place.clear(f"exit-{code}")
    place.finished(run.resume())


def test_deaths_count_over_all_tasks(slurm, place):
    place.mark("die", *range(0, place.trials, 4))
    run = place.submit(2, max_failed=2)
    run.wait(timeout=PATIENCE)
    said = place.outcome()
    assert 2 < said["failed"] < 7
    assert said["missing"] > 0


def test_what_a_run_has_lost_is_done_by_a_submission(slurm, place):
    """Its journals say that it was done."""
    place.mark("raise", *range(40, 48))
    with pytest.raises(BlocksFailed):
        place.plan(sources="trial").run(workers=0, progress=False)
    place.clear("raise")
    plan = hpcio.Plan.load(place.out)
    next(plan.rundir.sources.rglob("0000003-*.h5")).unlink()
    run = slurm_side.submit(plan, tasks=2, **OPTIONS)
    place.finished(run)
    assert place.calls.count(3) == 2


def test_sums_are_done_as_a_whole_by_a_submission(slurm, place):
    place.mark("raise", 5)
    plan = place.plan(keeptrials=False)
    with pytest.raises(BlocksFailed):
        plan.run(workers=0, progress=False)
    place.clear("raise")
    run = slurm_side.submit(hpcio.Plan.load(place.out), tasks=2, **OPTIONS)
    run.wait(timeout=PATIENCE)
    assert place.outcome()["status"] == "complete"
    assert hpcio.verify(place.out).blocks
