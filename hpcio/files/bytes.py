"""Plain bytes of open files, written and read in full; room on the disk, checksums, fill values."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from hpcio.machine import in_memory

__all__ = [
    "NewNames",
    "Raw",
    "StreamedChecksum",
    "allocate",
    "checksum",
    "fill_of",
    "in_pieces",
    "read_at",
    "sync",
    "sync_file_system",
    "write_at",
]

checksum: Callable[..., int] = xxhash.xxh3_64_intdigest
# The same checksum, of bytes that come piece by piece: `update`, then `intdigest`.
StreamedChecksum: Any = xxhash.xxh3_64

# A C-contiguous array, or bytes. Type checkers know numpy's buffers from Python 3.12 on only.
Raw = Any

# So many bytes of an array are copied at a time: the cache of a processor holds them.
_PIECE = 1 << 20

_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def fill_of(dtype: np.dtype) -> float:
    """The value that stands where there is no result: NaN, or zero for integers."""
    return np.nan if dtype.kind in "fc" else 0


def sync(path: str | os.PathLike[str]) -> None:
    """Make a file, or the names in a folder, outlive a crash of the machine."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class NewNames:
    """Folders that have got names since the last sync: a file is as safe as its name."""

    def __init__(self) -> None:
        self._folders: set[Path] = set()

    def add(self, *folders: Path) -> None:
        """Note that there are new names in some folders."""
        self._folders.update(folders)

    def take(self) -> Callable[[], None]:
        """What makes the names so far safe; any thread may call it."""
        folders, self._folders = sorted(self._folders), set()

        def bring() -> None:
            for folder in folders:
                sync(folder)

        return bring


def sync_file_system(fd: int, path: str | os.PathLike[str]) -> None:
    """Make all files of a file system outlive a crash of the machine; `fd` is of one of them."""
    if _libc.syncfs(fd):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), os.fspath(path))


def write_at(fd: int, data: Raw, offset: int) -> None:
    """Write all of `data` at byte `offset`; `os.pwrite` alone would stop at 2 GiB."""
    written = os.pwrite(fd, data, offset)
    size = data.nbytes if isinstance(data, np.ndarray) else len(data)
    if written != size:
        view = _bytes_of(data)
        while written < size:
            written += os.pwrite(fd, view[written:], offset + written)


def in_pieces(array: np.ndarray) -> Iterator[bytes]:
    """The bytes of an array in C order, some rows at a time, wherever in memory they lie.

    Examples
    --------
    >>> [*b"".join(in_pieces(np.array([[1, 2], [3, 4]], np.uint8).T))]
    [1, 3, 2, 4]
    """
    rows = max(1, _PIECE * len(array) // max(1, array.nbytes))
    for first in range(0, len(array), rows):
        yield array[first : first + rows].tobytes()


def _bytes_of(data: Raw) -> memoryview:
    flat: Any = data.reshape(-1).view(np.uint8) if isinstance(data, np.ndarray) else data
    return memoryview(flat)


def read_at(fd: int, array: Raw, offset: int) -> bool:
    """Fill a C-contiguous `array` from byte `offset`; false if the file ends before that."""
    size = array.nbytes
    if not size:
        return True
    got = os.preadv(fd, [array], offset)
    if got == size:
        return True
    view = _bytes_of(array)
    while got < size:
        step = os.preadv(fd, [view[got:]], offset + got)
        if step == 0:
            return False
        got += step
    return True


_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def allocate(fd: int, size: int, path: str | os.PathLike[str]) -> None:
    """Give a file its size, with room for all of it on the disk.

    Early allocation of HDF5 reserves nothing. This does, and it fails at once when the disk is
    full. It also makes several writers of one file faster.
    """
    if not in_memory(path):
        try:
            _fallocate_all(fd, size)
        except OSError as error:
            if error.errno not in _NO_FALLOCATE:
                raise
        else:
            return
    os.ftruncate(fd, size)


def _fallocate_all(fd: int, size: int) -> None:
    # Not `os.posix_fallocate`: where the file system cannot reserve room (NFS 3), it reads and
    # writes every page instead, and a file that is open for writing only cannot be read.
    if _fallocate is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while _fallocate(fd, 0, 0, size):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
