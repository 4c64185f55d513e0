"""From numbers as a file stores them to values of a unit, such as volts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

__all__ = ["Scaling"]


@dataclass(frozen=True)
class Scaling:
    """How numbers of a file become values of a unit: ``stored * factor + offset``, in float64.

    Attributes
    ----------
    units : str
        That of the values, such as ``"V"``.
    stored : str
        Type of the numbers in the file, as numpy writes it: ``"<i2"``.
    factors : tuple of float
        One for all, or one for each channel.
    offset : float
        Of all channels, in `units`.
    axis : int or None
        The axis along which factors differ; None if there is but one.

    Examples
    --------
    >>> scaling = Scaling("V", "<i2", (1e-6, 2e-6), axis=1)
    >>> factors = scaling.factors_of((slice(0, 1, 1), slice(0, 2, 1)))
    >>> scaling.apply(np.array([[3, 3]], "i2"), factors)
    array([[3.e-06, 6.e-06]])
    """

    units: str
    stored: str
    factors: tuple[float, ...]
    offset: float = 0.0
    axis: int | None = None

    @classmethod
    def load(cls, plain: Mapping[str, Any] | None) -> Self | None:
        """From what JSON has made of its fields; None if there are none."""
        if plain is None:
            return None
        return cls(**{**plain, "factors": tuple(map(float, plain["factors"]))})

    @property
    def dtype(self) -> np.dtype:
        """Type of the values: float64, or complex128."""
        return np.result_type(np.dtype(self.stored), np.float64)

    def factors_of(self, region: Sequence[slice]) -> np.ndarray:
        """The factors of a region, one slice for each axis, in a shape to multiply it by."""
        factors = np.array(self.factors)
        if self.axis is None:
            return factors
        shape = [1] * len(region)
        shape[self.axis] = -1
        return factors[region[self.axis]].reshape(shape)

    def apply(
        self, stored: np.ndarray, factors: np.ndarray, out: np.ndarray | None = None
    ) -> np.ndarray:
        """The values of some numbers, written to `out` if that is given."""
        values: np.ndarray = np.multiply(stored, factors, out=out, dtype=self.dtype)
        if self.offset:
            values += self.offset
        return values
