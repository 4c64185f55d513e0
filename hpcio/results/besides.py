"""What a result holds besides its data: tables, coordinates, details; and checksums of these."""

from __future__ import annotations

import json
from collections.abc import Iterator

import h5py
import numpy as np

from hpcio.errors import DAMAGE, ResultError
from hpcio.files import checksum, read_table

__all__ = ["KEPT", "check_besides", "keep_sums"]

# The dataset that holds the checksums, as JSON.
KEPT = "hpcio/besides"

# What is in this group and counts; the rest says where the data lie, which a copy may change.
_OURS = ("hpcio/target", "hpcio/state", "hpcio/checksum")


def keep_sums(file: h5py.File) -> None:
    """Keep checksums of all that a result holds besides its data."""
    names = [name for name in file if name not in ("data", "hpcio")]
    sums = {name: _sum_of(file[name]) for name in (*names, *_OURS)}
    file[KEPT] = np.frombuffer(json.dumps(sums).encode(), np.uint8)


def check_besides(file: h5py.File) -> bool:
    """Compare all that a result holds besides its data with the checksums kept in it.

    What others have added since under names of its own does not matter.

    Returns
    -------
    bool
        False if there are none, as in results of earlier versions.

    Raises
    ------
    ResultError
        If anything is gone or differs; it names it.
    """
    if KEPT not in file:
        return False
    try:
        kept = json.loads(read_table(file[KEPT]).tobytes())
    except DAMAGE as error:
        raise _differs(KEPT, file) from error
    for name, expected in kept.items():
        try:
            same = name in file and _sum_of(file[name]) == expected
        except DAMAGE:  # HDF5 cannot make sense of it
            same = False
        if not same:
            raise _differs(name, file)
    return True


def _differs(name: str, file: h5py.File) -> ResultError:
    return ResultError(
        f"'{name}' of '{file.filename}' differs from what was published. Remove the result and "
        "resume the run, or restore it from a backup."
    )


def _sum_of(thing: h5py.Dataset | h5py.Group) -> int:
    """One checksum of a dataset, or of a group with its attributes and all that is in it."""
    total = 0
    for name, value in _values(thing, ""):
        array = np.asarray(value)
        data = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
        total = checksum(f"{name} {array.shape} ".encode() + data, total)
    return int(total)


def _values(thing: h5py.Dataset | h5py.Group, name: str) -> Iterator[tuple[str, object]]:
    if isinstance(thing, h5py.Dataset):
        # Attributes of datasets refer to others, and change when these are copied.
        # A scale may be as long as its axis and hold nothing.
        longest = max(thing.file["data"].shape, default=1)
        yield name, thing[()] if (thing.size or 0) <= longest else read_table(thing)
        return
    for key in sorted(thing.attrs):
        yield f"{name}@{key}", thing.attrs[key]
    for key in sorted(thing):
        yield from _values(thing[key], f"{name}/{key}")
