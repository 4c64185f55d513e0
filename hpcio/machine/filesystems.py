"""What kind of file system a path lies on, and what is safe to do on all of them."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import stat

__all__ = [
    "in_memory",
    "is_first",
    "is_local",
    "kind_of",
    "look_again",
    "on_one_mount",
    "only_files",
    "options_of",
    "read_whole",
    "write_whole",
    "writes_exactly",
]

# These keep files in memory: reserving room there means filling it with zeros.
_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}

# All other file systems may have clients on other nodes, each with a cache of its own.
_LOCAL = _MEMORY | {
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "ntfs3", "overlay",
    "reiserfs", "vfat", "xfs", "zfs",
}  # fmt: skip


# Clients of these send the bytes that they were given, and none of the page around them. GlusterFS
# was tried (by `pwrite`; not by `mmap`); the others keep the caches of all nodes coherent.
_EXACT = {"ceph", "fuse.glusterfs", "gpfs", "lustre"}


def kind_of(path: str | os.PathLike[str]) -> str:
    """The type of the file system, such as ``ext4``, ``nfs4`` or ``lustre``; "" if unknown.

    Parameters
    ----------
    path : str or path
        Something that exists.
    """
    return _mount_of(path)[0]


def options_of(path: str | os.PathLike[str]) -> frozenset[str]:
    """How the file system that holds `path` is mounted, such as ``vers=4.2`` and ``rw``."""
    return _mount_of(path)[1]


def on_one_mount(path: str | os.PathLike[str], other: str | os.PathLike[str], *, kind: str) -> bool:
    """Whether two folders, or what is left of their paths, are on one file system of a kind."""
    there, here = _existing(path), _existing(other)
    same = os.stat(there).st_dev == os.stat(here).st_dev
    return same and kind_of(here) == kind


def _existing(path: str | os.PathLike[str]) -> str:
    """The path, or the nearest folder above it that exists."""
    found = os.path.abspath(path)
    while not os.path.exists(found) and found != os.path.dirname(found):
        found = os.path.dirname(found)
    return found


def _mount_of(path: str | os.PathLike[str]) -> tuple[str, frozenset[str]]:
    found = _mount_of_device(os.stat(path).st_dev)
    return _mount_above(os.path.realpath(path)) if found is None else found


@functools.lru_cache(maxsize=64)
def _mount_of_device(device: int) -> tuple[str, frozenset[str]] | None:
    number = f"{os.major(device)}:{os.minor(device)}"
    for fields in _mounts():
        if fields[2] == number:
            return _described(fields)
    return None


def _mount_above(path: str) -> tuple[str, frozenset[str]]:
    """Find the mount by its path: on btrfs, files have another device than their mount."""
    above = [
        (len(point), fields)
        for fields in _mounts()
        if os.path.commonpath([path, point := _MOUNT_ESCAPE.sub(_unescaped, fields[4])]) == point
    ]
    # Of several mounts on one point, the last one hides the others.
    return _described(max(reversed(above), key=lambda found: found[0])[1]) if above else _UNKNOWN


_UNKNOWN: tuple[str, frozenset[str]] = ("", frozenset())
_MOUNT_ESCAPE = re.compile(r"\\([0-7]{3})")


def _unescaped(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 8))


def _mounts() -> list[list[str]]:
    try:
        with open("/proc/self/mountinfo") as f:
            return [line.split() for line in f]
    except OSError:
        return []  # not Linux


def _described(fields: list[str]) -> tuple[str, frozenset[str]]:
    end = fields.index("-")
    return fields[end + 1], frozenset(f"{fields[5]},{fields[-1]}".split(","))


def look_again(path: str | os.PathLike[str]) -> None:
    """Have a network file system ask its server whether a name is there.

    An NFS client that found a name absent keeps saying so for half a minute. Opening the
    folder makes it ask.
    """
    with contextlib.suppress(OSError):
        os.close(os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY))


def is_first(path: str | os.PathLike[str]) -> bool:
    """Make an empty file; whether this process was the first to do so.

    Only success means yes: a server that is asked twice says that the name is there.

    Raises
    ------
    OSError
        If it cannot be made, for another reason than that it is there.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


def only_files(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Open a file; a pipe or a device that has its name is refused, and not waited for.

    It is for ``open(path, "rb", opener=only_files)``, too. What it makes is its owner's alone.
    Names may lie in folders where others put what they like.

    Raises
    ------
    OSError
    """
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # of folders Python and the system say so
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "Is a pipe or a device", os.fspath(path))


def read_whole(path: str | os.PathLike[str]) -> bytes:
    """All bytes of a file.

    Raises
    ------
    OSError
    """
    with open(path, "rb", opener=only_files) as f:
        return f.read()


def write_whole(path: str | os.PathLike[str], data: bytes, *, mode: int = 0o600) -> None:
    """Write a small file: complete under its name, or not at all. It replaces an older one.

    Raises
    ------
    OSError
    """
    folder, name = os.path.split(os.fspath(path))
    part = os.path.join(folder, f".{name}.{os.getpid()}.part")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)  # by a process of our number that was killed, or whatever others put there
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(fd)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def in_memory(path: str | os.PathLike[str]) -> bool:
    """Whether files there are held in memory alone."""
    return kind_of(path) in _MEMORY


def writes_exactly(path: str | os.PathLike[str]) -> bool:
    """Whether a client sends no other bytes than those it was given; False if that is not known."""
    return kind_of(path) in _LOCAL | _EXACT


def is_local(path: str | os.PathLike[str]) -> bool:
    """Whether only this machine has files there; False if that is not known."""
    return kind_of(path) in _LOCAL
