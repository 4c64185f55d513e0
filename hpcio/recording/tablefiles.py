"""Trial tables in files: text with commas or tabs, and datasets and groups of HDF5."""

from __future__ import annotations

import contextlib
import csv
import re
from array import array
from collections.abc import Iterator

import h5py
import numpy as np
import numpy.typing as npt

from hpcio.errors import SourceError, TrialError
from hpcio.files import find_dataset, open_file, reading, split_spec
from hpcio.machine import only_files
from hpcio.recording.resulttables import RESULT_COLUMNS, columns_of_result
from hpcio.recording.tables import (
    COLUMNS,
    PLACES,
    TrialTable,
    array_table,
    check_table,
    column_names,
    plain_column,
)

__all__ = ["CSV", "HDF5"]

# What the shell has opened for us, as by `--trials <(...)`: a pipe that somebody writes into.
_HANDED_OVER = re.compile(r"/dev/fd/|/dev/stdin$|/proc/self/fd/")
# What stands for a number that is missing.
_MISSING = ("", "n/a", "nan")
# A label that looks like a number.
_LABEL = re.compile(r"0\d")
# So many lines of text become arrays at a time, which are smaller.
_LINES = 1 << 16
# The attribute by which MATLAB marks what it writes.
_MATLAB = "MATLAB_class"


class _Hdf5:
    """A dataset or a group ``FILE::NAME``; see `hpcio.recording.TrialTableKind`.

    A group is a table of the datasets in it that have one axis, such as the time intervals of
    NWB. What MATLAB has written is turned, since its arrays are in Fortran's order.
    """

    name = "hdf5"

    def claims(self, spec: str) -> bool:
        return "::" in spec

    def read(self, spec: str) -> TrialTable:
        file, name = split_spec(spec)
        where = f"'{name}' in '{file}'"
        with reading(file), open_file(file) as f:
            try:
                if isinstance(f.get(name), h5py.Group):
                    return array_table(_columns_of(f[name], where), f"Group {where}", f"of {where}")
                return _dataset(find_dataset(f, name), name, where)
            except OSError as error:
                raise SourceError(f"HDF5 cannot read {where}: {error}. Restore it.") from error


def _columns_of(group: h5py.Group, where: str) -> dict[str, npt.NDArray[np.generic]]:
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
    ragged = {name.removesuffix("_index") for name in flat if name.endswith("_index")}
    columns = {
        name: thing
        for name, thing in flat.items()
        if name not in ragged and name.removesuffix("_index") not in ragged
    }
    if not columns:
        raise TrialError(f"Group {where} has no columns. Name a group of datasets, or a dataset.")
    return {name: plain_column(np.asarray(thing[()])) for name, thing in columns.items()}


def _dataset(found: h5py.Dataset, name: str, where: str) -> TrialTable:
    # Check before reading: the user may have named the recording itself.
    by_matlab = _MATLAB in found.attrs
    if found.dtype.names is None:
        shape = found.shape
        if by_matlab and shape is not None and len(shape) == 2:
            if shape[0] < 2 or found.dtype.kind not in "iuf":
                check_table(shape[::-1], found.dtype, f"Dataset {where}")
        else:
            check_table(shape, found.dtype, f"Dataset {where}")
    values = np.asarray(found[()])
    if values.dtype.names == RESULT_COLUMNS:
        return TrialTable(
            {**{n: values[n] for n in COLUMNS}, **columns_of_result(found)}, f"Dataset {where}",
            lambda k: f"Trial {k} of {where}",
        )  # fmt: skip
    if not by_matlab or found.dtype.names is not None:
        return array_table(values, f"Dataset {where}", f"of {where}")
    columns = {str(k): column for k, column in enumerate(values)}
    return TrialTable(
        columns, f"Dataset {where}", lambda k: f"Trial {k} of {where}",
        named=False, matlab=True, trl=name.strip("/").rpartition("/")[2] == "trl",
    )  # fmt: skip


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
            for line, whole in enumerate(file, start=1):
                text = whole.partition("#")[0].strip(" \r\n")
                if not text.strip("\t,"):
                    continue
                if not sep:
                    commas = "," in text and ("\t" not in text or name.lower().endswith(".csv"))
                    sep = "," if commas else "\t"
                # Only quotes need the csv module, which takes three times as long.
                cells = next(csv.reader([text], delimiter=sep)) if '"' in text else text.split(sep)
                yield line, [cell.strip() for cell in cells]
    except FileNotFoundError:
        raise SourceError(f"There is no file '{name}'. Check the path.") from None
    except OSError as error:
        raise SourceError(f"Cannot read '{name}': {error.strerror}. Name a text file.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"'{name}' is no table in UTF-8 text. Name a CSV or TSV file, or FILE::DATASET for "
            "a table in HDF5."
        ) from error


def _by_position(width: int, where: str) -> list[str]:
    """The names of columns in a table without a header."""
    if width not in (2, 3):
        raise TrialError(
            f"{where} has {width} columns. Separate start, stop and (if wanted) offset by "
            "commas or tabs, or name these columns in a header."
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
    missing = np.isin(np.char.lower(column), _MISSING)
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
