"""Trial tables: columns as they were read, and the kinds of files that hold them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hpcio.errors import TrialError
from hpcio.machine import Registry

__all__ = [
    "COLUMNS",
    "MISSING",
    "PLACES",
    "TRIAL_TABLES",
    "TrialTable",
    "TrialTableKind",
    "array_table",
    "check_rows",
    "check_table",
    "checked_columns",
    "column_names",
    "plain_column",
    "read_table",
]

COLUMNS = ("start", "stop", "offset")
# What stands for a number that is missing.
MISSING = ("", "n/a", "nan", "na")
# All names of columns that say where trials are; see `hpcio.recording.windows`.
PLACES = {*COLUMNS, "start_time", "stop_time", "onset", "duration", "begsample", "endsample"}


@dataclass(frozen=True, eq=False)
class TrialTable:
    """A table of trials as it was read; its values are not checked yet.

    Attributes
    ----------
    columns : mapping of str to numpy.ndarray, shape (N,)
        All columns, in order: numbers, or text.
    where : str
        What the table is called in messages.
    name : callable
        The name of a row in messages, given its number.
    cell : callable, optional
        Likewise what is in a cell, given the number of its row and the name of its column.
    named : bool
        Whether columns have names of their own, and are not known by their number alone.
    matlab : bool
        Whether MATLAB has made it, which counts from 1 up to the last.
    trl : bool
        Whether it is a ``trl`` or ``sampleinfo`` of FieldTrip, whose meaning is defined.
    numbers : int array (N,), optional
        The number of each row, if these are some rows of a table.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    where: str
    name: Callable[[int], str]
    cell: Callable[[int, str], str] | None = None
    named: bool = True
    matlab: bool = False
    trl: bool = False
    numbers: npt.NDArray[np.intp] | None = None

    def shown(self, row: int, column: str) -> str:
        """A cell as messages name it."""
        if self.cell is not None:
            return self.cell(row, column)
        name = column if self.named else dict(enumerate(COLUMNS)).get(int(column), "a column")
        return f"{self.name(row)}: {name} is {self.columns[column][row]}"


class TrialTableKind(Protocol):
    """A kind of file with a table of trials, such as CSV.

    Attributes
    ----------
    name : str
        The name under which it is registered.
    """

    name: str

    def claims(self, spec: str) -> bool:
        """Whether a table of this name is of this kind; whatever is wrong, `read` says it."""

    def read(self, spec: str) -> TrialTable:
        """Read a table.

        Raises
        ------
        SourceError
            If it cannot be read.
        TrialError
            If it does not hold trials.
        """


# Kinds of trial tables. Those that are added are asked before ours; text files come last.
TRIAL_TABLES: Registry[TrialTableKind] = Registry(
    "kind of trial table",
    group="hpcio.trial_tables",
    own={
        "csv": "hpcio.recording.tablefiles:CSV",
        "hdf5": "hpcio.recording.tablefiles:HDF5",
        "nwb": "hpcio.recording.nwb:TRIALS",
    },
)


def read_table(spec: str) -> TrialTable:
    """Read the table of trials that a user names."""
    return next(kind for kind in TRIAL_TABLES.added_first() if kind.claims(spec)).read(spec)


def array_table(
    table: Any, where: str = "The trial table", row: str = "of the table"
) -> TrialTable:
    """A table of trials from whatever numpy takes for an array, or whose columns have names.

    Parameters
    ----------
    table : array_like, structured array, data frame, mapping of columns, or sequence of mappings
    where : str
        What the table is called in messages.
    row : str
        What it is called behind the number of a trial.

    Raises
    ------
    TrialError
        If it is no table of one or more rows.
    """

    def name(k: int) -> str:
        return f"Trial {k} {row}"

    named = _named_columns(table, where)
    if named is not None:
        return TrialTable(_equally_long(named, where), where, name)
    try:
        values = _unmasked(table)
    except (ValueError, TypeError) as error:
        raise TrialError(
            f"{where} is no array: its rows differ in length. Give start, stop and "
            "(if wanted) offset for every trial."
        ) from error
    check_table(values.shape, values.dtype, where)
    columns = {str(k): values[:, k].copy() for k in range(values.shape[1])}
    return TrialTable(columns, where, name, named=False)


