"""The stand-in for a trial in a dry run: a shape and a type, but no values."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from hpcio.errors import FunctionError, TrialError

__all__ = ["FauxTrial"]

Index: TypeAlias = slice | list[int]

# What numpy answers from the shape alone.
_SHAPE_ONLY = (np.shape, np.ndim, np.size)


# All operators of the mixin call `__array_ufunc__`, which refuses them.
@dataclass(frozen=True, init=False, eq=False, repr=False)
class FauxTrial(NDArrayOperatorsMixin):
    """A trial without values: what a compute function is given in a dry run.

    A dry run asks the compute function only for the shape and the type of its result.
    Whatever needs values (arithmetic, comparison, indexing, iteration, numpy functions
    and array methods) raises an error that says so, and reads no byte of the recording.

    Parameters
    ----------
    shape : sequence of int
        Shape of the trial.
    idx : sequence of slice or sequence of int
        Region of the recording that the trial stands for, one entry for each axis.
    dtype : dtype_like
        Type of the trial's values.
    dimord : sequence of str, optional
        Names of the axes.

    Attributes
    ----------
    shape : tuple of int
    idx : tuple of slice or list of int
    dtype : numpy.dtype
    dimord : tuple of str or None

    Raises
    ------
    TrialError
        If the shape, the region, the type and the names of axes do not fit together.
    FunctionError
        On any attempt to use values.

    See Also
    --------
    hpcio.unwrap_io : The decorator that hands a ``FauxTrial`` to a compute function.

    Examples
    --------
    >>> trial = FauxTrial((500, 64), (slice(1000, 1500), slice(0, 64)), "float32")
    >>> trial
    FauxTrial(shape=(500, 64), dtype=float32, idx=[1000:1500, 0:64])
    >>> trial.T.shape
    (64, 500)
    """

    shape: tuple[int, ...]
    idx: tuple[Index, ...]
    dtype: np.dtype[Any]
    dimord: tuple[str, ...] | None

    def __init__(
        self,
        shape: Sequence[SupportsIndex],
        idx: Sequence[slice | Sequence[int]],
        dtype: npt.DTypeLike,
        dimord: Sequence[str] | None = None,
    ) -> None:
        # The dataclass is frozen, and the arguments may be of looser types than the attributes.
        write = object.__setattr__
        write(self, "shape", _as_shape(shape))
        write(self, "idx", _as_region(idx))
        write(self, "dtype", _as_dtype(dtype))
        write(self, "dimord", None if dimord is None else _as_names(dimord))
        for name, value in (("idx", self.idx), ("dimord", self.dimord)):
            if value is not None and len(value) != self.ndim:
                raise TrialError(
                    f"A trial of shape {self.shape} has {self.ndim} axes, but {name} has "
                    f"{len(value)} entries. Give one entry for each axis."
                )

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values that the real trial has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that the real trial takes in memory."""
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> FauxTrial:  # noqa: N802 - as numpy spells it
        """The trial with its axes in reverse order, as ``numpy.ndarray.T``."""
        return self._take(range(self.ndim)[::-1])

    def squeeze(self, axis: int | tuple[int, ...] | None = None) -> FauxTrial:
        """Drop axes of length one, as ``numpy.ndarray.squeeze``.

        Parameters
        ----------
        axis : int or tuple of int, optional
            The axes to drop; all axes of length one by default.

        Returns
        -------
        FauxTrial
            Without these axes; also ``idx`` and ``dimord`` lose them.

        Raises
        ------
        TrialError
            If the trial has no such axis, or the axis is longer than one.

        Examples
        --------
        >>> region = (slice(0, 500), slice(3, 4))
        >>> FauxTrial((500, 1), region, "f4", ("time", "channel")).squeeze()
        FauxTrial(shape=(500,), dtype=float32, idx=[0:500], dimord=('time',))
        """
        if axis is None:
            dropped = {i for i, length in enumerate(self.shape) if length == 1}
        else:
            dropped = {self._axis_of_one(i) for i in (axis if isinstance(axis, tuple) else (axis,))}
        return self._take([i for i in range(self.ndim) if i not in dropped])

    def _axis_of_one(self, axis: int) -> int:
        if not isinstance(axis, SupportsIndex) or not -self.ndim <= axis < self.ndim:
            raise TrialError(
                f"A trial of shape {self.shape} has no axis {axis!r}. "
                "Count its axes from 0, or from -1 at the end."
            )
        if self.shape[axis] != 1:
            raise TrialError(
                f"Axis {axis} of a trial of shape {self.shape} cannot be dropped. "
                "Squeeze only axes of length one."
            )
        return axis % self.ndim

    def _take(self, axes: Sequence[int]) -> FauxTrial:
        return FauxTrial(
            [self.shape[i] for i in axes],
            [self.idx[i] for i in axes],
            self.dtype,
            None if self.dimord is None else [self.dimord[i] for i in axes],
        )

    def __len__(self) -> int:
        if not self.shape:
            raise FunctionError("A trial of shape () has no length. Ask for its shape instead.")
        return self.shape[0]

    def __repr__(self) -> str:
        idx = ", ".join(_brief(entry) for entry in self.idx)
        dimord = "" if self.dimord is None else f", dimord={self.dimord}"
        return f"FauxTrial(shape={self.shape}, dtype={self.dtype}, idx=[{idx}]{dimord})"

    def _key(self) -> tuple[Any, ...]:
        # Neither lists nor (before Python 3.12) slices can be hashed.
        idx = tuple(
            (slice, entry.start, entry.stop, entry.step)
            if isinstance(entry, slice)
            else (list, *entry)
            for entry in self.idx
        )
        return self.shape, idx, self.dtype, self.dimord

    def __hash__(self) -> int:
        return hash(self._key())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FauxTrial):
            return self._key() == other._key()
        if isinstance(other, (np.ndarray, numbers.Number, np.generic)):
            raise self._no_values("==")
        return NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other

    def _no_values(self, what: str) -> FunctionError:
        return FunctionError(
            f"This is a dry run: the trial has a shape {self.shape} and a type {self.dtype}, "
            f"but no values, and '{what}' asks for them. When noCompute is true, let the "
            "compute function return (shape, dtype) of its result before it touches values."
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *args: Any, **kwargs: Any) -> NoReturn:
        raise self._no_values(f"numpy.{ufunc.__name__}")

    def __array_function__(
        self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if func not in _SHAPE_ONLY:
            raise self._no_values(f"{func.__module__}.{func.__name__}")
        # A single zero, broadcast: it has any shape and takes no memory.
        stand_in = np.broadcast_to(np.zeros((), self.dtype), self.shape)
        args = tuple(stand_in if arg is self else arg for arg in args)
        kwargs = {key: stand_in if arg is self else arg for key, arg in kwargs.items()}
        return func(*args, **kwargs)

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise self._no_values("numpy.asarray")

    def __getitem__(self, key: Any) -> NoReturn:
        raise self._no_values("trial[...]")

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        raise self._no_values("trial[...] = ...")

    def __iter__(self) -> Iterator[Any]:
        raise self._no_values("iteration")

    def __contains__(self, value: object) -> bool:
        raise self._no_values("in")

    def __bool__(self) -> bool:
        raise self._no_values("bool")

    def __int__(self) -> int:
        raise self._no_values("int")

    def __float__(self) -> float:
        raise self._no_values("float")

    def __complex__(self) -> complex:
        raise self._no_values("complex")

    def __getattr__(self, name: str) -> NoReturn:
        # Private and special names stay absent: Python and numpy look for them to find out
        # what an object can do.
        if not name.startswith("_") and hasattr(np.ndarray, name):
            raise self._no_values(f"trial.{name}")
        raise AttributeError(f"'FauxTrial' object has no attribute '{name}'")


def _as_integer(value: SupportsIndex) -> int:
    if isinstance(value, bool):  # an entry of a mask must not pass as 0 or 1
        raise TypeError(f"{value} is no integer")
    return operator.index(value)


def _as_shape(shape: Sequence[SupportsIndex]) -> tuple[int, ...]:
    try:
        lengths = tuple(_as_integer(length) for length in shape)
    except TypeError as error:
        raise TrialError(
            f"{shape!r} is no shape of a trial. Give a tuple of integers, such as (500, 64)."
        ) from error
    if any(length < 0 for length in lengths):
        raise TrialError(f"The shape {lengths} is negative. Give lengths of zero or more.")
    return lengths


def _as_region(idx: Sequence[slice | Sequence[int]]) -> tuple[Index, ...]:
    try:
        return tuple(
            entry if isinstance(entry, slice) else [_as_integer(i) for i in entry] for entry in idx
        )
    except TypeError as error:
        raise TrialError(
            f"idx={idx!r} is no region of a source. Give for each axis a slice or a list of "
            "integers (no mask); for the single index i, slice(i, i + 1)."
        ) from error


def _as_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    try:
        if dtype is None:  # numpy would take it for float64
            raise TypeError("no type given")
        return np.dtype(dtype)
    except TypeError as error:
        raise TrialError(f"{dtype!r} is no type of numpy. Name one, such as 'float32'.") from error


def _as_names(dimord: Sequence[str]) -> tuple[str, ...]:
    listed = isinstance(dimord, Sequence) and not isinstance(dimord, str)
    if not listed or not all(isinstance(name, str) for name in dimord):
        raise TrialError(
            f"dimord={dimord!r} does not name the axes. "
            "Give one string for each axis, such as ('time', 'channel')."
        )
    return tuple(dimord)


def _brief(entry: Index) -> str:
    """An index as it is written between brackets; a long list is shortened to its ends."""
    if isinstance(entry, list):
        return str(entry) if len(entry) <= 6 else f"[{entry[0]}, ..., {entry[-1]}]"
    parts = [entry.start, entry.stop, *([] if entry.step is None else [entry.step])]
    return ":".join("" if part is None else str(part) for part in parts)
