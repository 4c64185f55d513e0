"""Averages over trials, in float64 and in an order that the plan fixes.

Consecutive trials form groups. One process adds up a group, from its first trial to its last. At
the end the groups are added in their order. Adding floats in another order gives other bits. This
order is the same for any number of workers, for any executor, and after any kill.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from hpcio.errors import OptionError, TrialError
from hpcio.layout.target import Target
from hpcio.recording import Blocks, Trials

__all__ = ["Average", "OwnReduction", "Reduce", "averaged", "check_reduce"]

Reduce = Literal["mean", "sum", "var", "min", "max", "count", "cov"]
_WORDS = {
    "mean": "mean", "sum": "sum", "var": "variance", "min": "minimum", "max": "maximum",
    "count": "number of values that are not NaN", "cov": "covariance of channels",
}  # fmt: skip

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
    what : {"mean", "sum", "var", "min", "max", "count", "cov", "functions"}
    stretches : tuple of (int, int)
        Where trials were planned together, in order: the first, and the trials in a group from
        there on. No group goes on in the next stretch.
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
    result : tuple of int or None
        Shape of the result of one trial, where the average has another.
    channel_axis : int or None
        Of the covariance: the axis of channels of such a result.
    functions : tuple of str
        Names of the user's own functions, if it is made by such.
    state : numpy.dtype or None
        Of a state of such functions: of one array, or a record of several.
    """

    what: Reduce | Literal["functions"]
    stretches: tuple[tuple[int, int], ...]
    channel_blocks: int
    dtype: np.dtype
    by: tuple[str, ...] = ()
    conditions: int = 1
    condition: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32), repr=False)
    result: tuple[int, ...] | None = None
    channel_axis: int | None = None
    functions: tuple[str, ...] = ()
    state: np.dtype | None = None

    def group_of(self, block: np.ndarray) -> np.ndarray:
        """The number of the group of each block; groups have the order of their blocks."""
        trial = block // self.channel_blocks
        group: np.ndarray = np.zeros(trial.shape, np.int64)
        before = 0
        for k, (first, trials) in enumerate(self.stretches):
            last = self.stretches[k + 1][0] if k + 1 < len(self.stretches) else None
            inside = trial >= first
            group[inside] = before + (trial[inside] - first) // trials
            if last is not None:
                before += math.ceil((last - first) / trials)
        return group

    def __str__(self) -> str:
        by = f" by {' and '.join(self.by)}" if self.by else ""
        if self.what == "functions":
            return f"what {self.name} make of all trials{by}"
        return f"the {_WORDS[self.what]} of all trials{by}"

    @property
    def name(self) -> str:
        """What results call it: as ``reduce`` has it, or the names of the user's functions."""
        return ", ".join(self.functions) or self.what

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

    def first_of(self, block: int) -> int:
        """The first block of the sum that a block goes into.

        By it a sum is known on the disk: later trials may have conditions that none had before.
        """
        trial, channel = divmod(block, self.channel_blocks)
        begin, trials = max(stretch for stretch in self.stretches if stretch[0] <= trial)
        first = begin + (trial - begin) // trials * trials
        if self.condition.size:
            first += int(np.argmax(self.condition[first : trial + 1] == self.condition[trial]))
        return first * self.channel_blocks + channel

    def sum_of(self, block: np.ndarray) -> np.ndarray:
        """The number of the sum of each block."""
        number: np.ndarray = self.group_of(block) * self.slots + self.slot_of(block)
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


@dataclass(frozen=True, eq=False)
class OwnReduction:
    """What is known of three functions of the user's own, once they were tried.

    Attributes
    ----------
    functions : tuple of str
        Their names.
    state : numpy.dtype
        See `Average`.
    shape, dtype
        Of what is stored.
    """

    functions: tuple[str, ...]
    state: np.dtype
    shape: tuple[int, ...]
    dtype: np.dtype


def check_reduce(what: str) -> None:
    """Raise OptionError unless there is such an average."""
    if what == "median":
        raise OptionError(
            "reduce='median' does not exist: a median needs all trials at once, and groups of "
            "trials cannot be joined to one. Keep them (join='stack', without keeptrials=False), "
            "then hpcio.open(out).to_xarray()['data'].median('trial')."
        )
    if what not in _WORDS:
        raise OptionError(
            f"reduce='{what}' is unknown. Choose {', '.join(_WORDS)}, or functions of your own "
            "(FILE.py:NAME)."
        )


