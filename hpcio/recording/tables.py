"""Trial tables (start, stop and offset of each trial), and the kinds of files that hold them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hpcio.errors import TrialError
from hpcio.machine import Registry

__all__ = [
    "COLUMNS",
    "TRIAL_TABLES",
    "TrialTable",
    "TrialTableKind",
    "array_table",
    "check_rows",
    "check_table",
    "named_columns",
    "plain_table",
    "read_table",
    "whole_numbers",
]

COLUMNS = ("start", "stop", "offset")


@dataclass(frozen=True, eq=False)
class TrialTable:
    """A table of trials as it was read; its values are not checked yet.

    Attributes
    ----------
    values : numpy.ndarray, shape (N, 2) or (N, 3)
        Start, stop and perhaps offset of each trial, in rows of the recording.
    name : callable
        The name of a row in messages, given its number.
    """

    values: npt.NDArray[Any]
    name: Callable[[int], str]


class TrialTableKind(Protocol):
    """A kind of file with a table of trials, such as CSV.

    Attributes
    ----------
    name : str
        The name under which it is registered.
    """

    name: str

    def claims(self, spec: str) -> bool:
        """Whether a table of this name is of this kind; only the name is looked at."""

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
    own={"csv": "hpcio.recording.tablefiles:CSV", "hdf5": "hpcio.recording.tablefiles:HDF5"},
)


def read_table(spec: str) -> TrialTable:
    """Read the table of trials that a user names."""
    found = next(kind for kind in TRIAL_TABLES.added_first() if kind.claims(spec)).read(spec)
    return _checked(found.values, found.name, f"'{spec}'")


def array_table(table: npt.ArrayLike) -> TrialTable:
    """A table of trials from whatever numpy takes for an array, or whose columns have names."""
    where = "The trial table"
    return _checked(plain_table(table, where), lambda k: f"Trial {k} of the table", where)


def plain_table(table: Any, where: str) -> Any:
    """The columns start, stop and offset of a table whose columns have names; others as they are.

    Parameters
    ----------
    table : array_like, structured array, or data frame
    where : str
        What the table is called in messages.
    """
    dtype = getattr(table, "dtype", None)
    found = dtype.names if isinstance(dtype, np.dtype) else getattr(table, "columns", None)
    names = [] if found is None else list(found)
    if not any(isinstance(name, str) for name in names):
        return table
    picked = [table[names[k]] for k in named_columns([str(name) for name in names], where)]
    return np.stack([np.asarray(column) for column in picked], axis=-1)


def named_columns(names: Sequence[str], where: str) -> list[int]:
    """Where start, stop and offset are among the names of columns.

    Raises
    ------
    TrialError
        If start or stop is not there, or a name is there twice.
    """
    lower = [name.strip().lower() for name in names]
    if not {"start", "stop"} <= set(lower):
        raise TrialError(
            f"{where} has the columns {', '.join(names)}. Name those that hold the first row of a "
            "trial and the row after its last, in samples, 'start' and 'stop'."
        )
    wanted = [name for name in COLUMNS if name in lower]
    twice = [name for name in wanted if lower.count(name) > 1]
    if twice:
        raise TrialError(f"{where} has two columns '{twice[0]}'. Rename one of them.")
    return [lower.index(name) for name in wanted]


def _checked(table: npt.ArrayLike, name: Callable[[int], str], where: str) -> TrialTable:
    """A table of numbers with two or three columns, or a TrialError."""
    try:
        values = np.asarray(table)
    except (ValueError, TypeError) as error:
        raise TrialError(
            f"{where} is no array: its rows differ in length. Give start, stop and "
            "(if wanted) offset for every trial."
        ) from error
    check_table(values.shape, values.dtype, where)
    return TrialTable(values, name)


def check_table(shape: tuple[int, ...] | None, dtype: np.dtype[Any], where: str) -> None:
    """Raise TrialError unless shape and type are those of a trial table."""
    if not shape or len(shape) != 2 or shape[1] not in (2, 3):
        raise TrialError(
            f"{where} has the shape {shape}. A trial table has two axes: one row for each "
            "trial, with start, stop and (if wanted) offset, such as table[:, :3]."
        )
    if dtype.kind not in "iuf":
        raise TrialError(f"{where} has the type {dtype}. Give whole numbers.")
    if not shape[0]:
        raise TrialError(f"{where} has no rows. Give at least one trial.")


def whole_numbers(found: TrialTable) -> npt.NDArray[np.int64]:
    """A table as int64, or a TrialError for the first cell that is no whole number."""
    table = found.values
    if table.dtype.kind == "f":
        table = table.astype(np.float64)
        bad = (table != np.trunc(table)) | (np.abs(table) >= 2.0**63)  # NaN differs from itself
    else:
        bad = table >= np.uint64(2**63) if table.dtype == np.uint64 else np.zeros(table.shape, bool)
    if bad.any():
        k, column = np.argwhere(bad)[0].tolist()
        raise TrialError(
            f"{found.name(k)}: {COLUMNS[column]} is {table[k, column]}, which is no row of a "
            "recording. Give whole numbers, in samples."
        )
    return table.astype(np.int64)


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
                "Count rows from 0; start cannot be negative."
                if start[k] < 0
                else "Give a stop after start: it is the row after the last one."
            )
        )
