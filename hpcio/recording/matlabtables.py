"""Tables of trials that MATLAB has written: files of version 7.3, which are HDF5.

Arrays are in Fortran's order, so that HDF5 has them turned. A struct is a group, and a struct array
a group whose datasets refer to the value of each element, as do cells. Objects, such as the class
table, are stored in a way that MATLAB alone knows.
"""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from hpcio.errors import TrialError
from hpcio.recording.tables import TrialTable, array_table, check_table, plain_column

__all__ = ["is_of_matlab", "matlab_table"]

# The attributes by which MATLAB marks what it writes, objects, and what has no elements.
_CLASS, _OBJECT, _EMPTY = "MATLAB_class", "MATLAB_object_decode", "MATLAB_empty"
_FIELDS = "MATLAB_fields"
# Names whose meaning FieldTrip defines.
_OF_FIELDTRIP = ("trl", "sampleinfo")


def is_of_matlab(thing: h5py.Group | h5py.Dataset) -> bool:
    """Whether MATLAB has written a dataset or a group."""
    return _CLASS in thing.attrs


def matlab_table(thing: h5py.Group | h5py.Dataset, name: str, where: str) -> TrialTable:
    """The table that a matrix, a struct of columns or a struct array of MATLAB is.

    Raises
    ------
    TrialError
        If it is none of these.
    """
    if isinstance(thing, h5py.Group):
        named = {field: _column(thing.get(field)) for field in _fields(thing)}
        columns = {field: values for field, values in named.items() if values is not None}
        if not columns:
            raise TrialError(
                f"Struct {where} has no field with one value a trial. Name another one, such as "
                "FILE::/cfg/trl."
            )
        table = array_table(columns, f"Struct {where}", f"of {where}")
        return TrialTable(table.columns, table.where, table.name, matlab=True)
    of_class = _class_of(thing)
    if _OBJECT in thing.attrs:
        raise TrialError(
            f"{where} is an object of MATLAB's class {of_class}, which MATLAB alone can read. Save "
            "a matrix or a struct: s = table2struct(t, 'ToScalar', true); save('trials.mat', 's', "
            "'-v7.3'); its texts as cellstr, not as strings."
        )
    if _EMPTY in thing.attrs or of_class not in _NUMBERS:
        is_what = "empty" if _EMPTY in thing.attrs else f"of MATLAB's class {of_class}"
        raise TrialError(f"{where} is {is_what}. Name a matrix of numbers, one row for each trial.")
    if len(thing.shape) != 2 or thing.shape[0] < 2 or thing.dtype.kind not in "iuf":
        check_table(thing.shape[::-1], thing.dtype, f"Dataset {where}")
    columns = {str(k): column for k, column in enumerate(np.asarray(thing[()]))}
    return TrialTable(
        columns, f"Dataset {where}", lambda k: f"Trial {k} of {where}",
        named=False, matlab=True, trl=name.strip("/").rpartition("/")[2] in _OF_FIELDTRIP,
    )  # fmt: skip


_NUMBERS = ("double", "single", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)))


def _class_of(thing: h5py.Dataset) -> str:
    found = thing.attrs.get(_CLASS, b"")
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found)


def _fields(struct: h5py.Group) -> list[str]:
    """The names of fields in MATLAB's order, which notes them as arrays of letters."""
    noted = [b"".join(letters.tolist()).decode() for letters in struct.attrs.get(_FIELDS, [])]
    return noted + [name for name in struct if name not in noted]


def _column(thing: Any) -> npt.NDArray[Any] | None:
    """A field as a column; None if it is no list of numbers or texts."""
    if not isinstance(thing, h5py.Dataset) or _EMPTY in thing.attrs or _OBJECT in thing.attrs:
        return None
    if len(thing.shape) != 2 or (1 not in thing.shape and _class_of(thing) != "char"):
        return None
    if h5py.check_ref_dtype(thing.dtype) is None:
        return _values(thing)
    found = [_element(thing.file[reference]) for reference in np.ravel(thing[()])]
    return None if any(value is _NOTHING for value in found) else _of_elements(found)


# What stands for an element that is no number and no text; None is an empty one.
_NOTHING = object()


def _element(thing: Any) -> Any:
    """The one value of an element of a cell or a struct array."""
    if not isinstance(thing, h5py.Dataset) or _OBJECT in thing.attrs:
        return _NOTHING
    if _EMPTY in thing.attrs:
        return "" if _class_of(thing) == "char" else None
    values = _values(thing) if len(thing.shape) == 2 else None
    return _NOTHING if values is None or len(values) != 1 else values[0].item()


def _of_elements(found: list[Any]) -> npt.NDArray[Any] | None:
    if all(value is None for value in found):  # a field that nothing was said in
        return None
    return plain_column(np.array([*found, None], object)[:-1])


def _values(dataset: h5py.Dataset) -> npt.NDArray[Any] | None:
    """An array as one axis of numbers, logicals, or the texts in its rows; None if it is more."""
    values = np.asarray(dataset[()])
    of_class = _class_of(dataset)
    if of_class == "char":
        texts = ["".join(map(chr, letters)).rstrip() for letters in values.T.tolist()]
        return np.array(texts, "U")
    if of_class not in (*_NUMBERS, "logical") or values.dtype.kind not in "iuf":
        return None
    flat = np.ravel(values)
    return flat.astype(bool) if of_class == "logical" else flat
