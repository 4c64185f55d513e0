"""HDF5 files that are laid out in memory, since HDF5 may crash on a full disk."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from hpcio.files.bytes import write_at
from hpcio.files.names import give_name

__all__ = ["in_memory_file", "sparse_file", "write_image", "write_under_name"]

_LAYOUT = "hpcio-layout-"
# A layout that is older, in seconds, was left by a killed process: making one takes far less.
_LEFT = 3600.0


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
    seal: Callable[[bytes], bytes] | None = None,
) -> None:
    """Write all of an HDF5 file in memory under a new name.

    With `sync`, the file outlives a crash of the machine from then on. What `seal` makes of the
    bytes follows them; HDF5 does not look behind its own end.
    """
    file.flush()
    image = file.id.get_file_image()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        write_at(fd, image, 0)
        if seal is not None:
            write_at(fd, seal(image), len(image))
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


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
