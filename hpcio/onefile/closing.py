"""Who may write into the one file, and how that ends: a published file is never written again.

A writer holds a shared lock of the file as long as it has it open, once it has seen that the file
still has its name. Whoever publishes the file first takes that name away, so that nobody else
comes, and then asks for the lock alone. If a writer still has the file open (an orphan of a session
that was killed, or the slow copy of a task), a copy of the file is published, which that writer
cannot reach.

So a block costs nothing, and nobody waits for a process that may never end. Where a file system
has no locks, only the name protects.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpcio.errors import OutputError, as_output_error
from hpcio.files import copy_out_of_reach, sync, try_lock, unlock
from hpcio.journals import published
from hpcio.machine import look_again
from hpcio.planning import Plan

__all__ = ["check_open", "closed", "enter", "open_to_read", "reopen"]


def _is_closed(plan: Plan) -> bool:
    look_again(plan.rundir.data)
    return not plan.rundir.data.exists() and plan.rundir.closed.exists()


def open_to_read(plan: Plan) -> int | None:
    """A descriptor of the file, whether it is open to writers, closed or published; None if gone.

    It may get another name meanwhile, and its first one back.
    """
    rundir = plan.rundir
    look_again(rundir.data)
    for path in (rundir.data, rundir.closed, plan.out if published(plan) else None, rundir.data):
        with suppress(FileNotFoundError):
            if path is not None:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return None


# ---------------------------------------------------------------------- those who write


def enter(plan: Plan) -> int:
    """Be counted among those who write into the file.

    Returns
    -------
    int
        A descriptor, for `hpcio.files.unlock`. Whoever publishes knows by it that a writer is
        there.

    Raises
    ------
    OutputError
        If another process publishes the file, or has done so; if it cannot be opened.
    """
    path = plan.rundir.data
    try:
        # Locks of NFS want it open for reading; nothing is read, which would fill the cache.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise OutputError(errno.ENOENT, _gone(plan)) from error
    except OSError as error:
        raise as_output_error(error, path) from error
    try:
        if not try_lock(fd, fcntl.LOCK_SH):
            raise OutputError(_at_work(plan))
        check_open(plan, fd)
    except BaseException as error:
        unlock(fd)
        if isinstance(error, OSError) and not isinstance(error, OutputError):
            raise as_output_error(error, path) from error
        raise
    return fd


def check_open(plan: Plan, fd: int) -> None:
    """Raise OutputError if an open file is no longer the one to write into."""
    path = plan.rundir.data
    look_again(path)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path), os.fstat(fd)):
            return
    raise OutputError(errno.ENOENT, _gone(plan))


def _gone(plan: Plan) -> str:
    return (
        f"'{plan.rundir.data}' is gone: another process has finished it, or removed it. If there "
        f"is no '{plan.out}', resume."
    )


# ---------------------------------------------------------------------- who publishes


@contextmanager
def closed(plan: Plan) -> Iterator[Path]:
    """Shut all writers out of the file, to publish it.

    The file is open to writers again if it does not get another name meanwhile.

    Yields
    ------
    pathlib.Path
        The file. Nobody else can write into it.

    Raises
    ------
    OutputError
        If another process publishes it, or a copy of it has no room.
    """
    before, path = plan.rundir.data, plan.rundir.closed
    with _alone(plan):
        if not _is_closed(plan):
            os.rename(before, path)
        try:
            sync(plan.run_directory)
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                # The lock is not kept: whoever opens the file now finds that it has lost its name.
                if not try_lock(fd, fcntl.LOCK_EX):
                    copy_out_of_reach(fd, path, path, f"data.{secrets.token_hex(4)}.part")
            finally:
                unlock(fd)
            yield path
        except BaseException:
            with suppress(OSError):  # then `reopen` does it
                os.rename(path, before)
            raise


def reopen(plan: Plan) -> None:
    """Let writers in again where the process that published was killed.

    Raises
    ------
    OutputError
        If it is still at work.
    """
    if not _is_closed(plan):
        return
    try:
        with _alone(plan):
            if _is_closed(plan):
                os.rename(plan.rundir.closed, plan.rundir.data)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise as_output_error(error, plan.rundir.closed) from error


@contextmanager
def _alone(plan: Plan) -> Iterator[None]:
    """Be the only process that closes or opens the file to writers."""
    fd = os.open(plan.rundir.offsets, os.O_RDWR | os.O_CLOEXEC)
    try:
        if not try_lock(fd, fcntl.LOCK_EX):
            raise OutputError(_at_work(plan))
        yield
    finally:
        unlock(fd)


def _at_work(plan: Plan) -> str:
    return f"Another process is about to publish '{plan.out}'. Wait for it; if it fails, resume."
