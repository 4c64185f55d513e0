"""What runs inside a dask worker: chunks, by attempts that stay open between them."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpcio.chunks import Attempt, from_runs, run_chunk, runs
from hpcio.ledger import Ledger
from hpcio.plan import Plan

__all__ = ["chunk", "finish", "limit_memory", "stop"]

# By session and thread: the attempts that are open, and those in the middle of a chunk.
_attempts: dict[tuple[str, int], Attempt] = {}
_busy: set[tuple[str, int]] = set()
_over: set[str] = set()  # sessions that want no more
_lock = threading.Lock()

# What the array task has of memory beside the data of Python, in bytes: code, stacks, and
# what the kernel counts for it.
_ASIDE = 64 << 20


def chunk(
    out: str,
    token: str,
    pieces: list[list[list[int]]],
    retries: int,
    max_failed: int,
    claim: str,
) -> Any:
    """Run chunks of blocks; what comes back is a few numbers.

    Parameters
    ----------
    out : str
        The result, whose run directory holds the plan.
    token : str
        Of the session: its attempts are kept open until `finish`.
    pieces : list of list of [first, last)
        The blocks of each chunk.
    retries, max_failed : int
    claim : str
        A new name for each submission. dask sends a task again if its worker died: then
        only the blocks that no journal has are done.

    Returns
    -------
    dict
        ``left``: blocks that were not tried, since the worker is to end soon.
    """
    failed = 0
    left: list[list[int]] = []
    with _attempt(out, token, retries, max_failed) as attempt:
        chunks = [from_runs(piece) for piece in pieces]
        if not _first(attempt.plan, claim):
            state = Ledger.read(attempt.plan).state
            chunks = [blocks[state[blocks] == 0] for blocks in chunks]
        for blocks in chunks:
            tried = 0
            if blocks.size and not attempt.stopping and not _soon_over():
                done = run_chunk(attempt, blocks)
                failed += done.failed
                tried = done.done + done.failed
            left += runs(blocks[tried:])
    return {"failed": failed, "left": left}


def finish(token: str) -> None:
    """Bring the data of a session to the disk and let go of its files.

    A chunk that is still at work does so itself when it ends.
    """
    with _lock:
        _over.add(token)
        idle = [key for key in _attempts if key[0] == token and key not in _busy]
        attempts = [_attempts.pop(key) for key in idle]
    for attempt in attempts:
        _end(attempt)


def _end(attempt: Attempt) -> None:
    with contextlib.closing(attempt):
        attempt.sync()


def stop(token: str) -> None:
    """End the chunks of a session after the block at hand."""
    with _lock:
        for (session, _), attempt in _attempts.items():
            if session == token:
                attempt.stopping = True


@contextmanager
def _attempt(out: str, token: str, retries: int, max_failed: int) -> Iterator[Attempt]:
    """The attempt of this thread, at work: a thread has a journal and files of its own."""
    key = (token, threading.get_ident())
    with _lock:
        if key not in _attempts:
            limit_memory()
            attempt = Attempt(Plan.load(out), _label(), retries=retries, max_failed=max_failed)
            attempt.pulse = lambda: _look_at_the_clock(attempt)
            _attempts[key] = attempt
        attempt = _attempts[key]
        _busy.add(key)
    try:
        yield attempt
    finally:
        with _lock:
            _busy.discard(key)
            over = token in _over and _attempts.pop(key, None) is not None
        if over:
            _end(attempt)


def _label() -> str:
    """Whose attempt it is: the array task, or the dask worker."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{x}_ID") for x in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else f"dask{os.getpid()}"


def _first(plan: Plan, claim: str) -> bool:
    """Whether a claim is taken for the first time; only success means so."""
    path = Path(plan.run_directory, "claims", claim)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError:
        return False
    return True


def _soon_over() -> bool:
    """Whether the walltime of this array task is nearly over."""
    until = os.environ.get("HPCIO_UNTIL")
    return until is not None and time.time() > float(until)


def _look_at_the_clock(attempt: Attempt) -> None:
    if _soon_over():
        attempt.stopping = True


def limit_memory() -> None:
    """Let Python run into its limit, which names the trial, before SLURM's killer does."""
    megabytes = os.environ.get("SLURM_MEM_PER_NODE")
    per_cpu, cpus = (os.environ.get(f"SLURM_{x}") for x in ("MEM_PER_CPU", "CPUS_ON_NODE"))
    if megabytes is None and per_cpu and cpus:
        megabytes = str(int(per_cpu) * int(cpus))
    if not megabytes:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = (int(megabytes) << 20) - _ASIDE
    if limit > 0 and (hard == resource.RLIM_INFINITY or limit < hard):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
