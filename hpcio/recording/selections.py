"""Selections along one axis of an array: checked, and turned into regions that HDF5 reads."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hpcio.errors import TrialError

__all__ = [
    "Cut",
    "Selectable",
    "Selection",
    "axis_of",
    "check_range",
    "cut_out",
    "entries_of",
    "integer",
    "plain_slice",
    "resolve",
    "selection_of",
    "show",
    "take",
]

Selection = slice | tuple[int, ...] | None
Selectable = slice | npt.ArrayLike | None


class Cut(NamedTuple):
    """A selection along one axis: the regular region to read, and what to take of it."""

    region: range
    take: range | tuple[int, ...] | None  # None: all of it, in order


def resolve(selection: Selection, size: int) -> range | npt.NDArray[np.int64]:
    """The entries that a (checked) selection takes of an axis, counted from 0."""
    if selection is None:
        return range(size)
    if isinstance(selection, slice):
        return range(*selection.indices(size))
    entries = np.array(selection, np.int64)
    return np.where(entries < 0, entries + size, entries)


def cut_out(entries: range | npt.NDArray[np.int64]) -> Cut:
    """The smallest regular region that holds all `entries`, and their places in it."""
    if isinstance(entries, range):
        if len(entries) == 1:
            return Cut(range(entries[0], entries[0] + 1), None)
        ordered = entries if entries.step > 0 else entries[::-1]
        take = None if ordered is entries else range(len(entries) - 1, -1, -1)
        return Cut(range(ordered[0], ordered[-1] + 1, ordered.step), take)
    distinct = np.unique(entries)
    step = int(np.gcd.reduce(np.diff(distinct))) or 1  # 0: there is one entry only
    region = range(int(distinct[0]), int(distinct[-1]) + 1, step)
    places = (entries - region.start) // step
    if np.array_equal(places, np.arange(len(region))):
        return Cut(region, None)
    return Cut(region, tuple(places.tolist()))


def show(selection: Selection) -> str:
    """A selection as one would type it, shortened."""
    if isinstance(selection, slice):
        ends = [selection.start, selection.stop, selection.step]
        return ":".join("" if end is None else str(end) for end in ends).removesuffix(":")
    entries = selection or ()
    if len(entries) <= 8:
        return str(list(entries))
    return f"[{', '.join(map(str, entries[:6]))}, ...] ({len(entries)} entries)"


def integer(value: Any, name: str) -> int:
    """A whole number, or a TrialError that names `name`."""
    if not isinstance(value, bool | np.bool_):  # True would silently be 1
        try:
            return operator.index(value)
        except TypeError:
            pass  # said below, for both
    raise TrialError(f"'{name}' is {value!r}. Give a whole number.")


def plain_slice(value: slice, name: str) -> slice:
    """A slice of plain ints, or a TrialError that names `name`."""
    ends = (value.start, value.stop, value.step)
    start, stop, step = (None if end is None else integer(end, name) for end in ends)
    if step == 0:
        raise TrialError(f"The step of the slice '{name}' is 0. Give another step.")
    return slice(start, stop, step)


def selection_of(value: Any, name: str) -> Selection:
    """A selection of time or channels, checked, as a slice, a tuple or None."""
    if value is None:
        return None
    if isinstance(value, slice):
        return plain_slice(value, name)
    entries = tuple(entries_of(value, name, kinds="iu").tolist())
    if not entries:
        raise TrialError(f"The selection of '{name}' is empty. Select at least one entry.")
    return entries


def entries_of(value: Any, name: str, *, kinds: str) -> npt.NDArray[Any]:
    """A sequence of int (or a mask, if `kinds` has b) as a one-dimensional array."""
    try:
        entries = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise TrialError(f"'{name}' is no flat sequence. Give a list of whole numbers.") from error
    if entries.shape == (0,):
        return entries.astype(np.int64)  # an empty list has no type of its own
    if entries.ndim != 1 or entries.dtype.kind not in kinds:
        mask = ", such as np.flatnonzero(mask)" if entries.dtype.kind == "b" else ""
        raise TrialError(
            f"'{name}' cannot be selected by a value of type {entries.dtype} and shape "
            f"{entries.shape}. Give a slice or a flat list of whole numbers{mask}."
        )
    return entries


def check_range(entries: npt.NDArray[Any], size: int, what: str, has: str) -> None:
    """Raise TrialError if an index lies outside of an axis of `size`."""
    outside = (entries >= size) | (entries < -size)
    if outside.any():
        raise TrialError(
            f"{what} {entries[np.argmax(outside)]} does not exist: {has}. "
            f"Choose from 0 to {size - 1}."
        )


def axis_of(axis: int, what: str, shape: tuple[int, ...], name: str) -> int:
    """`axis` of a recording, counted from 0."""
    if not -len(shape) <= axis < len(shape):
        raise TrialError(
            f"The {what} {axis} does not exist: {name} has the shape {shape}. "
            + (f"Choose from 0 to {len(shape) - 1}." if shape else "Choose another dataset.")
        )
    return axis % len(shape)


def take(array: np.ndarray, sigrid: Sequence[Sequence[int]] | None) -> np.ndarray:
    """``array[np.ix_(*sigrid)]``, axis by axis; axes that are taken whole cost nothing."""
    for axis, indices in enumerate(sigrid or ()):
        if not isinstance(indices, range) or indices != range(array.shape[axis]):
            array = np.take(array, np.ix_(indices)[0], axis)
    return array
