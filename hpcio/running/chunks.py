"""The one loop that every executor calls, and how blocks are divided into chunks."""

from __future__ import annotations

import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from hpcio.errors import HpcioError, WorkerError
from hpcio.files.slab import as_output_error, checksum
from hpcio.function.blocks import compute, pack_details
from hpcio.function.functions import takes
from hpcio.journals.journal import DETAILS, DONE, FAILED, HELD, LOST, SYNC
from hpcio.journals.ledger import Tried, attempt_name, open_journal
from hpcio.planning.plan import Plan
from hpcio.recording.reading import LARGE, ReadAhead, Reader
from hpcio.writers import module_of

__all__ = [
    "Attempt",
    "ChunkDone",
    "Deaths",
    "Stop",
    "blame",
    "divide",
    "from_runs",
    "how_it_ended",
    "run_chunk",
    "runs",
]

# How often, in seconds, the data of a long chunk are made safe against a crash.
SYNC_EVERY = 5.0
# How long, in seconds, a result may be held back to be written together with others.
SETTLE_EVERY = 1.0
# How often, in seconds, a worker looks whether it should go on.
PULSE_EVERY = 0.05
# So many deaths of workers in a row without one finished block are not due to single blocks.
FRUITLESS = 16


@dataclass(frozen=True)
class ChunkDone:
    """What comes back from a chunk: a few numbers, never results.

    Attributes
    ----------
    done, failed : int
        Blocks that are journalled so.
    nbytes : int
        Of results.
    reached : int
        So many of the blocks, from the first on, need not be tried again.
    """

    done: int
    failed: int
    nbytes: int
    reached: int


class Stop(BaseException):
    """Raised inside a compute function to leave a block that nobody waits for any more."""


