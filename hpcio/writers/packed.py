"""Chunked and compressed sources of the writer `virtual`.

HDF5 keeps what it knows about chunks in memory until a file is closed, so a file whose writer was
killed cannot be read. Therefore a task file begins as a *log*: packed chunks back to back, each
after a head with its number and a checksum. They outlive the process as soon as they are written.
When all blocks of the file are there, HDF5 makes a file of the log, under another name. Only then
the log is removed. The process that publishes the result does the same for logs that were left.

All chunks are of one length, so blocks lie across their edges. The last chunk, not full yet, is
held back for a second at most, then logged as it is. Of several entries with one number, the last
counts. Of several results of a call, each has chunks of its own, and these take turns in their
numbers. One that is stored as it is has pieces in the log, and is contiguous in the file.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from hpcio.errors import (
    HpcioError,
    ResultError,
    as_output_error,
)
from hpcio.files import (
    READABLE,
    Chunking,
    Compression,
    NewNames,
    Packer,
    checksum,
    good_chunk,
    in_memory_file,
    sync,
    write_at,
    write_image,
)
from hpcio.journals import FILE, Journal
from hpcio.layout import Output, sizes_of_parts, split_record
from hpcio.machine import check_room
from hpcio.planning import Plan
from hpcio.writers.sources import (
    Places,
    TrialFiles,
    note_places,
    task_path,
)

__all__ = [
    "Entry",
    "PackedTaskFiles",
    "PackedTrialFiles",
    "chunking_of",
    "entries_of",
    "seal",
    "task_file",
    "task_log",
]

# Number of the chunk, filter mask, size, checksum of number, mask and bytes.
_HEAD = struct.Struct("<qIQQ")
# So many bytes of a source are compared when a result is opened; HDF5 reads these first.
HEADER = 4096
# Free room that is left on the disk besides what is written: HDF5 may crash on a full disk.
_SPARE = 16 << 20


def chunking_of(output: Output, shape: tuple[int, ...]) -> Chunking:
    """The chunking of a source of a given shape; in a log, all have such pieces."""
    chunks = output.chunks
    if chunks is None:
        chunks = good_chunk(shape, output.target.dtype.itemsize, 0)
    chunk = tuple(max(1, min(c, n)) for c, n in zip(chunks, shape, strict=True))
    return Chunking(chunk, (output.compression and Compression.parse(output.compression)) or None)


def task_log(path: Path) -> Path:
    """The log of a task file."""
    return path.with_suffix(".packed")


def _new_dataset(
    file: h5py.File, digest: str, output: Output, shape: tuple[int, ...]
) -> h5py.Dataset:
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    # HDF5 knows no chunks of a scalar, or of nothing.
    if output.chunks is not None and shape and 0 not in shape:
        chunking_of(output, shape).add_to(dcpl)
    dcpl.set_fill_time(h5py.h5d.FILL_TIME_IFSET)
    dcpl.set_obj_track_times(False)
    htype = h5py.h5t.py_create(output.target.dtype, logical=True)
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.Dataset(h5py.h5d.create(file.id, output.name.encode(), htype, space, dcpl))
    dataset.attrs["plan"] = np.bytes_(digest)
    return dataset


class PackedTrialFiles(TrialFiles):
    """One file for each block, made in memory; see `hpcio.writers.Writer`."""

    def _write_file(self, path: str, block: int, data: np.ndarray) -> None:
        outputs = self._plan.outputs
        with in_memory_file() as f:
            for output, part in zip(outputs, split_record(outputs, block, data), strict=True):
                shape = output.target.shape_of(block)
                _new_dataset(f, self._plan.digest, output, shape)[...] = part.reshape(shape)
            write_image(f, path, mode=READABLE, sync=self._each)


class _Stream:
    """The values of one output, in the order of blocks, that wait for their chunk to be full."""

    def __init__(self, output: Output, nbytes: int) -> None:
        self.dtype = output.target.dtype
        chunking = chunking_of(output, (nbytes // self.dtype.itemsize,))
        self.size = chunking.chunk[0] * self.dtype.itemsize
        self.packer = Packer(chunking, self.dtype)
        self.number = 0  # of the chunk at hand
        self.held = bytearray()
        self.unlogged = False


class PackedTaskFiles:
    """One file for each batch of blocks, of packed chunks; see `hpcio.writers.Writer`."""

    def __init__(self, plan: Plan, attempt: str) -> None:
        self._plan, self._attempt = plan, attempt
        self._sizes = sizes_of_parts([output.target for output in plan.outputs])
        self._file = -1
        self._fd = -1
        self._names = NewNames()
        self._streams: list[_Stream] = []

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        """Finish the file before, begin the log of the next."""
        self._finish()
        self._file += 1
        self._places = places = Places(self._sizes, blocks)
        outputs = self._plan.outputs
        self._streams = [_Stream(o, n) for o, n in zip(outputs, places.nbytes, strict=True)]
        self._path = self._plan.run_directory / task_path(self._attempt, self._file)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(task_log(self._path), flags, 0o600)
        except OSError as error:
            raise as_output_error(error, self._path) from error
        self._names.add(self._path.parent)
        self._end = 0
        journal.append(FILE, file=self._file, nbytes=sum(places.nbytes))
        if self._plan.several:
            note_places(journal, self._file, blocks)

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        """Pack the chunks that are full now."""
        raw, at = data.reshape(-1).view(np.uint8), 0
        starts = self._places.inside(block)
        for k, (start, (_, size)) in enumerate(zip(starts, self._places.of(block), strict=True)):
            self._take(k, start, raw[at : at + size])
            at += size
        return self._file, self._places.offset_of(block)

    def _take(self, k: int, start: int, data: np.ndarray) -> None:
        """Pack the chunks of one output that are full by its next bytes, which begin at `start`."""
        stream = self._streams[k]
        if start // stream.size > stream.number:  # the blocks before have failed
            self._log_rest(k)
            stream.number, stream.held = start // stream.size, bytearray()
        stream.held += bytes(start - stream.number * stream.size - len(stream.held))
        stream.held += data.tobytes()
        stream.unlogged = stream.unlogged or data.nbytes > 0
        while len(stream.held) >= stream.size:
            self._log(k, memoryview(stream.held)[: stream.size])
            stream.held = stream.held[stream.size :]
            stream.number += 1
            stream.unlogged = bool(stream.held)

    def _log_rest(self, k: int) -> None:
        """Log the last chunk of an output as far as it is filled."""
        if self._streams[k].unlogged:
            self._log(k, memoryview(self._streams[k].held))
            self._streams[k].unlogged = False

    def _log(self, k: int, values: memoryview) -> None:
        stream = self._streams[k]
        mask, packed = stream.packer.pack(np.frombuffer(values, stream.dtype))
        number = stream.number * len(self._streams) + k
        check = _sum_of(number, mask, packed)
        write_at(self._fd, _HEAD.pack(number, mask, len(packed), check) + packed, self._end)
        self._end += _HEAD.size + len(packed)

    def mark_failed(self, block: int) -> None:
        """Do nothing: nothing waits for that block."""

    @property
    def is_flushed(self) -> bool:
        """Whether all results so far are in the log."""
        return not any(stream.unlogged for stream in self._streams)

    def flush(self) -> None:
        """Log the last chunks as far as they are filled."""
        for k in range(len(self._streams)):
            self._log_rest(k)

    def prepare_sync(self) -> Callable[[], None]:
        """A function that brings the log to the disk; files made of earlier logs are there."""
        if self._fd < 0:
            return lambda: None
        fd = os.dup(self._fd)  # the log may be closed meanwhile
        names = self._names.take()

        def bring() -> None:
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            names()

        return bring

    def _finish(self) -> None:
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        for stream in self._streams:
            stream.packer.close()
        self._streams = []
        try:
            _make_file(self._plan, self._path, self._path, self._places.nbytes)
            task_log(self._path).unlink()
        except (OSError, RuntimeError) as error:
            raise as_output_error(error, self._path) from error

    def close(self) -> None:
        """Make a file of the last log, if that is possible."""
        try:
            self._finish()
        except (HpcioError, OSError, RuntimeError):
            pass  # the log holds all that the file would


# ---------------------------------------------------------------------- logs


@dataclass(frozen=True)
class Entry:
    """Where the log has a chunk."""

    offset: int
    size: int
    mask: int


def _sum_of(number: int, mask: int, packed: bytes) -> int:
    """The checksum of a chunk in a log, and of all that is said of it.

    By another filter mask HDF5 would take packed bytes for values.
    """
    return checksum(packed, (number ^ (mask << 32)) & (2**64 - 1))


def entries_of(fd: int) -> dict[int, Entry]:
    """The chunks of a log up to the first that is torn; what is logged last counts."""
    found: dict[int, Entry] = {}
    at = 0
    while len(head := os.pread(fd, _HEAD.size, at)) == _HEAD.size:
        number, mask, size, check = _HEAD.unpack(head)
        at += _HEAD.size
        if size > os.fstat(fd).st_size - at:
            break
        if _sum_of(number, mask, os.pread(fd, size, at)) != check:
            break
        found[number] = Entry(at, size, mask)
        at += size
    return found


def _make_file(plan: Plan, path: Path, final: Path, sizes: Sequence[int]) -> None:
    """Make an HDF5 file of the log of a task file: complete under its final name, or not at all.

    `sizes` are the bytes of each of its datasets.
    """
    part = final.with_suffix(f".{secrets.token_hex(4)}.part")
    fd = os.open(task_log(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        entries = entries_of(fd)
        check_room(final, sum(e.size for e in entries.values()) + _SPARE)
        with h5py.File(part, "x", libver=("v110", "v110"), locking=False) as f:
            made = [_Made(f, plan, *each) for each in zip(plan.outputs, sizes, strict=True)]
            for number, entry in sorted(entries.items()):
                place, k = divmod(number, len(made))
                made[k].add(place, os.pread(fd, entry.size, entry.offset), entry.mask)
        sync(part)
        os.rename(part, final)
        sync(final.parent)
    finally:
        os.close(fd)
        part.unlink(missing_ok=True)


class _Made:
    """The dataset that is made of the chunks of one output in a log."""

    def __init__(self, file: h5py.File, plan: Plan, output: Output, nbytes: int) -> None:
        length = nbytes // output.target.dtype.itemsize
        self._length = chunking_of(output, (length,)).chunk[0]
        self._dataset = _new_dataset(file, plan.digest, output, (length,))

    def add(self, place: int, packed: bytes, mask: int) -> None:
        first, dataset = place * self._length, self._dataset
        if dataset.chunks is not None:
            dataset.id.write_direct_chunk((first,), packed, filter_mask=mask)
            return
        values = np.frombuffer(packed, dataset.dtype)[: dataset.shape[0] - first]
        dataset[first : first + values.size] = values


def task_file(plan: Plan, path: Path, sizes: Sequence[int]) -> Path:
    """The HDF5 file of a task file; if its writer was killed, one that is made of its log.

    That file gets a name of its own: the writer may still live, and make a file itself.
    """
    if path.exists():
        return path
    made = path.with_suffix(f".{secrets.token_hex(4)}.h5")
    try:
        _make_file(plan, path, made, sizes)
    except FileNotFoundError:
        return path  # finished meanwhile, or gone: `seal` says which
    except (OSError, RuntimeError) as error:
        if isinstance(error, HpcioError):
            raise
        raise as_output_error(error, made) from error
    return made


def seal(path: Path, name: str) -> tuple[int, int, int]:
    """Size of a source, and length and checksum of its first bytes: they identify it later."""
    try:
        with path.open("rb") as f:
            size = os.fstat(f.fileno()).st_size
            head = f.read(min(HEADER, size))
    except OSError as error:
        raise ResultError(
            error.errno, f"The part '{name}' cannot be read ({error.strerror}). Resume the run."
        ) from error
    return size, len(head), checksum(head)
