"""The process of an array task that works."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import numpy as np

from hpcio.errors import HpcioError
from hpcio.journals import measure_usage, write_usage
from hpcio.running import Attempt, Stop, run_batch
from slurm.site import environment
from slurm.tasks.assignment import Assignment, Part, Whereabouts
from slurm.tasks.claims import Claim, Claims
from slurm.tasks.ending import AGAIN, DONE, ENDED
from slurm.tasks.heartbeats import Heartbeat
from slurm.tasks.helping import Helper, Progress, left_of

__all__ = ["TaskWorker"]

# How often a task looks whether others have taken over a part of its batch, in seconds.
_LOOK_EVERY = 5.0
# A task tells others of its failures whenever there is one more such part of how many may fail.
_TOLD_AT_ONCE = 100
# How many seconds before its end a task leaves the block at hand, to sync and go.
_TO_GO = 60


class TaskWorker:
    """Runs the batches of its task, then those that nobody has begun, then what others left.

    Parameters
    ----------
    assignment : Assignment
    whereabouts : Whereabouts
        Where to tell what is at hand.
    told : list of int
        Signals that have come already.
    before : collection of str
        Attempts of this start of the task that have died; who waits for this one knows of what.
    """

    def __init__(
        self,
        assignment: Assignment,
        whereabouts: Whereabouts,
        told: list[int],
        before: Collection[str] = (),
    ) -> None:
        self._started = time.time()
        plan, submission = assignment.plan, assignment.submission
        self._assignment, self._whereabouts, self._told = assignment, whereabouts, told
        self._before = before
        self._end, self._max_failed = len(plan), submission.max_failed
        self._again = self._ended = False
        self._looked = float("-inf")
        self._told_failed = 0
        self._claim: Claim | None = None
        # Whether all that was done is safe, and others know that nothing is left of it.
        self._told_done = False
        self._progress = Progress(plan, submission)
        environment.limit_memory()
        self._attempt = Attempt(
            plan, assignment.label, retries=submission.retries,
            max_failed=submission.max_failed, trial_time=submission.trial_time, on_tick=self._tick,
        )  # fmt: skip
        self._claims = Claims(plan, submission.number, self._attempt.name, first=submission.first)
        self._helper = Helper(assignment, self._attempt, self._claims, self._progress, before)

    def run(self) -> int:
        """Work until nothing is left to do, or the end has come; an exit status."""
        with self._attempt, self._keeping_usage(), self._heartbeat():
            self._hear_signals()
            try:
                with contextlib.suppress(Stop):
                    self._take_all()
                self._wind_up()
            except HpcioError:
                # No block is to blame: whoever takes over does not count this as a death.
                with contextlib.suppress(HpcioError):
                    self._leave()
                raise
        if self._again and self._has_work():
            return AGAIN
        if self._helper.nothing_left():
            self._whereabouts.is_last = True
        return ENDED if self._ended else DONE

    def _heartbeat(self) -> contextlib.closing[Heartbeat]:
        plan, stale = self._assignment.plan, self._assignment.submission.stale
        return contextlib.closing(Heartbeat(plan, self._attempt.name, stale=stale))

    @contextmanager
    def _keeping_usage(self) -> Iterator[None]:
        """Measure what this process uses, and keep it in the run directory."""
        asked = self._assignment.submission
        try:
            yield
        finally:
            used = measure_usage(
                self._started, self._assignment.label,
                memory_asked=asked.memory or environment.memory(),
                walltime_asked=asked.seconds, cpus_asked=asked.cpus,
            )  # fmt: skip
            # A task does not fail because its usage cannot be kept.
            with contextlib.suppress(HpcioError):
                write_usage(self._assignment.plan, self._attempt.name, used)

    def _wind_up(self) -> None:
        """Make safe what is done, and let others know what is not."""
        if self._attempt.may_fail < 0:
            self._claims.stop()
        self._tell_failed(1)
        if not self._told_done:
            self._attempt.sync()
        self._leave(again=self._again)

    def _leave(self, *, again: bool = False) -> None:
        if self._claim is not None:
            self._claims.leave(self._claim, again=again)

    def _has_work(self) -> bool:
        """Whether it was at work, not only waiting for others, when its time was over."""
        if self._claim is None:
            self._claims.look()
        return self._claim is not None or self._helper.unclaimed() is not None

    # ---- the end

    def _hear_signals(self) -> None:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, self._hear)
        for told in self._told:  # before there was somebody to hear it
            self._hear(told, None)

    def _hear(self, number: int, _: object) -> None:
        """Hear that the end comes soon (USR1), comes now (TERM), or was soon and is now (ALRM)."""
        if number == signal.SIGUSR1 and not self._ended:
            self._again = True
            signal.alarm(max(1, self._assignment.submission.signal - _TO_GO))
        if number == signal.SIGTERM:
            self._ended, self._again = True, False
        self._attempt.request_stop(at_once=number != signal.SIGUSR1)

    # ---- batches

    def _take_all(self) -> None:
        if self._assignment.submission.known:
            self._claims.look()  # which tells whose journals need not be read
        for batch in self._assignment.batches:
            self._take_own(batch)
            if self._helper.over:
                return
        self._claims.look()
        while (free := self._helper.unclaimed()) is not None:
            # Names are listed again only if another was faster: they are as many as all batches.
            if not self._take(free):
                self._claims.look()
            if self._helper.over:
                return
        self._tell_done()
        while (left := self._helper.abandoned()) is not None:
            self._take(*left)
            if self._helper.over:
                return
            self._tell_done()

    def _tell_done(self) -> None:
        """Make safe what is done; then nobody need look at it any more."""
        if not self._told_done:
            self._attempt.sync()
            self._claims.tell_done()
            self._told_done = True

    def _take_own(self, batch: int) -> None:
        """Run a batch of this task, unless another task has taken it."""
        # To try costs less than to look at the names of all batches of the run.
        if self._claims.latest(batch) is None and self._take(batch):
            return
        self._claims.look()
        claim = self._claims.latest(batch)
        # SLURM starts a task again only when it has ended, so claims of its earlier attempts are
        # void. If such an attempt lives on, cut off, it does no harm.
        if claim is None:
            self._take(batch)
        elif self._assignment.is_own(claim.owner):
            if claim.owner not in self._before:
                self._spare(claim)
            self._take(batch)

    def _spare(self, claim: Claim) -> None:
        """Note at which block this task, before it was started again, has died as a whole."""
        self._helper.look_at(claim.batch)
        blocks = self._assignment.work.batches[claim.batch]
        left = left_of(self._claims, self._progress, claim, blocks, self._end)
        if left.size:
            self._helper.spare(claim, left)

    def _take(self, batch: int, start: int = 0) -> bool:
        """Claim what is left of a batch from a block on, and run it.

        Returns
        -------
        bool
            False if another was faster.
        """
        blocks = self._assignment.work.batches[batch]
        # A task of an earlier submission, of which SLURM has lost sight, may have done some.
        is_claimed = self._claims.latest(batch) is not None
        if is_claimed or self._assignment.submission.known:
            self._helper.look_at(batch)
            blocks = self._progress.left(blocks)
        blocks = blocks[blocks >= start]
        if not blocks.size:
            # Or it would be looked at again and again.
            return is_claimed or self._claims.take(batch, 0) is not None
        self._claim = claim = self._claims.take(batch, int(blocks[0]))
        if claim is not None and self._run(claim, blocks):
            self._claim = None
        return claim is not None

    def _run(self, claim: Claim, blocks: np.ndarray) -> bool:
        """Run blocks of a batch; whether we are through with the claim."""
        self._told_done = False
        until = self._claims.until(claim, end=self._end)
        self._attempt.limit_to(until)
        blocks = blocks[blocks < until]
        self._whereabouts.tell(Part(self._attempt.name, claim.batch, claim.start, until))
        done = run_batch(self._attempt, blocks)
        self._tell_failed(1)
        # If the task stops before, it does not leave the claim: another goes on with the rest, or
        # this one, started again.
        return not self._attempt.stopping or done.reached >= blocks.size

    def _tick(self, _: Attempt) -> None:
        """While a batch is at work, see whether somebody has taken over a part of it."""
        now = time.monotonic()
        # Each is told in a file of its own.
        self._tell_failed(max(1, self._max_failed // _TOLD_AT_ONCE))
        if self._claim is None or now - self._looked < _LOOK_EVERY:
            return
        with contextlib.suppress(OSError):
            # Names are listed only if there is something to find.
            if self._failed or self._claims.is_taken_over(self._claim):
                self._claims.look()
        self._looked = now
        self._attempt.limit_to(self._claims.until(self._claim, end=self._end))
        self._stop_if_too_many()
        if self._helper.over:
            self._attempt.request_stop()

    @property
    def _failed(self) -> int:
        """How many blocks have failed here."""
        return self._max_failed - self._attempt.may_fail

    def _tell_failed(self, least: int) -> None:
        """Let others count failures, if there are so many that they do not know of."""
        if self._failed < self._told_failed + least:
            return
        self._told_failed = self._failed
        # Of two that tell at the same time, one at least sees both.
        self._claims.tell_failed(self._failed)
        with contextlib.suppress(OSError):
            self._claims.look()
        self._stop_if_too_many()

    def _stop_if_too_many(self) -> None:
        if self._claims.failed + self._failed > self._max_failed:
            self._claims.stop()
            self._claims.stopped = True
