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
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hpcio import errors
from hpcio.errors import HpcioError, WorkerError
from hpcio.machine.resources import cores, new_python, with_threads

__all__ = ["Death", "call_apart", "how_it_ended"]


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
        By default one for each core, and no more than there are jobs.
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
    if not jobs:
        return []
    calls = _Calls(make, given, jobs, on_done)
    count = min(len(jobs), processes or cores())
    pool = ThreadPoolExecutor(count, thread_name_prefix="hpcio")
    try:
        shares = [range(k, len(jobs), count) for k in range(count)]
        for future in [pool.submit(calls.do, share) for share in shares]:
            future.result()
    finally:
        calls.end()
        pool.shutdown(cancel_futures=True)
    return calls.results


class _Calls:
    """Jobs at work in some processes, each of which is replaced if it ends."""

    def __init__(
        self, make: str, given: object, jobs: Sequence[Any], on_done: Callable[[int], None] | None
    ) -> None:
        self._make, self._given, self._jobs, self._on_done = make, given, jobs, on_done
        self.results: list[Any] = [None] * len(jobs)
        self._at_work: set[subprocess.Popen[bytes]] = set()
        self._done = 0
        self._over = False

    def do(self, share: range) -> None:
        """Have a share of the jobs done, by one process after the other."""
        left = list(share)
        while left and not self._over:
            left = left[self._run(left) :]

    def end(self) -> None:
        """End all processes, as after Ctrl-C."""
        self._over = True
        for process in list(self._at_work):
            process.kill()

    def _run(self, numbers: list[int]) -> int:
        """Let a new process do jobs until it ends; how many are done."""
        ours, theirs = os.pipe()
        try:
            process = subprocess.Popen(
                new_python("hpcio.machine.apart:serve", str(theirs)),
                stdin=subprocess.PIPE, stdout=sys.__stderr__ and sys.__stderr__.fileno(),
                pass_fds=[theirs], env=with_threads(1),
            )  # fmt: skip
        except OSError as error:
            os.close(ours)
            raise WorkerError(f"A process could not be started: {error}.") from error
        finally:
            os.close(theirs)
        self._at_work.add(process)
        if self._over:  # meanwhile
            process.kill()
        done, over = 0, False
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin as task:
                pickle.dump((self._make, self._given, [self._jobs[k] for k in numbers]), task)
            for line in _lines(process, ours):
                message = json.loads(line)
                if "error" in message:
                    raise getattr(errors, message["kind"], WorkerError)(message["error"])
                over = "over" in message
                if over:
                    break
                self._set(numbers[done], message["result"])
                done += 1
            if not over and done < len(numbers):
                why = f"its process ended with {how_it_ended(process.wait())}"
                self._set(numbers[done], Death(why))
                done += 1
        finally:
            os.close(ours)
            process.kill()
            process.wait()
            self._at_work.discard(process)
        return done

    def _set(self, number: int, result: Any) -> None:
        self.results[number] = result
        self._done += 1
        if self._on_done is not None:
            self._on_done(self._done)


def _lines(process: subprocess.Popen[bytes], fd: int) -> Iterator[bytes]:
    """What a process says, until it has ended, whatever children of it hold the pipe open."""
    rest = b""
    while True:
        ended = process.poll() is not None
        ready = select.select([fd], [], [], 0.0 if ended else 0.1)[0]
        data = os.read(fd, 1 << 16) if ready else b""
        *lines, rest = (rest + data).split(b"\n")
        yield from lines
        if not data and (ended or ready):
            return


def serve(fd: str) -> None:
    """Do jobs, say what came of them to an open file, and end; the main function there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the session decides what Ctrl-C means
    out = open(int(fd), "wb", buffering=0)  # noqa: SIM115  (until the end)

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message).encode() + b"\n")

    try:
        make, given, jobs = pickle.load(sys.stdin.buffer)
        module, _, name = make.partition(":")
        call = getattr(importlib.import_module(module), name)(given)
        for job in jobs:
            say({"result": call(job)})
        say({"over": True})
    except HpcioError as error:
        say({"error": str(error), "kind": type(error).__name__})
    except BaseException:  # noqa: BLE001  (the process ends here)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)
