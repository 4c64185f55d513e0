"""Who takes which part of the work: ranges of tasks, cut into chunks, and taken from their ends."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

__all__ = ["Amount", "Dealing", "Part", "Sums", "cut"]

# Of each trial: one number that all have, or an array.
Amount = float | np.ndarray


class Sums:
    """Sums over runs of trials: of one number that all have, or of an array.

    Examples
    --------
    >>> Sums(2.0, 10).of(3, 6), Sums(np.array([1.0, 2.0, 4.0]), 3).of(1, 3)
    (6.0, 6.0)
    """

    def __init__(self, each: Amount, trials: int) -> None:
        self._each = 0.0
        self._sums: np.ndarray | None = None
        if isinstance(each, np.ndarray) and each.ndim:
            self._sums = np.concatenate([np.zeros(1), np.cumsum(each, dtype=np.float64)])
        else:
            self._each = float(each)
        self.all = self.of(0, trials)

    def of(self, start: int, stop: int) -> float:
        """The sum of trials ``start .. stop - 1``."""
        if self._sums is None:
            return (stop - start) * self._each
        return float(self._sums[stop] - self._sums[start])

    def reach(self, start: int, stop: int, amount: float) -> int:
        """The trial, `stop` at the most, that is at hand when so much is done from `start` on."""
        if self._sums is None:
            whole = int(amount / self._each) if self._each else stop - start
            return min(stop, start + whole)
        found = int(np.searchsorted(self._sums, self._sums[start] + amount, side="right")) - 1
        return min(stop, max(start, found))

    def at_shares(self, start: np.ndarray, stop: np.ndarray, parts: int) -> np.ndarray:
        """Where runs are cut into so many equal parts: shape (runs, parts + 1).

        A trial is in the part in which its middle lies, as `hpcio.running.divide` has it.
        """
        most = np.minimum(parts, stop - start)[:, None]  # none of fewer than one trial
        share = np.minimum(np.arange(parts + 1) / most, 1.0)
        if self._sums is None:
            wanted = start[:, None] + (stop - start)[:, None] * share
            edges = np.ceil(wanted - 0.5).astype(np.int64)
        else:
            first, last = self._sums[start][:, None], self._sums[stop][:, None]
            middle = (self._sums[:-1] + self._sums[1:]) / 2
            edges = np.searchsorted(middle, first + (last - first) * share)
        found: np.ndarray = edges
        found[:, 0], found[:, -1] = start, stop
        return found


def cut(nbytes: Sums, trials: int, *, tasks: int, chunks: int) -> tuple[np.ndarray, np.ndarray]:
    """Chunks as `slurm.mapping.map_blocks` makes them: their edges, and the task of each."""
    whole = nbytes.at_shares(np.array([0]), np.array([trials]), tasks)
    ranges = np.unique(whole)
    inside = nbytes.at_shares(ranges[:-1], ranges[1:], chunks)
    edges = np.unique(inside)
    return edges, np.searchsorted(ranges, edges[:-1], side="right") - 1


@dataclass(eq=False, slots=True)
class Part:
    """Trials ``start .. stop - 1`` of a chunk."""

    chunk: int
    start: int
    stop: int


class Dealing:
    """What nobody has begun, and what preempted tasks have left.

    Parameters
    ----------
    edges : numpy.ndarray
        First trial of each chunk, and the end of the last.
    task : numpy.ndarray
        The task whose range a chunk is in, ascending.
    nbytes : Sums
        By which tasks are compared.
    random : numpy.random.Generator
        Chooses between equals, as those who are idle at the same time do.
    """

    def __init__(
        self, edges: np.ndarray, task: np.ndarray, nbytes: Sums, random: np.random.Generator
    ) -> None:
        self._edges, self._nbytes = edges.tolist(), nbytes
        bounds = np.searchsorted(task, np.arange(task[-1] + 2)).tolist()
        self._low, self._high = bounds[:-1], bounds[1:]
        self.tasks = len(self._low)
        chance = random.random(self.tasks).tolist()
        self._richest = [(-self._left(k), chance[k], k) for k in range(self.tasks)]
        heapq.heapify(self._richest)
        self._abandoned: dict[int, Part] = {}

    def _left(self, task: int) -> float:
        """Bytes of its range that nobody has begun."""
        return self._nbytes.of(self._edges[self._low[task]], self._edges[self._high[task]])

    def _part(self, chunk: int) -> Part:
        return Part(chunk, self._edges[chunk], self._edges[chunk + 1])

    def take(self, task: int) -> Part | None:
        """What a task takes next: its own, then what nobody has begun, then what was left."""
        return self._own(task) or self._unclaimed() or self._taken_over()

    def _own(self, task: int) -> Part | None:
        if task in self._abandoned:
            return self._abandoned.pop(task)
        if self._low[task] == self._high[task]:
            return None
        self._low[task] += 1
        return self._part(self._low[task] - 1)

    def _unclaimed(self) -> Part | None:
        """The last chunk of the range that has most of them."""
        while self._richest:
            least, chance, task = self._richest[0]
            if self._low[task] == self._high[task]:
                heapq.heappop(self._richest)
            elif -least != (left := self._left(task)):  # its owner has gone on since
                heapq.heapreplace(self._richest, (-left, chance, task))
            else:
                self._high[task] -= 1
                return self._part(self._high[task])
        return None

    def leave(self, task: int, part: Part) -> None:
        """Give back what a task has not done; it comes first when it is started again."""
        self._abandoned[task] = part

    def _taken_over(self) -> Part | None:
        return self._abandoned.pop(next(iter(self._abandoned))) if self._abandoned else None
