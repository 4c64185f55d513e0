"""The one file of some writers while it is written: HDF5 lays it out, many processes fill it.

Until it is published, the file is ``OUT.run/data.h5``. An attribute says that it is not complete:
zeros in it may be results, or places that nobody has written yet.
"""

from __future__ import annotations

import fcntl
import io
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcio.errors import OutputError, as_output_error
from hpcio.files import (
    RunDirectory,
    allocate,
    checksum,
    mark_of,
    open_file,
    sparse_file,
    sync,
    write_at,
)
from hpcio.journals import Ledger, published
from hpcio.layout import Output, Target, sizes_of_parts
from hpcio.machine import new_file, write_whole
from hpcio.planning import Plan

__all__ = [
    "PAGE",
    "between",
    "check_offsets",
    "laid_out",
    "load_offsets",
    "offsets_of",
    "opened",
    "reserve",
    "restore",
    "sizes_of_regions",
]

# The largest page, in bytes, that clients of network file systems write at a time.
PAGE = 64 << 10
# So many bytes are copied at a time.
_PIECE = 8 << 20
# Behind the array that says where blocks begin: its checksum.
_SEAL = struct.Struct("<Q")


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A descriptor of a file, closed at the end."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _new(path: Path, nbytes: int) -> Iterator[int]:
    """A descriptor of a new file for its owner, closed at the end, and locked while it is open."""
    fd = new_file(path, os.O_WRONLY, nbytes=nbytes)
    try:
        with suppress(OSError):  # no locks on this file system: nothing is removed
            # A shared one, so that writers are not kept out once the file has its name.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield fd
    finally:
        os.close(fd)


def load_offsets(plan: Plan) -> np.ndarray:
    """Where each block begins in the file, in bytes, shape (B,); of several results, (outputs, B).

    Raises
    ------
    OutputError
        If what was written of it is damaged: results would go to the places of others.
    """
    path = plan.rundir.offsets
    raw = path.read_bytes()
    # Of what may be much, no copy: numpy does not look behind the end of the array.
    array, seal = memoryview(raw)[: -_SEAL.size], raw[-_SEAL.size :]
    if len(seal) < _SEAL.size or _SEAL.unpack(seal) != (checksum(array),):
        raise OutputError(
            f"'{path}' is damaged: its bytes are not those that were written. Restore it from a "
            "backup, or start over (in the shell: --fresh)."
        )
    try:
        offsets: np.ndarray = np.load(io.BytesIO(raw))
    except (ValueError, EOFError, MemoryError):
        offsets = np.zeros(0)
    shape = (len(plan.several), len(plan)) if plan.several else (len(plan),)
    if offsets.shape != shape or offsets.dtype.kind not in "iu" or offsets.min() < 0:
        raise OutputError(
            f"'{path}' says nothing of the {len(plan)} blocks of the plan. Start over (in the "
            "shell: --fresh)."
        )
    return offsets


def is_reserved(plan: Plan) -> bool:
    """Whether the file is there, and where each block begins in it."""
    return plan.rundir.data.exists() and plan.rundir.offsets.exists()


def reserve(plan: Plan) -> None:
    """Make the file, with room for all results; one process does so before others start.

    Raises
    ------
    OutputError
        If the disk has too little room, or HDF5 lays out the file in an unknown way.
    """
    folder = plan.run_directory
    if is_reserved(plan) or published(plan):
        return
    part = folder / f"data.{secrets.token_hex(4)}.part"
    try:
        # What journals say is done was in a file that is gone, with the result perhaps. In the new
        # one it would seem to be there.
        earlier = Ledger.read(plan)
        lost, kept = np.flatnonzero(earlier.done), np.zeros(0, np.int64)
        if _is_to_replace_what_it_keeps(plan):
            of_ours = np.asarray([log.plan == plan.digest for log in earlier.logs])
            is_ours = of_ours[earlier.log[lost]]
            lost, kept = lost[is_ours], lost[~is_ours]
        if lost.size:
            earlier.void(lost)
        _remove_left(plan.rundir)
        with _image(plan) as (image, offsets):
            size = os.fstat(image).st_size
            with _new(part, size) as fd:
                allocate(fd, size, part)
                for first, last in between(plan, offsets, size):
                    write_at(fd, os.pread(image, last - first, first), first)
                if kept.size:
                    _copy_what_is_kept(plan, kept, fd, offsets)
                os.fsync(fd)
                packed = io.BytesIO()
                np.save(packed, offsets)
                array = packed.getvalue()
                sealed = array + _SEAL.pack(checksum(array))
                write_whole(plan.rundir.offsets, sealed, mode=plan.modes.record)
                sync(folder)  # the file is worth nothing without them
                os.rename(part, plan.rundir.data)
        sync(folder)
    except OSError as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OutputError):
            raise
        raise as_output_error(error, part) from error


