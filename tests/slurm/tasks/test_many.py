"""One task of many, without SLURM: what it takes over where many are at work."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from hpcio.journals import Ledger, rundir
from hpcio.planning import RunPolicy
from hpcio.running import Attempt, run_batch
from slurm.submissions import read_submission
from slurm.tasks.assignment import Assignment
from slurm.tasks.claims import Claims
from slurm.tasks.helping import _NEIGHBOURS, Helper, Progress
from tests.rigs.bench import Bench
from tests.rigs.tasks import ManyTasks, command, environment, write_for_tasks


def run_last_task(run: ManyTasks) -> None:
    with run:
        subprocess.run(run.command(), env=run.environment, check=True, stdout=subprocess.DEVNULL)


def missing(run: ManyTasks) -> list[int]:
    found: list[int] = np.flatnonzero(~Ledger.read(run.plan).done).tolist()
    return found


def test_what_was_left_is_done_however_many_are_at_their_last_trial(tmp_path: Path) -> None:
    at_work = _NEIGHBOURS + 8
    run = ManyTasks(tmp_path / "run", at_work + 2, 5, at_work=at_work + 1)
    lasts = [5 * task + 4 for task in range(at_work + 1)]
    assert missing(run) == [*lasts, *range(lasts[-1] + 1, len(run.plan))]
    claims = Claims(run.plan, 1, "seen")
    claims.look()
    last = claims.latest(Assignment.read(run.plan, 1, at_work).batches[-1])
    assert last is not None
    claims.leave(last)
    run_last_task(run)
    assert missing(run) == lasts[:-1]


def test_what_another_is_just_taking_over_is_taken_from_it_only_if_it_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has made its claim, and not yet said where that begins: all who are idle see it so."""
    run = ManyTasks(tmp_path / "run", 2, 5, at_work=1)
    assignment, claims = Assignment.read(run.plan, 1, 1), Claims(run.plan, 1, "1-1-01234567")
    claims.look()
    left = claims.latest(3)
    assert left is not None
    claims.leave(left)
    name = run.plan.rundir.claims / "1-3.g2"
    name.touch()
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    with Attempt(run.plan, "1-1") as attempt:
        progress = Progress(run.plan, assignment.submission)
        helper = Helper(assignment, attempt, claims, progress, ())

        def found() -> list[int | str | None]:
            claims.look()
            return [helper._start_for_us(claim, part) for claim, part in helper._unfinished()]

        assert found() == ["wait"]
        now[0] += 12.0
        assert found() == [4]
        name.with_name("1-3.g2@4@1-9-01234567").touch()
        now[0] += 1.0
        assert found() == ["wait"]


def test_a_batch_whose_owner_has_died_before_it_said_its_name_is_done(tmp_path: Path) -> None:
    run = ManyTasks(tmp_path / "run", 2, 5, begun=False, stale=1.0)
    (run.plan.rundir.claims / "1-0.g1").touch()
    run_last_task(run)
    assert not missing(run)


def test_nobody_at_work_is_seen_by_none_of_many_that_are_idle(tmp_path: Path) -> None:
    """Though each looks at a few: the first ones of all are at work, and the others are idle."""
    at_work, tasks = 3 * _NEIGHBOURS, 5 * _NEIGHBOURS
    run = ManyTasks(tmp_path / "run", tasks + 1, 1, at_work=at_work, chunks=1)
    submission = read_submission(run.plan, 1)
    seen, most = set[int](), 0
    with Attempt(run.plan, "1-0") as attempt:
        for task in range(at_work, tasks):
            assignment = Assignment.read(run.plan, 1, task)
            claims = Claims(run.plan, 1, attempt.name)
            claims.look()
            helper = Helper(assignment, attempt, claims, Progress(run.plan, submission), ())
            found = {claim.batch for claim, _ in helper._unfinished()}
            seen, most = seen | found, max(most, len(found))
    assert most == _NEIGHBOURS
    assert seen == set(range(at_work))


@pytest.mark.parametrize("others", [0, 210])
def test_failures_count_though_they_are_few_in_each_task(tmp_path: Path, others: int) -> None:
    bench = Bench(tmp_path, trials=240)
    bench.mark("raise", 100)
    plan = rundir.prepare(bench.plan())
    write_for_tasks(plan, 3, policy=RunPolicy(max_failed=210))
    Claims(plan, 1, "1-0-01234567").tell_failed(others)
    subprocess.run(command(plan), env=environment(1), check=False, stdout=subprocess.DEVNULL)
    claims = Claims(plan, 1, "seen")
    claims.look()
    assert claims.failed == others + 1
    assert claims.stopped == (others == 210)


def test_who_was_started_again_is_looked_at_once_and_not_by_each_that_is_idle(
    tmp_path: Path,
) -> None:
    run = ManyTasks(tmp_path / "run", 9, 5, at_work=8)
    claims = Claims(run.plan, 1, "1-8-01234567")
    claims.look()
    for task in range(8):
        last = claims.latest(Assignment.read(run.plan, 1, task).batches[-1])
        assert last is not None
        claims.leave(last, again=True)
    with Attempt(run.plan, "1-8") as attempt:
        for block in missing(run)[:8]:
            run_batch(attempt, np.array([block]))
        assignment = Assignment.read(run.plan, 1, 8)
        helper = Helper(assignment, attempt, claims, Progress(run.plan, assignment.submission), ())
        claims.look()
        first = claims.owners.copy()
        assert not any(map(claims.is_done, first))
        assert not list(helper._unfinished())
    claims.look()
    assert len(first) == 8
    assert all(map(claims.is_done, first))


def test_nothing_stays_of_a_run_that_is_removed(tmp_path: Path) -> None:
    run = ManyTasks(tmp_path / "run", 2, 5)
    run_last_task(run)
    assert not missing(run)
    rundir.discard(run.plan.out)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["rec.h5"]
