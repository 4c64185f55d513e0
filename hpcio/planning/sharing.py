"""Arrays of whole numbers with an entry for each trial or block, in memory once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np

__all__ = ["hold_once"]

# Arrays of fewer bytes are not worth a look.
_MANY = 1 << 16


def hold_once(ours: Iterable[Any], others: Iterable[Any]) -> None:
    """Let dataclasses hold equal arrays in memory once, and one value instead of many equal ones.

    Of a million trials, that is half of a plan, in each process that has it. Nothing else changes:
    each field keeps the values that it has.

    Parameters
    ----------
    ours : iterable of dataclass
        Nobody else has made or changes their arrays. What is held once cannot be written to.
    others : iterable of dataclass
        Their arrays give way to equal ones of `ours`, and never the other way round.
    """
    kept: list[np.ndarray] = []
    for holder in ours:
        for name, array in _arrays_of(holder):
            once = _once(array, kept)
            if once is array:
                array.flags.writeable = False
                kept.append(array)
            object.__setattr__(holder, name, once)
    for holder in others:
        for name, array in _arrays_of(holder):
            object.__setattr__(holder, name, _once(array, kept))


def _arrays_of(holder: Any) -> Iterable[tuple[str, np.ndarray]]:
    for field in fields(holder):
        array = getattr(holder, field.name)
        if (
            isinstance(array, np.ndarray)
            and array.ndim == 1
            and array.dtype.kind in "iu"
            and array.nbytes >= _MANY
        ):
            yield field.name, array


def _once(array: np.ndarray, kept: list[np.ndarray]) -> np.ndarray:
    """The same values, in memory that is there anyhow if there is such."""
    if array.strides == (0,) or any(array is one for one in kept):
        return array
    if array[0] == array[-1] and (array == array[0]).all():
        return np.broadcast_to(array[0].copy(), array.shape)
    ends = array[0], array[array.size // 2], array[-1]
    for one in kept:
        # Most differ at their ends.
        same = one.dtype == array.dtype and one.shape == array.shape
        if same and ends == (one[0], one[one.size // 2], one[-1]) and np.array_equal(one, array):
            return one
    return array
