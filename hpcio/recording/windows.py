"""From the columns of a table to rows of a recording: which samples make which trial.

Names decide what a column means, in any case: ``start`` and ``stop`` count rows, ``onset`` (of
BIDS) and ``start_time`` with ``stop_time`` (of NWB) are seconds, ``begsample`` and ``endsample``
(of FieldTrip) count from 1 up to the last row. Seconds become the nearest row, and half a row the
later one; all windows of one length in seconds have one length in rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hpcio.errors import HpcioWarning, OptionError, TrialError
from hpcio.recording.clocks import Clock
from hpcio.recording.tables import TrialTable, check_rows

__all__ = [
    "Outside",
    "Reading",
    "Windows",
    "rows_of",
    "to_rows",
    "without_outside",
]

Outside = Literal["error", "drop"]

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
# Names of columns that say where trials are, and the unit they have.
_PAIRS = {
    ("start", "stop"): "rows",
    ("begsample", "endsample"): "rows",
    ("start_time", "stop_time"): "s",
}
_ONSET = "onset"
# The column of an event's row, in FieldTrip and BIDS.
_SAMPLE = "sample"
_FARTHEST = 2.0**62
_SAY_RATE = "Give rate=, the samples in a second (in the shell: --rate 1000)"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a table is to be read; see :meth:`hpcio.Trials.read`."""

    rate: float | None = None
    pre: Any = None
    post: Any = None
    unit: str | None = None
    one_based: bool | None = None
    onset: str | None = None
    t_start: float | None = None
    outside: Outside = "error"
    own: Clock | None = None  # of the recording, if it has one

    def __post_init__(self) -> None:
        if self.rate is not None and not (_is_number(self.rate) and 0 < self.rate < np.inf):
            raise OptionError(f"rate={self.rate!r} is no number of samples in a second.")
        if self.t_start is not None and not (
            _is_number(self.t_start) and np.isfinite(self.t_start)
        ):
            raise OptionError(f"t_start={self.t_start!r} is no time of the first row, in seconds.")
        if self.unit is not None and self.unit not in ("rows", *_UNITS):
            raise OptionError(f"unit='{self.unit}' is unknown. Choose rows, s, ms or us.")
        if self.outside not in ("error", "drop"):
            raise OptionError(f"outside='{self.outside}' is unknown. Choose error or drop.")

    def refuse(self, what: str) -> None:
        """Raise OptionError if anything was said that tables alone need."""
        for name in ("rate", "pre", "post", "unit", "one_based", "onset", "t_start"):
            if getattr(self, name) is not None:
                raise OptionError(f"{name}= says how a table is read, and these are {what}.")

    @property
    def of_events(self) -> bool:
        """Whether trials are windows around events."""
        return self.pre is not None or self.post is not None


@dataclass(frozen=True, eq=False)
class Windows:
    """Rows of trials, what else a table says of each, and the clock that made rows of times."""

    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]
    offset: npt.NDArray[np.int64]
    columns: Mapping[str, npt.NDArray[Any]]
    clock: Clock | None

    def at(self, positions: npt.NDArray[np.intp]) -> Windows:
        """Those at some positions."""
        columns = {name: values[positions] for name, values in self.columns.items()}
        return Windows(
            self.start[positions], self.stop[positions], self.offset[positions], columns, self.clock
        )  # fmt: skip


def to_rows(seconds: npt.ArrayLike, rate: float) -> npt.NDArray[np.int64]:
    """Seconds as rows: the nearest one, and of two the later.

    Examples
    --------
    >>> to_rows([0.0, 0.0015, 0.9996], 1000)
    array([   0,    2, 1000])
    """
    rows = np.floor(np.asarray(seconds, np.float64) * rate + 0.5)
    if (np.abs(rows) >= _FARTHEST).any():
        raise TrialError("A time lies beyond any recording. Check the unit of times, and rate.")
    return rows.astype(np.int64)


def rows_of(table: TrialTable, reading: Reading) -> Windows:
    """Where the trials of a table are.

    Raises
    ------
    TrialError
        If its names say nothing, or more has to be said; the message says what.
    """
    found = _Named(table, reading) if table.named else _Numbered(table, reading)
    start, stop, offset = found.windows()
    if reading.rate is not None and found.clock is None:
        raise TrialError(
            f"rate= is given, and {table.where} counts rows. If its numbers are seconds, say "
            "unit='s' (in the shell: --unit s), else leave out rate."
        )
    inside = np.maximum(start, 0) if reading.outside == "drop" else start
    check_rows(inside, np.maximum(stop, stop + (inside - start)), table.name)
    return Windows(start, stop, offset, found.columns(), found.clock)


