"""Filling a chunked dataset with a result: read, cut into chunks, compressed, several at a time.

HDF5 compresses in one thread of a process. So each of several processes compresses a part of the
result, and this process writes the chunks that they send, which are as HDF5 would have stored them.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Self

import h5py
import numpy as np

from hpcio.errors import HpcioError, ResultError, WorkerError
from hpcio.files import Chunking, Compression, Packer
from hpcio.layout import Target
from hpcio.machine import check_room, new_python
from hpcio.results import opening as result
from hpcio.results.extents import SPAN, Extents, OpenSource, in_threads
from hpcio.results.opening import ResultFile

__all__ = ["fill_chunks", "read_region"]

# A row of chunks is read at once if it has no more bytes than this.
ROW_OF_CHUNKS = 256 << 20
# Free room that is left to HDF5 beside what is written, since it takes a full disk badly.
SPARE = 16 << 20
# Fewer bytes than this are not worth the start of processes.
WORTH = 64 << 20

_CHUNK, _END, _ERROR = b"C", b"E", b"X"
_SIZE = struct.Struct("<QI")

Region = tuple[slice, ...]
Packed = tuple[tuple[int, ...], int, bytes]


def read_region(f: ResultFile, region: Region, name: str = "data") -> Any:
    """Part of a dataset of a result; raises ResultError if HDF5 cannot read it."""
    try:
        return f[name][region]
    except (OSError, RuntimeError) as error:
        raise ResultError(
            f"HDF5 cannot read '{f.filename}': {error}. Verify it: hpcio verify"
        ) from error


def _parts(target: Target, chunking: Chunking) -> list[Region]:
    """The dataset in parts of whole chunks, as large as a process reads at a time."""
    shape, axis, length = target.shape, target.axis, chunking.chunk[target.axis]
    whole = tuple(slice(0, n) for n in shape)
    row = target.nbytes // shape[axis] * length
    if row > ROW_OF_CHUNKS:
        return list(chunking.inside(whole))
    step = length * max(1, SPAN // row)
    return [
        (*whole[:axis], slice(a, min(a + step, shape[axis])), *whole[axis + 1 :])
        for a in range(0, shape[axis], step)
    ]


class _Packing:
    """A result, open to be read and packed part by part."""

    def __init__(self, f: ResultFile, name: str, target: Target, chunking: Chunking) -> None:
        self._f, self._name, self._target, self._chunking = f, name, target, chunking
        self._extents = Extents.of(f, target, name)
        self._packer = Packer(chunking, target.dtype)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._packer.close()

    def _read(self, region: Region) -> np.ndarray:
        rows = region[0]
        others = zip(region[1:], self._target.shape[1:], strict=True)
        if self._extents is None or any((s.start, s.stop) != (0, n) for s, n in others):
            return np.asarray(read_region(self._f, region, self._name))
        shape = (rows.stop - rows.start, *self._target.shape[1:])
        data = np.empty(shape, self._target.dtype)
        with OpenSource() as source:
            row = self._target.nbytes // self._target.shape[0]
            self._extents.read(data.reshape(-1), rows.start * row, source)
        return data

    def packed(self, region: Region) -> Iterator[Packed]:
        """The chunks of a part: first element, filter mask, and bytes of each."""
        data = self._read(region)
        origin = [s.start for s in region]
        for part in self._chunking.inside(region):
            inside = tuple(
                slice(s.start - a, s.stop - a) for s, a in zip(part, origin, strict=True)
            )
            yield (tuple(s.start for s in part), *self._packer.pack(data[inside]))


def fill_chunks(
    f: ResultFile,
    target: Target,
    dataset: h5py.Dataset,
    chunking: Chunking,
    final: Path,
    workers: int | None,
    *,
    name: str = "data",
) -> None:
    """Write all data of a dataset of a result into an empty chunked one.

    Raises
    ------
    ResultError
        If the result cannot be read.
    OutputError
        If the disk is full.
    WorkerError
        If a process that compresses does not start, or dies.
    """

    def write(chunks: Iterator[Packed]) -> None:
        for first, mask, data in chunks:
            check_room(final, len(data) + SPARE)
            dataset.id.write_direct_chunk(first, data, filter_mask=mask)

    parts = _parts(target, chunking)
    if workers is None:
        workers = _useful_workers(target, chunking)
    if workers > 1:
        _pack_in_processes(f.filename, name, chunking, parts, write, workers=workers)
        return
    with _Packing(f, name, target, chunking) as packing:
        for part in parts:
            write(packing.packed(part))


def _useful_workers(target: Target, chunking: Chunking) -> int:
    """How many processes are worth their start."""
    worth = chunking.compression is not None and target.nbytes >= WORTH
    return len(os.sched_getaffinity(0)) if worth else 1


def _pack_in_processes(
    path: str,
    name: str,
    chunking: Chunking,
    parts: list[Region],
    write: Callable[[Iterator[Packed]], None],
    *,
    workers: int,
) -> None:
    """Have processes pack the parts of a result, and write the chunks that they send."""
    with ExitStack() as stack:
        idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for _ in range(min(workers, len(parts))):
            idle.put(stack.enter_context(_Worker(path, name, chunking)))

        def fill(part: Region) -> None:
            worker = idle.get()
            try:
                write(worker.pack(part))
            except BaseException:
                worker.kill()  # nobody listens to the rest of what it sends
                raise
            finally:
                idle.put(worker)

        in_threads(fill, parts, threads=idle.qsize())


# ---------------------------------------------------------------------- processes


class _Worker:
    """A plain new Python that packs parts of a result."""

    def __init__(self, path: str, name: str, chunking: Chunking) -> None:
        said = {
            "path": path, "name": name, "chunk": chunking.chunk,
            "compression": chunking.compression and str(chunking.compression),
        }  # fmt: skip
        task = json.dumps(said)
        self._rank = len(chunking.chunk)
        try:
            # It has a session of its own, since Ctrl-C is for the process that writes.
            self._process = subprocess.Popen(
                new_python("hpcio.results.packing:serve", task), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise WorkerError(f"A process to compress does not start: {error}.") from error

    def pack(self, part: Region) -> Iterator[Packed]:
        """The chunks of one part."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is noticed when no answer comes
            edges = [(s.start, s.stop) for s in part]
            self._process.stdin.write(json.dumps(edges).encode() + b"\n")
            self._process.stdin.flush()
        place = struct.Struct(f"<{self._rank}q")
        while (kind := self._take(1)) != _END:
            size, mask = _SIZE.unpack(self._take(_SIZE.size))
            if kind == _ERROR:
                raise ResultError(self._take(size).decode())
            first = place.unpack(self._take(place.size))
            yield first, mask, self._take(size)

    def _take(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) < size:
            raise WorkerError(
                "A process that compressed has died; it may have been short of memory. Use fewer "
                "workers, or smaller chunks."
            )
        return data

    def __enter__(self) -> Self:
        return self

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def __exit__(self, *_: object) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._process.wait()


def serve(task: str) -> None:
    """Be a worker: parts come in, packed chunks go out."""
    said = json.loads(task)
    out = sys.stdout.buffer
    try:
        compression = said["compression"] and Compression.parse(said["compression"])
        chunking = Chunking(tuple(said["chunk"]), compression)
        with result.open(said["path"]) as f:
            target = result.target_of(f, said["name"])
            with _Packing(f, said["name"], target, chunking) as packing:
                for line in sys.stdin.buffer:
                    part = tuple(slice(*edges) for edges in json.loads(line))
                    _send(out, packing.packed(part))
    except HpcioError as error:
        text = str(error).encode()
        out.write(_ERROR + _SIZE.pack(len(text), 0) + text)
        out.flush()


def _send(out: BinaryIO, chunks: Iterator[Packed]) -> None:
    for first, mask, data in chunks:
        out.write(_CHUNK + _SIZE.pack(len(data), mask) + struct.pack(f"<{len(first)}q", *first))
        out.write(data)
    out.write(_END)
    out.flush()
