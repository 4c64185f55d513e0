"""The clock of a recording: which time its rows have, if its file says so.

NWB notes it beside the values, as ``starting_time`` with a rate, or as ``timestamps``. Trials that
were read in seconds are held against it: a recording that begins at 5 s has the event of 6 s in
another row than one that begins at 0 s, and nothing else would show that.
"""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np
import numpy.typing as npt

from hpcio.errors import TrialError
from hpcio.files import open_file, reading
from hpcio.recording.recording import Recording
from hpcio.recording.sessions import number_in

__all__ = ["Clock", "check_clock", "clock_of", "clock_of_rows"]

# So many timestamps are read at a time.
_STAMPS = 1 << 20
# Timestamps have a whole number of rows in a second if it leads so near to the last, in rows.
_NEAR = 0.01
# So many timestamps tell whether they are evenly spaced; those of trials are looked at one by one.
_SOME = 1000


@dataclass(frozen=True)
class Clock:
    """Which time a row has: ``t_start + row / rate``.

    Attributes
    ----------
    rate : float or None
        Rows in a second; None if the timestamps of a recording are not evenly spaced.
    t_start : float or None
        Time of the first row in seconds; None for trials whose rows were not made of times.
    by_stamps : bool
        Whether timestamps say so, of which each is looked at where trials are.
    """

    rate: float | None
    t_start: float | None
    by_stamps: bool = False


def clock_of(recording: Recording, axis: int) -> Clock | None:
    """The clock that the file of a recording gives to the rows along an axis; None if it has none.

    Raises
    ------
    SourceError
        If the file cannot be read.
    """
    if recording.kind not in ("hdf5", "nwb") or axis not in (0, -len(recording.shape)):
        return None
    with reading(recording.path), open_file(recording.path) as f:
        series = _series(f, recording)
        if series is None:
            return None
        start, stamps = series.get("starting_time"), _stamps(series, recording)
        if stamps is not None:
            return _clock_of_stamps(stamps)
        rate = number_in(start, "rate", 0) if isinstance(start, h5py.Dataset) else 0
        return Clock(rate, float(start[()])) if rate > 0 else None


def clock_of_rows(clock: Clock | None, recording: Recording, axis: int) -> Clock | None:
    """Which time the rows of trials have; None if that is not known.

    Parameters
    ----------
    clock : Clock or None
        That by which seconds became rows; None if none did. It has been checked.
    recording : Recording
    axis : int
        The axis of the recording that trials cut.
    """
    own = clock_of(recording, axis)
    if clock is not None and clock.rate is not None:
        known = clock.t_start if own is None or clock.t_start is not None else own.t_start
        return Clock(clock.rate, known or 0.0)
    # Timestamps may be uneven where trials are, which nobody has looked at.
    return None if own is None or own.by_stamps else own


def check_clock(
    clock: Clock | None,
    own: Clock | None,
    start: npt.NDArray[np.int64],
    stop: npt.NDArray[np.int64],
    recording: Recording,
) -> None:
    """Raise TrialError if trials were read by another clock than that of their recording.

    Parameters
    ----------
    clock : Clock or None
        That by which seconds became rows; None if none did.
    own : Clock or None
        That which the file of the recording gives to the rows along the axis that trials cut.
    start, stop : int64 array (N,)
        Rows of the trials.
    recording : Recording

    Raises
    ------
    TrialError
        If a row of a trial lies half a row or more beside its time.
    """
    if clock is None or own is None or clock.rate is None:
        return
    t_start = own.t_start if clock.t_start is None else clock.t_start
    first, last = max(int(start.min()), 0), min(int(stop.max()), recording.shape[0])
    name = f"'{recording.dataset}' of '{recording.path}'"
    if own.by_stamps or own.rate is None:
        _check_stamps(clock.rate, t_start or 0.0, own, range(first, last), recording, name)
        return
    ends = np.array([first, last], np.float64)
    beside = (t_start or 0.0) - (own.t_start or 0.0) + ends / clock.rate - ends / own.rate
    if (np.abs(beside) * own.rate >= 0.5).any():
        raise TrialError(
            f"{name} begins at {own.t_start} s and has {own.rate} rows in a second, as its file "
            f"says, and the times of the trials were read with t_start={t_start} and "
            f"rate={clock.rate}. Give t_start={own.t_start}, rate={own.rate} (in the shell: "
            f"--t-start {own.t_start} --rate {own.rate}). If times count from the first row, add "
            f"{own.t_start} to them; if the file is wrong, correct it."
        )


def _series(file: h5py.File, recording: Recording) -> h5py.Group | None:
    """The time series of NWB that a recording is the data of."""
    group, _, name = recording.dataset.strip("/").rpartition("/")
    series = file.get(group) if group and name == "data" else None
    ours = isinstance(series, h5py.Group) and "neurodata_type" in series.attrs
    return series if ours else None


def _stamps(series: h5py.Group, recording: Recording) -> h5py.Dataset | None:
    stamps = series.get("timestamps")
    is_one = isinstance(stamps, h5py.Dataset) and stamps.shape == recording.shape[:1]
    return stamps if is_one else None


def _clock_of_stamps(stamps: h5py.Dataset) -> Clock:
    """The clock of timestamps that are evenly spaced, as far as a look at some shows."""
    first, last, step = float(stamps[0]), float(stamps[-1]), max(1, len(stamps) // _SOME)
    if not first < last < np.inf:
        return Clock(None, first, by_stamps=True)
    rate = (len(stamps) - 1) / (last - first)
    near = float(round(rate))  # 1000, where sums of 0.001 have led to 999.9999999
    if abs(near - rate) * (last - first) < _NEAR:
        rate = near
    rows = np.arange(0, len(stamps), step)
    is_even = _lie_near(stamps[::step], rows, rate, first).all()
    return Clock(rate if is_even else None, first, by_stamps=True)


def _lie_near(
    stamps: npt.NDArray[np.float64], rows: npt.NDArray[np.int64], rate: float, t_start: float
) -> npt.NDArray[np.bool_]:
    """Whether timestamps lie less than half a row beside the times of their rows."""
    return np.abs(stamps - (t_start + rows / rate)) * rate < 0.5


def _check_stamps(
    rate: float, t_start: float, own: Clock, wanted: range, recording: Recording, name: str
) -> None:
    """Raise TrialError unless the timestamps of some rows are those of a clock."""
    with reading(recording.path), open_file(recording.path) as f:
        series = _series(f, recording)
        stamps = None if series is None else _stamps(series, recording)
        if stamps is None:
            return
        for low in wanted[::_STAMPS]:
            rows = np.arange(low, min(low + _STAMPS, wanted.stop))
            found = stamps[low : low + len(rows)]
            is_near = _lie_near(found, rows, rate, t_start)
            if not is_near.all():
                k = int(np.argmin(is_near))
                said = f"not those of t_start={t_start} and rate={rate}"
                if (rate, t_start) == (own.rate, own.t_start):
                    said = f"not evenly spaced (by the first and the last, rate={rate:.6g})"
                raise TrialError(
                    f"{name} has timestamps, and they are {said}: row {rows[k]} is at {found[k]} "
                    f"s, the first one at {stamps[0]} s. Give these as they are; if rows are not "
                    "evenly spaced, find those of each trial by numpy.searchsorted(timestamps, "
                    "times), and give them as start and stop."
                )
