"""One block: call the function, and check that the result is what was planned.

Both the loop over a batch and the dict branch of :func:`hpcio.unwrap_io` use these functions.
"""

from __future__ import annotations

import functools
import io
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from hpcio.errors import FunctionError, OptionError

__all__ = [
    "Part",
    "announced_parts",
    "arrays_of",
    "as_array",
    "compute",
    "compute_record",
    "dry_outcome",
    "naming_result",
    "pack_details",
    "parts_of",
    "split_details",
    "unpack_details",
    "write_details",
]

Details = dict[str, np.ndarray]
# One of several results of a call: its name, shape and type.
Part = tuple[str, tuple[int, ...], np.dtype]

# HDF5 holds an attribute of up to 64 kB in the header of its object.
_ATTRIBUTE_LIMIT = 60_000
# What a result can be; it is looked up with each block.
_NUMBERS = (np.ndarray, np.generic, bool, int, float, complex)


def split_details(returned: Any) -> tuple[Any, Details]:
    """Separate the result from its details in what a compute function returned."""
    if isinstance(returned, tuple) and not hasattr(returned, "_fields"):
        if len(returned) == 2 and isinstance(returned[1], Mapping):
            return returned[0], check_details(returned[1])
        raise FunctionError(
            f"The function returned a tuple of {len(returned)}. "
            "Return an array, or (array, details) with a dict of arrays; several results as a dict "
            "or a named tuple."
        )
    return returned, {}


def parts_of(returned: Any) -> dict[str, Any] | None:
    """Several results of one call by their names, or a FunctionError; None if it is one.

    They are a dict, or a named tuple.
    """
    if isinstance(returned, tuple) and hasattr(returned, "_asdict"):
        returned = returned._asdict()
    if not isinstance(returned, Mapping):
        return None
    for name in returned:
        if not isinstance(name, str) or name.strip(".") == "" or "/" in name or "\0" in name:
            raise FunctionError(
                f"One of several results has the name {name!r}. Use a word without a slash or NUL."
            )
    if not returned:
        raise FunctionError("The function returned a dict of nothing. Return arrays by name.")
    return dict(returned)


def check_details(details: Mapping[Any, Any]) -> Details:
    """The details as plain arrays, or a FunctionError that names the entry."""
    checked = {}
    for key, value in details.items():
        array = np.asarray(value)
        if not isinstance(key, str) or not key or "/" in key or "\0" in key:
            raise FunctionError(
                f"The details have the key {key!r}. Use names without a slash or NUL."
            )
        if array.dtype.kind not in "biufcSU":
            raise FunctionError(
                f"The detail '{key}' has the type {array.dtype}. Use arrays of numbers or strings."
            )
        checked[key] = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
    return checked


def pack_details(details: Details) -> bytes:
    """Details as bytes, for the notes beside a journal."""
    packed = [_line_of(tuple(details))]
    for array in details.values():
        if array.dtype.hasobject:
            raise ValueError("details are arrays of numbers or strings")
        is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        packed.append(_header_of(array.shape, array.dtype, is_fortran=is_fortran))
        packed.append(array.tobytes("F" if is_fortran else "C"))
    return b"".join(packed)


@functools.lru_cache(maxsize=256)
def _line_of(names: tuple[str, ...]) -> bytes:
    """The names of details, for `unpack_details`."""
    return json.dumps(names).encode() + b"\n"


@functools.lru_cache(maxsize=256)
def _header_of(shape: tuple[int, ...], dtype: np.dtype, *, is_fortran: bool) -> bytes:
    """What numpy's format has before an array; `_meaning_of` reads it."""
    out = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    header = {"shape": shape, "fortran_order": is_fortran, "descr": descr}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue()


def unpack_details(packed: bytes) -> Details:
    """The details that `pack_details` packed."""
    line, _, rest = packed.partition(b"\n")
    source, found = io.BytesIO(rest), {}
    for name in _names_in(line):
        at = source.tell()
        version = np.lib.format.read_magic(source)
        if version != (1, 0):
            source.seek(at)
            found[name] = np.lib.format.read_array(source, allow_pickle=False)
            continue
        prefix = source.read(2)
        shape, is_fortran, dtype = _meaning_of(
            prefix + source.read(int.from_bytes(prefix, "little"))
        )
        flat = np.frombuffer(source.read(math.prod(shape) * dtype.itemsize), dtype)
        found[name] = flat.reshape(shape, order="F" if is_fortran else "C")
    return found


