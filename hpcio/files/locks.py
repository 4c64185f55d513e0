"""The mutex: one process at a time writes into a file, on whichever node it runs.

The lock is one of the file system, on a file beside the output. The system frees it when its holder
dies, and it works between dask workers and ordinary processes. A lock on the output itself would
collide with the one that HDF5 takes there.

The lock alone is not enough: a client of a network file system may have old bytes in its cache. So
the file is opened anew under the lock, which makes the client ask whether it has changed. Cached
bytes are dropped, since times of modification are too coarse to rely upon. Before the lock is given
back, everything is sent to the server. Where all that is not enough, the lock is refused.

Dask workers queue at their scheduler first. Waiting costs nothing there, while clients of NFS ask
again and again. That queue is for order only. It is a `distributed.Semaphore` of one lease, as
`distributed.Lock` is by now; earlier, the lock of a dead worker was never freed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from hpcio.errors import OutputError, as_output_error
from hpcio.files.bytes import allocate, read_at, sync, write_at
from hpcio.files.opening import NO_LOCKS, locking
from hpcio.machine import is_local, is_stopped, kind_of, only_files, options_of

__all__ = [
    "check_locks",
    "copy_out_of_reach",
    "holder_of",
    "locked",
    "open_to_write",
    "try_lock",
    "unlock",
]

# File systems that several nodes may share, and whose `flock` keeps writers apart: mount options
# that must be there, and those that must not. NFS 4.2 was tested; for the others we trust their
# documentation.
_SOUND: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    # flock is a lock of the server, over the whole file. It is none with "nolock" (NFS 3 without
    # its lock manager) or "local_lock". With "nocto", opening a file does not ask the server.
    "nfs": (
        frozenset(),
        frozenset({"nolock", "local_lock=all", "local_lock=flock", "local_lock=posix", "nocto"}),
    ),
    # Caches are coherent; flock reaches all nodes if it is mounted so.
    "lustre": (frozenset({"flock"}), frozenset({"localflock", "noflock"})),
    # Coherent caches, locks over all nodes.
    "gpfs": (frozenset(), frozenset()),
    "ceph": (frozenset(), frozenset()),
    "gfs2": (frozenset(), frozenset({"localflocks", "localcaching"})),
    "ocfs2": (frozenset(), frozenset({"localflocks"})),
}
_SOUND["nfs4"] = _SOUND["nfs"]

_UNSOUND = {
    "fuse.glusterfs": "whose clients may read old bytes even under a lock",
    "beegfs": "whose locks are by default those of one node, and which does not say otherwise",
}

# What a lock file holds while its holder writes; else it is empty.
_IN_USE = b"in use"

# How long, in seconds, a dask worker queues before it goes to the lock of the file by itself. Dask
# frees a dead worker's place earlier, unless it was told not to.
PATIENCE = 60.0
# How long a file may be open elsewhere, such as in a process that is just being killed.
STILL_OPEN = 10.0

# How often, in seconds, a process that waits for a lock looks whether its holder is stopped.
LOOK_EVERY = 10.0

# `struct flock` of 64-bit Linux: type, whence, start, length, pid.
_WHOLE_FILE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


# So many bytes are copied at a time.
_PIECE = 4 << 20

# Files whose locks this process holds. A child that a function forks must not keep them.
_held: set[int] = set()


def try_lock(fd: int, kind: int) -> bool:
    """Take the `flock` of an open file if nobody is in the way, until `unlock`.

    It does not live on in children that are forked meanwhile. A file system without locks lets
    everybody in.
    """
    _held.add(fd)
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def unlock(fd: int) -> None:
    """Close a file, locked or not; nothing in a child that was forked meanwhile."""
    if fd in _held:
        with contextlib.suppress(OSError):  # nothing was written
            fcntl.flock(fd, fcntl.LOCK_UN)  # for a child, too, that is just being forked
        _held.discard(fd)
        with contextlib.suppress(OSError):
            os.close(fd)


def _let_go() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


def holder_of(file: int | str | os.PathLike[str]) -> int | None:
    """Which process of this machine has a `flock` of a file; None if none, or of another machine.

    Raises
    ------
    OSError
        If the file is not there, or the system does not say.
    """
    inode = str(os.stat(file).st_ino)
    with open("/proc/locks", encoding="ascii") as f:
        for line in f:
            fields = line.split()  # 1: FLOCK ADVISORY READ 4711 00:19:1234 0 EOF
            # The device is not compared: btrfs shows another one there than stat does.
            if "FLOCK" in fields and fields[-3].rpartition(":")[2] == inode:
                return int(fields[-4])
    return None


def copy_out_of_reach(fd: int, path: Path, final: Path, part: str) -> None:
    """Copy a file that another process has open to write, and that it cannot reach any more then.

    Parameters
    ----------
    fd : int
        Open for reading.
    path : pathlib.Path
        Its name.
    final : pathlib.Path
        The name of the copy, when it is whole; it may be the same.
    part : str
        Until then, its name beside that. It is locked meanwhile.

    Raises
    ------
    OutputError
        If there is no room for it; it names the process that is in the way.
    """
    unfinished = final.with_name(part)
    size = os.fstat(fd).st_size
    # What this client has cached may be older than what others have written.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        new = os.open(
            unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
            stat.S_IMODE(os.fstat(fd).st_mode),
        )  # fmt: skip
        try:
            # Parts that nobody has locked are removed; see `hpcio.onefile.preallocated`.
            with contextlib.suppress(OSError):
                fcntl.flock(new, fcntl.LOCK_SH | fcntl.LOCK_NB)
            allocate(new, size, unfinished)
            piece = np.empty(_PIECE, np.uint8)
            for at in range(0, size, _PIECE):
                now = piece[: size - at]
                if not read_at(fd, now, at):
                    raise OSError(errno.EIO, "it has become shorter")
                write_at(new, now, at)
            os.fsync(new)
            os.rename(unfinished, final)
        finally:
            os.close(new)
        sync(final.parent)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OutputError(
            error.errno,
            f"Cannot copy '{path}': {error.strerror}. A copy is needed, since a process"
            f"{_named(fd)} that was given up still has the file open to write. End that process, "
            "or make room; then resume.",
        ) from error


def _named(fd: int) -> str:
    try:
        pid = holder_of(fd)
    except OSError:  # then it goes without
        pid = None
    return "" if pid is None else f" ({pid})"


def check_locks(path: str | os.PathLike[str]) -> None:
    """Raise OutputError where a lock does not keep two writers of one file apart.

    Parameters
    ----------
    path : str or path
        The file, or its folder.

    Raises
    ------
    OutputError
        With the reason, and what works there.
    """
    reason = _why_not(path)
    if reason:
        raise OutputError(
            f"Cannot write '{os.fspath(path)}' by several processes in turn: it lies on {reason}. "
            "Use writer='virtual' or writer='direct' (with unwrap_io alone: vdsdir), which need "
            "no lock, or another file system."
        )


def _why_not(path: str | os.PathLike[str]) -> str:
    if locking(path) is False:
        return "a file system without locks"
    if is_local(path):
        return ""
    kind = kind_of(path)
    if kind not in _SOUND:
        why = _UNSOUND.get(kind, "of whose locks and caches hpcio does not know enough")
        return f"a file system of type {kind or 'unknown'}, {why}"
    needed, forbidden = _SOUND[kind]
    options = options_of(path)
    if not needed <= options:
        return f"a file system of type {kind} that is mounted without {', '.join(needed - options)}"
    if forbidden & options:
        return (
            f"a file system of type {kind} that is mounted with "
            f"{', '.join(sorted(forbidden & options))}, so that locks do not reach other nodes"
        )
    return ""


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[bool]:
    """Hold the lock of an output file; everybody else who asks for it waits.

    The lock belongs to the file, whatever name it is opened by; two files do not wait for each
    other. It is freed whatever happens, even if this process dies. Do not take it twice.

    Parameters
    ----------
    path : str or path
        A file that exists. Beside it there will be ``PATH.lock``, which stays.

    Yields
    ------
    bool
        Whether the previous holder gave the lock back in good order. If not, it was killed, or
        failed, while it wrote.

    Raises
    ------
    OutputError
        If locks do not protect on this file system; if the file is not there, or the lock
        cannot be had; if ``PATH.lock`` is something else, or another user's and not open to us.

    Examples
    --------
    >>> import os, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "out.h5")
    >>> open(path, "w").close()
    >>> with locked(path) as in_order:
    ...     in_order
    True
    >>> folder.cleanup()
    """
    try:
        check_locks(path)
        real = os.path.realpath(path, strict=True)
        shared = not is_local(real)
    except OutputError:
        raise
    except OSError as error:
        raise as_output_error(error, path) from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(_queued(real))
        try:
            lock = _open_lock(f"{real}.lock")
            stack.callback(os.close, lock)
            _take(lock, f"{real}.lock", shared=shared)
            in_order = _says_nothing(lock, f"{real}.lock")
            os.pwrite(lock, _IN_USE, 0)
            if shared:
                os.fsync(lock)  # if this node dies, others must know
            data = only_files(real)
            stack.callback(os.close, data)
            if shared:
                os.posix_fadvise(data, 0, 0, os.POSIX_FADV_DONTNEED)
        except OutputError:
            raise
        except OSError as error:
            raise as_output_error(error, path) from error
        yield in_order
        try:
            if shared:
                os.fsync(data)
            os.ftruncate(lock, 0)
        except OSError as error:
            raise as_output_error(error, path) from error


def _open_lock(path: str) -> int:
    """Open the file of a lock, or make it; never one that lies elsewhere, behind a link."""
    try:
        return only_files(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.EACCES and os.path.lexists(path):
            raise OutputError(
                error.errno,
                f"No permission to lock '{path}', which another user has made. Its owner lets a "
                "group take turns by chmod g+rw, or removes it when nobody is at work.",
            ) from error
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.ENXIO):
            raise _not_a_lock(path) from error
        raise


def _says_nothing(fd: int, path: str) -> bool:
    """Whether a lock was given back in good order; refuse a file that is none.

    Whose it is does not matter: whoever may write it may take turns, and what no lock holds is not
    written over.
    """
    said = os.pread(fd, len(_IN_USE) + 1, 0)
    # A failure of power may leave zeros, or the first bytes of the word and no more.
    if os.fstat(fd).st_nlink > 1 or not _IN_USE.startswith(said.strip(b"\0")):
        raise _not_a_lock(path)
    return not said


def _not_a_lock(path: str) -> OutputError:
    return OutputError(
        f"'{path}' is no lock that hpcio has made (but a link, a file with other content, or no "
        "file). Move it away, or choose another output."
    )


def _take(fd: int, path: str, *, shared: bool) -> None:
    """Wait for the exclusive lock of an open file; closing the file gives it back.

    A process that is stopped (by Ctrl-Z, or with its job) may never give it back. Nobody waits for
    one that holds it.

    On a local file system it is a lock of the open file (OFD). This machine may serve the file
    system by NFS, and the locks of its clients collide with that lock, but not with `flock`. On a
    shared file system it is `flock`: NFS treats both the same, and how other file systems treat
    OFD locks is less known.
    """

    def take(fd: int, *, wait: bool) -> None:
        if shared:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        else:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, _WHOLE_FILE)

    with contextlib.suppress(BlockingIOError):
        take(fd, wait=False)
        return
    refused: list[OSError] = []
    # The lock is that of the open file. If this thread gives up, the number of its descriptor will
    # be that of another file, which the one that waits must not take for this one.
    own = os.dup(fd)

    def wait() -> None:
        try:
            take(own, wait=True)
        except OSError as error:
            refused.append(error)
        finally:
            os.close(own)

    # A thread waits, so that this one can look around.
    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    before = None
    waiting.join(LOOK_EVERY)
    while waiting.is_alive():
        stopped = _stopped_holder(path)
        if stopped is not None and stopped == before:
            raise OutputError(
                f"Process {stopped} is stopped, and holds the lock '{path}', for which all others "
                f"would wait. End it (kill -9 {stopped}), or let it go on (kill -CONT {stopped}); "
                "then run again.",
            )
        before = stopped
        waiting.join(LOOK_EVERY)
    if refused:
        raise refused[0]


def _stopped_holder(path: str) -> int | None:
    """A process of this machine that is stopped and holds a lock of a file; None if there is none.

    Locks of open files have no owner in the table of locks, but stand beside the descriptors.
    """
    for process in Path("/proc").glob("[0-9]*"):
        # It may end meanwhile, or be somebody else's.
        with contextlib.suppress(OSError):
            if not is_stopped(int(process.name)):
                continue
            for fd in (process / "fd").iterdir():
                if (
                    os.readlink(fd) == path
                    and "lock:" in (process / "fdinfo" / fd.name).read_text()
                ):
                    return int(process.name)
    return None


@contextmanager
def _queued(path: str) -> Iterator[None]:
    """Inside a dask worker: wait for one's turn at the scheduler."""
    if "distributed" not in sys.modules:
        yield
        return
    from distributed import Semaphore, get_worker

    try:
        get_worker()
    except ValueError:
        yield
        return
    semaphore = Semaphore(max_leases=1, name=f"hpcio:{path}")
    try:
        # After waiting in vain, go on: the lock of the file protects it.
        turn = semaphore.acquire(timeout=PATIENCE)
        try:
            yield
        finally:
            if turn:
                semaphore.release()
    finally:
        # Otherwise it would renew its leases for ever, and never be freed.
        semaphore.loop.add_callback(semaphore.refresh_callback.stop)


def open_to_write(path: str | os.PathLike[str]) -> h5py.File:
    """Open an existing HDF5 file for reading and writing, under its lock.

    By default HDF5 gathers small writes in a buffer, together with the bytes around them. Here
    it writes exactly the bytes that were asked for.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    h5py.File
        Mode ``"r+"``.

    Raises
    ------
    OutputError
        Among others, if somebody has the file open without the lock.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_sieve_buf_size(1)
    if locking(path) is False:
        access.set_file_locking(False, False)  # noqa: FBT003
    deadline = time.monotonic() + STILL_OPEN
    while True:
        try:
            return h5py.File(h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDWR, fapl=access))
        except OSError as error:
            if "unable to lock file" not in str(error):
                raise as_output_error(error, path) from error
            if time.monotonic() > deadline:
                raise OutputError(
                    errno.EAGAIN,
                    f"'{os.fspath(path)}' is open in another program. Close it there, then resume.",
                ) from error
            time.sleep(0.01)
