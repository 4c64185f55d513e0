"""What follows from the figures: which writer is best on this file system, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpcio.bench.figures import WRITERS, Figure, LeftOut

__all__ = ["Advice", "advise"]

# The default stays unless another writer is so many times as fast.
_WORTH = 1.1
# Below so many times the limit nobody would see a difference.
_AS_FAST = 1.05


@dataclass(frozen=True)
class Advice:
    """The writer to take, and what it says of all.

    Attributes
    ----------
    writer, sources : str
        As `hpcio.Plan.create` takes them.
    costs : dict of str to float
        How many times as long each takes as the best one, by its name in `WRITERS`: the geometric
        mean over the sizes of trials, with all processes at work.
    sentence : str
    """

    writer: str
    sources: str
    costs: dict[str, float]
    sentence: str


def advise(
    figures: Sequence[Figure], left_out: Sequence[LeftOut] = (), *, where: str
) -> Advice | None:
    """What the figures say, or None if there are none of all writers.

    Parameters
    ----------
    figures : sequence of Figure
    left_out : sequence of LeftOut, optional
        The sentence says why of writers.
    where : str
        The file system, as the sentence calls it: ``"ext4 at /scratch"``.
    """
    rates = _rates(figures)
    known = {name for found in rates.values() for name in found}
    sizes = [size for size, found in rates.items() if found.keys() == known]
    if not sizes or not {"virtual", "direct"} <= known:
        return None
    means = {
        name: math.exp(sum(math.log(rates[size][name]) for size in sizes) / len(sizes))
        for name in WRITERS
        if name in known
    }
    # What is advised becomes the default of all runs, of which few are on ranks.
    fastest = best = max((name for name in means if name != "mpi"), key=means.__getitem__)
    if means[best] < _WORTH * means["virtual"]:  # needs no thought, and no file is shared
        best = "virtual"
    writer, sources, words = WRITERS[best]
    why = "" if best == fastest else (
        f" {WRITERS[fastest][2]} is faster by less than a tenth, which is not worth leaving the "
        "default."
    )  # fmt: skip
    if writer != "virtual":
        why += (
            " Gaps of failed trials in one file are not filled later; to extend it is to copy it."
        )
    if means.get("mpi", 0.0) >= _WORTH * means[best]:
        why += " On ranks, mpi is faster: mpirun -n R hpcio run ... --writer mpi."
    costs = {name: means[best] / rate for name, rate in means.items()}
    limits = [f.ratio.median for f in _of_all(figures)
              if f.what == best and f.size in sizes and f.ratio]  # fmt: skip
    limit = math.exp(sum(map(math.log, limits)) / len(limits))
    first, *others = (name for name in costs if name != best)
    more = "".join(f", {WRITERS[name][2]} {costs[name]:.2g}" for name in others)
    without = _without(left_out)
    return Advice(
        writer, sources, costs,
        f"On {where}: {words}, which {_against(limit)}; {WRITERS[first][2]} takes "
        f"{costs[first]:.2g} times as long as that{more}.{why}{without}",
    )  # fmt: skip


def _against(limit: float) -> str:
    """How long a writer takes, in words; one that is quicker than its limit is so by chance."""
    if limit < _AS_FAST:
        return "is as fast as plain system calls"
    return f"takes {limit:.2g} times as long as plain system calls"


def _without(left_out: Sequence[LeftOut]) -> str:
    """Which writers were left out, and why; of what, and what to do about it, is said elsewhere."""
    writers = {words for *_, words in WRITERS.values()}
    return "".join(
        f" {one.what} left out: {one.why.partition('. ')[0].rpartition(': ')[2].removesuffix('.')}."
        for one in left_out
        if one.what in writers
    )


def _of_all(figures: Sequence[Figure]) -> list[Figure]:
    """What was written with all processes at work."""
    most = max((f.processes for f in figures), default=0)
    return [f for f in figures if f.part == "write" and f.processes == most]


def _rates(figures: Sequence[Figure]) -> dict[int, dict[str, float]]:
    """The rate of each writer with all processes at work, by the size of trials."""
    found: dict[int, dict[str, float]] = {}
    for f in _of_all(figures):
        if f.what in WRITERS:
            found.setdefault(f.size, {})[f.what] = f.spread.median
    return found
