"""The common part of the writers of one ordinary file: `direct`, `mpi` and `mutex`.

The process that publishes the file, alone, puts in what writers had to leave out, and compares
every block with its checksum.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from hpcio.errors import OutputError, PlanError, ResultError
from hpcio.files import checksum, give_name, read_at, sparse_file, write_at
from hpcio.journals import JournalRecords, Ledger, StoredReader
from hpcio.machine import umask
from hpcio.onefile import preallocated
from hpcio.onefile.closing import closed, open_to_read, reopen
from hpcio.onefile.preallocated import (
    between,
    check_offsets,
    laid_out,
    load_offsets,
    offsets_of,
    opened,
    sizes_of_regions,
)
from hpcio.onefile.seams import read_seams, seams_file, seams_that_count
from hpcio.planning import Plan, WriterAbilities
from hpcio.writers import Stored

__all__ = ["OneFile", "Regions"]

# About so many bytes of blocks that follow each other are read at a time.
_TOGETHER = 1 << 20
# So many blocks are looked at at a time.
_AT_A_TIME = 1 << 16


class OneFile:
    """The part of a `hpcio.writers.Backend` that does not depend on how processes write."""

    abilities = WriterAbilities()

    def check_plan(self, plan: Plan) -> None:
        """Raise PlanError if the results of a plan do not make plain datasets."""
        for output in plan.outputs:
            if not output.target.in_rows and len({*output.target.shapes}) > 1:
                of = f"Of the result '{output.name}': " if plan.several else ""
                raise PlanError(
                    f"{of}The writer '{plan.writer}' joins results of unequal shape along the "
                    "first axis only. Use join_axis=0, join='stack', or writer='virtual'."
                )

    def reserve(self, plan: Plan) -> None:
        folder = os.path.dirname(plan.out)
        if os.stat(folder).st_dev != os.stat(plan.run_directory).st_dev:
            raise OutputError(
                f"'{plan.run_directory}' lies on another disk than '{plan.out}', so that the file "
                f"cannot get its name. Use writer='virtual' instead of '{plan.writer}'."
            )
        reopen(plan)
        preallocated.reserve(plan)

    def open_reader(self, plan: Plan, records: JournalRecords) -> StoredReader:
        return OneFileReader(plan, records)

    def add_data(self, ledger: Ledger, file: h5py.File, folder: Path) -> Stored:
        """Put seams and gaps into the file, and check that every block is there as it was computed.

        Of two attempts at a block that gave different bytes, the one that wrote last counts.

        Raises
        ------
        ResultError
            If no attempt wrote the bytes of a block; it counts as not done from then on.
        """
        plan = ledger.plan
        path, offsets = plan.rundir.closed, load_offsets(plan)
        check_offsets(plan, offsets_of(plan, file))
        done = np.flatnonzero(ledger.done)
        with opened(path, os.O_RDWR) as fd:
            _fill_in(fd, ledger, offsets)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            found = _checksums(fd, plan, done, offsets)
        differ = done[found[done] != ledger.values_of("checksum", done)]
        ledger, nobodys = ledger.with_what_is_there(differ, found)
        if nobodys.size:
            ledger.void(nobodys)
            raise ResultError(
                f"{nobodys.size} blocks in '{path}' are not what was computed, the first of "
                f"them block {nobodys[0]}: the disk has lost them, or another program wrote into "
                "the file. Resume the run: they are computed again."
            )
        return Stored.blocks_of(ledger)

    def publish(self, ledger: Ledger, fill: Callable[[h5py.File], None], final: Path) -> None:
        """Write what HDF5 needs to know around the data, and give the file its name."""
        plan = ledger.plan
        with closed(plan) as path, sparse_file() as (name, image):
            with laid_out(plan, name) as f:
                fill(f)
            size, offsets = os.fstat(image).st_size, load_offsets(plan)
            with opened(path, os.O_RDWR) as fd:
                if os.fstat(fd).st_size < size:
                    os.ftruncate(fd, size)
                # The beginning last: until then the file is what it was.
                for first, last in reversed([*between(plan, offsets, size)]):
                    write_at(fd, os.pread(image, last - first, first), first)
                    os.fsync(fd)
            path.chmod(plan.modes.result & ~umask())
            give_name(path, final, replaces=plan.replaces)


def _fill_in(fd: int, ledger: Ledger, offsets: np.ndarray) -> None:
    """Write the seams, and the fill value where there is no result."""
    for at, seam in seams_that_count(ledger, offsets):
        write_at(fd, seam, at)
    gaps, outputs = np.flatnonzero(~ledger.done).tolist(), ledger.plan.outputs
    for output, places in zip(outputs, offsets.reshape(len(outputs), -1), strict=True):
        target = output.target
        for block in gaps:
            gap = np.full(target.shape_of(block), target.fill, target.dtype)
            write_at(fd, gap, int(places[block]))


def _checksums(fd: int, plan: Plan, blocks: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Checksums of what is in the file, shape (B,); 0 for other blocks, and past its end."""
    found = np.zeros(len(plan), np.uint64)
    regions = Regions(plan, offsets)
    for some in regions.runs(blocks):
        data = regions.read_run(fd, some)
        if data is not None:
            found[some] = [checksum(each) for each in data]
            continue
        for k, block in enumerate(some):  # some of it is past the end of the file
            data = regions.read_run(fd, some[k : k + 1])
            found[block] = 0 if data is None else checksum(data[0])
    return found