def _named_columns(table: Any, where: str) -> dict[str, npt.NDArray[Any]] | None:
    """The columns of a table whose columns have names; None of any other."""
    if isinstance(table, Mapping):
        return {
            name: _listed(values, name, where) for name, values in _by_name(table, where).items()
        }
    if hasattr(table, "collect"):
        raise TrialError(f"{where} is a lazy frame of polars. Give .collect() of it.")
    if isinstance(table, Sequence) and len(table) and all(isinstance(r, Mapping) for r in table):
        names = column_names([str(name) for name in table[0]], where)
        try:
            return {name: _array([record[name] for record in table]) for name in names}
        except KeyError as error:
            raise TrialError(
                f"{where}: a record lacks {error}, which the first one has. Give it to all."
            ) from None
    dtype = getattr(table, "dtype", None)
    found = dtype.names if isinstance(dtype, np.dtype) else getattr(table, "columns", None)
    names = [] if found is None else list(found)
    if not any(isinstance(name, str) for name in names):
        return None
    column_names([str(name) for name in names], where)
    return {str(name): _array(table[name]) for name in names}


def _by_name(table: Mapping[Any, Any], where: str) -> dict[str, Any]:
    return dict(zip(column_names([str(n) for n in table], where), table.values(), strict=True))


def _listed(values: Any, name: str, where: str) -> npt.NDArray[Any]:
    """One column of a mapping; a dict or a set, which is no list of values, is refused."""
    if np.ndim(values) == 0 and not np.isscalar(values):
        raise TrialError(
            f"'{name}' of {where} is a {type(values).__name__}. Give a list or an array, one value "
            "a trial (of a data frame: the frame itself, or .to_dict('list'))."
        )
    return _array(values)


def _array(values: Any) -> npt.NDArray[Any]:
    """One column as an array."""
    if hasattr(values, "to_numpy"):  # pandas has types that numpy does not know
        values = values.to_numpy()
    return plain_column(_unmasked(values))


def _unmasked(values: Any) -> npt.NDArray[Any]:
    """An array, with None for what is masked: the value under a mask is no value."""
    if "numpy.ma" in sys.modules and np.ma.is_masked(values):
        return np.array(values.tolist(), object)
    return np.asarray(values)


