"""Trial tables in files: text with commas or tabs, and datasets and groups of HDF5."""

from __future__ import annotations

import contextlib
import csv
import os
import re
from array import array
from collections.abc import Iterator

import h5py
import numpy as np
import numpy.typing as npt

from hpcio.errors import SourceError, TrialError
from hpcio.files import find_dataset, open_file, reading, split_spec
from hpcio.machine import only_files
from hpcio.recording.matlabtables import is_of_matlab, matlab_table
from hpcio.recording.resulttables import RESULT_COLUMNS, columns_of_result
from hpcio.recording.tables import (
    COLUMNS,
    MISSING,
    PLACES,
    TrialTable,
    array_table,
    check_table,
    column_names,
    plain_column,
)

__all__ = ["CSV", "HDF5", "columns_of"]

# What the shell has opened for us, as by `--trials <(...)`: a pipe that somebody writes into.
_HANDED_OVER = re.compile(r"/dev/fd/|/dev/stdin$|/proc/self/fd/")
# A label that looks like a number.
_LABEL = re.compile(r"0\d")
# So many lines of text become arrays at a time, which are smaller.
_LINES = 1 << 16
# A comment behind a number: other cells may well hold a "#".
_REMARK = re.compile(r"((?:^|[\t,])[ +.eE\d-]*\d[.]?) +#.*")
# What to do about files that are no text, by how their name ends.
_NO_TEXT = {
    ".fif": "Give the array of mne.read_events",
    ".gz": "Unpack it, or give the frame of pandas.read_csv",
    ".mat": "Name its matrix, FILE::NAME, in a file that was saved with -v7.3",
    ".xlsx": "Give the frame of pandas.read_excel",
}


class _Hdf5:
    """A dataset or a group ``FILE::NAME``; see `hpcio.recording.TrialTableKind`.

    A group is a table of the datasets in it that have one axis, such as the time intervals of
    NWB. Those of MATLAB are read by `matlabtables`.
    """

    name = "hdf5"

    def claims(self, spec: str) -> bool:
        return "::" in spec

    def read(self, spec: str) -> TrialTable:
        file, name = split_spec(spec)
        where = f"'{name}' in '{file}'"
        with reading(file), open_file(file) as f:
            try:
                is_group = isinstance(f.get(name), h5py.Group)
                found = f[name] if is_group else find_dataset(f, name)
                if is_of_matlab(found):
                    return matlab_table(found, name, where)
                if is_group:
                    return array_table(columns_of(found, where), f"Group {where}", f"of {where}")
                return _dataset(found, where)
            except OSError as error:
                raise SourceError(f"HDF5 cannot read {where}: {error}. Restore it.") from error


def columns_of(group: h5py.Group, where: str) -> dict[str, npt.NDArray[np.generic]]:
    """The columns of a group, in the order that NWB notes."""
    names = [str(name) for name in np.atleast_1d(group.attrs.get("colnames", []))]
    names += [name for name in group if name not in names]
    flat = {
        name: thing
        for name in names
        if isinstance(thing := group.get(name), h5py.Dataset)
        and len(thing.shape or ()) == 1
        and h5py.check_ref_dtype(thing.dtype) is None
        and thing.dtype.names is None
    }
    # Columns of lists have an index with one number for each trial, and values of any length.
    indices = {name for name, thing in flat.items() if _is_index(name, thing, group)}
    ragged = {name.removesuffix("_index") for name in indices}
    columns = {name: thing for name, thing in flat.items() if name not in indices | ragged}
    if not columns:
        raise TrialError(f"Group {where} has no columns. Name a group of datasets, or a dataset.")
    return {name: plain_column(np.asarray(thing[()])) for name, thing in columns.items()}


def _dataset(found: h5py.Dataset, where: str) -> TrialTable:
    # Check before reading: the user may have named the recording itself.
    if found.dtype.names is None:
        check_table(found.shape, found.dtype, f"Dataset {where}")
    values = np.asarray(found[()])
    if values.dtype.names == RESULT_COLUMNS:
        return TrialTable(
            {**{n: values[n] for n in COLUMNS}, **columns_of_result(found)}, f"Dataset {where}",
            lambda k: f"Trial {k} of {where}",
        )  # fmt: skip
    return array_table(values, f"Dataset {where}", f"of {where}")


def _is_index(name: str, thing: h5py.Dataset, group: h5py.Group) -> bool:
    """Whether a dataset says where the lists of another one end, by its name; NWB notes it, too."""
    if not name.endswith("_index"):
        return False
    if "neurodata_type" in thing.attrs:
        return bool(thing.attrs["neurodata_type"] == "VectorIndex")
    return name.removesuffix("_index") in group


class _Csv:
    """A text file; see `hpcio.recording.TrialTableKind`."""

    name = "csv"

    def claims(self, spec: str) -> bool:
        return True

    def read(self, spec: str) -> TrialTable:
        columns, lines, named = _read_csv(spec)
        places = list(columns)
        numbers = {
            name: column if named and _has_leading_zeros(name, column) else _numbers(column)
            for name, column in columns.items()
        }

        def cell(row: int, column: str) -> str:
            place = places.index(column) + 1
            return f"'{spec}', line {lines[row]}, column {place}: '{columns[column][row]}'"

        return TrialTable(
            numbers, f"'{spec}'", lambda k: f"Trial {k} of '{spec}' (line {lines[k]})", cell,
            named=named,
        )  # fmt: skip


