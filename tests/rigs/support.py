"""What several tests share: a recording, functions that tell of their calls, and children."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import hpcio

REPOSITORY = Path(__file__).resolve().parents[2]
TRIALS, ROWS, CHANNELS = 12, 5, 3

# The first sample of a trial is its number. `double` tells of each call in the file
# `calls`; in a trial that has a file `hold-NUMBER` it waits until that is removed, in one
# that has a file `stop-NUMBER` it stops the run as Ctrl-C does.
WORK = """
import os
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def called(trial):
    number = int(trial[0, 0])
    with open(f"{HERE}/calls", "ab", buffering=0) as calls:
        calls.write(b"%d %d\\n" % (number, os.getpid()))
    return number


def double(trial, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, "f8"
    number = called(trial)
    while os.path.exists(f"{HERE}/hold-{number}"):
        time.sleep(0.002)
    if os.path.exists(f"{HERE}/stop-{number}"):
        raise KeyboardInterrupt
    return 2.0 * trial
"""


def record(path: Path, trials: int = TRIALS) -> np.ndarray:
    """A recording `lfp` of equal trials, each of which begins with its number."""
    lfp = np.random.default_rng(7).normal(size=(trials * ROWS, CHANNELS))
    lfp[::ROWS, 0] = np.arange(trials)
    with h5py.File(path, "w") as f:
        f["lfp"] = lfp
    return lfp


class Bench:
    """A folder with a recording, a module of functions, and the plan of a run."""

    def __init__(self, folder: Path, *, sources: str = "task", trials: int = TRIALS) -> None:
        self.folder, self.sources, self.trials = folder, sources, trials
        self.out = folder / "out.h5"
        self.lfp = record(folder / "rec.h5", trials)
        # A name of its own: this process imports the modules of many tests.
        self.module = f"work_{secrets.token_hex(6)}"
        (folder / f"{self.module}.py").write_text(WORK)
        (folder / "calls").touch()

    def _calls(self) -> list[tuple[int, int]]:
        lines = (self.folder / "calls").read_text().split("\n")[:-1]
        return [(int(number), int(pid)) for number, pid in map(str.split, lines)]

    @property
    def calls(self) -> list[int]:
        """The trials that the function was called with, in order."""
        return [number for number, _ in self._calls()]

    def pid(self, trial: int) -> int:
        """The process that was last at work on a trial."""
        return dict(self._calls())[trial]

    def forget_calls(self) -> None:
        (self.folder / "calls").write_bytes(b"")

    def _mark(self, what: str, trials: tuple[int, ...]) -> None:
        for path in self.folder.glob(f"{what}-*"):
            path.unlink()
        for trial in trials:
            (self.folder / f"{what}-{trial}").touch()

    def hold(self, *trials: int) -> None:
        """Let the function wait in these trials, and in no other."""
        self._mark("hold", trials)

    def stop(self, *trials: int) -> None:
        """Let the function stop the run in these trials, and in no other."""
        self._mark("stop", trials)

    def plan(self, func: str = "double", **options: Any) -> hpcio.Plan:
        options = {"trials": ROWS, "out": self.out, "sources": self.sources, **options}
        name = f"{self.folder}/{self.module}.py:{func}"
        return hpcio.Plan.create(name, f"{self.folder}/rec.h5::/lfp", **options)

    def script(self, *, workers: int, func: str = "double", options: str = "") -> str:
        """A script that plans and runs, the first time as every other."""
        return (
            "import hpcio\n"
            f"plan = hpcio.Plan.create('{self.module}.py:{func}', 'rec.h5::/lfp', trials={ROWS},\n"
            f"                         out='out.h5', sources='{self.sources}')\n"
            f"print(plan.run(workers={workers}{options}))\n"
        )

    def start(self, **options: Any) -> subprocess.Popen[str]:
        return start(self.script(**options), self.folder)

    def run(self, **options: Any) -> str:
        return run(self.script(**options), self.folder)

    @property
    def expected(self) -> np.ndarray:
        return 2.0 * self.lfp

    def check(self, out: Path | None = None) -> None:
        """The result is whole, and the same bytes as those of any other run."""
        out = out or self.out
        with hpcio.open(out) as f:
            assert f["data"].dtype == self.expected.dtype
            assert f["data"][...].tobytes() == self.expected.tobytes()
            assert f["trials"]["done"].all()
            assert f["trials"]["first"].tolist() == list(range(0, len(self.lfp), ROWS))
        assert hpcio.verify(out).blocks == self.trials


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
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
    return out


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


def kill(child: subprocess.Popen[str]) -> None:
    """End a child and all of its workers by signal 9."""
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    until(lambda: not group(child.pid), "the end of the group")


def until(condition: Callable[[], object], what: str, *, seconds: float = 60) -> None:
    """Wait for a condition; a test that waits in vain fails."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.002)


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