def plain_column(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A column as numbers or text, whichever of numpy's ways holds it.

    Missing text is empty, missing numbers are NaN.
    """
    if values.dtype.kind == "S":
        return _decoded(values)
    if values.dtype.kind in "mM":  # times of a calendar
        return np.datetime_as_string(values) if values.dtype.kind == "M" else values.astype("U")
    if values.dtype.kind == "O":
        plain = values.tolist()
        if {*map(type, plain)} == {bytes}:  # text of HDF5: at once, in a tenth of the time
            return _decoded(np.array(plain, "S"))
        plain = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in plain]
        is_missing = [_is_missing(v) for v in plain]
        if all(
            missing or isinstance(v, int | float | np.number)
            for v, missing in zip(plain, is_missing, strict=True)
        ) and not all(is_missing):
            return np.array(
                [np.nan if missing else v for v, missing in zip(plain, is_missing, strict=True)]
            )
        return np.array(
            ["" if missing else str(v) for v, missing in zip(plain, is_missing, strict=True)], "U"
        )
    return values.astype("U") if values.dtype.kind == "T" else values


def _is_missing(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # those of pandas
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _decoded(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bytes as text, as short as the longest."""
    try:
        text = values.astype("U")  # of ASCII alone, and ten times as fast
    except UnicodeDecodeError:
        return np.char.decode(values, "utf-8", "replace")
    longest = int(np.char.str_len(text).max(initial=1))
    return text.astype(f"U{longest}", copy=False)


def checked_columns(columns: Mapping[str, Any], count: int) -> dict[str, npt.NDArray[Any]]:
    """Columns of trials: numbers or text, one value for each, which nobody changes.

    Raises
    ------
    TrialError
        If one is something else.
    """
    checked = {}
    for name, given in columns.items():
        values = _array(given)
        if not isinstance(name, str) or not name or "\0" in name or not _is_text(np.array([name])):
            raise TrialError(f"{name!r} cannot be the name of a column. Give it a word.")
        if values.shape != (count,) or values.dtype.kind not in "biufU":
            raise TrialError(
                f"The column '{name}' has the type {values.dtype} and the shape {values.shape}. "
                f"Give a number or text for each of {count} trials."
            )
        if values.dtype.kind == "U" and not _is_text(values):
            raise TrialError(
                f"The column '{name}' has text that UTF-8 cannot hold, as names of files may. "
                "Encode it first: text.encode(errors='backslashreplace').decode()."
            )
        if values.flags.writeable:
            values = values.copy()
            values.flags.writeable = False
        checked[name] = values
    return checked


def _is_text(values: npt.NDArray[Any]) -> bool:
    """Whether text has no halves of characters, of which UTF-8 knows none."""
    if not values.dtype.itemsize:
        return True
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    codes = np.ascontiguousarray(native).view(np.uint32)
    high = codes[codes >= 0xD800]
    return not (high < 0xE000).any()


def _equally_long(columns: dict[str, npt.NDArray[Any]], where: str) -> dict[str, npt.NDArray[Any]]:
    flat = {name: values for name, values in columns.items() if values.ndim == 1}
    lengths = {len(values): name for name, values in flat.items()}
    if len(lengths) > 1:
        named = ", ".join(f"'{name}' has {length}" for length, name in lengths.items())
        raise TrialError(
            f"{where} has columns of unequal length: {named}. Give each one value a trial."
        )
    if not any(lengths):
        raise TrialError(f"{where} has no rows. Give at least one trial.")
    return flat


def column_names(names: Sequence[str], where: str) -> list[str]:
    """The names of columns without blanks around them; TrialError if one is there twice."""
    plain = [name.strip() for name in names]
    lower = [name.lower() for name in plain]
    twice = [name for name in lower if name and lower.count(name) > 1]
    if twice:
        raise TrialError(f"{where} has two columns '{twice[0]}'. Rename one of them.")
    return plain


def check_table(shape: tuple[int, ...] | None, dtype: np.dtype[Any], where: str) -> None:
    """Raise TrialError unless shape and type are those of a trial table without names."""
    if not shape or len(shape) != 2 or shape[1] not in (2, 3):
        turned = shape is not None and len(shape) == 2 and shape[0] in (2, 3) and shape[1] > 3
        raise TrialError(
            f"{where} has the shape {shape}. A trial table has two axes: one row for each "
            "trial, with start, stop and (if wanted) offset, "
            + ("and this one looks transposed: give table.T" if turned else "such as table[:, :3].")
        )
    if dtype.kind not in "iuf":
        raise TrialError(f"{where} has the type {dtype}. Give whole numbers.")
    if not shape[0]:
        raise TrialError(f"{where} has no rows. Give at least one trial.")


def check_rows(
    start: npt.NDArray[np.int64], stop: npt.NDArray[np.int64], name: Callable[[int], str]
) -> None:
    """Raise TrialError for the first trial without rows, or before row 0."""
    if not len(start):
        raise TrialError("There are no trials. Give at least one.")
    bad = (start < 0) | (stop <= start)
    if bad.any():
        k = int(np.argmax(bad))
        raise TrialError(
            f"{name(k)}: its rows are [{start[k]}, {stop[k]}). "
            + (
                "Count rows from 0; start cannot be negative. Drop trials that begin before the "
                "recording by outside='drop' (in the shell: --outside drop)."
                if start[k] < 0
                else "Give a stop after start: it is the row after the last one."
            )
        )
