"""What kind of file system a path lies on."""

from __future__ import annotations

import functools
import os

__all__ = ["in_memory", "kind_of"]

# Their "disk" is memory: reserving it means filling it with zeros.
_MEMORY = {"tmpfs", "ramfs", "devtmpfs"}


def kind_of(path: str | os.PathLike[str]) -> str:
    """The type of the file system, such as ``ext4``, ``nfs4`` or ``lustre``; "" if unknown.

    Parameters
    ----------
    path : str or path
        Something that exists.
    """
    return _kind_of_device(os.stat(path).st_dev)


@functools.lru_cache(maxsize=64)
def _kind_of_device(device: int) -> str:
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo") as f:
            for line in f:
                fields = line.split()
                if fields[2] == number:
                    return fields[fields.index("-") + 1]
    except OSError:
        pass  # not Linux
    return ""


def in_memory(path: str | os.PathLike[str]) -> bool:
    """Whether files there are held in memory alone."""
    return kind_of(path) in _MEMORY