class Attempt:
    """One process's try at a part of a plan: its source, files and journal, held open.

    Parameters
    ----------
    plan : Plan
        With a run directory (see `hpcio.journals.rundir.prepare`).
    label : str
        Whose attempt it is, such as ``w0``; a random suffix makes the name unique.
    retries : int
        How often a block that raises is tried again.
    max_failed : int, optional
        How many blocks may fail here before the attempt stops; by default all.
    pulse : callable, optional
        Called every `PULSE_EVERY` seconds of work; it may set `stopping`.

    Attributes
    ----------
    stopping : bool
        Set it to end after the block at hand.
    may_fail : int
        How many blocks may fail yet before the attempt stops by itself.
    until : int
        Blocks from this number on are left to somebody else.
    computing : bool
        Whether the compute function is running: only then may `Stop` be raised.
    """

    def __init__(
        self,
        plan: Plan,
        label: str,
        *,
        retries: int = 0,
        max_failed: int | None = None,
        pulse: Callable[[], None] | None = None,
    ) -> None:
        self.plan = plan
        self.name = attempt_name(label)
        self.retries = retries
        self.may_fail = len(plan) if max_failed is None else max_failed
        self.pulse = pulse
        self.stopping = False
        self.computing = False
        self.until = len(plan)
        self.func = plan.live or plan.function.load()
        # The plan drives the function itself; its dict branch is made of the same pieces.
        self.arguments = plan.arguments()
        self.extra = {}
        if takes(self.func, "chunkShape"):
            self.extra["chunkShape"] = plan.target.largest_shape()
        self.reader = Reader(plan)
        try:
            self.journal = open_journal(plan, self.name, label)
        except OSError as error:
            self.reader.close()
            raise as_output_error(error, plan.run_directory) from error
        self.writer = module_of(plan).open_writer(plan, self.name)
        # Threads to read ahead, for checksums, and to sync; they start when first used.
        self.pool = ThreadPoolExecutor(3, thread_name_prefix="hpcio")
        self._syncing: tuple[Future[None], int] | None = None
        self._synced = time.monotonic()

    def begin_sync(self) -> None:
        """Begin to make all blocks so far safe against a crash, while work goes on."""
        self._end_sync()
        files, journal = self.writer.syncing(), self.journal

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
            # After a failed fsync the system has forgotten what it could not write, and
            # would even read it back from memory: these blocks are to be computed again.
            self.journal.append(LOST)
            raise as_output_error(error, self.plan.run_directory) from error
        self.journal.append(SYNC, offset=count)

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
        self.pool.shutdown(cancel_futures=True)
        try:
            self.journal.close()
        finally:
            self.writer.close()
            self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run_chunk(attempt: Attempt, blocks: np.ndarray) -> ChunkDone:
    """Read, compute and write a run of blocks, and journal each.

    When it returns, the data are on their way to the disk; `Attempt.sync` waits for them.

    A block that raises is tried again as often as the attempt allows, then journalled as
    failed; the others go on. Trouble with the source or the output ends the chunk.

    Parameters
    ----------
    attempt : Attempt
    blocks : numpy.ndarray of int, shape (n,)
        Numbers of blocks, ascending.

    Returns
    -------
    ChunkDone

    Raises
    ------
    SourceError, OutputError
        What was journalled before stays.
    """
    plan, journal, writer = attempt.plan, attempt.journal, attempt.writer
    blocks = np.asarray(blocks, np.int64)
    shapes, dtype, casting = plan.target.shapes, plan.dtype, plan.casting
    todo = list(
        zip(plan.blocks.form[blocks].tolist(), plan.blocks.base[blocks].tolist(), strict=True)
    )
    ahead = ReadAhead(attempt.reader, plan.blocks.forms, todo, attempt.pool)
    write, append, submit = writer.write, journal.append, attempt.pool.submit
    # Records of results that the writer still holds back; they follow their bytes.
    pending: list[tuple[int, dict[str, Any]]] = []

    def settle() -> None:
        writer.settle()
        if writer.settled:
            for block, said in pending:
                append(DONE, block, **said)
            pending.clear()

    func, clock = attempt.func, time.perf_counter
    args, kwargs = attempt.arguments.args, {**attempt.arguments.kwargs, **attempt.extra}
    vary, arguments = attempt.arguments.vary, attempt.arguments

    done = failed = nbytes = tried = 0
    pulsed = settled = clock()
    writer.begin(blocks, journal)
    numbers = zip(
        blocks.tolist(), plan.target.form[blocks].tolist(), plan.blocks.trial[blocks].tolist(),
        strict=True,
    )  # fmt: skip
    try:
        for k, (block, out, trial_number) in enumerate(numbers):
            if block >= attempt.until:
                break
            if vary:
                args, own = arguments.of(trial_number)
                kwargs = {**own, **attempt.extra}
            tries = 0
            while True:
                started = clock()
                trial = ahead.again(k) if tries else ahead.take(k)
                reading = clock()
                try:
                    attempt.computing = True
                    result, details = compute(
                        func, trial, args, kwargs, shapes[out], dtype, casting=casting
                    )
                    attempt.computing = False
                except (Exception, SystemExit) as error:  # noqa: BLE001  (it is journalled)
                    attempt.computing = False
                    tries += 1
                    if tries <= attempt.retries:
                        continue
                    journal.note(FAILED, block, _why(error, block).encode())
                    writer.skip(block)
                    if pending and writer.settled:
                        settle()
                    failed += 1
                    attempt.may_fail -= 1
                    if attempt.may_fail < 0:
                        attempt.stopping = True
                    break
                computed = clock()
                if details:
                    journal.note(DETAILS, block, pack_details(details))
                size = result.nbytes
                # The checksum of a large result is made while it is written.
                checking = submit(checksum, result) if size >= LARGE else None
                try:
                    file, offset = write(block, result)
                except HpcioError:
                    raise
                except OSError as error:
                    raise as_output_error(error, plan.run_directory) from error
                check = checksum(result) if checking is None else checking.result()
                checking = None
                ended = clock()
                if writer.settled and not pending:
                    append(
                        DONE, block, file=file, offset=offset, check=check, nbytes=size,
                        compute=computed - reading, io=reading - started + ended - computed,
                    )  # fmt: skip
                else:
                    pending.append((block, {
                        "file": file, "offset": offset, "check": check, "nbytes": size,
                        "compute": computed - reading, "io": reading - started + ended - computed,
                    }))  # fmt: skip
                    append(HELD, block)  # whoever finds this worker dead sees how far it came
                    if writer.settled:
                        settle()
                done += 1
                nbytes += size
                # The reader may use the memory again, unless the function kept the trial.
                del trial, result
                break
            tried = k + 1
            now = clock()
            if now - pulsed > PULSE_EVERY:
                pulsed = now
                if pending and now - settled > SETTLE_EVERY:
                    settle()
                    settled = now
                if attempt.pulse is not None:
                    attempt.pulse()
                if attempt.sync_is_due():
                    attempt.begin_sync()
            if attempt.stopping:
                break
        settle()
    except Stop:  # what is done before the block at hand stays
        settle()
        raise
    except HpcioError:
        raise
    except OSError as error:  # of the journal
        raise as_output_error(error, plan.run_directory) from error
    finally:
        attempt.computing = False
    attempt.begin_sync()
    # What a writer has not been able to settle, such as a part of a sum, was in vain.
    reached = int(np.searchsorted(blocks, pending[0][0])) if pending else tried
    return ChunkDone(done - len(pending), failed, nbytes, reached)


