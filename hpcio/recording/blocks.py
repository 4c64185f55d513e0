"""Blocks: what each call of the function reads, derived from the trials and a shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcio.errors import TrialError
from hpcio.recording.clocks import Clock
from hpcio.recording.selections import (
    Cut,
    Selection,
    axis_of,
    check_range,
    cut_out,
    integer,
    resolve,
    selection_of,
    show,
)
from hpcio.recording.tables import COLUMNS, check_rows, checked_columns
from hpcio.recording.windows import Outside
from hpcio.words import count

__all__ = ["SELECTED", "Blocks", "InputKind", "TrialRows", "lay_over"]

# The fields of trials that say what is selected of each.
SELECTED = ("time", "channels", "channel_axis", "channels_per_block")
# The fields of blocks with an entry for each.
_OF_EACH = ("trial", "base", "input_kind", "channel_block")


@dataclass(frozen=True, eq=False, repr=False)
class TrialRows:
    """Which rows make which trial, and what is selected of them: the fields of `hpcio.Trials`.

    Raises
    ------
    TrialError
        If the values do not make trials; the message names the first trial at fault.
    """

    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    axis: int = 0
    time: Selection = None
    channels: Selection = None
    channel_axis: int | None = None
    channels_per_block: int | None = None
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    outside: Outside = "error"
    clock: Clock | None = None
    rows_of: str = ""

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # the dataclass is frozen for everybody else
        for name in (*COLUMNS, "index"):
            column = np.asarray(getattr(self, name))
            if column.dtype.kind not in "iu" or column.shape != (np.size(self.start),):
                raise TrialError(
                    f"'{name}' has the type {column.dtype} and the shape {column.shape}. Give "
                    "whole numbers, one for each trial, or use Trials.from_array."
                )
            set_field(self, name, column.astype(np.int64, copy=False))
        check_rows(self.start, self.stop, lambda k: f"Trial {self.index[k]}")
        set_field(self, "axis", integer(self.axis, "axis"))
        set_field(self, "time", selection_of(self.time, "time"))
        set_field(self, "channels", selection_of(self.channels, "channels"))
        if self.channel_axis is not None:
            set_field(self, "channel_axis", integer(self.channel_axis, "channel_axis"))
        if self.channels_per_block is not None:
            size = integer(self.channels_per_block, "channels_per_block")
            if size < 1:
                raise TrialError(f"channels_per_block is {size}. Give 1 or more.")
            set_field(self, "channels_per_block", size)
        set_field(self, "columns", checked_columns(self.columns, len(self.start)))

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True, eq=False)
class InputKind:
    """How blocks of one shape are read, counted from the start of their trial.

    Attributes
    ----------
    inshape : tuple of int
        Shape of the array that the compute function gets.
    grid : tuple of slice
        The region to read, one slice with explicit int start, stop and positive step for each
        axis. Along the stacking axis it counts from the trial's start, elsewhere from 0.
    sigrid : tuple of (range or tuple of int), or None
        Unless None, index the array read by ``np.ix_(*sigrid)``: one sequence for each axis,
        relative to the region read. An evenly spaced one is a ``range``, which stays small
        however long the trial is.
    channels : tuple of int
        ``(first, last)``: the block holds the selected channels ``[first, last)``, counted in
        the order of the selection. ``(0, 0)`` if the recording has no channel axis.
    """

    inshape: tuple[int, ...]
    grid: tuple[slice, ...]
    sigrid: tuple[range | tuple[int, ...], ...] | None = field(repr=False)
    channels: tuple[int, int]


@dataclass(frozen=True, eq=False, repr=False)
class Blocks:
    """All blocks of a recording: the channel blocks of trial 0, then those of trial 1, ...

    Attributes
    ----------
    axis : int
        Stacking axis, not negative.
    channel_axis : int or None
        Channel axis, not negative; None if the recording has none, or it is not known.
    trial : int64 array (B,)
        Position of the block's trial in the (selected) trials.
    base : int64 array (B,)
        Row of the recording at which that trial starts.
    input_kind : int32 array (B,)
        Index into `input_kinds`.
    channel_block : int32 array (B,)
        Number of the channel block within its trial; 0 when channels are not cut.
    input_kinds : tuple of InputKind
    channel_blocks : int
        Channel blocks of each trial; 1 when channels are not cut.
    """

    axis: int
    channel_axis: int | None
    trial: npt.NDArray[np.int64]
    base: npt.NDArray[np.int64]
    input_kind: npt.NDArray[np.int32]
    channel_block: npt.NDArray[np.int32]
    input_kinds: tuple[InputKind, ...]
    channel_blocks: int

    def __len__(self) -> int:
        return len(self.trial)

    def __repr__(self) -> str:
        kinds = count(len(self.input_kinds), "kind")
        return f"Blocks({count(len(self), 'block')} of {kinds} along axis {self.axis})"

    def cut(self, places: slice) -> Blocks:
        """Some of the blocks, which know their trials by the same positions."""
        return replace(self, **{name: getattr(self, name)[places] for name in _OF_EACH})

    def kind_of(self, i: int) -> InputKind:
        """The kind of input of block `i`."""
        return self.input_kinds[int(self.input_kind[i])]

    def ingrid(self, i: int) -> tuple[slice, ...]:
        """The region of the recording that block `i` reads.

        Parameters
        ----------
        i : int
            Number of the block; negative ones count from the end.

        Returns
        -------
        tuple of slice
            Absolute on every axis.

        Raises
        ------
        TrialError
            If there is no such block.

        Examples
        --------
        >>> from hpcio import Trials
        >>> blocks = Trials.equal(100, rows=1000).blocks((1000, 8))
        >>> blocks.ingrid(3)
        (slice(300, 400, 1), slice(0, 8, 1))
        """
        if not -len(self) <= i < len(self):
            raise TrialError(
                f"There is no block {i}: there are {len(self)}. Choose from 0 to {len(self) - 1}."
            )
        base, grid = int(self.base[i]), list(self.kind_of(i).grid)
        rows = grid[self.axis]
        grid[self.axis] = slice(base + rows.start, base + rows.stop, rows.step)
        return tuple(grid)


def lay_over(trials: TrialRows, shape: tuple[int, ...], *, name: str) -> Blocks:
    """Lay trials over a recording of a given shape; see :meth:`hpcio.Trials.blocks`."""
    shape = tuple(int(size) for size in shape)
    axis = axis_of(trials.axis, "stacking axis", shape, name)
    if 0 in shape:
        raise TrialError(
            f"Nothing can be read from {name}: its shape is {shape}. Choose another dataset."
        )
    channel_axis = _channel_axis_of(trials, shape, axis, name)
    _check_fits(trials, shape, axis, name)

    time_cuts, time_cut = _time_cuts(trials)
    channel_cuts: list[tuple[dict[int, Cut], tuple[int, int]]] = [({}, (0, 0))]
    if channel_axis is not None:
        channel_cuts = [
            ({channel_axis: cut}, span)
            for cut, span in _channel_cuts(trials, shape[channel_axis], channel_axis, name)
        ]
    whole = {other: Cut(range(size), None) for other, size in enumerate(shape)}
    kinds = tuple(
        _input_kind(tuple({**whole, axis: cut, **channels}.values()), span)
        for cut in time_cuts
        for channels, span in channel_cuts
    )

    per_trial = len(channel_cuts)
    block = np.arange(per_trial, dtype=np.int32)
    return Blocks(
        axis=axis,
        channel_axis=channel_axis,
        trial=np.repeat(np.arange(len(trials), dtype=np.int64), per_trial),
        base=np.repeat(trials.start, per_trial),
        input_kind=(time_cut[:, None] * np.int32(per_trial) + block).ravel(),
        channel_block=np.tile(block, len(trials)),
        input_kinds=kinds,
        channel_blocks=per_trial,
    )


def _channel_axis_of(trials: TrialRows, shape: tuple[int, ...], axis: int, name: str) -> int | None:
    if trials.channel_axis is not None:
        found = axis_of(trials.channel_axis, "channel axis", shape, name)
        if found == axis:
            raise TrialError(
                f"Axis {axis} of {name} cannot be both stacking axis and channel axis. "
                "Give another axis or channel_axis."
            )
        return found
    if len(shape) == 2:
        return 1 - axis
    if trials.channels is None and trials.channels_per_block is None:
        return None
    raise TrialError(
        f"Channels are asked for, but {name} has the shape {shape}. "
        + (
            "Say which axis they are on: trials.with_blocks(channel_axis=...)."
            if len(shape) > 2
            else "Leave out channels and channels_per_block."
        )
    )


def _check_fits(trials: TrialRows, shape: tuple[int, ...], axis: int, name: str) -> None:
    beyond = np.flatnonzero(trials.stop > shape[axis])
    if len(beyond):
        k = beyond[0]
        more = f" (and {len(beyond) - 1} more trials)" if len(beyond) > 1 else ""
        raise TrialError(
            f"Trial {trials.index[k]}{more} ends after {name}: its rows are "
            f"[{trials.start[k]}, {trials.stop[k]}), but axis {axis} of the shape {shape} has "
            f"{shape[axis]}. Correct the table or the axis, or drop trials that leave it: "
            "outside='drop' (in the shell: --outside drop)."
        )


def _time_cuts(trials: TrialRows) -> tuple[list[Cut], npt.NDArray[np.int32]]:
    """What is read along the stacking axis: the distinct cuts, and each trial's one (N,)."""
    lengths = trials.stop - trials.start
    if isinstance(trials.time, tuple):
        needed = max(max(trials.time) + 1, -min(trials.time))
        if lengths.min() < needed:
            k = int(np.argmax(lengths < needed))
            entry = next(t for t in trials.time if not -lengths[k] <= t < lengths[k])
            raise TrialError(
                f"Trial {trials.index[k]} has no sample {entry}: it has {lengths[k]} samples. "
                "Select other samples of time, or leave that trial out."
            )
        if min(trials.time) >= 0:  # the same samples, however long a trial is
            lengths = np.full_like(lengths, needed)
    distinct, which = np.unique(lengths, return_inverse=True)
    cuts: dict[Cut, int] = {}  # trials of several lengths can share a cut
    numbers = np.empty(len(distinct), np.int32)
    for n, length in enumerate(distinct.tolist()):
        entries = resolve(trials.time, length)
        if not len(entries):
            k = int(np.argmax(which == n))
            raise TrialError(
                f"The selection of time {show(trials.time)} leaves nothing of trial "
                f"{trials.index[k]}, which has {length} samples. Select other samples of "
                "time, or leave that trial out."
            )
        numbers[n] = cuts.setdefault(cut_out(entries), len(cuts))
    return list(cuts), numbers[which]


def _channel_cuts(
    trials: TrialRows, size: int, axis: int, name: str
) -> Iterator[tuple[Cut, tuple[int, int]]]:
    """What each channel block reads along the channel axis, and its place in the selection."""
    if isinstance(trials.channels, tuple):
        has = f"axis {axis} of {name} has {size} channels"
        check_range(np.array(trials.channels), size, "Channel", has)
    entries = resolve(trials.channels, size)
    if not len(entries):
        raise TrialError(
            f"The selection of channels {show(trials.channels)} leaves none of the {size} "
            f"channels of {name}. Select at least one."
        )
    step = trials.channels_per_block or len(entries)
    for first in range(0, len(entries), step):
        part = entries[first : first + step]
        yield cut_out(part), (first, first + len(part))


def _input_kind(cuts: tuple[Cut, ...], channels: tuple[int, int]) -> InputKind:
    takes = tuple(range(len(cut.region)) if cut.take is None else cut.take for cut in cuts)
    return InputKind(
        inshape=tuple(len(take) for take in takes),
        grid=tuple(slice(cut.region.start, cut.region.stop, cut.region.step) for cut in cuts),
        sigrid=None if all(cut.take is None for cut in cuts) else takes,
        channels=channels,
    )
