"""What is kept of the results of some trials, and how two of these become one.

A state is made of the results of consecutive trials, one after the other. The states of groups are
joined in their order. It is a few arrays, whose shapes and types the plan knows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from hpcio.layout.averages import Average

__all__ = ["Functions", "Moments", "State", "begin", "combine", "nbytes_of"]

# How two levels become one, where they are not added.
_ADD = {"min": np.minimum, "max": np.maximum}
# So many values, of channels by observations, are taken at a time: a copy of a large trial is not
# held. The number must not change, since sums of other pieces have other bits.
_AT_ONCE = 1 << 18


class Functions(Protocol):
    """Three functions of the user's own, as `hpcio.function.Reduction` calls them."""

    @property
    def fill(self) -> float:
        """What stands where no trial has a result."""

    def add(self, state: np.ndarray, later: np.ndarray) -> np.ndarray:
        """The state of all trials of two states, of which the second has later ones."""

    def finish(self, state: np.ndarray) -> np.ndarray:
        """What is stored."""


class State(Protocol):
    """What is kept of the results of some trials.

    Attributes
    ----------
    count : int
        Of how many trials.
    """

    count: int

    def add(self, result: np.ndarray) -> None:
        """Add the result of one trial, or the state that the user's function has made of it."""

    def join(self, other: Any) -> None:
        """Add all trials of another state of the same kind, which come after these."""

    def parts(self) -> list[np.ndarray]:
        """The arrays that, with the count, say everything; a state is read back into them."""

    def made(self) -> np.ndarray:
        """What is stored, of all these trials."""


def begin(average: Average, shape: tuple[int, ...], functions: Functions | None = None) -> State:
    """The state of no trials.

    Parameters
    ----------
    average : Average
    shape : tuple of int
        Shape of each result.
    functions : Functions, optional
        Of the user, if the average is made by such; without them its state can be read alone.
    """
    if average.state is not None:
        return _Own(average, functions)
    return Comoments(average, shape) if average.what == "cov" else Moments(average, shape)


def combine(
    average: Average,
    shape: tuple[int, ...],
    states: Iterable[State],
    functions: Functions | None = None,
) -> np.ndarray:
    """The average of some groups, joined in the given order; NaN if there are no trials."""
    whole = begin(average, shape, functions)
    for state in states:
        whole.join(state)
    return whole.made()


def nbytes_of(average: Average, shape: tuple[int, ...]) -> int:
    """Bytes of the arrays of one state, given the shape of each result."""
    return sum(math.prod(inner) * dtype.itemsize for inner, dtype in _arrays(average, shape))


