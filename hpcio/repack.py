"""Making one ordinary file of a result, and only then letting go of its parts."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np

from hpcio import result
from hpcio.errors import HpcioError, OutputError, ResultError
from hpcio.limits import check_room
from hpcio.plan import check_new_output
from hpcio.rundir import remove
from hpcio.slab import as_output_error, sync_folder
from hpcio.sources import open_file
from hpcio.target import Target
from hpcio.verify import Verified, spans, verify

__all__ = ["repack"]


def repack(path: str | os.PathLike[str], into: str | os.PathLike[str] | None = None) -> Verified:
    """Copy a result into one ordinary HDF5 file, and verify the copy.

    Parameters
    ----------
    path : str or path
        A result of a run.
    into : str or path, optional
        The new file; result and run directory stay as they are. Without it, the result
        itself becomes one file, and its run directory is removed once every byte of the
        new file has been verified.

    Returns
    -------
    Verified

    Raises
    ------
    ResultError
        If the result cannot be trusted, or the copy differs; nothing is removed then.
    OutputError
        If `into` exists or cannot be written.

    Examples
    --------
    >>> repack("out.h5", "one.h5")  # doctest: +SKIP
    Verified(path='one.h5', blocks=300, gaps=0, nbytes=1228800)
    """
    source = Path(os.path.realpath(os.path.expanduser(os.fspath(path))))
    final = source if into is None else Path(check_new_output(into))
    try:
        with _part_of(final) as part:
            digest = _copy(source, part, final)
            try:
                checked = verify(part)
            except ResultError:
                verify(source)  # names the damaged file, if it is not the copy
                raise
            if into is not None and os.path.lexists(final):
                raise OutputError(f"The output '{final}' has appeared meanwhile. Move it away.")
            os.rename(part, final)
        sync_folder(final.parent)
        if into is None:
            _drop(Path(f"{source}.run"), digest)
    except HpcioError:
        raise
    except (OSError, RuntimeError) as error:
        raise as_output_error(error, final) from error
    return Verified(os.fspath(final), checked.blocks, checked.gaps, checked.nbytes)


@contextmanager
def _part_of(final: Path) -> Iterator[Path]:
    """A file beside the final one for what is not finished yet.

    It is locked while somebody is at work on it, so that one that was left is told from it.
    """
    for left in final.parent.glob(f".{glob.escape(final.name)}.*.repack"):
        with contextlib.suppress(OSError), left.open("rb") as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()
    part = final.with_name(f".{final.name}.{secrets.token_hex(4)}.repack")
    with part.open("xb") as f:
        with contextlib.suppress(OSError):  # no locks on this file system: nothing is removed
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


def _copy(source: Path, part: Path, final: Path) -> str:
    """Copy everything but the parts; returns the digest of the plan."""
    with ExitStack() as stack:
        f = stack.enter_context(result.open(source))
        target = Target.load(f["hpcio/target"])
        # Beforehand: HDF5 takes a full disk badly, its library may crash later.
        check_room(final, target.nbytes)
        g = stack.enter_context(h5py.File(part, "w", libver=("earliest", "v110"), locking=False))
        g.attrs.update(f.attrs)
        for name in f:
            if name not in ("data", "hpcio"):
                f.copy(name, g)
                # A scale refers to the dataset that it was attached to: now to nothing.
                g[name].attrs.pop("REFERENCE_LIST", None)
        group = g.create_group("hpcio")
        group.attrs.update(f["hpcio"].attrs)
        for name in ("target", "state", "checksum"):
            f.copy(f[f"hpcio/{name}"], group)
        data = f["data"]
        copy = _contiguous(g, target)
        for _, first, last in spans(target):
            region: list[slice] = [slice(0, n) for n in target.shape]
            region[target.axis] = slice(first, last)
            copy[tuple(region)] = data[tuple(region)]
        for new, old in zip(copy.dims, f.virtual.dims, strict=True):
            new.label = old.label
            for scale in old.keys():  # noqa: SIM118  (no mapping: iterating gives values)
                new.attach_scale(g[scale])
        g.flush()
        os.fsync(g.id.get_vfd_handle())
        return bytes(f["hpcio"].attrs["plan"]).decode()


def _contiguous(file: h5py.File, target: Target) -> h5py.Dataset:
    """An empty dataset that HDF5 does not fill before it is written."""
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    dcpl.set_layout(h5py.h5d.CONTIGUOUS)
    dcpl.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    if target.dtype.kind in "fc":
        dcpl.set_fill_value(np.full(1, np.nan, target.dtype))
    htype = h5py.h5t.py_create(target.dtype, logical=True)
    space = h5py.h5s.create_simple(target.shape)
    return h5py.Dataset(h5py.h5d.create(file.id, b"data", htype, space, dcpl))


def _drop(folder: Path, digest: str) -> None:
    """Remove the run directory of a result that is now one file."""
    if not folder.is_dir():
        return
    with open_file(folder / "plan.h5") as f:
        if str(f.attrs["digest"]) != digest:
            raise ResultError(
                f"'{folder}' belongs to another run and is not removed; the result is one file now."
            )
    remove(folder)