def _why(error: BaseException, block: int) -> str:
    """The traceback of a block that raised."""
    text = traceback.format_exc()
    if isinstance(error, MemoryError):
        text += f"MemoryError: block {block} needs more memory than its worker may use\n"
    return text


def divide(
    sizes: np.ndarray, parts: int, *, together: np.ndarray | None = None
) -> list[np.ndarray]:
    """Cut positions ``0 .. n-1`` into runs of about equal bytes.

    Parameters
    ----------
    sizes : numpy.ndarray, shape (n,)
        Bytes of each.
    parts : int
        How many runs at the most.
    together : numpy.ndarray, shape (n,), optional
        Neighbours with equal values are not separated.

    Returns
    -------
    list of numpy.ndarray of int64
        None of them empty; together every position once, in order.
    """
    count = sizes.size
    if not count:
        return []
    parts = max(1, min(parts, count))
    work = np.cumsum(np.maximum(sizes, 1), dtype=np.float64)
    # A run ends where the work before the middle of a block passes its share.
    middle = work - np.maximum(sizes, 1) / 2
    part = np.minimum((middle / work[-1] * parts).astype(np.int64), parts - 1)
    if together is not None:
        begins = np.diff(together, prepend=together[:1] - 1) != 0
        part = part[begins][np.cumsum(begins) - 1]
    edges = np.flatnonzero(np.diff(part)) + 1
    return np.split(np.arange(count, dtype=np.int64), edges)


def runs(blocks: np.ndarray) -> list[list[int]]:
    """Ascending numbers as ``[first, last)`` of each run of consecutive ones."""
    if not blocks.size:
        return []
    edges = np.flatnonzero(np.diff(blocks) != 1) + 1
    return [[int(r[0]), int(r[-1]) + 1] for r in np.split(blocks, edges)]


def from_runs(pieces: Iterable[list[int]]) -> np.ndarray:
    """What `runs` took apart."""
    return np.concatenate([np.arange(a, b, dtype=np.int64) for a, b in pieces])


class Deaths:
    """Which block it is that its workers die of.

    Blocks of a chunk are computed in order: the first that was not is the one at hand when
    a worker died. It gets a second chance, since whoever killed the worker may have meant
    another process.

    Parameters
    ----------
    plan : Plan
    retries : int
        How many deaths of a block are forgiven; at least one is.
    workers : int
        How many there are; all of them may die at once of something that is soon over.

    Attributes
    ----------
    blamed : int
        How many blocks were journalled as failed.
    """

    def __init__(self, plan: Plan, retries: int, *, workers: int) -> None:
        self._plan, self._forgiven = plan, max(1, retries)
        self._deaths: Counter[int] = Counter()
        self._most = FRUITLESS + 2 * workers
        self._fruitless = 0
        self.blamed = 0

    def left(self, chunk: np.ndarray, tried: Tried, why: str) -> np.ndarray:
        """The blocks that are to be done again after a death; one may be journalled as failed.

        Parameters
        ----------
        chunk : numpy.ndarray of int
            What the worker had.
        tried : Tried
            What it has journalled.
        why : str
            What is known of the death, for the traceback.

        Raises
        ------
        WorkerError
            If workers die and die, and nothing gets done.
        """
        left, at_hand = tried.left_of(chunk)
        self._fruitless = self._fruitless + 1 if left.size == chunk.size else 0
        if self._fruitless >= self._most:
            raise WorkerError(
                f"{self._fruitless} workers in a row died before they had finished a single "
                f"block. The last one:\n{why}"
            )
        if at_hand < left.size:
            suspect = int(left[at_hand])
            self._deaths[suspect] += 1
            if self._deaths[suspect] > self._forgiven:
                blame(self._plan, suspect, why)
                self.blamed += 1
                left = np.delete(left, at_hand)
        return left


def how_it_ended(status: int) -> str:
    """An exit status as `subprocess` gives it, in words.

    Examples
    --------
    >>> how_it_ended(-9), how_it_ended(7)
    ('signal 9 (often the system, out of memory)', 'exit status 7')
    """
    hint = " (often the system, out of memory)" if status == -signal.SIGKILL else ""
    return f"signal {-status}{hint}" if status < 0 else f"exit status {status}"


def blame(plan: Plan, block: int, why: str) -> None:
    """Journal a block as failed that could not say so itself, since it killed its worker."""
    journal = open_journal(plan, attempt_name("session"), "session")
    try:
        journal.note(FAILED, block, why.encode())
        journal.sync()
    finally:
        journal.close()