@functools.lru_cache(maxsize=256)
def _names_in(line: bytes) -> tuple[str, ...]:
    """The names that `_line_of` has written; those of many trials are equal."""
    return tuple(json.loads(line))


@functools.lru_cache(maxsize=256)
def _meaning_of(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type of an array, by its header in numpy's format 1.0.

    Numpy parses it as Python, which takes longer than all else; those of many trials are equal.
    """
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(io.BytesIO(header))
    return shape, is_fortran, dtype


def write_details(file: h5py.File, details: Mapping[str, np.ndarray], suffix: str) -> None:
    """Add details to the group `metadata`: attributes ``NAME + suffix``, or datasets if large."""
    if not details:
        return
    group = file.require_group("metadata")
    for name, value in details.items():
        key = name + suffix
        if value.nbytes < _ATTRIBUTE_LIMIT:
            group.attrs[key] = value
        else:
            if key in group:
                del group[key]
            group[key] = value


def as_array(result: Any) -> np.ndarray:
    """The result of a compute function as an array of numbers."""
    # To import `numpy.ma` takes longer than many a trial; whoever has not done so returns none.
    if "numpy.ma" in sys.modules and isinstance(result, np.ma.MaskedArray):
        raise FunctionError(
            "The function returned a masked array, and HDF5 has no masks. "
            "Return result.filled(value)."
        )
    if isinstance(result, _NUMBERS):
        array = np.asarray(result)
        if array.dtype.kind in "biufc":
            # Without what numpy keeps beside a type, such as names of an enumerated one.
            return array if array.dtype.metadata is None else array.view(array.dtype.str)
        raise FunctionError(
            f"The function returned an array of type {array.dtype}. "
            "Return integers, floats, complex or bool."
        )
    what = "nothing (None)" if result is None else f"a {type(result).__name__}"
    raise FunctionError(f"The function returned {what}. Return a numpy array.")


def arrays_of(returned: Any) -> dict[str, np.ndarray]:
    """What a function returned as arrays by name, ``""`` if it is one; or a FunctionError."""
    several = parts_of(returned)
    if several is None:
        return {"": as_array(returned)}
    found = {}
    for name, one in several.items():
        with naming_result(name):
            found[name] = as_array(one)
    return found


@contextmanager
def naming_result(name: str) -> Iterator[None]:
    """Errors say which of several results they are about; ``""`` if there is but one."""
    try:
        yield
    except (FunctionError, OptionError) as error:
        if not name:
            raise
        raise type(error)(f"Of the result '{name}': {error}") from error


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [n for n in shape if n != 1]


def compute(
    func: Any,
    trial: np.ndarray,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    shape: tuple[int, ...],
    dtype: np.dtype,
    *,
    casting: str = "equiv",
) -> tuple[np.ndarray, Details]:
    """Call the function and check its result against the plan.

    Parameters
    ----------
    func : callable
    trial : numpy.ndarray
    args, kwargs
        For the function, besides the trial.
    shape, dtype
        Planned for the result. Axes of length one that the result lost are put back.
    casting : {"equiv", "same_kind"}
        How far the type may differ from the planned one (as in `numpy.can_cast`).

    Returns
    -------
    result : numpy.ndarray, C-contiguous, of `shape` and `dtype`
    details : dict of numpy.ndarray

    Raises
    ------
    FunctionError
        If the result is not what was planned. What the function raises passes through.
    """
    result = func(trial, *args, **kwargs)
    details: Details = {}
    # The common case first: a block of some kilobytes cannot afford more.
    if type(result) is not np.ndarray or result.dtype.kind not in "biufc":
        result, details = split_details(result)
        result = as_array(result)
    return _checked(result, shape, dtype, casting), details


def _checked(
    result: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, casting: str
) -> np.ndarray:
    """A result as it was planned, C-contiguous, or a FunctionError."""
    if result.shape != shape:
        if _without_ones(result.shape) != _without_ones(shape):
            raise FunctionError(
                f"The function returned shape {result.shape}, but {shape} was planned. "
                "Return what the dry run announced, or plan with out_shape=."
            )
        result = result.reshape(shape)
    if result.dtype != dtype:
        if not np.can_cast(result.dtype, dtype, casting):  # type: ignore[arg-type]
            raise FunctionError(
                f"The function returned {result.dtype}, but {dtype} was planned. "
                "Return what the dry run announced, or plan with out_dtype=."
            )
        result = _cast(result, dtype)
    if not result.flags.c_contiguous:
        result = np.ascontiguousarray(result)
    return result


def compute_record(
    func: Any,
    trial: np.ndarray,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    parts: Sequence[Part],
    dtype: np.dtype,
    *,
    casting: str = "equiv",
) -> tuple[np.ndarray, Details]:
    """Call a function of several results, and check each against the plan.

    Parameters
    ----------
    func, trial, args, kwargs, casting
        As for `compute`.
    parts : sequence of (name, shape, dtype)
        Planned for the results.

    Returns
    -------
    record : numpy.ndarray of uint8, shape (n,)
        The bytes of all results, one after the other in the order of the plan.
    details : dict of numpy.ndarray

    Raises
    ------
    FunctionError
        If a result is missing, or is not what was planned, or there is one that was not planned.
    """
    results = func(trial, *args, **kwargs)
    details: Details = {}
    if type(results) is not dict:
        results, details = split_details(results)
        results = _named(results, parts)
    found = []
    for name, shape, kind in parts:
        one = results.get(name)
        # The common case first, as in `compute`.
        if (
            type(one) is not np.ndarray
            or one.shape != shape
            or one.dtype != kind
            or not one.flags.c_contiguous
        ):
            if name not in results:
                break
            with naming_result(name):
                one = _checked(as_array(one), shape, kind, casting)
        found.append(one)
    if len(found) < len(parts) or len(results) > len(parts):
        raise _of_other_names(results, parts)
    return np.frombuffer(b"".join(found), np.uint8), details


def _named(returned: Any, parts: Sequence[Part]) -> dict[str, Any]:
    """Several results by their names, or a FunctionError."""
    results = parts_of(returned)
    if results is None:
        raise FunctionError(
            f"The function returned a {type(returned).__name__}, but the results "
            f"{', '.join(name for name, *_ in parts)} were planned. Return a dict of them, or a "
            "named tuple."
        )
    return results


def _of_other_names(results: Mapping[Any, Any], parts: Sequence[Part]) -> FunctionError:
    """The error for results that were not planned, or that are missing."""
    names = [name for name, *_ in parts]
    wrong = [f"no '{name}'" for name in names if name not in results]
    wrong += [f"'{name}', which was not" for name in results if name not in names]
    return FunctionError(
        f"The results {', '.join(names)} were planned, but the function returned "
        f"{' and '.join(wrong)}. Return the same names for all trials."
    )


def _cast(result: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The result in another type, or a FunctionError if that cannot hold its values."""
    with np.errstate(over="ignore"):  # it is looked for below
        cast = result.astype(dtype)
    if dtype.kind in "iu":
        fits = bool((cast == result).all())
    else:
        fits = bool((np.isfinite(cast) | ~np.isfinite(result)).all())
    if not fits:
        raise FunctionError(
            f"The function returned {result.dtype} from {result.min()} to {result.max()}, which "
            f"{dtype} cannot hold. Plan with a wider out_dtype=."
        )
    return cast


def announced_parts(returned: Any) -> tuple[Part, ...]:
    """What a dry run announced: one result without a name, or several; or a FunctionError."""
    several = parts_of(returned)
    if several is None:
        return (("", *dry_outcome(returned)),)
    return tuple((name, *dry_outcome(one)) for name, one in several.items())


def dry_outcome(returned: Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type from what a dry run returned, or a FunctionError."""
    try:
        shape, dtype = returned
        size = tuple(int(n) for n in shape)
        kind = np.dtype(np.dtype(dtype).str) if np.dtype(dtype).metadata else np.dtype(dtype)
    except (TypeError, ValueError):
        raise FunctionError(
            f"In the dry run the function returned {returned!r:.100}. "
            "Return (shape, dtype) when noCompute is true, or a dict of these."
        ) from None
    if any(n < 0 for n in size):
        raise FunctionError(
            f"In the dry run the function announced the shape {size}. Return lengths from 0."
        )
    return size, kind
