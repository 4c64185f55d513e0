"""What a process of a team does: plain system calls, which are the limit, and hpcio's own work.

A job makes ready what it needs, yields, does what is timed, and yields how much that was: bytes, or
files. Then it puts away what it made.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
from collections.abc import Callable, Iterator

import h5py
import numpy as np

from hpcio.errors import WorkerError
from hpcio.files import checksum, sync_file_system, write_at
from hpcio.machine import is_local, only_files
from hpcio.planning import load_for_worker
from hpcio.results import open as open_result
from hpcio.results import repack, verify
from hpcio.running import Attempt, run_batch

__all__ = ["JOBS", "NBYTES", "noise", "split"]

# So many bytes that no file system can compress are written again and again.
NBYTES = 64 << 20
_NEW = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
_PIECE = 4 << 20
# So many trials are read by chance.
_SOME = 64


def noise() -> np.ndarray:
    """Random bytes, the same in each process, shape (NBYTES,)."""
    return np.frombuffer(np.random.default_rng(0).bytes(NBYTES), np.uint8)


def split(count: int, parts: int) -> list[tuple[int, int]]:
    """How `count` things are shared out: the first of each, and how many."""
    edges = [count * k // parts for k in range(parts + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(edges)]


def _pieces(size: int) -> list[memoryview]:
    """Some pieces of `size` bytes of noise."""
    data = (noise() if size <= NBYTES else np.resize(noise(), size)).data
    return [data[k : k + size] for k in range(0, len(data) - size + 1, size)]


def greet() -> Iterator[int]:
    """Say which machine this is."""
    yield 0
    yield len(platform.node())


# ---------------------------------------------------------------------- the limit


def write(path: str, *, size: int, count: int, first: int, step: int, sync: bool) -> Iterator[int]:
    """Write pieces of a file by pwrite, each `step` bytes behind the one before."""
    pieces = _pieces(size)
    yield 0
    fd = os.open(path, _NEW, 0o600)
    try:
        for k in range(count):
            write_at(fd, pieces[k % len(pieces)], first + k * step)
        if sync:
            os.fsync(fd)
        yield size * count
    finally:
        os.close(fd)


def read(path: str, *, size: int, count: int, first: int, step: int) -> Iterator[int]:
    """Read pieces of a file by pread, each `step` bytes behind the one before."""
    buffer = bytearray(size)
    forget(path)
    yield 0
    fd = only_files(path)
    try:
        done = sum(os.preadv(fd, [buffer], first + k * step) for k in range(count))
        yield done
    finally:
        os.close(fd)


def make_files(folder: str, *, name: str, size: int, count: int, sync: bool) -> Iterator[int]:
    """Make files of so many bytes each, in a folder that others fill, too."""
    pieces = _pieces(size)
    names = [f"{folder}/{name}.{k}" for k in range(count)]
    # One call syncs all files of a local file system; that reaches no server.
    each, whole = sync and not is_local(folder), sync and is_local(folder)
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    yield 0
    for k, path in enumerate(names):
        fd = os.open(path, _NEW | os.O_EXCL, 0o600)
        write_at(fd, pieces[k % len(pieces)], 0)
        if each:
            os.fsync(fd)
        os.close(fd)
    if whole:
        sync_file_system(place, folder)
    yield count
    os.close(place)


def stat_files(folder: str, *, name: str, count: int) -> Iterator[int]:
    """Look at files."""
    names = [f"{folder}/{name}.{k}" for k in range(count)]
    yield 0
    yield sum(os.stat(path).st_size > 0 for path in names)


def read_files(folder: str, *, name: str, size: int, count: int) -> Iterator[int]:
    """Read files from their first byte to their last."""
    names, buffer = [f"{folder}/{name}.{k}" for k in range(count)], bytearray(size)
    forget(*names)
    yield 0
    for path in names:
        fd = only_files(path)
        os.preadv(fd, [buffer], 0)
        os.close(fd)
    yield count


def remove_files(folder: str, *, name: str, count: int) -> Iterator[int]:
    """Remove files."""
    names = [f"{folder}/{name}.{k}" for k in range(count)]
    yield 0
    for path in names:
        os.unlink(path)
    yield count


def copy(path: str, into: str) -> Iterator[int]:
    """Copy a file, in pieces of 4 MiB, until it is on the disk."""
    buffer = bytearray(_PIECE)
    forget(path)
    yield 0
    target, at = os.open(into, _NEW, 0o600), 0
    try:
        for piece in _read_into(buffer, path):
            write_at(target, piece, at)
            at += len(piece)
        os.fsync(target)
        yield at
    finally:
        os.close(target)


def check(path: str) -> Iterator[int]:
    """Read a file, in pieces of 4 MiB, and make the checksum of each."""
    buffer, done = bytearray(_PIECE), 0
    forget(path)
    yield 0
    for piece in _read_into(buffer, path):
        checksum(piece)
        done += len(piece)
    yield done


def _read_into(buffer: bytearray, path: str) -> Iterator[memoryview]:
    """The bytes of a file, as many at a time as there is room for."""
    source, at = only_files(path), 0
    try:
        while nbytes := os.preadv(source, [buffer], at):
            yield memoryview(buffer)[:nbytes]
            at += nbytes
    finally:
        os.close(source)


def forget(*paths: str | os.PathLike[str]) -> None:
    """Have this machine forget what it holds of files in memory, where the system does so."""
    for path in paths:
        fd = only_files(path)
        try:
            os.fsync(fd)  # what is not on the disk yet would stay
            with contextlib.suppress(OSError):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


# ---------------------------------------------------------------------- hpcio


def compute(out: str, *, size: int, first: int, count: int, step: int) -> Iterator[int]:
    """Compute blocks of a plan, each `step` behind the one before, until they are on the disk."""
    plan = load_for_worker(out)
    with Attempt(plan, "bench") as attempt:
        with open(plan.source.path, "rb", buffering=0) as f:  # the recording lies in memory
            while f.read(_PIECE):
                pass
        blocks = first + step * np.arange(count)
        yield 0
        done = run_batch(attempt, blocks)
        attempt.sync()
        if done.done < count:
            raise WorkerError(
                f"{count - done.done} of {count} trials could not be read, or computed; "
                f"'{plan.run_directory}' says why. Give this machine more memory, or measure less."
            )
        yield size * count


def read_result(out: str, *, how: str, plain: bool, files: list[str]) -> Iterator[int]:
    """Read a result: all of it, some trials by chance, or one channel.

    With `plain` by h5py alone, as a file of one dataset is read.
    """
    forget(out, *files)
    yield 0
    with h5py.File(out) if plain else open_result(out) as f:
        data = f["data"]
        if how == "all":
            values = [data[...]]
        elif how == "channel":
            values = [data[..., 0]]
        else:
            order = np.random.default_rng(1).permutation(len(data))[:_SOME]
            values = [data[k] for k in order.tolist()]
        yield sum(v.nbytes for v in values)


def repack_result(out: str, into: str, *, files: list[str]) -> Iterator[int]:
    """Make one file of a result."""
    forget(out, *files)
    yield 0
    repack(out, into)
    yield os.path.getsize(into)


def verify_result(out: str, *, files: list[str]) -> Iterator[int]:
    """Verify a result."""
    forget(out, *files)
    yield 0
    verify(out)
    yield sum(os.path.getsize(path) for path in (out, *files))


JOBS: dict[str, Callable[..., Iterator[int]]] = {
    job.__name__: job
    for job in (
        greet, write, read, make_files, stat_files, read_files, remove_files, copy, check, compute,
        read_result, repack_result, verify_result,
    )
}  # fmt: skip
