"""What a task takes next when its own batches are done: the work of others."""

from __future__ import annotations

import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hpcio.errors import HpcioError
from hpcio.journals import DONE, FAILED, HELD, Follower
from hpcio.planning import Plan
from hpcio.running import Attempt, blame
from slurm.mapping import TaskPlan
from slurm.submissions import Submission, numbers
from slurm.tasks.assignment import Assignment
from slurm.tasks.claims import Claim, Claims
from slurm.tasks.heartbeats import HeartbeatMonitor

__all__ = ["Helper", "Progress", "left_of", "spared", "unfinished"]

# A block at which so many tasks have died is not tried again.
_MOST_DEATHS = 2
# A task that is idle looks at so many owners of unfinished claims, at the most.
_NEIGHBOURS = 32
_DEADLY = "WorkerError: {deaths} tasks have died at it as a whole; see hpcio logs {out}"


@dataclass
class Speed:
    """What an attempt has done."""

    nbytes: int = 0
    seconds: float = 0.0
    records: int = 0


class Progress:
    """What the journals of a submission say, as of the last look.

    Attributes
    ----------
    sizes : numpy.ndarray of int64, shape (B,)
        Bytes that each block reads and writes.
    speeds : dict of str to Speed
        By name of an attempt.
    """

    def __init__(self, plan: Plan, submission: Submission) -> None:
        self.sizes = plan.work_sizes()
        self.speeds: dict[str, Speed] = defaultdict(Speed)
        self._journals = Follower(plan, known=submission.records_before(plan))
        self._known = frozenset(submission.known)
        self._state = np.zeros(len(plan), np.uint8)
        self._begun = np.zeros(len(plan), bool)

    def journals(self) -> list[Path]:
        """Those that are there."""
        return self._journals.paths()

    def look(self, journals: Iterable[Path] | None = None) -> None:
        """Read what is new, in some journals or in all."""
        for path, records in self._journals.look(journals):
            kept = records[np.isin(records["kind"], (DONE, FAILED))]
            if path.name in self._known:
                # A task of an earlier submission that SLURM has lost sight of may be at work yet;
                # what fails there is tried again.
                kept = kept[kept["kind"] == DONE]
            self._state[kept["block"]] = kept["kind"]
            self._begun[records["block"][records["kind"] == HELD]] = True
            speed = self.speeds[path.stem]
            speed.records += records.size
            speed.nbytes += int(self.sizes[kept["block"]].sum())
            speed.seconds += float(kept["compute"].sum() + kept["io"].sum())

    def left(self, blocks: np.ndarray) -> np.ndarray:
        """Those of some blocks that nobody has done, or recorded as failed."""
        left: np.ndarray = blocks[self._state[blocks] == 0]
        return left

    def at_hand(self, left: np.ndarray) -> int:
        """Which of the blocks that are left, in order, their attempt was at when it died."""
        begun = self._begun[left]
        return int(left[0 if begun.all() else int(np.argmin(begun))])


def unfinished(
    claims: Claims, progress: Progress, work: TaskPlan, end: int
) -> Iterator[tuple[Claim, np.ndarray]]:
    """Each claim that is not done, and the blocks that are left of it; `end` is behind the last."""
    for batch, blocks in enumerate(work.batches):
        for claim in list(claims.of.get(batch, {}).values()):
            part = left_of(claims, progress, claim, blocks, end)
            if part.size:
                yield claim, part


def left_of(
    claims: Claims, progress: Progress, claim: Claim, blocks: np.ndarray, end: int
) -> np.ndarray:
    """What is left of a claim to some of the blocks of a batch."""
    until = claims.until(claim, end=end)
    return progress.left(blocks[(blocks >= claim.start) & (blocks < until)])


def spared(
    claims: Claims, progress: Progress, plan: Plan, claim: Claim, part: np.ndarray
) -> np.ndarray:
    """What is left of a claim whose owner is gone, but for the block that it has died of.

    The block at hand has killed it if it was at hand when another one died, too. Then it is
    recorded as failed.
    """
    if claim.in_order or not claim.owner:
        return part
    block = progress.at_hand(part)
    deaths = claims.note_death(claim, block)
    if deaths < _MOST_DEATHS:
        return part
    blame(plan, {block: _DEADLY.format(deaths=deaths, out=plan.out)})
    rest: np.ndarray = part[part != block]
    return rest


def _owner(claim: Claim) -> str:
    """Whose heartbeat to look at; a claim without a name counts from when we saw it first."""
    return claim.owner or f"{claim.batch}.{claim.generation}"


