"""What an array task costs the file system, counted: no more in a run of many tasks than of few.

A task that reads what each other one has written makes a run cost the square of its tasks.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcio.journals import Ledger
from slurm.tasks.helping import _NEIGHBOURS
from tests.rigs.tasks import ManyTasks
from tests.rigs.traced import LISTED, LOOKED_UP, OPENED, missing, of_kind, traced

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


def files_of_others(folder: Path, tasks: int, *, at_work: int) -> set[Path]:
    """The files of other tasks that the last one of a run asks for by their names."""
    run = ManyTasks(folder, tasks, 5, at_work=at_work)
    left = len(run.plan) - int(Ledger.read(run.plan).done.sum())
    there = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    with run:
        calls = traced(run.command(), folder, environment=run.environment)
    assert len(run.plan) - int(Ledger.read(run.plan).done.sum()) == left - 5
    asked = {*of_kind(calls, OPENED), *of_kind(calls, LOOKED_UP)}
    return {p for p in asked & there if p.parent.name in ("journal", "beats", "sources", "usage")}


def test_a_task_reads_nothing_of_tasks_that_are_through(tmp_path):
    """But of the one that is at work: its journal, and its heartbeat."""
    assert [len(files_of_others(tmp_path / f"{n}", n, at_work=1)) for n in (3, 40)] == [2, 2]


def test_a_task_looks_at_no_more_than_some_that_are_at_work(tmp_path):
    most = 2 * _NEIGHBOURS
    found = [len(files_of_others(tmp_path / f"{n}", n + 1, at_work=n)) for n in (8, 2 * most)]
    assert found[0] == 16
    assert found[1] <= most


@pytest.mark.parametrize(
    ("stopped", "lists"),
    [pytest.param(True, 0, id="its own"), pytest.param(False, 4, id="all that wait in the queue")],
)
def test_a_task_lists_claims_as_often_however_many_tasks_there_are(tmp_path, stopped, lists):
    """When its own work is done, and when nothing is left; not for each batch that it takes."""
    for tasks in (3, 20):
        folder = tmp_path / str(tasks)
        run = ManyTasks(folder, tasks, 5, begun=False)
        if stopped:  # after the first batch it looks for no more
            (run.plan.rundir.claims / "1.stop").touch()
        with run:
            calls = traced(run.command(), folder, environment=run.environment)
        assert Ledger.read(run.plan).done.all() != stopped
        # Two calls for each list: one that gives the names, and one that gives no more.
        assert of_kind(calls, LISTED)[Path("out.h5.run/claims")] == lists
