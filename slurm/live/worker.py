"""What runs inside a dask worker: batches, by attempts that stay open between them."""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hpcio.journals import ClaimFolder
from hpcio.machine import giving_back_freed, keep_freed
from hpcio.planning import load_for_worker
from hpcio.running import Attempt, from_runs, run_batch, runs
from slurm.site import environment

__all__ = ["finish", "give_away", "process", "run_batches", "stop"]

# By session and thread: the attempts that are open, and those in the middle of a batch.
_attempts: dict[tuple[str, int], Attempt] = {}
_busy: set[tuple[str, int]] = set()
_over: set[str] = set()  # sessions that have ended
# By claim: the attempt that is at it, and the block from which on others do the rest.
_at: dict[str, Attempt] = {}
_given: dict[str, int] = {}
_lock = threading.Lock()


def run_batches(
    out: str,
    session_id: str,
    pieces: list[list[list[int]]],
    retries: int,
    max_failed: int,
    trial_time: float | None,
    claim: str,
) -> Any:
    """Run batches of blocks, and return a few numbers.

    Parameters
    ----------
    out : str
        The result, whose run directory holds the plan.
    session_id : str
        The session keeps its attempts open until `finish`.
    pieces : list of list of [first, last)
        The blocks of each batch.
    retries, max_failed : int
    trial_time : float or None
    claim : str
        A new name for each call.

    Returns
    -------
    dict or None
        ``failed``: how many blocks failed; ``left``: blocks that were not tried, since the
        worker ends soon. None if a worker has begun with this call before: it has died, and dask
        has sent the same again.
    """
    failed = 0
    left: list[list[int]] = []
    with _attempt(out, session_id, retries, max_failed, trial_time) as attempt:
        if not ClaimFolder(attempt.plan.rundir.claims).take(claim):
            return None
        with _at_work(attempt, claim):
            for blocks in map(from_runs, pieces):
                tried = 0
                if blocks.size and not attempt.stopping and not _soon_over():
                    done = run_batch(attempt, blocks)
                    failed += done.failed
                    tried = done.reached
                left += runs(blocks[tried:])
    return {"failed": failed, "left": left}


@contextmanager
def _at_work(attempt: Attempt, claim: str) -> Iterator[None]:
    """While an attempt is at a call of `run_batches`, some of its blocks may be given to others."""
    with _lock:
        _at[claim] = attempt
        attempt.limit_to(_given.get(claim, len(attempt.plan)))
    try:
        yield
    finally:
        with _lock:
            del _at[claim]
            _given.pop(claim, None)


def process() -> tuple[str, int]:
    """The process that this runs in: its machine, and its number there."""
    return platform.node(), os.getpid()


def finish(session_id: str) -> None:
    """Bring the data of a session to the disk and let go of its files.

    A batch that is still at work does so itself when it ends.
    """
    with _lock:
        _over.add(session_id)
        idle = [key for key in _attempts if key[0] == session_id and key not in _busy]
        attempts = [_attempts.pop(key) for key in idle]
    with giving_back_freed():
        while attempts:  # their memory is free when nothing refers to them
            _end(attempts.pop())


def _end(attempt: Attempt) -> None:
    with contextlib.closing(attempt):
        attempt.sync()


def give_away(claim: str, block: int) -> None:
    """Leave to others the blocks of a call of `run_batches` from this one on."""
    with _lock:
        _given[claim] = block
        if claim in _at:
            _at[claim].limit_to(block)


def stop(session_id: str) -> None:
    """End the batches of a session after the block at hand."""
    with _lock:
        for (session, _), attempt in _attempts.items():
            if session == session_id:
                attempt.request_stop()


@contextmanager
def _attempt(
    out: str, session_id: str, retries: int, max_failed: int, trial_time: float | None
) -> Iterator[Attempt]:
    """The attempt of this thread, at work: a thread has a journal and files of its own."""
    key = (session_id, threading.get_ident())
    keep_freed()  # each time, since the end of another session undoes it
    with _lock:
        if key not in _attempts:
            environment.limit_memory()
            attempt = Attempt(
                load_for_worker(out),
                environment.label() or f"dask{os.getpid()}",
                retries=retries,
                max_failed=max_failed,
                trial_time=trial_time,
                on_tick=_look_at_the_clock,
            )
            _attempts[key] = attempt
        attempt = _attempts[key]
        _busy.add(key)
    try:
        yield attempt
    finally:
        with _lock:
            _busy.discard(key)
            over = session_id in _over and _attempts.pop(key, None) is not None
        if over:
            with giving_back_freed():
                _end(attempt)


def _soon_over() -> bool:
    """Whether the walltime of this array task is nearly over."""
    until = os.environ.get("HPCIO_UNTIL")
    return until is not None and time.time() > float(until)


def _look_at_the_clock(attempt: Attempt) -> None:
    if _soon_over():
        attempt.request_stop()
