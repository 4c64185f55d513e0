"""What a result holds besides its data: tables, coordinates, details and attributes; their sums."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from hpcio.errors import DAMAGE
from hpcio.files import (
    StreamedChecksum,
    checksum,
    has_sound_scales,
    parts_of,
    read_table,
    read_text,
)

__all__ = [
    "KEPT",
    "OF_AVERAGE",
    "OUTPUTS",
    "RECORDINGS",
    "RECORDING_OF",
    "SEVERAL",
    "differing",
    "keep_sums",
    "names_of_results",
]

# The dataset that holds the checksums, as JSON.
KEPT = "hpcio/besides"
# The table of recordings, if there are several, and which of them each trial is of.
RECORDINGS, RECORDING_OF = "hpcio/recordings", "hpcio/recording_of_trial"
# The layout of each of several results of a call.
OUTPUTS = "hpcio/outputs"
# The attribute of such a layout that has the checksum of an average.
OF_AVERAGE = "checksum"

# The attribute of a file that names its results, as JSON, if a call has several.
SEVERAL = "results"
# What is in this group and counts; the rest says where the data lie, which a copy may change.
_OURS = ("hpcio/target", "hpcio/state", "hpcio/checksum", RECORDINGS, RECORDING_OF, OUTPUTS)
# Datasets of more values are read in parts.
_LONG = 1 << 17
# Attributes that refer to other objects, or say how the data are stored; a copy has others.
_NOT_KEPT = ("DIMENSION_LIST", "DIMENSION_LABELS", "REFERENCE_LIST", "compression")


def names_of_results(file: h5py.File) -> list[str]:
    """The datasets that are results: ``data`` alone, or one for each of several of a call."""
    names: list[str] = json.loads(read_text(file, SEVERAL, '["data"]'))
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"its attribute '{SEVERAL}' names no datasets")
    return names


def keep_sums(file: h5py.File) -> None:
    """Keep checksums of all that a result holds besides its data."""
    results = names_of_results(file)
    # Of these only the attributes: the data have checksums of their own.
    alone = ("/", *results, "hpcio")
    things: dict[str, list[Any]] = {name: [None, _sums_of_attributes(file[name])] for name in alone}
    ours = (name for name in _OURS if name in file)
    longest = _longest(file)
    for name in (*(name for name in file if name not in alone), *ours):
        for path, thing in _all_in(name, file[name]):
            values = _sum_of(thing, longest) if isinstance(thing, h5py.Dataset) else None
            things[path] = [values, _sums_of_attributes(thing)]
    kept = json.dumps([things, [axis for name in results for axis in _axes(file[name])]])
    file[KEPT] = np.frombuffer(kept.encode(), np.uint8)


def differing(file: h5py.File) -> list[str] | None:
    """What is gone or differs of all that a result holds besides its data, in words.

    What others have added since under names of its own does not matter.

    Returns
    -------
    list of str or None
        None if there are no checksums, as in results of earlier versions.
    """
    if KEPT not in file:
        return None
    plain = file[KEPT].file  # whose data are those of HDF5, of any number of parts
    try:
        kept = json.loads(read_table(plain[KEPT]).tobytes())
        # Earlier versions kept less: see `_older_sum_of`.
        return list(_older(plain, kept) if isinstance(kept, dict) else _newer(plain, *kept))
    except DAMAGE:
        return [f"'{KEPT}'"]


def _newer(file: h5py.File, things: dict[str, Any], axes: list[Any]) -> Iterator[str]:
    longest = _longest(file)
    for name, (values, attributes) in things.items():
        thing = _thing(file, name)
        if thing is None:
            yield f"'{name}'"
            continue
        if values is not None and _found(thing, longest) != values:
            yield f"'{name}'"
        of = "" if name == "/" else f" of '{name}'"
        for key, expected in attributes.items():
            if _found(thing, longest, key) != expected:
                yield f"the attribute '{key}'{of}"
    try:
        there = [axis for name in names_of_results(file) for axis in _axes(file[name])]
    except DAMAGE:
        there = [["", []] for _ in axes]
    for k, ((label, scales), (found, attached)) in enumerate(zip(axes, there, strict=True)):
        if label and found != label:
            yield f"the label of axis {k}"
        if not set(scales) <= set(attached):
            yield f"the scale of axis {k}"


def _thing(file: h5py.File, name: str) -> h5py.Dataset | h5py.Group | None:
    try:
        return file[name]
    except DAMAGE:  # gone, or HDF5 cannot make sense of it
        return None


def _found(thing: h5py.Dataset | h5py.Group, longest: int, key: str | None = None) -> int | None:
    """The checksum of the values of a dataset, or of an attribute; None if it makes no sense."""
    try:
        return _sum_of(thing, longest) if key is None else _sum(np.asarray(thing.attrs[key]))
    except DAMAGE:
        return None


# ---------------------------------------------------------------------- what is summed


def _all_in(path: str, thing: h5py.Dataset | h5py.Group) -> Iterator[tuple[str, Any]]:
    """A thing, and all that is in it if it is a group, with their paths."""
    yield path, thing
    if isinstance(thing, h5py.Group):
        for name in thing:
            yield from _all_in(f"{path}/{name}", thing[name])


def _sums_of_attributes(thing: h5py.Dataset | h5py.Group) -> dict[str, int]:
    return {key: _sum(np.asarray(thing.attrs[key])) for key in thing.attrs if key not in _NOT_KEPT}


def _axes(data: h5py.Dataset) -> list[Any]:
    """The label of each axis, and the names of its scales: what the references of HDF5 mean."""
    if not has_sound_scales(data):
        raise ValueError("its axes have scales or labels that HDF5 cannot read")
    return [[dim.label, [scale.name for scale in dim.values()]] for dim in data.dims]


def _longest(file: h5py.File) -> int:
    """The length of the longest axis of any result: no scale, or column, has more values."""
    return max((n for name in names_of_results(file) for n in file[name].shape), default=1)


def _sum_of(dataset: h5py.Dataset, longest: int) -> int:
    if dataset.ndim == 1 and _LONG < dataset.size <= longest and not dataset.dtype.hasobject:
        found = StreamedChecksum(seed=_seed_of(dataset[:0].dtype, dataset.shape))
        for part in parts_of(dataset.size):
            found.update(_bytes_of(dataset[part]))
        return int(found.intdigest())
    return _sum(np.asarray(_values(dataset, longest)))


def _values(dataset: h5py.Dataset, longest: int) -> Any:
    # A scale may be as long as its axis and hold nothing.
    return dataset[()] if (dataset.size or 0) <= longest else read_table(dataset)


def _sum(array: np.ndarray) -> int:
    """One checksum of values and of their type: the same bytes of another type mean another."""
    return checksum(_bytes_of(array), _seed_of(array.dtype, array.shape))


def _seed_of(dtype: np.dtype, shape: tuple[int, ...]) -> int:
    return checksum(f"{_meaning(dtype)} {shape}".encode())


def _bytes_of(array: np.ndarray) -> bytes | np.ndarray:
    if array.dtype.hasobject:
        return repr(array.tolist()).encode()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8) if array.size else b""


def _meaning(dtype: np.dtype) -> str:
    """All that says what bytes of a type mean: byte order, names, places, text, enumeration."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return f"{shape} of {_meaning(base)}"
    if dtype.fields is not None:
        fields = [f"{name!r} {at[1]} {_meaning(at[0])}" for name, at in dtype.fields.items()]
        return f"{dtype.itemsize} of {fields}"
    text, names = h5py.check_string_dtype(dtype), h5py.check_enum_dtype(dtype)
    return f"{dtype.str} {tuple(text or ())} {sorted((names or {}).items())}"


# ---------------------------------------------------------------------- results of earlier versions


def _older(file: h5py.File, kept: dict[str, Any]) -> Iterator[str]:
    for name, expected in kept.items():
        try:
            same = _older_sum_of(file[name]) == expected
        except DAMAGE:
            same = False
        if not same:
            yield f"'{name}'"


def _older_sum_of(thing: h5py.Dataset | h5py.Group, name: str = "", total: int = 0) -> int:
    """One checksum of a dataset, or of a group with its attributes; of values, not of types."""
    if isinstance(thing, h5py.Dataset):
        return _older_sum(name, _values(thing, _longest(thing.file)), total)
    for key in sorted(thing.attrs):
        total = _older_sum(f"{name}@{key}", thing.attrs[key], total)
    for key in sorted(thing):
        total = _older_sum_of(thing[key], f"{name}/{key}", total)
    return total


def _older_sum(name: str, values: Any, total: int) -> int:
    array = np.asarray(values)
    return checksum(f"{name} {array.shape} ".encode() + bytes(_bytes_of(array)), total)
