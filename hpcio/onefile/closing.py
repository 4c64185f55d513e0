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

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpcio.errors import OutputError, as_output_error
from hpcio.files import allocate, own_lock, release_lock, sync, write_at
from hpcio.onefile.preallocated import opened
from hpcio.planning import Plan

__all__ = ["check_open", "closed", "enter", "leave", "reopen", "where"]

# So many bytes are copied at a time.
_PIECE = 4 << 20


def where(plan: Plan) -> Path:
    """Where the file lies until it is published, whether or not somebody is about to do so."""
    return plan.rundir.closed if _is_closed(plan) else plan.rundir.data


def _is_closed(plan: Plan) -> bool:
    return not plan.rundir.data.exists() and plan.rundir.closed.exists()


# ---------------------------------------------------------------------- those who write


def enter(plan: Plan) -> int:
    """Be counted among those who write into the file.

    Returns
    -------
    int
        A descriptor, for `leave`. Whoever publishes knows by it that a writer is there.

    Raises
    ------
    OutputError
        If another process publishes the file, or has done so; if it cannot be opened.
    """
    path = plan.rundir.data
    try:
        # Locks of NFS want it open for reading; nothing is read, which would fill the cache.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise as_output_error(error, path) from error
    own_lock(fd)
    try:
        if not _lock(fd, fcntl.LOCK_SH):
            raise OutputError(_at_work(plan))
        check_open(plan, fd)
    except BaseException:
        leave(fd)
        raise
    return fd


def leave(fd: int) -> None:
    """Be no longer counted."""
    release_lock(fd)


def check_open(plan: Plan, fd: int) -> None:
    """Raise OutputError if an open file is no longer the one to write into."""
    path = plan.rundir.data
    with suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path), os.fstat(fd)):
            return
    raise OutputError(
        f"'{path}' is gone: another process has finished it, or removed it. If there is no "
        f"'{plan.out}', resume."
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
            with opened(path, os.O_RDWR) as fd:
                if not _lock(fd, fcntl.LOCK_EX):
                    _copy(fd, path)
            yield path
        finally:
            # If that fails, too, `reopen` does it.
            with suppress(OSError):
                os.rename(path, before)


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
    own_lock(fd)
    try:
        if not _lock(fd, fcntl.LOCK_EX):
            raise OutputError(_at_work(plan))
        yield
    finally:
        release_lock(fd)


def _at_work(plan: Plan) -> str:
    return f"Another process is about to publish '{plan.out}'. Wait for it; if it fails, resume."


def _lock(fd: int, kind: int) -> bool:
    """Take a lock if nobody is in the way; a file system without locks lets everybody in."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _copy(fd: int, path: Path) -> None:
    """Put a copy of an open file in its place, which those who have the file open do not reach."""
    part = path.with_name(f"data.{secrets.token_hex(4)}.part")
    size = os.fstat(fd).st_size
    try:
        with opened(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as new:
            allocate(new, size, part)
            # What this client has cached may be older than what others have written.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for at in range(0, size, _PIECE):
                write_at(new, os.pread(fd, min(_PIECE, size - at), at), at)
            os.fsync(new)
        os.rename(part, path)
        sync(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(
            error.errno,
            f"Cannot copy '{path}': {error.strerror}. A copy is needed, since "
            f"a process{_holder(fd)} that was given up still has the file open to write. End that "
            "process, or make room; then resume.",
        ) from error


def _holder(fd: int) -> str:
    """Which process of this machine holds the lock of a file, as far as the system says."""
    inode = str(os.fstat(fd).st_ino)
    for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
        fields = line.split()  # 1: FLOCK ADVISORY READ 4711 00:19:1234 0 EOF
        if "FLOCK" in fields and fields[-3].rpartition(":")[2] == inode:
            return f" ({fields[-4]})"
    return ""