HDF5, CSV = _Hdf5(), _Csv()


def _read_csv(name: str) -> tuple[dict[str, npt.NDArray[np.str_]], array[int], bool]:
    """The columns of a text file, the line of each of their rows, and whether they have names."""
    lines = array("q")
    names: list[str] = []
    rows: list[list[str]] = []
    parts: list[list[npt.NDArray[np.str_]]] = []
    named = False
    for line, cells in _csv_lines(name):
        if not names:
            where = f"'{name}', line {line}"
            several = len(cells) > 1 or cells[0].lower() == "onset"
            named = several and not any(map(_is_number, cells))
            names = _distinct(cells, where) if named else _by_position(len(cells), where)
            if named:
                continue
        if len(cells) != len(names):
            raise TrialError(
                f"'{name}', line {line} has {len(cells)} columns, the first line has "
                f"{len(names)}. Give every line the same columns."
            )
        rows.append(cells)
        lines.append(line)
        if len(rows) == _LINES:
            parts.append([np.array(column) for column in zip(*rows, strict=True)])
            rows = []
    if rows:
        parts.append([np.array(column) for column in zip(*rows, strict=True)])
    if not lines:
        raise TrialError(f"'{name}' has no trials. Give one a line: start, stop, offset.")
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return dict(zip(names, columns, strict=True)), lines, named


def _distinct(cells: list[str], where: str) -> list[str]:
    """Names of columns; those without one get their number."""
    names = column_names(cells, where)
    return [name or f"column {k}" for k, name in enumerate(names, 1)]


def _csv_lines(name: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line that has any."""
    sep = ""
    try:
        opener = None if _HANDED_OVER.match(name) else only_files
        with open(name, encoding="utf-8-sig", newline="", opener=opener) as file:
            above = ""  # the comment before the first line
            for line, whole in enumerate(file, start=1):
                text = whole.strip(" \r\n")
                if text.startswith("#"):
                    above = text.lstrip("# ")
                    continue
                if not text.strip("\t,"):
                    continue
                if not sep:
                    first = text.partition(" #")[0]
                    commas = "," in first and ("\t" not in first or name.lower().endswith(".csv"))
                    sep = "," if commas else "\t"
                    cells, header = _cells(first, sep), _cells(above, sep)
                    if not any(map(_is_number, cells)):
                        text = first
                    elif len(header) == len(cells) and {*map(str.lower, header)} & PLACES:
                        yield line - 1, header
                yield line, _cells(_REMARK.sub(r"\1", text) if "#" in text else text, sep)
    except FileNotFoundError:
        raise SourceError(f"There is no file '{name}'. Check the path.") from None
    except OSError as error:
        raise SourceError(f"Cannot read '{name}': {error.strerror}. Name a text file.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        remedy = _NO_TEXT.get(os.path.splitext(name)[1].lower())
        raise SourceError(
            f"'{name}' is no table in UTF-8 text. "
            f"{remedy or 'Name a CSV or TSV file, or FILE::DATASET for a table in HDF5'}."
        ) from error


def _cells(text: str, sep: str) -> list[str]:
    # Only quotes need the csv module, which takes three times as long.
    cells = next(csv.reader([text], delimiter=sep)) if '"' in text else text.split(sep)
    return [cell.strip() for cell in cells]


def _by_position(width: int, where: str) -> list[str]:
    """The names of columns in a table without a header."""
    if width not in (2, 3):
        raise TrialError(
            f"{where} has {width} columns. Separate start, stop and (if wanted) offset by "
            "commas or tabs, or name these columns in a header. (Of events of MNE in text give "
            "the array of mne.read_events.)"
        )
    return [str(k) for k in range(width)]


def _has_leading_zeros(name: str, column: npt.NDArray[np.str_]) -> bool:
    """Whether a column holds labels such as ``007``, which no number keeps."""
    if name.lower() in PLACES or not np.char.startswith(column, "0").any():
        return False
    return any(_LABEL.match(cell) for cell in column.tolist())


def _numbers(column: npt.NDArray[np.str_]) -> npt.NDArray[np.generic]:
    """A column of text as numbers, if all of it that is not missing is."""
    parsed = _parsed(column)
    if parsed is not None:
        return parsed
    missing = np.isin(np.char.lower(column), MISSING)
    filled = _parsed(np.where(missing, "nan", column)) if not missing.all() else None
    return column if filled is None else filled


def _parsed(column: npt.NDArray[np.str_]) -> npt.NDArray[np.generic] | None:
    if (np.char.find(column, "_") >= 0).any():  # which Python takes for a number
        return None
    for kind in (np.int64, np.float64):
        with contextlib.suppress(ValueError, OverflowError):
            return column.astype(kind)
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # a name such as 2024_01, though a number to Python
