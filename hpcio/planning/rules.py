"""A rule that says the shape of a result from the shape of its trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

__all__ = ["Rule", "Shape"]

Shape = tuple[int, ...]
Length = Callable[[Shape], int]

# Trials may be shortened, or cut into windows, by such factors.
_FACTORS = range(2, 65)


@dataclass(frozen=True)
class Rule:
    """How long each axis of a result is.

    Attributes
    ----------
    lengths : tuple of callable
        For each axis of the result: its length, from the shape of the trial.
    """

    lengths: tuple[Length, ...]

    @classmethod
    def fit(cls, known: Sequence[tuple[Shape, Shape]]) -> Self | None:
        """The simplest rule that says all known shapes; None if there is none.

        Parameters
        ----------
        known : sequence of (shape of a trial, shape of its result)

        Examples
        --------
        >>> rule = Rule.fit([((10, 4), (6, 4)), ((11, 4), (6, 4)), ((14, 4), (8, 4))])
        >>> rule.apply((100, 4))
        (51, 4)
        """
        if not known or len({len(result) for _, result in known}) != 1:
            return None
        found = []
        for axis in range(len(known[0][1])):
            wanted = [(trial, result[axis]) for trial, result in known]
            for length in _candidates(*wanted[0]):
                if all(length(trial) == n for trial, n in wanted):
                    found.append(length)
                    break
            else:
                return None
        return cls(tuple(found))

    def apply(self, trial: Shape) -> Shape:
        """The shape of the result of a trial."""
        return tuple(length(trial) for length in self.lengths)


def _candidates(trial: Shape, n: int) -> Iterator[Length]:
    """Rules that give `n` for a trial, the simplest first."""
    axes = range(len(trial))
    for axis in axes:
        yield partial(_scaled, axis=axis)
    yield partial(_constant, n=n)
    for up, down in ((1, 1), *((1, k) for k in _FACTORS), *((k, 1) for k in _FACTORS)):
        for axis in axes:
            for rounded_up in (0, down - 1) if down > 1 else (0,):
                rule = partial(_scaled, axis=axis, up=up, down=down, more=rounded_up)
                yield partial(rule, plus=n - rule(trial))


def _constant(trial: Shape, *, n: int) -> int:
    return n


def _scaled(
    trial: Shape, *, axis: int, up: int = 1, down: int = 1, more: int = 0, plus: int = 0
) -> int:
    return max(0, (trial[axis] * up + more) // down + plus)
