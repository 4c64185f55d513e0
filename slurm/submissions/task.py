"""What jobs run: an array task, the ranks of an MPI job, the finalizer.

``python -m slurm.submissions.task run OUT SUBMISSION FIRST`` is the command of an array task.

A task is two processes. The one that SLURM started waits, and forks one that works. When a
block kills that one, the other reads in the journal which block it was, lets it have a second
chance, and then records it as failed; it also does what is left to do at the end, such as asking
SLURM to start the task again.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import random
import shlex
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hpcio.errors import HpcioError, Interrupted
from hpcio.files.slab import as_output_error
from hpcio.journals import usage
from hpcio.journals.journal import DONE, FAILED
from hpcio.journals.ledger import (
    Follower,
    Ledger,
    Tried,
    read_logs,
    tried_by,
    tried_since,
)
from hpcio.machine.filesystems import write_whole
from hpcio.planning.plan import Plan
from hpcio.running.chunks import Attempt, Deaths, Stop, how_it_ended, run_chunk
from slurm.site import environment
from slurm.submissions import records as submissions
from slurm.submissions.claims import BEAT_EVERY, Beat, Claim, Claims, Pulses
from slurm.submissions.records import Submission

__all__ = ["finish", "main"]

# How the working process ends, beside 0 and death.
AGAIN, ENDED, TROUBLE = 75, 143, 1
# How often a task looks whether others have taken over a part of its chunk, in seconds.
LOOK_EVERY = 5.0
# A chunk that was taken over so often from the dead is left alone: it may be what kills.
MOST_GENERATIONS = 8
# After it was told of its end, a task leaves itself so many seconds to sync and go.
TO_GO = 60
# The log of the finalizer holds so many tracebacks at the most.
MOST_TRACEBACKS = 100


def main() -> None:
    """``run OUT SUBMISSION FIRST``, ``ranks OUT SUBMISSION`` or ``finish OUT SUBMISSION``."""
    verb, out, number, *first = sys.argv[1:]
    try:
        plan = Plan.load(out)
        if verb == "finish":
            sys.exit(finish(plan, int(number)))
        if verb == "ranks":
            sys.exit(_on_ranks(plan, int(number)))
        sys.exit(_Watch(plan, int(number), int(first[0])).run())
    except HpcioError as error:
        print(f"hpcio: {error}", file=sys.stderr, flush=True)
        sys.exit(TROUBLE)


# ---------------------------------------------------------------------- the one that waits


class _Watch:
    """Forks the process that works, and forks another one when it dies."""

    def __init__(self, plan: Plan, number: int, first: int) -> None:
        self.plan, self.submission = plan, submissions.read(plan, number)
        self.job = environment.label()
        self.number = first + environment.index()
        self.chunks = submissions.mapping_of(plan, number)
        # What the worker is at, told by memory that both have.
        self.shared = mmap.mmap(-1, 4096)
        self.child = 0
        self.told: list[int] = []
        self.tried = 0

    def run(self) -> int:
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._pass_on)
        deaths = Deaths(self.plan, self.submission.retries, workers=1)
        while True:
            status = self._fork()
            mine, others = self._tried()
            self.tried += mine.blocks.size
            code = os.waitstatus_to_exitcode(status)
            if code in (0, ENDED, TROUBLE):
                return code
            if code == AGAIN:
                vain = bool(environment.restarts()) and not self.tried
                return again(self.plan, self.job, in_vain=vain)
            if signal.SIGTERM in self.told:
                return ENDED
            ended = how_it_ended(code)
            why = f"WorkerError: its process ended with {ended}; see the log of task {self.job}"
            print(f"hpcio: {why}", file=sys.stderr, flush=True)
            at = self._at()
            if at:
                blocks = self._blocks(at)
                deaths.left(blocks[~np.isin(blocks, others.blocks)], mine, why)

    def _fork(self) -> int:
        self.shared[:] = bytes(len(self.shared))
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Libraries of linear algebra have threads that Python warns of; they expect forks.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.child = os.fork()
        if self.child == 0:
            code = TROUBLE
            try:
                code = self._work()
            except HpcioError as error:
                print(f"hpcio: {error}", file=sys.stderr)
            except BaseException:  # noqa: BLE001  (a fork must not return from here)
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        for number in self.told:  # while there was no child
            os.kill(self.child, number)
        _, status = os.waitpid(self.child, 0)
        self.child = 0
        return status

    def _work(self) -> int:
        # A worker whose other half was killed ends in good order.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        return _Worker(self).run()

    def _pass_on(self, number: int, _: object) -> None:
        self.told.append(number)
        if self.child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, number)

    # -- what the worker was at

    def tell(self, attempt: str, chunk: int, start: int, until: int) -> None:
        """Let the other half know."""
        text = json.dumps([attempt, chunk, start, until]).encode()
        self.shared[: len(text) + 1] = text + b"\0"

    def _at(self) -> Any:
        text = self.shared[:].partition(b"\0")[0]
        return json.loads(text) if text else None

    def _blocks(self, at: Any) -> np.ndarray:
        _, chunk, start, until = at
        blocks: np.ndarray = self.chunks.chunks[chunk]
        part: np.ndarray = blocks[(blocks >= start) & (blocks < until)]
        return part

    def _tried(self) -> tuple[Tried, Tried]:
        """What the last worker has journalled, and what all others have."""
        known = {self.plan.rundir.journals / name for name in self.submission.known}
        at = self._at()
        if not at:
            return Tried.of([]), tried_since(self.plan, known)
        own = self.plan.rundir.journals / f"{at[0]}.jnl"
        return tried_by(self.plan, at[0]), tried_since(self.plan, known | {own})


def again(plan: Plan, job: str, *, in_vain: bool) -> int:
    """Have SLURM start a job anew, where it has stopped, unless that would be in vain."""
    if in_vain:
        print(
            f"hpcio: task {job} has finished no block since it was started again, and "
            "gives up: its trials take longer than a task may run. "
            f"Ask for more time: hpcio resume {plan.out} --time ...",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        return TROUBLE
    # By the number of array and task: the last task of an array carries the number of
    # the array itself, which would start all of it.
    done = subprocess.run(
        ["scontrol", "requeue", job], capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        print(f"hpcio: not started again: {done.stderr.strip()}", file=sys.stderr, flush=True)
        return TROUBLE
    # SLURM ends this process now.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.sigtimedwait({signal.SIGTERM}, 30)
    return 0


# ---------------------------------------------------------------------- the one that works


@dataclass
class _Speed:
    """What an attempt has done, by its journal."""

    nbytes: int = 0
    seconds: float = 0.0
    records: int = 0


class _Worker:
    """Runs the chunks of its task, then those that nobody has begun, then what others left."""

    def __init__(self, watch: _Watch) -> None:
        self.watch, self.plan, self.submission = watch, watch.plan, watch.submission
        self.chunks, self.task = watch.chunks.chunks, watch.chunks.task
        self.label = f"{self.submission.number}-{watch.number}"
        self.sizes = self.plan.input_sizes() + self.plan.target.sizes()
        self.journals = Follower(self.plan, known=self.submission.known)
        self.state = np.zeros(len(self.plan), np.uint8)
        self.speeds: dict[str, _Speed] = defaultdict(_Speed)
        self.pulses = Pulses(self.plan, stale=self.submission.stale)
        # What takes longer than so many seconds is worth the trouble to help with.
        self._long = self.submission.stale / 6
        self.again = self.ended = False
        self.looked = time.monotonic()
        self.claim: Claim | None = None

    def run(self) -> int:
        started = time.time()
        environment.limit_memory()
        self.attempt = Attempt(
            self.plan, self.label, retries=self.submission.retries,
            max_failed=self.submission.max_failed, pulse=self._pulse,
        )  # fmt: skip
        with self.attempt:
            beat = Beat(
                self.plan, self.attempt.name, every=min(BEAT_EVERY, self.submission.stale / 6)
            )
            self.claims = Claims(self.plan, self.submission.number, self.attempt.name)
            for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGALRM):
                signal.signal(number, self._told)
            for told in self.watch.told:  # before there was somebody to hear it
                self._told(told, None)
            try:
                with contextlib.suppress(Stop):
                    self._all()
                if self.attempt.may_fail < 0:
                    self.claims.stop()
                self.attempt.sync()
                if self.claim is not None and not self.again:
                    self.claims.leave(self.claim)
            finally:
                beat.close()
                self._keep_usage(started)
        if self.again:
            return AGAIN
        return ENDED if self.ended else 0

    def _told(self, number: int, _: object) -> None:
        """Of the end: soon (USR1), now (TERM), or now that soon has passed (ALRM)."""
        self.attempt.stopping = True
        if number == signal.SIGUSR1:
            self.again = True
            signal.alarm(max(1, self.submission.signal - TO_GO))
            return
        if number == signal.SIGTERM:
            self.ended, self.again = True, False
        if self.attempt.computing:
            raise Stop

    def _keep_usage(self, started: float) -> None:
        asked = self.submission
        used = usage.measure(
            started, self.label, memory_asked=asked.memory, walltime_asked=asked.seconds,
            cpus_asked=asked.cpus,
        )  # fmt: skip
        # No reason to fail.
        with contextlib.suppress(HpcioError):
            usage.write(self.plan, self.attempt.name, used)

    # -- chunk after chunk

    def _all(self) -> None:
        for chunk in np.flatnonzero(self.task == self.watch.number).tolist():
            self.claims.look()
            claim = self.claims.latest(chunk)
            # That of an earlier attempt of this task is no more: SLURM starts a task again
            # when it has ended. If it lives on, cut off, it does no harm.
            if claim is None or self._is_own(claim):
                self._take(chunk)
            if self._over():
                return
        while (free := self._unclaimed()) is not None:
            self._take(free)
            if self._over():
                return
        while (left := self._abandoned()) is not None:
            self._take(*left)
            if self._over():
                return

    def _over(self) -> bool:
        return self.attempt.stopping or self.claims.stopped

    def _is_own(self, claim: Claim) -> bool:
        return claim.owner.rpartition("-")[0] == self.label

    def _take(self, chunk: int, start: int | None = None) -> None:
        """Claim a chunk, or what is left of it from a block on, and run it."""
        blocks = self.chunks[chunk]
        if self.claims.latest(chunk) is not None:
            self._look()
            blocks = blocks[self.state[blocks] == 0]
        if start is not None:
            blocks = blocks[blocks >= start]
        if not blocks.size:
            return
        claim = self.claims.take(chunk, int(blocks[0]))
        if claim is None:
            return
        self.claim = claim
        self.attempt.until = self.claims.until(claim, end=len(self.plan))
        blocks = blocks[blocks < self.attempt.until]
        self.watch.tell(self.attempt.name, chunk, claim.start, self.attempt.until)
        done = run_chunk(self.attempt, blocks)
        if self.attempt.stopping and done.reached < blocks.size:
            return  # it is left, or gone on with when this task starts again
        self.claim = None

    def _pulse(self) -> None:
        """While a chunk is at work, see whether somebody has taken over a part of it."""
        if self.claim is None or time.monotonic() - self.looked < LOOK_EVERY:
            return
        with contextlib.suppress(OSError):
            self.claims.look()
        self.looked = time.monotonic()
        self.attempt.until = self.claims.until(self.claim, end=len(self.plan))
        if self.claims.stopped:
            self.attempt.stopping = True

    # -- of others

    def _unclaimed(self) -> int | None:
        """A chunk that nobody has begun, from the end of the range that has most of them."""
        self.claims.look()
        free = [c for c in range(len(self.chunks)) if c not in self.claims.of]
        if not free or self.claims.stopped:
            return None
        work: dict[int, int] = defaultdict(int)
        for chunk in free:
            work[int(self.task[chunk])] += int(self.sizes[self.chunks[chunk]].sum())
        most = max(work.values())
        # Among equals any: all who are idle look at the same time.
        richest = random.choice([task for task, nbytes in work.items() if nbytes == most])
        return max(c for c in free if self.task[c] == richest)

    def _look(self) -> None:
        """Read what is new in the journals."""
        for path, records in self.journals.look():
            kept = records[np.isin(records["kind"], (DONE, FAILED))]
            self.state[kept["block"]] = kept["kind"]
            speed = self.speeds[path.stem]
            speed.records += records.size
            speed.nbytes += int(self.sizes[kept["block"]].sum())
            speed.seconds += float(kept["compute"].sum() + kept["io"].sum())

    def _abandoned(self) -> tuple[int, int] | None:
        """A part of a chunk whose owner is dead, or slow; None if there is nothing to help with.

        Waits until it is clear of every owner whether it lives, and gets on.
        """
        self.began: dict[str, tuple[int, float]] = {}
        while not self._over():
            self.claims.look()
            self._look()
            found = [(c, self._start_for_us(claim, part)) for c, claim, part in self._open_parts()]
            for chunk, start in found:
                if isinstance(start, int):
                    return chunk, start
            if all(start is None for _, start in found):
                return None
            time.sleep(min(1.0, self.submission.stale / 20))
        return None

    def _open_parts(self) -> Iterator[tuple[int, Claim, np.ndarray]]:
        """What is left of each claim: the chunk, the claim, and its blocks."""
        for chunk, blocks in enumerate(self.chunks):
            for claim in list(self.claims.of.get(chunk, {}).values()):
                end = self.claims.until(claim, end=len(self.plan))
                part = blocks[(blocks >= claim.start) & (blocks < end)]
                part = part[self.state[part] == 0]
                if part.size and claim.generation < MOST_GENERATIONS:
                    yield chunk, claim, part

    def _start_for_us(self, claim: Claim, part: np.ndarray) -> int | Literal["wait"] | None:
        """The block that we can begin with, of what a claim has left; None if none."""
        # One without a name counts from when we saw it first.
        owner = claim.owner or f"{claim.chunk}.{claim.generation}"
        records, now = self.speeds[owner].records, time.monotonic()
        self.pulses.look(owner, records)
        if self.began.setdefault(owner, (records, now))[0] != records:
            self.began[owner] = (records, now)
        gone = claim.left or (self._is_own(claim) and owner != self.attempt.name)
        if gone or self.pulses.dead(owner):
            return int(part[0])
        if not self.pulses.lives(owner):
            return "wait"
        # A part may begin where the blocks before need not be with those after.
        begins = np.flatnonzero(np.diff(part // self.plan.unit)) + 1
        if not begins.size:
            return None
        if now - self.began[owner][1] > self._long:  # all but the block at hand
            return int(part[begins[0]])
        start = self._worth_helping(owner, part, begins)
        return "wait" if start is None and not self.speeds[owner].seconds else start

    def _worth_helping(self, owner: str, part: np.ndarray, begins: np.ndarray) -> int | None:
        """Where the second half of a slow owner's part begins, if it has far to go."""
        mine, theirs = self.speeds[self.attempt.name], self.speeds[owner]
        speed = theirs if theirs.seconds else mine
        if not speed.seconds:
            return None
        left = np.cumsum(self.sizes[part])
        if float(left[-1]) * speed.seconds / max(speed.nbytes, 1) < self._long:
            return None
        middle = int(np.searchsorted(left, left[-1] / 2))
        return int(part[begins[min(int(np.searchsorted(begins, middle)), begins.size - 1)]])


