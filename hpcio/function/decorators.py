"""`unwrap_io`: one compute function for an array, a dry run, and a worker.

The contract is that of ``syncopy.shared.kwarg_decorators.unwrap_io``; the worker branch
takes the dict described in :func:`unwrap_io`.
"""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import h5py
import numpy as np

from hpcio.errors import FunctionError, HpcioError, OutputError, TrialError, as_output_error
from hpcio.files import (
    check_whole,
    fill_of,
    find_dataset,
    layout,
    locked,
    open_file,
    open_to_write,
    sync,
    write_file,
)
from hpcio.function import calls
from hpcio.recording import read_region

__all__ = ["unwrap_io"]

P = ParamSpec("P")
R = TypeVar("R")

_KEYS = {
    "keeptrials", "infile", "indset", "ingrid", "inshape", "sigrid", "fancy", "vdsdir",
    "outfile", "outdset", "outgrid", "outshape", "dtype", "call_id",
}  # fmt: skip
_OPTIONAL = {"call_id", "sigrid", "fancy", "keeptrials"}


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and "\0" not in os.fspath(value) and value != ""


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value and value.strip("/.") != ""


def _is_shape(value: Any) -> bool:
    return _is_several(value) and all(_is_index(n) and n >= 0 for n in value)


def _is_region(value: Any) -> bool:
    return _is_several(value) and all(
        _is_slice(part) or _is_index(part) or _are_indices(part) for part in value
    )


def _is_slice(value: Any) -> bool:
    try:
        return isinstance(value, slice) and value.indices(1) is not None
    except (TypeError, ValueError):  # of no numbers, or with a step of zero
        return False


def _is_sigrid(value: Any) -> bool:
    return value is None or (_is_several(value) and all(map(_are_indices, value)))


def _is_several(value: Any) -> bool:
    return isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)


def _is_index(value: Any) -> bool:
    return isinstance(value, int | np.integer | np.bool_)


def _are_indices(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and (value.size == 0 or value.dtype.kind in "iub")
    return _is_several(value) and all(_is_index(index) for index in value)


def _is_dtype(value: Any) -> bool:
    try:
        return value is not None and np.dtype(value).kind in "biufc"
    except (TypeError, ValueError):
        return False


# What the values of the dict are to be, and the words for it.
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "infile": (_is_path, "a path"),
    "indset": (_is_name, "the name of a dataset"),
    "ingrid": (_is_region, "a tuple of slices, or of lists of indices"),
    "inshape": (_is_shape, "a tuple of lengths"),
    "sigrid": (_is_sigrid, "a list of indices for each axis, or None"),
    "vdsdir": (lambda value: value is None or _is_path(value), "a path, or None"),
    "outfile": (_is_path, "a path"),
    "outdset": (_is_name, "the name of a dataset"),
    "outgrid": (lambda value: value is None or _is_region(value), "a tuple of slices, or None"),
    "outshape": (_is_shape, "a tuple of lengths"),
    "dtype": (_is_dtype, "a type of numbers"),
    "call_id": (lambda value: value is None or isinstance(value, str | int | np.integer), "a text"),
}


