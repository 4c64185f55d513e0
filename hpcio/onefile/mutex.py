"""The writer `mutex`: every process writes by HDF5 into one file, one after the other.

A process takes the lock of the file, opens it, writes a block and closes it. Others who write one
HDF5 file without MPI do the same. Each block costs an opening of the file, and a wait for the lock.
The file is the one that `direct` writes, with the same bytes.

A process that is killed while it writes leaves a part of its block, which no journal has. It also
leaves HDF5's mark that the file is open for writing, and HDF5 then refuses to open the file. The
next process learns from the lock that the one before did not end well, and restores what is around
the data.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from hpcio.errors import OutputError, as_output_error
from hpcio.files import check_locks, locked, open_to_write
from hpcio.journals import Journal, Ledger
from hpcio.layout import split_record
from hpcio.onefile.closing import check_open, reopen
from hpcio.onefile.common import OneFile
from hpcio.onefile.preallocated import is_reserved, load_offsets, restore
from hpcio.planning import Plan
from hpcio.writers import Unbuffered, Writer

__all__ = ["MUTEX"]


class Mutex(Unbuffered):
    """Writes each block of one attempt under the lock; see `hpcio.writers.Writer`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._path = plan.rundir.data
        try:
            # Only for `fsync`: files that were open before an error of the disk are told of it.
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            self._offsets = load_offsets(plan)
        except OSError as error:
            raise as_output_error(error, self._path) from error

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        pass

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        outputs = self._plan.outputs
        if data.nbytes:
            try:
                with locked(self._path) as in_order:
                    check_open(self._plan, self._fd)
                    if not in_order:
                        restore(self._plan)
                    with open_to_write(self._path) as f:
                        for output, part in zip(
                            outputs, split_record(outputs, block, data), strict=True
                        ):
                            f[output.name][output.target.region(block)] = part
            except (OSError, RuntimeError, KeyError) as error:  # `data` cannot be read: KeyError
                check_open(self._plan, self._fd)  # says more than that it cannot be opened
                if isinstance(error, OutputError):
                    raise
                raise as_output_error(error, self._path) from error
        return 0, int(self._offsets[..., block].flat[0])

    def prepare_sync(self) -> Callable[[], None]:
        fd = self._fd
        return lambda: os.fsync(fd)

    def close(self) -> None:
        os.close(self._fd)


class _Mutex(OneFile):
    """One process at a time; see `hpcio.writers.Backend`."""

    def check_plan(self, plan: Plan) -> None:
        """Also raise OutputError where locks do not protect."""
        super().check_plan(plan)
        check_locks(os.path.dirname(plan.out))

    def reserve(self, plan: Plan) -> None:
        """Make the file, or restore what an earlier run has left of it."""
        reopen(plan)
        if not is_reserved(plan):
            super().reserve(plan)
            return
        # A crash of the machine may have damaged the file, or the lock beside it. Other processes
        # may still be at work.
        with locked(plan.rundir.data):
            restore(plan)

    def open_writer(self, plan: Plan, attempt: str) -> Writer:
        return Mutex(plan)

    def publish(self, ledger: Ledger, fill: Callable[[h5py.File], None], final: Path) -> None:
        """Give the file its name, under the lock: a second copy of a task may still write."""
        reopen(ledger.plan)
        with locked(ledger.plan.rundir.data):
            super().publish(ledger, fill, final)


MUTEX = _Mutex()
