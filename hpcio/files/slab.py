"""HDF5 files at the speed of plain files.

HDF5 itself lays out a file with contiguous datasets (early allocation, fill never), one or several
back to back, and says where their bytes lie. The bytes before those are the *header image*. They
depend on shapes, types, names and attributes alone, so one file that HDF5 wrote gives the header of
any number of equal files. The result is an ordinary HDF5 file, made in fewer steps.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import math
import os
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from hpcio.errors import FunctionError, OutputError, as_output_error
from hpcio.files.access import READABLE
from hpcio.files.bytes import Raw, allocate, write_at
from hpcio.files.images import empty_dataset, sparse_file
from hpcio.files.locks import try_lock, unlock

__all__ = ["Layout", "Slab", "layout", "layout_of", "write_file"]

# The name, shape and type of a dataset.
Named = tuple[str, tuple[int, ...], np.dtype]


@dataclass(frozen=True)
class Layout:
    """Where HDF5 puts the data of a file: of one dataset, or of several, one after the other.

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
        Name of the dataset; groups in the name are created.
    digest : str
        Stored as the attribute ``plan`` of the dataset, so that a file tells whose it is.

    Returns
    -------
    Layout

    Raises
    ------
    FunctionError
        If HDF5 cannot hold `dtype`.
    """
    return layout_of(((name, shape, np.dtype(dtype)),), digest=digest)


@functools.lru_cache(maxsize=1024)
def layout_of(datasets: tuple[Named, ...], *, digest: str = "") -> Layout:
    """Ask HDF5 for the layout of a file with some datasets, back to back in their order.

    Parameters
    ----------
    datasets : tuple of (name, shape, dtype)
    digest : str
        As for `layout`; each has it.

    Raises
    ------
    FunctionError
        If HDF5 cannot hold a type.
    """
    nbytes = sum(math.prod(shape) * dtype.itemsize for _, shape, dtype in datasets)
    with sparse_file() as (path, fd):
        try:
            offset = _lay_out(path, datasets, digest)
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


def _hdf5_type(dtype: np.dtype) -> h5py.h5t.TypeID:
    try:
        return h5py.h5t.py_create(dtype, logical=True)
    except TypeError as error:
        raise FunctionError(
            f"HDF5 cannot hold results of type {dtype}. Return integers, floats, complex or bool."
        ) from error


def _lay_out(path: str, datasets: tuple[Named, ...], digest: str) -> int | None:
    """Have HDF5 make a file with some datasets; where their data begin, if it allocated any.

    None if they do not lie one after the other.
    """
    # The data must come last: groups and long names need more room before them.
    names = [name for name, *_ in datasets]
    room = 2048 * sum(1 + 2 * name.strip("/").count("/") + len(name) // 512 for name in names)
    first = end = None
    with h5py.File(path, "w", locking=False, meta_block_size=room) as f:
        for name, shape, dtype in datasets:
            dataset = empty_dataset(f, name, _hdf5_type(dtype), shape)
            if digest:
                dataset.attrs["plan"] = np.bytes_(digest)
            if not dataset.size:
                continue
            offset = dataset.id.get_offset()
            first = offset if first is None else first
            if end not in (None, offset):
                return None
            end = offset + dataset.nbytes
    return first


def write_file(path: str, layout: Layout, data: Raw, *, sync: bool = False) -> int:
    """Write a whole file, header and data, in one call to the system; return its size.

    `data` is C-contiguous and of the layout's type. The name must be new: an attempt
    never writes a name twice, so an existing one is a mistake that must not pass. With `sync`,
    the file is on the disk afterwards, or with its server.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, READABLE)
    try:
        written = (
            os.writev(fd, [layout.header, data]) if layout.nbytes else os.write(fd, layout.header)
        )
        if written != layout.size:  # more than 2 GiB, or an interrupted call
            write_at(fd, layout.header, 0)
            write_at(fd, data, layout.offset)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
    return layout.size


class Slab:
    """A preallocated file that is filled by `write`, front to back or anywhere.

    As long as it is open, it is locked: whoever publishes it can tell that its writer may come yet.

    Parameters
    ----------
    path : path
        A new name.
    layout : Layout
        Of the whole file.
    """

    def __init__(self, path: str | os.PathLike[str], layout: Layout) -> None:
        self.path = Path(path)
        self.offset = layout.offset
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, READABLE)
        self._place = -1
        try:
            # Another descriptor: locks of NFS want it open for reading, and writing goes on even
            # if a server has forgotten them.
            self._place = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if not try_lock(self._place, fcntl.LOCK_SH):
                raise BlockingIOError(errno.EAGAIN, "another process has locked it")
            write_at(self.fd, layout.header, 0)
            allocate(self.fd, layout.size, self.path)
        except BaseException:
            self.close()
            raise

    def write(self, data: Raw, offset: int) -> None:
        """Write C-contiguous `data` at byte `offset` of the dataset."""
        write_at(self.fd, data, self.offset + offset)

    def sync(self) -> None:
        """Make everything written so far outlive a crash of the machine."""
        os.fsync(self.fd)

    def close(self) -> None:
        """Let go of the file, and then of its lock."""
        os.close(self.fd)
        unlock(self._place)
