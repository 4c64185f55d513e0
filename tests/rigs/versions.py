"""A recording and a function that are edited, and runs of them that are killed where it is said.

The function notes each call, and does what files beside it say. Nothing here depends on time.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

import hpcio

TRIALS, ROWS, CHANNELS = 8, 4, 2
ALL = frozenset(range(TRIALS))
# What the function multiplies by, and the trials that it cannot do.
FUNCTIONS: tuple[tuple[float, tuple[int, ...]], ...] = ((2.0, ()), (3.0, ()), (2.0, (3, 6)))

_WORK = """
import os

HERE, FACTOR, SICK = {here!r}, {factor!r}, {sick!r}


def once(what, number):
    try:
        os.remove(f"{{HERE}}/{{what}}-{{number}}")
    except FileNotFoundError:
        return False
    return True


def scaled(trial, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, "f8"
    number = int(trial[0, 0])
    with open(f"{{HERE}}/calls", "ab", buffering=0) as calls:
        calls.write(b"%d\\n" % number)
    if once("kill", number):
        os.kill(os.getpid(), 9)
    if once("orphan", number):
        os.kill(os.getppid(), 9)
    if once("stop", number):
        raise KeyboardInterrupt
    if number in SICK or os.path.exists(f"{{HERE}}/sick-{{number}}"):
        raise ValueError("sick")
    return FACTOR * trial
"""


class Recording(NamedTuple):
    """Which values a recording has, and when it says that it was written."""

    values: int = 0
    time: int = 0


class Key(NamedTuple):
    """All that differs between the plans of one bench: equal keys, equal digests."""

    function: int
    recording: Recording


class Versions:
    """A folder with a recording and a module, each of which has some versions.

    Parameters
    ----------
    folder : path
    **options
        Of every plan.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.options = folder, options
        self.module = f"versions_{secrets.token_hex(6)}"
        self.function, self.recording = 0, Recording()
        self._path = [*sys.path]
        self._edits = 0
        (folder / "calls").touch()
        self.edit_function(0)
        self.edit_recording(Recording())

    @property
    def key(self) -> Key:
        return Key(self.function, self.recording)

    def edit_function(self, version: int) -> None:
        factor, sick = FUNCTIONS[version]
        path = self.folder / f"{self.module}.py"
        path.write_text(_WORK.format(here=str(self.folder), factor=factor, sick=sick))
        # Python knows compiled modules by size and whole seconds.
        self._edits += 1
        os.utime(path, (10**9 + self._edits, 10**9 + self._edits))
        self.function = version

    def edit_recording(self, to: Recording) -> None:
        """Write it anew in its place; size and name are always the same."""
        path = self.folder / "rec.h5"
        new = self.folder / "rec.new"
        with h5py.File(new, "w") as f:
            f["lfp"] = lfp(to.values)
        path.write_bytes(new.read_bytes())
        new.unlink()
        seconds = 10**9 + to.time
        os.utime(path, (seconds, seconds))
        self.recording = to

    def forget_modules(self) -> None:
        """As in a session that begins: no module of ours is loaded."""
        sys.modules.pop(self.module, None)

    def close(self) -> None:
        self.forget_modules()
        sys.path[:] = self._path

    # -- what the function is told, and tells

    def mark(self, what: str, number: int) -> None:
        (self.folder / f"{what}-{number}").touch()

    def clear(self, what: str) -> None:
        for path in self.folder.glob(f"{what}-*"):
            path.unlink()

    @property
    def sick(self) -> frozenset[int]:
        """The trials that the function would raise in now."""
        marked = {int(path.name.partition("-")[2]) for path in self.folder.glob("sick-*")}
        return frozenset(marked | {*FUNCTIONS[self.function][1]})

    @property
    def calls(self) -> list[int]:
        return [*map(int, (self.folder / "calls").read_text().split())]

    def forget_calls(self) -> None:
        (self.folder / "calls").write_bytes(b"")

    # -- plans

    def plan(self, out: Path) -> hpcio.Plan:
        return hpcio.Plan.create(
            f"{self.folder}/{self.module}.py:scaled", f"{self.folder}/rec.h5::/lfp",
            trials=ROWS, out=out, **self.options,
        )  # fmt: skip

    def expected(self, key: Key, done: Collection[int] = ALL) -> np.ndarray:
        """The values of the result, with gaps in place of trials that are not done."""
        scaled = FUNCTIONS[key.function][0] * lfp(key.recording.values)
        cut = scaled.reshape(TRIALS, ROWS, CHANNELS)
        if "keeptrials" in self.options:  # whole numbers: the sum is exact in any order
            total = cut[sorted(done)].sum(axis=0)
            return total if self.options.get("reduce") == "sum" else total / len(done)
        cut[sorted(ALL.difference(done))] = np.nan
        return cut if self.options.get("join") == "stack" else scaled


def lfp(values: int) -> np.ndarray:
    """Whole numbers; the first of each trial is its own."""
    data = np.random.default_rng(values).integers(-9999, 9999, (TRIALS * ROWS, CHANNELS))
    data[::ROWS, 0] = np.arange(TRIALS)
    return data.astype("f8")


# Calls of the system by which something is written, made, named or removed.
CALLS = (
    "open", "write", "writev", "pwrite", "fsync", "mkdir", "rename", "unlink", "posix_fallocate",
    "truncate",
)  # fmt: skip


def die_at(moment: int) -> None:
    """Let this process end before the call of that number to the system, of `CALLS`."""
    left = moment

    def deadly(call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapped

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
