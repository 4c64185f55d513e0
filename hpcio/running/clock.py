"""A limit of time for each trial: one that takes longer is left, or ends along with its process.

A thread looks at the trial at hand. If it takes too long, a signal raises `OutOfTime` inside the
function. A function may hold that up, by code in C that does not return, or an ``except:`` around
all of it. Then, somewhat later, its whole process ends. If no thread of Python can run, that is
done by `faulthandler`, whose own needs nothing of Python. The stacks of all threads are left in a
file, by which another process records the trial as failed; see `failed_for_time`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import mmap
import os
import signal
import struct
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from types import FrameType

from hpcio.errors import as_output_error
from hpcio.planning import Plan
from hpcio.running.deaths import blame
from hpcio.words import duration

__all__ = ["OutOfTime", "TrialClock", "end_stopped", "failed_for_time", "stacks_of"]

# A file of stacks begins with a page, in which there is the block at hand, or -1.
_PAGE = 4096
_BLOCK = struct.Struct("<q")
_SUFFIX = ".stack.log"
# No library uses it, as many do SIGALRM and SIGUSR2.
_SIGNAL = signal.SIGRTMIN + 5


class OutOfTime(BaseException):
    """Raised inside a compute function whose trial takes longer than it may."""


# The clocks of this process, one for each thread that computes.
_clocks: set[TrialClock] = set()


class TrialClock:
    """Sees to it that no trial takes longer than it may.

    Parameters
    ----------
    limit : float
        Seconds.
    leave : callable
        Raises an exception inside the function, if it is computing; called in a handler of signals.
    stacks : pathlib.Path, optional
        Where the stacks go if the function holds up its end; the process ends with it. By default
        it does not.

    Attributes
    ----------
    stack : str
        That of the function when it was last left.
    """

    def __init__(
        self, limit: float, leave: Callable[[type[BaseException]], None], stacks: Path | None = None
    ) -> None:
        self.limit, self.stack = limit, ""
        # How long a function may hold up its end.
        self._grace = min(max(1.0, limit / 4), 60.0)
        self._leave = leave
        # The block at hand, and since when; one value, since two threads look at it.
        self._at: tuple[int, float] | None = None
        self._told: tuple[int, float] | None = None
        self._closed = threading.Event()
        self._stacks, self._fd = stacks, -1
        self._page: mmap.mmap | bytearray = bytearray(_BLOCK.size)
        if stacks is not None:
            self._open(stacks)
        # Only there a handler runs. Elsewhere a trial ends along with its process.
        self._is_main = threading.current_thread() is threading.main_thread()
        self._owner = threading.get_ident()
        if self._is_main:
            self._before = signal.signal(_SIGNAL, self._interrupt)
        self._thread = threading.Thread(target=self._watch, name="hpcio-clock", daemon=True)
        _clocks.add(self)
        self._arm()  # the first trial may let no thread run
        self._thread.start()

    def _open(self, stacks: Path) -> None:
        try:
            self._fd = os.open(stacks, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._fd, _PAGE)
            os.lseek(self._fd, _PAGE, os.SEEK_SET)
            self._page = mmap.mmap(self._fd, _PAGE)
        except OSError as error:
            raise as_output_error(error, stacks) from error
        _BLOCK.pack_into(self._page, 0, -1)

    def begin(self, block: int) -> None:
        """Note that the function gets the trial of a block now."""
        _BLOCK.pack_into(self._page, 0, block)
        self._at = block, perf_counter()

    def end(self) -> None:
        """Note that the function has returned, or raised."""
        self._at = None
        _BLOCK.pack_into(self._page, 0, -1)

    def _interrupt(self, _: int, frame: FrameType | None) -> None:
        if self._told is not None and self._told is self._at:
            self.stack = "".join(traceback.format_stack(frame))
            self._leave(OutOfTime)

    def _watch(self) -> None:
        every = min(max(self.limit / 20, 0.02), 5.0)
        while not self._closed.wait(every):
            self._arm()
            at = self._at
            passed = 0.0 if at is None else perf_counter() - at[1]
            if passed > self.limit and self._told is not at and self._is_main:
                self._told = at
                signal.pthread_kill(self._owner, _SIGNAL)
            if passed > self.limit + self._grace and self._at is at and self._fd >= 0:
                faulthandler.dump_traceback(self._fd)
                os._exit(1)

    def _arm(self) -> None:
        """Have the process end if its function does not let this thread run for too long."""
        # There is one such timer for a process. It would not know which thread holds up the others.
        if len(_clocks) == 1 and self._fd >= 0:
            longest = self.limit + 2 * self._grace
            faulthandler.dump_traceback_later(longest, exit=True, file=self._fd)
        else:
            faulthandler.cancel_dump_traceback_later()

    def close(self) -> None:
        """Let go of the thread and of the file."""
        _clocks.discard(self)
        self._closed.set()
        self._thread.join()
        if self._is_main:
            signal.signal(_SIGNAL, self._before)
        if self._fd >= 0:
            faulthandler.cancel_dump_traceback_later()
            assert isinstance(self._page, mmap.mmap)
            self._page.close()
            os.close(self._fd)
            assert self._stacks is not None
            self._stacks.unlink(missing_ok=True)

    def why(self) -> str:
        """The stack of a trial that was left, and why it was."""
        return f"Stack (most recent call last):\n{self.stack}{_took_too_long(self.limit)}"


def _took_too_long(limit: float) -> str:
    """Why a trial has failed, in words."""
    return f"TimeoutError: the trial took longer than {duration(limit)} (trial_time)\n"


def stacks_of(plan: Plan, attempt: str) -> Path:
    """The file of the stacks of an attempt."""
    return plan.rundir.logs / f"{attempt}{_SUFFIX}"


def end_stopped(plan: Plan, attempt: str, pid: int) -> None:
    """End a process that is stopped, and whose trial takes too long; see `failed_for_time`."""
    # Without its file, it has ended as by any other signal.
    with contextlib.suppress(OSError), stacks_of(plan, attempt).open("r+b") as stacks:
        stacks.seek(0, os.SEEK_END)
        stacks.write(b"Its process was stopped, as by SIGSTOP.\n")
    os.kill(pid, signal.SIGKILL)


def failed_for_time(plan: Plan, limit: float | None, attempt: str = "*") -> list[int]:
    """Journal as failed the trials along with which processes have ended; their blocks.

    Parameters
    ----------
    plan : Plan
    limit : float or None
        How long a trial might take, in seconds; if None, no process has ended for that.
    attempt : str
        The attempt whose process has ended. By default those of all: others must not wait to hear
        of theirs then.
    """
    if limit is None:
        return []
    found: dict[int, str] = {}
    for path in sorted(plan.rundir.logs.glob(f"{attempt}{_SUFFIX}")):
        with contextlib.suppress(FileNotFoundError):  # somebody else has just done it
            raw = path.read_bytes()
            if len(raw) > _PAGE and (block := _BLOCK.unpack_from(raw)[0]) >= 0:
                found[block] = raw[_PAGE:].decode(errors="replace")
                path.unlink()
    if found:
        why = _took_too_long(limit)
        blame(plan, {block: f"{stacks}{why}" for block, stacks in found.items()}, "time")
    return sorted(found)