def unwrap_io(func: Callable[P, R]) -> Callable[..., Any]:
    """Let a compute function serve arrays, dry runs and workers.

    What the decorated function does depends on the type of its first argument:

    ``numpy.ndarray``, :class:`hpcio.FauxTrial`, or anything else with ``shape`` and ``dtype``
        Call through and return what the function returns (``(shape, dtype)`` when
        ``noCompute`` is true).
    ``dict``
        Read the trial from HDF5, compute, write the result to HDF5, return None. A tuple
        whose first element is such a dict is accepted too; its other elements are the
        positional arguments.

    Parameters
    ----------
    func : callable
        ``func(trial, *args, chunkShape=None, noCompute=None, **kwargs)``. It returns an
        array, or ``(array, details)`` with a dict of arrays (no objects); the details
        become attributes ``NAME + call_id`` of the group ``metadata`` in the file written
        (datasets of that name where they are too large for an attribute).

    Returns
    -------
    callable

    Raises
    ------
    hpcio.errors.FunctionError
        If the function is called with anything else, or returns what was not announced.
    hpcio.errors.SourceError, hpcio.errors.TrialError, hpcio.errors.OutputError
        In the worker branch, naming file and dataset.

    Notes
    -----
    The keys of the dict:

    ===================  =============================================================
    infile, indset       path of the source file, name of its dataset
    ingrid               tuple of slices (or a sorted list of indices): the region
    inshape              shape that the trial must have
    fancy, sigrid        if `fancy`, index the array read by ``np.ix_(*sigrid)``
    vdsdir               a directory: write a file of its own at `outfile`, dataset
                         `outdset`. None: write into the one existing file `outfile`
                         at `outgrid`, one process at a time (see `hpcio.files.locked`)
    outgrid              region of the result in the target
    outshape, dtype      shape and type of the result
    keeptrials           false: add to what the dataset holds instead of storing
    call_id              suffix for names of details, such as ``__3_0``; may be absent
    ===================  =============================================================

    With ``vdsdir=None``, processes that write the same file wait for each other: on one machine,
    on several, and as dask workers. Where the file system cannot keep them apart (GlusterFS, NFS
    mounted with ``nolock``, and others), it is refused.

    If the region is empty, nothing is computed. A file of its own then holds the fill value
    (NaN, or zero for integers); an existing file is left as it is.

    The interface is that of Syncopy's decorator of the same name
    (https://syncopy.org, module ``syncopy.shared.kwarg_decorators``).

    Examples
    --------
    >>> import numpy as np
    >>> @unwrap_io
    ... def mean(trial, chunkShape=None, noCompute=None):
    ...     if noCompute:
    ...         return (1, trial.shape[1]), np.dtype("f8")
    ...     return trial.mean(axis=0, keepdims=True, dtype="f8")
    >>> mean(np.ones((4, 2)))
    array([[1., 1.]])
    """

    @functools.wraps(func)
    def wrapper(trl_dat: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(trl_dat, tuple) and trl_dat and isinstance(trl_dat[0], dict):
            trl_dat, args = trl_dat[0], (*trl_dat[1:], *args)
        if isinstance(trl_dat, dict):
            _work(func, trl_dat, args, kwargs)
            return None
        if _is_like_array(trl_dat):
            return func(trl_dat, *args, **kwargs)
        raise FunctionError(
            f"'{func.__name__}' was called with a {type(trl_dat).__name__}. "
            "Its first argument is an array, a FauxTrial or another stand-in with a shape and a "
            "dtype, or the dict of a worker."
        )

    return wrapper


def _is_like_array(trial: Any) -> bool:
    """Whether this is an array, or what stands for one in somebody's dry run."""
    return hasattr(trial, "shape") and hasattr(trial, "dtype") and not np.isscalar(trial)


def _work(
    func: Callable[..., Any],
    trl_dat: Mapping[str, Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> None:
    """The worker branch: read, compute, write."""
    missing = sorted(_KEYS - _OPTIONAL - trl_dat.keys())
    if missing:
        raise FunctionError(
            f"The dict for a worker of '{func.__name__}' lacks {', '.join(missing)}. "
            "See the documentation of unwrap_io for its keys."
        )
    for key, (is_good, words) in _VALUES.items():
        if key in trl_dat and not is_good(trl_dat[key]):
            raise FunctionError(
                f"'{key}' of the dict for a worker of '{func.__name__}' is {trl_dat[key]!r:.100}. "
                f"Give {words}; see the documentation of unwrap_io."
            )
    shape = tuple(trl_dat["outshape"])
    dtype = np.dtype(trl_dat["dtype"])
    region = tuple(trl_dat["ingrid"])
    sigrid = trl_dat.get("sigrid") if trl_dat.get("fancy") else None
    given = trl_dat.get("call_id")
    call_id = "" if given is None else str(given)
    with open_file(trl_dat["infile"]) as f:
        dataset = find_dataset(f, trl_dat["indset"])
        if _is_empty(region, sigrid, dataset.shape):
            if trl_dat["vdsdir"] is not None:
                fill = np.full(shape, fill_of(dtype), dtype)
                _write_own(trl_dat, fill, {}, call_id)
            return
        check_whole(f, trl_dat["indset"])
        trial = read_region(dataset, region, sigrid, tuple(trl_dat["inshape"]))
    result, details = calls.compute(func, trial, args, kwargs, shape, dtype, casting="same_kind")
    if trl_dat["vdsdir"] is not None:
        _write_own(trl_dat, result, details, call_id)
    else:
        _write_shared(trl_dat, result, details, call_id)


def _is_empty(region: tuple[Any, ...], sigrid: Any, shape: tuple[int, ...]) -> bool:
    """Whether a selection holds no element at all."""
    if sigrid is not None and any(len(indices) == 0 for indices in sigrid):
        return True
    for part, length in zip(region, shape, strict=False):
        if isinstance(part, slice):
            if len(range(*part.indices(length))) == 0:
                return True
        elif not np.isscalar(part) and len(part) == 0:
            return True
    return False


def _write_own(
    trl_dat: Mapping[str, Any], result: np.ndarray, details: Mapping[str, np.ndarray], call_id: str
) -> None:
    """Write a virtual source: complete under its final name, or not at all."""
    path = os.fspath(trl_dat["outfile"])
    part = f"{path}.{secrets.token_hex(4)}.part"
    try:
        os.makedirs(trl_dat["vdsdir"], exist_ok=True)
        try:
            if details or "/" in trl_dat["outdset"].strip("/"):
                with h5py.File(part, "w", locking=False) as f:
                    f.create_dataset(trl_dat["outdset"], data=result)
                    calls.write_details(f, details, call_id)
            else:
                shape = layout(result.shape, result.dtype, name=trl_dat["outdset"])
                write_file(part, shape, result)
            sync(part)
            os.rename(part, path)
        except BaseException:
            if os.path.exists(part):
                os.unlink(part)
            raise
    except HpcioError:
        raise
    except OSError as error:
        raise as_output_error(error, path) from error


def _write_shared(
    trl_dat: Mapping[str, Any], result: np.ndarray, details: Mapping[str, np.ndarray], call_id: str
) -> None:
    """Write into the one existing file, one process at a time."""
    path = os.fspath(trl_dat["outfile"])
    if not os.path.exists(path):
        raise OutputError(
            f"There is no output file '{path}'. "
            "With vdsdir=None it must exist before workers start."
        )
    try:
        with locked(path), open_to_write(path) as f:
            target = find_dataset(f, trl_dat["outdset"])
            if not np.can_cast(result.dtype, target.dtype, "same_kind"):
                raise TrialError(
                    f"'{target.name}' in '{path}' has the type {target.dtype}, which cannot hold "
                    f"results of type {result.dtype}. Create it so that it can."
                )
            if trl_dat.get("keeptrials", True):
                outgrid = trl_dat["outgrid"]
                region = () if outgrid is None else tuple(outgrid)
                shaped = result.reshape(_region_shape(target, region, result))
                try:
                    target[region] = shaped
                except (TypeError, ValueError, IndexError) as error:
                    raise TrialError(
                        f"The region {region} does not fit '{target.name}' of shape "
                        f"{target.shape} in '{path}': {error}. Correct outgrid."
                    ) from error
            else:
                # As the reference does: every trial is added to one dataset, NaN as zero.
                if target.shape != result.shape:
                    raise TrialError(
                        f"A sum over trials needs a dataset of shape {result.shape}, but "
                        f"'{target.name}' in '{path}' has {target.shape}. Create it so."
                    )
                target[()] = np.nansum([target[()], result], axis=0)
            calls.write_details(f, details, call_id)
    except HpcioError:
        raise
    except OSError as error:
        raise as_output_error(error, path) from error


def _region_shape(
    target: h5py.Dataset, region: tuple[Any, ...], result: np.ndarray
) -> tuple[int, ...]:
    """The shape of a region of the target; it may differ from the result in axes of length one."""
    shape = []
    for axis, length in enumerate(target.shape):
        part = region[axis] if axis < len(region) else slice(None)
        if isinstance(part, slice):
            shape.append(len(range(*part.indices(length))))
        elif not np.isscalar(part):
            shape.append(len(part))
    if [n for n in shape if n != 1] != [n for n in result.shape if n != 1]:
        raise TrialError(
            f"The region {region} of '{target.name}' in '{target.file.filename}' has shape "
            f"{tuple(shape)}, the result {result.shape}. Correct outgrid."
        )
    return tuple(shape)
