"""What SLURM says of the jobs of a run, by one call of squeue."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import zip_longest

from hpcio.errors import ClusterError
from hpcio.planning.plan import Plan
from slurm.site.commands import call
from slurm.submissions import records as submissions

__all__ = ["ENDED", "FIRST_LOOK", "LAST_LOOK", "Queue", "Row", "read_queue"]

# States of a task that will not run again by itself.
ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL",
     "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT")
)  # fmt: skip
# squeue is asked after so many seconds at first, then more and more rarely.
FIRST_LOOK, LAST_LOOK = 2.0, 30.0
# What no name holds.
_BETWEEN = "\x1f"
# squeue waits for 9 s for a controller that is down.
_PATIENCE = 5.0


@dataclass(frozen=True)
class Row:
    """One array task, or the finalizer, as SLURM has it.

    Attributes
    ----------
    submission : int
    task : int or None
        Number of the task in its submission; None for the finalizer.
    job, index : int
        SLURM's own: of the array, and in it.
    state, reason, node : str
    """

    submission: int
    task: int | None
    job: int
    index: int
    state: str
    reason: str
    node: str

    @property
    def alive(self) -> bool:
        """Whether it waits, runs, or will run again."""
        return self.state not in ENDED


@dataclass(frozen=True)
class Queue:
    """The jobs of a run.

    Attributes
    ----------
    rows : tuple of Row
        Also of those that have ended, as long as SLURM remembers them.
    trouble : str
        Why SLURM gave no answer; "" if it did.
    """

    rows: tuple[Row, ...]
    trouble: str = ""


def read_queue(plan: Plan) -> Queue | None:
    """The jobs of a run; None if it was never submitted.

    A job is known by its script, not by its number alone: after a crash, SLURM's controller may
    give a number to somebody else.
    """
    numbers = submissions.numbers(plan)
    if not numbers:
        return None
    try:
        answer = call(
            ["squeue", "--noheader", "--array", "--states=all", f"--user={os.geteuid()}",
             f"--format={_BETWEEN.join(('%F', '%K', '%T', '%r', '%N', '%Z', '%o'))}"],
            timeout=_PATIENCE,
        )  # fmt: skip
    except ClusterError as error:
        return Queue((), str(error))
    folder = f"{plan.run_directory}{os.sep}"
    scripts: dict[tuple[str, int | None], tuple[int, int | None]] = {}
    ours: dict[str, tuple[int, int | None]] = {}
    for number in numbers:
        made, jobs = submissions.read(plan, number), submissions.jobs(plan, number)
        named = [*zip(made.script, made.arrays, strict=True), (made.finish_script, None)]
        ids = (*jobs.arrays, jobs.finish) if jobs else ()
        for (script, array), job in zip_longest(named, ids[: len(named)]):
            first = None if array is None else array.first
            # As it was named then, and as it is named if the tree has moved since.
            for path in (script, folder + os.path.basename(script)):
                ours[path] = scripts[path, job] = (number, first)
    rows = []
    for line in answer.splitlines():
        fields = line.split(_BETWEEN)
        if len(fields) != 7:
            continue
        # As it was given to sbatch: perhaps relative, perhaps with arguments behind.
        script = os.path.normpath(os.path.join(fields[5], fields[6]))
        script = next((s for s in ours if script == s or script.startswith(f"{s} ")), "")
        if not script:
            continue
        job, index = int(fields[0]), int(fields[1]) if fields[1].isdigit() else 0
        number, first = scripts.get((script, job), ours[script])
        task = None if first is None else first + index
        rows.append(Row(number, task, job, index, *fields[2:5]))
    return Queue(tuple(rows))
