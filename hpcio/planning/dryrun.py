"""The dry run: shape and type of every block, by as few calls as there are distinct cases."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpcio.errors import FunctionError, HpcioError, PlanError
from hpcio.function import blocks as block_parts
from hpcio.function.arguments import Arguments, fingerprint
from hpcio.function.functions import takes
from hpcio.recording.faux import FauxTrial
from hpcio.recording.sources import Source, find_dataset, open_file
from hpcio.recording.trials import Blocks

__all__ = ["dry_run"]

Shape = tuple[int, ...]
OutShape = Sequence[int] | Callable[[Shape], Sequence[int]]


def dry_run(
    func: Callable[..., Any],
    name: str,
    source: Source,
    blocks: Blocks,
    arguments: Arguments,
    out_shape: OutShape | None,
    out_dtype: Any,
) -> tuple[np.ndarray, tuple[Shape, ...], np.dtype]:
    """Ask once for each distinct (trial shape, arguments) what a block returns.

    Returns the index of each block's shape (B,), the distinct shapes, and the type.
    """
    asks = takes(func, "noCompute")
    inshapes = [f.inshape for f in blocks.forms]
    distinct = {shape: k for k, shape in enumerate(dict.fromkeys(inshapes))}
    kind = np.asarray([distinct[s] for s in inshapes], np.int64)[blocks.form]
    if asks and arguments.vary:
        # The announced shape may depend on the arguments too.
        values: dict[str, int] = {}
        of_trial = np.empty(int(blocks.trial[-1]) + 1, np.int64)
        for trial in range(of_trial.size):
            key = _key(arguments.of(trial))
            of_trial[trial] = values.setdefault(key, len(values))
        kind = kind + len(distinct) * of_trial[blocks.trial]
    _, first, case = np.unique(kind, return_index=True, return_inverse=True)

    known: dict[Shape, int] = {}
    shape_of_case = []
    dtype = _dtype(out_dtype) if out_dtype is not None else None
    for i in first.tolist():
        trial = int(blocks.trial[i])
        form = blocks.forms[int(blocks.form[i])]
        if out_shape is not None and dtype is not None:
            shape, found = _told(out_shape, form.inshape), dtype
        else:
            where = f"trial {trial} (shape {form.inshape})"
            shape, found = _probe(func, name, source, blocks, i, arguments, asks=asks, where=where)
            if out_shape is not None and shape != _told(out_shape, form.inshape):
                raise FunctionError(
                    f"'{name}' gives shape {shape} for {where}, but out_shape says "
                    f"{_told(out_shape, form.inshape)}. Correct out_shape, or leave it out."
                )
        if dtype is None:
            dtype = found
        elif found != dtype and (out_dtype is None or not np.can_cast(found, dtype, "same_kind")):
            raise FunctionError(
                f"'{name}' gives {found} for trial {trial}, but {dtype} "
                f"{'for others' if out_dtype is None else 'is asked for'}. "
                "Let it return one type for all trials."
            )
        shape_of_case.append(known.setdefault(shape, len(known)))
    assert dtype is not None  # there is at least one block
    if dtype.kind not in "biufc":
        raise FunctionError(
            f"'{name}' gives results of type {dtype}, which this format does not hold. "
            "Return integers, floats, complex or bool."
        )
    form_index = np.asarray(shape_of_case, np.int32)[case.reshape(-1)]
    return form_index, tuple(known), dtype


def _key(value: Any) -> str:
    """Something equal for equal arguments, and quick for plain numbers."""
    args, kwargs = value
    parts = (*args, *kwargs.values())
    if all(isinstance(p, str | int | float | bool | None | np.generic) for p in parts):
        return repr(value)
    return fingerprint(value)


def _told(out_shape: OutShape, inshape: Shape) -> Shape:
    told = out_shape(inshape) if callable(out_shape) else out_shape
    try:
        return tuple(operator.index(n) for n in told)
    except TypeError:
        raise PlanError(
            f"out_shape={told!r:.100} is no shape. Give a tuple of int, or a function of the "
            "trial's shape that returns one."
        ) from None


def _dtype(out_dtype: Any) -> np.dtype:
    try:
        dtype: np.dtype = np.dtype(out_dtype)
    except TypeError:
        raise PlanError(
            f"out_dtype={out_dtype!r:.100} is no type of numpy. Give one such as 'float32'."
        ) from None
    return dtype


def _probe(
    func: Callable[..., Any],
    name: str,
    source: Source,
    blocks: Blocks,
    i: int,
    arguments: Arguments,
    *,
    asks: bool,
    where: str,
) -> tuple[Shape, np.dtype]:
    """Shape and type of one block, announced or computed."""
    args, kwargs = arguments.of(int(blocks.trial[i]))
    form = blocks.forms[int(blocks.form[i])]
    try:
        if asks:
            faux = FauxTrial(form.inshape, blocks.ingrid(i), source.dtype)
            return block_parts.dry_outcome(func(faux, *args, noCompute=True, **kwargs))
        with open_file(source.path) as f:
            dataset = find_dataset(f, source.dataset)
            trial = block_parts.read_region(dataset, blocks.ingrid(i), form.sigrid, form.inshape)
        result, _ = block_parts.split_details(func(trial, *args, **kwargs))
        array = block_parts.as_array(result)
        return array.shape, array.dtype
    except FunctionError as error:
        raise FunctionError(f"'{name}' cannot be planned, {where}: {error}") from error
    except HpcioError:
        raise
    except (Exception, SystemExit) as error:
        raise FunctionError(
            f"'{name}' raised {type(error).__name__} in the dry run, {where}: {error}. "
            "Call it with one trial to find out why."
        ) from error
