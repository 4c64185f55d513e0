"""Every submission comes to an end that helps, on a real SLURM."""

from __future__ import annotations

from pathlib import Path

import pytest

import hpcio
import slurm as slurm_side
from hpcio.errors import PlanError
from slurm.submissions import records
from tests.rigs.cluster_bench import OPTIONS, hpcio_command
from tests.rigs.slurm import until
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


def test_too_many_failures_count_over_all_tasks(slurm, place):
    # In each task the first batch fails, and it is held at the two trials behind that.
    firsts = range(0, place.trials, 12)
    place.mark("raise", *(first + k for first in firsts for k in range(3)))
    place.mark("hold", *(first + k for first in firsts for k in (3, 4)))
    run = place.submit(4, max_failed=8)
    until(lambda: {first + 3 for first in firsts} <= set(place.calls), "all tasks")
    claims = Path(f"{place.out}.run", "claims")
    for told, first in enumerate(firsts, 1):
        place.clear("hold", first + 3)
        until(lambda n=told: len(list(claims.glob("1.failed.3@*"))) == n, "how many have failed")
    until((claims / "1.stop").exists, "the end of all")
    place.clear("hold")
    run.wait(timeout=PATIENCE)
    said = place.outcome()
    assert (said["status"], said["failed"]) == ("incomplete", 12)
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
