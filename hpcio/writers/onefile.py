"""One ordinary dataset in one file, laid out once: what `direct`, `mutex` and `mpi` have in common.

HDF5 lays out the file before anybody starts, with all of its space reserved, and says where the
bytes of each block lie. Results that follow each other along the first axis make a contiguous
dataset; others make a chunked one, each block a chunk. How bytes get there, the writers know.

Until it is published the file is ``OUT.run/data.h5``, and says in an attribute that it is not
complete: zeros in it may be results, or places that nobody has written yet. Who publishes it,
alone, puts in what writers had to leave out, and compares every block with its checksum.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np

from hpcio.errors import OutputError, PlanError, ResultError
from hpcio.files.slab import (
    allocate,
    as_output_error,
    checksum,
    read_at,
    sparse_file,
    sync,
    write_at,
)
from hpcio.journals.journal import DONE, Log
from hpcio.planning.plan import Plan
from hpcio.writers import Stored

if TYPE_CHECKING:
    from hpcio.journals.ledger import Ledger

__all__ = [
    "PAGE",
    "SEAM",
    "ReadBack",
    "add_data",
    "check_plan",
    "data_file",
    "load_offsets",
    "publish",
    "read_seams",
    "reserve",
    "restore",
    "seams_file",
]

# What clients of network file systems may write at a time, at the most, in bytes.
PAGE = 64 << 10
# Before each seam: its offset in the file, its bytes, their checksum.
SEAM = struct.Struct("<qqQ")


def check_plan(plan: Plan) -> None:
    """Raise PlanError if the results of a plan do not make one plain dataset."""
    if not plan.target.in_rows and len({*plan.target.shapes}) > 1:
        raise PlanError(
            f"The writer '{plan.writer}' joins results of unequal shape along the first axis only. "
            "Use join_axis=0, join='stack', or writer='virtual'."
        )


def data_file(plan: Plan) -> Path:
    """The file with the data, before it is published."""
    return plan.rundir.data


def load_offsets(plan: Plan) -> np.ndarray:
    """Where each block begins in the file, in bytes, shape (B,)."""
    offsets: np.ndarray = np.load(plan.rundir.offsets)
    return offsets


def seams_file(plan: Plan, attempt: str) -> Path:
    """Where an attempt keeps what it could not write into the file."""
    return plan.rundir.sources / f"{attempt}.seams"


# ---------------------------------------------------------------------- before


def reserve(plan: Plan) -> None:
    """Make the file, with room for all results; by one process, before others start.

    Raises
    ------
    OutputError
        If the disk has not so much room, or HDF5 lays out the file in an unknown way.
    """
    folder = plan.run_directory
    if data_file(plan).exists() or Path(plan.out).exists():
        return
    part = folder / f"data.{secrets.token_hex(4)}.part"
    try:
        with _image(plan) as (image, offsets):
            size = os.fstat(image).st_size
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                allocate(fd, size, part)
                for first, last in _between(plan, offsets, size):
                    write_at(fd, os.pread(image, last - first, first), first)
                os.fsync(fd)
            finally:
                os.close(fd)
        np.save(plan.rundir.offsets, offsets)
        os.rename(part, data_file(plan))
        sync(folder)
    except OSError as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OutputError):
            raise
        raise as_output_error(error, part) from error


def restore(plan: Plan) -> None:
    """Put back what HDF5 needs around the data, as `reserve` wrote it, where that has changed.

    Nobody else may write into the file meanwhile.

    Raises
    ------
    OutputError
        If HDF5 lays the file out otherwise than it did before.
    """
    path = data_file(plan)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            with _image(plan) as (image, offsets):
                _check_offsets(plan, offsets)
                size = os.fstat(image).st_size
                if os.fstat(fd).st_size < size:
                    os.ftruncate(fd, size)
                for first, last in _between(plan, offsets, size):
                    piece = os.pread(image, last - first, first)
                    if os.pread(fd, last - first, first) != piece:
                        write_at(fd, piece, first)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise as_output_error(error, path) from error


@contextmanager
def _image(plan: Plan) -> Iterator[tuple[int, np.ndarray]]:
    """The file as it is before anybody has written into it, and where each block begins."""
    with sparse_file() as (path, image):
        with _laid_out(plan, path) as f:
            f.attrs["incomplete"] = "results are being written; see the folder it lies in"
            offsets = _offsets(plan, f)
        yield image, offsets


def _check_offsets(plan: Plan, found: np.ndarray) -> None:
    """Raise OutputError unless blocks lie where they did when the file was made."""
    if not np.array_equal(load_offsets(plan), found):
        raise OutputError(
            "HDF5 lays out the finished file otherwise than it did at first; was its version "
            "changed meanwhile? Resume with the version that began."
        )


@contextmanager
def _laid_out(plan: Plan, path: str) -> Iterator[h5py.File]:
    """A new file whose first object is the dataset, where it is in every file of the plan."""
    target = plan.target
    plain = plan.target.in_rows
    options: dict[str, Any] = {"libver": ("earliest" if plain else "v110", "v110")}
    if target.nbytes >= PAGE:
        options |= {"alignment_threshold": target.nbytes, "alignment_interval": PAGE}
    with h5py.File(path, "w", locking=False, **options) as f:
        dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if plain or not target.nbytes:
            dcpl.set_layout(h5py.h5d.CONTIGUOUS)
        else:
            dcpl.set_chunk(target.region_shape(0))
        dcpl.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        dcpl.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        dcpl.set_obj_track_times(False)
        dcpl.set_fill_value(np.full(1, target.fill, target.dtype))
        htype = h5py.h5t.py_create(target.dtype, logical=True)
        space = h5py.h5s.create_simple(target.shape)
        h5py.h5d.create(f.id, b"data", htype, space, dcpl)
        yield f


def _offsets(plan: Plan, file: h5py.File) -> np.ndarray:
    """Where each block begins in the file, in bytes, shape (B,)."""
    target, data = plan.target, file["data"]
    if not target.nbytes:
        return np.zeros(len(plan), np.int64)
    if plan.target.in_rows:
        row = target.nbytes // target.shape[0]
        offsets: np.ndarray = data.id.get_offset() + target.start * row
        return offsets
    chunk = data.chunks
    found = np.zeros(len(plan), np.int64)
    places: dict[tuple[int, ...], int] = {}
    if hasattr(data.id, "chunk_iter"):
        data.id.chunk_iter(lambda info: places.__setitem__(info.chunk_offset, info.byte_offset))
    else:  # HDF5 1.10
        for k in range(data.id.get_num_chunks()):
            info = data.id.get_chunk_info(k)
            places[info.chunk_offset] = info.byte_offset
    for b in range(len(plan)):
        found[b] = places[tuple(s.start for s in target.region(b))]
    if len(places) * int(np.prod(chunk)) * target.dtype.itemsize != target.nbytes:
        raise OutputError(
            f"HDF5 {h5py.version.hdf5_version} laid out a chunked dataset in a way that hpcio "
            "does not know. Use writer='virtual', and report this with the version."
        )
    return found


def _between(plan: Plan, offsets: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """All of the file but the data of blocks, as ``[first, last)`` of bytes."""
    sizes = plan.target.sizes()
    kept = sizes > 0
    order = np.argsort(offsets[kept], kind="stable")
    first, last = offsets[kept][order], (offsets + sizes)[kept][order]
    gaps = np.concatenate([[0], last]), np.concatenate([first, [size]])
    yield from zip(*(g[gaps[0] < gaps[1]].tolist() for g in gaps), strict=True)


# ---------------------------------------------------------------------- what was written


def read_seams(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each seam of an attempt, up to the first that is torn."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return
    at = 0
    while at + SEAM.size <= len(raw):
        offset, nbytes, check = SEAM.unpack_from(raw, at)
        data = raw[at + SEAM.size : at + SEAM.size + nbytes]
        if len(data) != nbytes or checksum(data) != check:
            return
        yield offset, data
        at += SEAM.size + nbytes


class ReadBack:
    """The results of one attempt, as they are in the file, or will be with its seams."""

    def __init__(self, plan: Plan, log: Log) -> None:
        before = data_file(plan)
        self._path = before if before.exists() else Path(plan.out)
        seams = sorted(read_seams(seams_file(plan, str(log.about["name"]))))
        self._at = np.asarray([offset for offset, _ in seams], np.int64)
        self._seams = [data for _, data in seams]
        self._longest = max(map(len, self._seams), default=0)
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._fd = -1
            return
        # What this client has cached may be older than what others have written.
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self._size = os.fstat(self._fd).st_size

    def there(self, records: np.ndarray) -> np.ndarray:
        """Whether the file is there, and as long as it was made."""
        if self._fd < 0:
            return np.zeros(records.size, bool)
        found: np.ndarray = records["offset"] + records["nbytes"] <= self._size
        return found

    def read(self, record: np.void) -> np.ndarray | None:
        """The bytes of one block; None if the file is missing or too short."""
        start, nbytes = int(record["offset"]), int(record["nbytes"])
        data = np.empty(nbytes, np.uint8)
        if self._fd < 0 or not read_at(self._fd, data, start):
            return None
        first = int(np.searchsorted(self._at, start - self._longest))
        last = int(np.searchsorted(self._at, start + nbytes))
        for at, seam in zip(self._at[first:last].tolist(), self._seams[first:last], strict=True):
            a, b = max(at, start), min(at + len(seam), start + nbytes)
            if a < b:
                data[a - start : b - start] = np.frombuffer(seam, np.uint8)[a - at : b - at]
        return data

    def intact(self, record: np.void) -> bool:
        """Whether the bytes of one block are those that were journalled."""
        data = self.read(record)
        return data is not None and checksum(data) == int(record["checksum"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


# ---------------------------------------------------------------------- the result


def _seams_that_count(ledger: Ledger, offsets: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of the parts of seams that are results of the attempt that counts."""
    order = np.argsort(offsets, kind="stable")
    first = offsets[order]
    last = first + ledger.plan.target.sizes()[order]
    owner = np.where(ledger.done, ledger.log, -1)[order]
    for i, log in enumerate(ledger.logs):
        for at, seam in read_seams(seams_file(ledger.plan, str(log.about["name"]))):
            here = slice(np.searchsorted(last, at, "right"), np.searchsorted(first, at + len(seam)))
            for a, b in zip(
                first[here][owner[here] == i], last[here][owner[here] == i], strict=True
            ):
                start = max(int(a), at)
                yield start, seam[start - at : int(b) - at]


