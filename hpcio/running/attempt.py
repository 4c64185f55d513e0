"""One process's try at a part of a plan: what it holds open, how it is made safe and stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Literal, Self

import numpy as np

from hpcio.errors import HpcioError, SourceError, as_output_error
from hpcio.function import FreshArguments, Reduction, compute, compute_record, takes
from hpcio.journals import LOST, SYNC, attempt_name, open_journal, versions_here
from hpcio.planning import Plan
from hpcio.recording import Reader
from hpcio.running.clock import TrialClock, stacks_of
from hpcio.writers import backend_of

__all__ = ["Attempt", "Stop"]

# How often, in seconds, the data of a long batch are made safe against a crash.
SYNC_EVERY = 5.0


def _starting(reduction: Reduction) -> Callable[..., tuple[np.ndarray, Any]]:
    """What computes a block and makes a state of its result, where a user's functions do so.

    What ``start`` raises is of that trial, like anything that the compute function raises.
    """

    def started(*given: Any, **named: Any) -> tuple[np.ndarray, Any]:
        result, details = compute(*given, **named)
        return reduction.start(result), details

    return started


class Stop(BaseException):
    """Raised inside a compute function to leave a block that nobody waits for any more."""


class Attempt:
    """One process's try at a part of a plan: its recording, files and journal, held open.

    Parameters
    ----------
    plan : Plan
        With a run directory (see `hpcio.journals.prepare`).
    label : str
        Whose attempt it is, such as ``w0``; a random suffix makes the name unique.
    retries : int
        How often a block that raises is tried again.
    max_failed : int, optional
        How many blocks may fail here before the attempt stops; by default all.
    trial_time : float, optional
        After how many seconds a trial has failed; by default it may take any time.
    when_stuck : {"end", "wait"}
        Whether this process ends if a trial takes too long and cannot be left.
    on_tick : callable, optional
        Called with the attempt some times a second while it works, between two blocks; it may
        call `request_stop` and `limit_to`.

    Attributes
    ----------
    name : str
    stopping : bool
        Whether it ends after the block at hand; see `request_stop`.
    may_fail : int
        How many blocks may fail yet; negative if there were too many.
    compute : callable
        Calls the function and checks its result; see `hpcio.function.compute`.
    limit : int
        Blocks from this number on are left to somebody else; see `limit_to`.
    """

    def __init__(
        self,
        plan: Plan,
        label: str,
        *,
        retries: int = 0,
        max_failed: int | None = None,
        trial_time: float | None = None,
        when_stuck: Literal["end", "wait"] = "end",
        on_tick: Callable[[Attempt], None] | None = None,
    ) -> None:
        self.plan = plan
        self.name = attempt_name(label)
        self.retries = retries
        self.may_fail = len(plan) if max_failed is None else max_failed
        self.on_tick = on_tick
        self.stopping = False
        self.limit = len(plan)
        # Whether the compute function is running: only then may `Stop` be raised.
        self.computing = False
        # What was raised inside the function to leave it; it may have caught that.
        self.left: type[BaseException] | None = None
        self.func = plan.load_function()
        # The plan drives the function itself; its dict branch is made of the same pieces.
        self.arguments = FreshArguments(plan.arguments())
        self.extra = {}
        if takes(self.func, "chunkShape"):
            self.extra["chunkShape"] = plan.largest_shape()
        reduction = plan.load_reduction()
        self.compute: Callable[..., Any] = compute_record if plan.several else compute
        if reduction is not None:
            self.compute = _starting(reduction)
        with ExitStack() as undo:
            self.reader = Reader(plan.source, axis=plan.blocks.axis)
            undo.callback(self.reader.close)
            try:
                self.journal = open_journal(plan, self.name, label, versions=versions_here(plan))
            except OSError as error:
                raise as_output_error(error, plan.run_directory) from error
            undo.callback(self.journal.close)
            self.writer = backend_of(plan).open_writer(plan, self.name)
            undo.callback(self.writer.close)
            self.clock = None
            if trial_time is not None:
                stacks = stacks_of(plan, self.name) if when_stuck == "end" else None
                self.clock = TrialClock(trial_time, self.leave, stacks)
            undo.pop_all()
        # Threads to read ahead, for checksums, and to sync; they start when first used.
        self.pool = ThreadPoolExecutor(3, thread_name_prefix="hpcio")
        self._syncing: tuple[Future[None], int] | None = None
        self._synced = time.monotonic()

    # ---- when it ends

    def request_stop(self, *, at_once: bool = False) -> None:
        """Let the attempt end after the block at hand; with `at_once`, leave that block.

        Raises
        ------
        Stop
            With `at_once`, if the function is computing. So call it in the thread that computes,
            from a handler of signals.
        """
        self.stopping = True
        if at_once:
            self.leave(Stop)

    def leave(self, by: type[BaseException]) -> None:
        """Raise an exception inside the function, if it is computing, to leave its block.

        The function may catch it. What it returns, or raises instead, does not count then.
        """
        if self.computing:
            self.left = by
            raise by

    def limit_to(self, block: int) -> None:
        """Leave blocks from this number on to somebody else."""
        self.limit = block

    # ---- what is safe

    def begin_sync(self) -> None:
        """Begin to make all blocks so far safe against a crash, while work goes on."""
        self._end_sync()
        files, journal = self.writer.prepare_sync(), self.journal

        def sync() -> None:
            files()
            journal.sync_notes()
            if journal.shared:
                journal.sync()

        self._syncing = self.pool.submit(sync), self.journal.count
        self._synced = time.monotonic()

    def sync_is_due(self) -> bool:
        """Whether `SYNC_EVERY` has passed since the last one began."""
        return time.monotonic() - self._synced > SYNC_EVERY

    def _end_sync(self) -> None:
        """Wait for the data that are on their way, then record that they are safe."""
        if self._syncing is None:
            return
        (future, count), self._syncing = self._syncing, None
        try:
            future.result()
        except OSError as error:
            self._lost()
            raise as_output_error(error, self.plan.run_directory) from error
        try:
            self.plan.source.check_unchanged()
        except SourceError:
            # Nobody knows which blocks since the last time were read before that.
            self.journal.append(LOST)
            raise
        self.journal.append(SYNC, offset=count)

    def _lost(self) -> None:
        # After a failed fsync the system has forgotten what it could not write, though it may
        # still read it back from memory. So these blocks must be computed again.
        self.journal.append(LOST)

    def sync(self) -> None:
        """Make all blocks so far safe against a crash: data first, then the journal."""
        self.begin_sync()
        self._end_sync()
        try:
            self.journal.sync()
        except OSError as error:
            raise as_output_error(error, self.plan.run_directory) from error

    def close(self) -> None:
        """Let go of all files; what was journalled stays."""
        if self.clock is not None:
            self.clock.close()
        self.pool.shutdown(cancel_futures=True)
        try:
            with ExitStack() as open_yet:
                for each in (self.reader, self.writer, self.journal):
                    open_yet.callback(each.close)
                if self._syncing is not None:
                    future, _ = self._syncing
                    if not future.cancelled() and future.exception() is not None:
                        self._lost()
        except HpcioError:
            raise
        except OSError as error:
            raise as_output_error(error, self.plan.run_directory) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
