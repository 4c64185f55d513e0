"""Over how many servers a file system lays out one file; asked and told by its own commands.

On Lustre a file lies where it was first made: on sites whose default is one stripe, a file that a
thousand tasks write stays at the speed of one server.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpcio.machine.filesystems import kind_of

__all__ = ["Striping", "layout_in_words", "new_file", "stripes_for", "striping_of"]

# A file of so many bytes is worth a stripe more; sites recommend 100 MB to some GB.
_WORTH = 256 << 20
# More servers than this help nobody who writes one file, and disturb all others.
_MOST = 64
# lfs asks servers, which may be busy.
_PATIENCE = 20.0


@dataclass(frozen=True)
class Striping:
    """How a new file in a folder is laid out.

    Attributes
    ----------
    count : int
        Over how many servers; -1 for all.
    size : int
        Bytes that go to one server before the next has its turn.
    """

    count: int
    size: int


def striping_of(folder: str | os.PathLike[str]) -> Striping | None:
    """How new files in a folder are laid out; None if that is not Lustre, or nobody can say.

    A layout that grows with its file (PFL) counts as its widest part.
    """
    if kind_of(folder) != "lustre":
        return None
    said = _lfs("getstripe", "-d", os.fspath(folder))
    if said is None:
        return None
    counts, sizes = (
        [int(n) for n in re.findall(rf"{name}:\s*(-?\d+)", said)]
        for name in ("stripe_count", "stripe_size")
    )
    if not counts or not sizes:
        return None
    return Striping(-1 if -1 in counts else max(counts), max(sizes))


def stripes_for(nbytes: int) -> int:
    """Over how many servers a file of so many bytes is best laid out.

    Examples
    --------
    >>> stripes_for(1 << 20), stripes_for(10 << 30), stripes_for(1 << 50)
    (1, 40, 64)
    """
    return min(_MOST, max(1, nbytes // _WORTH))


def new_file(path: str | os.PathLike[str], flags: int, *, nbytes: int) -> int:
    """Open a new file of this user's alone, which will have so many bytes, laid out for that.

    Where a layout cannot be had, the file has that of its folder.

    Parameters
    ----------
    path : str or path
    flags : int
        Those of `os.open`, but for those that make it.
    nbytes : int

    Raises
    ------
    OSError
        If it is there already, or cannot be made.
    """
    wanted, own = stripes_for(nbytes), None
    if wanted > 1:  # nobody is asked about small files
        own = striping_of(Path(path).parent)
    if own is not None and 0 <= own.count < wanted and not os.path.lexists(path):
        _lfs("setstripe", "-c", str(wanted), os.fspath(path))
        with suppress(FileNotFoundError):  # it may have made the file, whatever it says
            return _opened_empty(path, flags)
    return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _opened_empty(path: str | os.PathLike[str], flags: int) -> int:
    """Open a file that was just made for this user, and is empty."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(fd)
    if found.st_size or found.st_uid != os.geteuid() or found.st_nlink != 1:
        os.close(fd)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path))
    os.fchmod(fd, 0o600)
    return fd


def layout_in_words(folder: str | os.PathLike[str], nbytes: int) -> str:
    """What there is to say of one file of so many bytes, as the end of a sentence; mostly ""."""
    kind, wanted = kind_of(folder), stripes_for(nbytes)
    if kind not in ("lustre", "beegfs") or wanted == 1:
        return ""
    own = striping_of(folder)
    if own is not None and not 0 <= own.count < wanted:
        return ", over all servers" if own.count < 0 else f", over {own.count} servers"
    if own is not None:
        return f", laid out over {wanted} servers (lfs setstripe -c {wanted})"
    how = "no lfs here asks it" if kind == "lustre" else "beegfs-ctl --getentryinfo says over which"
    return f" -- perhaps on one server of {kind}, at its speed: {how}"


def _lfs(*arguments: str) -> str | None:
    """What Lustre's own command says; None if it is not there, or refuses."""
    command = shutil.which("lfs")
    if command is None:
        return None
    try:
        done = subprocess.run(
            [command, *arguments], capture_output=True, text=True, timeout=_PATIENCE,
            check=False, stdin=subprocess.DEVNULL, umask=0o177,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
