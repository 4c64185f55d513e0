"""Who works on which batch of a submission.

A claim is a name that only one process can take (see `hpcio.journals.ClaimFolder`). A batch that
is taken over gets a claim of the next generation, under a new name.

Names in ``OUT.run/claims``, for submission S and batch K:

=========================  ==========================================================
``S-K.gG``                 generation G is taken
``S-K.gG@B@ATTEMPT``       this attempt took it, from block B on
``S-K.gG@left``            the attempt has left it, in good order
``S-K.gG@again``           likewise, and goes on with it when its task is started again
``S-K.gG@dead@B``          its task has ended without a word, and was at block B
``S.done.N@ATTEMPT``       all blocks of the first N claims of this attempt are done or have failed
``S.stop``                 too many blocks have failed: nobody goes on
``S.failed.N@ATTEMPT``     N blocks have failed in this attempt
``S.publish``              a task has found that no block is left, and publishes
=========================  ==========================================================
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from hpcio.journals import ClaimFolder
from hpcio.planning import Plan
from slurm.submissions import stop

__all__ = ["Claim", "Claims"]

_NAME = re.compile(r"(\d+)-(\d+)\.g(\d+)(?:@(left|again|dead@(\d+)|(\d+)@(.+)))?")

_TOLD = re.compile(r"(\d+)\.(failed|done)\.(\d+)@(.+)")


@dataclass(frozen=True)
class Claim:
    """One claim to a part of a batch.

    Attributes
    ----------
    batch, generation : int
    start : int
        Its first block; -1 as long as neither that nor the owner is known.
    owner : str
        Name of the attempt.
    left : bool
        Whether the owner has gone.
    in_order : bool
        Whether it has said that it ends.
    """

    batch: int
    generation: int
    start: int = -1
    owner: str = ""
    left: bool = False
    in_order: bool = False


class Claims:
    """The claims of one submission, as one attempt sees and makes them.

    Parameters
    ----------
    plan : Plan
    submission : int
    attempt : str
    first : int
        The submission whose pass it is; deaths count from there on.
    """

    def __init__(self, plan: Plan, submission: int, attempt: str, *, first: int = 0) -> None:
        self._plan, self._folder = plan, ClaimFolder(plan.rundir.claims)
        self.submission, self.attempt = submission, attempt
        self._first = first or submission
        self.of: dict[int, dict[int, Claim]] = {}
        # How many tasks have died at each block, in all passes.
        self.deaths: Counter[int] = Counter()
        self.stopped = False
        # The attempts that have claims of this submission.
        self.owners: set[str] = set()
        self._seen: set[str] = set()
        # How many claims each attempt has, of any submission, and how many of them are done.
        self._claimed: Counter[str] = Counter()
        self._done: dict[str, int] = {}
        # How many blocks have failed in each other attempt.
        self._failed: dict[str, int] = {}
        self._taken = 0

    def look(self) -> None:
        """Read the names that are new: none is ever removed."""
        names = set(self._folder.names())
        new, self._seen = names - self._seen, self._seen | names
        for name in new:
            match = _NAME.fullmatch(name)
            if match is not None:
                self._read(match)
                continue
            self.stopped |= name == f"{self.submission}.stop"
            told = _TOLD.fullmatch(name)
            if told is None:
                continue
            number, attempt = int(told[3]), told[4]
            if told[2] == "done":
                self._done[attempt] = max(number, self._done.get(attempt, 0))
            elif int(told[1]) == self.submission and attempt != self.attempt:
                self._failed[attempt] = max(number, self._failed.get(attempt, 0))

    def _read(self, name: re.Match[str]) -> None:
        """Take note of a name that says something of a claim."""
        submission, batch, generation = int(name[1]), int(name[2]), int(name[3])
        if name[5] and submission >= self._first:
            self.deaths[int(name[5])] += 1
        if name[7]:
            self._claimed[name[7]] += 1
        if submission != self.submission:
            return
        claims = self.of.setdefault(batch, {})
        claim = claims.get(generation) or Claim(batch, generation)
        if name[4] in ("left", "again"):
            claim = replace(claim, left=claim.left or name[4] == "left", in_order=True)
        elif name[7]:
            start, owner = int(name[6]), name[7]
            claim = Claim(batch, generation, start, owner, claim.left, claim.in_order)
            self.owners.add(owner)
        claims[generation] = claim

    @property
    def failed(self) -> int:
        """How many blocks have failed in other attempts."""
        return sum(self._failed.values())

    def is_done(self, attempt: str) -> bool:
        """Whether an attempt has said that nothing is left of its claims, by the last look."""
        return self._done.get(attempt, -1) >= self._claimed[attempt]

    def is_stopped(self) -> bool:
        """Whether nobody is to go on, as of now: one name is looked up, none is listed."""
        self.stopped = self.stopped or self._folder.is_taken(f"{self.submission}.stop")
        return self.stopped

    def is_taken_over(self, claim: Claim) -> bool:
        """Whether there is more to know of its batch than at the last look, as of now.

        That is a newer claim, or where one begins that was being made then.
        """
        seen = self.of.get(claim.batch, {claim.generation: claim})
        if any(each.start < 0 for each in seen.values()):
            return True
        return self._folder.is_taken(self._name(replace(claim, generation=max(seen) + 1)))

    def latest(self, batch: int) -> Claim | None:
        """The newest claim to a batch; None if nobody has it."""
        claims = self.of.get(batch)
        return claims[max(claims)] if claims else None

    def take(self, batch: int, start: int) -> Claim | None:
        """Claim a batch from a block on, as the next generation; None if another was faster."""
        generation = max(self.of.get(batch, {0: None})) + 1
        nameless = Claim(batch, generation)
        is_ours = self._folder.take(self._name(nameless))
        claim = Claim(batch, generation, start, self.attempt) if is_ours else nameless
        self.of.setdefault(batch, {})[generation] = claim  # another's a list may show only later
        if not is_ours:
            return None
        self._taken += 1
        self._folder.take(f"{self._name(claim)}@{start}@{self.attempt}")
        return claim

    def leave(self, claim: Claim, *, again: bool = False) -> None:
        """Say that a claim is given up, so that others need not wait and see.

        With `again`, its task goes on with it when SLURM has started it again.
        """
        self._folder.take(f"{self._name(claim)}@{'again' if again else 'left'}")

    def note_death(self, claim: Claim, block: int) -> int:
        """Say that the owner of a claim has died at a block; of how many tasks that is known."""
        self._folder.take(f"{self._name(claim)}@dead@{block}")
        self.look()
        return self.deaths[block]

    def _name(self, claim: Claim) -> str:
        return f"{self.submission}-{claim.batch}.g{claim.generation}"

    def tell_done(self, attempt: str = "") -> None:
        """Say that nothing is left of what was claimed so far: nobody need read its journal.

        By this attempt, or by another one that has left in good order, as of the last look.
        """
        taken = self._claimed[attempt] if attempt else self._taken
        self._folder.take(f"{self.submission}.done.{taken}@{attempt or self.attempt}")

    def tell_failed(self, count: int) -> None:
        """Say how many blocks have failed in this attempt so far."""
        self._folder.take(f"{self.submission}.failed.{count}@{self.attempt}")

    def stop(self) -> None:
        """Let all tasks of the submission end."""
        stop(self._plan, self.submission)

    def until(self, claim: Claim, *, end: int) -> int:
        """Where the part of a claim ends: where the next one begins, or at `end`.

        A newer claim from the same block on leaves nothing of the older one.
        """
        others = [c for c in self.of.get(claim.batch, {}).values() if c.start >= 0]
        return min(
            (
                c.start
                for c in others
                if c.start > claim.start
                or (c.start == claim.start and c.generation > claim.generation)
            ),
            default=end,
        )
