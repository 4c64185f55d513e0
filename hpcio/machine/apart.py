"""Calls in processes of their own: what crashes there leaves this process alone."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import pickle
import select
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from hpcio.errors import HpcioError, WorkerError, as_message, from_message
from hpcio.machine.children import how_it_ended
from hpcio.machine.pythons import start_python
from hpcio.machine.resources import cores
from hpcio.words import duration, print_traceback

__all__ = ["Death", "call_apart"]


# Others begin only if the first is at work for so many seconds, since most jobs are done sooner
# than a process begins.
_ALONE = 1.0


@dataclass(frozen=True)
class Death:
    """How a process ended in the middle of a call.

    Attributes
    ----------
    why : str
        In words.
    stacks : str
        Those of its threads, as of `faulthandler`, if the call took longer than it might.
    """

    why: str
    stacks: str = ""


def call_apart(
    make: str,
    given: object,
    jobs: Sequence[Any],
    *,
    processes: int | None = None,
    limit: float | None = None,
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
    limit : float, optional
        How many seconds a call may take; its process ends then.
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
    calls = _Calls(make, given, jobs, limit, on_done)
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
        self,
        make: str,
        given: object,
        jobs: Sequence[Any],
        limit: float | None,
        on_done: Callable[[int], None] | None,
    ) -> None:
        self._task, self._limit = pickle.dumps((make, given, limit)), limit
        self._jobs, self._on_done = jobs, on_done
        self.results: list[Any] = [None] * len(jobs)
        self._left = deque(range(len(jobs)))
        self._done = 0
        self._at_work: set[_Child] = set()
        self._over = threading.Event()
        self._lock = threading.Lock()

    def do(self, *, after: float = 0.0) -> None:
        """Have jobs done until none is left; if `after` some seconds any is."""
        if self._over.wait(after):
            return
        child: _Child | None = None
        try:
            while self._left and not self._over.is_set():
                child = child or self._start()
                try:
                    number = self._left.popleft()
                except IndexError:  # another thread was quicker
                    break
                result = child.do(self._jobs[number], self._limit)
                if isinstance(result, Death):
                    self._end(child)
                    child = None
                self._keep(number, result)
        finally:
            self._over.set()  # others need not begin, or go on after an error
            if child is not None:
                self._end(child)

    def _keep(self, number: int, result: Any) -> None:
        with self._lock:
            self.results[number] = result
            self._done += 1
            if self._on_done is not None:
                self._on_done(self._done)

    def end(self) -> None:
        """End all processes, as after Ctrl-C."""
        self._over.set()
        with self._lock:
            for child in self._at_work:
                child.process.kill()

    def _start(self) -> _Child:
        child = _Child()
        with self._lock:
            self._at_work.add(child)
        try:
            if self._over.is_set():  # `end` may not have seen it
                child.process.kill()
            child.begin(self._task)
        except BaseException:
            self._end(child)
            raise
        return child

    def _end(self, child: _Child) -> None:
        child.close()
        with self._lock:
            self._at_work.discard(child)


class _Child:
    """A process that does one job after the other."""

    def __init__(self) -> None:
        self._answers, theirs = os.pipe()
        given, self._jobs = os.pipe()
        self._stacks = tempfile.TemporaryFile()  # noqa: SIM115  (until `close`)
        try:
            self.process = start_python(
                "hpcio.machine.apart:serve", fds=[theirs, self._stacks.fileno()], stdin=given,
                stdout=sys.__stderr__.fileno() if sys.__stderr__ else None,
            )  # fmt: skip
        except OSError as error:
            os.close(self._answers)
            os.close(self._jobs)
            self._stacks.close()
            raise WorkerError(f"A process could not be started: {error}.") from error
        finally:
            os.close(theirs)
            os.close(given)

    def begin(self, task: bytes) -> None:
        """Have it make its function. If it ends meanwhile, the first job will tell."""
        self._send(task)
        self._answer()

    def do(self, job: Any, limit: float | None) -> Any:
        """The result of a job, or how the process ended."""
        started = perf_counter()
        self._send(pickle.dumps(job))
        answer = self._answer()
        if answer is not None:
            return answer["result"]
        status = self.process.wait()
        self._stacks.seek(0)
        stacks = self._stacks.read().decode(errors="replace")
        if limit is not None and stacks and perf_counter() - started >= limit:
            return Death(f"it took longer than {duration(limit)}", stacks)
        return Death(f"its process ended with {how_it_ended(status)}")

    def _answer(self) -> dict[str, Any] | None:
        """What it says next; None if it has ended."""
        line = self._line()
        message: dict[str, Any] | None = None if line is None else json.loads(line)
        if message is not None and "error" in message:
            raise from_message(message)
        return message

    def _send(self, pickled: bytes) -> None:
        """Hand it something."""
        with contextlib.suppress(BrokenPipeError):  # no answer will come
            left = memoryview(pickled)
            while left:
                left = left[os.write(self._jobs, left) :]

    def _line(self) -> bytes | None:
        """What the process says next; None if it has ended, whoever holds the pipe open."""
        said = b""
        poller = select.poll()
        poller.register(self._answers, select.POLLIN)
        while not said.endswith(b"\n"):
            ended = self.process.poll() is not None
            ready = poller.poll(0 if ended else 100)
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
        os.close(self._jobs)
        self._stacks.close()


def serve(fd: str, stacks: str) -> None:
    """Do jobs, and say what came of each to an open file; the main function there."""
    # Not ignored, which the programs that a function starts would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)  # the session decides what Ctrl-C means
    out = open(int(fd), "wb", buffering=0)  # noqa: SIM115  (until the end)
    for number in (out.fileno(), int(stacks)):
        os.set_inheritable(number, False)  # noqa: FBT003
    jobs = os.fdopen(os.dup(0), "rb")
    # Whoever reads the standard input is told that there is none, and takes no job.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def say(message: dict[str, Any]) -> None:
        try:
            out.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:  # nobody waits for it any more
            os._exit(1)

    status = 1
    try:
        make, given, limit = pickle.load(jobs)
        module, _, name = make.partition(":")
        call = getattr(importlib.import_module(module), name)(given)
        say({})
        while True:
            try:
                job = pickle.load(jobs)
            except EOFError:  # there is no more to do
                status = 0
                break
            if limit is not None:  # it needs no thread of Python, which `call` may hold up
                faulthandler.dump_traceback_later(limit, exit=True, file=int(stacks))
            result = call(job)
            faulthandler.cancel_dump_traceback_later()
            say({"result": result})
    except HpcioError as error:
        say(as_message(error))
    except BaseException as error:  # noqa: BLE001  (the process ends here)
        print_traceback(error)
    finally:
        sys.stderr.flush()
        os._exit(status)
