"""Trials of several recordings that are read as one: which trial is of which recording.

Rows of trials are those of their own recording, as the tables have them, and the column `recording`
says which one that is. Only `placed` counts in rows of the whole, from which blocks are made.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hpcio.errors import OptionError, TrialError
from hpcio.recording.blocks import SELECTED
from hpcio.recording.naming import (
    RECORDING,
    check_said,
    names_of_recordings,
    plain_name,
    recording_of_each,
    refuse_others,
    which_of,
    with_earlier_name,
    with_plain_name,
)
from hpcio.recording.recording import Recording, in_result
from hpcio.recording.several import SeveralRecordings, matching_files
from hpcio.recording.tables import MISSING, TrialTable, array_table, plain_column, read_table
from hpcio.recording.trials import Trials
from hpcio.recording.windows import Outside
from hpcio.words import natural

__all__ = [
    "Given",
    "column_of_all",
    "placed",
    "read_trials",
]

# What trials that are read as one have in common.
_ALIKE = ("axis", *SELECTED)


class Given(NamedTuple):
    """Trials as they are planned.

    Attributes
    ----------
    trials : Trials
        Of several recordings, their rows count in their own recording, which the column `recording`
        names, and they are sorted by it, else in the order they were given in. Their `index` is the
        row of the one table; of several tables it runs on.
    order : int64 array (N,)
        For each trial the place that it had among those that were given.
    """

    trials: Trials
    order: npt.NDArray[np.int64]


def read_trials(
    spec: Any,
    recording: Recording,
    *,
    axis: int = 0,
    outside: Outside = "error",
    out: str | None = None,
    **how: Any,
) -> Given:
    """The trials of a recording, or of each of several; see :meth:`hpcio.Trials.read`.

    Parameters
    ----------
    spec : Any
        Of one recording, as `Trials.read` takes it; ``"::NAME"`` is in its own file. Of several:

        - a list with the trials of each, in their order;
        - an int: equal trials in each;
        - ``"::NAME"``: of each those in its own file;
        - a name with a pattern that as many files match;
        - one table, or `Trials`, with a column `recording`: path, name or stem of a file.
    recording : Recording
    axis : int
        The axis that trials cut.
    outside : {"error", "drop"}
        What becomes of trials that leave the recording, each its own.
    out : str, optional
        The result, which no pattern stands for.
    **how
        Further options of `Trials.read`.

    Returns
    -------
    Given

    Raises
    ------
    SourceError, TrialError, OptionError
        As `Trials.read`; or if it is not known which recording a trial is of.
    """
    if not isinstance(recording, SeveralRecordings):
        found = _read(_in_own_file(spec, recording), recording, axis, outside, how)
        return Given(found, np.arange(len(found)))
    each = _for_each(spec, recording, out)
    if each is not None:
        return _of_each(each, recording, outside, how)
    if isinstance(spec, Trials):
        return _of_trials(spec, recording, outside, how)
    return _of_table(spec, recording, outside, how)


def _read(
    spec: Any, part: Recording, axis: int, outside: Outside, how: Mapping[str, Any]
) -> Trials:
    """The trials of one recording."""
    if isinstance(spec, Trials) and outside == "error":
        outside = spec.outside
    rank = len(part.shape)
    rows = part.shape[axis] if -rank <= axis < rank else 0
    return Trials.read(spec, rows=rows, axis=axis, recording=part, outside=outside, **how)


def placed(trials: Trials, recording: Recording) -> Trials:
    """Trials in rows of all recordings together, as blocks are laid over them.

    Raises
    ------
    TrialError
        If one leaves its own recording, or is of another than those that are read.
    """
    if not isinstance(recording, SeveralRecordings):
        refuse_others(trials, recording)
        return trials
    which = which_of(trials[RECORDING], recording)
    first = np.asarray(recording.first_rows)
    beyond = np.flatnonzero(trials.stop > np.diff(first)[which])
    if len(beyond):
        k = beyond[0]
        part = recording.parts[which[k]]
        more = f" (and {len(beyond) - 1} more trials)" if len(beyond) > 1 else ""
        raise TrialError(
            f"Trial {trials.index[k]}{more} ends after its recording '{part}': its rows are "
            f"[{trials.start[k]}, {trials.stop[k]}), and there are "
            f"{part.shape[recording.axis]}. Correct the table, or drop trials that leave their "
            "recording: outside='drop' (in the shell: --outside drop)."
        )
    before = first[which]
    return replace(trials, start=trials.start + before, stop=trials.stop + before)


# ---------------------------------------------------------------------- trials of each


def _in_own_file(spec: Any, recording: Recording) -> Any:
    """``::NAME`` as the name in the file of a recording; all else as it is."""
    is_inside = isinstance(spec, str | os.PathLike) and os.fspath(spec).startswith("::")
    return f"{recording.path}{os.fspath(spec)}" if is_inside else spec


def _for_each(spec: Any, recording: SeveralRecordings, out: str | None) -> list[Any] | None:
    """The trials of each recording, as they are given; None if one table has those of all."""
    count = len(recording.parts)
    if isinstance(spec, int | np.integer) and not isinstance(spec, bool):
        return [spec] * count
    if isinstance(spec, list | tuple) and not _is_of_records(spec):
        if len(spec) != count:
            raise OptionError(
                f"There are {count} recordings and trials= is a list of {len(spec)}. Give the "
                "trials of each, in the order of source=; or one table with a column 'recording'."
            )
        return [_in_own_file(one, part) for one, part in zip(spec, recording.parts, strict=True)]
    if isinstance(spec, str | os.PathLike):
        name = os.fspath(spec)
        if name.startswith("::"):
            return [_in_own_file(name, part) for part in recording.parts]
        found = matching_files(name, out=out)
        if found is not None:
            _check_alike(name, found, recording)
            return [*found]
    return None


def _is_of_records(spec: Sequence[Any]) -> bool:
    """Whether a list is one table: of records, each of which is a trial."""
    return bool(spec) and all(
        isinstance(one, Mapping) and all(np.isscalar(v) or v is None for v in one.values())
        for one in spec
    )


def _check_alike(pattern: str, found: Sequence[str], recording: SeveralRecordings) -> None:
    """Raise TrialError unless files of trials go with recordings: their names differ alike."""
    paths = [part.path for part in recording.parts]
    if len(found) != len(paths):
        raise TrialError(
            f"There are {len(paths)} recordings, and '{pattern}' matches {len(found)} files. "
            "Correct the pattern, or give a list with the trials of each."
        )
    for path, one, a, b in zip(paths, found, _differences(paths), _differences(found), strict=True):
        if natural(a) != natural(b):
            raise TrialError(
                f"'{pattern}' matches as many files as there are recordings, but '{one}' does not "
                f"seem to go with '{path}': '{b}' and '{a}' are what tells them from the others. "
                "Give a list with the trials of each, or one table with a column 'recording'."
            )


def _differences(names: Sequence[str]) -> list[str]:
    """What is left of names without what all begin with, and all end with."""
    if len(names) < 2:
        return [""] * len(names)
    left = [name[_shared(names) :] for name in names]
    return [name[: len(name) - _shared([other[::-1] for other in left])] for name in left]


def _shared(names: Sequence[str]) -> int:
    """With how many characters all names begin."""
    least, most = min(names), max(names)
    return next((k for k, (a, b) in enumerate(zip(least, most, strict=False)) if a != b),
                min(len(least), len(most)))  # fmt: skip


@contextmanager
def _naming(part: Recording) -> Iterator[None]:
    """Errors and warnings about trials say which recording they are of."""
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield
    except TrialError as error:
        raise TrialError(f"Trials of '{part}': {error}") from error
    for one in told:
        warnings.warn(f"Trials of '{part}': {one.message}", one.category, stacklevel=6)


def _of_each(
    each: Sequence[Any],
    recording: SeveralRecordings,
    outside: Outside,
    how: Mapping[str, Any],
) -> Given:
    """The trials of each recording, given one after the other."""
    found, before = [], 0
    for part, spec in zip(recording.parts, each, strict=True):
        with _naming(part):
            trials = _read(spec, part, recording.axis, outside, how)
        trials = with_earlier_name(with_plain_name(trials), part)
        found.append(replace(trials, index=trials.index + before))
        before = int(found[-1].index.max()) + 1
    joined = _joined(found, range(len(found)), recording)
    return Given(joined, np.arange(len(joined)))


def _of_trials(
    trials: Trials,
    recording: SeveralRecordings,
    outside: Outside,
    how: Mapping[str, Any],
) -> Given:
    """Trials with a column that says which recording they are of."""
    trials = with_plain_name(trials)
    which = recording_of_each(trials.columns, recording, len(trials), "trials=")
    found, places, numbers = [], [], []
    for k, place in _rows_of_each(which):
        part = recording.parts[k]
        numbers.append(k)
        some = trials.select(trials=place)
        with _naming(part):
            found.append(_read(some, part, recording.axis, outside, how))
        is_kept = some.stop <= part.shape[recording.axis]
        places.append(place if len(found[-1]) == len(place) else place[is_kept])
    return Given(_joined(found, numbers, recording), _ranks(np.concatenate(places)))


def _of_table(
    spec: Any,
    recording: SeveralRecordings,
    outside: Outside,
    how: Mapping[str, Any],
) -> Given:
    """One table with a column that says which recording each of its trials is of."""
    is_name = isinstance(spec, str | os.PathLike)
    table = read_table(in_result(os.fspath(spec), "trials")) if is_name else array_table(spec)
    columns = {plain_name(n): plain_column(np.asarray(v)) for n, v in table.columns.items()}
    count = len(next(iter(columns.values())))
    which = recording_of_each(columns, recording, count, table.where)
    found, numbers = [], []
    for k, rows in _rows_of_each(which):
        part = recording.parts[k]
        numbers.append(k)
        with _naming(part):
            some = _rows_of(replace(table, columns=columns), rows)
            found.append(_read(some, part, recording.axis, outside, how))
    joined = _joined(found, numbers, recording)
    return Given(joined, _ranks(joined.index))


def _rows_of_each(which: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Each recording that rows are of, in their order, and these rows."""
    order = np.argsort(which, kind="stable")
    numbers, first = np.unique(which[order], return_index=True)
    yield from zip(numbers.tolist(), np.split(order, first[1:]), strict=True)