class Regions:
    """Where the bytes of each block lie in the file: in one region, or in several."""

    def __init__(self, plan: Plan, offsets: np.ndarray) -> None:
        both = (offsets, sizes_of_regions(plan))
        self._start, self._size = (part.reshape(-1, len(plan)).T for part in both)

    def _of(self, blocks: np.ndarray | int) -> np.ndarray:
        """First byte and number of bytes of each region of blocks, shape (..., regions, 2)."""
        return np.stack([self._start[blocks], self._size[blocks]], axis=-1)

    def of(self, block: int) -> list[list[int]]:
        """First byte and number of bytes of each region."""
        regions: list[list[int]] = self._of(block).tolist()
        return regions

    def ends(self, blocks: np.ndarray) -> np.ndarray:
        """Where the last byte of each block lies, at the most, shape (n,)."""
        ends: np.ndarray = (self._start[blocks] + self._size[blocks]).max(axis=1)
        return ends

    def runs(self, blocks: np.ndarray) -> Iterator[np.ndarray]:
        """Blocks, ascending, in parts whose regions follow each other, of about so many bytes."""
        for first in range(0, blocks.size, _AT_A_TIME):
            some = blocks[first : first + _AT_A_TIME]
            start, size = self._start[some], self._size[some]
            piece = size.sum(axis=1).cumsum() // _TOGETHER
            is_next = (start[1:] == start[:-1] + size[:-1]).all(axis=1) & (piece[1:] == piece[:-1])
            yield from np.split(some, np.flatnonzero(~is_next) + 1)

    def read_run(self, fd: int, blocks: np.ndarray) -> Sequence[np.ndarray] | None:
        """The bytes of blocks that follow each other; None past the end of the file."""
        regions = self._of(blocks)
        ends, first = regions[:, :, 1].cumsum(axis=0), regions[0, :, 0].tolist()
        parts = []
        for r, start in enumerate(first):
            data = np.empty(int(ends[-1, r]), np.uint8)
            if not read_at(fd, data, start):
                return None
            to = ends[:, r].tolist()
            parts.append([data[a:b] for a, b in zip([0, *to], to, strict=False)])
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(each) for each in zip(*parts, strict=True)]


class OneFileReader:
    """The results of one attempt, as they are in the file once its seams are put in."""

    def __init__(self, plan: Plan, records: JournalRecords) -> None:
        # Of fewer trials, the file had other places; its seams were in it when it was copied.
        elsewhere = plan.has_grown_since(records.plan)
        seams = [] if elsewhere else sorted(read_seams(seams_file(plan, records.attempt)))
        self._at = np.asarray([offset for offset, _ in seams], np.int64)
        self._seams = [data for _, data in seams]
        self._longest = max(map(len, self._seams), default=0)
        fd = open_to_read(plan)
        self._fd = -1 if fd is None else fd
        if fd is None:
            return
        # What this client has cached may be older than what others have written.
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        self._size = os.fstat(self._fd).st_size
        by_plan = bool(plan.several) or elsewhere
        self._regions = Regions(plan, load_offsets(plan)) if by_plan else None

    def there(self, records: np.ndarray) -> np.ndarray:
        """Whether the file is there, and long enough."""
        if self._fd < 0:
            return np.zeros(records.size, bool)
        ends = records["offset"] + records["nbytes"]
        if self._regions is not None:
            ends = self._regions.ends(records["block"])
        found: np.ndarray = ends <= self._size
        return found

    def read(self, record: np.void) -> np.ndarray | None:
        """The bytes of one block; None if the file is missing or too short."""
        if self._fd < 0:
            return None
        if self._regions is None:
            return self._read(int(record["offset"]), int(record["nbytes"]))
        parts = [self._read(*region) for region in self._regions.of(int(record["block"]))]
        found = [part for part in parts if part is not None]
        return np.concatenate(found) if len(found) == len(parts) else None

    def _read(self, start: int, nbytes: int) -> np.ndarray | None:
        data = np.empty(nbytes, np.uint8)
        if not read_at(self._fd, data, start):
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
