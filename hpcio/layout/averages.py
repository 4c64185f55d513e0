"""Averages over trials, in float64 and in an order that the plan fixes.

Consecutive trials form groups. One process adds up a group, from its first trial to its last. At
the end the groups are added in their order. Adding floats in another order gives other bits. This
order is the same for any number of workers, for any executor, and after any kill.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self

import numpy as np

from hpcio.errors import OptionError, TrialError
from hpcio.layout.target import Target
from hpcio.recording import Trials

__all__ = ["Average", "Moments", "Reduce", "averaged", "combine"]

Reduce = Literal["mean", "sum", "var", "min", "max", "count"]
_WORDS = {
    "mean": "mean", "sum": "sum", "var": "variance", "min": "minimum", "max": "maximum",
    "count": "number of values that are not NaN",
}  # fmt: skip

# How two levels become one, where they are not added.
_ADD = {"min": np.minimum, "max": np.maximum}
# A stop loses the group at work, so groups are small. Each is kept until the end, so their number
# and their bytes together are limited, but there are at least the fewest.
MOST_GROUPS = 512
MOST_BYTES = 4 << 30
FEWEST_GROUPS = 64


@dataclass(frozen=True, eq=False)
class Average:
    """The average that is made of the results of all trials, or of those of each condition.

    Attributes
    ----------
    what : {"mean", "sum", "var", "min", "max", "count"}
    trials : int
        Trials in one group.
    channel_blocks : int
        Channel blocks of each trial.
    dtype : numpy.dtype
        Type of the result of one block, before it is added.
    by : tuple of str
        The columns of the trials that make conditions; none for one average of all.
    conditions : int
        How many conditions there are.
    condition : numpy.ndarray of int32, shape (N,)
        That of each trial; empty if there is but one.
    """

    what: Reduce
    trials: int
    channel_blocks: int
    dtype: np.dtype
    by: tuple[str, ...] = ()
    conditions: int = 1
    condition: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def blocks_per_group(self) -> int:
        """How many consecutive blocks form one group."""
        return self.trials * self.channel_blocks

    def __str__(self) -> str:
        by = f" by {' and '.join(self.by)}" if self.by else ""
        return f"the {_WORDS[self.what]} of all trials{by}"

    @property
    def parts(self) -> int:
        """Arrays that are kept of each group."""
        return 2 if self.what == "var" else 1

    @property
    def slots(self) -> int:
        """The most sums of a group: one for each condition and channel block."""
        return self.conditions * self.channel_blocks

    def slot_of(self, block: np.ndarray) -> np.ndarray:
        """Which of the sums of its group each block goes into."""
        trial, channel = np.divmod(block, self.channel_blocks)
        slot: np.ndarray = channel
        if self.condition.size:
            slot = self.condition[trial].astype(np.int64) * self.channel_blocks + channel
        return slot

    def sum_of(self, block: np.ndarray) -> np.ndarray:
        """The number of the sum of each block."""
        number: np.ndarray = block // self.blocks_per_group * self.slots + self.slot_of(block)
        return number


def conditions_of(trials: Trials, by: Sequence[str]) -> tuple[int, np.ndarray]:
    """How many conditions some columns of the trials make, and that of each trial.

    They are sorted by their values, those of the first column first.

    Raises
    ------
    TrialError
        If there is no such column, or a value of it is missing.
    """
    code = np.zeros(len(trials), np.int64)
    for name in by:
        if name not in trials.columns:
            raise TrialError(
                f"The trials have no column {name!r} to average by. They have "
                f"{', '.join(trials.columns) or 'none'}."
            )
        column = trials.columns[name]
        if column.dtype.kind == "f" and np.isnan(column).any():
            first = int(trials.index[np.isnan(column)][0])
            raise TrialError(
                f"Trial {first} has no '{name}', and averages by it need one of each. Select those "
                f"that have: trials.where({name}=lambda values: values == values)."
            )
        distinct, each = np.unique(column, return_inverse=True)
        _, code = np.unique(code * len(distinct) + each.reshape(-1), return_inverse=True)
        code = code.reshape(-1).astype(np.int64)
    return int(code.max()) + 1, code.astype(np.int32)


def averaged(
    target: Target, channel_blocks: int, reduce: Reduce | None, *, trials: Trials, by: Sequence[str]
) -> tuple[Target, Average]:
    """The layout of an average, given that of stacked results.

    Parameters
    ----------
    target : Target
    channel_blocks : int
    reduce : str or None
    trials : Trials
    by : sequence of str
        Columns of the trials whose values make conditions, along a first axis of the average.

    Returns
    -------
    Target
        All trials share one region for each channel block: where its average will be.
    Average
    """
    what: Reduce = "mean" if reduce is None else reduce
    if what not in _WORDS:
        raise OptionError(f"reduce='{what}' is unknown. Choose {', '.join(_WORDS)}.")
    if what in ("min", "max") and target.dtype.kind == "c":
        raise OptionError(f"reduce='{what}' of complex numbers makes no sense. Take their abs().")
    conditions, condition = conditions_of(trials, by) if by else (1, np.zeros(0, np.int32))
    count = target.shape_index.size // channel_blocks
    nbytes = target.nbytes // count // target.dtype.itemsize * 16
    sums = min(MOST_GROUPS, MOST_BYTES // max(nbytes, 1))
    groups = max(FEWEST_GROUPS, sums // conditions)
    average = Average(
        what, math.ceil(count / groups), channel_blocks, target.dtype, tuple(by), conditions,
        condition,
    )  # fmt: skip
    dtype = _type_of(average)
    if by:
        start = np.repeat(condition.astype(target.start.dtype), channel_blocks)
        shape = (conditions, *target.shape[1:])
        return replace(target, shape=shape, dtype=dtype, start=start), average
    zeros = np.zeros_like(target.start)
    if not target.shape[1:]:  # results without axes: a dataset of one number
        return replace(target, shape=(1,), dtype=dtype, start=zeros), average
    channel_axis = None if target.channel_axis is None else target.channel_axis - 1
    layout = replace(
        target, shape=target.shape[1:], dtype=dtype, axis=0, channel_axis=channel_axis,
        start=zeros, stacked=False,
    )  # fmt: skip
    return layout, average


def _type_of(average: Average) -> np.dtype:
    """The type of an average."""
    if average.what == "count":
        return np.dtype(np.int64)
    is_complex = average.dtype.kind == "c" and average.what in ("mean", "sum")
    return np.dtype(np.complex128 if is_complex else np.float64)


class Moments:
    """The count of some arrays, their sum or mean, and their squared deviations from it.

    Of a minimum, a maximum or a number of values that is the level.

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
        kind = _type_of(average)
        if average.what == "var" and average.dtype.kind == "c":
            kind = np.dtype(np.complex128)
        self.count = 0
        # The sum; for the variance the mean.
        begin = {"min": np.inf, "max": -np.inf}.get(average.what, 0)
        self.level: np.ndarray = np.full(shape, begin, kind)
        self._add = _ADD.get(average.what, np.add)
        self._is_count = average.what == "count"
        self.spread: np.ndarray | None = np.zeros(shape) if average.what == "var" else None

    def add(self, array: np.ndarray) -> None:
        """Add one array."""
        self.count += 1
        if self.spread is None:
            self._add(self.level, ~np.isnan(array) if self._is_count else array, out=self.level)
            return
        before = array - self.level
        self.level += before / self.count
        self.spread += (np.conj(before) * (array - self.level)).real

    def join(self, other: Self) -> None:
        """Add all arrays of another, which come after these."""
        if self.spread is None or other.spread is None:
            self.count += other.count
            self._add(self.level, other.level, out=self.level)
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
    if average.what in ("sum", "count"):
        return whole.level
    if not whole.count:
        return np.full(shape, np.nan, whole.level.dtype if average.what == "mean" else np.float64)
    if whole.spread is not None:
        return whole.spread / whole.count
    return whole.level / whole.count if average.what == "mean" else whole.level
