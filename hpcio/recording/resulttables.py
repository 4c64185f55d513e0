"""The table `trials` of a result: its rows, and what else it says of each trial."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from hpcio.errors import DAMAGE, HpcioError, TrialError, as_read_error
from hpcio.files import find_dataset, mark_of, open_file, read_table, reading, split_spec
from hpcio.recording.recording import Recording
from hpcio.recording.tables import TRIAL_TABLES, TrialTable, plain_column

__all__ = [
    "FURTHER",
    "OF_RUNS",
    "RESULT_COLUMNS",
    "check_rows_of",
    "column_of",
    "columns_of_result",
    "result_named",
    "rows_of_result",
]

RESULT_COLUMNS = ("first", "last", "done", "trial", "start", "stop", "offset")
# The attribute of a table that names those of these columns which tell of the runs that made it.
OF_RUNS = "of_runs"
# The attribute of a table that says which datasets hold further columns of its trials.
FURTHER = "columns"


@dataclass(frozen=True, eq=False)
class _Own:
    """The table of a recording that is a result, and the axis its trials were joined along.

    `first` and `stop` are rows of the dataset that is read; those of the table may be of another
    one of several results.
    """

    table: np.ndarray
    first: np.ndarray
    stop: np.ndarray
    axis: int
    columns: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class ResultRows:
    """The trials of a result, in its own rows, and their numbers, which they keep in each step."""

    table: TrialTable
    numbers: np.ndarray


def result_named(spec: str | os.PathLike[str]) -> str:
    """The result, by its real path, that the name of a table lies in; "" if it lies in none."""
    file = os.path.realpath(split_spec(os.fspath(spec))[0]) if "::" in os.fspath(spec) else ""
    return file if file and mark_of(file) is not None else ""


def check_rows_of(result: str, recording: Recording) -> None:
    """Raise TrialError if trials of the table of a result are to be cut from that result itself."""
    if result and os.path.realpath(recording.path) == result:
        spec = f"{recording.path}::{recording.dataset}"
        raise TrialError(
            f"These trials were read from the table of '{recording.path}' alone, whose start and "
            "stop are rows of what it was computed of, not its own. Read them for it: "
            f"Trials.read({recording.path!r}, recording={spec!r}), or trials={recording.path!r} "
            "in Plan.create."
        )


def rows_of_result(spec: Any, recording: Recording, axis: int) -> ResultRows | None:
    """The trials of a result in its own rows, if `spec` is its table or some rows of that.

    Parameters
    ----------
    spec : Any
        What a user gives for trials: the name of a table, the result itself, or a table.
    recording : Recording
        What is read.
    axis : int
        The axis that trials cut.

    Returns
    -------
    ResultRows or None
        Rows ``first`` to ``last`` of each trial. None for all other tables, those of other results
        included: their columns start and stop count rows of what these were computed of. The
        offset is kept if a trial has as many rows as it was computed of; of others it is 0, since
        their rows are no samples.

    Raises
    ------
    TrialError
        If a trial is a gap, trials share rows, or they lie along another axis.
    """
    table = _named_ours(spec)
    own = None if table is None else _own_table(recording)
    places = None if table is None or own is None else _places(table, own.table)
    if table is None or own is None or places is None:
        return None
    name = f"Trial {{}} of the result '{recording.path}'"
    if axis % len(recording.shape) != own.axis:
        raise TrialError(
            f"The trials of the result '{recording.path}' were joined along axis {own.axis} of "
            f"'{recording.dataset.strip('/')}', not {axis}. Give axis={own.axis} (in the shell: "
            f"--axis {own.axis})."
        )
    first, stop = own.first[places], own.stop[places]
    gaps = np.flatnonzero(~table["done"])
    if len(gaps):
        more = f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else ""
        raise TrialError(
            f"{name.format(gaps[0])}{more} is a gap: it was not computed. Compute what is missing, "
            "or give the other rows of the table: table[table['done']]."
        )
    if len(own.table) > 1 and (own.first[1:] < own.stop[:-1]).any():
        raise TrialError(
            f"The result '{recording.path}' is an average, of which each trial has all rows. Give "
            "trials as a number of rows, or as a table of start and stop."
        )
    kept = stop - first == table["stop"] - table["start"]
    rows = {"start": first, "stop": stop, "offset": np.where(kept, table["offset"], 0)}
    further = {name: values[places] for name, values in own.columns.items()}
    made = TrialTable({**rows, **further}, f"The table of '{recording.path}'", name.format)
    return ResultRows(made, table["trial"])


def columns_of_result(table: h5py.Dataset) -> dict[str, np.ndarray]:
    """What a result says of its trials besides their rows, given its table."""
    named = json.loads(table.attrs.get(FURTHER, "{}"))
    columns = {name: table.file[where] for name, where in named.items()}
    return {name: column_of(found) for name, found in columns.items()}


def column_of(dataset: h5py.Dataset) -> np.ndarray:
    """The values of a column of a result: numbers, bool or text."""
    values = np.asarray(dataset[()])
    return values.astype(bool) if dataset.attrs.get("dtype") == "bool" else plain_column(values)


def _named_ours(spec: Any) -> np.ndarray | None:
    """A table with the columns of a result, from a file or given as an array; else None."""
    if not isinstance(spec, str | os.PathLike):
        ours = isinstance(spec, np.ndarray) and spec.dtype.names == RESULT_COLUMNS
        return spec if ours else None
    text = os.fspath(spec)
    kind = next(kind for kind in TRIAL_TABLES.added_first() if kind.claims(text))
    if kind is not TRIAL_TABLES["hdf5"]:
        return None
    file, dataset = split_spec(text)
    with reading(file), open_file(file) as f:
        if isinstance(f.get(dataset), h5py.Group):
            return None
        found = find_dataset(f, dataset)
        return np.asarray(found[()]) if found.dtype.names == RESULT_COLUMNS else None


def _own_table(recording: Recording) -> _Own | None:
    """The table of a recording that is a result."""
    if recording.kind != "hdf5":
        return None
    name = recording.dataset.strip("/")
    try:
        with open_file(recording.path) as f:
            if not isinstance(f.get("hpcio/target/spec"), h5py.Dataset) or "trials" not in f:
                return None
            several = json.loads(f.attrs["results"]) if "results" in f.attrs else []
            if name not in (several or ["data"]):
                return None
            table = np.asarray(read_table(f["trials"]))
            first, stop = table["first"], table["last"] + 1
            target = f[f"hpcio/outputs/{name}" if several else "hpcio/target"]
            spec = json.loads(read_table(target["spec"]).tobytes())
            axis = spec["axis"]
            if several:
                first, stop = _rows_in(target, spec, len(table))
            # What tells of the runs of this step is not of the next one.
            of_runs = json.loads(f["trials"].attrs.get(OF_RUNS, "[]"))
            columns = columns_of_result(f["trials"])
            kept = {name: v for name, v in columns.items() if name not in of_runs}
            return _Own(table, first, stop, int(axis), kept)
    except HpcioError:  # opening the recording says it
        return None
    except DAMAGE as error:
        raise as_read_error(error, recording.path) from error


def _rows_in(
    target: h5py.Group, spec: dict[str, Any], trials: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of each trial in one of several results; all of them, if that is an average."""
    start, index = (read_table(target[name]) for name in ("start", "shape_index"))
    if start.size < trials:
        return np.zeros(trials, np.int64), np.full(trials, spec["shape"][spec["axis"]])
    each = start.size // trials  # blocks of channels
    rows = np.ones(len(spec["shapes"]), np.int64)
    if not spec["stacked"]:
        rows = np.asarray([shape[spec["axis"]] for shape in spec["shapes"]], np.int64)
    first = start[::each].astype(np.int64)
    return first, first + rows[index[::each]]


def _places(table: np.ndarray, own: np.ndarray) -> np.ndarray | None:
    """The row of the table of a result that each row of a table is; None if one is none."""
    if table.ndim != 1 or not len(table) or own.dtype != table.dtype or not len(own):
        return None
    if len(table) == len(own) and bool((table == own).all()):
        return np.arange(len(own))
    # Trials without rows begin where the next one does; `trial` and `first` find theirs.
    key = [*zip(own["first"].tolist(), own["trial"].tolist(), strict=True)]
    at = {pair: k for k, pair in enumerate(key)}
    pairs = zip(table["first"].tolist(), table["trial"].tolist(), strict=True)
    where = np.asarray([at.get(pair, -1) for pair in pairs])
    return where if where.min() >= 0 and bool((own[where] == table).all()) else None
