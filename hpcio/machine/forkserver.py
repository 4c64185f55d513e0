"""A process that has imported what workers need, and forks one whenever it is asked.

To start a Python and to import numpy, h5py and hpcio takes a third of a second; to fork one that
has them, some milliseconds. There is one such server for a session, started when a worker is first
needed. It has imported nothing of the user's: each worker imports that for itself, as it is then.

The server ends with its session, however that ends, and when nobody has asked for a while. A worker
ends with the server, so that one that is no longer wanted stays until its workers have ended. Where
it cannot be had, `hpcio.machine.pythons` starts new Pythons.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from hpcio.machine.children import be_child
from hpcio.machine.resources import umask

__all__ = ["ForkServer", "Forked", "NoFork", "ServerEnded", "is_open", "is_possible", "serve"]

# What most workers need, and takes long to import.
_IMPORTED = (
    "hpcio.planning.dryrun", "hpcio.running.worker", "hpcio.writers.sources",
    "hpcio.onefile.direct", "pwd",
)  # fmt: skip
# After so many seconds without a request the server ends.
_IDLE = 600.0
# What a server says that can never fork.
_THREADS = "a thread runs in the fork server"
# How long, in seconds, a session waits for a server that it has asked to end.
_ENDING = 2.0
# The largest request, in bytes, and how many descriptors may come with one.
_MOST, _MOST_FDS = 1 << 17, 16
# Bytes in which the server says how a process has ended.
_STATUS = 4
_ALL_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
# What a user's terminal, or SLURM, sends to all processes of a session means the workers.
_FOR_WORKERS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


class ServerEnded(OSError):
    """A fork server has ended."""


class NoFork(OSError):
    """A fork server has threads, which its copies would lack."""


class Forked:
    """A process that a server has forked; it has what hpcio uses of `subprocess.Popen`.

    Attributes
    ----------
    pid : int
    ended_with_server : bool
        Whether it has ended since its server was killed: nothing that it did is the reason.
    """

    def __init__(self, pid: int, pidfd: int, status: int) -> None:
        self.pid = pid
        self._pidfd, self._status = pidfd, status
        self._ended: int | None = None
        self.ended_with_server = False

    def poll(self) -> int | None:
        """The exit status as `subprocess.Popen` gives it; None while it runs."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; the exit status.

        Raises
        ------
        subprocess.TimeoutExpired
        """
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return status

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self._ended is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _look(self, timeout: float | None) -> int | None:
        if self._ended is not None:
            return self._ended
        poller = select.poll()
        poller.register(self._status, select.POLLIN)
        if not poller.poll(None if timeout is None else max(0.0, timeout) * 1000):
            return None
        said = os.read(self._status, _STATUS)
        # A server that was killed takes its workers along.
        self.ended_with_server = not said
        ended = int.from_bytes(said, "little", signed=True) if said else -signal.SIGKILL
        os.close(self._status)
        os.close(self._pidfd)
        self._ended = ended
        return ended


class ForkServer:
    """The server of this process, as seen from here.

    Parameters
    ----------
    command : callable
        The command of a new Python that calls `serve` with some texts.
    environment : mapping of str to str
        Of the server and all that it forks.

    Attributes
    ----------
    has_forked : bool
        Whether it has ever done so.
    """

    def __init__(self, command: Callable[..., list[str]], environment: Mapping[str, str]) -> None:
        self._lock = threading.Lock()
        self._session, self._asked = os.getpid(), 0
        self.has_forked = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Until it can say what they mean to it, it hears none of these.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_WORKERS)
        try:
            self._server = subprocess.Popen(
                command(str(theirs.fileno()), str(self._session)),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=None if is_open(2) else subprocess.DEVNULL,
                pass_fds=[theirs.fileno()], env=environment,
            )  # fmt: skip
        except OSError:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._socket = ours
        atexit.register(self.close)

    def fork(
        self,
        serve: str,
        arguments: Sequence[str],
        fds: Sequence[int],
        environment: Mapping[str, str],
    ) -> Forked:
        """Have it fork a process that calls a function.

        Parameters
        ----------
        serve : str
            ``MODULE:FUNC`` of hpcio.
        arguments : sequence of str
        fds : sequence of int
            Standard input, output and error of the process; those behind them are given to the
            function by their numbers there, before the arguments.
        environment : mapping of str to str
            Of the process.

        Raises
        ------
        ServerEnded
            If the server has ended.
        NoFork
            If it has threads, and never will fork.
        OSError
            If it cannot fork now, or there is no descriptor left.
        """
        here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        status, theirs = os.pipe()
        try:
            with self._lock:
                said, pidfd = self._ask(
                    {
                        "serve": serve, "arguments": list(arguments), **_as_here(environment),
                    },
                    [theirs, here, *fds],
                )  # fmt: skip
        except BaseException:
            os.close(status)
            raise
        finally:
            os.close(theirs)
            os.close(here)
        self.has_forked = True
        return Forked(said["pid"], pidfd, status)

    def _ask(self, request: dict[str, Any], fds: Sequence[int]) -> tuple[dict[str, Any], int]:
        """What the server answers to one request, and the descriptor that comes with it."""
        self._asked += 1
        message = json.dumps({**request, "number": self._asked}).encode()
        if len(message) > _MOST:
            raise OSError("the request is too long")
        try:
            socket.send_fds(self._socket, [message], fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ServerEnded from error
        while True:
            answer, found = self._hear()
            for number in found:
                os.set_inheritable(number, False)  # noqa: FBT003
            said = json.loads(answer)
            if said["number"] == self._asked:
                if "why" in said:
                    raise NoFork if said["why"] == _THREADS else OSError(said["why"])
                return said, found[0]
            for number in found:  # to one that Ctrl-C has left
                os.close(number)

    def _hear(self) -> tuple[bytes, list[int]]:
        try:
            answer, found, _, _ = socket.recv_fds(self._socket, _MOST, 1)
        except ConnectionResetError:
            answer, found = b"", []
        if not answer:
            raise ServerEnded
        return answer, found

    def status(self) -> int | None:
        """How the server has ended, if it has."""
        return self._server.poll()

    def retire(self) -> None:
        """Have it end when its workers have, which others may wait for yet."""
        with self._lock, contextlib.suppress(OSError):  # copies may hold the socket open
            self._socket.send(b"{}")
        self._socket.close()

    def leave_to_parent(self) -> None:
        """Let go of it in a process that was forked from the session, whose it is."""
        atexit.unregister(self.close)
        self._socket.close()
        self._server.returncode = 0

    def close(self) -> None:
        """Have it end at the end of the session, with all that it has forked."""
        atexit.unregister(self.close)
        self.retire()
        try:
            self._server.wait(_ENDING)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


def is_open(fd: int) -> bool:
    """Whether a descriptor of this process is."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def is_possible() -> bool:
    """Whether this system has what servers need: it is Linux 5.3 or newer."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _as_here(environment: Mapping[str, str]) -> dict[str, Any]:
    """What a new process inherits from this one, and from the thread that starts it."""
    limits = {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
    return {
        "environment": dict(environment),
        "umask": umask(),
        "cores": sorted(os.sched_getaffinity(0)),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "limits": [[limit, *resource.getrlimit(limit)] for limit in sorted(limits)],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "ignored": [n for n in _ALL_SIGNALS if signal.getsignal(n) == signal.SIG_IGN],
    }


# ---------------------------------------------------------------------- in the server


def serve(fd: str, session: str) -> None:
    """Fork a process for each request, until the session has ended; the main function there."""
    _Server(socket.socket(fileno=int(fd)), int(session)).run()


class _Server:
    def __init__(self, requests: socket.socket, session: int) -> None:
        self._requests = requests
        self._running: dict[int, int] = {}  # where to say the exit status of each process
        self._ending = False
        # The process that has started this one may have ended already.
        self._session = os.pidfd_open(session) if os.getppid() == session else -1
        self._woken, waking = os.pipe()
        for end in (self._woken, waking):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        self._waking = waking
        for number in (*_FOR_WORKERS, signal.SIGCHLD):
            signal.signal(number, self._heard)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whatever the session has blocked

    def _heard(self, number: int, _: object) -> None:
        """Signals wake the server; nothing but the end of its session ends it."""

    def run(self) -> None:
        for name in _IMPORTED:
            importlib.import_module(name)
        gc.freeze()  # what is never collected stays shared with all copies
        poller, asked = select.poll(), self._requests.fileno()
        if self._session < 0:
            os._exit(0)
        for number in (asked, self._session, self._woken):
            poller.register(number, select.POLLIN)
        while self._running or not self._ending:
            ready = dict(poller.poll(_IDLE * 1000))
            if self._woken in ready:
                os.read(self._woken, 1 << 12)
                self._reap()
            if self._session in ready or not (ready or self._running):
                break
            if asked in ready and not self._answer():
                self._ending = True
                poller.unregister(asked)
        os._exit(0)

    def _reap(self) -> None:
        """Pass on how processes have ended."""
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            ended = os.waitstatus_to_exitcode(status)
            place = self._running.pop(pid)
            with contextlib.suppress(BrokenPipeError):
                os.write(place, ended.to_bytes(_STATUS, "little", signed=True))
            os.close(place)

    def _answer(self) -> bool:
        """Answer one request; whether there was any."""
        said, fds, _, _ = socket.recv_fds(self._requests, _MOST, _MOST_FDS)
        for number in fds:
            os.set_inheritable(number, False)  # noqa: FBT003
        request = json.loads(said or b"{}")
        if not request:
            return False
        answer = {"number": request["number"]}
        server, pid = os.getpid(), -1
        try:
            if len(os.listdir("/proc/self/task")) > 1:  # what they hold would stay held
                raise OSError(_THREADS)
            pid = os.fork()
            if not pid:
                self._become(server, request, fds)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            if pid > 0:
                os.kill(pid, signal.SIGKILL)
            self._requests.send(json.dumps({**answer, "why": str(error)}).encode())
            os.close(fds[0])
        else:
            self._running[pid] = fds[0]
            socket.send_fds(self._requests, [json.dumps({**answer, "pid": pid}).encode()], [pidfd])
            os.close(pidfd)
        for number in fds[1:]:
            os.close(number)
        return True

    def _become(self, server: int, request: Mapping[str, Any], fds: Sequence[int]) -> NoReturn:
        """Be the process that was asked for."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            kept = self._install(fds)
            _be_as(request)
            _seed_anew()
            be_child(str(server), request["serve"], *map(str, kept), *request["arguments"])
            status = 0
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:  # noqa: BLE001  (the process ends here)
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _install(self, fds: Sequence[int]) -> list[int]:
        """Put descriptors in their places, and close those of the server; the others' numbers."""
        status, here, *standard = fds[:5]
        os.fchdir(here)
        for number, own in enumerate(standard):
            os.dup2(own, number)
        of_server = [self._woken, self._waking, self._session, *self._running.values()]
        for own in (status, here, *standard, *of_server):
            os.close(own)
        self._requests.close()
        return list(fds[5:])


def _be_as(request: Mapping[str, Any]) -> None:
    """Be as a process that the session itself has started."""
    for number in {*_FOR_WORKERS, signal.SIGCHLD, *request["ignored"]}:
        ignored = number in request["ignored"]
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
    if signal.SIGINT not in request["ignored"]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.umask(request["umask"])
    os.sched_setaffinity(0, request["cores"])
    os.setpriority(os.PRIO_PROCESS, 0, request["nice"])
    for limit, soft, hard in request["limits"]:
        if resource.getrlimit(limit) != (soft, hard):
            resource.setrlimit(limit, (soft, hard))
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])


def _seed_anew() -> None:
    """Give this copy random numbers of its own; `random` sees to that by itself."""
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()
