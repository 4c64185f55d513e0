"""Programs that do the work when they are asked to; see `benchmarks.peers.serving`."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from benchmarks.functions import subtract_mean
from benchmarks.measure import interleave
from benchmarks.peers.systems import System
from benchmarks.peers.work import DATASET, Work

_ROOT = Path(__file__).parents[2]
# Seconds that an answer may take.
_PATIENCE = 900.0
# Seconds after it was woken, in which a cluster makes up for the heartbeats that it has missed.
_SETTLE = 0.3
# Means of 100,000 float32 numbers may differ by so much between versions of numpy.
_TOLERANCE = 1e-5


class PeerError(Exception):
    """A program has failed, or its result is wrong."""


class Peer:
    """A system at work.

    Parameters
    ----------
    system : System
    work : Work
    folder : Path
        For what it stores beside its results; its own.
    """

    def __init__(self, system: System, work: Work, folder: Path) -> None:
        self.name, self._work, self._folder = system.name, work, folder
        (folder / "spy" / "tmp").mkdir(parents=True)
        self._log = folder / "log"
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [system.python, "-m", "benchmarks.peers.serving", system.side,
                 json.dumps(asdict(work))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=_ROOT,
                env={**os.environ, **_settings(folder)}, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Self:
        try:
            self._hear()
        except BaseException:
            self._end()
            raise
        self._signal(signal.SIGSTOP)
        return self

    @contextmanager
    def awake(self) -> Iterator[None]:
        """A turn: before and after it, all of its processes are stopped.

        Idle clusters of dask together would take a good part of a core from whoever has the turn.
        """
        self._signal(signal.SIGCONT)
        time.sleep(_SETTLE)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)  # they are a session of their own

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._signal(signal.SIGCONT)
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()

    def go(self, folder: Path) -> float:
        """Seconds to do all of the work into an empty folder."""
        return float(self._ask(f"go {folder}")["seconds"])

    def check(self, expected: np.ndarray) -> None:
        """Compare what `go` has made with the right values.

        Raises
        ------
        PeerError
            If it is something else.
        """
        file = self._folder / "result.npy"
        self._ask(f"save {file}")
        found = np.load(file, mmap_mode="r")
        file.unlink()
        if found.dtype != expected.dtype or found.size != expected.size:
            raise PeerError(f"{self.name}: its result is {found.dtype} of shape {found.shape}.")
        if not np.allclose(found.reshape(expected.shape), expected, rtol=0, atol=_TOLERANCE):
            raise PeerError(f"{self.name}: its result has wrong values.")

    def _ask(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(line, file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise self._failed("has ended") from error
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], _PATIENCE)[0]:
            raise self._failed(f"has not answered for {_PATIENCE:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise self._failed("has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _failed(self, how: str) -> PeerError:
        last = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
        return PeerError(f"{self.name} {how}:\n{last}")


def _settings(folder: Path) -> Mapping[str, str]:
    """Where a program stores what it has beside its result; and that it will be stopped."""
    return {
        "TMPDIR": str(folder), "SPYDIR": f"{folder}/spy", "SPYTMPDIR": f"{folder}/spy/tmp",
        # A worker that was stopped for long is not lost.
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "1 day",
    }  # fmt: skip


def expected_of(work: Work) -> np.ndarray:
    """The right values."""
    found = np.empty(work.shape, np.float32)
    with h5py.File(work.source) as f:
        for trial in range(work.trials):
            found[work.of(trial)] = subtract_mean(f[DATASET][work.of(trial)])
    return found


def measured(
    systems: Sequence[System], work: Work, folder: Path, *, repetitions: int
) -> dict[str, list[float]]:
    """Seconds of all systems in turn, by name, after a first round whose results are checked.

    Raises
    ------
    PeerError
        If a program fails, or its result is wrong.
    """
    expected = expected_of(work)
    checked: set[str] = set()

    def turn(peer: Peer) -> Callable[[], float]:
        def seconds() -> float:
            with tempfile.TemporaryDirectory(dir=folder) as fresh, peer.awake():
                found = peer.go(Path(fresh))
                if peer.name not in checked:
                    peer.check(expected)
                    checked.add(peer.name)
            return found

        return seconds

    with ExitStack() as stack:
        peers = [
            stack.enter_context(Peer(system, work, folder / f"peer-{k}"))
            for k, system in enumerate(systems)
        ]
        return interleave({peer.name: turn(peer) for peer in peers}, repetitions)
