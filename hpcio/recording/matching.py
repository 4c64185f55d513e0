"""Which entries of a column are wanted, for `Trials.where` and `Electrodes.where`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcio.errors import TrialError

__all__ = ["all_matching"]


def all_matching(
    column: Callable[[str], npt.NDArray[Any]],
    wanted: Mapping[str, Any],
    *,
    count: int,
    counted: str,
) -> npt.NDArray[np.int64]:
    """The places at which all columns have what is wanted of them.

    Parameters
    ----------
    column : callable
        Gives a column by its name.
    wanted : mapping
        See `Trials.where`.
    count : int
        How many places there are.
    counted : str
        What they are, for messages.

    Raises
    ------
    TrialError
        If nothing is left.
    """
    left = np.ones(count, bool)
    for name, value in wanted.items():
        values = column(name)
        left &= _matching(name, values, value)
        if not left.any():
            raise TrialError(
                f"No {counted} is left with {name}={value!r:.100}. {_values_of(name, values)}"
            )
    return np.flatnonzero(left)


def _matching(name: str, column: npt.NDArray[Any], wanted: Any) -> npt.NDArray[np.bool_]:
    """Which entries of a column are wanted."""
    if callable(wanted):
        mask = np.asarray(wanted(column))
        if mask.dtype != bool or mask.shape != column.shape:
            raise TrialError(f"The function for '{name}' gives no mask: one bool for each value.")
        return mask
    if isinstance(wanted, tuple):
        if len(wanted) != 2 or column.dtype.kind not in "iuf":
            raise TrialError(
                f"{name}={wanted!r:.100} is no pair of least and most of a column of numbers. Give "
                "a list of values."
            )
        least, most = wanted
        return np.asarray(
            (True if least is None else column >= least)
            & (True if most is None else column <= most)
        )
    values = wanted if isinstance(wanted, list | set | np.ndarray) else [wanted]
    mask = np.zeros(column.shape, bool)
    for value in values:
        if isinstance(value, str) != (column.dtype.kind == "U"):
            raise TrialError(f"{name}={value!r:.100} is never so. {_values_of(name, column)}")
        mask |= column == value
    return mask


def _values_of(name: str, column: npt.NDArray[Any]) -> str:
    """The values of a column, in a sentence."""
    distinct = np.unique(column)
    if column.dtype.kind == "f" and len(distinct) > 8:
        return f"The values of '{name}' lie from {np.nanmin(column)} to {np.nanmax(column)}."
    shown = ", ".join(repr(v) for v in distinct[:8].tolist()) + ", ..." * (len(distinct) > 8)
    return f"The values of '{name}' are {shown}."