def without_outside(
    start: npt.NDArray[np.int64],
    stop: npt.NDArray[np.int64],
    rows: int | npt.NDArray[np.int64] | None,
    *,
    index: npt.NDArray[np.int64],
) -> npt.NDArray[np.intp]:
    """The positions of trials that lie in the recording; a warning tells of the others.

    Raises
    ------
    TrialError
        If there are none.
    """
    outside = (start < 0) | (stop > (np.iinfo(np.int64).max if rows is None else rows))
    if outside.all():
        raise TrialError(
            f"All {len(start)} trials leave the recording. Check rate, and the unit of the table."
        )
    if outside.any():
        numbers = index[outside]
        named = ", ".join(map(str, numbers[:10].tolist())) + ", ..." * (len(numbers) > 10)
        warnings.warn(
            f"{len(numbers)} of {len(start)} trials leave the recording, and are dropped: {named}.",
            HpcioWarning,
            stacklevel=4,
        )
    return np.flatnonzero(~outside)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


class _Table:
    """A table together with how it is to be read."""

    def __init__(self, table: TrialTable, reading: Reading) -> None:
        self._table, self._reading, self._read = table, reading, table.columns
        self.clock: Clock | None = None

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """All that the table says besides where trials are."""
        raise NotImplementedError

    def windows(self) -> tuple[npt.NDArray[np.int64], ...]:
        """Start, stop and offset of each trial."""
        raise NotImplementedError

    def _rate(self, what: str) -> float:
        own = self._reading.own
        rate = self._reading.rate
        if rate is None and own is not None:
            rate = own.rate
        if rate is None and own is not None:
            raise TrialError(
                f"{what}, and the recording has timestamps that are not evenly spaced. Find the "
                "rows of each trial by numpy.searchsorted(timestamps, times), and give them as "
                "start and stop; or give the rate= and t_start= of the part with trials."
            )
        if rate is None:
            raise TrialError(f"{what}. {_SAY_RATE}.")
        self.clock = self.clock or Clock(float(rate), None)
        return float(rate)

    def _at(self, column: str, unit: str) -> npt.NDArray[np.int64]:
        """A column of times, or of rows, as rows of the recording; it begins at `t_start`."""
        t_start, own = self._reading.t_start, self._reading.own
        if unit == "rows":
            rows = self._whole(column)
            if t_start is not None:
                rows = rows - to_rows(t_start, self._rate("t_start= is a time"))
            return rows
        if t_start is None:
            t_start = 0.0 if own is None or own.t_start is None else own.t_start
        rate = self._rate(f"'{column}' of {self._table.where} is a time")
        self.clock = Clock(rate, float(t_start))
        return to_rows(self._times(column) * _UNITS[unit] - t_start, rate)

    def _rows(self, column: str, unit: str) -> npt.NDArray[np.int64]:
        """A column of rows, or of lengths of time, as rows."""
        if unit == "rows":
            return self._whole(column)
        rate = self._rate(f"'{column}' of {self._table.where} is a time")
        return to_rows(self._times(column) * _UNITS[unit], rate)

    def _is_one_based(self, unit: str, *, by_itself: bool = False) -> bool:
        """Whether rows count from 1."""
        one_based = self._reading.one_based
        if one_based is not None and unit != "rows":
            raise TrialError(f"one_based= goes with rows, and {self._table.where} has times.")
        if self._table.matlab and not by_itself and one_based is None and unit == "rows":
            raise TrialError(
                f"{self._table.where} is of MATLAB, which counts from 1, and whose ranges include "
                "their last row. Say one_based=True if that is so here, else one_based=False (in "
                "the shell: --one-based or --zero-based)."
            )
        return by_itself if one_based is None else one_based

    def _times(self, column: str) -> npt.NDArray[np.float64]:
        values = self._read[column]
        if values.dtype.kind in "iuf" and np.isfinite(values).all():
            return values.astype(np.float64)
        is_bad = ~np.isfinite(values) if values.dtype.kind in "iuf" else _is_in_words(values)
        bad = int(np.argmax(is_bad))
        raise TrialError(
            f"{self._table.shown(bad, column)}, which is no time. Give numbers, from the start of "
            "the recording (of a timedelta of pandas: .dt.total_seconds())."
        )

    def _whole(self, column: str) -> npt.NDArray[np.int64]:
        """A column as int64, or a TrialError for the first cell that is no whole number."""
        numbers = self._read[column]
        if numbers.dtype.kind == "f":
            bad = (numbers != np.trunc(numbers)) | (np.abs(numbers) >= 2.0**63)  # NaN differs
        elif numbers.dtype.kind in "iu":
            bad = numbers > np.uint64(2**63 - 1) if numbers.dtype == np.uint64 else None
        else:
            bad = _is_in_words(numbers)
        if bad is not None and bad.any():
            k = int(np.argmax(bad))
            raise TrialError(
                f"{self._table.shown(k, column)}, which is no row of a recording. Give whole "
                "numbers of samples; or, if these are seconds, say so: Trials.read(..., unit='s', "
                "rate=1000), of several recordings once for each (in the shell: --unit s --rate "
                "1000)."
            )
        return numbers.astype(np.int64)

    def _around(
        self, at: npt.NDArray[np.int64], duration: npt.NDArray[np.int64] | None
    ) -> tuple[npt.NDArray[np.int64], ...]:
        """Windows around events."""
        if not self._reading.of_events:
            if duration is None:
                raise TrialError(
                    f"{self._table.where} holds events. Say which window around each is a trial: "
                    "pre= and post=, in seconds (in the shell: --pre 0.5 --post 1.5)."
                )
            return at, at + duration, np.zeros_like(at)
        before = self._seconds("pre", at.size)
        start = at - before
        if self._reading.post is None:
            if duration is None:
                raise TrialError(
                    "Say how long trials last after the event: post=, in seconds (in the shell: "
                    "--post 1.5)."
                )
            stop = at + duration
        else:
            stop = at + self._seconds("post", at.size)
        return start, stop, before

    def _seconds(self, name: str, count: int) -> npt.NDArray[np.int64]:
        """The rows of `pre` or `post`, for each event."""
        value = getattr(self._reading, name)
        rate = self._rate(f"{name}= is a time")
        return seconds_of(name, 0.0 if value is None else value, count, rate)


