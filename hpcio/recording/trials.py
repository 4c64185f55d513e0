"""Trials: which rows of a recording make which trial, and the blocks that follow from it.

A value :class:`Trials` is made from a table, selected from, and at last laid over the shape
of a source by :meth:`Trials.blocks`. Nothing here opens the source itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcio.errors import SourceError, TrialError
from hpcio.recording.selections import (
    Cut,
    Selectable,
    Selection,
    axis_of,
    check_range,
    cut_out,
    entries_of,
    integer,
    plain_slice,
    resolve,
    selection_of,
    show,
)
from hpcio.recording.sources import find_dataset, open_file, split_spec
from hpcio.recording.tables import COLUMNS, check_rows, check_table, read_csv, whole_numbers

__all__ = ["Blocks", "Form", "Trials"]


@dataclass(frozen=True, eq=False)
class Form:
    """What blocks of the same shape have in common.

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
        the order of the selection. ``(0, 0)`` if the source has no channel axis.
    """

    inshape: tuple[int, ...]
    grid: tuple[slice, ...]
    sigrid: tuple[range | tuple[int, ...], ...] | None
    channels: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Blocks:
    """All blocks of a source: the channel blocks of trial 0, then those of trial 1, ...

    Attributes
    ----------
    axis : int
        Stacking axis, not negative.
    channel_axis : int or None
        Channel axis, not negative; None if the source has none, or it is not known.
    trial : int64 array (B,)
        Position of the block's trial in the (selected) trials.
    base : int64 array (B,)
        Row of the source at which that trial starts.
    form : int32 array (B,)
        Index into `forms`.
    channel_block : int32 array (B,)
        Number of the channel block within its trial; 0 when channels are not cut.
    forms : tuple of Form
    channel_blocks : int
        Channel blocks of each trial; 1 when channels are not cut.
    """

    axis: int
    channel_axis: int | None
    trial: npt.NDArray[np.int64]
    base: npt.NDArray[np.int64]
    form: npt.NDArray[np.int32]
    channel_block: npt.NDArray[np.int32]
    forms: tuple[Form, ...]
    channel_blocks: int

    def __len__(self) -> int:
        return len(self.trial)

    def ingrid(self, i: int) -> tuple[slice, ...]:
        """The region of the source that block `i` reads.

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
        >>> blocks = Trials.equal(100, rows=1000).blocks((1000, 8))
        >>> blocks.ingrid(3)
        (slice(300, 400, 1), slice(0, 8, 1))
        """
        if not -len(self) <= i < len(self):
            raise TrialError(
                f"There is no block {i}: there are {len(self)}. Choose from 0 to {len(self) - 1}."
            )
        base, grid = int(self.base[i]), list(self.forms[self.form[i]].grid)
        rows = grid[self.axis]
        grid[self.axis] = slice(base + rows.start, base + rows.stop, rows.step)
        return tuple(grid)


@dataclass(frozen=True, eq=False, repr=False)
class Trials:
    """Which rows of a source make which trial, and what is selected of them.

    Make one with :meth:`read`, :meth:`from_array`, :meth:`from_hdf5`, :meth:`from_csv` or
    :meth:`equal`; then :meth:`select` and :meth:`with_blocks` give new ones.

    Attributes
    ----------
    start, stop : int64 array (N,)
        Trial k is made of the rows ``[start[k], stop[k])`` of the source's stacking axis.
        Trials may overlap and come in any order.
    offset : int64 array (N,)
        Samples from the trial's start to its trigger; may be negative. A selection of time
        does not change it.
    index : int64 array (N,)
        Row of the table that the trial comes from. Selected trials keep it, and messages name
        trials by it.
    axis : int
        Stacking axis of the source; negative ones count from the last axis.
    time : slice, tuple of int, or None
        What is taken of every trial, in samples from its start.
    channels : slice, tuple of int, or None
        What is taken along the channel axis.
    channel_axis : int or None
        None means the other axis of a source with two axes.
    channels_per_block : int or None
        Channels that one call of the compute function gets; None for all of them.

    Raises
    ------
    TrialError
        If the values do not make trials; the message names the first trial at fault.

    Examples
    --------
    >>> trials = Trials.from_array([[0, 100, 20], [100, 250, 20], [300, 400, 20]])
    >>> trials
    Trials(3 trials of 100 to 150 rows along axis 0)
    >>> some = trials.select(trials=[2, 0], time=slice(20, 60), channels=[5, 1])
    >>> some
    Trials(2 trials of 100 rows along axis 0, time 20:60, channels [5, 1])
    >>> some.index
    array([2, 0])
    >>> blocks = some.blocks((400, 8))
    >>> blocks.ingrid(0), blocks.forms[0].inshape
    ((slice(320, 360, 1), slice(1, 6, 4)), (40, 2))
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

    # ---- where trials come from -------------------------------------------------------------

    @classmethod
    def read(
        cls, spec: Trials | npt.ArrayLike | os.PathLike[str], *, rows: int, axis: int = 0
    ) -> Trials:
        """Trials from whatever names them.

        Parameters
        ----------
        spec : Trials, int, str, path, or array_like
            Trials are returned as they are, with their own `axis`. An int is the length of
            equal trials; ``"FILE::DATASET"`` a table in HDF5; another str or path a CSV or TSV
            file; all else a table (N, 2) or (N, 3).
        rows : int
            Rows of the source along its stacking axis, to be cut into equal trials.
        axis : int, optional
            Stacking axis of the source.

        Returns
        -------
        Trials

        Raises
        ------
        SourceError
            If a file or dataset cannot be read.
        TrialError
            If it does not hold trials.

        Examples
        --------
        >>> Trials.read(250, rows=1000)
        Trials(4 trials of 250 rows along axis 0)
        >>> Trials.read([[0, 10], [10, 20]], rows=1000, axis=1)
        Trials(2 trials of 10 rows along axis 1)
        """
        if isinstance(spec, Trials):
            return spec
        if isinstance(spec, int | np.integer) and not isinstance(spec, bool):
            return cls.equal(int(spec), rows=rows, axis=axis)
        if isinstance(spec, str | os.PathLike):
            reader = cls.from_hdf5 if "::" in os.fspath(spec) else cls.from_csv
            return reader(spec, axis=axis)
        return cls.from_array(spec, axis=axis)

    @classmethod
    def from_array(cls, table: npt.ArrayLike, *, axis: int = 0) -> Trials:
        """Trials from a table of start, stop and (if wanted) offset.

        Parameters
        ----------
        table : array_like (N, 2) or (N, 3)
            One trial a row, in samples. Floats are fine if they are whole numbers.
        axis : int, optional
            Stacking axis of the source.

        Returns
        -------
        Trials

        Raises
        ------
        TrialError
            If the table has another shape, or a row of it makes no trial.

        Examples
        --------
        >>> Trials.from_array([[0, 100], [100, 200]]).stop
        array([100, 200])
        """
        try:
            values = np.asarray(table)
        except (ValueError, TypeError) as error:
            raise TrialError(
                "The trial table is no array: its rows differ in length. Give start, stop and "
                "(if wanted) offset for every trial."
            ) from error
        check_table(values.shape, values.dtype, "The trial table")
        return cls._from_table(values, axis, lambda k: f"Trial {k} of the table")

    @classmethod
    def from_hdf5(cls, spec: str | os.PathLike[str], *, axis: int = 0) -> Trials:
        """Trials from a dataset (N, 2) or (N, 3) of start, stop and (if wanted) offset.

        Parameters
        ----------
        spec : str or path
            ``FILE::DATASET``.
        axis : int, optional
            Stacking axis of the source.

        Returns
        -------
        Trials

        Raises
        ------
        SourceError
            If file or dataset cannot be read.
        TrialError
            If the dataset has another shape, or a row of it makes no trial.

        Examples
        --------
        >>> Trials.from_hdf5("rec.h5::/trials")  # doctest: +SKIP
        Trials(600 trials of 2000 rows along axis 0)
        """
        file, dataset = split_spec(spec)
        where = f"'{dataset}' in '{file}'"
        with open_file(file) as f:
            found = find_dataset(f, dataset)
            # Before reading: somebody may have named the recording itself.
            check_table(found.shape, found.dtype, f"Dataset {where}")
            try:
                values = np.asarray(found[()])
            except OSError as error:
                raise SourceError(f"HDF5 cannot read {where}: {error}. Restore it.") from error
        return cls._from_table(values, axis, lambda k: f"Trial {k} of {where}")

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], *, axis: int = 0) -> Trials:
        r"""Trials from a text file with commas or tabs between its columns.

        A first line without any number in it is a header. If it has the names start and stop
        (in any order and case, with any other columns), these columns and offset are taken;
        else the columns are start, stop and (if there are three) offset. All after a ``#`` is
        a comment; empty lines do not count.

        Parameters
        ----------
        path : str or path
            UTF-8 text. If its first line has both commas and tabs, tabs separate unless the
            name ends with ``.csv``.
        axis : int, optional
            Stacking axis of the source.

        Returns
        -------
        Trials

        Raises
        ------
        SourceError
            If the file cannot be read, or is no text.
        TrialError
            If a cell holds no whole number, or a line makes no trial; the message names line
            and column.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "trials.csv")
        >>> _ = path.write_text("condition,start,stop\nA,0,100\nB,100,250\n")
        >>> Trials.from_csv(path)
        Trials(2 trials of 100 to 150 rows along axis 0)
        """
        name = os.fspath(path)
        values, lines = read_csv(name)
        return cls._from_table(values, axis, lambda k: f"Trial {k} of '{name}' (line {lines[k]})")

    @classmethod
    def equal(cls, length: int, *, rows: int, axis: int = 0) -> Trials:
        """Trials of equal length, one after the other from row 0.

        A last incomplete trial is left out: 1050 rows make ten trials of 100 rows.

        Parameters
        ----------
        length : int
            Rows of each trial.
        rows : int
            Rows of the source along its stacking axis.
        axis : int, optional
            Stacking axis of the source.

        Returns
        -------
        Trials

        Raises
        ------
        TrialError
            If `length` is not between 1 and `rows`.

        Examples
        --------
        >>> Trials.equal(100, rows=1050)
        Trials(10 trials of 100 rows along axis 0)
        """
        length, rows = integer(length, "length"), integer(rows, "rows")
        if not 0 < length <= rows:
            raise TrialError(
                f"Trials of {length} rows cannot be cut from a source of {rows} rows. "
                f"Give a length from 1 to {rows}."
            )
        index = np.arange(rows // length, dtype=np.int64)
        start = index * length
        return cls(start, start + length, np.zeros_like(start), index, axis)

    @classmethod
    def _from_table(cls, table: npt.NDArray[Any], axis: int, name: Callable[[int], str]) -> Trials:
        columns = np.ascontiguousarray(whole_numbers(table, name).T)
        start, stop = columns[:2]
        offset = columns[2] if len(columns) == 3 else np.zeros_like(start)
        check_rows(start, stop, name)  # here, where the file of a bad row is known
        return cls(start, stop, offset, np.arange(len(start)), axis)

    # ---- what is selected -------------------------------------------------------------------

    def select(
        self,
        *,
        trials: Selectable = None,
        time: Selectable = None,
        channels: Selectable = None,
    ) -> Trials:
        """Some of the trials, and what is taken of each.

        All three may be unordered and repeat entries, and negative entries count from the end.

        Parameters
        ----------
        trials : slice, sequence of int, or bool mask (N,), optional
            Positions in these trials (not `index`), so that selections can follow one another.
        time : slice or sequence of int, optional
            Samples from each trial's start. A slice is clipped to the trial, a sequence must
            lie in it.
        channels : slice or sequence of int, optional
            Entries of the channel axis.

        Returns
        -------
        Trials

        Raises
        ------
        TrialError
            If a trial does not exist, no trial is left, a selection is no slice or sequence
            of int, or `time` or `channels` is selected already.

        Examples
        --------
        >>> trials = Trials.equal(100, rows=1000)
        >>> trials.select(trials=slice(2, None), channels=[0, 3]).select(trials=[0, -1]).index
        array([2, 9])
        """
        rows = slice(None) if trials is None else self._positions(trials)
        return replace(
            self,
            start=self.start[rows],
            stop=self.stop[rows],
            offset=self.offset[rows],
            index=self.index[rows],
            time=self._once("time", time),
            channels=self._once("channels", channels),
        )

    def with_blocks(
        self, *, channels_per_block: int | None = None, channel_axis: int | None = None
    ) -> Trials:
        """The same trials, each cut into blocks of channels.

        Parameters
        ----------
        channels_per_block : int, optional
            Selected channels of one block; the last block may have fewer.
        channel_axis : int, optional
            Needed for channels of a source with more than two axes. What is not given stays
            as it is.

        Returns
        -------
        Trials

        Raises
        ------
        TrialError
            If a value is no int, or `channels_per_block` is below 1.

        Examples
        --------
        >>> trials = Trials.equal(100, rows=1000).with_blocks(channels_per_block=3)
        >>> blocks = trials.blocks((1000, 8))
        >>> len(blocks), [form.inshape for form in blocks.forms]
        (30, [(100, 3), (100, 3), (100, 2)])
        """
        return replace(
            self,
            channels_per_block=(
                self.channels_per_block if channels_per_block is None else channels_per_block
            ),
            channel_axis=self.channel_axis if channel_axis is None else channel_axis,
        )

    def _positions(self, wanted: slice | npt.ArrayLike) -> npt.NDArray[Any]:
        """The rows of the columns that `wanted` names."""
        rows: npt.NDArray[Any]
        if isinstance(wanted, slice):
            rows = np.arange(len(self))[plain_slice(wanted, "trials")]
        else:
            rows = entries_of(wanted, "trials", kinds="biu")
            if rows.dtype.kind == "b":
                if len(rows) != len(self):
                    raise TrialError(
                        f"The mask of trials has {len(rows)} entries for {len(self)} trials. "
                        "Give one for each trial."
                    )
                rows = np.flatnonzero(rows)
            check_range(rows, len(self), "Trial", f"there are {len(self)} trials")
        if not len(rows):
            raise TrialError(
                f"The selection leaves none of the {len(self)} trials. Select at least one."
            )
        return rows

    def _once(self, name: str, wanted: Selectable) -> Any:
        """The selection `wanted`, or the present one; never one on top of the other."""
        present = getattr(self, name)
        if wanted is None:
            return present
        if present is not None:
            raise TrialError(
                f"'{name}' is selected already ({show(present)}). Select it once, from the "
                "trials before that selection."
            )
        return wanted

    # ---- what they look like ----------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Rows of each trial before any selection of time: int64 array (N,)."""
        return self.stop - self.start

    def __repr__(self) -> str:
        low, high = int(self.lengths.min()), int(self.lengths.max())
        parts = [
            f"{len(self)} trial{'s' * (len(self) != 1)} of "
            f"{low if low == high else f'{low} to {high}'} rows along axis {self.axis}"
        ]
        parts += [f"time {show(self.time)}"] * (self.time is not None)
        parts += [f"channels {show(self.channels)}"] * (self.channels is not None)
        parts += [f"channel axis {self.channel_axis}"] * (self.channel_axis is not None)
        if self.channels_per_block is not None:
            parts.append(f"{self.channels_per_block} channels per block")
        return f"Trials({', '.join(parts)})"

    # ---- what follows for a source ----------------------------------------------------------

    def blocks(self, shape: tuple[int, ...], *, name: str = "the source") -> Blocks:
        """Lay the trials over a source of a given shape, and check that they fit.

        Parameters
        ----------
        shape : tuple of int
            Shape of the source.
        name : str, optional
            What messages call the source.

        Returns
        -------
        Blocks
            ``B = N * channel_blocks`` blocks, whose forms are as few as can be: a million
            trials of one length have one.

        Raises
        ------
        TrialError
            If a trial ends after the source, an axis or channel does not exist, or a selection
            leaves nothing of a trial.

        Examples
        --------
        >>> blocks = Trials.equal(100, rows=1000).select(time=slice(None, None, -1)).blocks((1000,))
        >>> len(blocks), len(blocks.forms), blocks.forms[0].sigrid
        (10, 1, (range(99, -1, -1),))
        """
        shape = tuple(int(size) for size in shape)
        axis = axis_of(self.axis, "stacking axis", shape, name)
        if 0 in shape:
            raise TrialError(
                f"Nothing can be read from {name}: its shape is {shape}. Choose another dataset."
            )
        channel_axis = self._resolve_channel_axis(shape, axis, name)
        self._check_fits(shape, axis, name)

        time_cuts, time_cut = self._time_cuts()
        channel_cuts: list[tuple[dict[int, Cut], tuple[int, int]]] = [({}, (0, 0))]
        if channel_axis is not None:
            channel_cuts = [
                ({channel_axis: cut}, span)
                for cut, span in self._channel_cuts(shape[channel_axis], channel_axis, name)
            ]
        whole = {other: Cut(range(size), None) for other, size in enumerate(shape)}
        forms = tuple(
            _form(tuple({**whole, axis: cut, **channels}.values()), span)
            for cut in time_cuts
            for channels, span in channel_cuts
        )

        per_trial = len(channel_cuts)
        block = np.arange(per_trial, dtype=np.int32)
        return Blocks(
            axis=axis,
            channel_axis=channel_axis,
            trial=np.repeat(np.arange(len(self), dtype=np.int64), per_trial),
            base=np.repeat(self.start, per_trial),
            form=(time_cut[:, None] * np.int32(per_trial) + block).ravel(),
            channel_block=np.tile(block, len(self)),
            forms=forms,
            channel_blocks=per_trial,
        )

    def _resolve_channel_axis(self, shape: tuple[int, ...], axis: int, name: str) -> int | None:
        if self.channel_axis is not None:
            found = axis_of(self.channel_axis, "channel axis", shape, name)
            if found == axis:
                raise TrialError(
                    f"Axis {axis} of {name} cannot be both stacking axis and channel axis. "
                    "Give another axis or channel_axis."
                )
            return found
        if len(shape) == 2:
            return 1 - axis
        if self.channels is None and self.channels_per_block is None:
            return None
        raise TrialError(
            f"Channels are asked for, but {name} has the shape {shape}. "
            + (
                "Say which axis they are on: trials.with_blocks(channel_axis=...)."
                if len(shape) > 2
                else "Leave out channels and channels_per_block."
            )
        )

    def _check_fits(self, shape: tuple[int, ...], axis: int, name: str) -> None:
        beyond = np.flatnonzero(self.stop > shape[axis])
        if len(beyond):
            k = beyond[0]
            more = f" (and {len(beyond) - 1} more trials)" if len(beyond) > 1 else ""
            raise TrialError(
                f"Trial {self.index[k]}{more} ends after {name}: its rows are "
                f"[{self.start[k]}, {self.stop[k]}), but axis {axis} of the shape {shape} has "
                f"{shape[axis]}. Correct the table or the axis, or select the trials that fit."
            )

    def _time_cuts(self) -> tuple[list[Cut], npt.NDArray[np.int32]]:
        """What is read along the stacking axis: the distinct cuts, and each trial's one (N,)."""
        lengths = self.lengths
        if isinstance(self.time, tuple):
            needed = max(max(self.time) + 1, -min(self.time))
            if lengths.min() < needed:
                k = int(np.argmax(lengths < needed))
                entry = next(t for t in self.time if not -lengths[k] <= t < lengths[k])
                raise TrialError(
                    f"Trial {self.index[k]} has no sample {entry}: it has {lengths[k]} samples. "
                    "Select other samples of time, or leave that trial out."
                )
            if min(self.time) >= 0:  # the same samples, however long a trial is
                lengths = np.full_like(lengths, needed)
        distinct, which = np.unique(lengths, return_inverse=True)
        cuts: dict[Cut, int] = {}  # trials of several lengths can share a cut
        numbers = np.empty(len(distinct), np.int32)
        for n, length in enumerate(distinct.tolist()):
            entries = resolve(self.time, length)
            if not len(entries):
                k = int(np.argmax(which == n))
                raise TrialError(
                    f"The selection of time {show(self.time)} leaves nothing of trial "
                    f"{self.index[k]}, which has {length} samples. Select other samples of "
                    "time, or leave that trial out."
                )
            numbers[n] = cuts.setdefault(cut_out(entries), len(cuts))
        return list(cuts), numbers[which]

    def _channel_cuts(
        self, size: int, axis: int, name: str
    ) -> Iterator[tuple[Cut, tuple[int, int]]]:
        """What each channel block reads along the channel axis, and its place in the selection."""
        if isinstance(self.channels, tuple):
            has = f"axis {axis} of {name} has {size} channels"
            check_range(np.array(self.channels), size, "Channel", has)
        entries = resolve(self.channels, size)
        if not len(entries):
            raise TrialError(
                f"The selection of channels {show(self.channels)} leaves none of the {size} "
                f"channels of {name}. Select at least one."
            )
        step = self.channels_per_block or len(entries)
        for first in range(0, len(entries), step):
            part = entries[first : first + step]
            yield cut_out(part), (first, first + len(part))


def _form(cuts: tuple[Cut, ...], channels: tuple[int, int]) -> Form:
    takes = tuple(range(len(cut.region)) if cut.take is None else cut.take for cut in cuts)
    return Form(
        inshape=tuple(len(take) for take in takes),
        grid=tuple(slice(cut.region.start, cut.region.stop, cut.region.step) for cut in cuts),
        sigrid=None if all(cut.take is None for cut in cuts) else takes,
        channels=channels,
    )
