"""Virtual sources: HDF5 files that attempts write, for the writer `virtual`.

``sources="trial"``
    One file for each block, as the reference does. One call writes it with its header image.
``sources="task"``
    One preallocated file for each batch. It holds the results of the blocks back to back, as
    one dataset of one axis; the virtual dataset gives them their shape. Of several results of a
    call, there is such a dataset for each. Who has the places of all blocks of a file finds each.

Every attempt writes under its own name, so that two attempts at a block never meet.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from hpcio.errors import ResultError, as_output_error, as_read_error, is_of_disk
from hpcio.files import (
    READABLE_FOLDER,
    Layout,
    NewNames,
    Slab,
    checksum,
    copy_out_of_reach,
    layout,
    layout_of,
    read_at,
    sync_file_system,
    try_lock,
    unlock,
    write_file,
)
from hpcio.journals import DONE, FILE, PLACES, Journal, JournalRecords, Ledger
from hpcio.layout import sizes_of_parts
from hpcio.machine import is_local
from hpcio.planning import Plan
from hpcio.writers.backend import Unbuffered

__all__ = [
    "Piece",
    "Places",
    "TaskFiles",
    "TaskFilesOfSeveral",
    "TaskReader",
    "TaskReaderOfSeveral",
    "TrialFiles",
    "TrialReader",
    "defect_of",
    "full_files",
    "note_places",
    "out_of_reach",
    "places_in",
    "task_path",
    "task_pieces",
    "trial_path",
    "trial_pieces",
]

# Every file system lists a folder of some thousand files well.
FILES_PER_FOLDER = 4096


def task_path(attempt: str, file: int) -> str:
    """Where an attempt keeps a file of many results, in the run directory."""
    return f"sources/{attempt}-{file}.h5"


def trial_path(attempt: str, block: int) -> str:
    """Where an attempt keeps one result, in the run directory."""
    return f"sources/{block // FILES_PER_FOLDER:04d}/{block:07d}-{attempt}.h5"


def _task_layout(plan: Plan, sizes: Sequence[int], digest: str) -> Layout:
    """The layout of a file of many blocks, given the bytes of each of its datasets."""
    if len(sizes) == 1 and not plan.several:
        dtype = plan.target.dtype
        return layout((sizes[0] // dtype.itemsize,), dtype, digest=digest)
    datasets = [
        (output.name, (nbytes // output.target.dtype.itemsize,), output.target.dtype)
        for output, nbytes in zip(plan.several, sizes, strict=True)
    ]
    return layout_of(tuple(datasets), digest=digest)


def _trial_layout(plan: Plan, block: int, digest: str) -> Layout:
    if plan.several:
        named = [(o.name, o.target.shape_of(block), o.target.dtype) for o in plan.several]
        return layout_of(tuple(named), digest=digest)
    return layout(plan.target.shape_of(block), plan.target.dtype, digest=digest)


# ---------------------------------------------------------------------- writing


class TaskFiles(Unbuffered):
    """One file for each batch; see `hpcio.writers.Writer`."""

    def __init__(self, plan: Plan, attempt: str) -> None:
        self._plan, self._attempt = plan, attempt
        self._sizes = sizes_of_parts([output.target for output in plan.outputs])
        self._slabs: list[Slab] = []  # the last one is written to, the others await their sync
        self._file = -1
        self._next = 0
        self._names = NewNames()

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        self._file += 1
        self._next = 0
        sizes = self._sizes[:, blocks].sum(axis=1).tolist()
        file_layout = _task_layout(self._plan, sizes, self._plan.digest)
        path = self._plan.run_directory / task_path(self._attempt, self._file)
        try:
            self._slabs.append(Slab(path, file_layout))
        except OSError as error:
            raise as_output_error(error, path) from error
        self._names.add(path.parent)
        journal.append(FILE, file=self._file, offset=file_layout.offset, nbytes=file_layout.nbytes)

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        offset = self._next
        self._slabs[-1].write(data, offset)
        self._next = offset + data.nbytes
        return self._file, offset

    def prepare_sync(self) -> Callable[[], None]:
        slabs = list(self._slabs)
        self._slabs = slabs[-1:]
        names = self._names.take()

        def sync() -> None:
            for slab in slabs:
                slab.sync()
            for slab in slabs[:-1]:
                slab.close()
            names()

        return sync

    def close(self) -> None:
        for slab in self._slabs:
            slab.close()
        self._slabs = []


class TaskFilesOfSeveral(TaskFiles):
    """One file for each batch, with a dataset for each result of a call."""

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        super().begin(blocks, journal)
        note_places(journal, self._file, blocks)
        self._places = Places(self._sizes, blocks)

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        at, slab, view = 0, self._slabs[-1], data.data
        for start, nbytes in self._places.of(block):
            slab.write(view[at : at + nbytes], start)
            at += nbytes
        return self._file, self._places.offset_of(block)


class Places:
    """Where the results of blocks lie in a file that has a dataset for each of them.

    Parameters
    ----------
    sizes : numpy.ndarray of int, shape (outputs, B)
        Bytes of the results of all blocks of the plan.
    blocks : numpy.ndarray of int, shape (n,), ascending
        Those of the file.
    """

    def __init__(self, sizes: np.ndarray, blocks: np.ndarray) -> None:
        self.blocks, sizes = blocks, sizes[:, blocks]
        self.nbytes: list[int] = sizes.sum(axis=1).tolist()
        self._inside = (np.cumsum(sizes, axis=1) - sizes).T
        start = self._inside + (np.cumsum(self.nbytes) - self.nbytes)
        self._regions = np.stack([start, sizes.T], axis=-1)
        records = sizes.sum(axis=0)
        self._offsets = np.cumsum(records) - records
        self._last = -1  # blocks are asked for in their order, mostly

    def _index(self, block: int) -> int:
        k = self._last
        if k >= 0 and self.blocks[k] == block:
            return k
        k += 1
        if k == self.blocks.size or self.blocks[k] != block:
            k = int(np.searchsorted(self.blocks, block))
            if k == self.blocks.size or self.blocks[k] != block:
                raise ValueError(f"block {block} has no place in the file")
        self._last = k
        return k

    def of(self, block: int) -> list[list[int]]:
        """The first byte of each result of a block, from the first of the data on, and its size."""
        regions: list[list[int]] = self._regions[self._index(block)].tolist()
        return regions

    def inside(self, block: int) -> tuple[int, ...]:
        """The first byte of each result of a block in its dataset."""
        return tuple(self._inside[self._index(block)].tolist())

    def offset_of(self, block: int) -> int:
        """The bytes of all blocks of the file before a block."""
        return int(self._offsets[self._index(block)])


def note_places(journal: Journal, file: int, blocks: np.ndarray) -> None:
    """Note which blocks have places in a file; `places_in` reads it."""
    cuts = np.flatnonzero(np.diff(blocks) != 1) + 1
    runs = [(run[0], run[-1] + 1) for run in np.split(blocks, cuts)]
    journal.note(PLACES, -1, np.asarray(runs, "<i8").tobytes(), file=file)


def places_in(log: JournalRecords, sizes: np.ndarray) -> dict[int, Places]:
    """The places in each file of an attempt, but for those whose note is lost."""
    found = {}
    for record in log.records[log.records["kind"] == PLACES]:
        runs = np.frombuffer(log.note(record), "<i8").reshape(-1, 2).tolist()
        if runs:
            blocks = np.concatenate([np.arange(first, last) for first, last in runs])
            found[int(record["file"])] = Places(sizes, blocks)
    return found


class TrialFiles(Unbuffered):
    """One file for each block; see `hpcio.writers.Writer`."""

    def __init__(self, plan: Plan, attempt: str) -> None:
        self._plan, self._attempt = plan, attempt
        self._root = f"{plan.run_directory}/"
        _, first = np.unique(plan.target.shape_index, return_index=True)
        self._shapes = {
            int(plan.target.shape_index[b]): _trial_layout(plan, b, plan.digest)
            for b in first.tolist()
        }
        self._shape_index = plan.target.shape_index
        # A sync of the whole file system reaches no server; there each file is synced by itself.
        self._each = not is_local(self._root)
        # Open all the time: so it reports every error since, even if others were told of it.
        try:
            self._fd = os.open(self._root, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise as_output_error(error, self._root) from error
        self._names = NewNames()
        self._at_hand: set[Path] = set()  # folders in which the batch makes files

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        self._at_hand = set()
        for shard in sorted(set((blocks // FILES_PER_FOLDER).tolist())):
            folder = Path(self._root, trial_path("", shard * FILES_PER_FOLDER)).parent
            try:
                folder.mkdir(mode=READABLE_FOLDER, exist_ok=True)
            except OSError as error:
                raise as_output_error(error, folder) from error
            self._at_hand |= {folder, folder.parent}
        self._names.add(*self._at_hand)

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        self._write_file(self._root + trial_path(self._attempt, block), block, data)
        return 0, 0

    def _write_file(self, path: str, block: int, data: np.ndarray) -> None:
        write_file(path, self._shapes[int(self._shape_index[block])], data, sync=self._each)

    def prepare_sync(self) -> Callable[[], None]:
        names = self._names.take()
        self._names.add(*self._at_hand)  # there will be more
        if self._each:
            return names
        # One call syncs all files since the last one, and their names. An `fsync` of each would
        # cost a hundred times as much as writing a small file.
        return lambda: sync_file_system(self._fd, self._root)

    def close(self) -> None:
        os.close(self._fd)


# ---------------------------------------------------------------------- reading back


class _SourceReader:
    """Reads the results of one attempt as plain bytes, where its journal says they are."""

    def __init__(self, plan: Plan, records: JournalRecords) -> None:
        self._plan, self._attempt, self._digest = plan, records.attempt, records.plan
        self._open: tuple[str, int] | None = None

    def _place(self, record: np.void) -> tuple[str, int]:
        """File of a block, in the run directory, and its first byte there; -1 if unknown."""
        raise NotImplementedError

    def read(self, record: np.void) -> np.ndarray | None:
        """The bytes of one block; None if its file is missing or too short."""
        path, start = self._place(record)
        data = np.empty(int(record["nbytes"]), np.uint8)
        try:
            fd = self._descriptor(path)
            return data if start >= 0 and read_at(fd, data, start) else None
        except FileNotFoundError:
            return None
        except OSError as error:
            raise as_read_error(error, self._plan.run_directory / path) from error

    def intact(self, record: np.void) -> bool:
        """Whether the bytes of one block are those that were journalled."""
        data = self.read(record)
        return data is not None and checksum(data) == int(record["checksum"])

    def _are_ours(self, paths: Sequence[str], shapes: Sequence[Layout]) -> np.ndarray:
        folder = os.fspath(self._plan.run_directory)
        defects = [
            defect_of(f"{folder}/{path}", shape.size, shape.offset, checksum(shape.header))
            for path, shape in zip(paths, shapes, strict=True)
        ]
        for path, defect in zip(paths, defects, strict=True):
            # What a disk fails to read is there: its blocks need not be computed again.
            if defect is not None and is_of_disk(defect):
                raise as_read_error(defect, f"{folder}/{path}") from defect
        return np.asarray([defect is None for defect in defects], bool)

    def _descriptor(self, path: str) -> int:
        if self._open is None or self._open[0] != path:
            self.close()
            fd = os.open(self._plan.run_directory / path, os.O_RDONLY | os.O_CLOEXEC)
            self._open = (path, fd)
        return self._open[1]

    def close(self) -> None:
        """Close the open file."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TrialReader(_SourceReader):
    """Reads files of one block each; see `hpcio.journals.StoredReader`."""

    def _place(self, record: np.void) -> tuple[str, int]:
        block = int(record["block"])
        shape = _trial_layout(self._plan, block, self._digest)
        return trial_path(self._attempt, block), shape.offset

    def there(self, records: np.ndarray) -> np.ndarray:
        blocks = records["block"].tolist()
        return self._are_ours(
            [trial_path(self._attempt, block) for block in blocks],
            [_trial_layout(self._plan, block, self._digest) for block in blocks],
        )


