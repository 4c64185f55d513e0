"""Opening HDF5 files for reading, with exact words where that is not possible."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from hpcio.errors import HpcioError, SourceError, as_read_error, check_path, is_of_disk, number_of
from hpcio.machine import only_files

__all__ = [
    "MOST_SOURCES",
    "find_dataset",
    "has_sound_scales",
    "keep_rows",
    "keep_table",
    "locking",
    "open_file",
    "parts_of",
    "plain_offset",
    "read_table",
    "read_text",
    "read_values",
    "reading",
    "room_for",
    "split_spec",
]

# HDF5 keeps each source that it touched open, with half a megabyte of memory for each.
MOST_SOURCES = 2048
# Tables of so many bytes are packed, so many values at a time.
_MANY, _ROWS = 64 << 10, 16 << 10
# Files that a process may want beside the sources.
SPARE_FILES = 128

# Answers of file systems without advisory locks; EWOULDBLOCK would mean that a lock is held.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def split_spec(spec: str | os.PathLike[str]) -> tuple[str, str]:
    """Split ``FILE::DATASET`` at its last ``::``.

    Parameters
    ----------
    spec : str or path
        Such as ``"rec.h5::/lfp"``.

    Returns
    -------
    file, dataset : str

    Raises
    ------
    SourceError
        If either part is missing.

    Examples
    --------
    >>> split_spec("rec.h5::/lfp")
    ('rec.h5', '/lfp')
    """
    check_path("source", spec)
    file, separator, dataset = os.fspath(spec).rpartition("::")
    if not separator or not file or not dataset:
        raise SourceError(
            f"'{os.fspath(spec)}' does not name a dataset. "
            "Write FILE::DATASET, such as rec.h5::/lfp."
        )
    return file, dataset


@functools.lru_cache(maxsize=64)
def _device_locks(device: int, path: str) -> bool:
    """Whether the file system that holds `path` offers the lock that HDF5 asks for."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NO_LOCKS
    finally:
        os.close(fd)
    return True


def locking(path: str | os.PathLike[str]) -> bool | None:
    """What to pass to h5py as `locking` for `path`; tested once for each file system.

    It is False where the file system has no locks, else None, HDF5's default: HDF5 refuses a
    second handle of a file that asks for something else than the first.

    h5py gets it for each file handle, so that nobody has to know the variable
    ``HDF5_USE_FILE_LOCKING``, which HDF5 reads for the whole process.
    """
    name = os.fspath(path)
    probe = name if os.path.isfile(name) else (os.path.dirname(name) or ".")
    return None if _device_locks(os.stat(probe).st_dev, probe) else False


def open_file(path: str | os.PathLike[str]) -> h5py.File:
    """Open an HDF5 file for reading, or say exactly why that is not possible.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    h5py.File
        Mode ``"r"``.

    Raises
    ------
    SourceError
        No such file, no permission, a directory, not HDF5, or open for writing elsewhere.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb", opener=only_files):  # HDF5 would wait at a pipe
            pass
        lock = locking(name)
    except FileNotFoundError:
        raise SourceError(f"There is no file '{name}'. Check the path.") from None
    except IsADirectoryError:
        raise SourceError(f"'{name}' is a directory. Name an HDF5 file in it.") from None
    except PermissionError:
        raise SourceError(
            f"No permission to read '{name}'. Ask its owner, or check chmod."
        ) from None
    except OSError as error:
        raise SourceError(
            error.errno, f"Cannot read '{name}': {error.strerror}. Check the path."
        ) from error
    try:
        return h5py.File(name, "r", locking=lock)
    except OSError as error:
        locked = "lock file" in str(error)
        if not locked and is_of_disk(error):  # the disk has failed, not the file
            raise as_read_error(error, name) from error
        if not h5py.is_hdf5(name) and not locked:
            raise SourceError(f"'{name}' is not an HDF5 file. {_remedy(name)}.") from error
        if locked:
            raise SourceError(
                f"'{name}' is open for writing elsewhere. Close it there, then try again."
            ) from error
        raise SourceError(
            f"HDF5 cannot open '{name}': {error}. Restore it from a backup."
        ) from error


def _remedy(name: str) -> str:
    """What makes HDF5 of a file that is none."""
    if name.lower().endswith(".mat"):
        return (
            "MATLAB writes HDF5 with -v7.3 only: save it again by save('NAME.mat', 'x', '-v7.3'), "
            "or read it by scipy.io.loadmat"
        )
    return "Convert it first"


def has_sound_scales(dataset: h5py.Dataset) -> bool:
    """Whether the lists of scales and labels of a dataset are what HDF5 takes them for.

    It does not look, and crashes by lists of another type, or of another length.
    """
    try:
        for name in (b"DIMENSION_LIST", b"DIMENSION_LABELS"):
            if not h5py.h5a.exists(dataset.id, name):
                continue
            attribute = h5py.h5a.open(dataset.id, name)
            kind = attribute.get_type()
            if name == b"DIMENSION_LABELS":
                fits = isinstance(kind, h5py.h5t.TypeStringID) and kind.is_variable_str()
            else:
                of = kind.get_super() if isinstance(kind, h5py.h5t.TypeVlenID) else None
                fits = of is not None and of == h5py.h5t.STD_REF_OBJ
            if not fits or attribute.shape != (dataset.ndim,):
                return False
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        return False
    return True


def read_table(dataset: h5py.Dataset) -> Any:
    """All values of a dataset that a file needs to be understood.

    Raises
    ------
    ValueError
        If there are far more of them than the file holds: HDF5 would make up the others, for as
        long as that takes.
    """
    # No filter of HDF5 makes a thousandth of anything but of what is nothing.
    most = max(1 << 20, 2000 * dataset.id.get_storage_size())
    if (dataset.size or 0) * dataset.dtype.itemsize > most:
        raise ValueError(f"'{dataset.name}' is said to have {dataset.size} values, and has not")
    return dataset[()]


def keep_table(group: h5py.Group, name: str, values: npt.ArrayLike) -> h5py.Dataset:
    """Keep values, one for each trial, block or part, as a dataset.

    Many whole numbers, which mostly count or stay as they are, take less than a bit each so; any
    HDF5 reads them. Fewer, and all others, lie plain.
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iubV":
        return group.create_dataset(name, data=array)
    return keep_rows(group, name, len(array), array.dtype, lambda rows: array[rows])