# ---------------------------------------------------------------------- ranks of one MPI job


def _on_ranks(plan: Plan, number: int) -> int:
    """Be one of the ranks; the first has SLURM start the job anew if its time was too short."""
    from hpcio.running import ranks

    submission = submissions.read(plan, number)

    def main(executor: ranks.Ranks) -> int:
        known = {log.path for log in read_logs(plan)}
        try:
            plan.run(
                executor, retries=submission.retries, max_failed=submission.max_failed,
                gaps=submission.gaps, progress=False,
            )  # fmt: skip
        except Interrupted as error:
            print(f"hpcio: {error}", file=sys.stderr, flush=True)
            if not executor.ended:
                tried = tried_since(plan, known).blocks.size
                vain = bool(environment.restarts()) and not tried
                return again(plan, environment.job(), in_vain=vain)
            return ENDED
        return 0

    return ranks.call(main) or 0


# ---------------------------------------------------------------------- the end


def finish(plan: Plan, number: int) -> int:
    """Publish the result of a submission if it is whole, and say what came of it.

    Returns
    -------
    int
        Exit status: 0 if the result is there and every byte of it verified.
    """
    from hpcio.results.verify import verify
    from hpcio.running.run import Nobody, record

    submission: Submission = submissions.read(plan, number)
    status = "incomplete"
    try:
        plan.run(Nobody(), gaps=submission.gaps, max_failed=submission.max_failed, progress=False)
        known = {plan.rundir.journals / name for name in submission.known}
        message = f"{record(Ledger.read(plan), known)}\n{verify(plan.out)}"
        status = "complete"
    except HpcioError as error:
        message = f"{error}\nIn the shell: hpcio resume {shlex.quote(plan.out)}"
    ledger = Ledger.read(plan)
    failures = ledger.failures()
    finished = int(ledger.done.sum())
    said = {
        "submission": number, "status": status, "time": time.time(), "done": finished,
        "failed": len(failures), "missing": len(plan) - finished - len(failures),
        "message": message,
    }  # fmt: skip
    path = plan.run_directory / "outcome.json"
    try:
        write_whole(path, json.dumps(said, indent=1).encode())
    except OSError as error:
        raise as_output_error(error, path) from error
    print(message)
    for failure in failures[:MOST_TRACEBACKS]:
        print(f"\n--- block {failure.block} (trial {failure.trial})\n{failure.traceback}")
    return 0 if status == "complete" else 1


if __name__ == "__main__":
    main()
