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
import os
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np

from hpcio.errors import PlanError, WorkerError, as_output_error
from hpcio.files import unlock
from hpcio.journals import Journal
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
        self._data = self._file["data"].id
        self._space = self._data.get_space()
        chunked = self._data.get_create_plist().get_layout() == h5py.h5d.CHUNKED
        self._collective = chunked or plan.writer == "mpi-collective"
        self._transfer = h5py.h5p.create(h5py.h5p.DATASET_XFER)
        self._transfer.set_dxpl_mpio(
            h5py.h5fd.MPIO_COLLECTIVE if self._collective else h5py.h5fd.MPIO_INDEPENDENT
        )
        # For each shape of what one call writes, its selection in memory.
        self._inside: dict[tuple[int, ...], Any] = {}

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        check_open(self._plan, self._place)

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        region = self._plan.target.region(block)
        start = tuple(s.start for s in region)
        array = data.reshape([s.stop - s.start for s in region])
        for at, piece in _pieces(array, start):
            self._write(at, piece)
        return 0, int(self._offsets[block])

    def _write(self, start: tuple[int, ...], piece: np.ndarray) -> None:
        inside = self._inside.get(piece.shape)
        if inside is None:
            inside = self._inside[piece.shape] = h5py.h5s.create_simple(piece.shape)
        self._space.select_hyperslab(start, piece.shape)
        if self._collective:
            self._world.allreduce(1)
        try:
            self._data.write(inside, self._space, piece, dxpl=self._transfer)
        except (OSError, RuntimeError) as error:
            raise as_output_error(error, self._plan.rundir.data) from error

    def prepare_sync(self) -> Callable[[], None]:
        fd = self._place
        return lambda: os.fsync(fd)

    def close(self) -> None:
        """Take part in what other ranks still write, then close the file with all of them."""
        if self._collective:
            self._space.select_none()
            nothing = h5py.h5s.create_simple((1,))
            nothing.select_none()
            empty = np.empty(1, self._plan.target.dtype)
            while self._world.allreduce(0):
                self._data.write(nothing, self._space, empty, dxpl=self._transfer)
        try:
            self._file.close()
        finally:
            unlock(self._place)


def _pieces(
    array: np.ndarray, start: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
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