class TaskReader(_SourceReader):
    """Reads files of many blocks; see `hpcio.journals.StoredReader`."""

    def __init__(self, plan: Plan, records: JournalRecords) -> None:
        super().__init__(plan, records)
        files = records.records[records.records["kind"] == FILE]
        self._starts = {int(r["file"]): int(r["offset"]) for r in files}
        self._sizes = {int(r["file"]): int(r["nbytes"]) for r in files}

    def _place(self, record: np.void) -> tuple[str, int]:
        file = int(record["file"])
        start = self._starts.get(file)
        path = task_path(self._attempt, file)
        return path, -1 if start is None else start + int(record["offset"])

    def there(self, records: np.ndarray) -> np.ndarray:
        files, which = np.unique(records["file"], return_inverse=True)
        ours = self._are_ours(
            [task_path(self._attempt, file) for file in files.tolist()],
            [
                _task_layout(self._plan, [self._sizes.get(file, 0)], self._digest)
                for file in files.tolist()
            ],
        )
        found: np.ndarray = ours[which]
        return found


class TaskReaderOfSeveral(_SourceReader):
    """Reads files of many blocks, of several results each; see `hpcio.journals.StoredReader`."""

    def __init__(self, plan: Plan, records: JournalRecords) -> None:
        super().__init__(plan, records)
        self._places = places_in(records, sizes_of_parts([o.target for o in plan.several]))

    def _layout(self, file: int) -> Layout:
        return _task_layout(self._plan, self._places[file].nbytes, self._digest)

    def read(self, record: np.void) -> np.ndarray | None:
        file, block = int(record["file"]), int(record["block"])
        if file not in self._places:
            return None
        path, start = task_path(self._attempt, file), self._layout(file).offset
        data, at = np.empty(int(record["nbytes"]), np.uint8), 0
        try:
            fd = self._descriptor(path)
            for place, nbytes in self._places[file].of(block):
                if not read_at(fd, data[at : at + nbytes], start + place):
                    return None
                at += nbytes
        except FileNotFoundError:
            return None
        except OSError as error:
            raise as_read_error(error, self._plan.run_directory / path) from error
        return data

    def there(self, records: np.ndarray) -> np.ndarray:
        files, which = np.unique(records["file"], return_inverse=True)
        known = [file for file in files.tolist() if file in self._places]
        ours = self._are_ours(
            [task_path(self._attempt, file) for file in known], [*map(self._layout, known)]
        )
        good = {file for file, is_ours in zip(known, ours.tolist(), strict=True) if is_ours}
        found: np.ndarray = np.asarray([file in good for file in files.tolist()], bool)[which]
        return found


