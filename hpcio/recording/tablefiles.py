"""Trial tables in files: text with commas or tabs, and datasets of HDF5."""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from hpcio.errors import SourceError, TrialError
from hpcio.files import find_dataset, open_file, reading, split_spec
from hpcio.machine import only_files
from hpcio.recording.tables import TrialTable, check_table, named_columns, plain_table

__all__ = ["CSV", "HDF5"]

_INT64 = range(-(2**63), 2**63)
# What the shell has opened for us, as by `--trials <(...)`: a pipe that somebody writes into.
_HANDED_OVER = re.compile(r"/dev/fd/|/dev/stdin$|/proc/self/fd/")


class _Hdf5:
    """A dataset ``FILE::DATASET``; see `hpcio.recording.TrialTableKind`."""

    name = "hdf5"

    def claims(self, spec: str) -> bool:
        return "::" in spec

    def read(self, spec: str) -> TrialTable:
        file, dataset = split_spec(spec)
        where = f"'{dataset}' in '{file}'"
        with reading(file), open_file(file) as f:
            found = find_dataset(f, dataset)
            # Check before reading: the user may have named the recording itself.
            if found.dtype.names is None:
                check_table(found.shape, found.dtype, f"Dataset {where}")
            try:
                values = np.asarray(found[()])
            except OSError as error:
                raise SourceError(f"HDF5 cannot read {where}: {error}. Restore it.") from error
        return TrialTable(
            plain_table(values, f"Dataset {where}"), lambda k: f"Trial {k} of {where}"
        )


class _Csv:
    """A text file; see `hpcio.recording.TrialTableKind`."""

    name = "csv"

    def claims(self, spec: str) -> bool:
        return True

    def read(self, spec: str) -> TrialTable:
        values, lines = _read_csv(spec)
        return TrialTable(values, lambda k: f"Trial {k} of '{spec}' (line {lines[k]})")


HDF5, CSV = _Hdf5(), _Csv()


def _read_csv(name: str) -> tuple[npt.NDArray[np.int64], array[int]]:
    """The table (N, 2) or (N, 3) of a text file, and the line of each of its rows."""
    values, lines = array("q"), array("q")
    columns: list[int] = []
    width = 0
    for line, cells in _csv_lines(name):
        if not width:
            width = len(cells)
            header = width > 1 and not any(map(_is_number, cells))
            where = f"'{name}', line {line}"
            columns = named_columns(cells, where) if header else _by_position(width, where)
            if header:
                continue
        if len(cells) != width:
            raise TrialError(
                f"'{name}', line {line} has {len(cells)} columns, the first line has {width}. "
                "Give every line the same columns."
            )
        for column in columns:
            number = _whole_number(cells[column])
            if number is None:
                raise TrialError(
                    f"'{name}', line {line}, column {column + 1}: '{cells[column]}' is no whole "
                    "number of samples. Correct it."
                )
            values.append(number)
        lines.append(line)
    if not lines:
        raise TrialError(f"'{name}' has no trials. Give one a line: start, stop, offset.")
    return np.array(values, np.int64).reshape(len(lines), len(columns)), lines


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


def _by_position(width: int, where: str) -> list[int]:
    """Where start, stop and offset are in a table without a header."""
    if width not in (2, 3):
        raise TrialError(
            f"{where} has {width} columns. Separate start, stop and (if wanted) offset by "
            "commas or tabs, or name these columns in a header."
        )
    return list(range(width))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell  # a name such as 2024_01, though a number to Python


def _whole_number(cell: str) -> int | None:
    """The int64 that a cell such as ``100`` or ``1e2`` holds, if it does."""
    try:
        number = int(cell if "_" not in cell else "")
    except ValueError:
        if not _is_number(cell) or not float(cell).is_integer():
            return None
        number = int(float(cell))
    return number if number in _INT64 else None
