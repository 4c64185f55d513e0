"""Running a plan: what is missing goes to an executor, what is complete is published."""

from __future__ import annotations

import os
import shlex
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hpcio.errors import BlocksFailed, Interrupted, OutputError, PlanError, SourceError
from hpcio.journals import rundir
from hpcio.journals.journal import DONE
from hpcio.journals.ledger import Failure, Ledger
from hpcio.machine.filesystems import look_again
from hpcio.planning.limits import check_disk
from hpcio.planning.plan import Plan
from hpcio.recording.sources import open_file
from hpcio.results.publishing import publish
from hpcio.writers import module_of

__all__ = ["Done", "Executor", "Nobody", "Work", "execute", "record"]


@dataclass(frozen=True, eq=False)
class Work:
    """What an executor is asked to do.

    Attributes
    ----------
    plan : Plan
        Its run directory exists.
    blocks : numpy.ndarray of int64
        The blocks to do, ascending.
    retries : int
        How often a block that raises, or whose worker dies, is tried again.
    max_failed : int
        When more blocks than this have failed, the others need not be tried.
    """

    plan: Plan
    blocks: np.ndarray
    retries: int
    max_failed: int


class Executor(Protocol):
    """Runs chunks of blocks somewhere; what is done, the journals say.

    Attributes
    ----------
    about : str
        A line for whoever watches, such as where to see more; may be empty.
    """

    @property
    def about(self) -> str: ...  # noqa: D102

    def check(self, plan: Plan, memory: str | int | None) -> None:
        """Raise MemoryLimitError if the largest block does not fit into one worker.

        `memory` is what a worker may use, if the caller has said so.
        """

    def execute(self, work: Work) -> None:
        """Try every block of the work at least once, by `hpcio.running.chunks.run_chunk`.

        Failed blocks are journalled, not raised; if there are too many, it returns early.
        """


class Nobody:
    """Computes nothing: for a run that has nothing left to do, or is to say what is missing."""

    about = ""

    def check(self, plan: Plan, memory: str | int | None) -> None:
        """Nothing will be computed."""

    def execute(self, work: Work) -> None:
        """Leave all as it is."""


@dataclass(frozen=True)
class Done:
    """The record of a run.

    Attributes
    ----------
    out : str
        Path of the result.
    seconds : float
        Time of reading, computing and writing, without the start of the workers.
    blocks : int
        Blocks that are done, those of earlier runs included.
    computed : int
        Blocks that this run has computed.
    repeated : int
        How many results it has computed once more than needed, since a worker was lost or
        two copies of one were at work.
    nbytes : int
        Bytes of results that this run has written.
    nbytes_read : int
        Bytes of trials that this run has read.
    failed : tuple of Failure
    workers : int
        Processes that have computed blocks in this run.
    """

    out: str
    seconds: float
    blocks: int
    computed: int
    repeated: int
    nbytes: int
    nbytes_read: int
    failed: tuple[Failure, ...]
    workers: int

    @property
    def blocks_per_second(self) -> float:
        """Speed of this run."""
        return self.computed / self.seconds if self.seconds else 0.0

    @property
    def mb_per_second(self) -> float:
        """Bytes read and written in a second, in units of 10^6."""
        return (self.nbytes + self.nbytes_read) / 1e6 / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        earlier = self.blocks - self.computed
        return (
            f"{self.computed} blocks in {self.seconds:.2f} s "
            f"({self.blocks_per_second:.0f} blocks/s, {self.mb_per_second:.0f} MB/s)"
            + (f", {earlier} from earlier runs" if earlier else "")
            + (f", {self.repeated} computed twice" if self.repeated else "")
            + (f", {len(self.failed)} failed" if self.failed else "")
        )