def defect_of(path: str, size: int, header: int, check: int) -> ResultError | None:
    """What is wrong with a part of a result: absent, of another size, or with another header.

    The error has its number, if the system has refused the file, and says no remedy.
    """
    try:
        # A pipe in its place must not hold us up.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            found = os.fstat(fd).st_size
            head = os.pread(fd, max(0, header), 0) if found == size else b""
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:  # a name that no file has
        why = getattr(error, "strerror", error)
        return ResultError(getattr(error, "errno", None), f"'{path}' cannot be read ({why})")
    if found != size:
        return ResultError(None, f"'{path}' has {found} bytes instead of {size}")
    if checksum(head) != check:
        return ResultError(None, f"'{path}' is not the file that was written for this result")
    return None


# ---------------------------------------------------------------------- what makes the result


@dataclass(frozen=True)
class Piece:
    """Blocks that one mapping of the virtual dataset covers.

    Attributes
    ----------
    first, last : int
        The blocks ``[first, last)``.
    path : str
        Their source, in the run directory.
    layout : Layout
        Layout of the source.
    offsets : tuple of int, or None
        Their first byte in each of its datasets, one for each output; None if they are all of it,
        in their own shape.
    sizes : tuple of int
        Bytes of each of its datasets, where there are offsets.
    """

    first: int
    last: int
    path: str
    layout: Layout
    offsets: tuple[int, ...] | None = None
    sizes: tuple[int, ...] = ()


