"""A worker process, seen from inside: it takes batches until its session hangs up."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from typing import Any

from hpcio.errors import HpcioError, as_message
from hpcio.planning import load_for_worker
from hpcio.running.attempt import Attempt, Stop
from hpcio.running.batch import run_batch
from hpcio.running.partition import from_runs
from hpcio.words import print_traceback

__all__ = ["serve"]


def serve(fd: str, task: str) -> None:
    """Take batches until the session hangs up, and end; the main function of a worker process.

    The process ends at once then, whatever threads or children the function has left.

    Parameters
    ----------
    fd : str
        Number of the open socket to the session.
    task : str
        JSON: what to load, and how often to try.
    """
    status = 1
    try:
        _serve(int(fd), json.loads(task))
        status = 0
    except BaseException as error:  # noqa: BLE001  (the process ends below)
        print_traceback(error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _serve(fd: int, task: dict[str, Any]) -> None:
    connection = socket.socket(fileno=fd)
    # Ctrl-C reaches the whole group of processes; the session decides what it means.
    # Not ignored, which the programs that a function starts would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)

    def tell(message: dict[str, Any]) -> None:
        connection.sendall(json.dumps(message).encode() + b"\n")

    parent = os.getppid()

    def end_as_orphan(attempt: Attempt) -> None:
        if os.getppid() != parent:
            attempt.request_stop()

    try:
        plan = load_for_worker(task["out"])
        attempt = Attempt(
            plan, task["label"], retries=task["retries"], max_failed=task["max_failed"],
            trial_time=task["trial_time"],
            on_tick=end_as_orphan,
        )  # fmt: skip
    except HpcioError as error:
        tell(as_message(error))
        return

    def stop(*_: object) -> None:
        attempt.request_stop(at_once=True)

    with attempt, connection, connection.makefile("rb") as batches:
        signal.signal(signal.SIGTERM, stop)
        try:
            # Even if the session has gone, or stops the block at hand, what is done is synced.
            with contextlib.suppress(Stop, BrokenPipeError, ConnectionResetError):
                tell({"attempt": attempt.name, "failed": 0, "leaving": False})
                for line in batches:
                    done = run_batch(attempt, from_runs(json.loads(line)["runs"]))
                    tell({"attempt": attempt.name, "failed": done.failed,
                          "leaving": attempt.stopping})  # fmt: skip
                    if attempt.stopping:
                        break
            attempt.sync()
        except HpcioError as error:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                tell(as_message(error))