def _is_to_replace_what_it_keeps(plan: Plan) -> bool:
    """Whether the result that the run replaces is one file with fewer of its trials."""
    mark = mark_of(plan.out)
    return (
        mark is not None
        and mark.run_id == plan.replaces
        and bool(plan.former)
        and mark.plan == plan.former[-1].digest
    )


def _copy_what_is_kept(plan: Plan, blocks: np.ndarray, into: int, offsets: np.ndarray) -> None:
    """Copy the bytes of some blocks from the result that is to be replaced, to their new places."""
    with open_file(plan.out) as f:
        before = _as_laid_out_in(f, plan)
        places = offsets_of(before, f).reshape(len(plan.outputs), -1)
    new = offsets.reshape(len(plan.outputs), -1)
    sizes = sizes_of_regions(plan).reshape(len(plan.outputs), -1)
    with opened(Path(plan.out), os.O_RDONLY) as fd:
        for output in range(len(plan.outputs)):
            old, now, nbytes = (each[output][blocks] for each in (places, new, sizes))
            # Neighbours that stay neighbours are copied at once.
            apart = (np.diff(old) != nbytes[:-1]) | (np.diff(now) != nbytes[:-1])
            for run in np.split(np.arange(blocks.size), np.flatnonzero(apart) + 1):
                if run.size:
                    _copy(fd, int(old[run[0]]), into, int(now[run[0]]), int(nbytes[run].sum()))


def _copy(source: int, start: int, into: int, to: int, nbytes: int) -> None:
    for at in range(0, nbytes, _PIECE):
        piece = os.pread(source, min(_PIECE, nbytes - at), start + at)
        write_at(into, piece, to + at)


def _as_laid_out_in(file: h5py.File, plan: Plan) -> Plan:
    """A plan with the layout that the one file of fewer trials has."""
    target = Target.load(file["hpcio/target"])
    several = tuple(
        replace(output, target=Target.load(file[f"hpcio/outputs/{output.name}"]))
        for output in plan.several
    )
    return Plan(**{**vars(plan), "target": target, "several": several})


def _remove_left(rundir: RunDirectory) -> None:
    """Remove files of full size that processes have left which were killed before they were named.

    Whoever is still making one has it locked.
    """
    for left in filter(lambda path: rundir.is_ours(path.name), rundir.path.glob("data.*.part")):
        with suppress(OSError), opened(left, os.O_RDWR) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def restore(plan: Plan) -> None:
    """Put back what HDF5 needs around the data, where it is not as `reserve` wrote it.

    Nobody else may write into the file at the same time.

    Raises
    ------
    OutputError
        If HDF5 lays the file out differently than before.
    """
    path = plan.rundir.data
    try:
        with opened(path, os.O_RDWR) as fd:
            with _image(plan) as (image, offsets):
                check_offsets(plan, offsets)
                size = os.fstat(image).st_size
                if os.fstat(fd).st_size < size:
                    os.ftruncate(fd, size)
                _copy_what_differs(image, fd, between(plan, offsets, size))
            os.fsync(fd)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise as_output_error(error, path) from error


def _copy_what_differs(image: int, fd: int, pieces: Iterator[tuple[int, int]]) -> None:
    for first, last in pieces:
        piece = os.pread(image, last - first, first)
        if os.pread(fd, last - first, first) != piece:
            write_at(fd, piece, first)


@contextmanager
def _image(plan: Plan) -> Iterator[tuple[int, np.ndarray]]:
    """The file as it is before anybody has written into it, and where each block begins."""
    with sparse_file() as (path, image):
        with laid_out(plan, path) as f:
            f.attrs["incomplete"] = "results are being written; see the folder it lies in"
            offsets = offsets_of(plan, f)
        yield image, offsets