def _done(ledger: Ledger) -> np.ndarray:
    return np.flatnonzero((ledger.state == DONE) & (ledger.plan.target.sizes() > 0))


def trial_pieces(ledger: Ledger) -> Iterator[Piece]:
    """A mapping for each block."""
    for block in _done(ledger).tolist():
        log = ledger.logs[ledger.log[block]]
        path = trial_path(log.attempt, block)
        yield Piece(block, block + 1, path, _trial_layout(ledger.plan, block, log.plan))


def task_pieces(ledger: Ledger) -> Iterator[Piece]:
    """As few mappings as possible: each costs a virtual dataset time and memory.

    Consecutive blocks that lie back to back both in a source and in the result share one.
    """
    done = _done(ledger)
    if not done.size:
        return
    log, files = ledger.log[done], ledger.values_of("file", done)
    offset = ledger.values_of("offset", done)
    joined = log[1:] == log[:-1]
    joined &= files[1:] == files[:-1]
    joined &= np.diff(done) == 1
    plan = ledger.plan
    if not plan.several:  # which lie back to back where they have places in one file
        joined &= np.diff(offset) == ledger.values_of("nbytes", done)[:-1]
    if not all(output.target.in_rows for output in plan.outputs):
        joined[:] = False
    sizes = _sizes_of_files(ledger)
    parts = sizes_of_parts([output.target for output in plan.outputs])
    places = [places_in(one, parts) for one in ledger.logs] if plan.several else []
    first = np.concatenate([[0], np.flatnonzero(~joined) + 1])
    last = np.concatenate([first[1:], [done.size]])
    for a, b in zip(first.tolist(), last.tolist(), strict=True):
        number, file = int(log[a]), int(files[a])
        by = ledger.logs[number]
        path, block = task_path(by.attempt, file), int(done[a])
        each: tuple[int, ...] = (sizes[number, file],)
        offsets: tuple[int, ...] = (int(offset[a]),)
        if plan.several:
            inside = places[number][file]
            each, offsets = tuple(inside.nbytes), inside.inside(block)
        shape = _task_layout(plan, each, by.plan)
        yield Piece(block, int(done[b - 1]) + 1, path, shape, offsets, each)


