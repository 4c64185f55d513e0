"""Who helps whom: tasks that are idle look for parts that others will not finish soon."""

from __future__ import annotations

from dataclasses import dataclass

import simpy

from slurm.simulation.costs import Costs
from slurm.simulation.dealing import Dealing, Part
from slurm.simulation.shares import Job, Shared

__all__ = ["Active", "Helping"]

# Looks of those who are idle are no closer than this share of the time so far: they are many.
_LOOKS = 0.005


@dataclass(eq=False)
class Active:
    """A part at work: its task, its job on the file system, how slow its node is, since when."""

    task: int
    part: Part
    job: Job
    slow: float
    began: float


class Helping:
    """Tasks at work, and tasks that are idle, all of which look at the same time.

    Parameters
    ----------
    env : simpy.Environment
    costs : Costs
    dealing : Dealing
    file_system : Shared
    tasks : int
    stale : float
        See `slurm.simulation.Cluster`.

    Attributes
    ----------
    active : dict of int to Active
        By task.
    """

    def __init__(
        self,
        env: simpy.Environment,
        costs: Costs,
        dealing: Dealing,
        file_system: Shared,
        *,
        tasks: int,
        stale: float,
    ) -> None:
        self._env, self._costs, self._dealing = env, costs, dealing
        self._file_system, self._stale = file_system, stale
        self.active: dict[int, Active] = {}
        self._idle: dict[int, tuple[simpy.Event, float]] = {}
        # By task: seconds and bytes of what it has done, by which others tell its speed.
        self._history = [(0.0, 0.0)] * tasks
        self._looked = self._look_at = float("-inf")

    def wait(self, task: int) -> simpy.Event:
        """An event that gives a task a part to do, or None if there will be none."""
        waiting = self._env.event()
        self._idle[task] = waiting, self._env.now
        self.look_soon()
        return waiting

    def idle_seconds(self) -> float:
        """Seconds that those who are idle now have been."""
        return sum(self._env.now - since for _, since in self._idle.values())

    def forget(self, task: int) -> None:
        """A task that is idle was preempted."""
        self._idle.pop(task, None)

    def note(self, here: Active, stop: int) -> None:
        """A part was done up to a trial, and is at work no more."""
        del self.active[here.task]
        seconds, nbytes = self._history[here.task]
        self._history[here.task] = (
            seconds + self._env.now - here.began,
            nbytes + self._costs.nbytes.of(here.part.start, stop),
        )

    def at(self, here: Active) -> int:
        """The trial that is at hand."""
        passed = (self._file_system.now - here.job.start) / here.slow
        return self._costs.alone.reach(here.part.start, here.part.stop, passed)

    def look_soon(self) -> None:
        """Let those who are idle look for work."""
        if self._look_at > self._env.now or not self._idle:
            return
        nap = max(min(1.0, self._stale / 20), _LOOKS * self._env.now)
        self._look_at = max(self._env.now, self._looked + nap)
        timer = self._env.timeout(self._look_at - self._env.now)
        assert timer.callbacks is not None
        timer.callbacks.append(self._look)

    def _give(self, part: Part | None) -> None:
        waiting, _ = self._idle.pop(next(iter(self._idle)))
        waiting.succeed(part)

    def _look(self, _: simpy.Event) -> None:
        self._looked, self._look_at = self._env.now, float("-inf")
        while self._idle and (left := self._dealing.take(next(iter(self._idle)))) is not None:
            self._give(left)
        slow = sorted(
            (here for here in self.active.values() if self._is_long(here)),
            key=lambda here: here.part.start,
        )
        while slow and self._idle:
            if self._is_long(slow[0]):
                self._give(self._second_half(slow[0]))
            else:
                slow.pop(0)
        # There may be nothing that can be taken over.
        if all(here.part.stop - self.at(here) <= 1 for here in self.active.values()):
            while self._idle:
                self._give(None)
        self.look_soon()

    def _is_long(self, here: Active) -> bool:
        """Whether a part is worth the trouble of helping, as others can tell by the journals."""
        at = self.at(here)
        if here.part.stop - at <= 1:
            return False
        seconds, nbytes = self._history[here.task]
        seconds += self._env.now - here.began
        nbytes += self._costs.nbytes.of(here.part.start, at)
        left = self._costs.nbytes.of(at, here.part.stop)
        return nbytes > 0 and left * seconds / nbytes >= self._stale / 6

    def _second_half(self, here: Active) -> Part:
        """Take the second half of what is left of a part."""
        part, at = here.part, self.at(here)
        half = self._costs.nbytes.of(at, part.stop) / 2
        reached = self._costs.nbytes.reach(at, part.stop, half)
        middle = min(part.stop - 1, max(at + 1, reached))
        rest = Part(part.chunk, middle, part.stop)
        part.stop = middle
        end = here.job.start + self._costs.alone.of(part.start, middle) * here.slow
        self._file_system.shorten(here.job, end)
        return rest
