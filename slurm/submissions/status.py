"""How the jobs of a submitted run stand, in words; for ``hpcio status``."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpcio.planning.plan import Plan
from slurm.submissions import records as submissions
from slurm.submissions.queue import ENDED, Row, read_queue
from slurm.submissions.records import Submission

__all__ = ["SlurmQueue", "queue"]


@dataclass(frozen=True)
class SlurmQueue:
    """What SLURM says of the jobs of a run; see `hpcio.watching.status.Queue`.

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
    """

    submission: int
    cluster: str
    line: str
    states: Mapping[str, str]
    alive: int | None
    rows: tuple[Row, ...]
    outcome: dict[str, Any] | None

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
    numbers = submissions.numbers(plan)
    if not numbers:
        return None
    newest, outcome = submissions.read(plan, numbers[-1]), _outcome(plan, numbers[-1])
    ranked = {n for n in numbers if submissions.read(plan, n).ranks}
    rows: tuple[Row, ...] = ()
    alive = None
    if shutil.which("squeue") is None:
        line = f"no squeue on this machine: look on a node of the cluster '{newest.cluster}'"
    else:
        found = read_queue(plan)
        if found is None or found.trouble:
            line = f"SLURM does not answer: {found.trouble if found else 'nothing'}"
        else:
            noted = {number: submissions.jobs(plan, number) for number in numbers}
            rows = tuple(r for r in found.rows if _is_ours(r, noted.get(r.submission)))
            alive = sum(row.alive for row in rows)
            line = _line(
                rows, newest, noted=noted[newest.number] is not None,
                finished=outcome is not None,
            )  # fmt: skip
    return SlurmQueue(
        submission=newest.number,
        cluster=newest.cluster,
        line=line + (f"; finished: the result is {outcome['status']}" if outcome else ""),
        # Of two jobs of one task, as after sbatch by hand, the one that is alive counts.
        states={
            label: _word(row.state)
            for row in sorted(rows, key=lambda row: (row.alive, row.job))
            # Ranks are workers of their own; their one job is none.
            if row.submission not in ranked and (label := _label(row)) is not None
        },
        alive=alive,
        rows=rows,
        outcome=outcome,
    )


def _label(row: Row) -> str | None:
    """The label of the attempts of a task."""
    return None if row.task is None else f"{row.submission}-{row.task}"


def _is_ours(row: Row, jobs: submissions.Jobs | None) -> bool:
    """Whether a job is of this run: jobs that ended may be of one that was thrown away."""
    return row.alive or jobs is None or row.job in (*jobs.arrays, jobs.finish)


def _outcome(plan: Plan, number: int) -> dict[str, Any] | None:
    """What the finalizer of a submission has said; None if it has not ended."""
    try:
        said = json.loads((plan.run_directory / "outcome.json").read_text())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) and said.get("submission") == number else None


def _word(state: str) -> str:
    return state.lower().replace("_", " ")


def _line(rows: Sequence[Row], newest: Submission, *, noted: bool, finished: bool) -> str:
    """All of it in one line: tasks of the newest submission, its finalizer, older ones."""
    tasks = [r for r in rows if r.submission == newest.number and r.task is not None]
    if tasks:
        jobs = sorted({row.job for row in tasks})
        # SLURM forgets a job some minutes after its end.
        forgotten = newest.tasks - len({row.task for row in tasks}) if noted else 0
        name = "job array" if len(jobs) == 1 else "job arrays"
        if newest.ranks:
            name = f"MPI job of {newest.ranks} ranks"
        parts = [f"{name} {', '.join(map(str, jobs))}: {_counts(tasks, forgotten=forgotten)}"]
    else:
        parts = ["no task of this run in the queue"]
    for row in rows:
        # A finalizer that has spoken is not said to have failed too: its exit status says so.
        mine = row.submission == newest.number and row.state != "COMPLETED" and not finished
        if row.task is None and (row.alive or mine):
            why = f" ({row.reason})" if row.state == "PENDING" else ""
            parts.append(f"finish job {row.job} {_word(row.state)}{why}")
    older = {r.submission for r in rows if r.alive and r.task is not None} - {newest.number}
    for number in sorted(older, reverse=True):
        its = [r for r in rows if r.submission == number and r.alive and r.task is not None]
        parts.append(f"of submission {number}: {_counts(its)}")
    return "; ".join(parts)


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
