"""How the jobs of a submitted run stand, in words; for ``hpcio status``."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpcio.planning import Plan
from hpcio.words import count
from slurm.site import ENDED
from slurm.submissions import records
from slurm.submissions.logs import last_words
from slurm.submissions.passes import pass_words
from slurm.submissions.queue import Row, read_queue
from slurm.submissions.records import Jobs, Submission

__all__ = ["SlurmQueue", "queue"]


@dataclass(frozen=True)
class SlurmQueue:
    """What SLURM says of the jobs of a run; see `hpcio.watching.Queue`.

    Attributes
    ----------
    submission : int
        The newest one.
    cluster : str
        Where it was submitted.
    line : str
    states : dict of str to str
        By label of a task.
    alive : int or None
        Jobs that wait or run, the finalizer included; None if SLURM does not answer.
    rows : tuple of Row
    outcome : dict or None
        What the finalizer of the newest submission has said, if it has ended.
    trial_time : float or None
        How long a trial may take, in seconds.
    """

    submission: int
    cluster: str
    line: str
    states: Mapping[str, str]
    alive: int | None
    rows: tuple[Row, ...]
    outcome: dict[str, Any] | None
    trial_time: float | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "line": self.line, "alive": self.alive, "submission": self.submission,
            "cluster": self.cluster, "outcome": self.outcome,
            "jobs": [{**asdict(row), "label": _label(row)} for row in self.rows],
        }  # fmt: skip


def queue(plan: Plan) -> SlurmQueue | None:
    """Ask SLURM for the jobs of a run, by one call of squeue.

    Parameters
    ----------
    plan : Plan

    Returns
    -------
    SlurmQueue or None
        None if it was never submitted. If SLURM does not answer within some seconds, its
        `line` says so.

    Examples
    --------
    >>> print(queue(hpcio.Plan.load("out.h5")).line)  # doctest: +SKIP
    job array 1234: 12 running, 40 pending (Resources), 12 ended
    """
    numbers = records.numbers(plan)
    if not numbers:
        return None
    made = {number: records.read_submission(plan, number) for number in numbers}
    newest, said = made[numbers[-1]], outcome(plan, numbers[-1])
    rows, line = _ask(plan, newest, numbers, finished=said is not None)
    return SlurmQueue(
        submission=newest.number,
        cluster=newest.cluster,
        line=line + (f"; finished: the result is {said['status']}" if said else ""),
        states=_states(rows or (), ranked={number for number in numbers if made[number].ranks}),
        # What is completing (after a cancel that may take a minute) computes no more.
        alive=None if rows is None else sum(row.alive and not row.ends for row in rows),
        rows=rows or (),
        outcome=said,
        trial_time=newest.trial_time,
    )


def _ask(
    plan: Plan, newest: Submission, numbers: Sequence[int], *, finished: bool
) -> tuple[tuple[Row, ...] | None, str]:
    """The jobs of a run, None if SLURM does not answer; and all of it in one line."""
    if shutil.which("squeue") is None:
        return None, f"no squeue on this machine: look on a node of the cluster '{newest.cluster}'"
    found = read_queue(plan)
    if found is None or found.trouble:
        return None, f"SLURM does not answer: {found.trouble if found else 'nothing'}"
    noted = {number: records.jobs(plan, number) for number in numbers}
    rows = tuple(row for row in found.rows if _is_ours(row, noted.get(row.submission)))
    more = [*_passes(plan, newest), *_stillborn(plan, newest, rows)]
    was_noted = noted[newest.number] is not None
    return rows, _line(rows, newest, more=more, noted=was_noted, finished=finished)


def _states(rows: Sequence[Row], *, ranked: set[int]) -> dict[str, str]:
    """The state of each task, by its label."""
    return {
        label: _word(row.state)
        # Of two jobs of one task, as after sbatch by hand, the one that is alive counts.
        for row in sorted(rows, key=lambda row: (row.alive, row.job))
        # Each rank is a worker; their job is not.
        if row.submission not in ranked and (label := _label(row)) is not None
    }


def _label(row: Row) -> str | None:
    """The label of the attempts of a task."""
    return None if row.task is None else f"{row.submission}-{row.task}"


def _is_ours(row: Row, jobs: Jobs | None) -> bool:
    """Whether a job is of this run; one that has ended may be of a run that was thrown away."""
    return row.alive or jobs is None or row.job in (*jobs.arrays, jobs.finish)


def outcome(plan: Plan, number: int) -> dict[str, Any] | None:
    """What the finalizer of a submission has said; None if it has not ended."""
    try:
        said = json.loads(plan.rundir.outcome.read_text())
    except (OSError, ValueError, RecursionError):
        return None
    is_whole = isinstance(said, dict) and isinstance(said.get("status"), str)
    ours = is_whole and (said.get("run_id"), said.get("submission")) == (plan.run_id, number)
    return said if ours else None


def _word(state: str) -> str:
    return state.lower().replace("_", " ")


def _passes(plan: Plan, newest: Submission) -> list[str]:
    """The passes that the submission of the user has had, in words."""
    chain = records.passes(plan, newest)
    found = []
    for k, made in enumerate(chain[1:], 2):
        blocks = records.task_plan(plan, made.number).blocks.size
        found.append(f"pass {k}: {pass_words(plan, made, blocks)}")
    return found


def _stillborn(plan: Plan, newest: Submission, rows: Sequence[Row]) -> list[str]:
    """What tasks have said that ended before they did anything, as by a prologue that fails."""
    begun = {path.stem.rpartition("-")[0] for path in plan.rundir.journals.glob("*.jnl")}
    found = [
        row.task
        for row in rows
        if row.task is not None
        and row.submission == newest.number
        and row.state in ENDED - {"COMPLETED", "CANCELLED"}
        and _label(row) not in begun
    ]
    if not found:
        return []
    words = last_words(plan, newest, min(found))
    told = f"and task {min(found)} says: {words}" if words else "without a word"
    return [f"{count(len(found), 'task')} ended before any trial, {told}"]


def _line(
    rows: Sequence[Row],
    newest: Submission,
    *,
    more: Sequence[str],
    noted: bool,
    finished: bool,
) -> str:
    """All of it in one line: tasks of the newest submission, its finalizer, older ones."""
    parts = [_tasks(rows, newest, noted=noted), *more]
    for row in rows:
        # A finalizer that has spoken exits with 1 if blocks are missing; SLURM calls that failed.
        mine = row.submission == newest.number and row.state != "COMPLETED" and not finished
        if row.task is None and (row.alive or mine):
            why = f" ({row.reason})" if row.state == "PENDING" else ""
            parts.append(f"finish job {row.job} {_word(row.state)}{why}")
    older = {r.submission for r in rows if r.alive and r.task is not None} - {newest.number}
    for number in sorted(older, reverse=True):
        its = [r for r in rows if r.submission == number and r.alive and r.task is not None]
        parts.append(f"of submission {number}: {_counts(its)}")
    held = {r.job for r in rows if "requeued" in r.reason and "held" in r.reason}
    if held:  # by SLURM, as after a launch that failed; no time ends that
        parts.append(f"held until: scontrol release {','.join(map(str, sorted(held)))}")
    return "; ".join(parts)


def _tasks(rows: Sequence[Row], newest: Submission, *, noted: bool) -> str:
    """How the tasks of the newest submission stand."""
    tasks = [r for r in rows if r.submission == newest.number and r.task is not None]
    if not tasks:
        return "no task of this run in the queue"
    jobs = sorted({row.job for row in tasks})
    # SLURM forgets a job some minutes after its end.
    forgotten = newest.tasks - len({row.task for row in tasks}) if noted else 0
    name = "job array" if len(jobs) == 1 else "job arrays"
    if newest.ranks:
        name = f"MPI job of {newest.ranks} ranks"
    return f"{name} {', '.join(map(str, jobs))}: {_counts(tasks, forgotten=forgotten)}"


def _counts(tasks: Sequence[Row], *, forgotten: int = 0) -> str:
    """How many tasks are in which state."""
    states = Counter(row.state for row in tasks)
    pending, ended = states.pop("PENDING", 0), states.pop("COMPLETED", 0) + max(0, forgotten)
    words = [f"{n} {_word(s)}" for s, n in sorted(states.items()) if s not in ENDED]
    if pending:
        reasons = sorted({row.reason for row in tasks if row.state == "PENDING"} - {"None", ""})
        words.append(f"{pending} pending" + (f" ({', '.join(reasons)})" if reasons else ""))
    words += [f"{ended} ended"] if ended else []
    return ", ".join(words + [f"{n} {_word(s)}" for s, n in sorted(states.items()) if s in ENDED])
