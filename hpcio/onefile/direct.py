"""The writer `direct`: every process writes its own bytes of one file, with no lock and no MPI.

On a local file system that is a `pwrite` for each block. On a shared one, a client would write
whole pages of its cache, including bytes of others. There blocks are gathered into spans. Whole
pages of a span go into the file, and at once to the server, several spans at a time. The parts of
pages at its ends are *seams*: they go into a file of the attempt. The process that publishes the
result, alone, puts the seams in.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from hpcio.errors import OutputError, as_output_error
from hpcio.files import NewNames, checksum, unlock, write_at
from hpcio.journals import Journal
from hpcio.machine import is_local, writes_exactly
from hpcio.onefile.closing import check_open, enter
from hpcio.onefile.common import OneFile, Regions
from hpcio.onefile.preallocated import load_offsets
from hpcio.onefile.seams import SEAM, seams_file
from hpcio.onefile.spans import Spans, SpansOnTheirWay
from hpcio.planning import Plan
from hpcio.writers import Writer

__all__ = ["DIRECT", "Direct"]


class Direct:
    """Writes the bytes of one attempt where they belong; see `hpcio.writers.Writer`."""

    def __init__(self, plan: Plan, attempt: str) -> None:
        path = plan.rundir.data
        self._plan, self._seams_path = plan, seams_file(plan, attempt)
        shared = not is_local(plan.run_directory)
        with ExitStack() as undo:
            self._place = enter(plan)
            undo.callback(unlock, self._place)
            try:
                # Not open for reading, which would make a client cache the pages of others. By what
                # is sent at once it sends no more than that.
                at_once = 0 if writes_exactly(plan.run_directory) else os.O_DSYNC
                self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | at_once)
                undo.callback(os.close, self._fd)
                self._offsets = load_offsets(plan)
            except OSError as error:
                if isinstance(error, OutputError):
                    raise
                raise as_output_error(error, path) from error
            self._open = undo.pop_all()
        self._seams: int | None = None
        self._names = NewNames()
        self._regions = Regions(plan, self._offsets)
        self._going: SpansOnTheirWay | None = None
        self._spans: list[Spans] = []  # of each output
        if shared:
            self._going = SpansOnTheirWay(self._fd)
            self._open.callback(self._going.close)
            self._spans = [Spans(self._going, self._seam) for _ in plan.outputs]

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        check_open(self._plan, self._place)

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        if self._plan.several:
            return self._write_several(block, data)
        offset = int(self._offsets[block])
        self._write(0, data, offset)
        return 0, offset

    def _write_several(self, block: int, data: np.ndarray) -> tuple[int, int]:
        regions, at, view = self._regions.of(block), 0, data.data
        for k, (offset, nbytes) in enumerate(regions):
            self._write(k, view[at : at + nbytes], offset)
            at += nbytes
        return 0, regions[0][0]

    def _write(self, k: int, data: np.ndarray | memoryview, offset: int) -> None:
        if self._spans:
            self._spans[k].gather(np.asarray(data), offset)
        else:
            write_at(self._fd, data, offset)

    def mark_failed(self, block: int) -> None:
        pass

    @property
    def is_flushed(self) -> bool:
        """Whether all blocks so far have left this process."""
        if self._going is None:
            return True
        return self._going.have_arrived and all(spans.is_empty for spans in self._spans)

    def flush(self) -> None:
        """Write what was gathered, and wait until all that is on its way has arrived."""
        if self._going is not None:
            for spans in self._spans:
                spans.send()
            self._going.wait()

    def _seam(self, offset: int, data: memoryview) -> None:
        if self._seams is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._seams = os.open(self._seams_path, flags, 0o600)
            self._open.callback(os.close, self._seams)
            self._names.add(self._seams_path.parent)
        whole = memoryview(SEAM.pack(offset, len(data), checksum(data)) + bytes(data))
        while whole:
            whole = whole[os.write(self._seams, whole) :]

    def prepare_sync(self) -> Callable[[], None]:
        fds = [fd for fd in (self._fd, self._seams) if fd is not None]
        names = self._names.take()

        def sync() -> None:
            for fd in fds:
                os.fsync(fd)
            names()

        return sync

    def close(self) -> None:
        self._open.close()


class _Direct(OneFile):
    """Every process writes its own bytes; see `hpcio.writers.Backend`."""

    def open_writer(self, plan: Plan, attempt: str) -> Writer:
        return Direct(plan, attempt)


DIRECT = _Direct()
