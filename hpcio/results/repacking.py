"""Making one ordinary file of a result, and only then letting go of its parts."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import secrets
import shlex
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from hpcio.errors import (
    DAMAGE,
    HpcioError,
    HpcioWarning,
    ResultError,
    WorkerError,
    as_output_error,
    check_whole,
)
from hpcio.files import (
    Chunking,
    RunDirectory,
    allocate,
    give_name,
    has_sound_scales,
    open_file,
    read_table,
    read_text,
    result_of,
    sparse_file,
    sync,
    write_at,
)
from hpcio.journals import DONE, alone, remove
from hpcio.layout import Target
from hpcio.machine import check_room, look_again, new_file, only_files
from hpcio.planning import Chunks, StorageOptions, check_new_output, open_plan_file
from hpcio.results import opening as result
from hpcio.results.besides import SEVERAL
from hpcio.results.extents import (
    PIECE,
    SPAN,
    Extents,
    OpenSource,
    copying_threads,
    in_threads,
    pieces,
)
from hpcio.results.nwb import NewDataset, lay_out_as_nwb
from hpcio.results.opening import (
    ResultFile,
    averages_in,
    check_finished,
    of_trials_in,
    target_of,
)
from hpcio.results.packing import fill_chunks, read_region
from hpcio.results.verifying import (
    Verified,
    comparing,
    differing_averages,
    differing_blocks,
    differing_records,
    in_words,
    nbytes_of_averages,
    runs_of_bytes,
    spans,
    verify,
)

__all__ = ["repack"]

# Data of this size or more begin at a multiple of it: threads do not meet in a page, and reflinks
# can share.
PAGE = 4096
# Makes all of a new file but for the values of its results, and returns their datasets by name.
_Form = Callable[[ResultFile, h5py.File, NewDataset], dict[str, h5py.Dataset]]
# What a damaged result may raise, and nothing that is written.
_OF_DAMAGE = tuple(kind for kind in DAMAGE if kind not in (OSError, RuntimeError))
# What a result that is virtual knows of its parts.
_OF_PARTS = ("sources", "source_of_block")
# Attributes by which HDF5 itself knows scales.
_DIMENSIONS = ("DIMENSION_", "REFERENCE_LIST")


def repack(
    path: str | os.PathLike[str],
    into: str | os.PathLike[str] | None = None,
    *,
    chunks: Chunks | Mapping[str, Chunks] = None,
    compression: str | Mapping[str, str | None] | None = None,
    workers: int | None = None,
) -> Verified:
    """Copy a result into one ordinary HDF5 file, and verify the copy.

    Parameters
    ----------
    path : str or path
        A result of a run.
    into : str or path, optional
        The new file; result and run directory stay as they are. If its name ends with
        ``.nwb``, it is a file of NWB, with the data as a `TimeSeries` or in scratch, the
        trials as ``intervals/trials``, and where all came from as ``general/notes``. Without
        `into`, the result itself becomes one file, and its run directory is removed once
        every byte of the new file has been read back from the disk and verified. If the
        directory holds another run by then, such as one that starts over and is not
        finished, it stays, and a warning says so.
    chunks : bool or sequence of int, or dict of these, optional
        Shape of the chunks of ``data``, or True for chunks of about 1 MB along the axis
        that trials were joined along. By default ``data`` is contiguous, or chunked so if
        it is compressed. Of several results of a call, a dict says it for some by their names.
    compression : str, or dict of str, optional
        ``NAME[:LEVEL][+shuffle]``, such as ``"gzip"`` or ``"zstd:3"``; the guide says when
        it pays. All but ``gzip`` and ``lzf`` need the package hdf5plugin, readers too. Of several
        results, a dict as for `chunks`.
    workers : int, optional
        Threads that copy, or processes that compress; by default one for each core, at
        most four to copy.

    Returns
    -------
    Verified

    Raises
    ------
    ResultError
        If the result cannot be trusted, or the copy differs; nothing is removed then.
    OutputError
        If `into` exists or cannot be written; of NWB, if it has no such numbers.
    PlanError
        If there are no such chunks or compression; in place, if a run is at work there.

    Examples
    --------
    >>> repack("out.h5", "one.h5")  # doctest: +SKIP
    Verified(path='one.h5', blocks=300, gaps=0, nbytes=1228800, counted='trial')
    """
    if workers is not None:
        check_whole("workers", workers, least=1, error=WorkerError)
    source = Path(os.path.realpath(result_of(path)))
    check_finished(source)
    final = source if into is None else Path(check_new_output(into))
    in_place = into is None
    form = lay_out_as_nwb if not in_place and final.suffix.lower() == ".nwb" else _as_result
    try:
        with ExitStack() as stack:
            # Else a run that starts over could publish a newer result meanwhile, or begin in the
            # directory that is removed here.
            has_parts = in_place and stack.enter_context(alone(source))
            part = stack.enter_context(_part_of(final, _size_of(source)))
            try:
                checked, run_id, seen = _checked_copy(
                    source, part, final, StorageOptions(chunks=chunks, compression=compression),
                    workers=workers, in_place=in_place, form=form,
                )  # fmt: skip
            except (ResultError, *_OF_DAMAGE):
                verify(source)  # names the damaged file, if it is not the copy
                raise
            part.chmod(stat.S_IMODE(seen.st_mode) & 0o666)
            if in_place:
                _check_unchanged(source, seen)
            give_name(part, final, replaces=run_id if in_place else None)
            sync(final.parent)
            if has_parts:
                _drop(source, run_id)
    except HpcioError:
        raise
    except (OSError, RuntimeError) as error:
        raise as_output_error(error, final) from error
    except _OF_DAMAGE as error:
        with result.refusing_damage(source):
            raise error from None
    return replace(checked, path=os.fspath(final))


def _checked_copy(
    source: Path,
    part: Path,
    final: Path,
    storage: StorageOptions,
    *,
    workers: int | None,
    in_place: bool,
    form: _Form,
) -> tuple[Verified, str, os.stat_result]:
    """Copy a result and compare the copy: what was compared, whose result it is, and its file."""
    with result.open(source) as f:
        seen = os.fstat(f.id.get_vfd_handle())
        run_id = read_text(f["hpcio"], "run_id")
        is_several = SEVERAL in f.attrs
        several = {name: target_of(f, name) for name in f.results} if is_several else {}
        target = Target.load(f["hpcio/target"])
        if several:
            check_room(final, sum(target.nbytes for target in several.values()))
        chunkings = {
            name: _chunking(one, storage.of(name if several else "", f.results))
            for name, one in (several or {"data": target}).items()
        }
        checked = None
        if several:
            names = _several(f, several, part, final, chunkings, workers, form)
        elif (chunking := chunkings["data"]) is None:
            name, checked = _contiguous(f, target, part, final, workers, form, compare=not in_place)
            names = {"data": name}
        else:
            names = {"data": _chunked(f, target, part, final, chunking, workers, form)}
        if checked is None and form is not _as_result:
            checked = _compared(f, target, part, names)
    if checked is None:
        checked = _read_back(part, from_disk=in_place)
    return checked, run_id, seen


def _chunking(target: Target, own: StorageOptions) -> Chunking | None:
    """The chunking of a dataset that was asked for."""
    return Chunking.choose(
        target.shape, target.dtype, target.axis,
        chunks=cast(Chunks, own.chunks), compression=cast("str | None", own.compression),
    )  # fmt: skip


def _several(
    f: ResultFile,
    targets: Mapping[str, Target],
    part: Path,
    final: Path,
    chunkings: Mapping[str, Chunking | None],
    workers: int | None,
    form: _Form,
) -> dict[str, str]:
    """Copy several results, each into a dataset of its own; returns the names of these."""
    options: dict[str, Any] = {"libver": ("v110", "v110")}
    if not any(chunkings.values()):
        options |= {"alignment_threshold": PAGE, "alignment_interval": PAGE}
    plain = []
    with h5py.File(part, "w", locking=False, **options) as g:
        made = form(f, g, _maker(targets, chunkings))
        _tell_compression(g, chunkings.values())
        for name, target in targets.items():
            if (chunking := chunkings[name]) is not None:
                fill_chunks(f, target, made[name], chunking, final, workers, name=name)
            elif (extents := Extents.of(f, target, name)) is not None:
                plain.append((extents, int(made[name].id.get_offset()), target.nbytes))
            else:
                for _, first, last in spans(target):
                    region = _rows(target, first, last)
                    made[name][region] = read_region(f, region, name)
        names = {name: str(dataset.name) for name, dataset in made.items()}
    for extents, begin, nbytes in plain:
        _copy_bytes(extents, part, begin, pieces(0, nbytes, SPAN), workers)
    return names


def _check_unchanged(source: Path, seen: os.stat_result) -> None:
    """Raise ResultError unless a result is still the file that was read, as it was then."""
    look_again(source)
    now = os.stat(source)
    if not os.path.samestat(now, seen) or (now.st_size, now.st_mtime_ns) != (
        seen.st_size,
        seen.st_mtime_ns,
    ):
        raise ResultError(
            f"'{source}' was replaced, or written to, while it was repacked, and stays as it is "
            "now. Repack it again."
        )


def _size_of(source: Path) -> int:
    """How many bytes the values of a result are; 0 if it is damaged, which others say."""
    with contextlib.suppress(*_OF_DAMAGE, HpcioError), open_file(source) as f:
        names = json.loads(f.attrs[SEVERAL]) if SEVERAL in f.attrs else ["data"]
        return sum(int(f[name].nbytes) for name in names)
    return 0


@contextmanager
def _part_of(final: Path, nbytes: int) -> Iterator[Path]:
    """A file beside the final one for what is not finished yet; files that were left are removed.

    It is locked while somebody works on it. A file without a lock was left by a process that died.
    """
    for left in final.parent.glob(f".{glob.escape(final.name)}.{'[0-9a-f]' * 8}.repack"):
        with contextlib.suppress(OSError), open(left, "rb", opener=only_files) as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
    part = final.with_name(f".{final.name}.{secrets.token_hex(4)}.repack")
    # Nobody else may read it before it has the mode of the result, nor ever if we are killed.
    fd = new_file(part, os.O_WRONLY, nbytes=nbytes)
    try:
        with contextlib.suppress(OSError):  # no locks on this file system: nothing is removed
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _read_back(part: Path, *, from_disk: bool) -> Verified:
    """Bring the copy to the disk, and compare all of it with the checksums of the journal.

    If the parts of the result are removed afterwards, the bytes are read from the disk. Otherwise
    they may come from memory, while they are on their way to the disk.
    """
    fd = os.open(part, os.O_RDWR | os.O_CLOEXEC)
    try:
        if from_disk:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            return verify(part)
        with ThreadPoolExecutor(1, thread_name_prefix="hpcio") as pool:
            syncing = pool.submit(os.fsync, fd)
            checked = verify(part)
            syncing.result()
        return checked
    finally:
        os.close(fd)


def _compared(f: ResultFile, target: Target, part: Path, names: Mapping[str, str]) -> Verified:
    """Bring a copy that is no result to the disk, and compare its data as `_read_back` does."""
    sync(part)
    done, expected = read_table(f["hpcio/state"]) == DONE, read_table(f["hpcio/checksum"])
    targets = of_trials_in(f) if SEVERAL in f.attrs else {"data": target}
    with open_file(part) as g:
        read = {name: g[place].__getitem__ for name, place in names.items()}
        if SEVERAL in f.attrs:
            found = differing_records(target, targets, done, expected, read)
        else:
            found = differing_blocks(target, done, expected, read["data"])
        for block in found:
            raise _differs(targets, block, part)
        for name in differing_averages(averages_in(f), read):
            raise ResultError(f"The average '{name}' differs from what was computed, in '{part}'.")
    trials, averages = len(f["trials"]), nbytes_of_averages(f)
    return Verified.of(part, target, done, trials=trials, averages=averages)


def _differs(targets: Mapping[str, Target], block: int, part: Path) -> ResultError:
    what = in_words(targets, block)
    return ResultError(f"Block {what} differs from what was computed, in '{part}'.")


def _maker(targets: Mapping[str, Target], chunkings: Mapping[str, Chunking | None]) -> NewDataset:
    """Makes the empty dataset of a result in a group, under a name."""
    return lambda group, name, of: _new_dataset(group, targets[of], chunkings[of], name)


def _new_dataset(
    g: h5py.Group, target: Target, chunking: Chunking | None, name: str
) -> h5py.Dataset:
    """The empty dataset of a result, that HDF5 does not fill before it is written."""
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunking is None:
        dcpl.set_layout(h5py.h5d.CONTIGUOUS)
        dcpl.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    else:
        chunking.add_to(dcpl)
    dcpl.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    dcpl.set_fill_value(np.full(1, target.fill, target.dtype))
    htype = h5py.h5t.py_create(target.dtype, logical=True)
    space = h5py.h5s.create_simple(target.shape)
    return h5py.Dataset(h5py.h5d.create(g.id, name.encode(), htype, space, dcpl))


def _as_result(f: ResultFile, g: h5py.File, new_dataset: NewDataset) -> dict[str, h5py.Dataset]:
    """Make all of a result but for its data, and without what says where its parts lie."""
    made = {name: new_dataset(g, name, name) for name in f.results}
    g.attrs.update(f.attrs)
    for name in f:
        if name not in (*f.results, "hpcio"):
            f.copy(name, g)
            # A scale refers to the dataset that it was attached to: now to nothing.
            g[name].attrs.pop("REFERENCE_LIST", None)
            g[name].attrs.pop("DIMENSION_LIST", None)
    group = g.create_group("hpcio")
    group.attrs.update({k: v for k, v in f["hpcio"].attrs.items() if k != "compression"})
    for name in f["hpcio"]:
        if name not in _OF_PARTS:
            f.copy(f[f"hpcio/{name}"], group)
    for name, data in made.items():
        there = f.plain(name)
        data.attrs.update({k: v for k, v in there.attrs.items() if not k.startswith(_DIMENSIONS)})
        if not has_sound_scales(there):
            raise ValueError("its axes have scales or labels that HDF5 cannot read")
        for new, old in zip(data.dims, there.dims, strict=True):
            new.label = old.label
            for scale in old.values():
                new.attach_scale(g[scale.name])
    for name, column in f.items():  # of trials, and of conditions
        if isinstance(column, h5py.Dataset) and name not in made and not column.is_scale:
            for new, old in zip(g[name].dims, column.dims, strict=True):
                for scale in old.values():
                    new.attach_scale(g[scale.name])
    return made


def _tell_compression(g: h5py.File, chunkings: Iterable[Chunking | None]) -> None:
    """Let a result say which filter its readers need."""
    packed = [one.compression for one in chunkings if one is not None and one.compression]
    if packed and "hpcio" in g:
        g["hpcio"].attrs["compression"] = np.bytes_(",".join(dict.fromkeys(map(str, packed))))


# ---------------------------------------------------------------------- contiguous


def _contiguous(
    f: ResultFile,
    target: Target,
    part: Path,
    final: Path,
    workers: int | None,
    form: _Form,
    *,
    compare: bool,
) -> tuple[str, Verified | None]:
    """Copy all into a contiguous dataset; with `compare`, compare too where that is possible.

    Returns the name of the dataset, and None if the copy was not compared.
    """
    # HDF5 takes a full disk badly: its library may crash later. So look before.
    check_room(final, target.nbytes)
    name, begin = _empty_copy(f, target, part, form)
    extents = Extents.of(f, target)
    if extents is None:
        _copy_through_hdf5(f, target, part, name)
        return name, None
    if compare and target.in_rows:
        return name, _copy_comparing(f, target, extents, part, begin, workers)
    _copy_bytes(extents, part, begin, pieces(0, target.nbytes, SPAN), workers)
    return name, None


def _empty_copy(f: ResultFile, target: Target, part: Path, form: _Form) -> tuple[str, int]:
    """Make the new file, complete but for its data: their name, and at which byte they begin."""
    options: dict[str, Any] = {"libver": ("earliest", "v110")}
    if target.nbytes >= PAGE:
        options |= {"alignment_threshold": target.nbytes, "alignment_interval": PAGE}
    with sparse_file() as (memory, image):
        with h5py.File(memory, "w", locking=False, **options) as g:
            data = form(f, g, _maker({"data": target}, {"data": None}))["data"]
            name, begin = str(data.name), int(data.id.get_offset() or 0)
        size = os.fstat(image).st_size
        fd = os.open(part, os.O_RDWR | os.O_CLOEXEC)
        try:
            allocate(fd, size, part)
            for first, last in ((0, begin), (begin + target.nbytes, size)):
                for a, b in pieces(first, last, SPAN):
                    write_at(fd, os.pread(image, b - a, a), a)
        finally:
            os.close(fd)
    return name, begin


def _copy_through_hdf5(f: ResultFile, target: Target, part: Path, name: str) -> None:
    with h5py.File(part, "r+", locking=False) as g:
        for _, first, last in spans(target):
            region = _rows(target, first, last)
            g[name][region] = read_region(f, region)


def _copy_comparing(
    f: ResultFile,
    target: Target,
    extents: Extents,
    part: Path,
    begin: int,
    workers: int | None,
) -> Verified:
    """Copy all data; read back each piece while the cache of the processor has it, and compare."""
    done, expected = read_table(f["hpcio/state"]) == DONE, read_table(f["hpcio/checksum"])
    stop = np.cumsum(target.sizes())
    runs = runs_of_bytes(target, PIECE)
    places = [(int(stop[r[0]] - target.sizes()[r[0]]), int(stop[r[-1]])) for r in runs]
    blocks_of = dict(zip(places, runs, strict=True))
    with comparing(part, begin, target, done, expected) as differ:

        def check(span: tuple[int, int]) -> None:
            for block in differ(blocks_of[span]):
                raise _differs({"data": target}, block, part)

        _copy_bytes(extents, part, begin, places, workers, then=check)
    sync(part)
    return Verified.of(part, target, done, trials=len(f["trials"]))


def _rows(target: Target, first: int, last: int) -> tuple[slice, ...]:
    region = [slice(0, n) for n in target.shape]
    region[target.axis] = slice(first, last)
    return tuple(region)


def _copy_bytes(
    extents: Extents,
    part: Path,
    begin: int,
    spans: Sequence[tuple[int, int]],
    workers: int | None,
    then: Callable[[tuple[int, int]], None] = lambda _: None,
) -> None:
    """Copy spans of the data to byte `begin` of a file, from where they lie, in several threads."""
    fd = os.open(part, os.O_WRONLY | os.O_CLOEXEC)
    dtype = extents.dtype

    def copy(span: tuple[int, int]) -> None:
        memory = np.empty(PIECE, np.uint8)
        with OpenSource() as source:
            for a, b in pieces(*span, PIECE):
                array = memory[: b - a].view(dtype)
                extents.read(array, a, source)
                write_at(fd, array, begin + a)
        then(span)

    try:
        in_threads(copy, spans, threads=workers or copying_threads())
    finally:
        os.close(fd)


# ---------------------------------------------------------------------- chunked


def _chunked(
    f: ResultFile,
    target: Target,
    part: Path,
    final: Path,
    chunking: Chunking,
    workers: int | None,
    form: _Form,
) -> str:
    # libver "v110" has the better index of chunks.
    with h5py.File(part, "w", libver=("v110", "v110"), locking=False) as g:
        data = form(f, g, _maker({"data": target}, {"data": chunking}))["data"]
        _tell_compression(g, [chunking])
        fill_chunks(f, target, data, chunking, final, workers)
        return str(data.name)


def _drop(out: Path, run_id: str) -> None:
    """Remove the run directory of a result that is now one file, unless another run is there."""
    folder = RunDirectory.of(str(out)).path
    try:
        with open_plan_file(str(out)) as f:
            of_this = str(f.attrs["run_id"]) == run_id
    except HpcioError as error:  # a run that was starting over was killed, or it is damaged
        _say_it_stays(folder, f"since its plan cannot be read: {error} Remove it")
        return
    if of_this:
        remove(folder)
        return
    _say_it_stays(
        folder,
        "since it holds another run, which is not finished, and what that has computed. Go on with "
        f"it: hpcio resume {shlex.quote(str(out))}; or remove the folder",
    )


def _say_it_stays(folder: Path, why: str) -> None:
    warnings.warn(
        f"The result is one file now, and needs no '{folder}' any more. That folder is not "
        f"removed, {why} if nobody needs it, and nobody is at work there.",
        HpcioWarning,
        stacklevel=4,
    )