def _ranks(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Distinct places without gaps: those that were dropped count for nothing."""
    return np.argsort(np.argsort(places))


def _rows_of(table: TrialTable, rows: npt.NDArray[np.intp]) -> TrialTable:
    """Some rows of a table, which messages and trials know by their numbers in the whole."""
    cell = table.cell
    return replace(
        table,
        columns={name: values[rows] for name, values in table.columns.items()},
        name=lambda k: table.name(int(rows[k])),
        cell=None if cell is None else lambda k, column: cell(int(rows[k]), column),
        numbers=rows,
    )


# ---------------------------------------------------------------------- joined


def _joined(
    found: Sequence[Trials], numbers: Sequence[int], recording: SeveralRecordings
) -> Trials:
    """The trials of recordings of such numbers, one after the other."""
    first, parts = found[0], [recording.parts[k] for k in numbers]
    for part, trials in zip(parts, found, strict=True):
        for name in _ALIKE:
            ours, theirs = getattr(first, name), getattr(trials, name)
            if ours != theirs:
                raise OptionError(
                    f"The trials of '{parts[0]}' have {name}={ours!r:.100}, those of '{part}' "
                    f"{theirs!r:.100}. Select the same of all."
                )
    which = np.repeat(np.asarray(numbers, np.int64), [len(trials) for trials in found])
    named = dict(zip(map(str, parts), found, strict=True))
    columns = {name: column_of_all(name, named) for name in _names(found, parts)}
    if RECORDING in columns:
        check_said(columns[RECORDING], which, recording)
    columns[RECORDING] = names_of_recordings(columns.get(RECORDING), which, recording)
    return replace(
        first,
        start=np.concatenate([trials.start for trials in found]),
        stop=np.concatenate([trials.stop for trials in found]),
        offset=np.concatenate([trials.offset for trials in found]),
        index=np.concatenate([trials.index for trials in found]),
        columns=columns,
        clock=None,  # each was held against that of its recording
    )


def _names(found: Sequence[Trials], parts: Sequence[Recording]) -> list[str]:
    """The names of columns, which all trials have."""
    names = dict.fromkeys(name for trials in found for name in trials.columns)
    for name in names:
        has = [name in trials.columns for trials in found]
        if not all(has):
            one, other = parts[has.index(True)], parts[has.index(False)]
            raise TrialError(
                f"The trials of '{other}' have no column '{name}', and those of '{one}' have one. "
                "Give it to all, or leave it out of all."
            )
    return [*names]


def column_of_all(name: str, found: Mapping[str, Trials]) -> npt.NDArray[Any]:
    """A column of all trials, given by what messages call them: numbers, or text."""
    values, whose = [trials.columns[name] for trials in found.values()], [*found]
    is_text = [column.dtype.kind == "U" for column in values]
    if any(is_text) and not all(is_text):  # where all of a column is missing, it may be either
        nothing = np.nan if all(map(_is_missing, compress(values, is_text))) else ""
        values = [np.full(len(v), nothing) if _is_missing(v) else v for v in values]
        is_text = [column.dtype.kind == "U" for column in values]
    if any(is_text) and not all(is_text) and name != RECORDING:
        one, other = whose[is_text.index(True)], whose[is_text.index(False)]
        raise TrialError(
            f"The column '{name}' is text in the trials of '{one}' and numbers in those of "
            f"'{other}'. Make it one of both in all."
        )
    whole = np.concatenate([v.astype("U") for v in values] if any(is_text) else values)
    if whole.dtype.kind == "f":
        parts = np.split(whole, np.cumsum([len(v) for v in values])[:-1])
        for own, part, of in zip(values, parts, whose, strict=True):
            if own.dtype.kind in "iu" and (part.astype(own.dtype) != own).any():
                raise TrialError(
                    f"The column '{name}' has whole numbers in the trials of '{of}' that are too "
                    "large to stand beside the missing values, or fractions, of others. Make it "
                    "text in all, or leave it out."
                )
    return whole


def _is_missing(column: npt.NDArray[Any]) -> bool:
    """Whether a column holds nothing: no text, and no number but NaN."""
    if column.dtype.kind == "U":
        return bool(np.isin(np.char.lower(column), MISSING).all())
    return column.dtype.kind == "f" and bool(np.isnan(column).all())