def full_files(ledger: Ledger) -> set[str]:
    """Files of many blocks that hold all of their results, so that nobody writes into them."""
    full, sizes = set(), _sizes_of_files(ledger)
    for i, log in enumerate(ledger.logs):
        done = log.records["kind"] == DONE
        of_file = log.records["file"][done]
        stored = np.zeros(int(of_file.max(initial=0)) + 1, np.int64)
        np.add.at(stored, of_file, log.records["nbytes"][done])
        for file, nbytes in enumerate(stored.tolist()):
            if nbytes == sizes.get((i, file)):
                full.add(task_path(log.attempt, file))
    return full


def out_of_reach(path: Path) -> Path:
    """A file of many blocks, or a copy of it if its writer may write into it yet.

    That writer has it locked as long as it is open, and never opens it again; see `Slab`. It may be
    an orphan of a session that was killed, or the slow copy of a task. Nobody waits for it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise as_output_error(error, path) from error
    try:
        if try_lock(fd, fcntl.LOCK_EX):
            return path
        copy = secrets.token_hex(4)
        made = path.with_suffix(f".{copy}.h5")
        copy_out_of_reach(fd, path, made, path.with_suffix(f".{copy}.part").name)
        return made
    finally:
        unlock(fd)


def _sizes_of_files(ledger: Ledger) -> dict[tuple[int, int], int]:
    """Bytes of the dataset of each file, by number of the journal and of the file."""
    return {
        (i, int(r["file"])): int(r["nbytes"])
        for i, one in enumerate(ledger.logs)
        for r in one.records[one.records["kind"] == FILE]
    }
