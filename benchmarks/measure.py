"""Repeated measurements, and ratios within one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hpcio.bench import Spread

Side = Callable[[], float]


@dataclass(frozen=True)
class Figure:
    """One thing measured, and what it is held against.

    Attributes
    ----------
    what, against : str
        The thing, and the limit it is divided by ("" for an absolute figure).
    unit : str
        Of `thing` and `limit`: s, µs or MiB.
    thing, limit : Spread
    ratio : Spread or None
        Of the ratios of each pair, measured one right after the other.
    ratio_of_medians : float or None
    target : float or None
        At most this: a ratio, or a value in `unit` if `absolute`. None: for information.
    repetitions : int
    raw : dict
        All values, as they came.
    row, folder : str
        Name of the row, and where it was measured.
    others : float
        Cores that other programs used meanwhile.
    """

    what: str
    against: str
    unit: str
    thing: Spread
    limit: Spread | None
    ratio: Spread | None
    ratio_of_medians: float | None
    target: float | None
    absolute: bool
    repetitions: int
    raw: Mapping[str, Sequence[float]]
    row: str = ""
    folder: str = ""
    others: float = 0.0


def interleave(sides: Mapping[str, Side], repetitions: int) -> dict[str, list[float]]:
    """Measure all sides in turn, again and again; a first round only warms up."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, measure in sides.items():
            value = measure()
            if repetition:
                found[name].append(value)
    return found


def compare(
    values: Mapping[str, Sequence[float]],
    *,
    what: str,
    against: str,
    scale: tuple[float, str] = (1.0, "s"),
    target: float | None = None,
    absolute: bool = False,
) -> Figure:
    """The figure of `what` over `against`, two names in `values`; the target is a ratio.

    With `absolute` the target is one of `what` itself, in the unit of `scale`.
    """
    factor, unit = scale
    thing = [v * factor for v in values[what]]
    limit = [v * factor for v in values[against]]
    return Figure(
        what, against, unit, Spread.of(thing), Spread.of(limit),
        Spread.of([a / b for a, b in zip(thing, limit, strict=True)]),
        statistics.median(thing) / statistics.median(limit),
        target, absolute, len(thing), {what: thing, against: limit},
    )  # fmt: skip


def alone(what: str, values: Sequence[float], unit: str, target: float | None) -> Figure:
    """A figure with no limit beside it."""
    return Figure(
        what, "", unit, Spread.of(values), None, None, None, target, True, len(values),
        {what: list(values)},
    )  # fmt: skip
