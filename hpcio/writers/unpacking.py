"""Reading back what was stored in chunks: from HDF5 files, or the logs that become such files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from hpcio.errors import SourceError, as_read_error, is_of_disk
from hpcio.files import Packer, checksum, load_filters, open_file, read_text
from hpcio.journals import FILE, JournalRecords
from hpcio.layout import sizes_of_parts
from hpcio.planning import Plan
from hpcio.writers.packed import chunking_of, entries_of, task_log
from hpcio.writers.sources import Places, places_in, task_path, trial_path

__all__ = ["PackedReader"]


class PackedReader:
    """The results of one attempt, from HDF5 files and from logs."""

    def __init__(self, plan: Plan, records: JournalRecords) -> None:
        self._plan, self._attempt, self._digest = plan, records.attempt, records.plan
        for output in plan.outputs:
            load_filters(output.compression or "", plan.run_directory)
        files = records.records[records.records["kind"] == FILE]
        self._sizes = {int(r["file"]): [int(r["nbytes"])] for r in files}
        self._parts = sizes_of_parts([output.target for output in plan.outputs])
        self._places: dict[int, Places] = {}
        if plan.several and plan.sources == "task":
            self._places = places_in(records, self._parts)
            self._sizes = {file: places.nbytes for file, places in self._places.items()}
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
        found = []
        try:
            for k, (first, size) in enumerate(self._inside(record)):
                itemsize = self._plan.outputs[k].target.dtype.itemsize
                values = self._values(k, first // itemsize, size // itemsize)
                found.append(np.ascontiguousarray(values).reshape(-1).view(np.uint8))
        except (OSError, RuntimeError) as error:  # a filter cannot make sense of a chunk
            if is_of_disk(error):
                raise as_read_error(error, self._path_of(record)) from error
            return None
        return np.concatenate(found)

    def intact(self, record: np.void) -> bool:
        """Whether the bytes of one block are those that were journalled."""
        data = self.read(record)
        return data is not None and checksum(data) == int(record["checksum"])

    def _path_of(self, record: np.void) -> str:
        if self._plan.sources == "trial":
            return trial_path(self._attempt, int(record["block"]))
        return task_path(self._attempt, int(record["file"]))

    def _inside(self, record: np.void) -> list[tuple[int, int]]:
        """The first byte of a block in each dataset of its file, and how many it has there."""
        block, sizes = int(record["block"]), self._parts[:, int(record["block"])].tolist()
        starts = (int(record["offset"]),) * len(sizes)  # of a file of one block, 0
        if places := self._places.get(int(record["file"])):
            starts = places.inside(block)
        return list(zip(starts, sizes, strict=True))

    def _values(self, k: int, first: int, count: int) -> np.ndarray:
        """Values of the dataset of one output."""
        if self._file is None:
            return self._from_log(k, first, count)
        dataset = self._file[self._plan.outputs[k].name]
        part = () if self._plan.sources == "trial" else slice(first, first + count)
        return np.asarray(dataset[part])

    def _covers(self, record: np.void) -> bool:
        """Whether the log has all chunks of a block; a file that was made of a log always has."""
        if self._file is not None:
            return True
        return all(
            number in self._entries
            for k, (first, size) in enumerate(self._inside(record))
            for number in self._numbers(k, first, first + size)
        )

    def _numbers(self, k: int, first: int, last: int) -> range:
        """The numbers in the log of the chunks of one output that hold bytes ``[first, last)``."""
        length, several = self._lengths[k], len(self._lengths)
        return range(first // length * several + k, -(-last // length) * several + k, several)

    def _from_log(self, k: int, first: int, count: int) -> np.ndarray:
        dtype = self._plan.outputs[k].target.dtype
        numbers = self._numbers(k, first * dtype.itemsize, (first + count) * dtype.itemsize)
        with Packer(self._chunkings[k], dtype) as packer:
            chunks = [
                packer.unpack(e.mask, os.pread(self._fd, e.size, e.offset))
                for e in (self._entries[number] for number in numbers)
            ]
        begin = first % self._chunkings[k].chunk[0]
        return np.concatenate([np.empty(0, dtype), *chunks])[begin : begin + count]

    def _open(self, record: np.void) -> bool:
        """Open the file of a block, or its log; whether there is one."""
        path = self._plan.run_directory / self._path_of(record)
        if path == self._path:
            return self._file is not None or self._fd >= 0
        self.close()
        shapes = self._shapes_of(record)
        if shapes is None:  # nobody knows what its places are
            return False
        self._path = path
        try:
            file = open_file(path)
        except SourceError as error:
            # A file that a disk fails to read is there: its blocks need not be computed again.
            if is_of_disk(error):
                raise
            return self._plan.sources == "task" and self._open_log(path, shapes)
        self._file = file
        try:
            ours = all(
                isinstance(data := file[output.name], h5py.Dataset)
                and data.shape == shape
                and data.dtype == output.target.dtype
                and read_text(data, "plan") == self._digest
                for output, shape in zip(self._plan.outputs, shapes, strict=True)
            )
        except (KeyError, OSError, RuntimeError, ValueError, TypeError) as error:
            if is_of_disk(error):
                raise as_read_error(error, path) from error
            ours = False
        if not ours:
            self._file = None
            file.close()
        return ours

    def _shapes_of(self, record: np.void) -> list[tuple[int, ...]] | None:
        """The shape of each dataset in the file of a block; None if that is not known."""
        targets = [output.target for output in self._plan.outputs]
        if self._plan.sources == "trial":
            return [target.shape_of(int(record["block"])) for target in targets]
        sizes = self._sizes.get(int(record["file"]))
        if sizes is None:
            return None
        return [(n // t.dtype.itemsize,) for n, t in zip(sizes, targets, strict=True)]

    def _open_log(self, path: Path, shapes: Sequence[tuple[int, ...]]) -> bool:
        try:
            self._fd = os.open(task_log(path), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise as_read_error(error, task_log(path)) from error
        pairs = list(zip(self._plan.outputs, shapes, strict=True))
        self._chunkings = [chunking_of(output, shape) for output, shape in pairs]
        self._lengths = [
            chunking.chunk[0] * output.target.dtype.itemsize
            for chunking, (output, _) in zip(self._chunkings, pairs, strict=True)
        ]
        self._entries = entries_of(self._fd)
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
