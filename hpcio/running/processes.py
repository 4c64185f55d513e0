"""Worker processes of this machine: the executor that needs no cluster, seen from the session.

A worker is a plain new Python that loads the plan and asks for batches (`hpcio.running.worker`). It
imports neither the caller's script nor its notebook, so neither needs an
``if __name__ == "__main__"``.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpcio.errors import WorkerError, as_output_error, from_message
from hpcio.journals import tried_by
from hpcio.machine import Process, begin_pythons, how_it_ended, is_stopped, start_python
from hpcio.planning import Plan, check_memory
from hpcio.running.clock import end_stopped, failed_for_time
from hpcio.running.deaths import FRUITLESS, Deaths
from hpcio.running.partition import batches_of, runs
from hpcio.running.run import Work

__all__ = ["Processes"]

# Several batches for each worker even out trials of unequal cost; each batch is a file.
BATCHES_PER_WORKER = 8
# How often, in seconds, the session looks whether workers live, and whether one that has hung up
# has ended.
_LOOK_EVERY = 0.2
_LEAVING = 0.005
# How long, in seconds, workers may take to leave what they are at after Ctrl-C.
_PATIENCE = 30.0


@dataclass(eq=False)
class _Process:
    """A worker process and what it is busy with."""

    process: Process
    socket: socket.socket
    log: Path
    ready: bool = False
    attempt: str = ""
    batch: np.ndarray | None = None
    hung_up: bool = False
    stopped: float | None = None  # since when its process is stopped, as the session has seen
    received: bytearray = field(default_factory=bytearray)

    def send(self, message: dict[str, Any]) -> None:
        # A worker that has died is noticed when its socket ends, not here.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")


class Processes:
    """Worker processes of this machine, each taking batch after batch.

    Parameters
    ----------
    workers : int
    threads : int
        Threads that numerical libraries may use in each.
    """

    about = ""

    def __init__(self, workers: int, *, threads: int = 1) -> None:
        self.workers = workers
        self.threads = threads

    def check(self, plan: Plan, memory: str | int | None) -> None:
        """Hold the largest block against a worker's share of this machine's memory."""
        check_memory(plan, memory, share=self.workers)
        begin_pythons(self.threads)  # which goes on while the run is prepared

    def execute(self, work: Work) -> None:
        """Try every block of the work; see `hpcio.running.Executor`."""
        _Pool(self, work).run()


class _Pool:
    """One run on worker processes: hands out batches, and replaces workers that die."""

    def __init__(self, processes: Processes, work: Work) -> None:
        self.plan, self.retries, self.max_failed = work.plan, work.retries, work.max_failed
        self.trial_time = work.trial_time
        self.wanted = min(processes.workers, work.blocks.size)
        self.queue = deque(batches_of(work.plan, work.blocks, self.wanted * BATCHES_PER_WORKER))
        self.threads = processes.threads
        self.workers: list[_Process] = []
        self.selector = selectors.DefaultSelector()
        self.deaths = Deaths(work.plan, work.retries, workers=self.wanted)
        self.failed = 0
        self.started = 0
        self.idle_deaths = 0

    def run(self) -> None:
        try:
            for _ in range(self.wanted):
                self._start()
            # All workers begin together, so that the time of the run does not include their start.
            while self.workers and not all(w.ready for w in self.workers):
                self._wait()
            for worker in list(self.workers):
                if worker.batch is None:  # in place of one that was killed, it has begun already
                    self._feed(worker)
            while any(w.batch is not None for w in self.workers) or self.queue:
                if self._given_up():
                    self.queue.clear()
                self._wait()
            self._finish()
        except BaseException as error:
            self._end(gently=isinstance(error, KeyboardInterrupt))
            raise
        self.selector.close()

    def _given_up(self) -> bool:
        """Whether too many blocks have failed."""
        return self.failed + self.deaths.blamed > self.max_failed

    # -- workers

    def _start(self) -> None:
        label = f"w{self.started}"
        self.started += 1
        ours, theirs = socket.socketpair()
        log = self.plan.rundir.logs / f"{self.plan.run_id}-{os.getpid()}-{label}.log"
        task = {
            "out": self.plan.out, "label": label, "retries": self.retries,
            "max_failed": self.max_failed, "trial_time": self.trial_time,
        }  # fmt: skip
        try:
            output = log.open("wb")
        except OSError as error:
            ours.close()
            theirs.close()
            raise as_output_error(error, log) from error
        try:
            with output:
                process = start_python(
                    "hpcio.running.worker:serve", json.dumps(task), fds=[theirs.fileno()],
                    stdout=output.fileno(), stderr=output.fileno(), threads=self.threads,
                )  # fmt: skip
        except OSError as error:
            ours.close()
            raise WorkerError(f"A worker could not be started: {error}.") from error
        finally:
            theirs.close()
        worker = _Process(process, ours, log)
        self.workers.append(worker)
        self.selector.register(ours, selectors.EVENT_READ, worker)

    def _feed(self, worker: _Process) -> None:
        if not self.queue or self._given_up():
            return
        worker.batch = self.queue.popleft()
        worker.send({"runs": runs(worker.batch)})

    def _forget(self, worker: _Process) -> None:
        self.workers.remove(worker)
        if not worker.hung_up:
            self.selector.unregister(worker.socket)
        worker.socket.close()

    # -- events

    def _wait(self) -> None:
        """Take what workers say, and notice which have ended.

        A worker has ended when its process has, whatever children of it hold its socket open.
        """
        leaving = any(worker.hung_up for worker in self.workers)
        for key, _ in self.selector.select(timeout=_LEAVING if leaving else _LOOK_EVERY):
            self._read(key.data)
        for worker in list(self.workers):
            if self.trial_time is not None:
                self._end_if_stopped(worker, self.trial_time)
            if worker.process.poll() is not None:
                while not worker.hung_up and self._read(worker):
                    pass
                self._died(worker)

    def _end_if_stopped(self, worker: _Process, limit: float) -> None:
        """End a worker that is stopped (as by SIGSTOP), which cannot look at the time itself."""
        if not is_stopped(worker.process.pid):
            worker.stopped = None
        elif worker.stopped is None:
            worker.stopped = time.monotonic()
        elif time.monotonic() - worker.stopped > limit:
            worker.stopped = None
            end_stopped(self.plan, worker.attempt, worker.process.pid)

    def _read(self, worker: _Process) -> bool:
        """Take what a worker has said; whether there was anything."""
        try:
            data = worker.socket.recv(1 << 16, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if not data:
            worker.hung_up = True
            self.selector.unregister(worker.socket)
            return False
        worker.received += data
        *lines, rest = worker.received.split(b"\n")
        worker.received = bytearray(rest)
        for line in lines:
            message = None
            with contextlib.suppress(ValueError):
                message = json.loads(line)
            if isinstance(message, dict):
                self._heard(worker, message)
            else:  # its function has written into what it found open
                worker.process.kill()
        return True

    def _heard(self, worker: _Process, message: dict[str, Any]) -> None:
        if "error" in message:
            raise from_message(message)
        worker.attempt = message["attempt"]
        self.failed += message["failed"]
        if message["leaving"]:
            return  # the rest of its batch is handed out again when it has gone
        first = not worker.ready
        worker.ready = True
        worker.batch = None
        if not first or self.started > self.wanted:
            self._feed(worker)

    def _died(self, worker: _Process) -> None:
        """Work out which block killed a worker, and give the rest to another."""
        self._forget(worker)
        status = worker.process.wait()
        if status == 0 and (worker.batch is None or self._given_up()):
            return  # it has ended in good order
        if worker.batch is None:
            self.idle_deaths += 1
            # One that ended by itself would do so again; one that was killed need not.
            if (not worker.ready and status > 0) or self.idle_deaths > FRUITLESS:
                raise WorkerError(
                    f"A worker ended with {how_it_ended(status)} before it took work. "
                    f"Its output:\n"
                    f"{_tail(worker.log)}\n(all of it in '{worker.log}')"
                )
        elif getattr(worker.process, "ended_with_server", False):
            self._again(worker)
        else:
            ended = how_it_ended(status)
            why = f"{_tail(worker.log)}\nWorkerError: the worker ended with {ended}"
            left = self._left(worker.batch, worker.attempt, why)
            if left.size:
                self.queue.appendleft(left)
        if self.queue:
            self._start()

    def _again(self, worker: _Process) -> None:
        """Have done again what a worker had left that ended with the server of all of them."""
        assert worker.batch is not None
        self.idle_deaths += 1
        if self.idle_deaths > FRUITLESS:
            raise WorkerError(
                "The process that starts workers is killed again and again. See whether the "
                "system is short of memory, then resume."
            )
        left, _ = tried_by(self.plan, worker.attempt).left_of(worker.batch)
        if left.size:
            self.queue.appendleft(left)

    def _left(self, batch: np.ndarray, attempt: str, why: str) -> np.ndarray:
        """The blocks of a dead worker to do again."""
        tried = tried_by(self.plan, attempt)
        too_long = failed_for_time(self.plan, self.trial_time, attempt)
        if not too_long:
            return self.deaths.left(batch, tried, why)
        self.failed += len(too_long)
        left, _ = tried.left_of(batch)
        return np.setdiff1d(left, too_long)

    def _finish(self) -> None:
        """Let all workers bring their data to the disk and end."""
        for worker in self.workers:
            worker.socket.shutdown(socket.SHUT_WR)
        while self.workers:
            self._wait()

    def _end(self, *, gently: bool) -> None:
        """End all workers: `gently` lets them sync what is done, otherwise they are killed.

        A function may hold up the end, so that it is waited for only so long.
        """
        try:
            for worker in self.workers:
                if worker.batch is not None:
                    worker.process.send_signal(signal.SIGTERM if gently else signal.SIGKILL)
                worker.socket.close()  # an idle worker ends by itself then
            until = time.monotonic() + _PATIENCE
            for worker in self.workers:
                worker.process.wait(max(0.0, until - time.monotonic()))
        except BaseException as error:  # a second Ctrl-C, or no end
            for worker in self.workers:
                worker.process.kill()
                worker.process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            self.workers.clear()
            self.selector.close()


def _tail(log: Path, lines: int = 12) -> str:
    try:
        return "\n".join(log.read_text(errors="replace").strip().splitlines()[-lines:])
    except OSError:
        return ""
