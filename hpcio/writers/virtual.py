"""The writer `virtual`: workers write HDF5 files of their own, joined in one virtual dataset.

``sources="trial"``
    One file for each block, as the reference has it, written in one call by its header image.
``sources="task"``
    One preallocated file for each chunk, holding the results of its blocks back to back as
    one dataset of one axis; the virtual dataset gives them their shape.

Every attempt writes under its own name, so that two attempts at a block never meet.
"""

from __future__ import annotations

import ctypes
import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

import h5py
import numpy as np

from hpcio.errors import ResultError
from hpcio.files.slab import (
    Layout,
    Slab,
    as_output_error,
    checksum,
    in_memory_file,
    layout,
    read_at,
    write_file,
    write_image,
)
from hpcio.journals.journal import DONE, FILE, Journal, Log
from hpcio.machine.filesystems import is_local
from hpcio.planning.plan import Plan
from hpcio.writers import AtOnce, Stored, Writer, packed

if TYPE_CHECKING:
    from hpcio.journals.ledger import Ledger

__all__ = [
    "ReadBack",
    "add_data",
    "check_plan",
    "check_sources",
    "open_writer",
    "publish",
    "reserve",
]

# A folder of some thousand files is what every file system still lists well.
FILES_PER_FOLDER = 4096

SOURCE = [("size", "<i8"), ("header", "<i8"), ("check", "<u8")]


def check_plan(plan: Plan) -> None:
    """Anything goes."""


def reserve(plan: Plan) -> None:
    """Nothing: each attempt makes files of its own."""


def open_writer(plan: Plan, attempt: str) -> Writer:
    """The writer of one attempt."""
    if plan.sources == "trial":
        return TrialFiles(plan, attempt)
    if plan.chunks is not None:
        return packed.PackedTaskFiles(plan, attempt, _task_path)
    return TaskFiles(plan, attempt)


def _task_path(attempt: str, file: int) -> str:
    return f"sources/{attempt}-{file}.h5"


def _trial_path(attempt: str, block: int) -> str:
    return f"sources/{block // FILES_PER_FOLDER:04d}/{block:07d}-{attempt}.h5"


