"""What a run takes on trust from its directory: only its owner can have written it.

A plan holds pickles, a submission the commands of jobs: whoever can write them can have anything
run. All is asked of the open descriptor from which is read, never of a name, behind which there may
be something else a moment later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpcio.errors import PlanError
from hpcio.files.rundir import RunDirectory
from hpcio.machine import kind_of

__all__ = ["check_run_folder", "open_own", "own_run_folder", "read_own"]

_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

# File systems that may show modes which nobody has chosen and nobody can change.
_WITHOUT_MODES = {
    "9p", "cifs", "drvfs", "exfat", "fuseblk", "msdos", "ntfs", "ntfs3", "smb3", "vboxsf", "vfat",
    "virtiofs",
}  # fmt: skip


def check_run_folder(rundir: RunDirectory) -> None:
    """See that a run directory is ours alone to write, and all folders of records in it.

    Raises
    ------
    PlanError
        If it belongs to another user, or others may write to it.
    OSError
        If it is not there, or cannot be opened.
    """
    with own_run_folder(rundir):
        pass


@contextmanager
def own_run_folder(rundir: RunDirectory) -> Iterator[int]:
    """The descriptor of a run directory, after `check_run_folder`.

    Yields
    ------
    int
        For `open_own`, which finds files in this very folder, whatever becomes of its name.
    """
    folder = _open_folder(rundir.path)
    try:
        _check(folder, rundir.path)
        for inside in (*rundir.records(), rundir.sources, rundir.submissions):
            with contextlib.suppress(FileNotFoundError):
                fd = _open(inside.name, os.O_DIRECTORY | os.O_NOFOLLOW, inside, folder)
                try:
                    _check(fd, inside)
                finally:
                    os.close(fd)
        yield folder
    finally:
        os.close(folder)


@contextmanager
def open_own(path: Path, *, folder: int | None = None) -> Iterator[int]:
    """The descriptor of a file that nobody but us can have written, for reading.

    Parameters
    ----------
    path : pathlib.Path
    folder : int, optional
        The open folder in which to look for its last name.

    Raises
    ------
    PlanError
        If it belongs to another user, or others may write it.
    OSError
        If it is not there, or cannot be read.
    """
    name = str(path) if folder is None else path.name
    # A pipe that others have put there must not hold us up.
    fd = _open(name, os.O_NOFOLLOW | os.O_NONBLOCK, path, folder)
    try:
        _check(fd, path)
        yield fd
    finally:
        os.close(fd)


def read_own(path: Path) -> bytes:
    """All of a file that nobody but us can have written; see `open_own`."""
    with open_own(path) as fd, open(fd, "rb", closefd=False) as f:
        return f.read()


def _open_folder(path: Path) -> int:
    """Open a folder; behind a link only if the link is ours, as to a disk with more room."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR) or not path.is_symlink():
            raise
    if os.lstat(path).st_uid != os.geteuid():
        raise PlanError(f"The link '{path}' belongs to another user. Choose another output.")
    return os.open(path, flags)


def _open(name: str, flags: int, path: Path, folder: int | None) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
        raise PlanError(
            f"'{path}' is a link or no folder, which no run has made. Remove it, or choose "
            "another output."
        ) from None


def _check(fd: int, path: Path) -> None:
    """Raise PlanError unless an open file or folder is ours, and ours alone to write."""
    found = os.fstat(fd)
    if found.st_uid != os.geteuid():
        raise PlanError(
            f"'{path}' belongs to another user. Make one of your own: choose another output."
        )
    if found.st_mode & _BY_OTHERS and kind_of(path) not in _WITHOUT_MODES:
        raise PlanError(
            f"Others may write to '{path}', so that what is there may be anybody's, and it would "
            f"be run. If you trust it: chmod -R go-w {shlex.quote(str(path))}. If not, remove "
            "it, or choose another output."
        )