def seconds_of(name: str, value: Any, count: int, rate: float) -> npt.NDArray[np.int64]:
    """The rows of a time for each event, given for all or for each."""
    try:
        seconds = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        seconds = np.full(1, np.nan)
    if seconds.shape not in ((), (count,)) or not np.isfinite(seconds).all():
        raise TrialError(
            f"{name}={value!r:.100} is no time in seconds, nor one for each of {count} events."
        )
    if name == "pre" and (seconds < 0).any():
        warnings.warn(
            f"pre={value!r:.100}: windows begin after their events. For what is before them, pre "
            "is positive.",
            HpcioWarning,
            stacklevel=4,
        )
    return np.broadcast_to(to_rows(seconds, rate), (count,))


def _is_in_words(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which cells of a column hold no number; all of those that hold none."""

    def is_in_words(cell: Any) -> bool:
        try:
            return "_" in str(cell) or not np.isfinite(float(cell))
        except (TypeError, ValueError):
            return True

    found = np.asarray([is_in_words(cell) for cell in values.tolist()])
    return found if found.any() else np.ones(len(values), bool)


class _Named(_Table):
    """A table whose columns have names."""

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        rows = {name for pair in _PAIRS for name in pair if _PAIRS[pair] == "rows"} | {"offset"}
        return {
            name: values
            for name, values in self._read.items()
            if name and name.lower() not in rows and values.dtype.kind in "biufU"
        }

    def windows(self) -> tuple[npt.NDArray[np.int64], ...]:
        reading = self._reading
        names = {name.lower(): name for name in self._table.columns}
        if reading.onset is not None:
            name = reading.onset.lower()
            if name not in names:
                raise self._unknown(f"has no column '{reading.onset}'")
            unit = reading.unit or ("rows" if name == _SAMPLE else "s")
            return self._events(names, names[name], unit)
        for pair, unit in _PAIRS.items():
            if set(pair) <= set(names):
                if reading.of_events and _ONSET in names:
                    raise TrialError(
                        f"{self._table.where} has '{names[pair[0]]}' and '{names[_ONSET]}'. Say "
                        "which one pre= and post= are around: onset='NAME' (in the shell: --onset "
                        "NAME)."
                    )
                return self._intervals(names, pair, reading.unit or unit)
        if _ONSET in names:
            return self._events(names, names[_ONSET], reading.unit or "s")
        raise self._unknown("has the columns " + ", ".join(self._table.columns))

    def _unknown(self, why: str) -> TrialError:
        return TrialError(
            f"{self._table.where} {why}. Name those that hold the first row of a trial and the row "
            "after its last, in samples, 'start' and 'stop'; those with seconds 'start_time' and "
            "'stop_time', or 'onset' and 'duration'. Or say which one holds the time of an event: "
            "onset='NAME' (in the shell: --onset NAME)."
        )

    def _events(
        self, names: Mapping[str, str], column: str, unit: str
    ) -> tuple[npt.NDArray[np.int64], ...]:
        at = self._at(column, unit) - self._is_one_based(unit)
        duration = None
        # Beside a row, a duration is one of FieldTrip, in rows, or one of BIDS, in seconds.
        is_known = unit != "rows" or self._table.matlab
        if "duration" in names and is_known and self._reading.post is None:
            duration = self._rows(names["duration"], unit)
        return self._around(at, duration)

    def _intervals(
        self, names: Mapping[str, str], pair: tuple[str, str], unit: str
    ) -> tuple[npt.NDArray[np.int64], ...]:
        first, last = (names[name] for name in pair)
        start, stop = self._at(first, unit), self._at(last, unit)
        offset = np.zeros_like(start)
        of_fieldtrip = pair[0] == "begsample"
        counts_from_one = self._is_one_based(unit, by_itself=of_fieldtrip and unit == "rows")
        if self._reading.one_based is None and not of_fieldtrip and unit == "rows":
            _refuse_one_based(start, stop, self._table)
        start = start - counts_from_one
        if "offset" in names:
            offset = self._rows(names["offset"], unit) * (-1 if of_fieldtrip else 1)
        if self._reading.of_events:
            return self._around(start + offset, stop - start - offset)
        return start, stop, offset


class _Numbered(_Table):
    """A table whose columns are known by their number: start, stop and offset; or events of MNE."""

    def windows(self) -> tuple[npt.NDArray[np.int64], ...]:
        table, reading = self._table, self._reading
        if reading.onset is not None:
            raise TrialError(f"{table.where} has no names of columns, such as onset='...'.")
        unit = reading.unit or "rows"
        if reading.of_events and not table.matlab:
            return self._events_of_mne(unit)
        counts_from_one = self._is_one_based(unit, by_itself=table.trl and unit == "rows")
        start, stop = self._at("0", unit), self._at("1", unit)
        _refuse_transposed(table)
        if reading.one_based is None and not table.trl and unit == "rows":
            if _is_of_mne(table):
                raise TrialError(
                    f"{table.where} looks like events of MNE: its second column is 0 throughout. "
                    "Say which window around each is a trial: rate=, pre= and post=, in seconds "
                    "(in the shell: --rate 1000 --pre 0.5 --post 1.5)."
                )
            _refuse_one_based(start, stop, table)
        offset = self._rows("2", unit) if "2" in table.columns else np.zeros_like(start)
        if counts_from_one:  # as FieldTrip, whose offset says where the trial begins
            start, offset = start - 1, -offset
        if reading.of_events:
            return self._around(start + offset, stop - start - offset)
        return start, stop, offset

    def _events_of_mne(self, unit: str) -> tuple[npt.NDArray[np.int64], ...]:
        if "2" not in self._table.columns:
            raise TrialError(
                f"{self._table.where} has two columns without names, and pre= and post= go with "
                "events. Give columns with names, or Trials.from_events(onsets, ...)."
            )
        at, previous = self._at("0", unit), self._read["1"]
        if previous.dtype.kind in "iuf" and (previous > self._read["0"]).all():
            raise TrialError(
                f"{self._table.where} looks like start and stop: its second column is larger than "
                "the first throughout, and pre= and post= go with events. Give columns with names."
            )
        return self._around(at - self._is_one_based(unit), None)

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        more = list(self._read.values())
        if self._reading.of_events and not self._table.matlab:
            return {"event": more[2], "previous": more[1]}
        if len(more) == 4:
            return {"trialinfo": more[3]}
        return {f"trialinfo{k}": values for k, values in enumerate(more[3:], 1)}


def _is_of_mne(table: TrialTable) -> bool:
    values = table.columns["1"]
    return "2" in table.columns and len(values) > 1 and not values.astype(bool).any()


def _refuse_transposed(table: TrialTable) -> None:
    """Raise TrialError for two or three rows that grow from the first to the last column."""
    columns = list(table.columns.values())
    if any(column.dtype.kind not in "iuf" for column in columns):
        return
    values = np.column_stack(columns)
    if len(values) in (2, 3) and values.shape[1] > 2 and (np.diff(values[:2], axis=1) > 0).all():
        raise TrialError(
            f"{table.where} looks transposed: numbers grow along its rows, as if each column were "
            "a trial. Give table.T (in MATLAB: table'), one row for each trial; or, if it is meant "
            "so, columns with names."
        )


def _refuse_one_based(
    start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], table: TrialTable
) -> None:
    """Raise TrialError for a table of ranges that join if they count from 1 up to the last row."""
    if len(start) > 2 and start[0] == 1 and (start[1:] == stop[:-1] + 1).all():
        raise TrialError(
            f"{table.where} looks one-based: trial 0 has the rows 1 to {stop[0]}, trial 1 those "
            f"from {start[1]}. If stop is the last row of a trial, and rows count from 1, say "
            "one_based=True, else one_based=False (in the shell: --one-based or --zero-based)."
        )
