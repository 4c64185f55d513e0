"""Calls in processes of their own: what crashes there leaves this process alone."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hpcio import errors
from hpcio.errors import HpcioError, WorkerError
from hpcio.machine.resources import cores, new_python, with_threads

__all__ = ["Death", "call_apart", "how_it_ended"]


# A second process begins only if the first is at work for so many seconds, since most jobs are
# done sooner than a process begins.
_ALONE = 1.0


def how_it_ended(status: int) -> str:
    """An exit status as `subprocess` gives it, in words.

    Examples
    --------
    >>> how_it_ended(-9), how_it_ended(7)
    ('signal 9 (often the system, out of memory)', 'exit status 7')
    """
    hint = " (often the system, out of memory)" if status == -signal.SIGKILL else ""
    return f"signal {-status}{hint}" if status < 0 else f"exit status {status}"


@dataclass(frozen=True)
class Death:
    """How a process ended in the middle of a call, in words."""

    why: str


def call_apart(
    make: str,
    given: object,
    jobs: Sequence[Any],
    *,
    processes: int | None = None,
    on_done: Callable[[int], None] | None = None,
) -> list[Any]:
    """Make a function in other processes, and call it there for each job.

    Parameters
    ----------
    make : str
        ``MODULE:FUNC`` of hpcio; it is called with `given`, once in each process, and returns a
        function of one job, whose results can be said in JSON.
    given : object
        Anything that can be pickled.
    jobs : sequence
        Likewise.
    processes : int, optional
        At most so many, by default one for each core; all but one begin a moment later.
    on_done : callable, optional
        Called with the number of jobs that are done, after each.

    Returns
    -------
    list
        The result of each job, in order; a `Death` if its process has ended.

    Raises
    ------
    HpcioError
        What `make` has raised there.
    WorkerError
        If a process cannot be started.
    """
    calls = _Calls(make, given, jobs, on_done)
    count = min(len(jobs), processes or cores())
    if not count:
        return []
    pool = ThreadPoolExecutor(count, thread_name_prefix="hpcio")
    try:
        helpers = [pool.submit(calls.do, after=_ALONE) for _ in range(count - 1)]
        for future in [pool.submit(calls.do), *helpers]:
            future.result()
    finally:
        calls.end()
        pool.shutdown(cancel_futures=True)
    return calls.results


class _Calls:
    """Jobs that some threads have done, each by a process of its own."""

    def __init__(
        self, make: str, given: object, jobs: Sequence[Any], on_done: Callable[[int], None] | None
    ) -> None:
        self._make, self._given, self._jobs, self._on_done = make, given, jobs, on_done
        self.results: list[Any] = [None] * len(jobs)
        self._left = deque(range(len(jobs)))
        self._at_work: set[_Child] = set()
        self._over = threading.Event()

    def do(self, *, after: float = 0.0) -> None:
        """Have jobs done until none is left; if `after` some seconds any is."""
        if self._over.wait(after):
            return
        child: _Child | None = None
        try:
            with contextlib.suppress(IndexError):  # none is left
                while not self._over.is_set():
                    number = self._left.popleft()
                    child = child or self._start()
                    self.results[number] = result = child.do(self._jobs[number])
                    if isinstance(result, Death):
                        self._end(child)
                        child = None
                    if self._on_done is not None:
                        self._on_done(sum(r is not None for r in self.results))
            if not self._left:
                self._over.set()  # others need not begin
        finally:
            if child is not None:
                self._end(child)

    def end(self) -> None:
        """End all processes, as after Ctrl-C."""
        self._over.set()
        for child in list(self._at_work):
            child.process.kill()

    def _start(self) -> _Child:
        child = _Child(self._make, self._given)
        self._at_work.add(child)
        return child

    def _end(self, child: _Child) -> None:
        child.close()
        self._at_work.discard(child)


class _Child:
    """A process that does one job after the other."""

    def __init__(self, make: str, given: object) -> None:
        self._answers, theirs = os.pipe()
        try:
            self.process = subprocess.Popen(
                new_python("hpcio.machine.apart:serve", str(theirs)),
                stdin=subprocess.PIPE, stdout=sys.__stderr__ and sys.__stderr__.fileno(),
                pass_fds=[theirs], env=with_threads(1),
            )  # fmt: skip
        except OSError as error:
            os.close(self._answers)
            raise WorkerError(f"A process could not be started: {error}.") from error
        finally:
            os.close(theirs)
        self._send((make, given))

    def do(self, job: Any) -> Any:
        """The result of a job, or how the process ended."""
        self._send(job)
        line = self._line()
        if line is None:
            return Death(f"its process ended with {how_it_ended(self.process.wait())}")
        message = json.loads(line)
        if "error" in message:
            raise getattr(errors, message["kind"], WorkerError)(message["error"])
        return message["result"]

    def _send(self, obj: object) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # no answer will come
            pickle.dump(obj, self.process.stdin)
            self.process.stdin.flush()

    def _line(self) -> bytes | None:
        """What the process says next; None if it has ended, whoever holds the pipe open."""
        said = b""
        while not said.endswith(b"\n"):
            ended = self.process.poll() is not None
            ready = select.select([self._answers], [], [], 0.0 if ended else 0.1)[0]
            data = os.read(self._answers, 1 << 16) if ready else b""
            if not data and (ended or ready):
                return None
            said += data
        return said

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self._answers)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()


def serve(fd: str) -> None:
    """Do jobs, and say what came of each to an open file; the main function there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the session decides what Ctrl-C means
    out = open(int(fd), "wb", buffering=0)  # noqa: SIM115  (until the end)

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message).encode() + b"\n")

    try:
        make, given = pickle.load(sys.stdin.buffer)
        module, _, name = make.partition(":")
        call = getattr(importlib.import_module(module), name)(given)
        while True:
            say({"result": call(pickle.load(sys.stdin.buffer))})
    except EOFError:  # there is no more to do
        pass
    except HpcioError as error:
        say({"error": str(error), "kind": type(error).__name__})
    except BaseException:  # noqa: BLE001  (the process ends here)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)