def _task_layout(plan: Plan, nbytes: int) -> Layout:
    dtype = plan.target.dtype
    return layout((nbytes // dtype.itemsize,), dtype, digest=plan.digest)


def _trial_layout(plan: Plan, block: int) -> Layout:
    shape = plan.target.shapes[int(plan.target.form[block])]
    return layout(shape, plan.target.dtype, digest=plan.digest)


class TaskFiles(AtOnce):
    """One file for each chunk."""

    def __init__(self, plan: Plan, attempt: str) -> None:
        self._plan, self._attempt = plan, attempt
        self._sizes = plan.target.sizes()
        self._slabs: list[Slab] = []  # the last one is written, those before await their sync
        self._file = -1
        self._next = 0

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        self._file += 1
        self._next = 0
        shape = _task_layout(self._plan, int(self._sizes[blocks].sum()))
        path = self._plan.run_directory / _task_path(self._attempt, self._file)
        try:
            self._slabs.append(Slab(path, shape))
        except OSError as error:
            raise as_output_error(error, path) from error
        journal.append(FILE, file=self._file, offset=shape.offset, nbytes=shape.nbytes)

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        offset = self._next
        self._slabs[-1].write(data, offset)
        self._next = offset + data.nbytes
        return self._file, offset

    def syncing(self) -> Callable[[], None]:
        slabs = list(self._slabs)
        self._slabs = slabs[-1:]

        def sync() -> None:
            for slab in slabs:
                slab.sync()
            for slab in slabs[:-1]:
                slab.close()

        return sync

    def close(self) -> None:
        for slab in self._slabs:
            slab.close()
        self._slabs = []


class TrialFiles(AtOnce):
    """One file for each block."""

    def __init__(self, plan: Plan, attempt: str) -> None:
        self._plan, self._attempt = plan, attempt
        self._root = f"{plan.run_directory}/"
        self._shapes = [
            layout(shape, plan.target.dtype, digest=plan.digest) for shape in plan.target.shapes
        ]
        self._form = plan.target.form
        self._syncfs = ctypes.CDLL(None, use_errno=True).syncfs
        # A call for all files reaches no server: there each is synced when it is written.
        self._each = not is_local(self._root)
        # Open all the time: it tells of every error since, also of those that others heard of.
        self._fd = os.open(self._root, os.O_RDONLY | os.O_CLOEXEC)

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        for shard in np.unique(blocks // FILES_PER_FOLDER).tolist():
            folder = Path(self._root, _trial_path("", shard * FILES_PER_FOLDER)).parent
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise as_output_error(error, folder) from error

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        path = self._root + _trial_path(self._attempt, block)
        if self._plan.chunks is not None:
            packed.image_of_block(self._plan, path, data, sync=self._each)
            return 0, 0
        write_file(path, self._shapes[self._form[block]], data, sync=self._each)
        return 0, 0

    def syncing(self) -> Callable[[], None]:
        return self._sync

    def _sync(self) -> None:
        # One call for all files since the last: an fsync for each costs a hundred times
        # what writing a small one does.
        if not self._each and self._syncfs(self._fd):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), self._root)

    def close(self) -> None:
        os.close(self._fd)


class ReadBack:
    """The results of one attempt, read as plain bytes by what its journal says."""

    def __init__(self, plan: Plan, log: Log) -> None:
        self._plan, self._attempt = plan, str(log.about["name"])
        files = log.records[log.records["kind"] == FILE]
        self._starts = {int(r["file"]): int(r["offset"]) for r in files}
        self._sizes = {int(r["file"]): int(r["nbytes"]) for r in files}
        self._open: tuple[str, int] | None = None
        self._packed: packed.PackedReadBack | None = None
        if plan.chunks is not None:
            self._packed = packed.PackedReadBack(plan, log, self._path_of)

    def _path_of(self, record: np.void) -> str:
        if self._plan.sources == "trial":
            return _trial_path(self._attempt, int(record["block"]))
        return _task_path(self._attempt, int(record["file"]))

    def there(self, records: np.ndarray) -> np.ndarray:
        """Whether the files of some blocks are there, as long as they were written, and ours."""
        if self._packed is not None:
            return self._packed.there(records)
        if self._plan.sources == "trial":
            shapes = (_trial_layout(self._plan, b) for b in records["block"].tolist())
            paths = (_trial_path(self._attempt, b) for b in records["block"].tolist())
            which = np.arange(records.size)
        else:
            files, which = np.unique(records["file"], return_inverse=True)
            shapes = (_task_layout(self._plan, self._sizes.get(f, 0)) for f in files.tolist())
            paths = (_task_path(self._attempt, f) for f in files.tolist())
        folder = self._plan.run_directory
        defects = [
            _defect(folder / path, shape.size, shape.offset, checksum(shape.header))
            for path, shape in zip(paths, shapes, strict=True)
        ]
        return np.asarray([defect is None for defect in defects], bool)[which]

    def read(self, record: np.void) -> np.ndarray | None:
        """The bytes of one block; None if its file is missing or too short."""
        if self._packed is not None:
            return self._packed.read(record)
        block, file = int(record["block"]), int(record["file"])
        path = self._path_of(record)
        if self._plan.sources == "trial":
            start = _trial_layout(self._plan, block).offset
        else:
            start = self._starts.get(file, -1)
        data = np.empty(int(record["nbytes"]), np.uint8)
        try:
            fd = self._descriptor(path)
        except FileNotFoundError:
            return None
        return data if start >= 0 and read_at(fd, data, start + int(record["offset"])) else None

    def intact(self, record: np.void) -> bool:
        """Whether the bytes of one block are those that were journalled."""
        data = self.read(record)
        return data is not None and checksum(data) == int(record["checksum"])

    def _descriptor(self, path: str) -> int:
        if self._open is None or self._open[0] != path:
            self.close()
            fd = os.open(self._plan.run_directory / path, os.O_RDONLY | os.O_CLOEXEC)
            self._open = (path, fd)
        return self._open[1]

    def close(self) -> None:
        """Let go of the file at hand."""
        if self._packed is not None:
            self._packed.close()
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---------------------------------------------------------------------- the result


def publish(ledger: Ledger, fill: Callable[[h5py.File], None], final: Path) -> None:
    """Write the finished file under its name: whole, or not at all."""
    token = ledger.plan.token
    part = final.with_name(f".{final.name}.{token}.{os.getpid()}.part")
    for left in final.parent.glob(f".{glob.escape(final.name)}.{token}.*.part"):
        left.unlink(missing_ok=True)  # by a run that was killed while it published
    try:
        # libver "v110" lets the group of details hold any number of attributes.
        with in_memory_file(libver=("earliest", "v110")) as f:
            fill(f)
            write_image(f, part)
        os.rename(part, final)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def add_data(ledger: Ledger, file: h5py.File, folder: Path) -> Stored:
    """Make the virtual dataset ``data`` in `file`, and the table of its sources.

    Parameters
    ----------
    ledger : Ledger
        Blocks that are not done become gaps: NaN, or zero for integers.
    file : h5py.File
        The result, open for writing.
    folder : pathlib.Path
        Where the result will lie: the sources are named relative to it.
    """
    plan = ledger.plan
    target = plan.target
    prefix = os.path.relpath(plan.run_directory, folder)
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    dcpl.set_fill_value(np.full(1, target.fill, target.dtype))
    whole = h5py.h5s.create_simple(target.shape)
    paths: list[str] = []
    shapes: list[Layout] = []
    of_block = np.full(len(plan), -1, np.int32)
    for first, last, path, shape, offset in _runs(ledger):
        if not paths or paths[-1] != path:
            paths.append(path)
            shapes.append(shape)
        of_block[first:last] = len(paths) - 1
        start, count = _region(plan, first, last)
        whole.select_hyperslab(start, count)
        if plan.sources == "trial":
            inside = h5py.h5s.create_simple(target.shapes[int(target.form[first])])
        else:
            inside = h5py.h5s.create_simple((shape.nbytes // target.dtype.itemsize,))
            size = int(np.prod(count, dtype=np.int64))
            inside.select_hyperslab((offset // target.dtype.itemsize,), (size,))
        # HDF5 takes a per cent sign in the name of a source as a pattern.
        name = os.path.join(prefix, path).replace("%", "%%")
        dcpl.set_virtual(whole, os.fsencode(name), b"data", inside)
    htype = h5py.h5t.py_create(target.dtype, logical=True)
    h5py.h5d.create(file.id, b"data", htype, h5py.h5s.create_simple(target.shape), dcpl)
    relative = [os.fsencode(os.path.join(prefix, p)) for p in paths]
    width = max(map(len, relative), default=1)
    table = np.zeros(len(paths), [("path", f"S{width}"), *SOURCE])
    table["path"] = relative
    group = file["hpcio"]
    if plan.chunks is None:
        table["size"] = [s.size for s in shapes]
        table["header"] = [s.offset for s in shapes]
        table["check"] = [checksum(s.header) for s in shapes]
    else:
        # Nobody knows before how long a compressed file gets: what is there is what was read
        # back, or synced. Where in it the data lie is for HDF5 to know.
        group.attrs["compression"] = np.bytes_(plan.compression or "")
        for k, path in enumerate(paths):
            source = plan.run_directory / path
            table[k] = (table[k]["path"], *packed.seal(source, os.fspath(source)))
    check_sources(folder, table)
    group["sources"] = table
    group["source_of_block"] = of_block
    return Stored.blocks_of(ledger)


def _runs(ledger: Ledger) -> Iterator[tuple[int, int, str, Layout, int]]:
    """Blocks that one mapping covers: first, last, path, layout of the file, byte offset.

    Consecutive blocks that lie back to back both in a source and in the result are one
    mapping: a virtual dataset costs time and memory for each.
    """
    plan, target = ledger.plan, ledger.plan.target
    done = np.flatnonzero((ledger.state == DONE) & (target.sizes() > 0))
    if not done.size:
        return
    names = [str(log.about["name"]) for log in ledger.logs]
    if plan.sources == "trial":
        for b in done.tolist():
            yield b, b + 1, _trial_path(names[ledger.log[b]], b), _trial_layout(plan, b), 0
        return
    record, log = ledger.record[done], ledger.log[done]
    joined = (
        (np.diff(done) == 1)
        & (np.diff(log) == 0)
        & (np.diff(record["file"].astype(np.int64)) == 0)
        & (np.diff(record["offset"]) == record["nbytes"][:-1])
    )
    if not target.in_rows:
        joined[:] = False
    sizes = {
        (i, int(r["file"])): int(r["nbytes"])
        for i, one in enumerate(ledger.logs)
        for r in one.records[one.records["kind"] == FILE]
    }
    found: dict[tuple[int, int], Path] = {}
    first = np.concatenate([[0], np.flatnonzero(~joined) + 1])
    last = np.concatenate([first[1:], [done.size]])
    for a, b in zip(first.tolist(), last.tolist(), strict=True):
        key = int(log[a]), int(record["file"][a])
        shape = _task_layout(plan, sizes[key])
        path = _task_path(names[key[0]], key[1])
        if plan.chunks is not None:
            if key not in found:
                found[key] = packed.task_file(plan, plan.run_directory / path, sizes[key])
            path = os.path.relpath(found[key], plan.run_directory)
        yield int(done[a]), int(done[b - 1]) + 1, path, shape, int(record["offset"][a])


def _region(plan: Plan, first: int, last: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start and count of consecutive blocks in the result."""
    region = plan.target.region(first)
    start = tuple(s.start for s in region)
    count = [s.stop - s.start for s in region]
    if last - first > 1:
        count[0] = plan.target.region(last - 1)[0].stop - start[0]
    return start, tuple(count)


def _defect(path: Path, size: int, header: int, check: int) -> ResultError | None:
    """What is wrong with a source: absent, of another size, or with another header."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        return ResultError(
            error.errno,
            f"The source '{path}' cannot be read ({error.strerror}). Move a result together "
            "with its folder OUT.run, or make one file of it first: hpcio repack",
        )
    try:
        found = os.fstat(fd).st_size
        remedy = "Restore it from a backup, or remove the result and resume the run."
        if found != size:
            return ResultError(f"The source '{path}' has {found} bytes instead of {size}. {remedy}")
        if checksum(os.pread(fd, header, 0)) != check:
            return ResultError(
                f"The source '{path}' is not the file that was written for this result. {remedy}"
            )
    finally:
        os.close(fd)
    return None


def check_sources(folder: Path, table: np.ndarray) -> None:
    """Raise ResultError unless every source is there, whole, and the one that was written.

    HDF5 itself fills the place of a missing source with zeros and says nothing.
    """
    for path, size, header, check in table.tolist():
        defect = _defect(folder / os.fsdecode(path), size, header, check)
        if defect is not None:
            raise defect
