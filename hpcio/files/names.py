"""The final name of a finished file, which is never taken from another file."""

from __future__ import annotations

import ctypes
import errno
import os

from hpcio.errors import OutputError
from hpcio.files.marks import mark_of
from hpcio.machine import look_again

__all__ = ["give_name", "rename_new"]

_HERE = -100  # AT_FDCWD
_NOREPLACE = 1
# What file systems say that cannot rename so: those of networks (NFS, Lustre, GlusterFS), and FUSE.
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}

_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # old C libraries


def rename_new(old: str | os.PathLike[str], new: str | os.PathLike[str]) -> None:
    """Rename a file to a name that nobody else has.

    Where the file system cannot do so in one step, it is looked just before. Not by a hard link,
    which a kill would leave beside the new name: writers might find the file by it.

    Raises
    ------
    FileExistsError
        If the name is taken; nothing has changed then.
    OSError
    """
    number = errno.ENOSYS
    if _renameat2 is not None:
        if not _renameat2(_HERE, os.fsencode(old), _HERE, os.fsencode(new), _NOREPLACE):
            return
        number = ctypes.get_errno()
    if number in _CANNOT:
        look_again(new)
        if not os.path.lexists(new):
            os.rename(old, new)
            return
        number = errno.EEXIST
    raise OSError(number, os.strerror(number), os.fspath(old), None, os.fspath(new))


def give_name(
    part: str | os.PathLike[str], final: str | os.PathLike[str], *, replaces: str | None = None
) -> None:
    """Give a finished file its final name; it replaces nothing but the result of one run.

    Parameters
    ----------
    part : str or path
        The file, which is on the disk.
    final : str or path
    replaces : str, optional
        The run whose result it may replace.

    Raises
    ------
    OutputError
        If there is any other file of that name.
    OSError
    """
    mark = mark_of(final) if replaces else None
    if mark is not None and mark.run_id == replaces:
        os.rename(part, final)
        return
    try:
        rename_new(part, final)
    except FileExistsError as error:
        raise OutputError(
            f"The output '{os.fspath(final)}' has appeared meanwhile, and is not replaced. Move it "
            "away, then run again."
        ) from error