def averaged(
    target: Target,
    blocks: Blocks,
    reduce: Reduce | OwnReduction,
    *,
    trials: Trials,
    by: Sequence[str],
    out_channel_axis: int | None,
) -> tuple[Target, Average]:
    """The layout of an average, given that of stacked results.

    Parameters
    ----------
    target : Target
    blocks : Blocks
    reduce : str or OwnReduction
    trials : Trials
    by : sequence of str
        Columns of the trials whose values make conditions, along a first axis of the average.
    out_channel_axis : int or None
        The axis of channels of each result, as the caller says it.

    Returns
    -------
    Target
        All trials share one region for each channel block: where its average will be.
    Average

    Raises
    ------
    OptionError
        If there is no such average of such results.
    """
    if reduce in ("min", "max") and target.dtype.kind == "c":
        raise OptionError(f"reduce='{reduce}' of complex numbers makes no sense. Take their abs().")
    conditions, condition = conditions_of(trials, by) if by else (1, np.zeros(0, np.int32))
    channel_blocks = blocks.channel_blocks
    count = target.shape_index.size // channel_blocks
    shape = target.shape[1:]
    average = Average(
        "functions" if isinstance(reduce, OwnReduction) else reduce, ((0, 1),), channel_blocks,
        target.dtype, tuple(by), conditions, condition,
    )  # fmt: skip
    dtype, nbytes = _type_of(average), math.prod(shape) * 16
    if isinstance(reduce, OwnReduction) or reduce == "cov":
        _refuse_channel_blocks(average)
        average = replace(average, result=shape)
        if isinstance(reduce, OwnReduction):
            average = replace(average, functions=reduce.functions, state=reduce.state)
            dtype, nbytes, shape = reduce.dtype, reduce.state.itemsize, reduce.shape
        else:
            axis = _channel_axis(shape, blocks, out_channel_axis)
            average = replace(average, channel_axis=axis)
            shape = (shape[axis], shape[axis])
            nbytes = math.prod(shape) * 16
        target = replace(target, shape=(count, *shape), shapes=(shape,))
    sums = min(MOST_GROUPS, MOST_BYTES // max(nbytes, 1))
    groups = max(FEWEST_GROUPS, sums // conditions)
    average = replace(average, stretches=((0, math.ceil(count / groups)),))
    if by:
        start = np.repeat(condition.astype(target.start.dtype), channel_blocks)
        return replace(target, shape=(conditions, *shape), dtype=dtype, start=start), average
    zeros = np.zeros_like(target.start)
    if not shape:  # results without axes: a dataset of one number
        return replace(target, shape=(1,), dtype=dtype, start=zeros), average
    channel_axis = None if target.channel_axis is None else target.channel_axis - 1
    layout = replace(
        target, shape=shape, dtype=dtype, axis=0, channel_axis=channel_axis, start=zeros,
        stacked=False,
    )  # fmt: skip
    return layout, average


def _refuse_channel_blocks(average: Average) -> None:
    if average.channel_blocks > 1:
        what = "The covariance" if average.what == "cov" else "An average by functions of your own"
        raise OptionError(
            f"{what} needs all channels of a trial at once, and channels_per_block cuts each trial "
            f"into {average.channel_blocks} blocks. Leave out channels_per_block."
        )


def _channel_axis(shape: tuple[int, ...], blocks: Blocks, given: int | None) -> int:
    """The axis of channels of each result, for the covariance.

    Without a word of the caller it is that of the recording, if it is as long in the result.
    """
    said = f"reduce='cov' needs the axis of channels of each result, which has shape {shape}"
    if given is not None:
        if not -len(shape) <= given < len(shape):
            raise OptionError(
                f"{said}: there is no axis {given}. Correct out_channel_axis, from 0 to "
                f"{len(shape) - 1}."
            )
        return given % len(shape)
    if len(shape) == 1:
        return 0
    axis = blocks.channel_axis
    read = None if axis is None else blocks.input_kinds[0].inshape[axis]
    if axis is None or axis >= len(shape) or shape[axis] != read:
        known = "" if axis is None else f"; trials have {read} channels, on axis {axis}"
        raise OptionError(f"{said}{known}. Say out_channel_axis=.")
    return axis


def _type_of(average: Average) -> np.dtype:
    """The type of an average."""
    if average.what == "count":
        return np.dtype(np.int64)
    is_complex = average.dtype.kind == "c" and average.what in ("mean", "sum", "cov")
    return np.dtype(np.complex128 if is_complex else np.float64)
