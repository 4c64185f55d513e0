"""HDF5 files that are laid out in memory, since HDF5 may crash on a full disk."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcio.errors import as_output_error
from hpcio.files.bytes import StreamedChecksum, in_pieces, write_at
from hpcio.files.names import give_name

__all__ = [
    "empty_dataset",
    "in_memory_file",
    "sparse_file",
    "write_arrays",
    "write_image",
    "write_under_name",
]

_LAYOUT = "hpcio-layout-"
# A layout that is older, in seconds, was left by a killed process: making one takes far less.
_LEFT = 3600.0
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@contextmanager
def sparse_file() -> Iterator[tuple[str, int]]:
    """Path and descriptor of a temporary file for HDF5: of any size, with little written to it.

    It lies in memory, since HDF5 may crash after it met a full disk. The file is removed at the
    end. Files that killed processes have left are removed after an hour.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else tempfile.gettempdir()
    for left in Path(memory).glob(f"{_LAYOUT}*"):
        with contextlib.suppress(OSError):  # gone meanwhile, or another user's
            if time.time() - left.stat().st_mtime > _LEFT:
                left.unlink()
    # HDF5 makes no file without a name. It says whose it is.
    fd, path = tempfile.mkstemp(prefix=f"{_LAYOUT}{os.getpid()}-", suffix=".h5", dir=memory)
    try:
        yield path, fd
    finally:
        os.close(fd)
        Path(path).unlink(missing_ok=True)


@contextmanager
def in_memory_file(**options: Any) -> Iterator[h5py.File]:
    """An HDF5 file in memory, to be written by `write_image`.

    HDF5 cannot close a file on a full disk, and may then crash the whole process.
    """
    name = secrets.token_hex(8)  # HDF5 tells such files apart by it
    with h5py.File(
        name, "w", driver="core", backing_store=False, block_size=1 << 20, **options
    ) as f:
        yield f


def write_image(
    file: h5py.File,
    path: str | os.PathLike[str],
    *,
    mode: int = 0o666,
    sync: bool = True,
) -> None:
    """Write all of an HDF5 file in memory under a new name.

    With `sync`, the file outlives a crash of the machine from then on.
    """
    file.flush()
    image = file.id.get_file_image()
    fd = os.open(path, _NEW, mode)
    try:
        write_at(fd, image, 0)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def empty_dataset(
    file: h5py.File, name: str, htype: h5py.h5t.TypeID, shape: tuple[int, ...]
) -> h5py.Dataset:
    """A contiguous dataset that has its place in the file, and values that others write there."""
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    dcpl.set_layout(h5py.h5d.CONTIGUOUS)
    dcpl.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    dcpl.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    dcpl.set_obj_track_times(False)
    lcpl = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    lcpl.set_create_intermediate_group(True)
    space = h5py.h5s.create_simple(shape)
    return h5py.Dataset(h5py.h5d.create(file.id, name.encode(), htype, space, dcpl, lcpl))


def write_arrays(
    arrays: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    *,
    attrs: Mapping[str, Any],
    seal: Callable[[int], bytes],
    mode: int = 0o666,
) -> None:
    """Write an HDF5 file of plain arrays under a new name, without a second copy of them in memory.

    The file outlives a crash of the machine from then on.

    Parameters
    ----------
    arrays : mapping of str to numpy.ndarray, of one axis or more
        The values of each dataset, by its name.
    path : str or path
    attrs : mapping
        The attributes of the file.
    seal : callable
        What it makes of the checksum of all bytes follows them; HDF5 does not look behind its own
        end.
    mode : int
        Who may read it, before the umask.

    Raises
    ------
    OutputError
        If HDF5 cannot lay out the file, in memory.
    OSError
        If it cannot be written.
    """
    with sparse_file() as (name, image):
        try:
            places = _lay_out(arrays, attrs, name)
        except (OSError, RuntimeError) as error:
            raise as_output_error(error, name) from error
        size, total, at = os.fstat(image).st_size, StreamedChecksum(), 0
        fd = os.open(path, _NEW, mode)
        try:
            for piece in _with_values(image, size, places):
                write_at(fd, piece, at)
                total.update(piece)
                at += len(piece)
            write_at(fd, seal(total.intdigest()), at)
            os.fsync(fd)
        finally:
            os.close(fd)


def _lay_out(
    arrays: Mapping[str, np.ndarray], attrs: Mapping[str, Any], path: str
) -> dict[int, np.ndarray]:
    """Have HDF5 make a file of arrays without their values; the first byte of each."""
    places = {}
    with h5py.File(path, "w", locking=False) as f:
        f.attrs.update(attrs)
        for name, array in arrays.items():
            htype = h5py.h5t.py_create(array.dtype, logical=True)
            offset = empty_dataset(f, name, htype, array.shape).id.get_offset()
            if offset is not None:  # HDF5 allocates nothing for an empty dataset
                places[int(offset)] = array
    return places


def _with_values(image: int, size: int, places: Mapping[int, np.ndarray]) -> Iterator[bytes]:
    """All bytes of a file, in order: what HDF5 has laid out, and arrays in their places in it."""
    at = 0
    for offset, array in sorted(places.items(), key=lambda place: place[0]):
        yield os.pread(image, offset - at, at)
        yield from in_pieces(array)
        at = offset + array.nbytes
    yield os.pread(image, size - at, at)


def write_under_name(
    fill: Callable[[h5py.File], None],
    final: Path,
    *,
    tag: str,
    mode: int = 0o666,
    replaces: str | None = None,
) -> None:
    """Write an HDF5 file under its name: whole, or not at all.

    Parameters
    ----------
    fill : callable
        Fills the file, which lies in memory until then.
    final : pathlib.Path
    tag : str
        Whose file it is. Parts that earlier, killed processes left under this tag are removed.
    mode : int
        Who may read it, before the umask.
    replaces : str, optional
        The run whose result it may replace; see `give_name`.
    """
    part = final.with_name(f".{final.name}.{tag}.{os.getpid()}.part")
    for left in final.parent.glob(f".{glob.escape(f'{final.name}.{tag}')}.*.part"):
        if left.suffixes[-2][1:].isdecimal():  # by a run that was killed while it published
            left.unlink(missing_ok=True)
    try:
        # libver "v110" lets the group of details hold any number of attributes.
        with in_memory_file(libver=("earliest", "v110")) as f:
            fill(f)
            write_image(f, part, mode=mode)
        give_name(part, final, replaces=replaces)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
