"""Root is held to permissions as others are, in the thread at hand."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

# Of <linux/capability.h>: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH.
_BYPASS = 1 << 1 | 1 << 2
_VERSION_3 = 0x20080522


@contextmanager
def held_to_permissions() -> Iterator[None]:
    """Let files that may not be read or written be so even for root, and children without exec."""
    libc = ctypes.CDLL(None, use_errno=True)
    head = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    had = (ctypes.c_uint32 * 6)()  # twice: in effect, permitted, inherited
    assert libc.capget(head, had) == 0
    less = (ctypes.c_uint32 * 6)(*had)
    less[0] &= ~_BYPASS
    assert libc.capset(head, less) == 0
    try:
        yield
    finally:
        assert libc.capset(head, had) == 0