class Helper:
    """Finds batches that nobody has begun, and parts that others will not finish soon."""

    def __init__(
        self,
        assignment: Assignment,
        attempt: Attempt,
        claims: Claims,
        progress: Progress,
        before: Collection[str],
    ) -> None:
        self._assignment, self._plan = assignment, assignment.plan
        self._attempt, self._claims, self._progress = attempt, claims, progress
        self._before = before
        stale = assignment.submission.stale
        self._monitor = HeartbeatMonitor(self._plan, stale=stale)
        # Helping is worth the trouble if the owner needs longer than this, in seconds.
        self._long = stale / 6
        # While it waits, it looks less and less often: many may wait, and look at one folder.
        self._nap, self._longest_nap = min(1.0, stale / 20), self._long / 4
        # For each owner, how many records it had when it began its block at hand, and when.
        self._began: dict[str, tuple[int, float]] = {}
        self._nothing_left = False
        # In which it looks at batches: many may be idle, and are not all to look at the same few.
        self._order = list(range(len(assignment.work.batches)))
        random.Random(assignment.task).shuffle(self._order)
        # Of each batch. They are many: what is asked for each that is taken is asked at once.
        edges = np.cumsum([0, *(batch.size for batch in assignment.work.batches)])
        sizes = progress.sizes[assignment.work.blocks]
        self._nbytes = np.diff(np.concatenate([[0], np.cumsum(sizes)])[edges])

    @property
    def over(self) -> bool:
        """Whether this task is to take nothing more."""
        return self._attempt.stopping or self._claims.is_stopped() or self._is_replaced()

    def _is_replaced(self) -> bool:
        """Whether the run was submitted anew: SLURM had lost sight of this task."""
        with contextlib.suppress(HpcioError):  # it is looked at again
            return max(numbers(self._plan), default=0) > self._assignment.submission.number
        return False

    def unclaimed(self) -> int | None:
        """A batch that nobody had begun by the last look, of the range that has most of them.

        It is the last one of that range.
        """
        task, free = self._assignment.work.task, np.ones(self._nbytes.size, bool)
        free[np.fromiter(self._claims.of, np.int64, len(self._claims.of))] = False
        if not free.any() or self._claims.stopped:
            return None
        owners, of = np.unique(task[free], return_inverse=True)
        work = np.bincount(of, self._nbytes[free])
        # Of equals take any, since all who are idle look at the same time.
        richest = random.choice(owners[work == work.max()].tolist())
        return int(np.flatnonzero(free & (task == richest))[-1])

    def abandoned(self) -> tuple[int, int] | None:
        """A batch whose owner is dead or slow, and the block to begin with.

        None if there is nothing to help with. It waits until it is clear for every owner whether it
        lives and gets on.
        """
        self._began.clear()
        nap = self._nap
        while not self.over:
            self._claims.look()
            found = [
                (claim.batch, self._start_for_us(claim, part)) for claim, part in self._unfinished()
            ]
            self._nothing_left = not found and len(self._claims.of) == len(
                self._assignment.work.batches
            )
            for batch, start in found:
                if isinstance(start, int):
                    return batch, start
            if all(start is None for _, start in found):
                return None
            time.sleep(nap)
            nap = max(self._nap, min(1.3 * nap, self._longest_nap))
        return None

    def nothing_left(self) -> bool:
        """Whether every block of the submission was done, or has failed, by the last look."""
        return self._nothing_left

    def look_at(self, batch: int) -> None:
        """Read what is new of a batch."""
        self._look_at({claim.owner for claim in self._claims.of.get(batch, {}).values()})

    def _look_at(self, owners: Collection[str]) -> None:
        """Read the journals of some owners, our own, and those of nobody who has claims.

        These say which blocks have killed their owners; or they are of earlier submissions.
        """
        claims, wanted = self._claims, {self._attempt.name, *owners}
        self._progress.look(
            path for path in self._progress.journals()
            if path.stem in wanted
            or not (path.stem in claims.owners or claims.is_done(path.stem))
        )  # fmt: skip

    def _unfinished(self) -> Iterator[tuple[Claim, np.ndarray]]:
        """Claims that are not done, and what is left of them: those of the next few owners.

        If each of many tasks read the journals of all, a run would read the square of their number.
        So a task looks at no more owners than `_NEIGHBOURS` that have something left: first at
        those that have gone, as their claims say. Who comes later looks further, and the last one
        at all that are left.
        """
        self._look_at(frozenset())
        by_owner: dict[str, list[Claim]] = defaultdict(list)
        for batch in self._order:
            for claim in self._claims.of.get(batch, {}).values():
                if not self._claims.is_done(claim.owner):
                    by_owner[claim.owner].append(claim)
        busy = 0
        for owner in sorted(by_owner, key=lambda o: not any(map(self._has_gone, by_owner[o]))):
            claims = by_owner[owner]
            if next(self._parts(claims), None) is None:  # by what was read before
                continue
            if owner:
                if busy == _NEIGHBOURS:
                    return
                self._progress.look([self._plan.rundir.journals / f"{owner}.jnl"])
            parts = list(self._parts(claims))
            if owner and not parts and any(claim.in_order for claim in claims):
                self._claims.tell_done(owner)  # which could not: others have done the rest
            busy += bool(parts)
            yield from parts

    def _parts(self, claims: Iterable[Claim]) -> Iterator[tuple[Claim, np.ndarray]]:
        """Those of some claims of which something is left, by what was read, and what that is."""
        for claim in claims:
            blocks = self._assignment.work.batches[claim.batch]
            part = left_of(self._claims, self._progress, claim, blocks, len(self._plan))
            if part.size:
                yield claim, part

    def _start_for_us(self, claim: Claim, part: np.ndarray) -> int | Literal["wait"] | None:
        """The first block that we can take over from a claim; None if there is nothing to take."""
        if self._is_being_taken(claim.batch):
            return "wait"
        owner = _owner(claim)
        stuck = self._seconds_at_hand(owner)
        if self._is_gone(claim, owner):
            if claim.owner not in self._before:  # who waits for this task knows of what they died
                part = self.spare(claim, part)
            return int(part[0]) if part.size else "wait"  # until its failure is seen here, too
        if not self._monitor.lives(owner):
            return "wait"
        # A part may begin only where a group begins; blocks of a group stay together.
        begins = np.flatnonzero(np.diff(self._plan.group_of(part))) + 1
        if not begins.size:
            return None
        if stuck > self._long:  # all but the block at hand
            return int(part[begins[0]])
        # However little there is behind the block at hand, that one may take for ever.
        return self._second_half(owner, part, begins) or "wait"

    def _is_being_taken(self, batch: int) -> bool:
        """Whether somebody who lives has just claimed a part of a batch: all who are idle look."""
        newest = self._claims.latest(batch)
        if newest is None or newest.owner:
            return False
        self._seconds_at_hand(_owner(newest))
        return not self._monitor.dead(_owner(newest))

    def spare(self, claim: Claim, part: np.ndarray) -> np.ndarray:
        """What is left of a claim but for what it has died of; see `spared`."""
        rest = spared(self._claims, self._progress, self._plan, claim, part)
        self._attempt.may_fail -= part.size - rest.size
        return rest

    def _seconds_at_hand(self, owner: str) -> float:
        """Look at an owner; for how long it has journalled nothing, since we first looked."""
        records, now = self._progress.speeds[owner].records, time.monotonic()
        self._monitor.look(owner, records)
        if self._began.setdefault(owner, (records, now))[0] != records:
            self._began[owner] = (records, now)
        return now - self._began[owner][1]

    def _is_gone(self, claim: Claim, owner: str) -> bool:
        """Whether the owner of a claim will not go on with it."""
        return self._has_gone(claim) or self._monitor.dead(owner)

    def _has_gone(self, claim: Claim) -> bool:
        """Whether the owner of a claim is known to have gone by its name, or has said so."""
        # SLURM starts a task again only when it has ended, so other attempts of this task are gone.
        replaced = self._assignment.is_own(claim.owner) and claim.owner != self._attempt.name
        return claim.left or replaced

    def _second_half(self, owner: str, part: np.ndarray, begins: np.ndarray) -> int | None:
        """Where the second half of a slow owner's part begins, if it has far to go."""
        mine, theirs = self._progress.speeds[self._attempt.name], self._progress.speeds[owner]
        speed = theirs if theirs.seconds else mine
        if not speed.seconds:
            return None
        left = np.cumsum(self._progress.sizes[part])
        if float(left[-1]) * speed.seconds / max(speed.nbytes, 1) < self._long:
            return None
        middle = int(np.searchsorted(left, left[-1] / 2))
        return int(part[begins[min(int(np.searchsorted(begins, middle)), begins.size - 1)]])
