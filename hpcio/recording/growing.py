"""What is added to the trials and recordings of a plan: what is new of what a user gives."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hpcio.errors import HpcioWarning, OptionError, SourceError, TrialError
from hpcio.recording.blocks import SELECTED
from hpcio.recording.clocks import Clock, clock_of_rows
from hpcio.recording.naming import RECORDING, names_of_recordings, which_of
from hpcio.recording.placing import column_of_all, placed, read_trials
from hpcio.recording.recording import Recording
from hpcio.recording.several import SeveralRecordings, check_agree, read_recording
from hpcio.recording.trials import Trials
from hpcio.recording.windows import Outside

__all__ = ["Grown", "grown"]


class Grown(NamedTuple):
    """Trials and recordings, and behind them those that are new.

    Attributes
    ----------
    trials : Trials
        Those that were there come first, and are as they were.
    recording : Recording
    order : numpy.ndarray of int
        For each new trial the place that it had among those that were given.
    given : int
        How many were given.
    """

    trials: Trials
    recording: Recording
    order: npt.NDArray[np.int64]
    given: int


def grown(
    trials: Trials,
    recording: Recording,
    spec: Any,
    *,
    source: Any = None,
    out: str,
    outside: Outside = "error",
) -> Grown:
    """Add trials, and perhaps recordings, behind those that are there.

    Parameters
    ----------
    trials, recording
        Those that are there.
    spec : Any
        The further trials, as `read_trials` takes them: of `source`, else of the recording that is
        there. If all trials of a recording are among them that are there already, these are left
        out.
    source : str, path, or sequence of them, optional
        Further recordings. Those that are there already may be among them.
    out : str
        The result.
    outside : {"error", "drop"}
        As for `read_trials`.

    Returns
    -------
    Grown

    Raises
    ------
    SourceError, TrialError, OptionError
        If what is new does not agree with what is there.
    """
    axis = _axis_of(trials, recording)
    there = [_as_it_is(part, axis) for part in recording.parts]
    given = _joined(there, axis, like=recording)
    if source is not None:
        given = read_recording(source, axis=axis, units=recording.units, out=out)
    found = read_trials(spec, given, axis=axis, outside=outside, out=out)
    # This says which of them leave their recording, by the numbers that they were given with.
    placed(found.trials, given).blocks(given.shape, name=str(given))
    # In the order in which they were given, but for that of recordings.
    more, place = found.trials, _places(given, there)
    parts = [*there, *(part for part, k in zip(given.parts, place, strict=True) if k < 0)]
    fresh = iter(range(len(there), len(parts)))
    place = np.asarray([k if k >= 0 else next(fresh) for k in place.tolist()], np.int64)
    of_more = place[_which(more, given)]
    of_trials = _which(trials, recording)
    new = _new_among(more, of_more, trials, of_trials, parts)
    if not new.size:
        return Grown(trials, recording, found.order[new], found.order.size)
    more, of_more = more.select(trials=new), of_more[new]
    if recording.parts != tuple(parts):
        check_agree(parts, axis)
    whole = _joined(parts, axis, like=recording)
    made = _behind(trials, of_trials, more, of_more, whole, out)
    return Grown(made, whole, found.order[new], found.order.size)


def _axis_of(trials: Trials, recording: Recording) -> int:
    return trials.axis % len(recording.shape)


def _joined(parts: list[Recording], axis: int, *, like: Recording) -> Recording:
    """Parts as one recording; a single one is alone only if it was."""
    alone = len(parts) == 1 and not isinstance(like, SeveralRecordings)
    return parts[0] if alone else SeveralRecordings.joined(parts, axis)


def _as_it_is(part: Recording, axis: int) -> Recording:
    """A recording that is there: as it was, or with more rows."""
    try:
        part.check_content()
    except SourceError as error:
        now = part.now()
        longer = [*part.shape]
        longer[axis] = now.shape[axis] if len(now.shape) == len(part.shape) else -1
        alike = (now.dtype, now.scaling, [*now.shape]) == (part.dtype, part.scaling, longer)
        if not alike or longer[axis] <= part.shape[axis]:
            raise error
        warnings.warn(
            f"'{part}' has grown from {part.shape[axis]:,} to {longer[axis]:,} rows. Results that "
            "are there are taken to be of the same rows as now; nobody looks whether they are.",
            HpcioWarning,
            stacklevel=6,
        )
        return now
    return part


def _places(given: Recording, there: list[Recording]) -> npt.NDArray[np.int64]:
    """Which of the recordings that are there each of the given ones is; -1 for new ones."""
    known = {name: k for k, part in enumerate(there) for name in _identities(part)}
    found = [
        next((known[name] for name in _identities(p) if name in known), -1) for p in given.parts
    ]
    for k in {*found} - {-1}:
        if found.count(k) > 1:
            raise OptionError(
                f"Of the further recordings {found.count(k)} are '{there[k]}', or copies of it, "
                "which is in the result already. Name it once at the most."
            )
    return np.asarray(found, np.int64)


def _identities(part: Recording) -> list[tuple[Any, ...]]:
    """By what a recording is known: its name, or what a copy has as well."""
    dataset = part.dataset.strip("/")
    names: list[tuple[Any, ...]] = [(os.path.realpath(part.path), dataset)]
    if part.sample:
        names.append((dataset, part.size, part.mtime_ns, part.sample))
    return names


def _which(trials: Trials, recording: Recording) -> npt.NDArray[np.int64]:
    """Which of the recordings each trial is of."""
    if not isinstance(recording, SeveralRecordings):
        return np.zeros(len(trials), np.int64)
    return which_of(trials[RECORDING], recording)


def _new_among(
    more: Trials,
    of_more: npt.NDArray[np.int64],
    trials: Trials,
    of_trials: npt.NDArray[np.int64],
    parts: list[Recording],
) -> npt.NDArray[np.intp]:
    """The positions of trials that are not there yet."""
    if not (np.isin(trials.start, more.start) & np.isin(of_trials, of_more)).any():
        return np.arange(len(more))
    rows = [np.stack([of, t.start, t.stop, t.offset], axis=1)
            for of, t in ((of_trials, trials), (of_more, more))]  # fmt: skip
    _, key = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    ours, theirs = (_numbered(each, key.size) for each in np.split(key.reshape(-1), [len(trials)]))
    again, missing = np.isin(theirs, ours), ~np.isin(ours, theirs)
    new = np.flatnonzero(~again)
    _check_told_alike(more, np.flatnonzero(again), theirs, trials, ours)
    # Whoever adds some gives new ones alone, or all; to give some that are there adds nothing.
    for k in np.unique(of_more[again]).tolist() if new.size else ():
        some, others = again & (of_more == k), missing & (of_trials == k)
        if others.any():
            raise TrialError(
                f"Of the trials of '{parts[k]}' that are given {int(some.sum())} are in the result "
                f"already (the first is trial {more.index[some][0]}), and {int(others.sum())} that "
                "are there are not among those given. Give new trials alone, or the whole table, "
                "of which those that are there are left out."
            )
    return new


def _numbered(keys: npt.NDArray[np.intp], most: int) -> npt.NDArray[np.int64]:
    """Keys made distinct: the second of two equal trials is there if two of them are there.

    So `most` are there of each, at the most.
    """
    order = np.argsort(keys, kind="stable")
    begins = np.flatnonzero(np.diff(keys[order], prepend=-1))
    before = np.arange(keys.size) - np.repeat(begins, np.diff(np.append(begins, keys.size)))
    numbered = np.empty(keys.size, np.int64)
    numbered[order] = keys[order].astype(np.int64) * most + before
    return numbered


def _check_told_alike(
    more: Trials,
    again: npt.NDArray[np.intp],
    theirs: npt.NDArray[np.int64],
    trials: Trials,
    ours: npt.NDArray[np.int64],
) -> None:
    """Raise TrialError if a table says other things of trials that are there than it did."""
    where = dict(zip(ours.tolist(), range(len(trials)), strict=True))
    here = np.asarray([where[key] for key in theirs[again].tolist()], np.intp)
    for name, values in more.columns.items():
        if name not in trials.columns or name == RECORDING:  # which rows say
            continue
        a, b = trials.columns[name][here], values[again]
        unequal = a != b
        if a.dtype.kind == b.dtype.kind == "f":
            unequal &= ~(np.isnan(a) & np.isnan(b))
        if np.any(unequal):
            k = int(np.argmax(unequal))
            raise TrialError(
                f"The column '{name}' says {b[k]!s} of trial {more.index[again][k]}, and "
                f"{a[k]!s} in the result. Columns of trials that are there stay as they are: "
                "correct the table, or give new trials alone."
            )


def _behind(
    trials: Trials,
    of_trials: npt.NDArray[np.int64],
    more: Trials,
    of_more: npt.NDArray[np.int64],
    recording: Recording,
    out: str,
) -> Trials:
    """Trials, and further ones behind them."""
    for name in SELECTED:
        own, known = getattr(more, name), getattr(trials, name)
        if own is not None and own != known:
            raise OptionError(
                f"The further trials have {name}={own!r:.100}, and those of '{out}' "
                f"{known!r:.100}. Select the same, or nothing: the same is selected of them, too."
            )
    both = {out: trials, "trials=": more}
    which, several = np.concatenate([of_trials, of_more]), isinstance(recording, SeveralRecordings)
    # Of several recordings that column goes without saying.
    names = _names(both, {RECORDING} if several else set())
    columns = {name: column_of_all(name, both) for name in names}
    if isinstance(recording, SeveralRecordings):
        given = None
        if all(RECORDING in one.columns for one in both.values()):
            given = column_of_all(RECORDING, both)
        columns[RECORDING] = names_of_recordings(given, which, recording)
    after = int(trials.index.max()) + 1
    numbers = more.index if more.index.min() >= after else after + np.arange(len(more))
    return replace(
        trials,
        start=np.concatenate([trials.start, more.start]),
        stop=np.concatenate([trials.stop, more.stop]),
        offset=np.concatenate([trials.offset, more.offset]),
        index=np.concatenate([trials.index, numbers]),
        columns=columns,
        clock=_clock(trials, more, recording),
    )


def _names(both: Mapping[str, Trials], but: set[str]) -> list[str]:
    """The names of columns but for some, which all have."""
    first, second = both
    names = [{*one.columns} - but for one in both.values()]
    for has, has_not, more in ((first, second, names[0] - names[1]),
                               (second, first, names[1] - names[0])):  # fmt: skip
        if more:
            raise TrialError(
                f"The trials of '{has_not}' have no column '{min(more)}', and those of '{has}' "
                "have one. Trials that are added have the same columns as those that are there."
            )
    return [name for name in both[first].columns if name not in but]


def _clock(trials: Trials, more: Trials, recording: Recording) -> Clock | None:
    """Which time the rows of all trials have; None if that is not known, or not the same."""
    if trials.clock is not None and more.clock is not None:
        # Rows of one recording have one time each.
        names = ["rate"] if isinstance(recording, SeveralRecordings) else ["rate", "t_start"]
        now = clock_of_rows(more.clock, recording.parts[0], trials.axis)
        for name in names:
            before, later = getattr(trials.clock, name), getattr(now, name, None)
            if before != later:
                raise OptionError(
                    f"The further trials were read with {name}={later}, and those that are there "
                    f"with {name}={before}. Give the same."
                )
    if not isinstance(recording, SeveralRecordings):
        return trials.clock
    return None  # each was held against that of its recording
