"""Indices of arrays, by the rules of h5py."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Rows", "entries_of"]

# Entries of an axis, ascending.
Rows = range | np.ndarray


def entries_of(key: Any, shape: tuple[int, ...]) -> tuple[list[Rows], tuple[Any, ...]]:
    """The entries of each axis that an index takes, and what to take of the array of these.

    Parameters
    ----------
    key : slice, int, sorted list, mask of one axis, ..., or a tuple of these
        At most one of them is a list or mask.
    shape : tuple of int

    Raises
    ------
    TypeError, ValueError, IndexError
        As h5py does.
    """
    parts = [_rows(part, n) for part, n in zip(_expand(key, len(shape)), shape, strict=True)]
    if sum(isinstance(rows, np.ndarray) for rows in parts) > 1:
        raise TypeError("Only one indexing vector or array is allowed for fancy indexing")
    dropped = any(isinstance(rows, int) for rows in parts)
    index = tuple(0 if isinstance(rows, int) else slice(None) for rows in parts)
    return (
        [range(rows, rows + 1) if isinstance(rows, int) else rows for rows in parts],
        index if dropped else (),
    )


def _expand(key: Any, ndim: int) -> list[Any]:
    """An index with one part for each axis."""
    parts = list(key) if isinstance(key, tuple) else [key]
    dots = [k for k, part in enumerate(parts) if part is Ellipsis]
    missing = ndim - len(parts) + len(dots)
    if len(dots) > 1 or missing < 0:
        raise ValueError(f"{len(parts) - len(dots)} indices for {ndim} axes. Use one for each.")
    at = dots[0] if dots else len(parts)
    parts[at : at + len(dots)] = [slice(None)] * missing
    return parts


def _rows(part: Any, length: int) -> Rows | int:
    """The rows that one part of an index takes, by the rules of h5py."""
    if isinstance(part, slice):
        rows = range(*part.indices(length))
        if rows.step < 1:
            raise ValueError(f"Step must be >= 1 (got {rows.step})")
        return rows
    array = np.asarray(part)
    if array.dtype == bool and array.ndim == 1:
        if array.size != length:
            raise TypeError("Boolean indexing array has incompatible shape")
        return np.flatnonzero(array)
    if array.shape == (0,):
        return range(0)
    if array.dtype.kind not in "iu" or array.ndim > 1:
        raise TypeError(f"Selection can't process {part!r}")
    if int(array.min()) < -length or int(array.max()) >= length:
        raise IndexError(f"Index out of range for (0-{length - 1})")
    array = array.astype(np.int64)
    array = np.where(array < 0, array + length, array)
    if array.ndim == 0:
        return int(array)
    if (np.diff(array) <= 0).any():
        raise TypeError("Indexing elements must be in increasing order")
    return array
