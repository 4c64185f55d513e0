"""Children of a test, of which nothing is left behind; and damage done to files."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.rigs.waiting import PATIENCE, until

REPOSITORY = Path(__file__).resolve().parents[2]


def start(
    script: str, folder: Path, *args: str, prefix: Sequence[str] = (), **options: Any
) -> subprocess.Popen[str]:
    """A Python script as the leader of a group of processes of its own."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", script, *args], cwd=folder, text=True,
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def run(script: str, folder: Path, *args: str, **options: Any) -> str:
    """What a Python script prints; it must end well."""
    with ended(start(script, folder, *args, **options)) as child:
        out, err = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0, err
    return out


def told(module: str, *asked: object, env: dict[str, str] | None = None) -> list[Any]:
    """What ``python -m MODULE ASKED`` tells, each line of JSON; it must end well."""
    child = subprocess.Popen(
        [sys.executable, "-m", module, json.dumps(asked)], cwd=REPOSITORY, text=True,
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
    )  # fmt: skip
    with ended(child):
        out, err = child.communicate()
        assert child.returncode == 0, err
    return [json.loads(line) for line in out.splitlines()]


def group(leader: int) -> list[int]:
    """The processes of a group that are still alive."""
    alive = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, _, pgrp = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has just ended
        if int(pgrp) == leader and state not in "ZX":
            alive.append(int(name))
    return alive


@contextmanager
def ended(child: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Leave nothing of a child's group behind, whatever happens."""
    try:
        yield child
    finally:
        if group(child.pid):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        until(lambda: not group(child.pid), "the end of the child's group")


# Counts the named calls to the operating system, and ends the whole group before the given one.
_DEADLY = """
import os

left = {moment}

def deadly(call):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(0, 9)
        return call(*args, **kwargs)
    return wrapped

for name in "{calls}".split():
    setattr(os, name, deadly(getattr(os, name)))
"""


def killed_at(script: str, folder: Path, moment: int, calls: str) -> bool:
    """Run a script in a group alone until a call to the system; whether that was reached."""
    deadly = _DEADLY.format(moment=moment, calls=calls)
    with ended(start(deadly + script, folder)) as child:
        _, err = child.communicate(timeout=PATIENCE)
        assert child.returncode in (0, -signal.SIGKILL), err
        remove_layouts(child.pid)
        return child.returncode != 0


def kill(child: subprocess.Popen[str]) -> None:
    """End a child and all of its workers by signal 9."""
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    until(lambda: not group(child.pid), "the end of the group")


def damage(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as f:
        f.seek(offset)
        byte = f.read(1)[0]
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte ^ 1 << bit]))


def names(folder: Path, pattern: str) -> Sequence[str]:
    """Names in a folder that match, sorted."""
    return sorted(path.name for path in folder.glob(pattern))


def without_privileges() -> None:
    """Let a child be held to permissions even if it is root's: for `preexec_fn`."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP, in force after exec


def remove_layouts(*pids: int) -> None:
    """Remove what processes that were killed have left in memory; else it is there for an hour."""
    for pid in pids:
        for left in Path("/dev/shm").glob(f"hpcio-layout-{pid}-*"):
            left.unlink()
