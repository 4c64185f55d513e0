"""Waiting for events that other processes bring about. Needs nothing but Python."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds that nothing takes, on a machine however loaded, but what is going to fail.
PATIENCE = 300.0


def until(
    condition: Callable[[], object],
    what: str = "it",
    *,
    seconds: float = PATIENCE,
    every: float = 0.002,
) -> None:
    """Wait for a condition; a test that waits in vain fails."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(every)
