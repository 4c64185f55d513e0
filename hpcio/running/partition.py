"""How blocks are divided among workers, and how numbers of blocks travel."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hpcio.planning import Plan, block_memory

__all__ = ["batches_of", "divide", "from_runs", "runs"]


def batches_of(plan: Plan, blocks: np.ndarray, count: int) -> list[np.ndarray]:
    """Cut blocks into batches that need about equal memory, groups of an average kept together.

    Parameters
    ----------
    plan : Plan
    blocks : numpy.ndarray of int, shape (n,)
        Numbers of blocks, ascending.
    count : int
        How many batches at the most.

    Returns
    -------
    list of numpy.ndarray of int
        Numbers of blocks; none of them empty, together every block once, in order.
    """
    parts = divide(block_memory(plan)[blocks], count, together=plan.group_of(blocks))
    return [blocks[part] for part in parts]


def divide(
    sizes: np.ndarray, parts: int, *, together: np.ndarray | None = None
) -> list[np.ndarray]:
    """Cut positions ``0 .. n-1`` into runs of about equal bytes.

    Parameters
    ----------
    sizes : numpy.ndarray, shape (n,)
        Bytes of each.
    parts : int
        How many runs at the most.
    together : numpy.ndarray, shape (n,), optional
        Neighbours with equal values are not separated.

    Returns
    -------
    list of numpy.ndarray of int64
        None of them empty; together every position once, in order.
    """
    count = sizes.size
    if not count:
        return []
    parts = max(1, min(parts, count))
    work = np.cumsum(np.maximum(sizes, 1), dtype=np.float64)
    # A run ends where the work before the middle of a block passes its share.
    middle = work - np.maximum(sizes, 1) / 2
    part = np.minimum((middle / work[-1] * parts).astype(np.int64), parts - 1)
    if together is not None:
        begins = np.diff(together, prepend=together[:1] - 1) != 0
        part = part[begins][np.cumsum(begins) - 1]
    edges = np.flatnonzero(np.diff(part)) + 1
    return np.split(np.arange(count, dtype=np.int64), edges)


def runs(blocks: np.ndarray) -> list[list[int]]:
    """Ascending numbers as ``[first, last)`` of each run of consecutive ones."""
    if not blocks.size:
        return []
    edges = np.flatnonzero(np.diff(blocks) != 1) + 1
    return [[int(r[0]), int(r[-1]) + 1] for r in np.split(blocks, edges)]


def from_runs(pieces: Iterable[list[int]]) -> np.ndarray:
    """What `runs` took apart."""
    some = [np.arange(a, b, dtype=np.int64) for a, b in pieces]
    return np.concatenate([np.zeros(0, np.int64), *some])
