"""What array tasks do, as events: wait, start, compute, help others, end."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from slurm.simulation.costs import Costs
from slurm.simulation.dealing import Dealing, Part, cut
from slurm.simulation.given import Cluster
from slurm.simulation.helping import Active, Helping
from slurm.simulation.shares import Shared

__all__ = ["Run", "Spent"]

# Files that a task makes when it starts, and for each part that it claims.
_FILES_OF_TASK, _FILES_OF_PART = 4, 3

Steps = Generator[simpy.Event, Any, None]


@dataclass
class Spent:
    """Seconds of all tasks together, by what they were spent on; `held`: in which they had a slot.

    Attributes
    ----------
    queue, startup, computing, overhead, io, idle, held : float
    """

    queue: float = 0.0
    startup: float = 0.0
    computing: float = 0.0
    overhead: float = 0.0
    io: float = 0.0
    idle: float = 0.0
    held: float = 0.0


class Run:
    """One run, from sbatch until the last trial is done.

    Attributes
    ----------
    spent : Spent
    parts : list of (int, int)
        First and last trial, the latter excluded, of each piece that was done in one go.
    """

    def __init__(
        self, costs: Costs, cluster: Cluster, *, tasks: int, chunks_per_task: int, seed: int
    ) -> None:
        self._costs, self._cluster, self.env = costs, cluster, simpy.Environment()
        self._random = np.random.default_rng(seed)
        edges, of_task = cut(costs.nbytes, costs.trials, tasks=tasks, chunks=chunks_per_task)
        self._dealing = Dealing(edges, of_task, costs.nbytes, self._random)
        self.tasks, self.chunks = self._dealing.tasks, edges.size - 1
        self.spent, self._done = Spent(), 0
        self.parts: list[tuple[int, int]] = []
        self.file_system = Shared(self.env, 2)
        self._cores = [Shared(self.env, 1) for _ in range(min(cluster.nodes, self.tasks))]
        # A node for each slot: SLURM fills one after the other.
        self._slots = simpy.PriorityStore(self.env)
        self._slots.items = [k // cluster.slots for k in range(min(cluster.total, self.tasks))]
        slow = self._random.random(cluster.nodes) < cluster.stragglers
        self._slow = np.where(slow, cluster.slowness, 1.0).tolist()
        self._next_start = 0.0
        self._helping = Helping(
            self.env, costs, self._dealing, self.file_system, tasks=self.tasks, stale=cluster.stale
        )
        self._finished = self.env.event()
        self._held: dict[int, float] = {}
        self._starts = [0] * self.tasks

    def run(self) -> float:
        """Until the last trial is done; when that is."""
        for task in range(self.tasks):
            self.env.process(self._task(task))
        self.env.run(until=self._finished)
        now = self.env.now
        for since in self._held.values():
            self.spent.held += now - since
        self._held.clear()
        self.spent.idle += self._helping.idle_seconds()
        return now

    # ---- a task

    def _task(self, task: int) -> Steps:
        """A task, and its next start if it was preempted."""
        cluster, env = self._cluster, self.env
        latency = cluster.latency
        while True:
            asked = env.now
            spread = float(np.exp(cluster.spread * self._random.standard_normal()))
            yield env.timeout(latency + cluster.wait * spread)
            latency = 0.0
            node = yield self._slots.get()
            started = self._next_start = max(env.now, self._next_start + 1 / cluster.starts)
            yield env.timeout(started - env.now)
            self._held[task] = env.now
            self.spent.queue += env.now - asked
            self._plan_preemption(task)
            try:
                yield from self._start(node)
                yield from self._take_all(task, node)
                return
            except simpy.Interrupt:
                self._helping.forget(task)
            finally:
                self.spent.held += env.now - self._held.pop(task, env.now)
                self._slots.put(node)

    def _plan_preemption(self, task: int) -> None:
        mean, process = self._cluster.preempted, self.env.active_process
        if mean is None or process is None:
            return
        self._starts[task] += 1
        number = self._starts[task]

        def preempt(_: simpy.Event) -> None:
            if process.is_alive and self._starts[task] == number:
                process.interrupt()

        timer = self.env.timeout(float(self._random.exponential(mean)))
        assert timer.callbacks is not None
        timer.callbacks.append(preempt)

    def _start(self, node: int) -> Steps:
        """Python starts, and loads the plan; tasks of a node that start share its cores."""
        began, cluster = self.env.now, self._cluster
        cores = cluster.startup_cores or cluster.slots
        shared = self._cores[node]
        job = shared.start(cluster.startup * self._slow[node], (1 / cores,))
        try:
            yield job.done
        except simpy.Interrupt:
            shared.stop(job)
            raise
        finally:
            self.spent.startup += self.env.now - began

    def _take_all(self, task: int, node: int) -> Steps:
        files = _FILES_OF_TASK
        while True:
            part = self._dealing.take(task)
            if part is None:
                began = self.env.now
                waiting = self._helping.wait(task)
                try:
                    part = yield waiting
                except simpy.Interrupt:
                    if waiting.triggered and waiting.value is not None:
                        self._dealing.leave(task, waiting.value)
                    raise
                finally:
                    self.spent.idle += self.env.now - began
                if part is None:
                    return
            yield from self._compute_part(task, node, part, files)
            files = 0

    def _compute_part(self, task: int, node: int, part: Part, files: int) -> Steps:
        slow, began = self._slow[node], self.env.now
        files += _FILES_OF_PART + self._costs.files * (part.stop - part.start)
        alone = max(1e-9, self._costs.alone.of(part.start, part.stop) * slow)
        used, made = self._costs.used.of(part.start, part.stop), files / self._costs.creates
        use = (used / alone, made / alone)
        job = self.file_system.start(alone, use)
        here = self._helping.active[task] = Active(task, part, job, slow, began)
        try:
            yield job.done
        except simpy.Interrupt:
            at = part.stop if job.over else self._helping.at(here)
            self.file_system.stop(job)
            if at < part.stop:  # only the trial at hand is lost
                self._dealing.leave(task, Part(part.chunk, at, part.stop))
            self._note(here, at)
            self._helping.look_soon()
            raise
        self._note(here, part.stop)

    def _note(self, here: Active, stop: int) -> None:
        """A part was done up to a trial."""
        self._helping.note(here, stop)
        part, took = here.part, self.env.now - here.began
        computing = min(took, self._costs.compute.of(part.start, stop) * here.slow)
        self.spent.computing += computing
        overhead = self._costs.per_trial * (stop - part.start) * here.slow
        overhead = min(took - computing, overhead)
        self.spent.overhead += overhead
        self.spent.io += took - computing - overhead
        if stop > part.start:
            self.parts.append((part.start, stop))
            self._done += stop - part.start
        if self._done == self._costs.trials and not self._finished.triggered:
            self._finished.succeed()
