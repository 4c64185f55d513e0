"""The writer `mpi`: all ranks of one MPI job write into the one dataset, through parallel HDF5.

One process lays out the file before and closes it, so that it can be opened even if the job is
killed. Each rank writes a block as soon as it is computed (independent transfer), through
selections that are made once. The writer ``mpi-collective`` and chunked datasets use collective
transfer: all ranks write at the same time, and ranks that have nothing to write take part with an
empty selection. Every rank makes as many calls as the rank with the most; nobody has to know that
number before.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import h5py
import numpy as np

from hpcio.errors import PlanError, WorkerError, as_output_error
from hpcio.files import unlock
from hpcio.journals import Journal
from hpcio.layout import split_record
from hpcio.machine import communicator, kind_of, launched, options_of
from hpcio.onefile.closing import check_open, enter
from hpcio.onefile.common import OneFile
from hpcio.onefile.preallocated import load_offsets
from hpcio.planning import Plan, WriterAbilities
from hpcio.writers import Unbuffered, Writer

__all__ = ["MPI", "Mpi"]

# With these options, NFS has no locks between its clients. MPI-IO needs them to keep ranks on
# several nodes from writing over each other.
_NO_LOCKS = {"nolock", "local_lock=all", "local_lock=posix"}

# MPI-IO counts bytes in 32 bits: a block above 2 GB is written in pieces.
PIECE = 1 << 30
# Where a part of an array begins in its dataset, and the part.
_Piece = tuple[tuple[int, ...], np.ndarray]

_BUILD = (
    "CC=mpicc HDF5_MPI=ON pip install --no-binary=h5py h5py (it needs an MPI build of HDF5; on "
    "Debian: apt install libhdf5-openmpi-dev libopenmpi-dev)"
)


class Mpi(Unbuffered):
    """One rank's handle of the file; see `hpcio.writers.Writer`."""

    def __init__(self, plan: Plan) -> None:
        launch = launched()
        if launch is None:
            raise WorkerError(
                f"writer='{plan.writer}' writes from the ranks of an MPI job: "
                f"mpirun -n R hpcio run {plan.out}, or hpcio submit --mpi. "
                "The writer 'direct' works anywhere."
            )
        path = plan.rundir.data
        self._plan, self._world = plan, communicator(launch)
        self._offsets = load_offsets(plan)
        # A sync of any descriptor brings to the disk all that this client has written.
        self._place = enter(plan)
        try:
            self._file = h5py.File(
                path, "r+", driver="mpio", comm=self._world, libver=("earliest", "v110")
            )
        except OSError as error:
            unlock(self._place)
            raise as_output_error(error, path) from error
        self._data = [self._file[output.name].id for output in plan.outputs]
        self._spaces = [data.get_space() for data in self._data]
        layouts = {data.get_create_plist().get_layout() for data in self._data}
        self._collective = h5py.h5d.CHUNKED in layouts or plan.writer == "mpi-collective"
        self._transfer = h5py.h5p.create(h5py.h5p.DATASET_XFER)
        self._transfer.set_dxpl_mpio(
            h5py.h5fd.MPIO_COLLECTIVE if self._collective else h5py.h5fd.MPIO_INDEPENDENT
        )
        # For each shape of what one call writes, its selection in memory.
        self._inside: dict[tuple[int, ...], Any] = {}

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        check_open(self._plan, self._place)

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        outputs = self._plan.outputs
        of_each = [
            _pieces(part, tuple(s.start for s in output.target.region(block)))
            for output, part in zip(outputs, split_record(outputs, block, data), strict=True)
        ]
        for pieces in itertools.zip_longest(*of_each):
            if self._collective:
                self._world.allreduce(1)
            try:
                self._write(pieces)
            except (OSError, RuntimeError) as error:
                raise as_output_error(error, self._plan.rundir.data) from error
        return 0, int(self._offsets[..., block].flat[0])

    def _write(self, pieces: Sequence[_Piece | None]) -> None:
        """Write a piece into each dataset; all ranks come to the same ones, with or without one."""
        for k, piece in enumerate(pieces):
            if piece is not None:
                start, array = piece
                inside = self._inside.get(array.shape)
                if inside is None:
                    inside = self._inside[array.shape] = h5py.h5s.create_simple(array.shape)
                self._spaces[k].select_hyperslab(start, array.shape)
                self._data[k].write(inside, self._spaces[k], array, dxpl=self._transfer)
            elif self._collective:
                self._write_nothing(k)

    def _write_nothing(self, k: int) -> None:
        nothing = h5py.h5s.create_simple((1,))
        nothing.select_none()
        self._spaces[k].select_none()
        empty = np.empty(1, self._plan.outputs[k].target.dtype)
        self._data[k].write(nothing, self._spaces[k], empty, dxpl=self._transfer)

    def prepare_sync(self) -> Callable[[], None]:
        fd = self._place
        return lambda: os.fsync(fd)

    def close(self) -> None:
        """Take part in what other ranks still write, then close the file with all of them."""
        if self._collective:
            while self._world.allreduce(0):
                self._write([None] * len(self._data))
        try:
            self._file.close()
        finally:
            unlock(self._place)


def _pieces(array: np.ndarray, start: tuple[int, ...]) -> Iterator[_Piece]:
    """Contiguous parts of an array that one call can write, and where each begins."""
    if array.nbytes <= PIECE:
        yield start, array
        return
    axis = next(k for k, length in enumerate(array.shape) if length > 1)
    middle = array.shape[axis] // 2
    for first, last in ((0, middle), (middle, array.shape[axis])):
        part = array[(slice(None),) * axis + (slice(first, last),)]
        yield from _pieces(part, (*start[:axis], start[axis] + first, *start[axis + 1 :]))


class _Mpi(OneFile):
    """Ranks write through parallel HDF5; see `hpcio.writers.Backend`."""

    abilities = WriterAbilities(needs_ranks=True)

    def check_plan(self, plan: Plan) -> None:
        """Raise PlanError if results make no plain dataset, or ranks cannot write them here."""
        super().check_plan(plan)
        folder = os.path.dirname(plan.out)
        without = _NO_LOCKS & options_of(folder) if kind_of(folder).startswith("nfs") else set()
        if without:
            raise PlanError(
                f"writer='{plan.writer}' would lose results in '{folder}': that is an NFS mounted "
                f"with {', '.join(sorted(without))}, where ranks on several nodes write over each "
                "other. "
                "The writer 'direct' needs no locks."
            )
        if not h5py.get_config().mpi:
            raise PlanError(
                f"writer='{plan.writer}' needs an h5py that was built with MPI. The writer "
                f"'direct' does the same without. Else: {_BUILD}"
            )
        if importlib.util.find_spec("mpi4py") is None:
            raise PlanError(f"writer='{plan.writer}' needs mpi4py. Install it: pip install mpi4py")

    def open_writer(self, plan: Plan, attempt: str) -> Writer:
        """The writer of one attempt; all ranks open theirs together."""
        return Mpi(plan)


MPI = _Mpi()
