"""The dry run: shape and type of every block, by one call for each distinct case."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcio.errors import FunctionError, HpcioError, OptionError
from hpcio.function import (
    Arguments,
    FauxTrial,
    as_array,
    dry_outcome,
    fingerprint,
    split_details,
    takes,
)
from hpcio.planning.options import CallOptions
from hpcio.recording import Blocks, Recording, take

__all__ = ["Outcome", "dry_run"]

Shape = tuple[int, ...]
OutShape = Sequence[int] | Callable[[Shape], Sequence[int]]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What blocks return.

    Attributes
    ----------
    shape_index : numpy.ndarray of int32, shape (B,)
        Index into `shapes` for each block.
    shapes : tuple of tuple of int
        The distinct shapes.
    dtype : numpy.dtype
    """

    shape_index: np.ndarray
    shapes: tuple[Shape, ...]
    dtype: np.dtype


def dry_run(
    func: Callable[..., Any],
    name: str,
    recording: Recording,
    blocks: Blocks,
    arguments: Arguments,
    call: CallOptions,
) -> Outcome:
    """Ask once for each distinct (trial shape, arguments) what a block returns."""
    probe = _Probe(func, name, recording, blocks, arguments)
    first, case_of_block = _cases(blocks, arguments if probe.asks else None)
    known: dict[Shape, int] = {}
    shape_of_case = []
    dtype = None if call.out_dtype is None else _dtype(call.out_dtype)
    for block in first.tolist():
        shape, found = _shape_and_type(probe, block, call, dtype)
        if dtype is None:
            dtype = found
        elif found != dtype:
            _check_type(found, dtype, call, f"'{name}' gives {found} for {probe.trial(block)}")
        shape_of_case.append(known.setdefault(shape, len(known)))
    assert dtype is not None  # there is at least one block
    if dtype.kind not in "biufc":
        raise FunctionError(
            f"'{name}' gives results of type {dtype}, which this format does not hold. "
            "Return integers, floats, complex or bool."
        )
    return Outcome(np.asarray(shape_of_case, np.int32)[case_of_block], tuple(known), dtype)


def _cases(blocks: Blocks, arguments: Arguments | None) -> tuple[np.ndarray, np.ndarray]:
    """The first block of each distinct case, and the case of each block (B,).

    With `arguments`, a case is a shape and the values of the arguments.
    """
    shapes = [kind.inshape for kind in blocks.input_kinds]
    distinct = {shape: k for k, shape in enumerate(dict.fromkeys(shapes))}
    case = np.asarray([distinct[shape] for shape in shapes], np.int64)[blocks.input_kind]
    if arguments is not None and arguments.vary:
        values: dict[str, int] = {}
        of_trial = np.empty(int(blocks.trial[-1]) + 1, np.int64)
        for trial in range(of_trial.size):
            key = _key(arguments.of(trial))
            of_trial[trial] = values.setdefault(key, len(values))
        case = case + len(distinct) * of_trial[blocks.trial]
    _, first, case = np.unique(case, return_index=True, return_inverse=True)
    return first, case.reshape(-1)


def _shape_and_type(
    probe: _Probe, block: int, call: CallOptions, dtype: np.dtype | None
) -> tuple[Shape, np.dtype]:
    """What one block returns, as the caller says, or else the function."""
    told = None if call.out_shape is None else _told(call.out_shape, probe.inshape(block))
    if told is not None and call.out_dtype is not None and dtype is not None:
        return told, dtype
    shape, found = probe(block)
    if told is not None and shape != told:
        raise FunctionError(
            f"'{probe.name}' gives shape {shape} for {probe.where(block)}, but out_shape says "
            f"{told}. Correct out_shape, or leave it out."
        )
    return shape, found


def _check_type(found: np.dtype, dtype: np.dtype, call: CallOptions, gives: str) -> None:
    if call.out_dtype is None or not np.can_cast(found, dtype, "same_kind"):
        raise FunctionError(
            f"{gives}, but {dtype} {'for others' if call.out_dtype is None else 'is asked for'}. "
            "Let it return one type for all trials."
        )


def _key(value: Any) -> str:
    """A key that is equal for equal arguments, and quick to make for plain numbers."""
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
        raise OptionError(
            f"out_shape={told!r:.100} is no shape. Give a tuple of int, or a function of the "
            "trial's shape that returns one."
        ) from None


def _dtype(out_dtype: Any) -> np.dtype:
    try:
        dtype: np.dtype = np.dtype(out_dtype)
    except TypeError:
        raise OptionError(
            f"out_dtype={out_dtype!r:.100} is no type of numpy. Give one such as 'float32'."
        ) from None
    return dtype


@dataclass(frozen=True, eq=False)
class _Probe:
    """Asks the function what a block returns: it announces that, or computes it."""

    func: Callable[..., Any]
    name: str
    recording: Recording
    blocks: Blocks
    arguments: Arguments

    @property
    def asks(self) -> bool:
        """Whether the function announces its results."""
        return takes(self.func, "noCompute")

    def inshape(self, block: int) -> Shape:
        return self.blocks.kind_of(block).inshape

    def trial(self, block: int) -> str:
        return f"trial {self.blocks.trial[block]}"

    def where(self, block: int) -> str:
        return f"{self.trial(block)} (shape {self.inshape(block)})"

    def __call__(self, block: int) -> tuple[Shape, np.dtype]:
        args, kwargs = self.arguments.of(int(self.blocks.trial[block]))
        try:
            return (
                self._announced(block, args, kwargs)
                if self.asks
                else self._computed(block, args, kwargs)
            )
        except FunctionError as error:
            raise FunctionError(
                f"'{self.name}' cannot be planned, {self.where(block)}: {error}"
            ) from error
        except HpcioError:
            raise
        except (Exception, SystemExit) as error:
            raise FunctionError(
                f"'{self.name}' raised {type(error).__name__} in the dry run, "
                f"{self.where(block)}: {error}. Call it with one trial to find out why."
            ) from error

    def _announced(self, block: int, args: Any, kwargs: Any) -> tuple[Shape, np.dtype]:
        region = self.blocks.ingrid(block)
        faux = FauxTrial(self.inshape(block), region, self.recording.dtype)
        return dry_outcome(self.func(faux, *args, noCompute=True, **kwargs))

    def _computed(self, block: int, args: Any, kwargs: Any) -> tuple[Shape, np.dtype]:
        with self.recording.open() as opened:
            region = opened.read(self.blocks.ingrid(block))
        trial = take(region, self.blocks.kind_of(block).sigrid)
        result, _ = split_details(self.func(trial, *args, **kwargs))
        array = as_array(result)
        return array.shape, array.dtype
