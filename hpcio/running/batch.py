"""The one loop that every executor calls: it reads, computes, writes and journals blocks."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import _exit, register_at_fork
from time import perf_counter
from typing import Any

import numpy as np

from hpcio.errors import Cause, HpcioError, SourceError, as_output_error
from hpcio.files import checksum
from hpcio.function import pack_details
from hpcio.journals import DETAILS, DONE, HELD
from hpcio.recording import LARGE, ReadAhead
from hpcio.running.attempt import Attempt, Stop
from hpcio.running.clock import OutOfTime, TrialClock

__all__ = ["BatchDone", "run_batch"]

# How long, in seconds, a result may be held back to be written together with others. A worker that
# is killed loses these, and those that are being written: no more than a second computes.
FLUSH_EVERY = 0.5
# How often, in seconds, a worker looks whether it should go on.
TICK_EVERY = 0.05
# So many blocks are turned into numbers of Python at a time.
_ROWS = 1 << 12
# How many forks lie between the first process and this one: a copy that the function has forked
# must not go on as if it were this process.
_forks = 0


def _is_a_copy() -> None:
    global _forks  # noqa: PLW0603  (looked up with each block)
    _forks += 1


register_at_fork(after_in_child=_is_a_copy)


@dataclass(frozen=True)
class BatchDone:
    """What comes back from a batch: a few numbers, never results.

    Attributes
    ----------
    done, failed : int
        Blocks that are journalled so.
    nbytes : int
        Bytes of results.
    reached : int
        How many of the blocks, from the first on, need not be tried again.
    """

    done: int
    failed: int
    nbytes: int
    reached: int


def run_batch(attempt: Attempt, blocks: np.ndarray) -> BatchDone:
    """Read, compute and write a run of blocks, and journal each.

    When it returns, the data are on their way to the disk; `Attempt.sync` waits for them.

    A block that raises is tried again as often as the attempt allows, then journalled as
    failed; the others go on. Trouble with the recording or the output ends the batch.

    Parameters
    ----------
    attempt : Attempt
    blocks : numpy.ndarray of int, shape (n,)
        Numbers of blocks, ascending.

    Returns
    -------
    BatchDone

    Raises
    ------
    SourceError, OutputError
        What was journalled before stays.
    """
    batch = _Batch(attempt, np.asarray(blocks, np.int64))
    try:
        batch.run()
    except HpcioError:
        raise
    except OSError as error:  # of the journal
        raise as_output_error(error, attempt.plan.run_directory) from error
    finally:
        attempt.computing = False
    attempt.begin_sync()
    return batch.done()


class _Batch:
    """A batch at work. It costs microseconds a block: what does not change is looked up once."""

    def __init__(self, attempt: Attempt, blocks: np.ndarray) -> None:
        plan = attempt.plan
        self._attempt, self._blocks = attempt, blocks
        self._journal, self._writer = attempt.journal, attempt.writer
        self._func, self._arguments = attempt.func, attempt.arguments
        self._shared = attempt.arguments.shared
        # Without a limit of time nothing is asked with each trial.
        clock, call = attempt.clock, attempt.compute
        self._compute = call if clock is None else self._in_time(clock, call)
        self._args, kwargs = attempt.arguments.of(0)
        self._kwargs = {**kwargs, **attempt.extra}
        self._expected = plan.expected(self._blocks)
        self._dtype, self._casting = plan.dtype, plan.casting
        ahead = ReadAhead(
            attempt.reader, plan.blocks.input_kinds, plan.blocks.input_kind[blocks],
            plan.blocks.base[blocks], attempt.pool,
        )  # fmt: skip
        self._take, self._again = ahead.take, ahead.again
        self._write, self._append = attempt.writer.write, attempt.journal.append
        # Records of results that the writer still holds back; they follow their bytes.
        self._held: list[tuple[int, dict[str, Any]]] = []
        # Of several results, the layout of those that are not averaged.
        self._kept = plan.target if plan.several and plan.averaged else None
        self._written = self._failed = self._nbytes = self._tried = 0
        # When the last block was stored, or has failed.
        self._now = self._flushed = perf_counter()
        self._forks = _forks

    def run(self) -> None:
        """Try each block, in order."""
        attempt, plan, blocks = self._attempt, self._attempt.plan, self._blocks
        shape_index, trial = plan.target.shape_index[blocks], plan.blocks.trial[blocks]
        ticked = self._now
        self._writer.begin(blocks, self._journal)
        try:
            for k, (block, index, number) in enumerate(_numbers(blocks, shape_index, trial)):
                if block >= attempt.limit:
                    break
                try:
                    self._try(k, block, number, self._expected[index])
                except OutOfTime:
                    self._leave(block)
                self._tried = k + 1
                now = self._now
                if now - ticked > TICK_EVERY:
                    ticked = now
                    self._tick(now)
                if attempt.stopping:
                    break
        except (Stop, KeyboardInterrupt):  # what is done before the block at hand stays
            # Ctrl-C may come at any time; a writer that was at work must not be asked for more.
            if attempt.computing or attempt.left is not None:
                self._flush()
            raise
        self._flush()

    def done(self) -> BatchDone:
        """The record of the batch."""
        held = self._held  # what a writer could not flush, such as a part of a sum, is lost
        reached = int(np.searchsorted(self._blocks, held[0][0])) if held else self._tried
        return BatchDone(self._written - len(held), self._failed, self._nbytes, reached)

    # ---- one block

    def _try(self, k: int, block: int, number: int, expected: tuple[Any, ...]) -> None:
        """Read and compute a block, as often as it may be tried, and keep what comes of it."""
        attempt, tries = self._attempt, 0
        while True:
            started, read = perf_counter(), 0.0
            try:
                trial = self._again(k) if tries else self._take(k)
                read = perf_counter()
                if not self._shared:
                    self._args, own = self._arguments.of(number)
                    self._kwargs = {**own, **attempt.extra}
                attempt.computing = True
                result, details = self._compute(
                    self._func, trial, self._args, self._kwargs, expected, self._dtype,
                    casting=self._casting,
                )  # fmt: skip
                attempt.computing = False
                if _forks != self._forks:
                    _exit(0)
            except (Exception, SystemExit) as error:
                attempt.computing = False
                if _forks != self._forks:
                    _exit(1)
                if attempt.left is not None:
                    raise attempt.left from error
                if not read and not self._is_of_block(error):
                    raise
                tries += 1
                if tries > attempt.retries:
                    self._fail(block, *_why(error))
                    return
            except BaseException:
                if _forks != self._forks:  # a copy must not close what is not its own
                    _exit(1)
                raise
            else:
                if attempt.left is not None:
                    raise attempt.left
                # The trial is let go of only now: its memory may be that of the result. When
                # this function returns, the reader may use it for the next trial.
                self._store(block, result, details, started, read)
                return

    def _is_of_block(self, error: BaseException) -> bool:
        """Whether a trial cannot be read for itself: its chunk is damaged, or has no filter.

        Trouble of the disk, and another recording than was planned, end the batch.
        """
        if isinstance(error, MemoryError):
            return True
        if not isinstance(error, SourceError) or error.errno is not None:
            return False
        self._attempt.plan.source.check_unchanged()
        return True

    def _in_time(self, clock: TrialClock, call: Callable[..., Any]) -> Callable[..., Any]:
        """What computes a trial and is watched by a clock."""

        def in_time(*given: Any, **named: Any) -> Any:
            clock.begin(int(self._blocks[self._tried]))
            try:
                return call(*given, **named)
            finally:
                clock.end()

        return in_time

    def _leave(self, block: int) -> None:
        """Record a block as failed whose trial takes longer than it may."""
        attempt = self._attempt
        attempt.computing, attempt.left = False, None
        assert attempt.clock is not None
        attempt.clock.end()  # it may have been left just before
        self._fail(block, attempt.clock.why(), "time")

    def _fail(self, block: int, why: str, cause: Cause) -> None:
        self._journal.note_failure(block, why, cause)
        self._writer.mark_failed(block)
        if self._held and self._writer.is_flushed:
            self._flush()
        self._failed += 1
        self._now = perf_counter()
        self._attempt.may_fail -= 1
        if self._attempt.may_fail < 0:
            self._attempt.request_stop()
        self._tick(self._now)  # others may count failures, and the next block may take long

    def _store(
        self, block: int, result: np.ndarray, details: Any, started: float, read: float
    ) -> None:
        """Write a result, and journal it when it outlives this process."""
        computed = perf_counter()
        if details:
            self._journal.note(DETAILS, block, pack_details(details))
        # What is averaged comes last in a record.
        kept = result if self._kept is None else result[: self._kept.shape_of(block)[0]]
        size = kept.nbytes
        # The checksum of a large result is made while it is written.
        checking = self._attempt.pool.submit(checksum, kept) if size >= LARGE else None
        try:
            file, offset = self._write(block, result)
        except HpcioError:
            raise
        except OSError as error:
            raise as_output_error(error, self._attempt.plan.run_directory) from error
        check = checksum(kept) if checking is None else checking.result()
        self._now = perf_counter()
        io = read - started + self._now - computed
        if self._writer.is_flushed and not self._held:
            self._append(
                DONE, block, file=file, offset=offset, check=check, nbytes=size,
                compute=computed - read, io=io,
            )  # fmt: skip
        else:
            said = {"file": file, "offset": offset, "check": check, "nbytes": size,
                    "compute": computed - read, "io": io}  # fmt: skip
            self._hold(block, said)
        self._written += 1
        self._nbytes += size

    # ---- what is held back

    def _hold(self, block: int, said: dict[str, Any]) -> None:
        self._held.append((block, said))
        self._journal.append(HELD, block)  # whoever finds this worker dead sees how far it came
        if self._writer.is_flushed:
            self._flush()

    def _flush(self) -> None:
        self._writer.flush()
        if self._writer.is_flushed:
            for block, said in self._held:
                self._journal.append(DONE, block, **said)
            self._held.clear()

    # ---- now and then

    def _tick(self, now: float) -> None:
        if self._held and now - self._flushed > FLUSH_EVERY:
            self._flush()
            self._flushed = now
        if self._attempt.on_tick is not None:
            self._attempt.on_tick(self._attempt)
        if self._attempt.sync_is_due():
            self._attempt.begin_sync()


def _numbers(*columns: np.ndarray) -> Iterator[tuple[int, ...]]:
    """The rows of some columns, as numbers of Python: of a million rows, all are much memory."""
    for first in range(0, len(columns[0]), _ROWS):
        yield from zip(*(c[first : first + _ROWS].tolist() for c in columns), strict=True)


def _why(error: BaseException) -> tuple[str, Cause]:
    """The traceback of a block that raised, and whether it was for want of memory."""
    text, at = traceback.format_exc(), error
    while not isinstance(at, MemoryError):
        if (before := at.__cause__ or at.__context__) is None:
            return text, "raised"
        at = before
    return (
        text + "MemoryError: the trial needs more memory than its worker may use\n",
        "memory",
    )
