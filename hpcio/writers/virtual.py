"""The writer `virtual`: files of the workers, joined by one virtual dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from hpcio.errors import ResultError
from hpcio.files import Layout, checksum, keep_table, sync, sync_file_system, write_under_name
from hpcio.journals import DONE, JournalRecords, Ledger, StoredReader
from hpcio.layout import Output
from hpcio.machine import is_local
from hpcio.planning import Plan, WriterAbilities
from hpcio.writers import packed
from hpcio.writers.backend import Stored, Writer
from hpcio.writers.sources import (
    Piece,
    TaskFiles,
    TaskFilesOfSeveral,
    TaskReader,
    TaskReaderOfSeveral,
    TrialFiles,
    TrialReader,
    defect_of,
    full_files,
    out_of_reach,
    task_pieces,
    trial_pieces,
)
from hpcio.writers.unpacking import PackedReader

__all__ = ["VIRTUAL", "defects_of"]

SOURCE = [("size", "<i8"), ("header", "<i8"), ("check", "<u8")]


class _Virtual:
    """Joins files of attempts; see `hpcio.writers.Backend`."""

    abilities = WriterAbilities(makes_sources=True, compresses=True)

    def check_plan(self, plan: Plan) -> None:
        """Accept every plan."""

    def reserve(self, plan: Plan) -> None:
        """Do nothing: each attempt makes files of its own."""

    def open_writer(self, plan: Plan, attempt: str) -> Writer:
        if plan.sources == "trial":
            return (packed.PackedTrialFiles if plan.is_packed else TrialFiles)(plan, attempt)
        if plan.is_packed:
            return packed.PackedTaskFiles(plan, attempt)
        return (TaskFilesOfSeveral if plan.several else TaskFiles)(plan, attempt)

    def open_reader(self, plan: Plan, records: JournalRecords) -> StoredReader:
        if plan.is_packed:
            return PackedReader(plan, records)
        if plan.several and plan.sources == "task":
            return TaskReaderOfSeveral(plan, records)
        return (TrialReader if plan.sources == "trial" else TaskReader)(plan, records)

    def publish(self, ledger: Ledger, fill: Callable[[h5py.File], None], final: Path) -> None:
        plan = ledger.plan
        write_under_name(
            fill, final, tag=plan.run_id, mode=plan.modes.result, replaces=plan.replaces
        )

    def add_data(self, ledger: Ledger, file: h5py.File, folder: Path) -> Stored:
        """Make the virtual dataset of each output in `file`, and the table of their sources.

        Sources are named relative to the folder where the result will lie.
        """
        plan = ledger.plan
        prefix = os.path.relpath(plan.run_directory, folder)
        made = _Mapped(plan, prefix)
        for piece in _pieces(ledger):
            made.add(piece)
        made.create(file)
        _bring_to_disk(ledger, made.paths)
        table = _table(plan, prefix, made.paths, made.layouts)
        for _, defect in defects_of(folder, table):
            raise ResultError(defect.errno, f"The part {defect.strerror}. Resume the run.")
        group = file["hpcio"]
        if plan.is_packed:
            used = dict.fromkeys(output.compression for output in plan.outputs)
            group.attrs["compression"] = np.bytes_(",".join(filter(None, used)))
        group["sources"] = table
        keep_table(group, "source_of_block", made.of_block)
        return Stored.blocks_of(ledger)


VIRTUAL = _Virtual()


def _pieces(ledger: Ledger) -> list[Piece]:
    plan = ledger.plan
    if plan.sources == "trial":
        return list(trial_pieces(ledger))
    pieces = list(task_pieces(ledger))
    paths = {piece.path: plan.run_directory / piece.path for piece in pieces}
    if not plan.is_packed:
        full = full_files(ledger)
        files = {p: path if p in full else out_of_reach(path) for p, path in paths.items()}
    else:  # each log that a killed writer has left becomes a file first
        sizes = {piece.path: piece.sizes for piece in pieces}
        files = {p: packed.task_file(plan, path, sizes[p]) for p, path in paths.items()}
    return [
        replace(piece, path=os.path.relpath(files[piece.path], plan.run_directory))
        for piece in pieces
    ]


def _bring_to_disk(ledger: Ledger, paths: list[str]) -> None:
    """Make sources outlive a crash of the machine before anything refers to them.

    Those of attempts that were killed after their last SYNC were read back, perhaps from memory.
    """
    root = ledger.plan.run_directory
    late = any((log.records["kind"][log.safe :] == DONE).any() for log in ledger.logs)
    if late and is_local(root):
        fd = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
        try:
            sync_file_system(fd, root)
        finally:
            os.close(fd)
    elif late:
        for path in paths:
            sync(root / path)
    # Folders between, too: a name is as safe as those of all folders on the way to it.
    folders = {os.path.dirname(path) for path in paths}
    folders |= {os.path.dirname(folder) for folder in folders} | {""}
    for folder in sorted(folders):
        sync(root / folder)


class _Mapped:
    """The virtual datasets of a result, which are made mapping by mapping."""

    def __init__(self, plan: Plan, prefix: str) -> None:
        self._prefix = prefix
        self._outputs = [_MappedOutput(k, output) for k, output in enumerate(plan.outputs)]
        self.paths: list[str] = []
        self.layouts: list[Layout] = []
        self.of_block = np.full(len(plan), -1, np.int32)

    def add(self, piece: Piece) -> None:
        if not self.paths or self.paths[-1] != piece.path:
            self.paths.append(piece.path)
            self.layouts.append(piece.layout)
        self.of_block[piece.first : piece.last] = len(self.paths) - 1
        # HDF5 would take a per cent sign in the name of a source for a pattern.
        name = os.path.join(self._prefix, piece.path).replace("%", "%%")
        for output in self._outputs:
            output.add(piece, os.fsencode(name))

    def create(self, file: h5py.File) -> None:
        for output in self._outputs:
            output.create(file)


class _MappedOutput:
    """The virtual dataset of one output."""

    def __init__(self, number: int, output: Output) -> None:
        self._number, self._target = number, output.target
        self._name = output.name.encode()
        self._space = h5py.h5s.create_simple(output.target.shape)
        self._dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        self._dcpl.set_fill_value(np.full(1, output.target.fill, output.target.dtype))

    def add(self, piece: Piece, source: bytes) -> None:
        start, count = self._region(piece)
        if 0 in count:
            return
        self._space.select_hyperslab(start, count)
        self._dcpl.set_virtual(self._space, source, self._name, self._inside(piece, count))

    def create(self, file: h5py.File) -> None:
        htype = h5py.h5t.py_create(self._target.dtype, logical=True)
        space = h5py.h5s.create_simple(self._target.shape)
        h5py.h5d.create(file.id, self._name, htype, space, self._dcpl)

    def _region(self, piece: Piece) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Start and count of the blocks in the result."""
        region = self._target.region(piece.first)
        start = tuple(s.start for s in region)
        count = [s.stop - s.start for s in region]
        if piece.last - piece.first > 1:
            count[0] = self._target.region(piece.last - 1)[0].stop - start[0]
        return start, tuple(count)

    def _inside(self, piece: Piece, count: tuple[int, ...]) -> h5py.h5s.SpaceID:
        """The part of the source that the blocks are."""
        target, k = self._target, self._number
        if piece.offsets is None:
            return h5py.h5s.create_simple(target.shape_of(piece.first))
        inside = h5py.h5s.create_simple((piece.sizes[k] // target.dtype.itemsize,))
        size = int(np.prod(count, dtype=np.int64))
        inside.select_hyperslab((piece.offsets[k] // target.dtype.itemsize,), (size,))
        return inside


def _table(plan: Plan, prefix: str, paths: list[str], layouts: list[Layout]) -> np.ndarray:
    """The table by which each source is recognized later."""
    relative = [os.fsencode(os.path.join(prefix, path)) for path in paths]
    width = max(map(len, relative), default=1)
    table = np.zeros(len(paths), [("path", f"S{width}"), *SOURCE])
    table["path"] = relative
    if not plan.is_packed:
        table["size"] = [shape.size for shape in layouts]
        table["header"] = [shape.offset for shape in layouts]
        table["check"] = [checksum(shape.header) for shape in layouts]
        return table
    # The size of a compressed file is not known beforehand; what is there now was read back, or
    # synced. Only HDF5 knows where in it the data lie.
    for k, path in enumerate(paths):
        source = plan.run_directory / path
        table[k] = (table[k]["path"], *packed.seal(source, os.fspath(source)))
    return table


def defects_of(folder: Path, table: np.ndarray) -> Iterator[tuple[Path, ResultError]]:
    """Each source that is not there, not whole, or not the one that was written, and why.

    HDF5 itself shows fill values for a missing source and says nothing.
    """
    for name, size, header, check in table.tolist():
        path = os.path.join(folder, os.fsdecode(name))
        defect = defect_of(path, size, header, check)
        if defect is not None:
            yield Path(path), defect
