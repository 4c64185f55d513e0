"""Trials: which rows of a recording make which trial, and the blocks that follow from it.

A :class:`Trials` is a value: made from a table, reduced by selections, and at last laid over the
shape of a recording by :meth:`Trials.blocks`. Nothing here opens the recording itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hpcio.errors import TrialError
from hpcio.recording.blocks import Blocks, TrialRows, lay_over
from hpcio.recording.clocks import check_clock, clock_of
from hpcio.recording.matching import all_matching
from hpcio.recording.recording import Recording, in_result
from hpcio.recording.resulttables import check_rows_of, result_named, rows_of_result
from hpcio.recording.selections import (
    Selectable,
    check_range,
    entries_of,
    integer,
    plain_slice,
    show,
)
from hpcio.recording.showing import trials_as_table, trials_in_words
from hpcio.recording.tables import COLUMNS, TRIAL_TABLES, TrialTable, array_table, read_table
from hpcio.recording.windows import Outside, Reading, rows_of, without_outside

__all__ = ["Trials"]


class Trials(TrialRows):
    """Which rows of a recording make which trial, and what is selected of them.

    Make one with :meth:`read`, :meth:`from_array`, :meth:`from_hdf5`, :meth:`from_csv` or
    :meth:`equal`; then :meth:`select` and :meth:`with_blocks` give new ones.

    Attributes
    ----------
    start, stop : int64 array (N,)
        Trial k is made of the rows ``[start[k], stop[k])`` of the recording's stacking axis.
        Trials may overlap and come in any order.
    offset : int64 array (N,)
        Samples from the trial's start to its trigger; may be negative. A selection of time
        does not change it.
    index : int64 array (N,)
        Row of the table that the trial comes from. Selected trials keep it, and messages name
        trials by it.
    axis : int
        Stacking axis of the recording; negative ones count from the last axis.
    time : slice, tuple of int, or None
        What is taken of every trial, in samples from its start.
    channels : slice, tuple of int, or None
        What is taken along the channel axis.
    channel_axis : int or None
        None means the other axis of a recording with two axes.
    channels_per_block : int or None
        Channels that one call of the compute function gets; None for all of them.
    columns : mapping of str to array (N,)
        What else is known of each trial: numbers or text. ``trials["condition"]`` is one of them.
    outside : {"error", "drop"}
        What becomes of trials that leave the recording they are laid over.
    clock : Clock or None
        By which ``rate`` and ``t_start`` times became rows, or rows have times. A recording whose
        file says otherwise is refused.
    rows_of : str
        The result in whose table they were read; their rows are those of what it was made of.

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
    >>> blocks.ingrid(0), blocks.input_kinds[0].inshape
    ((slice(320, 360, 1), slice(1, 6, 4)), (40, 2))
    """

    # ---- where trials come from -------------------------------------------------------------

    @classmethod
    def read(
        cls,
        spec: Any,
        *,
        rate: float | None = None,
        pre: npt.ArrayLike | None = None,
        post: npt.ArrayLike | None = None,
        unit: Literal["rows", "s", "ms", "us"] | None = None,
        one_based: bool | None = None,
        onset: str | None = None,
        t_start: float | None = None,
        outside: Outside = "error",
        rows: int | None = None,
        axis: int = 0,
        recording: Recording | str | os.PathLike[str] | None = None,
    ) -> Trials:
        """Trials from whatever names them.

        The names of columns decide what they mean, in any order and case; all others become
        columns of the trials:

        - ``start`` and ``stop`` (the row after the last one), perhaps ``offset``: rows;
        - ``start_time`` and ``stop_time``, as in NWB: seconds;
        - ``onset``, as in BIDS, perhaps with ``duration``: events, in seconds;
        - ``begsample`` and ``endsample``, perhaps ``offset``, as in FieldTrip: rows from 1, the
          last one included, and the offset of FieldTrip.

        A table without names has the columns start, stop and perhaps offset. With `pre` or
        `post` it holds events of MNE, which count from the start of the acquisition: give
        ``t_start=raw.first_time``. In a file of MATLAB (7.3) it is one of FieldTrip if its name is
        ``trl`` or ``sampleinfo``; structs are tables with names.

        Parameters
        ----------
        spec : Trials, int, str, path, or table
            Trials are returned unchanged, with their own `axis`. An int is the length of
            equal trials; ``"FILE::NAME"`` a dataset, or a group of columns, in HDF5; the name of
            a result its table; another str or path a CSV or TSV file; all else a table: an array
            (N, 2) or (N, 3), a data frame, a mapping of columns, an array with fields, or records.
        rate : float, optional
            Rows of the recording in a second; a `recording` in NWB says it by itself. Seconds
            become the nearest row, and half a row the later one.
        pre, post : float or array (N,), optional
            Trials begin so many seconds before an event, and end so many after it. Without
            `post`, an event lasts for its ``duration``.
        unit : {"rows", "s", "ms", "us"}, optional
            What ``start`` and ``stop``, or the times of events, are in.
        one_based : bool, optional
            Whether rows count from 1, and ``stop`` is the last row of a trial.
        onset : str, optional
            The column with the times of events, whatever its name. If that is ``sample``, it
            counts rows.
        t_start : float, optional
            The time that the table gives to the first row of the recording, in seconds: the
            ``starting_time`` of a series in NWB, which such a `recording` says by itself, or the
            ``first_time`` of MNE. By default 0.
        outside : {"error", "drop"}
            What becomes of trials that leave the recording.
        rows : int, optional
            Rows of the recording along its stacking axis; equal trials need it.
        axis : int, optional
            Stacking axis of the recording.
        recording : Recording or str, optional
            What is read, or its name, FILE::DATASET. If it is a result, its own table
            `trials` means its own rows. If its file says which time its rows have, as NWB does,
            times are those.

        Returns
        -------
        Trials

        Raises
        ------
        SourceError
            If a file or dataset cannot be read.
        TrialError
            If it does not hold trials, or more must be said to know them, or `rate` and `t_start`
            are not those of the recording; the message says what.
        OptionError
            If an option has no such value.

        Examples
        --------
        >>> Trials.read(250, rows=1000)
        Trials(4 trials of 250 rows along axis 0)
        >>> Trials.read([[0, 10], [10, 20]], axis=1)
        Trials(2 trials of 10 rows along axis 1)
        >>> events = {"onset": [1.2, 3.4], "trial_type": ["face", "house"]}
        >>> trials = Trials.read(events, rate=1000, pre=0.2, post=0.8)
        >>> trials, trials.start
        (Trials(2 trials of 1000 rows along axis 0, columns onset, trial_type), array([1000, 3200]))
        """
        reading = Reading(
            rate=rate, pre=pre, post=post, unit=unit, one_based=one_based, onset=onset,
            t_start=t_start, outside=outside,
        )  # fmt: skip
        if isinstance(recording, str | os.PathLike):
            recording = Recording.read(recording)
        if isinstance(spec, Trials):
            reading.refuse("trials that are made already")
            if recording is not None:
                check_rows_of(spec.rows_of, recording)
                known = None if spec.clock is None else clock_of(recording, spec.axis)
                check_clock(spec.clock, known, spec.start, spec.stop, recording)
            return spec._inside(rows) if outside == "drop" else spec
        if isinstance(spec, int | np.integer) and not isinstance(spec, bool):
            reading.refuse("trials of equal length")
            if rows is None:
                raise TrialError(f"Equal trials of {spec} rows need rows=, those of the recording.")
            return cls.equal(int(spec), rows=rows, axis=axis)
        if isinstance(spec, str | os.PathLike):
            spec = in_result(os.fspath(spec), "trials")
        own = None if recording is None else rows_of_result(spec, recording, axis)
        if own is not None:
            reading.refuse("the trials of a result")
            return replace(cls._from_table(own.table, axis, reading, rows), index=own.numbers)
        is_name = isinstance(spec, str | os.PathLike)
        table = spec if isinstance(spec, TrialTable) else None
        if table is None:
            table = read_table(os.fspath(spec)) if is_name else array_table(spec)
        if recording is None:
            made = cls._from_table(table, axis, reading, rows)
            return replace(made, rows_of=result_named(spec)) if is_name else made
        reading = replace(reading, own=clock_of(recording, axis))
        found = cls._from_table(table, axis, reading, rows)
        check_clock(found.clock, reading.own, found.start, found.stop, recording)
        return found

    @classmethod
    def from_events(
        cls,
        onsets: npt.ArrayLike,
        *,
        rate: float,
        post: npt.ArrayLike,
        pre: npt.ArrayLike = 0.0,
        columns: Mapping[str, npt.ArrayLike] | None = None,
        t_start: float | None = None,
        outside: Outside = "error",
        axis: int = 0,
    ) -> Trials:
        """Trials around events, all times in seconds.

        Parameters
        ----------
        onsets : array_like (N,)
            When events are.
        rate : float
            Rows of the recording in a second. Seconds become the nearest row, and half a row
            the later one; windows of one length in seconds have one length in rows.
        post, pre : float or array_like (N,)
            A trial has the rows from `pre` before its event up to, without, `post` after it. A
            negative `pre` begins after the event.
        columns : mapping of str to array_like (N,), optional
            What else is known of each event.
        t_start : float, optional
            When the first row of the recording is; see :meth:`read`. By default 0.
        outside : {"error", "drop"}
            What becomes of trials that leave the recording.
        axis : int, optional
            Stacking axis of the recording.

        Returns
        -------
        Trials
            Their `offset` is that of the event.

        Raises
        ------
        TrialError
            If times or columns do not go together, or make no trials.

        Examples
        --------
        >>> trials = Trials.from_events(
        ...     [1.0, 2.5], rate=1000, pre=0.2, post=0.5, columns={"condition": ["a", "b"]}
        ... )
        >>> trials.start, trials.stop, trials["condition"].tolist()
        (array([ 800, 2300]), array([1500, 3000]), ['a', 'b'])
        """
        of_each: dict[str, Any] = dict(columns or {})
        name = "onset" if "onset" not in of_each else "time of the event"
        table = array_table({name: onsets, **of_each}, "The table of events", "of the events")
        reading = Reading(
            rate=rate, pre=pre, post=post, onset=name, t_start=t_start, outside=outside
        )
        found = cls._from_table(table, axis, reading, None)
        return replace(found, columns={n: v for n, v in found.columns.items() if n != name})

    @classmethod
    def from_array(cls, table: npt.ArrayLike, *, axis: int = 0) -> Trials:
        """Trials from an array of start, stop and perhaps offset, (N, 2) or (N, 3); as `read`.

        Floats are fine if they are whole numbers.

        Examples
        --------
        >>> Trials.from_array([[0, 100], [100, 200]]).stop
        array([100, 200])
        """
        return cls._from_table(array_table(table), axis, Reading(), None)

    @classmethod
    def from_hdf5(cls, spec: str | os.PathLike[str], *, axis: int = 0) -> Trials:
        """Trials from ``FILE::NAME`` in HDF5; as `read`.

        Examples
        --------
        >>> Trials.from_hdf5("rec.h5::/trials")  # doctest: +SKIP
        Trials(600 trials of 2000 rows along axis 0)
        """
        made = cls._from_table(TRIAL_TABLES["hdf5"].read(os.fspath(spec)), axis, Reading(), None)
        return replace(made, rows_of=result_named(spec))

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str], *, axis: int = 0) -> Trials:
        r"""Trials from a text file with commas or tabs between its columns; as `read`.

        The text is UTF-8. A first line without any number in it is a header; so is a comment
        right before it with names of such columns, as numpy and MNE write it. If the first line
        has both commas and tabs, tabs separate unless the name ends with ``.csv``. A line that
        begins with ``#`` is a comment, and so is all behind a number and ``" #"``. Empty lines do
        not count.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "trials.csv")
        >>> _ = path.write_text("condition,start,stop\nA,0,100\nB,100,250\n")
        >>> Trials.from_csv(path)
        Trials(2 trials of 100 to 150 rows along axis 0, column condition)
        """
        return cls._from_table(TRIAL_TABLES["csv"].read(os.fspath(path)), axis, Reading(), None)

    @classmethod
    def equal(cls, length: int, *, rows: int, axis: int = 0) -> Trials:
        """Trials of equal length, one after the other from row 0.

        A last incomplete trial is left out: 1050 rows make ten trials of 100 rows.

        Parameters
        ----------
        length : int
            Rows of each trial.
        rows : int
            Rows of the recording along its stacking axis.
        axis : int, optional
            Stacking axis of the recording.

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
    def _from_table(
        cls, table: TrialTable, axis: int, reading: Reading, rows: int | None
    ) -> Trials:
        found = rows_of(table, reading)  # here the file of a bad row is known
        index = np.arange(len(found.start)) if table.numbers is None else table.numbers
        if reading.outside == "drop":
            keep = without_outside(found.start, found.stop, rows, index=index)
            index, found = index[keep], found.at(keep)
        return cls(
            found.start, found.stop, found.offset, index, axis, columns=found.columns,
            outside=reading.outside, clock=found.clock,
        )  # fmt: skip

    def _inside(self, rows: int | None) -> Trials:
        """The trials that lie in a recording of so many rows."""
        return self.select(trials=without_outside(self.start, self.stop, rows, index=self.index))

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
            columns={name: values[rows] for name, values in self.columns.items()},
            time=self._once("time", time),
            channels=self._once("channels", channels),
        )

    def where(self, **wanted: Any) -> Trials:
        """The trials whose columns have some values.

        Parameters
        ----------
        **wanted
            For each column, by its name: a value; a pair ``(least, most)`` of numbers, both
            included; a list of values; or a function of the column that gives a mask.

        Returns
        -------
        Trials

        Raises
        ------
        TrialError
            If there is no such column, or no trial is left.

        Examples
        --------
        >>> trials = Trials.equal(10, rows=40)
        >>> trials = trials.with_columns(condition=["a", "b", "a", "b"], rt=[0.3, 0.4, 0.9, 0.5])
        >>> trials.where(condition="a", rt=(0.2, 0.8)).index
        array([0])
        >>> trials.where(condition=["a", "b"], rt=lambda rt: rt > 0.4).index
        array([2, 3])
        """
        left = all_matching(self.__getitem__, wanted, count=len(self), counted="trial")
        return self.select(trials=left)

    def with_columns(self, **columns: npt.ArrayLike) -> Trials:
        """The same trials, with further columns, or other values of those that they have.

        Parameters
        ----------
        **columns
            One value for each trial: numbers or text.

        Returns
        -------
        Trials

        Examples
        --------
        >>> Trials.equal(10, rows=20).with_columns(condition=["a", "b"])["condition"].tolist()
        ['a', 'b']
        """
        given: dict[str, Any] = {**self.columns, **columns}
        return replace(self, columns=given)

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A column, or one of ``start``, ``stop``, ``offset`` and ``index``: shape (N,)."""
        if not isinstance(name, str):
            raise TrialError(
                "Trials in brackets have the name of a column: trials['condition']. Select some by "
                "trials.select(trials=...), or by what a column says: trials.where(...)."
            )
        if name in self.columns:
            return self.columns[name]
        if name in (*COLUMNS, "index"):
            column: npt.NDArray[Any] = getattr(self, name)
            return column
        known = ", ".join([*self.columns, *COLUMNS])
        raise TrialError(f"The trials have no column {name!r}. They have {known}.")

    def with_blocks(
        self, *, channels_per_block: int | None = None, channel_axis: int | None = None
    ) -> Trials:
        """The same trials, each cut into blocks of channels.

        Parameters
        ----------
        channels_per_block : int, optional
            Selected channels of one block; the last block may have fewer.
        channel_axis : int, optional
            Needed for channels of a recording with more than two axes. What is not given stays
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
        >>> len(blocks), [kind.inshape for kind in blocks.input_kinds]
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

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Rows of each trial before any selection of time: int64 array (N,)."""
        return self.stop - self.start

    def __repr__(self) -> str:
        return f"Trials({trials_in_words(self)})"

    def _repr_html_(self) -> str:
        return trials_as_table(self)

    # ---- what follows for a recording -------------------------------------------------------

    def blocks(self, shape: tuple[int, ...], *, name: str = "the source") -> Blocks:
        """Lay the trials over a recording of a given shape, and check that they fit.

        Parameters
        ----------
        shape : tuple of int
            Shape of the recording.
        name : str, optional
            What messages call the recording.

        Returns
        -------
        Blocks
            ``B = N * channel_blocks`` blocks, with as few kinds of input as possible: a million
            trials of one length share one.

        Raises
        ------
        TrialError
            If a trial ends after the recording, an axis or channel does not exist, or a selection
            leaves nothing of a trial.

        Examples
        --------
        >>> blocks = Trials.equal(100, rows=1000).select(time=slice(None, None, -1)).blocks((1000,))
        >>> len(blocks), len(blocks.input_kinds), blocks.input_kinds[0].sigrid
        (10, 1, (range(99, -1, -1),))
        """
        return lay_over(self, shape, name=name)
