"""What processes do that the tests of the fork server start."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from pathlib import Path

import numpy as np


def tell(fd: str, *texts: str) -> None:
    """Say what this process was given."""
    said = {
        "pid": os.getpid(),
        "texts": texts,
        "cwd": os.stat(".").st_ino,
        "umask": os.umask(0),
        "cores": sorted(os.sched_getaffinity(0)),
        "word": os.environ.get("HPCIO_TEST_WORD"),
        "open": sorted(int(n) for n in os.listdir("/proc/self/fd")),
        "fd": int(fd),
        "inherited": [int(n) for n in os.listdir("/proc/self/fd") if is_inherited(int(n))],
        "random": [random.random(), float(np.random.random()), os.urandom(4).hex()],  # noqa: NPY002
        "ignored": [n for n in range(1, 32) if signal.getsignal(n) is signal.SIG_IGN],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "name": Path("/proc/self/comm").read_text().strip(),
    }
    os.write(int(fd), json.dumps(said).encode())


def is_inherited(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:  # of the listing itself
        return False


def leave(how: str) -> None:
    """End in some way."""
    if how == "raise":
        raise ValueError("sick")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit(int(how))


def stay(fd: str) -> None:
    """Say who this is, and stay."""
    os.write(int(fd), f"{os.getpid()} {os.getppid()}".encode())
    while True:
        time.sleep(1)


def session() -> None:
    """A session that starts one, says who it is, and hangs; for a process of its own."""
    from hpcio.machine import start_python

    reading, writing = os.pipe()
    start_python("tests.rigs.forked:stay", fds=[writing])
    if os.environ.get("HPCIO_TEST_WORD") == "copy" and not os.fork():
        os.close(1)
        time.sleep(600)
    print(os.read(reading, 100).decode(), flush=True)
    signal.pause()
