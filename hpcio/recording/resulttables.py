"""The table `trials` of a result, when that result is the recording of the next step."""

from __future__ import annotations

import json
import os
from typing import Any

import h5py
import numpy as np

from hpcio.errors import DAMAGE, HpcioError, TrialError, as_read_error
from hpcio.files import find_dataset, open_file, read_table, reading, split_spec
from hpcio.recording.recording import Recording
from hpcio.recording.tables import TRIAL_TABLES, TrialTable

__all__ = ["rows_of_result"]

_COLUMNS = ("first", "last", "done", "trial", "start", "stop", "offset")


def rows_of_result(spec: Any, recording: Recording, axis: int) -> TrialTable | None:
    """The trials of a result in its own rows, if `spec` is its table or some rows of that.

    Parameters
    ----------
    spec : Any
        What a user gives for trials: the name of a table, or a table.
    recording : Recording
        What is read.
    axis : int
        The axis that trials cut.

    Returns
    -------
    TrialTable or None
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
    if table is None or own is None or not _is_part(table, own[0]):
        return None
    along = own[1]
    name = f"Trial {{}} of the result '{recording.path}'"
    if axis % len(recording.shape) != along:
        raise TrialError(
            f"The trials of the result '{recording.path}' were joined along axis {along} of "
            f"'data', not {axis}. Give axis={along} (in the shell: --axis {along})."
        )
    first, stop = table["first"], table["last"] + 1
    gaps = np.flatnonzero(~table["done"])
    if len(gaps):
        more = f" (and {len(gaps) - 1} more)" if len(gaps) > 1 else ""
        raise TrialError(
            f"{name.format(gaps[0])}{more} is a gap: it was not computed. Compute what is missing, "
            "or give the other rows of the table: table[table['done']]."
        )
    if len(own[0]) > 1 and (own[0]["first"][1:] <= own[0]["last"][:-1]).any():
        raise TrialError(
            f"The result '{recording.path}' is an average, of which each trial has all rows. Give "
            "trials as a number of rows, or as a table of start and stop."
        )
    kept = stop - first == table["stop"] - table["start"]
    offset = np.where(kept, table["offset"], 0)
    return TrialTable(np.stack([first, stop, offset], axis=-1), name.format)


def _named_ours(spec: Any) -> np.ndarray | None:
    """A table with the columns of a result, from a file or given as an array; else None."""
    if not isinstance(spec, str | os.PathLike):
        return spec if isinstance(spec, np.ndarray) and spec.dtype.names == _COLUMNS else None
    text = os.fspath(spec)
    kind = next(kind for kind in TRIAL_TABLES.added_first() if kind.claims(text))
    if kind is not TRIAL_TABLES["hdf5"]:
        return None
    file, dataset = split_spec(text)
    with reading(file), open_file(file) as f:
        found = find_dataset(f, dataset)
        return np.asarray(found[()]) if found.dtype.names == _COLUMNS else None


def _own_table(recording: Recording) -> tuple[np.ndarray, int] | None:
    """The table of a recording that is a result, and the axis its trials were joined along."""
    if recording.kind != "hdf5" or recording.dataset.strip("/") != "data":
        return None
    try:
        with open_file(recording.path) as f:
            if not isinstance(f.get("hpcio/target/spec"), h5py.Dataset) or "trials" not in f:
                return None
            axis = json.loads(read_table(f["hpcio/target/spec"]).tobytes())["axis"]
            return np.asarray(read_table(f["trials"])), int(axis)
    except HpcioError:  # opening the recording says it
        return None
    except DAMAGE as error:
        raise as_read_error(error, recording.path) from error


def _is_part(table: np.ndarray, own: np.ndarray) -> bool:
    """Whether each row of a table is a row of that of the result."""
    if table.ndim != 1 or not len(table) or own.dtype != table.dtype or not len(own):
        return False
    if len(table) == len(own) and bool((table == own).all()):
        return True
    # Trials without rows begin where the next one does; `trial` and `first` find theirs.
    key = [*zip(own["first"].tolist(), own["trial"].tolist(), strict=True)]
    at = {pair: k for k, pair in enumerate(key)}
    pairs = zip(table["first"].tolist(), table["trial"].tolist(), strict=True)
    where = [at.get(pair, -1) for pair in pairs]
    return -1 not in where and bool((own[where] == table).all())