def execute(
    plan: Plan,
    executor: Executor | None = None,
    *,
    workers: int | None = None,
    threads: int = 1,
    memory: str | int | None = None,
    retries: int = 0,
    max_failed: int | None = None,
    gaps: bool = False,
    fresh: bool = False,
    progress: bool | None = None,
) -> Done:
    """Run what a plan lacks, and publish the result; see :meth:`hpcio.Plan.run`."""
    for name, number in (("retries", retries), ("max_failed", max_failed)):
        if number is not None and number < 0:
            raise PlanError(f"{name}={number} makes no sense. Use 0 or more.")
    if max_failed is None:
        max_failed = max(100, len(plan) // 10)
    if executor is None:
        from hpcio.running.local import choose

        executor = choose(workers=workers, threads=threads)
    if fresh:
        rundir.discard(plan.out)
    look_again(plan.out)
    if os.path.lexists(plan.out):
        return _finished(plan)
    plan.source.check_unchanged()
    executor.check(plan, memory)
    plan = rundir.prepare(plan)
    with ExitStack() as stack:
        stack.enter_context(rundir.held(plan))
        look_again(plan.out)
        if os.path.lexists(plan.out):  # another run has finished meanwhile
            return _finished(plan)
        before = Ledger.read_trusted(plan)
        todo = before.missing()
        known = {log.path for log in before.logs}
        if todo.size:
            check_disk(plan, todo)
            module_of(plan).reserve(plan)
            stack.enter_context(_shown(plan, executor.about, progress=progress))
            try:
                executor.execute(Work(plan, todo, retries, max_failed))
            except KeyboardInterrupt:
                finished = int(Ledger.read(plan).done.sum())
                raise Interrupted(
                    f"Stopped with {finished} of {len(plan)} blocks done. "
                    f"Continue with: hpcio resume {shlex.quote(plan.out)}"
                ) from None
        ledger = Ledger.read_trusted(plan)
        done = record(ledger, known)
        # A gap is a block that was tried.
        if not ledger.done.all() and not (gaps and ledger.state.all()):
            raise BlocksFailed(_failed_message(ledger, max_failed), done)
        publish(ledger)
    return done


def _shown(plan: Plan, about: str, *, progress: bool | None) -> ExitStack:
    from hpcio.watching.progress import watch

    stack = ExitStack()
    if progress is not False:
        stack.enter_context(watch(plan, about=about, force=progress is True))
    return stack


def _finished(plan: Plan) -> Done:
    """The record of a run that has nothing left to do."""
    if _plan_of(plan.out) != plan.digest or not plan.run_directory.is_dir():
        raise OutputError(
            f"The output '{plan.out}' exists and is not the result of this plan. "
            "Choose another name, or start over with fresh=True (in the shell: --fresh)."
        )
    ledger = Ledger.read(plan)
    return record(ledger, {log.path for log in ledger.logs})


def _plan_of(path: str) -> str:
    """Digest of the plan that a file is the result of; "" if it is none."""
    try:
        with open_file(path) as f:
            return bytes(f["hpcio"].attrs["plan"]).decode()
    except (SourceError, KeyError):
        return ""


def record(ledger: Ledger, known: set[Path]) -> Done:
    """What the journals that are not `known` say of a run, as the record of it."""
    plan = ledger.plan
    new = [log for log in ledger.logs if log.path not in known]
    times = [
        (float(log.about["start"]), log.records)
        for log in new
        if (log.records["kind"] == DONE).any()
    ]
    seconds = 0.0
    if times:
        started = min(_first_start(records, start) for start, records in times)
        seconds = max(float(r["end"].max()) for _, r in times) - started
    ours = [log.records[log.records["kind"] == DONE] for log in new]
    blocks = (
        np.unique(np.concatenate([r["block"] for r in ours])) if ours else np.zeros(0, np.int64)
    )
    return Done(
        out=plan.out,
        seconds=seconds,
        blocks=int(ledger.done.sum()),
        computed=int(blocks.size),
        repeated=sum(r.size for r in ours) - int(blocks.size),
        nbytes=plan.stored_bytes(blocks),
        nbytes_read=int(plan.input_sizes()[blocks].sum()),
        failed=ledger.failures(),
        workers=len(times),
    )


def _first_start(records: np.ndarray, opened: float) -> float:
    """When the first block of an attempt began, in seconds since 1970."""
    first = records[0]
    lasted = float(first["compute"]) + float(first["io"]) if first["kind"] == DONE else 0.0
    return max(opened, float(first["end"]) - lasted)


def _failed_message(ledger: Ledger, max_failed: int, most: int = 10) -> str:
    failures = ledger.failures()
    lost = int((~ledger.done).sum()) - len(failures)
    lines = [f"{len(failures)} of {len(ledger.plan)} blocks failed; nothing was published."]
    lines += [f"  block {f.block} (trial {f.trial}): {f.reason}" for f in failures[:most]]
    if len(failures) > most:
        lines.append(f"  ... and {len(failures) - most} more")
    if lost:
        stopped = f", since more than {max_failed} had failed (max_failed)"
        lines.append(f"  {lost} blocks were not tried" + stopped * (len(failures) > max_failed))
    lines.append(
        f"Tracebacks: hpcio status {ledger.plan.out} --failed. Mend the cause, then run again: "
        "only the missing blocks are computed. Or ask for gaps=True (in the shell: --gaps)."
    )
    return "\n".join(lines)
