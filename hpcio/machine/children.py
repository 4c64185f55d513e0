"""Processes that end with the one that has started them, and how they ended."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
from typing import Protocol

__all__ = ["Process", "be_child", "become", "end_with_parent", "how_it_ended"]

# Of `prctl`.
_SET_DEATH_SIGNAL, _SET_NAME = 1, 15


class Process(Protocol):
    """A process that was started here: what hpcio uses of `subprocess.Popen`."""

    @property
    def pid(self) -> int: ...  # noqa: D102

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, or raise `subprocess.TimeoutExpired`; its exit status."""

    def kill(self) -> None:
        """End it at once."""

    def send_signal(self, number: int, /) -> None:
        """Send it a signal, if it runs."""


def end_with_parent(number: int, *, parent: int | None = None) -> None:
    """Have the system send this process a signal when the one that started it has ended.

    Only Linux does. A function in C holds up all that Python could do about it.

    Parameters
    ----------
    number : int
        The signal.
    parent : int, optional
        The process that has started this one, which may have ended already.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, number)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def how_it_ended(status: int) -> str:
    """An exit status as `subprocess` gives it, in words.

    Examples
    --------
    >>> how_it_ended(-9), how_it_ended(7)
    ('signal 9 (SIGKILL, often the system, out of memory)', 'exit status 7')
    """
    if status >= 0:
        return f"exit status {status}"
    names = {s.value: s.name for s in signal.Signals}  # of real-time signals there are few
    hint = ", often the system, out of memory" if status == -signal.SIGKILL else ""
    return f"signal {-status} ({names.get(-status, 'SIGRT')}{hint})"


def be_child(parent: str, serve: str, *arguments: str) -> None:
    """Call a function in this process, which ends with the one that has started it.

    Parameters
    ----------
    parent : str
        Number of that process.
    serve : str
        ``MODULE:FUNC``. What shows processes calls this one by the end of its module's name.
    arguments : str
    """
    end_with_parent(signal.SIGKILL, parent=int(parent))
    module, _, name = serve.partition(":")
    if sys.platform.startswith("linux"):
        shown = f"hpcio {module.rpartition('.')[2]}"
        ctypes.CDLL(None).prctl(_SET_NAME, shown.encode())
    getattr(importlib.import_module(module), name)(*arguments)


def become(parent: str, *command: str) -> None:
    """Run a command in place of this process, which ends with the one that has started it.

    Parameters
    ----------
    parent : str
        Number of that process.
    command : str
        It is told by TERM, so that it can end what it has started itself.
    """
    end_with_parent(signal.SIGTERM, parent=int(parent))
    os.execv(command[0], command)