def check_offsets(plan: Plan, found: np.ndarray) -> None:
    """Raise OutputError unless blocks lie where they did when the file was made."""
    if not np.array_equal(load_offsets(plan), found):
        raise OutputError(
            "HDF5 lays out the finished file otherwise than it did at first; was its version "
            "changed meanwhile? Resume with the version that began."
        )


@contextmanager
def laid_out(plan: Plan, path: str) -> Iterator[h5py.File]:
    """A new file whose first objects are its results, at the same place in all files of a plan."""
    targets = [output.target for output in plan.outputs]
    plain = all(target.in_rows for target in targets)
    options: dict[str, Any] = {"libver": ("earliest" if plain else "v110", "v110")}
    if large := [target.nbytes for target in targets if target.nbytes >= PAGE]:
        options |= {"alignment_threshold": min(large), "alignment_interval": PAGE}
    with h5py.File(path, "w", locking=False, **options) as f:
        for output in plan.outputs:
            _lay_out(f, output)
        yield f


def _lay_out(f: h5py.File, output: Output) -> None:
    """Make the dataset of an output, without its values: contiguous, or a chunk for each block."""
    target = output.target
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if target.in_rows or not target.nbytes:
        dcpl.set_layout(h5py.h5d.CONTIGUOUS)
    else:
        dcpl.set_chunk(target.region_shape(0))
    dcpl.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    dcpl.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    dcpl.set_obj_track_times(False)
    dcpl.set_fill_value(np.full(1, target.fill, target.dtype))
    htype = h5py.h5t.py_create(target.dtype, logical=True)
    space = h5py.h5s.create_simple(target.shape)
    h5py.h5d.create(f.id, output.name.encode(), htype, space, dcpl)


def sizes_of_regions(plan: Plan) -> np.ndarray:
    """Bytes of each region of the file, in the shape of `load_offsets`."""
    if not plan.several:
        return plan.target.sizes()
    return sizes_of_parts([output.target for output in plan.several])


def offsets_of(plan: Plan, file: h5py.File) -> np.ndarray:
    """Where each block begins in the file, in bytes, in the shape of `load_offsets`."""
    found = [_offsets_in(file[output.name], output.target) for output in plan.outputs]
    return np.stack(found) if plan.several else found[0]


def _offsets_in(data: h5py.Dataset, target: Target) -> np.ndarray:
    """Where each block begins in one dataset, shape (B,)."""
    count = target.start.size
    if not target.nbytes:
        return np.zeros(count, np.int64)
    if target.in_rows:
        row = target.nbytes // target.shape[0]
        offsets: np.ndarray = data.id.get_offset() + target.start * row
        return offsets
    chunk = data.chunks
    found = np.zeros(count, np.int64)
    places: dict[tuple[int, ...], int] = {}
    if hasattr(data.id, "chunk_iter"):
        data.id.chunk_iter(lambda info: places.__setitem__(info.chunk_offset, info.byte_offset))
    else:  # HDF5 1.10
        for k in range(data.id.get_num_chunks()):
            info = data.id.get_chunk_info(k)
            places[info.chunk_offset] = info.byte_offset
    for b in range(count):
        found[b] = places[tuple(s.start for s in target.region(b))]
    if len(places) * int(np.prod(chunk)) * target.dtype.itemsize != target.nbytes:
        raise OutputError(
            f"HDF5 {h5py.version.hdf5_version} laid out a chunked dataset in a way that hpcio "
            "does not know. Use writer='virtual', and report this with the version."
        )
    return found


def between(plan: Plan, offsets: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """The parts of the file between the data of blocks, as bytes ``[first, last)``."""
    sizes, offsets = sizes_of_regions(plan).reshape(-1), offsets.reshape(-1)
    kept = sizes > 0
    order = np.argsort(offsets[kept], kind="stable")
    first, last = offsets[kept][order], (offsets + sizes)[kept][order]
    gaps = np.concatenate([[0], last]), np.concatenate([first, [size]])
    yield from zip(*(g[gaps[0] < gaps[1]].tolist() for g in gaps), strict=True)