def _arrays(
    average: Average, shape: tuple[int, ...]
) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shapes and types of the arrays of a state."""
    if average.state is not None:
        return [((), average.state)]
    is_complex = average.dtype.kind == "c" and average.what != "count"
    kind: np.dtype[Any] = np.dtype(np.complex128 if is_complex else np.float64)
    if average.what == "count":
        kind = np.dtype(np.int64)
    if average.channel_axis is not None:
        channels = shape[average.channel_axis]
        return [((channels,), kind), ((channels, channels), kind)]
    spread = [(shape, np.dtype(np.float64))] if average.what == "var" else []
    return [(shape, kind), *spread]


class Moments:
    """The count of some arrays, their sum or mean, and their squared deviations from it.

    Of a minimum, a maximum or a number of values that is the level.

    The variance is updated array by array (Welford, Technometrics 4, 1962), and parts are joined
    (Chan, Golub and LeVeque, The American Statistician 37, 1983). Sums of squares would cancel
    where the mean is large.

    Parameters
    ----------
    average : Average
    shape : tuple of int
        Shape of each array.
    """

    def __init__(self, average: Average, shape: tuple[int, ...]) -> None:
        self._what = average.what
        self.count = 0
        # The sum; for the variance the mean.
        self.level, *spread = (np.zeros(inner, kind) for inner, kind in _arrays(average, shape))
        if self._what in _ADD:
            self.level.fill(np.inf if self._what == "min" else -np.inf)
        self._add = _ADD.get(self._what, np.add)
        self._is_count = self._what == "count"
        self.spread: np.ndarray | None = spread[0] if spread else None

    def add(self, result: np.ndarray) -> None:
        """Add one array."""
        self.count += 1
        if self.spread is None:
            self._add(self.level, ~np.isnan(result) if self._is_count else result, out=self.level)
            return
        before = result - self.level
        self.level += before / self.count
        self.spread += (np.conj(before) * (result - self.level)).real

    def join(self, other: Moments) -> None:
        """Add all arrays of another, which come after these."""
        if self.spread is None or other.spread is None:
            self.count += other.count
            self._add(self.level, other.level, out=self.level)
            return
        count = self.count + other.count
        between = other.level - self.level
        self.level += between * (other.count / count)
        self.spread += other.spread
        if self.count and other.count:  # what is infinite times nothing would be no number
            self.spread += (np.conj(between) * between).real * (self.count * other.count / count)
        self.count = count

    def parts(self) -> list[np.ndarray]:
        """The arrays that, with the count, say everything."""
        return [self.level] if self.spread is None else [self.level, self.spread]

    def made(self) -> np.ndarray:
        """The average; NaN of no arrays, but for sums and counts."""
        if self._what in ("sum", "count"):
            return self.level
        if not self.count:
            kind = self.level.dtype if self._what == "mean" else np.float64
            return np.full(self.level.shape, np.nan, kind)
        if self.spread is not None:
            return self.spread / self.count
        return self.level / self.count if self._what == "mean" else self.level


class Comoments:
    """The means of channels over the observations of some trials, and their co-moments.

    The co-moment of two channels is the sum of products of their deviations from their means. Those
    of some observations are computed from their own means, and joined to those before (Chan, Golub
    and LeVeque, The American Statistician 37, 1983). Sums of raw products would cancel where a mean
    is large.

    No BLAS is used: its bits depend on its threads. Those of `numpy.einsum` depend on the shape.

    Parameters
    ----------
    average : Average
    shape : tuple of int
        Shape of each result. All axes but that of channels are observations.
    """

    def __init__(self, average: Average, shape: tuple[int, ...]) -> None:
        assert average.channel_axis is not None
        self.count = 0
        self._axis, self._each = average.channel_axis, 1
        self._each = math.prod(n for axis, n in enumerate(shape) if axis != self._axis)
        self.mean, self.comoment = (np.zeros(*inner) for inner in _arrays(average, shape))

    def add(self, result: np.ndarray) -> None:
        """Add all observations of a trial."""
        channels = self.mean.size
        observed = np.moveaxis(result, self._axis, 0).reshape(channels, self._each)
        step = max(1, _AT_ONCE // max(1, channels))
        before = self.count * self._each
        for first in range(0, self._each, step):
            some = np.array(observed[:, first : first + step], self.mean.dtype, order="C")
            mean = some.mean(axis=1)
            some -= mean[:, None]
            comoment = np.einsum("ik,jk->ij", some, some.conj())
            self._join(before + first, some.shape[1], mean, comoment)
        self.count += 1

    def join(self, other: Comoments) -> None:
        """Add all observations of another state, which come after these."""
        self._join(self.count * self._each, other.count * self._each, other.mean, other.comoment)
        self.count += other.count

    def _join(self, before: int, more: int, mean: np.ndarray, comoment: np.ndarray) -> None:
        """Add `more` observations to those `before`."""
        if not before or not more:  # what is infinite times nothing would be no number
            if more:
                self.mean[:], self.comoment[:] = mean, comoment
            return
        count = before + more
        between = mean - self.mean
        self.mean += between * (more / count)
        self.comoment += comoment
        self.comoment += np.multiply.outer(between, between.conj()) * (before * more / count)

    def parts(self) -> list[np.ndarray]:
        """The arrays that, with the count, say everything."""
        return [self.mean, self.comoment]

    def made(self) -> np.ndarray:
        """The covariance, as `numpy.cov` has it; NaN of fewer than two observations."""
        count = self.count * self._each
        if count < 2:
            return np.full_like(self.comoment, np.nan)
        found: np.ndarray = self.comoment / (count - 1)
        if found.dtype.kind == "c":  # products of complex numbers are rounded in their own way
            found = (found + found.conj().T) / 2
        return found


class _Own:
    """What three functions of the user have made of some trials."""

    def __init__(self, average: Average, functions: Functions | None) -> None:
        self.count = 0
        self._given = functions
        self._state = np.zeros((), average.state)

    def add(self, result: np.ndarray) -> None:
        """Add the state of one trial."""
        self._take(1, result)

    def join(self, other: _Own) -> None:
        """Add the trials of another state, which come after these."""
        self._take(other.count, other._state)

    def _take(self, count: int, state: np.ndarray) -> None:
        self._state = self._functions.add(self._state, state) if self.count else state
        self.count += count

    @property
    def _functions(self) -> Functions:
        assert self._given is not None
        return self._given

    def parts(self) -> list[np.ndarray]:
        """The state, which is one array, or one record of arrays."""
        return [self._state]

    def made(self) -> np.ndarray:
        """What is stored; the fill value, if there are no trials."""
        if not self.count:
            return np.asarray(self._functions.fill)
        return self._functions.finish(self._state)
