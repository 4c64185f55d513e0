"""Averages over trials, in float64 and in an order that the plan fixes.

Consecutive trials form groups. One process adds up a group, from its first trial to its last. At
the end the groups are added in their order. Adding floats in another order gives other bits. This
order is the same for any number of workers, for any executor, and after any kill.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from hpcio.errors import OptionError
from hpcio.layout.target import Target

__all__ = ["Average", "Moments", "Reduce", "averaged", "combine"]

Reduce = Literal["mean", "sum", "var"]

# A stop loses the group at work, so groups are small. Each is kept until the end, so their number
# and their bytes together are limited, but there are at least the fewest.
MOST_GROUPS = 512
MOST_BYTES = 4 << 30
FEWEST_GROUPS = 64


@dataclass(frozen=True)
class Average:
    """The average that is made of the results of all trials.

    Attributes
    ----------
    what : {"mean", "sum", "var"}
    trials : int
        Trials in one group.
    channel_blocks : int
        Channel blocks of each trial.
    dtype : numpy.dtype
        Type of the result of one block, before it is added.
    """

    what: Reduce
    trials: int
    channel_blocks: int
    dtype: np.dtype

    @property
    def blocks_per_group(self) -> int:
        """How many consecutive blocks form one group."""
        return self.trials * self.channel_blocks

    def __str__(self) -> str:
        return f"the {'variance' if self.what == 'var' else self.what} of all trials"

    @property
    def parts(self) -> int:
        """Arrays that are kept of each group."""
        return 2 if self.what == "var" else 1

    def sum_of(self, block: np.ndarray) -> np.ndarray:
        """The number of the sum of each block: every group has a sum for each channel block."""
        trial, channel = np.divmod(block, self.channel_blocks)
        number: np.ndarray = trial // self.trials * self.channel_blocks + channel
        return number


def averaged(target: Target, channel_blocks: int, reduce: Reduce | None) -> tuple[Target, Average]:
    """The layout of an average, given that of stacked results.

    Returns
    -------
    Target
        All trials share one region for each channel block: where its average will be.
    Average
    """
    what: Reduce = "mean" if reduce is None else reduce
    if what not in ("mean", "sum", "var"):
        raise OptionError(f"reduce='{what}' is unknown. Choose mean, sum or var.")
    trials = target.shape_index.size // channel_blocks
    nbytes = target.nbytes // trials // target.dtype.itemsize * 16
    groups = max(FEWEST_GROUPS, min(MOST_GROUPS, MOST_BYTES // max(nbytes, 1)))
    complex_ = target.dtype.kind == "c" and what != "var"
    dtype = np.dtype(np.complex128 if complex_ else np.float64)
    average = Average(what, math.ceil(trials / groups), channel_blocks, target.dtype)
    zeros = np.zeros_like(target.start)
    if not target.shape[1:]:  # results without axes: a dataset of one number
        return replace(target, shape=(1,), dtype=dtype, start=zeros), average
    channel_axis = None if target.channel_axis is None else target.channel_axis - 1
    layout = replace(
        target, shape=target.shape[1:], dtype=dtype, axis=0, channel_axis=channel_axis,
        start=zeros, stacked=False,
    )  # fmt: skip
    return layout, average


class Moments:
    """The count of some arrays, their sum or mean, and their squared deviations from it.

    The variance is updated array by array (Welford, Technometrics 4, 1962), and parts are joined
    (Chan, Golub and LeVeque, The American Statistician 37, 1983). Sums of squares would cancel
    where the mean is large.

    Parameters
    ----------
    average : Average
    shape : tuple of int
        Shape of each array.
    """

    def __init__(self, average: Average, shape: tuple[int, ...]) -> None:
        kind = np.complex128 if average.dtype.kind == "c" else np.float64
        self.count = 0
        self.level: np.ndarray = np.zeros(shape, kind)  # the sum; for the variance the mean
        self.spread: np.ndarray | None = np.zeros(shape) if average.what == "var" else None

    def add(self, array: np.ndarray) -> None:
        """Add one array."""
        self.count += 1
        if self.spread is None:
            self.level += array
            return
        before = array - self.level
        self.level += before / self.count
        self.spread += (np.conj(before) * (array - self.level)).real

    def join(self, other: Self) -> None:
        """Add all arrays of another, which come after these."""
        if self.spread is None or other.spread is None:
            self.count += other.count
            self.level += other.level
            return
        count = self.count + other.count
        between = other.level - self.level
        self.level += between * (other.count / count)
        self.spread += other.spread
        self.spread += (np.conj(between) * between).real * (self.count * other.count / count)
        self.count = count

    def parts(self) -> list[np.ndarray]:
        """The arrays that, with the count, say everything."""
        return [self.level] if self.spread is None else [self.level, self.spread]


def combine(average: Average, shape: tuple[int, ...], parts: Iterable[Moments]) -> np.ndarray:
    """The average of some groups, added in the given order; NaN if there are no trials."""
    whole = Moments(average, shape)
    for part in parts:
        whole.join(part)
    if average.what == "sum":
        return whole.level
    if not whole.count:
        return np.full(shape, np.nan, whole.level.dtype if average.what == "mean" else np.float64)
    if whole.spread is not None:
        return whole.spread / whole.count
    return whole.level / whole.count
