"""New Pythons: their command, their environment, and how they start."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hpcio.machine.children import Process
from hpcio.machine.forkserver import ForkServer, NoFork, ServerEnded, is_open, is_possible

__all__ = ["begin_pythons", "new_python", "start_python", "with_threads"]

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)

# Where hpcio is imported from; new processes import it from there, too.
_ROOT = str(Path(__file__).parents[2])


def new_python(serve: str, *arguments: str) -> list[str]:
    """The command of a new Python that calls a function of hpcio with some texts.

    It takes hpcio from where this is; what else lies there comes after the user's modules. The
    folder at hand hides no module of the standard library.

    Parameters
    ----------
    serve : str
        ``MODULE:FUNC``.
    arguments : str

    Examples
    --------
    >>> import subprocess
    >>> command = new_python("hpcio.machine.resources:cores")
    >>> subprocess.run(command).returncode
    0
    """
    module, _, name = serve.partition(":")
    script = (
        f"import sys; sys.path.insert(0, sys.argv.pop()); from {module} import {name}; "
        f"sys.path.append(sys.path.pop(0)); {name}(*sys.argv[1:])"
    )
    return [sys.executable, "-P", "-c", script, *arguments, _ROOT]


def with_threads(count: int) -> dict[str, str]:
    """The environment for a process whose numerical libraries may use so many threads."""
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(count))}


# The fork server for each number of threads, and what it has inherited from this process.
_servers: dict[int, tuple[object, ForkServer]] = {}
# Where there is none: libraries of more threads than one have threads that no copy would have.
_without: set[int] = set()
# How many servers have ended, for each number of threads, before they had forked.
_in_vain: dict[int, int] = {}
# Servers whose workers are at work yet, or that have just ended.
_retired: list[ForkServer] = []
# Variables that libraries read when they are imported, by the beginnings of their names.
_WHEN_IMPORTED = (
    "PYTHON", "LD_", "OMP_", "GOTO_", "OPENBLAS_", "MKL_", "BLIS_", "VECLIB_", "NUMEXPR_", "NUMBA_",
    "HDF5_", "H5PY_", "NPY_", "NUMPY_", "MALLOC_", "GLIBC_", "LANG", "LC_", "TZ", "COVERAGE_",
)  # fmt: skip
_lock = threading.Lock()


def start_python(
    serve: str,
    *arguments: str,
    fds: Sequence[int] = (),
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    threads: int = 1,
) -> Process:
    """Start a process that calls a function of hpcio, and ends with this one.

    It is forked by a server that has imported what most need; where there is none, it is a new
    Python. It imports neither the script nor the notebook at hand.

    Parameters
    ----------
    serve : str
        ``MODULE:FUNC``. It is called with the numbers of `fds` there, as texts, and `arguments`.
    arguments : str
    fds : sequence of int
        Open files that are given to it.
    stdin, stdout, stderr : int, optional
        By default those of this process, and no input.
    threads : int
        Threads that numerical libraries may use.

    Raises
    ------
    OSError
        If there is no process left, or no memory.
    """
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        standard = [
            nothing if stdin is None else stdin,
            _given(stdout, 1, nothing),
            _given(stderr, 2, nothing),
        ]
        while (server := begin_pythons(threads)) is not None:
            try:
                return server.fork(serve, arguments, [*standard, *fds], _environment(threads))
            except ServerEnded:
                _forget(threads, server)
            except NoFork:
                _without.add(threads)
                _forget(threads, server)
            except OSError:  # it says so itself, if there is no process left
                break
        return _popen(serve, arguments, fds, standard, threads)
    finally:
        os.close(nothing)


def begin_pythons(threads: int = 1) -> ForkServer | None:
    """Begin what `start_python` needs, and takes a moment; None where it cannot be had."""
    if threads in _without or not is_possible():
        return None
    environment = _environment(threads)
    imported = {n: v for n, v in environment.items() if n.startswith(_WHEN_IMPORTED)}
    state = sys.executable, imported, os.geteuid(), os.getegid()
    with _lock:
        _retired[:] = [server for server in _retired if server.status() is None]
        there = _servers.get(threads)
        if there is not None:
            if there[0] == state:
                return there[1]
            _retire(threads)
        try:
            command = partial(new_python, "hpcio.machine.forkserver:serve")
            server = ForkServer(command, environment)
        except OSError:
            return None
        _servers[threads] = state, server
        return server


def _environment(threads: int) -> dict[str, str]:
    return {**with_threads(threads), "PYTHONUNBUFFERED": "1"}


def _retire(threads: int) -> None:
    """Have a server end when its workers have; another one comes in its place."""
    _, server = _servers.pop(threads)
    server.retire()
    _retired.append(server)


def _forget(threads: int, server: ForkServer) -> None:
    """Put away a server that has ended, as after a while of rest; after two in vain, for good."""
    with _lock:
        if _servers.get(threads, (None, None))[1] is server:
            _retire(threads)
            if not server.has_forked and server.status() != 0:
                _in_vain[threads] = _in_vain.get(threads, 0) + 1
                if _in_vain[threads] > 1:
                    _without.add(threads)


def _leave_to_parent() -> None:
    """In a process that was forked from this one: it has no server yet, and no lock is held."""
    global _lock  # noqa: PLW0603  (a thread that is not here may hold it)
    for _, server in _servers.values():
        server.leave_to_parent()
    for server in _retired:
        server.leave_to_parent()
    _servers.clear()
    _retired.clear()
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_leave_to_parent)


def _given(fd: int | None, own: int, nothing: int) -> int:
    """A descriptor that was given; else the one of this process, if it is open."""
    if fd is not None:
        return fd
    return own if is_open(own) else nothing


def _popen(
    serve: str, arguments: Sequence[str], fds: Sequence[int], standard: Sequence[int], threads: int
) -> Process:
    """A new Python, where none can be forked."""
    stdin, stdout, stderr = standard
    given = str(os.getpid()), serve, *map(str, fds), *arguments
    return subprocess.Popen(
        new_python("hpcio.machine.children:be_child", *given),
        stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=fds,
        env=_environment(threads),
    )  # fmt: skip
