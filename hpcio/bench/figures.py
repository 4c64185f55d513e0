"""What was measured: rates, each beside the limit that was measured next to it; what was not."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["WRITERS", "Figure", "LeftOut", "Spread"]

# What a writer is called here: its name, the option `sources`, and words for people.
WRITERS: dict[str, tuple[str, Literal["auto", "trial", "task"], str]] = {
    "virtual": ("virtual", "task", "virtual (files of tasks)"),
    "virtual-trial": ("virtual", "trial", "virtual (a file a trial)"),
    "direct": ("direct", "auto", "direct (one file)"),
    "mpi": ("mpi", "auto", "mpi (one file)"),
    "mutex": ("mutex", "auto", "mutex (one file)"),
}


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of some values, of one, too."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)


@dataclass(frozen=True)
class Figure:
    """One thing measured some times, and what it is held against.

    Attributes
    ----------
    part : {"write", "records", "files", "read"}
    what : str
        A key of `WRITERS`, or the name of what plain system calls or h5py do.
    size : int
        Bytes of a trial, a record or a file.
    processes, nodes : int
    unit : {"B/s", "1/s"}
    values : tuple of float
        All that was measured, as it came.
    limit : str
        What it is held against; "" if it is a limit itself.
    limits : tuple of float
        What that has reached, each right beside the value of its place.
    """

    part: Literal["write", "records", "files", "read"]
    what: str
    size: int
    processes: int
    nodes: int
    unit: Literal["B/s", "1/s"]
    values: tuple[float, ...]
    limit: str = ""
    limits: tuple[float, ...] = ()

    @property
    def spread(self) -> Spread:
        """Of the rate."""
        return Spread.of(self.values)

    @property
    def ratio(self) -> Spread | None:
        """How many times as long it takes as its limit; None of a limit."""
        if not self.limits:
            return None
        return Spread.of([b / a for a, b in zip(self.values, self.limits, strict=True)])


@dataclass(frozen=True)
class LeftOut:
    """What was not measured, and why."""

    what: str
    why: str
