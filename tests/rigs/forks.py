"""What may crash or hang is done in a child of its own, which costs no start of Python."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable

from hpcio import errors
from tests.rigs.support import remove_layouts

# What takes some milliseconds hangs if it waits for so many seconds.
HANGS = 60
HUNG = f"signal {signal.SIGALRM.value}"


def forked(do: Callable[[], str]) -> str:
    """What a function returns in a child, its error of hpcio, its traceback, or its signal."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        limit(HANGS // 4)
        try:
            said = do()
        except errors.HpcioError as error:
            said = f"{type(error).__name__} {error}"
        except BaseException:  # noqa: BLE001  (the child ends here, and the test tells of it)
            said = traceback.format_exc()
        with os.fdopen(writing, "w") as out:
            out.write(said)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as out:
        said = out.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    remove_layouts(pid)
    return said if status == 0 else f"signal {-status}"


def is_error(said: str) -> bool:
    """Whether it was refused by an error of hpcio."""
    return said.partition(" ")[0] in errors.__all__


def is_ours(said: str) -> bool:
    """Whether it was fine, or refused by an error of hpcio."""
    return said == "fine" or is_error(said)


def limit(seconds: int) -> None:
    """Let this process have no more than so many seconds of a processor; 0 takes the limit away.

    If Python is at it, an error says so. A library that does not come back ends the process by
    SIGPROF, as if it had crashed; who waits for ever is ended by SIGALRM.
    """
    signal.signal(signal.SIGVTALRM, _hangs)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    signal.setitimer(signal.ITIMER_PROF, 2 * seconds)
    signal.alarm(20 * seconds)


def _hangs(*_: object) -> None:
    raise TimeoutError("it takes too long")


def is_crash(said: str) -> bool:
    """Whether a library has ended it, or has not come back, as HDF5 may on damaged files."""
    return said.startswith("signal ") and said != HUNG
