"""What array tasks do on a real SLURM: near their end, killed, slow, gone, or twice there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest

import hpcio
from hpcio.errors import BlocksFailed, ClusterError
from hpcio.journals.ledger import read_logs
from tests.rigs.cluster_bench import kill_task
from tests.rigs.slurm import until
from tests.rigs.waiting import PATIENCE

pytestmark = pytest.mark.slurm


@pytest.mark.parametrize("writer", ["direct", "mutex"])
def test_all_tasks_write_one_file(slurm, place, writer):
    # Another task is held too, or all might have ended when this one is killed at its last block.
    place.mark("hold", 5, 40)
    run = place.submit(4, writer=writer, stale=3.0)
    _, pid = place.task_of(5)
    place.task_of(40)
    # Others may be writing: they are not to be kept from it, nor to keep this one.
    with h5py.File(f"{place.out}.run/data.h5", locking=False) as f:
        assert "incomplete" in f.attrs
    kill_task(pid)  # its part is taken over
    place.clear("hold")
    place.finished(run)
    with h5py.File(place.out) as f:
        assert not f["data"].is_virtual
        assert "incomplete" not in f.attrs


def test_a_task_near_its_end_is_started_again_where_it_stopped(slurm, place):
    place.mark("hold", 5)
    run = place.submit(1)
    job, pid = place.task_of(5)
    slurm.call("scancel", "-b", "-s", "USR1", job)
    until(lambda: place.told(pid), "the signal")
    place.clear("hold")  # it ends the trial at hand, and no other
    until(lambda: "Restarts=1" in slurm.call("scontrol", "show", "job", job), "a restart")
    place.finished(run)
    assert len(place.calls) == place.trials


def test_a_trial_that_takes_too_long_is_left_for_the_next_start(slurm, place):
    place.mark("hold", 5)
    run = place.submit(1, signal=61)  # leaves a trial one second later
    job, _ = place.task_of(5)
    slurm.call("scancel", "-b", "-s", "USR1", job)
    until(lambda: "Restarts=1" in slurm.call("scontrol", "show", "job", job), "a restart")
    place.clear("hold")
    place.finished(run)
    assert place.calls.count(5) == 2
    assert len(place.calls) == place.trials + 1


def test_a_trial_that_outlives_two_starts_fails_and_the_others_go_on(slurm, place):
    place.mark("hold", 0)
    run = place.submit(1, signal=61)
    for start in (1, 2):
        until(lambda n=start: place.calls.count(0) == n, f"start {start}")
        job, _ = place.task_of(0)
        slurm.call("scancel", "-b", "-s", "USR1", job)
    run.wait(timeout=PATIENCE)
    with pytest.raises(BlocksFailed, match="1 of 48 trials failed") as caught:
        run.result()
    (failure,) = caught.value.done.failed
    assert failure.trial == 0
    assert "not done after two starts of its task" in failure.reason
    assert caught.value.done.blocks == place.trials - 1
    place.clear("hold")
    run.resume()
    place.finished(run)


@pytest.mark.torture
def test_a_task_hears_of_the_end_that_its_partition_sets(slurm, place):
    nodes = slurm.call("sinfo", "--noheader", "--format=%N").split()[0]
    slurm.call("scontrol", "create", "PartitionName=brief", f"Nodes={nodes}", "MaxTime=1",
               "State=UP")  # fmt: skip
    try:
        place.mark("hold", 5)
        run = place.submit(1, partition="brief", walltime=None)
        job, _ = place.task_of(5)
        until(lambda: "Restarts=1" in slurm.call("scontrol", "show", "job", job), "a restart")
        place.clear("hold")
        place.finished(run)
    finally:
        slurm.call("scontrol", "delete", "PartitionName=brief")
    assert place.calls.count(5) == 2


def test_who_does_the_last_block_publishes(slurm, place):
    """Without a finalizer: it was cancelled, and might as well have died on a bad node."""
    place.mark("hold", 5)
    run = place.submit(6, throttle=1)  # one does it all, and the others never begin
    place.task_of(5)
    rows = run.queue().rows
    (finish,) = [row.job for row in rows if row.task is None]
    slurm.call("scancel", str(finish))
    place.clear("hold")
    until(place.out.exists, "the result")
    # Those that wait are cancelled first: else thousands would start meanwhile.
    assert "PENDING" not in {row.state for row in run.queue().rows if row.task is not None}
    place.finished(run)
    assert place.outcome()["status"] == "complete"
    assert "verified" in place.outcome()["message"]
    assert len(place.calls) == place.trials
    # SLURM has them as one record, since it has made none for each.
    assert "CANCELLED" in {row.state for row in run.queue().rows if row.task is not None}


@pytest.mark.parametrize("what", [pytest.param("hold", marks=pytest.mark.torture), "stuck"])
def test_a_trial_that_hangs_fails_and_the_others_go_on(slurm, place, what):
    place.mark(what, 5)
    run = place.submit(2, trial_time=5, retries=2)
    run.wait(timeout=PATIENCE)
    with pytest.raises(BlocksFailed, match="1 of 48 trials failed") as caught:
        run.result()
    (failure,) = caught.value.done.failed
    assert failure.trial == 5
    assert failure.reason == "TimeoutError: the trial took longer than 5 s (trial_time)"
    assert "in double" in failure.traceback
    assert place.calls.count(5) == 1
    assert caught.value.done.blocks == place.trials - 1
    place.clear(what)
    run.resume()  # with the same limit
    place.finished(run)


def test_a_trial_that_kills_its_process_is_named(slurm, place):
    place.mark("die", 3)
    run = place.submit(2)
    run.wait(timeout=PATIENCE)
    with pytest.raises(BlocksFailed, match="1 of 48 trials failed") as caught:
        run.result()
    (failure,) = caught.value.done.failed
    assert failure.trial == 3
    assert "its process ended with exit status 7" in failure.reason
    assert place.calls.count(3) == 2
    place.clear("die")
    run.resume()
    place.finished(run)


def test_too_many_failures_end_all_tasks(slurm, place):
    place.mark("raise", *range(place.trials))
    run = place.submit(2, max_failed=4)
    run.wait(timeout=PATIENCE)
    assert 5 <= place.outcome()["failed"] <= 10
    assert "more than 4 had failed" in place.outcome()["message"]


def test_a_worker_killed_by_signal_9_is_replaced_by_its_task(slurm, place):
    place.mark("hold", 5)
    run = place.submit(2)
    _, pid = place.task_of(5)
    os.kill(pid, signal.SIGKILL)
    place.clear("hold")
    place.finished(run)
    assert place.calls.count(5) == 2


def test_a_task_that_is_gone_is_taken_over_by_its_sibling(slurm, place):
    place.mark("hold", 5, 47)
    run = place.submit(2, stale=3.0)
    until(lambda: {5, 47} <= set(place.calls), "both")
    _, pid = place.task_of(5)
    kill_task(pid)
    place.clear("hold")
    place.finished(run)
    (gone,) = (row for row in run.queue().rows if row.task == 0)
    assert gone.state in ("FAILED", "NODE_FAIL", "CANCELLED")


def test_a_slow_task_gets_help(slurm, place):
    """One task is at a trial that takes for ever; the other does all the rest of that range.

    Both have begun their own before either can help: without that, it would depend on which of
    them SLURM starts first who is slow.
    """
    place.mark("hold", "task-0", "task-1")
    run = place.submit(2, stale=36.0)
    until(lambda: {0, 24} <= set(place.calls), "both tasks")
    place.clear("hold", "task-1")
    until(lambda: set(place.calls) == set(range(place.trials)), "all others")
    # If it was taken for dead, its first trial was done by the other, too.
    by = {(call.trial, call.task) for call in place.all_calls}
    assert {each for each in by if each[0]} == {(trial, 1) for trial in range(1, place.trials)}
    assert (0, 0) in by
    place.clear("hold")
    place.finished(run)


@pytest.mark.torture  # it takes SLURM half a minute to give a node up
@pytest.mark.parametrize("writer", ["virtual", "mutex"])
def test_two_copies_of_one_task(slurm, place, writer):
    """A node that is cut off goes on with its task while SLURM starts it elsewhere."""
    place.mark("hold", 5)
    run = place.submit(1, writer=writer)
    job, _ = place.task_of(5)
    shown = slurm.call("scontrol", "show", "job", "-o", job)
    node = re.search(r" NodeList=(n\d)", shown)[1]
    try:
        slurm.kill(f"slurmd-{node}")
        until(lambda: place.calls.count(5) == 2, "its copy")
    finally:
        slurm.start_node(int(node[1:]))
    place.clear("hold")
    place.finished(run)


def test_the_controller_dies_and_comes_back(slurm, place):
    place.mark("hold", 5)
    run = place.submit(2)
    place.task_of(5)
    slurm.save()
    try:
        slurm.kill("slurmctld")
        with pytest.raises(ClusterError, match=r"has not answered|refuses"):
            run.cancel()
        assert run.queue().trouble
        place.clear("hold")
        until(lambda: len(set(place.calls)) == place.trials, "all trials, meanwhile")
    finally:
        slurm.start_controller()
        slurm.wait_for_answer()
    place.finished(run)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.root
def test_a_full_disk(slurm, place, small_disk):
    place.out = small_disk / "out.h5"
    place.mark("hold", 5)
    run = place.submit(1)
    until(lambda: 5 in place.calls, "it")
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk)
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize))
    place.clear("hold")
    run.wait(timeout=PATIENCE)
    ballast.unlink()
    if not place.out.exists():  # it was reserved before, or it was not
        run.resume()
        run.wait(timeout=PATIENCE)
    place.check()


@pytest.mark.torture
def test_a_run_longer_than_its_time_limit(slurm, place):
    """A minute each, told so within 30 s of their start; every start does a part."""
    work = Path(f"{place.module}.py")
    work.write_text(
        work.read_text().replace(
            "    return 2.0 * trial", "    time.sleep(1)\n    return 2.0 * trial"
        )
    )
    run = place.submit(1, walltime="00:01:00")
    run.wait(timeout=4 * PATIENCE)
    place.check()
    attempts = {log.header["name"] for log in read_logs(hpcio.Plan.load(place.out))}
    assert len(attempts) >= 2
