"""Arrays of whole numbers with an entry for each trial or block, in memory once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import numpy as np

__all__ = ["Once", "hold_once", "memory_of"]

# Arrays of fewer bytes are not worth a look.
_MANY = 1 << 16


class Once:
    """Gives for each array one of the same values, of those that it has given before if it can.

    An array of one value alone takes no memory. Nobody else may have made the arrays, or change
    them: what is given cannot be written to.
    """

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []

    def __call__(self, array: np.ndarray) -> np.ndarray:
        """The array for this one."""
        if not _is_worth_it(array):
            return array
        once = self.instead_of(array)
        if once is array and not any(array is one for one in self._kept):
            array.flags.writeable = False
            self._kept.append(array)
        return once

    def instead_of(self, array: np.ndarray) -> np.ndarray:
        """Likewise for an array that somebody else may change: it is not kept for others."""
        if not _is_worth_it(array) or any(array is one for one in self._kept):
            return array
        if array[0] == array[-1] and (array == array[0]).all():
            return np.broadcast_to(array[0].copy(), array.shape)
        ends = array[0], array[array.size // 2], array[-1]
        for one in self._kept:
            # Most differ at their ends.
            if (
                (one.dtype, one.shape) == (array.dtype, array.shape)
                and ends == (one[0], one[one.size // 2], one[-1])
                and np.array_equal(one, array)
            ):
                return one
        return array


def _is_worth_it(array: np.ndarray) -> bool:
    many = array.ndim == 1 and array.dtype.kind in "iu" and array.nbytes >= _MANY
    return many and array.strides != (0,)


def hold_once(ours: Iterable[Any], others: Iterable[Any]) -> None:
    """Let dataclasses hold equal arrays in memory once.

    Of a million trials, that is half of a plan, in each process that has it. Nothing else changes:
    each field keeps the values that it has.

    Parameters
    ----------
    ours : iterable of dataclass
        Nobody else has made their arrays.
    others : iterable of dataclass
        Their arrays give way to equal ones of `ours`, and never the other way round.
    """
    once = Once()
    for holders, instead in ((ours, once), (others, once.instead_of)):
        for holder in holders:
            for field in fields(holder):
                array = getattr(holder, field.name)
                if isinstance(array, np.ndarray):
                    object.__setattr__(holder, field.name, instead(array))


def memory_of(holders: Iterable[Any]) -> int:
    """Bytes of memory that the arrays of dataclasses lie in; those of one value need none."""
    found = {}
    for holder in holders:
        for field in fields(holder):
            array = getattr(holder, field.name)
            if isinstance(array, np.ndarray) and array.strides != (0,):
                found[array.__array_interface__["data"][0]] = array.nbytes
    return sum(found.values())
