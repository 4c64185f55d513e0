"""Executors of this machine: this process, or worker processes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from hpcio.errors import OptionError, WorkerError, check_whole
from hpcio.machine import Registry, cores
from hpcio.planning import Plan, check_memory
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.running.processes import Processes
from hpcio.running.run import Executor, Work

__all__ = ["EXECUTORS", "ExecutorMaker", "ThisProcess", "choose"]


class ExecutorMaker(Protocol):
    """Makes an executor for `hpcio.Plan.run`."""

    def __call__(self, *, workers: int | None, threads: int) -> Executor:
        """An executor; `workers` may be None, for as many as it likes."""


def _this_process(*, workers: int | None, threads: int) -> Executor:
    return ThisProcess()


def _processes(*, workers: int | None, threads: int) -> Executor:
    return Processes(workers or cores(), threads=threads)


# Executors that `hpcio.Plan.run` knows by name. It also takes any object of the protocol.
EXECUTORS: Registry[ExecutorMaker] = Registry(
    "executor",
    group="hpcio.executors",
    own={
        "this-process": "hpcio.running.local:_this_process",
        "processes": "hpcio.running.local:_processes",
    },
)


def choose(executor: Executor | str | None, *, workers: int | None, threads: int) -> Executor:
    """The executor that was asked for: itself, by name, or by a number of workers.

    Without a name, 0 workers compute in this process.

    Raises
    ------
    WorkerError
        If the numbers make no sense.
    OptionError
        If there is no such executor.
    """
    if executor is not None and not isinstance(executor, str):
        if not callable(getattr(executor, "execute", None)):
            raise OptionError(
                f"executor={executor!r:.100} is none. Give one, or its name; the number of "
                "processes of this machine is workers."
            )
        return executor
    if workers is not None:
        check_whole("workers", workers, least=0, error=WorkerError)
    check_whole("threads", threads, least=1, error=WorkerError)
    name = executor or ("this-process" if workers == 0 else "processes")
    return EXECUTORS[name](workers=workers, threads=threads)


class ThisProcess:
    """Computes in the process at hand, where a debugger can follow."""

    about = ""

    def check(self, plan: Plan, memory: str | int | None) -> None:
        """Hold the largest block against the memory of this machine."""
        check_memory(plan, memory)

    def execute(self, work: Work) -> None:
        """Try every block of the work; see `hpcio.running.Executor`."""
        if work.trial_time is not None and not _is_main_thread():
            raise OptionError(
                "trial_time ends a trial by a signal, which only the main thread gets. Call run() "
                "there, or with workers=1."
            )
        attempt = Attempt(
            work.plan, "here", retries=work.retries, max_failed=work.max_failed,
            trial_time=work.trial_time, when_stuck="wait",
        )  # fmt: skip
        with attempt, _interruptible(attempt):
            run_batch(attempt, work.blocks)
            attempt.sync()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextmanager
def _interruptible(attempt: Attempt) -> Iterator[None]:
    """Let Ctrl-C end the block at hand even if the function catches all exceptions."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        attempt.leave(KeyboardInterrupt)
        signal.default_int_handler(number, frame)

    ours = _is_main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
