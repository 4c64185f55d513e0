"""Memory that a process has freed: kept for what comes next, or given back to the system."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["giving_back_freed", "keep_freed"]

# Of mallopt: how much that is free malloc keeps, and from which size on memory comes from the
# system and goes back to it at once.
_KEEP, _DIRECT = -1, -3
# glibc comes to these by itself where neither is set.
_MUCH, _LARGE = 64 << 20, 32 << 20
# What glibc begins with, and stays at if the other one is set.
_LARGE_AT_FIRST = 128 << 10
_libc = ctypes.CDLL(None)


def keep_freed() -> None:
    """Have malloc keep what is freed, as it learns to by itself, where it was told not to.

    dask starts its workers with ``MALLOC_TRIM_THRESHOLD_``, so that their memory looks as it is.
    malloc then takes every array from the system, which clears it page by page, and that takes
    longer than many a function. Where the variable is not set, nothing changes.
    """
    if _told() is not None:
        _set(_MUCH, _LARGE)


@contextmanager
def giving_back_freed() -> Iterator[None]:
    """Undo `keep_freed`, and give back to the system what was kept, and what is freed inside.

    malloc can give back the end of a thread's memory only when something is freed there. So whoever
    has kept arrays lets go of them inside.
    """
    if (told := _told()) is None:
        yield
        return
    _set(told, _LARGE_AT_FIRST)
    yield
    _libc.malloc_trim(0)


def _set(keep: int, direct: int) -> None:
    _libc.mallopt(_KEEP, keep)
    _libc.mallopt(_DIRECT, direct)


def _told() -> int | None:
    """How much malloc was told to keep, and nothing else; None if not, or this is no glibc."""
    try:
        told = int(os.environ.get("MALLOC_TRIM_THRESHOLD_", ""))
    except ValueError:
        return None
    others = "MALLOC_MMAP_THRESHOLD_" in os.environ or "GLIBC_TUNABLES" in os.environ
    can = hasattr(_libc, "malloc_trim") and abs(told) < 1 << 31  # mallopt takes an int
    return told if can and not others else None
