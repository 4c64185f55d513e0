"""The limits: what the system itself takes for the same bytes, in the tightest loops."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from benchmarks.functions import subtract_mean

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
clock = time.perf_counter  # the same for all processes of a machine
# So long, in seconds, processes keep busy before they are timed.
_SETTLE = 0.03


def begin(barrier: Barrier) -> float:
    """The time at which a process begins, with all others.

    For some ms, a process that was woken may have to share the CPU of the one that woke it. How
    often it does depends on what both did before, and was a tenth of what was measured.
    """
    barrier.wait()
    until = clock() + _SETTLE
    while (now := clock()) < until:
        pass
    return now


def files(folder: Path, data: memoryview, count: int) -> float:
    """Seconds to open, write and close `count` new files of `data`."""
    names = [f"{folder}/{i}" for i in range(count)]
    started = clock()
    for name in names:
        fd = os.open(name, _NEW, 0o600)
        os.pwrite(fd, data, 0)
        os.close(fd)
    return clock() - started


def one_file(path: Path, data: memoryview, count: int) -> float:
    """Seconds to write `data` `count` times, back to back, into one new file."""
    size = data.nbytes
    started = clock()
    fd = os.open(path, _NEW, 0o600)
    for i in range(count):
        os.pwrite(fd, data, i * size)
    ended = clock()
    os.close(fd)
    return ended - started


def copy(source: Path, offset: int, path: Path, data: memoryview, count: int) -> float:
    """Seconds to read pieces as large as `data` into it, and write each into one new file."""
    size = data.nbytes
    started = clock()
    src = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    fd = os.open(path, _NEW, 0o600)
    for i in range(count):
        os.preadv(src, [data], offset + i * size)
        os.pwrite(fd, data, i * size)
    ended = clock()
    os.close(fd)
    os.close(src)
    return ended - started


def join(sources: Sequence[Path], offset: int, path: Path, *, sync: bool) -> float:
    """Seconds to copy what lies behind byte `offset` of some files into one new file."""
    data = memoryview(bytearray(1 << 20))
    at = 0
    started = clock()
    fd = os.open(path, _NEW, 0o600)
    for source in sources:
        src = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        first = offset
        while read := os.preadv(src, [data], first):
            os.pwrite(fd, data[:read], at)
            first += read
            at += read
        os.close(src)
    if sync:
        os.fsync(fd)
    ended = clock()
    os.close(fd)
    return ended - started


def h5py_loop(source: str, out: str, rows: int, *, sync: bool) -> float:
    """Seconds over an open input and an open output dataset; with `sync`, till it is on disk.

    To be called in a new process, as the workers are new: where a process has had large
    arrays before, glibc keeps their memory, and the same loop takes half the time.
    """
    with h5py.File(source) as a, h5py.File(out, "w") as b:
        there = a["data"]
        here = b.create_dataset("data", there.shape, there.dtype)
        started = clock()
        for first in range(0, len(there), rows):
            here[first : first + rows] = subtract_mean(there[first : first + rows])
        if sync:
            b.flush()
            os.fsync(b.id.get_vfd_handle())
        return clock() - started


def h5py_copy(path: Path, data: np.ndarray, rows: int) -> None:
    """Write `data` as one contiguous dataset, `rows` at a time."""
    with h5py.File(path, "w") as f:
        here = f.create_dataset("data", data.shape, data.dtype)
        for first in range(0, len(data), rows):
            here[first : first + rows] = data[first : first + rows]


class Writers:
    """Processes that write, all beginning at a barrier; raw bytes unless `serve` does otherwise."""

    def __init__(
        self,
        count: int,
        task: Callable[[int], tuple[object, ...]],
        serve: Callable[..., None] | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._barrier = context.Barrier(count)  # a process that has started keeps no reference
        self._pipes: list[Connection] = []
        self._processes = []
        for i in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve or _serve, args=(self._barrier, theirs, *task(i)), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, paths: list[Path], *, sync: bool, first: Sequence[int] = ()) -> float:
        """Seconds from the first begin to the last end, each writing one of `paths`.

        With `first`, from that byte on of a file that may be one for all.
        """
        starts = first or [0] * len(paths)
        for pipe, path, start in zip(self._pipes, paths, starts, strict=True):
            pipe.send((path, sync, start))
        times = [pipe.recv() for pipe in self._pipes]
        return float(max(t[1] for t in times) - min(t[0] for t in times))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join()


def _serve(barrier: Barrier, pipe: Connection, size: int, count: int) -> None:
    data = np.random.default_rng(os.getpid()).bytes(size)
    while True:
        try:
            path, sync, first = pipe.recv()
        except EOFError:
            return
        started = begin(barrier)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for i in range(count):
            os.pwrite(fd, data, first + i * size)
        if sync:
            os.fsync(fd)
        pipe.send((started, clock()))
        os.close(fd)


if __name__ == "__main__":
    print(h5py_loop(sys.argv[1], sys.argv[2], int(sys.argv[3]), sync="fsync" in sys.argv))
