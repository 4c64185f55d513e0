"""HDF5 files at the speed of plain files.

HDF5 itself lays out a file with one contiguous dataset (early allocation, fill never)
and says where the bytes of the dataset lie. The bytes before that are the *header
image*: they depend on shape, type, name and attributes alone, so one file that HDF5
wrote gives the header of any number of equal files. What is written here is an
ordinary HDF5 file; only the way there is shorter.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

from hpcio.errors import FunctionError, OutputError
from hpcio.machine.filesystems import in_memory

__all__ = [
    "Layout",
    "Slab",
    "StreamedChecksum",
    "allocate",
    "checksum",
    "in_memory_file",
    "layout",
    "read_at",
    "sparse_file",
    "sync",
    "write_at",
    "write_file",
    "write_image",
]

checksum: Callable[..., int] = xxhash.xxh3_64_intdigest
# The same, of bytes that come piece by piece: `update`, then `intdigest`.
StreamedChecksum: Any = xxhash.xxh3_64

# A C-contiguous array or bytes. numpy tells type checkers of its buffers from Python 3.12 on.
Raw = Any

_LAYOUT = "hpcio-layout-"
# Laying out a file takes far less than so many seconds.
_LEFT = 3600.0

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FALLOCATE = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Layout:
    """Where HDF5 puts the one dataset of a file.

    Attributes
    ----------
    header : bytes
        All bytes before the data.
    nbytes : int
        Size of the data.
    """

    header: bytes
    nbytes: int

    @property
    def offset(self) -> int:
        """First byte of the data in the file."""
        return len(self.header)

    @property
    def size(self) -> int:
        """Size of the whole file in bytes."""
        return len(self.header) + self.nbytes


@functools.lru_cache(maxsize=1024)
def layout(
    shape: tuple[int, ...], dtype: np.dtype, *, name: str = "data", digest: str = ""
) -> Layout:
    """Ask HDF5 for the layout of a file with one dataset.

    Parameters
    ----------
    shape, dtype
        Of the dataset.
    name : str
        Name of the dataset; groups in it are made.
    digest : str
        Kept as attribute ``plan`` of the dataset, so that a file tells whose it is.

    Returns
    -------
    Layout

    Raises
    ------
    FunctionError
        If HDF5 cannot hold `dtype`.
    """
    dtype = np.dtype(dtype)
    try:
        htype = h5py.h5t.py_create(dtype, logical=True)
    except TypeError as error:
        raise FunctionError(
            f"HDF5 cannot hold results of type {dtype}. Return integers, floats, complex or bool."
        ) from error
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    dcpl.set_layout(h5py.h5d.CONTIGUOUS)
    dcpl.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    dcpl.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    dcpl.set_obj_track_times(False)
    lcpl = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    lcpl.set_create_intermediate_group(True)
    # The data must come last: groups and long names need more room before them.
    room = 2048 * (1 + 2 * name.strip("/").count("/") + len(name) // 512)
    with sparse_file() as (path, fd):
        try:
            with h5py.File(path, "w", locking=False, meta_block_size=room) as f:
                space = h5py.h5s.create_simple(shape)
                made = h5py.h5d.create(f.id, name.encode(), htype, space, dcpl, lcpl)
                dataset = h5py.Dataset(made)
                if digest:
                    dataset.attrs["plan"] = np.bytes_(digest)
                offset = dataset.id.get_offset()
        except (OSError, RuntimeError) as error:
            raise as_output_error(error, path) from error
        size = os.fstat(fd).st_size
        if nbytes == 0:
            offset = size  # HDF5 allocates nothing for an empty dataset
        if offset is None or offset + nbytes != size:
            raise OutputError(
                f"HDF5 {h5py.version.hdf5_version} laid out a contiguous dataset in a way that "
                "hpcio does not know. Report this with the version."
            )
        return Layout(os.pread(fd, offset, 0), nbytes)


@contextmanager
def sparse_file() -> Iterator[tuple[str, int]]:
    """A name for an HDF5 file of any size of which little is ever written, and a descriptor.

    It lies in memory: HDF5 takes a full disk badly (its library may crash later). The name is
    gone at the end; one that a killed process has left goes after an hour.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else tempfile.gettempdir()
    for left in Path(memory).glob(f"{_LAYOUT}*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if time.time() - left.stat().st_mtime > _LEFT:
                left.unlink()
    fd, path = tempfile.mkstemp(prefix=_LAYOUT, suffix=".h5", dir=memory)
    try:
        yield path, fd
    finally:
        os.close(fd)
        Path(path).unlink(missing_ok=True)


def as_output_error(error: OSError | RuntimeError, path: str | os.PathLike[str]) -> OutputError:
    """Say what happened to `path`, and the remedy.

    HDF5 tells of a full disk by errors of both types, and the number in their text only.
    """
    number = getattr(error, "errno", None)
    said = re.search(r"errno = (\d+)", str(error)) if number is None else None
    if said:
        number = int(said[1])
    what = str(error).partition("\n")[0] if number is None else os.strerror(number)
    if number in _FULL:
        remedy = "The disk or quota is full. Free some space, then resume."
    elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "Choose an output folder that you may write to."
    else:
        remedy = "Check the file system, then resume."
    return OutputError(number, f"Cannot write '{path}': {what}. {remedy}")


def sync(path: str | os.PathLike[str]) -> None:
    """Make a file, or the names in a folder, outlive a crash of the machine."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def in_memory_file(**options: Any) -> Iterator[h5py.File]:
    """An HDF5 file in memory, to be written by `write_image`.

    HDF5 cannot close a file on a disk that is full: it may crash the whole process then.
    """
    name = secrets.token_hex(8)  # HDF5 tells such files apart by it
    with h5py.File(
        name, "w", driver="core", backing_store=False, block_size=1 << 20, **options
    ) as f:
        yield f


def write_image(
    file: h5py.File, path: str | os.PathLike[str], *, mode: int = 0o666, sync: bool = True
) -> None:
    """Write all of an HDF5 file in memory under a new name.

    With `sync` it outlives a crash of the machine from then on.
    """
    file.flush()
    image = file.id.get_file_image()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        write_at(fd, image, 0)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def write_at(fd: int, data: Raw, offset: int) -> None:
    """Write all of `data` at byte `offset`: `os.pwrite` stops at 2 GiB, this does not."""
    written = os.pwrite(fd, data, offset)
    size = data.nbytes if isinstance(data, np.ndarray) else len(data)
    if written != size:
        view = _bytes_of(data)
        while written < size:
            written += os.pwrite(fd, view[written:], offset + written)


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


def write_file(path: str, shape: Layout, data: Raw, *, sync: bool = False) -> int:
    """Write a whole file, header and data, in one call to the system; return its size.

    `data` is C-contiguous and of the layout's type. The name must be new: an attempt
    never writes a name twice, so an existing one is a mistake that must not pass. With `sync`
    the file is on the disk, or with its server, afterwards.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        written = (
            os.writev(fd, [shape.header, data]) if shape.nbytes else os.write(fd, shape.header)
        )
        if written != shape.size:  # more than 2 GiB, or an interrupted call
            write_at(fd, shape.header, 0)
            write_at(fd, data, shape.offset)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    return shape.size


_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)
if _fallocate is not None:
    _fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def allocate(fd: int, size: int, path: str | os.PathLike[str]) -> None:
    """Give a file its size, with room for all of it on the disk.

    Early allocation of HDF5 reserves nothing; this does, and it tells at once when the disk is
    full. Several writers of one file gain speed from it too.
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
    # Where the file system cannot (NFS 3), `os.posix_fallocate` would write into every page
    # instead, after it has tried to read there, which a file that is open for writing refuses.
    if _fallocate is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    while _fallocate(fd, 0, 0, size):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


class Slab:
    """A preallocated file that is filled by `write`, front to back or anywhere.

    Parameters
    ----------
    path : path
        A new name.
    shape : Layout
        Of the whole file.
    """

    def __init__(self, path: str | os.PathLike[str], shape: Layout) -> None:
        self.path = Path(path)
        self.offset = shape.offset
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            write_at(self.fd, shape.header, 0)
            allocate(self.fd, shape.size, self.path)
        except BaseException:
            os.close(self.fd)
            raise

    def write(self, data: Raw, offset: int) -> None:
        """Write C-contiguous `data` at byte `offset` of the dataset."""
        write_at(self.fd, data, self.offset + offset)

    def sync(self) -> None:
        """Make everything written so far outlive a crash of the machine."""
        os.fsync(self.fd)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self.fd)
