"""What a submission could not do is done by another pass, on a real SLURM: more memory, or time."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

import hpcio
from hpcio.errors import BlocksFailed
from slurm.site.squeue import QueuedJob
from slurm.submissions import queue, records
from tests.rigs.cluster_bench import ClusterBench, hpcio_command
from tests.rigs.pages import page_of, text
from tests.rigs.slurm import until
from tests.rigs.waiting import PATIENCE

pytestmark = pytest.mark.slurm


def passes(place: ClusterBench) -> list[records.Submission]:
    plan = hpcio.Plan.load(place.out)
    return records.passes(plan, records.newest(plan))


def blocks_of(place: ClusterBench, number: int) -> list[int]:
    work = records.task_plan(hpcio.Plan.load(place.out), number)
    return np.concatenate(work.batches).tolist()


@pytest.mark.parametrize("writer", ["virtual", pytest.param("direct", marks=pytest.mark.torture)])
def test_trials_that_lack_memory_get_more(slurm, place, writer):
    for trial in (5, 40):
        place.ask("greedy", trial, 600)
    run = place.submit(2, writer=writer, memory="400MB")
    place.finished(run)
    first, second = passes(place)
    assert (first.why, second.why) == ("", "memory")
    assert (first.memory, second.memory) == (400_000_000, 800_000_000)
    assert blocks_of(place, 2) == [5, 40]
    assert len(place.calls) == place.trials + 2
    said = " ".join(hpcio_command("status", "out.h5").split())  # lines are folded anywhere
    assert "pass 2: 2 trials again with 800 MB of memory" in said
    # What is asked for the next time is what was asked for this time.
    assert second.options == first.options
    ((heads, *rows),) = page_of(hpcio.Plan.load(place.out)).tables("passes")
    assert [row[: heads.index("most used")] for row in rows] == [
        ["1", "submitted", f"{place.trials}", f"{place.trials - 2}", "2", "400 MB"],
        ["2", "needed more memory", "2", "2", "0", "800 MB"],
    ]
    said = text(page_of(hpcio.Plan.load(place.out)).section("passes"))
    assert re.search(r"took .* of core time, but for .* in one pass, ask for --mem \d+MB", said)
    assert f"2 trials of {place.trials} had more than the others" in said


def test_again_and_again_up_to_what_there_is(slurm, place):
    place.ask("greedy", 5, 1000)
    place.ask("greedy", 7, 3000)
    run = place.submit(2, memory="400MB", mem_max="1200MB")
    run.wait(timeout=2 * PATIENCE)
    with pytest.raises(BlocksFailed, match=r"trial 7.*needs more memory"):
        run.result(timeout=PATIENCE)
    assert [made.memory for made in passes(place)] == [400_000_000, 800_000_000, 1_200_000_000]
    assert blocks_of(place, 2) == [5, 7]
    assert "--mem" in place.outcome()["message"]


def test_not_if_that_is_not_wanted(slurm, place):
    place.ask("greedy", 5, 600)
    run = place.submit(2, memory="400MB", mem_retry="off", gaps=True)
    run.result(timeout=PATIENCE).close()
    assert len(passes(place)) == 1
    plan = hpcio.Plan.load(place.out)
    (failure,) = hpcio.watching.status(str(plan.out)).failures
    assert (failure.trial, failure.cause) == (5, "memory")


def test_trials_that_take_too_long_get_more_time_once(slurm, place):
    place.mark("hold", 5)
    run = place.submit(2, trial_time="1s", time_retry="3x", gaps=True)
    run.result(timeout=PATIENCE).close()
    first, second = passes(place)
    assert (first.trial_time, second.why, second.trial_time) == (1.0, "time", 3.0)
    assert blocks_of(place, 2) == [5]
    assert place.calls.count(5) == 2
    (failure,) = hpcio.watching.status(str(place.out)).failures
    assert (failure.cause, "3 s" in failure.reason) == ("time", True)


def test_what_takes_its_whole_task_down_twice_has_failed(slurm, place):
    place.mark("step", 5)
    run = place.submit(1)
    run.wait(timeout=2 * PATIENCE)
    with pytest.raises(BlocksFailed, match="trial 5: WorkerError: 2 tasks have died at it"):
        run.result(timeout=PATIENCE)
    # The others are done, each once; none waits for somebody to say: resume.
    assert sorted(place.calls) == sorted([*range(place.trials), 5])
    assert [made.why for made in passes(place)] == ["", "left", "left"]
    place.clear("step")
    place.finished(run.resume())


def test_a_task_that_is_cancelled_is_not_begun_again(slurm, place):
    place.mark("hold", 5)
    run = place.submit(1)
    job, _ = place.task_of(5)
    slurm.call("scancel", job)
    run.wait(timeout=PATIENCE)
    assert len(passes(place)) == 1
    assert "Go on with: hpcio resume" in place.outcome()["message"]
    place.clear("hold")
    place.finished(run.resume())


def test_who_asks_while_another_pass_is_submitted_sees_its_jobs(slurm, place, monkeypatch):
    place.mark("hold", "task-0")
    run = place.submit(1)
    slurm.call("scancel", place.task_of(0)[0])
    run.wait(timeout=PATIENCE)
    asked = queue.queued_jobs

    def meanwhile() -> list[QueuedJob]:
        monkeypatch.setattr(queue, "queued_jobs", asked)
        run.resume()
        return asked()

    monkeypatch.setattr(queue, "queued_jobs", meanwhile)
    assert {row.submission for row in queue.living_rows(hpcio.Plan.load(place.out))} == {2}
    place.clear("hold")
    place.finished(run)


# ---- killed by the system


MEMORY = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def constrained(small_slurm, tmp_path_factory):
    """A SLURM whose tasks the system kills when they take more memory than they asked for."""
    if os.geteuid() or not (MEMORY / "memory.limit_in_bytes").exists():
        pytest.skip("no cgroup v1 of memory here, or not for this user")
    return small_slurm(
        "TaskPlugin=task/cgroup",
        cgroup="CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nCgroupAutomount=no\n"
        "ConstrainRAMSpace=yes\nAllowedRAMSpace=100\n",
    )


def test_a_trial_that_the_system_kills_gets_more_memory(constrained, place):
    place.ask("shared", 5, 600)
    run = place.submit(2, memory="400MB")
    place.finished(run)
    first, second = passes(place)
    assert (first.memory, second.memory, second.why) == (400_000_000, 800_000_000, "memory")
    assert blocks_of(place, 2) == [5]
    # The others of its task went on, and the trial was not tried twice with as little.
    assert place.calls.count(5) == 2
    assert len(place.calls) == place.trials + 1
    log = place.logs()
    assert "at trial 5: " in log
    assert "SIGKILL" in log


def test_what_was_cancelled_is_not_submitted_again(slurm, place):
    place.ask("greedy", 5, 600)
    place.mark("hold", 40)
    run = place.submit(2, memory="400MB")
    until(lambda: 40 in place.calls and run.status().failed, "a trial that has failed")
    # As `cancel` does, which SLURM is told of only then.
    records.stop(hpcio.Plan.load(place.out), 1)
    place.clear("hold")
    run.wait(timeout=PATIENCE)
    assert [made.number for made in passes(place)] == [1]
    assert "--mem" in place.outcome()["message"]
    place.clear("greedy")
    place.finished(run.resume())


def test_cancel_while_the_finalizer_is_at_work(slurm, place):
    """SLURM ends it at once, though its script has said that signals may come too early."""
    place.ask("greedy", 5, 600)
    run = place.submit(2, memory="400MB")

    def at_the_end() -> bool:
        rows = run.queue().rows
        return (
            any(row.task is None and row.state == "RUNNING" for row in rows)
            or len(passes(place)) > 1
        )

    until(at_the_end, "the finalizer")
    run.cancel()
    run.wait(timeout=PATIENCE)
    assert not any(row.alive for row in run.queue().rows)
    place.clear("greedy")
    place.finished(run.resume())
