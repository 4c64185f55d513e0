"""How many tasks, how large a chunk, which writer: the cheapest of those that are fast enough."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from hpcio.bench import WRITERS
from hpcio.errors import OptionError, check_whole
from hpcio.words import count, duration, html_table, in_lines
from slurm.simulation.costs import Costs
from slurm.simulation.disk import Disk, as_disk
from slurm.simulation.given import Cluster, Work
from slurm.simulation.running import Simulated, run_once

__all__ = ["Recommendation", "recommend"]

# So many times as long as the fastest may take what is cheaper.
_AS_FAST = 1.05
# More chunks than this are not tried: their claims would be a burden to any file system.
_MOST_CHUNKS = 100_000
# Chunks that the range of a task is cut into: first the default, then the others.
_FIRST, _OTHERS = 4, (1, 2, 8, 16)


@dataclass(frozen=True, repr=False)
class Recommendation:
    """What to ask for, and why; it shows as a table.

    Attributes
    ----------
    tasks, chunks_per_task : int
        As `slurm.submit` takes them.
    writer, sources : str
        As `hpcio.Plan.create` takes them.
    seconds : float
        From sbatch until the result is verified, as predicted.
    why : str
        In one sentence.
    simulated : Simulated
        The prediction.
    """

    tasks: int
    chunks_per_task: int
    writer: str
    sources: Literal["auto", "trial", "task"]
    seconds: float
    why: str
    simulated: Simulated

    def rows(self) -> list[tuple[str, str]]:
        """Names and values, for a table."""
        return [
            ("tasks", f"{self.tasks:,}"),
            ("chunks_per_task", f"{self.chunks_per_task:,}: {self.simulated.chunk_words}"),
            ("writer", self.writer),
            ("sources", self.sources),
            ("until the result", duration(self.seconds)),
            ("why", self.why),
            ("rests on", self.simulated.rests_on),
        ]

    def __repr__(self) -> str:
        return in_lines(self.rows())

    def _repr_html_(self) -> str:
        return html_table("What to ask for", self.rows())


def recommend(
    work: Work,
    cluster: Cluster,
    disk: Disk | str | os.PathLike[str],
    *,
    writers: str | Collection[str] | None = None,
    most: int | None = None,
    seed: int = 0,
) -> Recommendation:
    """Simulate sensible submissions, and take the cheapest within 5 % of the fastest.

    Parameters
    ----------
    work : Work
    cluster : Cluster
    disk : Disk, str or path
        A path is that of a benchmark: see `Disk.of`.
    writers : str or collection of str, optional
        The one, or those, that come into question; by default all of `disk.rates`.
    most : int, optional
        Tasks at the most.
    seed : int
        See `simulate`.

    Returns
    -------
    Recommendation

    Raises
    ------
    OptionError
        If nothing is known of one of the writers.
    SourceError
        If the benchmark cannot be read.

    Examples
    --------
    >>> said = recommend(Work(trials=1000, seconds=0.5), Cluster(slots=32), Disk())
    >>> said.tasks, said.writer
    (32, 'virtual')
    """
    if most is not None:
        check_whole("most", most, least=1)
    disk = as_disk(disk)
    names = [writers] if isinstance(writers, str) else disk.rates if writers is None else writers
    if not names:
        raise OptionError(
            f"writers={writers!r} names no writer. Choose some of: {', '.join(disk.rates)}."
        )
    costs = {name: Costs(work, disk, name) for name in names}
    limit = max(1, min(cluster.total, work.trials, most or cluster.total))
    trial = _Trials(costs, cluster, seed)
    best = _choose(list(trial.of_tasks(_powers(limit))))
    others = [
        trial.once(best.writer, best.asked, chunks)
        for chunks in _OTHERS
        if chunks < _FIRST or chunks * best.asked <= min(_MOST_CHUNKS, work.trials)
    ]
    best = _choose([best, *others])
    more = min(2 * best.asked, limit)
    further = trial.once(best.writer, more, best.chunks_per_task) if more > best.asked else None
    writer, sources, _ = WRITERS[best.writer]
    found = best.simulated
    return Recommendation(
        found.tasks, best.chunks_per_task, writer, sources, found.makespan,
        _why(found, None if further is None else further.simulated), found,
    )  # fmt: skip


def _powers(limit: int) -> list[int]:
    return sorted({*(2**k for k in range(limit.bit_length())), limit})


@dataclass(frozen=True)
class _Tried:
    writer: str
    asked: int
    chunks_per_task: int
    simulated: Simulated


class _Trials:
    """Simulations that are made once each, as far as they can be any good."""

    def __init__(self, costs: dict[str, Costs], cluster: Cluster, seed: int) -> None:
        self._costs, self._cluster, self._seed = costs, cluster, seed

    def of_tasks(self, tasks: list[int]) -> Iterator[_Tried]:
        """All writers with all numbers of tasks, but for those that cannot be fast enough."""
        fastest = float("inf")
        pairs = [(costs.least(n), n, name) for name, costs in self._costs.items() for n in tasks]
        for least, n, name in sorted(pairs):
            if least > _AS_FAST * fastest:
                return
            tried = self.once(name, n, _FIRST)
            fastest = min(fastest, tried.simulated.makespan)
            yield tried

    def once(self, writer: str, tasks: int, chunks: int) -> _Tried:
        made = run_once(
            self._costs[writer], self._cluster, tasks=tasks, chunks_per_task=chunks,
            seed=self._seed,
        )  # fmt: skip
        return _Tried(writer, tasks, chunks, made)


def _choose(tried: list[_Tried]) -> _Tried:
    """The cheapest that is about as fast as the fastest.

    Of those that cost about the same, it is the one with the fewest tasks, by the writer that needs
    the least thought, in as many chunks as usual.
    """
    fastest = min(one.simulated.makespan for one in tried)
    enough = [one for one in tried if one.simulated.makespan <= _AS_FAST * fastest]
    cheapest = min(one.simulated.node_hours for one in enough)
    cheap = [one for one in enough if one.simulated.node_hours <= _AS_FAST * cheapest]
    order = list(WRITERS)
    return min(
        cheap,
        key=lambda one: (
            one.asked, order.index(one.writer), one.chunks_per_task != _FIRST, one.chunks_per_task
        ),
    )  # fmt: skip


def _why(found: Simulated, more: Simulated | None) -> str:
    """The sentence, such as "64 tasks: 12 min; 128 would take 11 min, since ..."."""
    took = f"{count(found.tasks, 'task')}: {duration(found.makespan)}"
    if more is None or more.tasks <= found.tasks:
        return f"{took}, most of it {found.bottleneck}; there is no room or work for more tasks"
    most = more.bottleneck if " is full" in more.bottleneck else f"most of it is {more.bottleneck}"
    return f"{took}; {more.tasks:,} would take {duration(more.makespan)}, since {most}"