def add_data(ledger: Ledger, file: h5py.File, folder: Path) -> Stored:
    """Put seams and gaps into the file, and see that every block is there as it was computed.

    Of two attempts at a block that gave different bytes, the one that wrote last counts.

    Raises
    ------
    ResultError
        If the bytes of a block are nobody's; it counts as not done from then on.
    """
    plan = ledger.plan
    path, offsets = data_file(plan), load_offsets(plan)
    _check_offsets(plan, _offsets(plan, file))
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for at, seam in _seams_that_count(ledger, offsets):
            write_at(fd, seam, at)
        for block in np.flatnonzero(ledger.state != DONE).tolist():
            shape = plan.target.shapes[int(plan.target.form[block])]
            write_at(fd, np.full(shape, plan.target.fill, plan.target.dtype), int(offsets[block]))
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        done = np.flatnonzero(ledger.state == DONE)
        found = np.zeros(len(plan), np.uint64)
        sizes = plan.target.sizes()
        for block in done.tolist():
            data = np.empty(int(sizes[block]), np.uint8)
            if read_at(fd, data, int(offsets[block])):
                found[block] = checksum(data)
    finally:
        os.close(fd)
    differ = done[found[done] != ledger.record["checksum"][done]]
    ledger, nobodys = ledger.with_what_is_there(differ, found)
    if nobodys.size:
        ledger.void(nobodys)
        raise ResultError(
            f"{nobodys.size} blocks in '{path}' are not what was computed, the first of them "
            f"block {nobodys[0]}: the disk has lost them, or another program wrote into the file. "
            "Resume the run: they are computed again."
        )
    return Stored.blocks_of(ledger)


def publish(ledger: Ledger, fill: Callable[[h5py.File], None], final: Path) -> None:
    """Write what HDF5 needs to know around the data, and give the file its name."""
    plan = ledger.plan
    path, offsets = data_file(plan), load_offsets(plan)
    with sparse_file() as (name, image):
        with _laid_out(plan, name) as f:
            fill(f)
        size = os.fstat(image).st_size
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size < size:
                os.ftruncate(fd, size)
            # The beginning last: until then the file is what it was.
            for first, last in reversed([*_between(plan, offsets, size)]):
                write_at(fd, os.pread(image, last - first, first), first)
                os.fsync(fd)
        finally:
            os.close(fd)
    path.chmod(0o666 & ~_umask())
    os.rename(path, final)


def _umask() -> int:
    found = os.umask(0o077)
    os.umask(found)
    return found
