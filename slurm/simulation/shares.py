"""What many have together, such as a file system or the cores of a node: all slow down alike."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import count

import simpy

__all__ = ["Job", "Shared"]

# Times that differ by less, relatively, are the same.
_SAME = 1e-9


@dataclass(eq=False, slots=True)
class Job:
    """Something that goes on: `end` is when it is through, on the clock of what is shared.

    Attributes
    ----------
    start, end : float
    use : tuple of float
        Which share of each thing it takes up while it is alone.
    done : simpy.Event
    over : bool
        Whether it is through, or was stopped.
    """

    start: float
    end: float
    use: tuple[float, ...]
    done: simpy.Event
    over: bool = False


class Shared:
    """Things that jobs take shares of, such as bandwidth and files made in a second.

    As long as jobs want no more of anything than there is, each goes on as if it was alone. If they
    want twice as much, all of them take twice as long. This is what sharing in equal parts comes to
    for jobs that are alike, and costs no more than one step for each begin and end: the time of all
    jobs is kept on one clock, which goes slower when there is too little.

    Parameters
    ----------
    env : simpy.Environment
    things : int
        How many things are shared; the uses of jobs are in units of what there is of each.
    """

    def __init__(self, env: simpy.Environment, things: int) -> None:
        self._env = env
        self._wanted = [0.0] * things
        self._jobs: list[tuple[float, int, Job]] = []
        self._order = count()
        self._clock, self._at, self._speed = 0.0, 0.0, 1.0
        self._wake = float("inf")
        # For how long there was too little of each.
        self.short = [0.0] * things

    @property
    def now(self) -> float:
        """The time on the clock of all jobs."""
        return self._clock + (self._env.now - self._at) * self._speed

    def start(self, seconds: float, use: tuple[float, ...]) -> Job:
        """Begin a job that takes so long if it is alone."""
        self._pass()
        job = Job(self._clock, self._clock + seconds, use, self._env.event())
        heapq.heappush(self._jobs, (job.end, next(self._order), job))
        self._want(use, 1)
        return job

    def shorten(self, job: Job, end: float) -> None:
        """Let a job end earlier, at a time on the clock."""
        job.end = end
        heapq.heappush(self._jobs, (end, next(self._order), job))
        self._pass()
        self._plan_wake()

    def stop(self, job: Job) -> None:
        """End a job, unless it is through."""
        if not job.over:
            self._pass()
            job.over = True
            self._want(job.use, -1)

    def _pass(self) -> None:
        """Set the clock to now."""
        passed = self._env.now - self._at
        if passed:
            worst = max(self._wanted)
            if worst > 1.0:
                self.short[self._wanted.index(worst)] += passed
            self._clock += passed * self._speed
            self._at = self._env.now

    def _want(self, use: tuple[float, ...], sign: int) -> None:
        for k, more in enumerate(use):
            self._wanted[k] += sign * more
        self._speed = 1.0 / max(1.0, *self._wanted)
        self._plan_wake()

    def _plan_wake(self) -> None:
        """Be there when the next job is through; being there too early does no harm."""
        while self._jobs and (self._jobs[0][2].over or self._jobs[0][0] != self._jobs[0][2].end):
            heapq.heappop(self._jobs)
        if not self._jobs:
            return
        due = self._env.now + max(0.0, self._jobs[0][0] - self._clock) / self._speed
        if due < self._wake * (1 - _SAME):
            self._wake = due
            timer = self._env.timeout(due - self._env.now, due)
            assert timer.callbacks is not None
            timer.callbacks.append(self._look)

    def _look(self, timer: simpy.Event) -> None:
        if timer.value != self._wake:  # one that came earlier was planned since
            return
        self._wake = float("inf")
        self._pass()
        latest = self._clock + _SAME * max(1.0, self._clock)
        while self._jobs and self._jobs[0][0] <= latest:
            end, _, job = heapq.heappop(self._jobs)
            if job.over or end != job.end:
                continue
            job.over = True
            job.done.succeed()
            for k, more in enumerate(job.use):
                self._wanted[k] -= more
        self._speed = 1.0 / max(1.0, *self._wanted)
        self._plan_wake()
