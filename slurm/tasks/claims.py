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

_FAILED = re.compile(r"(\d+)\.failed\.(\d+)@(.+)")


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
        # How many blocks have failed in other attempts.
        self.failed = 0
        self.stopped = False

    def look(self) -> None:
        """Read the names that there are."""
        found: dict[int, dict[int, Claim]] = {}
        deaths: Counter[int] = Counter()
        failed: dict[str, int] = {}
        for name in self._folder.names():
            self.stopped |= name == f"{self.submission}.stop"
            told = _FAILED.fullmatch(name)
            if told is not None and int(told[1]) == self.submission and told[3] != self.attempt:
                failed[told[3]] = max(int(told[2]), failed.get(told[3], 0))
            match = _NAME.fullmatch(name)
            if match is None:
                continue
            if match[5] and int(match[1]) >= self._first:
                deaths[int(match[5])] += 1
            if int(match[1]) != self.submission:
                continue
            batch, generation = int(match[2]), int(match[3])
            claims = found.setdefault(batch, {})
            claim = claims.get(generation, Claim(batch, generation))
            if match[4] in ("left", "again"):
                claim = replace(claim, left=claim.left or match[4] == "left", in_order=True)
            elif match[7]:
                claim = replace(claim, start=int(match[6]), owner=match[7])
            claims[generation] = claim
        self.of, self.deaths, self.failed = found, deaths, sum(failed.values())

    def latest(self, batch: int) -> Claim | None:
        """The newest claim to a batch; None if nobody has it."""
        claims = self.of.get(batch)
        return claims[max(claims)] if claims else None

    def take(self, batch: int, start: int) -> Claim | None:
        """Claim a batch from a block on, as the next generation; None if another was faster."""
        generation = max(self.of.get(batch, {0: None})) + 1
        name = f"{self.submission}-{batch}.g{generation}"
        if not self._folder.take(name):
            return None
        claim = Claim(batch, generation, start, self.attempt)
        self.of.setdefault(batch, {})[generation] = claim
        self._folder.take(f"{name}@{start}@{self.attempt}")
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
