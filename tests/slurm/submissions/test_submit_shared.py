"""Submissions on a real GlusterFS: every node sees the run directory through its own cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcio.machine.filesystems import kind_of
from tests.rigs.cluster_bench import ClusterBench
from tests.slurm.submissions import test_submit as submit
from tests.slurm.tasks import test_task as task

pytestmark = [pytest.mark.slurm, pytest.mark.gluster]


@pytest.fixture
def slurm(gluster_slurm):
    return gluster_slurm.slurm


@pytest.fixture
def place(gluster_slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterBench:
    folder = gluster_slurm.folder
    assert kind_of(folder) == "fuse.glusterfs"
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "no.toml"))
    return ClusterBench(folder, notes=tmp_path)


# The same tests, elsewhere.
test_end_to_end = submit.test_submit_and_come_back
test_a_task_near_its_end = task.test_a_task_near_its_end_is_started_again_where_it_stopped
test_cancel_then_resume = submit.test_cancel_then_resume
test_failed_trials = submit.test_failed_trials
test_a_worker_killed = task.test_a_worker_killed_by_signal_9_is_replaced_by_its_task
test_take_over_of_the_dead = task.test_a_task_that_is_gone_is_taken_over_by_its_sibling
test_help_for_the_slow = task.test_a_slow_task_gets_help
test_a_second_submission = submit.test_a_second_submission_is_refused_while_the_first_is_at_work


def test_one_file(slurm, place):
    task.test_all_tasks_write_one_file(slurm, place, "direct")
