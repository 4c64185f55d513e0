"""Comparing: what several sides reach in turn, each beside the limit that it is held against."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hpcio.bench.figures import LeftOut
from hpcio.bench.team import Round
from hpcio.words import duration

__all__ = ["Rates", "Side", "compare"]

# What is measured first is a round of few things, then of so many times as many.
_FEW, _MORE = 4, 16
# Of a round that is so much shorter than it should be, the fsync at its end is most.
_SHORT = 0.1
# So much longer than its share a part may take; then it does less, not below this, or is left out.
_OVER, _LEAST = 2.0, 0.2

# Measures once; given how many things each process does.
Side = Callable[[int], Round]


@dataclass(frozen=True)
class Rates:
    """What a side has reached, and what its limit has, for as many things; [] if it has none."""

    values: list[float]
    limits: list[float]


def compare(
    sides: Mapping[str, Side],
    *,
    held: Mapping[str, str],
    most: Mapping[str, int],
    seconds: float,
    repetitions: int,
    share: float,
    what: str,
) -> dict[str, Rates] | LeftOut:
    """The rates of all sides, measured in turn, again and again; or why not.

    A first round warms up, and finds how many things a side can do in its time. A limit does as
    many as what is held against it, right before.

    Parameters
    ----------
    sides : mapping of str to callable
    held : mapping of str to str
        What a side is held against, another side, if it is.
    most : mapping of str to int
        How many things a side may do.
    seconds : float
        About so long each measurement of a side takes, if there is time.
    repetitions : int
        How often each is measured.
    share : float
        About so many seconds all of it may take.
    what : str
        What this is, for people.
    """
    each = min(seconds, 0.6 * share / (len(sides) * (repetitions + 1)))
    if each < _SHORT * seconds:
        return LeftOut(what, f"in {duration(share)} each round would be little but an fsync")
    held = {name: limit for name, limit in held.items() if name in sides}
    counts, expected = {}, 0.0
    for name in (name for name in sides if name not in held.values()):
        may = min(most[name], most[held.get(name, name)])
        counts[name], took = _fitting(sides[name], may, each)
        expected += took * (1 + (name in held))
    expected *= repetitions
    fewer = _OVER * share / expected
    if fewer < (1.0 if max(counts.values()) == 1 else _LEAST):
        return LeftOut(what, f"it would take {duration(expected)}, and has {duration(share)}")
    if fewer < 1.0:  # what is made ready and put away took its time
        counts = {name: max(1, int(fewer * things)) for name, things in counts.items()}
    for name in dict.fromkeys(held.values()):  # to warm up
        sides[name](min(_FEW, most[name]))
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(repetitions):
        turn = [
            (side, counts[name])
            for name in sides if name in counts
            for side in (held.get(name), name) if side is not None
        ]  # fmt: skip
        for side, things in dict.fromkeys(turn):
            rates.setdefault((side, things), []).append(sides[side](things).rate)
    found = {
        name: Rates(rates[name, things], rates.get((held.get(name, ""), things), []))
        for name, things in counts.items()
    }
    # What a limit has reached beside the first that is held against it.
    for name, limit in held.items():
        found.setdefault(limit, Rates(found[name].limits, []))
    return {name: found[name] for name in sides}


def _fitting(side: Side, most: int, seconds: float) -> tuple[int, float]:
    """How many things a side does in about so many seconds, and what a round of them takes.

    What is the same for few and many is known from two rounds: a first fsync alone may take as
    long as the writing of a thousand small trials.
    """
    count, before = min(_FEW, most), Round(0.0, 0)
    tried = 0
    while True:
        started = time.monotonic()
        found = side(count)
        whole = time.monotonic() - started
        if found.seconds >= seconds / 3 or count == most:
            break
        before, tried, count = found, count, min(most, count * _MORE)
    slope = max(found.seconds - before.seconds, 0.1 * found.seconds) / (count - tried)
    fixed = max(0.0, found.seconds - slope * count)
    fitting = min(most, max(1, int((seconds - fixed) / slope)))
    return fitting, max(slope * fitting, whole + slope * (fitting - count))
