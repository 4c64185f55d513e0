"""Who is alive, on a shared file system."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from hpcio.errors import as_output_error
from hpcio.files import write_at
from hpcio.planning import Plan

__all__ = ["Heartbeat", "HeartbeatMonitor"]

# How often an attempt shows that it lives, in seconds; more often if `stale` is short.
_BEAT_EVERY = 10.0


class Heartbeat:
    """A thread that shows that an attempt lives: a number that grows, in ``beats/ATTEMPT``.

    Parameters
    ----------
    plan : Plan
    attempt : str
    stale : float
        After how many seconds without a change of its number others think that it is dead.
    """

    def __init__(self, plan: Plan, attempt: str, *, stale: float) -> None:
        path = plan.rundir.heartbeats / attempt
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise as_output_error(error, path) from error
        self._every, self._ended = min(_BEAT_EVERY, stale / 6), threading.Event()
        self._thread = threading.Thread(target=self._run, name="hpcio-heartbeat", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(self._every if number else 0):
            number += 1
            # If a number cannot be written, others help where no help is needed: no harm.
            with contextlib.suppress(OSError):
                write_at(self._fd, b"%016d" % number, 0)
                os.fsync(self._fd)

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()
        os.close(self._fd)


class HeartbeatMonitor:
    """Which attempts live, by the clock of whoever looks.

    Nothing is learned from the age of a file, since the clocks of nodes differ: an attempt
    lives if its number has changed since we first looked, and is dead if it has not for
    `stale` seconds.
    """

    def __init__(self, plan: Plan, *, stale: float) -> None:
        self._folder, self._stale = plan.rundir.heartbeats, stale
        self._seen: dict[str, tuple[object, float, bool]] = {}

    def look(self, attempt: str, sign: object = None) -> None:
        """Look at an attempt; `sign` is any other sign of life, such as its last record."""
        with contextlib.suppress(OSError):
            sign = (sign, Path(self._folder, attempt).read_bytes())
        now = time.monotonic()
        if attempt not in self._seen:
            self._seen[attempt] = (sign, now, False)
        elif self._seen[attempt][0] != sign:
            self._seen[attempt] = (sign, now, True)

    def lives(self, attempt: str) -> bool:
        """Whether it has given a sign of life since we first looked, and not too long ago."""
        _, when, changed = self._seen[attempt]
        return changed and time.monotonic() - when < self._stale

    def dead(self, attempt: str) -> bool:
        """Whether it has given no sign of life for too long."""
        return time.monotonic() - self._seen[attempt][1] >= self._stale