def keep_rows(
    group: h5py.Group,
    name: str,
    count: int,
    dtype: np.dtype,
    rows_of: Callable[[slice], np.ndarray],
) -> h5py.Dataset:
    """Keep a table as `keep_table` does, of which so many rows are made at a time."""
    packing: dict[str, Any] = {}
    if count * dtype.itemsize >= _MANY:
        packing = {"chunks": (min(count, _ROWS),), "shuffle": True, "compression": "gzip",
                   "compression_opts": 1}  # fmt: skip
    dataset = group.create_dataset(name, (count,), dtype, **packing)
    for part in parts_of(count):
        dataset[part] = rows_of(part)
    return dataset


def parts_of(count: int) -> Iterator[slice]:
    """Rows of a long table, some chunks at a time."""
    for first in range(0, count, 4 * _ROWS):
        yield slice(first, min(count, first + 4 * _ROWS))


def read_values(
    dataset: h5py.Dataset, region: tuple[Any, ...], dtype: np.dtype | None = None
) -> np.ndarray:
    """Part of a dataset.

    Raises
    ------
    OSError
        If HDF5 cannot read it; it says where that is.
    """
    try:
        # None would be equal to the type f8.
        as_is = dtype is None or dtype == dataset.dtype
        converted = dataset if as_is else dataset.astype(dtype)
        return np.asarray(converted[region])
    except OSError as error:
        number = number_of(error)
        raise OSError(
            *(() if number is None else (number,)),
            f"Reading {region} of '{dataset.name}' in '{dataset.file.filename}' failed: {error}. "
            "Check the file with h5dump, and that the plugins of its filters are installed.",
        ) from error


def read_text(thing: h5py.Group | h5py.Dataset, name: str, default: str | None = None) -> str:
    """An attribute that must be text.

    Raises
    ------
    KeyError
        If there is none, nor a default.
    ValueError
        If it is no text: ``bytes`` would make as many zeros of a number as it says.
    """
    said = thing.attrs[name] if default is None else thing.attrs.get(name, default)
    if isinstance(said, np.ndarray):
        said = said[()] if said.ndim == 0 else said.tobytes()
    if not isinstance(said, str | bytes):
        raise ValueError(f"'{name}' of '{thing.name}' is no text: {type(said).__name__}")
    return said.decode() if isinstance(said, bytes) else said


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise SourceError for what HDF5 cannot read of an open file: it has several errors for it."""
    try:
        yield
    except HpcioError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, UnicodeError, MemoryError) as error:
        raise as_read_error(error, path) from error


def find_dataset(file: h5py.File, dataset: str) -> h5py.Dataset:
    """Dataset `dataset` of an open file, or a SourceError that lists what is there instead."""
    try:
        found = file[dataset]
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        if is_of_disk(error):  # it may be there, but the disk has failed
            raise as_read_error(error, file.filename) from error
        found = None
    if isinstance(found, h5py.Dataset):
        return found
    names: list[str] = []
    with contextlib.suppress(OSError, RuntimeError):  # what is damaged has no names
        file.visititems(
            lambda name, item: names.append(f"/{name}") if isinstance(item, h5py.Dataset) else None
        )
    listed = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "") if names else "none"
    what = "is a group, not a dataset" if found is not None else "does not exist"
    raise SourceError(
        f"'{dataset}' in '{file.filename}' {what}. Choose one of the datasets: {listed}."
    )


def _used() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return SPARE_FILES


def room_for(sources: int) -> bool:
    """Whether HDF5 can hold so many sources open at once; raises the soft limit if it may."""
    if sources > MOST_SOURCES:
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = sources + _used() + SPARE_FILES
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return True
    if hard != resource.RLIM_INFINITY and needed > hard:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError):
        return False
    return True


def plain_offset(dataset: h5py.Dataset, path: str) -> int | None:
    """Where the bytes of a dataset begin, if its file holds them as numpy does; None if not."""
    plain = (
        dataset.chunks is None
        and not dataset.is_virtual
        and dataset.external is None
        and os.path.samefile(dataset.file.filename, path)  # no external link
        and dataset.file.driver == "sec2"
        and dataset.file.userblock_size == 0
        and dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype, logical=True)
        and dataset.id.get_storage_size() == dataset.size * dataset.dtype.itemsize
    )
    offset: int | None = dataset.id.get_offset() if plain else None
    return offset
