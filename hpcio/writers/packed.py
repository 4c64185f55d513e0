"""Chunked and compressed sources of the writer `virtual`.

HDF5 keeps what it knows about chunks in memory until a file is closed, so a file whose writer was
killed cannot be read. Therefore a task file begins as a *log*: packed chunks back to back, each
after a head with its number and a checksum. They outlive the process as soon as they are written.
When all blocks of the file are there, HDF5 makes a file of the log, under another name. Only then
the log is removed. The process that publishes the result does the same for logs that were left.

All chunks are of one length, so blocks lie across their edges. The last chunk, not full yet, is
held back for a second at most, then logged as it is. Of several entries with one number, the last
counts.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from hpcio.errors import (
    HpcioError,
    ResultError,
    SourceError,
    as_output_error,
    as_read_error,
    is_of_disk,
)
from hpcio.files import (
    READABLE,
    Chunking,
    Compression,
    NewNames,
    Packer,
    checksum,
    in_memory_file,
    load_filters,
    open_file,
    read_text,
    sync,
    write_at,
    write_image,
)
from hpcio.journals import FILE, Journal, JournalRecords
from hpcio.machine import check_room
from hpcio.planning import Plan
from hpcio.writers.sources import TrialFiles, task_path, trial_path

__all__ = [
    "PackedReader",
    "PackedTaskFiles",
    "PackedTrialFiles",
    "seal",
    "task_file",
]

# Number of the chunk, filter mask, size, checksum of number, mask and bytes.
_HEAD = struct.Struct("<qIQQ")
# So many bytes of a source are compared when a result is opened; HDF5 reads these first.
HEADER = 4096
# Free room that is left on the disk besides what is written: HDF5 may crash on a full disk.
_SPARE = 16 << 20


def chunking_of(plan: Plan, shape: tuple[int, ...]) -> Chunking:
    """The chunking of a source of a given shape."""
    assert plan.chunks is not None
    chunk = tuple(max(1, min(c, n)) for c, n in zip(plan.chunks, shape, strict=True))
    return Chunking(chunk, (plan.compression and Compression.parse(plan.compression)) or None)


def task_log(path: Path) -> Path:
    """The log of a task file."""
    return path.with_suffix(".packed")


def _new_dataset(
    file: h5py.File, plan: Plan, shape: tuple[int, ...], chunking: Chunking
) -> h5py.Dataset:
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if shape and 0 not in shape:  # HDF5 knows no chunks of a scalar, or of nothing
        chunking.add_to(dcpl)
    dcpl.set_fill_time(h5py.h5d.FILL_TIME_IFSET)
    dcpl.set_obj_track_times(False)
    htype = h5py.h5t.py_create(plan.target.dtype, logical=True)
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.Dataset(h5py.h5d.create(file.id, b"data", htype, space, dcpl))
    dataset.attrs["plan"] = np.bytes_(plan.digest)
    return dataset


class PackedTrialFiles(TrialFiles):
    """One file for each block, made in memory; see `hpcio.writers.Writer`."""

    def _write_file(self, path: str, block: int, data: np.ndarray) -> None:
        with in_memory_file() as f:
            dataset = _new_dataset(f, self._plan, data.shape, chunking_of(self._plan, data.shape))
            dataset[...] = data
            write_image(f, path, mode=READABLE, sync=self._each)


class PackedTaskFiles:
    """One file for each batch of blocks, of packed chunks; see `hpcio.writers.Writer`."""

    def __init__(self, plan: Plan, attempt: str) -> None:
        self._plan, self._attempt = plan, attempt
        self._sizes = plan.target.sizes()
        self._file = -1
        self._fd = -1
        self._names = NewNames()
        self._held = bytearray()
        self._packer: Packer | None = None

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        """Finish the file before, begin the log of the next."""
        self._finish()
        self._file += 1
        self._total = int(self._sizes[blocks].sum())
        length = self._total // self._plan.target.dtype.itemsize
        chunking = chunking_of(self._plan, (length,))
        self._chunk = chunking.chunk[0] * self._plan.target.dtype.itemsize
        self._packer = Packer(chunking, self._plan.target.dtype)
        self._path = self._plan.run_directory / task_path(self._attempt, self._file)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(task_log(self._path), flags, 0o600)
        except OSError as error:
            raise as_output_error(error, self._path) from error
        self._names.add(self._path.parent)
        self._end = self._next = self._number = 0
        self._unlogged = False
        journal.append(FILE, file=self._file, nbytes=self._total)

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        """Pack the chunks that are full now."""
        offset = self._next
        self._held += np.ascontiguousarray(data).tobytes()
        self._next += data.nbytes
        self._unlogged = self._unlogged or data.nbytes > 0
        while len(self._held) >= self._chunk:
            self._log(memoryview(self._held)[: self._chunk])
            self._held = self._held[self._chunk :]
            self._number += 1
            self._unlogged = bool(self._held)
        return self._file, offset

    def _log(self, values: memoryview) -> None:
        assert self._packer is not None
        array = np.frombuffer(values, self._plan.target.dtype)
        mask, packed = self._packer.pack(array)
        check = _sum_of(self._number, mask, packed)
        write_at(self._fd, _HEAD.pack(self._number, mask, len(packed), check) + packed, self._end)
        self._end += _HEAD.size + len(packed)

    def mark_failed(self, block: int) -> None:
        """Do nothing: nothing waits for that block."""

    @property
    def is_flushed(self) -> bool:
        """Whether all results so far are in the log."""
        return not self._unlogged

    def flush(self) -> None:
        """Log the last chunk as far as it is filled."""
        if self._unlogged:
            self._log(memoryview(self._held))
            self._unlogged = False

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
        self._held = bytearray()
        if self._packer is not None:
            self._packer.close()
            self._packer = None
        try:
            _make_file(self._plan, self._path, self._path, self._total)
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
class _Entry:
    """Where the log has a chunk."""

    offset: int
    size: int
    mask: int


def _sum_of(number: int, mask: int, packed: bytes) -> int:
    """The checksum of a chunk in a log, and of all that is said of it.

    By another filter mask HDF5 would take packed bytes for values.
    """
    return checksum(packed, (number ^ (mask << 32)) & (2**64 - 1))


def _entries(fd: int) -> dict[int, _Entry]:
    """The chunks of a log up to the first that is torn; what is logged last counts."""
    found: dict[int, _Entry] = {}
    at = 0
    while len(head := os.pread(fd, _HEAD.size, at)) == _HEAD.size:
        number, mask, size, check = _HEAD.unpack(head)
        at += _HEAD.size
        if size > os.fstat(fd).st_size - at:
            break
        if _sum_of(number, mask, os.pread(fd, size, at)) != check:
            break
        found[number] = _Entry(at, size, mask)
        at += size
    return found


def _make_file(plan: Plan, path: Path, final: Path, nbytes: int) -> None:
    """Make an HDF5 file of the log of a task file: complete under its final name, or not at all."""
    length = nbytes // plan.target.dtype.itemsize
    chunking = chunking_of(plan, (length,))
    part = final.with_suffix(f".{secrets.token_hex(4)}.part")
    fd = os.open(task_log(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        entries = _entries(fd)
        check_room(final, sum(e.size for e in entries.values()) + _SPARE)
        with h5py.File(part, "x", libver=("v110", "v110"), locking=False) as f:
            dataset = _new_dataset(f, plan, (length,), chunking)
            for number, entry in sorted(entries.items()):
                packed = os.pread(fd, entry.size, entry.offset)
                first = (number * chunking.chunk[0],)
                dataset.id.write_direct_chunk(first, packed, filter_mask=entry.mask)
        sync(part)
        os.rename(part, final)
        sync(final.parent)
    finally:
        os.close(fd)
        part.unlink(missing_ok=True)


def task_file(plan: Plan, path: Path, nbytes: int) -> Path:
    """The HDF5 file of a task file; if its writer was killed, one that is made of its log.

    That file gets a name of its own: the writer may still live, and make a file itself.
    """
    if path.exists():
        return path
    made = path.with_suffix(f".{secrets.token_hex(4)}.h5")
    try:
        _make_file(plan, path, made, nbytes)
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


class PackedReader:
    """The results of one attempt, from HDF5 files and from logs."""

    def __init__(self, plan: Plan, records: JournalRecords) -> None:
        self._plan, self._attempt, self._digest = plan, records.attempt, records.plan
        load_filters(plan.compression or "", plan.run_directory)
        files = records.records[records.records["kind"] == FILE]
        self._sizes = {int(r["file"]): int(r["nbytes"]) for r in files}
        self._path: Path | None = None
        self._file: h5py.File | None = None
        self._fd = -1

    def there(self, records: np.ndarray) -> np.ndarray:
        """Whether the files of some blocks can be read, and are ours."""
        return np.asarray([self._open(r) and self._covers(r) for r in records], bool)

    def read(self, record: np.void) -> np.ndarray | None:
        """The bytes of one block; None if its file is missing or cannot be read."""
        if not self._open(record) or not self._covers(record):
            return None
        itemsize = self._plan.target.dtype.itemsize
        first, count = int(record["offset"]) // itemsize, int(record["nbytes"]) // itemsize
        try:
            if self._file is None:
                values = self._from_log(first, count)
            elif self._plan.sources == "trial":
                values = self._file["data"][()]
            else:
                values = self._file["data"][first : first + count]
        except (OSError, RuntimeError) as error:  # a filter cannot make sense of a chunk
            if is_of_disk(error):
                raise as_read_error(error, self._path_of(record)) from error
            return None
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8)

    def intact(self, record: np.void) -> bool:
        """Whether the bytes of one block are those that were journalled."""
        data = self.read(record)
        return data is not None and checksum(data) == int(record["checksum"])

    def _path_of(self, record: np.void) -> str:
        if self._plan.sources == "trial":
            return trial_path(self._attempt, int(record["block"]))
        return task_path(self._attempt, int(record["file"]))

    def _covers(self, record: np.void) -> bool:
        """Whether the log has all chunks of a block; a file that was made of a log always has."""
        if self._file is not None:
            return True
        first, last = int(record["offset"]), int(record["offset"]) + int(record["nbytes"])
        return all(k in self._entries for k in range(first // self._size, -(-last // self._size)))

    def _from_log(self, first: int, count: int) -> np.ndarray:
        length = self._chunking.chunk[0]
        numbers = range(first // length, -(-(first + count) // length))
        with Packer(self._chunking, self._plan.target.dtype) as packer:
            chunks = [
                packer.unpack(e.mask, os.pread(self._fd, e.size, e.offset))
                for e in (self._entries[k] for k in numbers)
            ]
        begin = first - numbers.start * length
        empty = np.empty(0, self._plan.target.dtype)
        return np.concatenate([empty, *chunks])[begin : begin + count]

    def _open(self, record: np.void) -> bool:
        """Open the file of a block, or its log; whether there is one."""
        path = self._plan.run_directory / self._path_of(record)
        if path == self._path:
            return self._file is not None or self._fd >= 0
        self.close()
        self._path = path
        task = self._plan.sources == "task"
        shape = self._plan.target.shape_of(int(record["block"]))
        if task:
            nbytes = self._sizes.get(int(record["file"]), 0)
            shape = (nbytes // self._plan.target.dtype.itemsize,)
        try:
            file = open_file(path)
        except SourceError as error:
            # A file that a disk fails to read is there: its blocks need not be computed again.
            if is_of_disk(error):
                raise
            return task and self._open_log(path, shape)
        self._file = file
        try:
            data = file["data"]
            ours = (
                isinstance(data, h5py.Dataset)
                and data.shape == shape
                and data.dtype == self._plan.target.dtype
                and read_text(data, "plan") == self._digest
            )
        except (KeyError, OSError, RuntimeError, ValueError, TypeError) as error:
            if is_of_disk(error):
                raise as_read_error(error, path) from error
            ours = False
        if not ours:
            self._file = None
            file.close()
        return bool(ours)

    def _open_log(self, path: Path, shape: tuple[int, ...]) -> bool:
        try:
            self._fd = os.open(task_log(path), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise as_read_error(error, task_log(path)) from error
        self._chunking = chunking_of(self._plan, shape)
        self._size = self._chunking.chunk[0] * self._plan.target.dtype.itemsize
        self._entries = _entries(self._fd)
        return True

    def close(self) -> None:
        """Close what is open."""
        if self._file is not None:
            self._file.close()
        if self._fd >= 0:
            os.close(self._fd)
        self._path, self._file, self._fd = None, None, -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
