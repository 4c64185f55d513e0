"""Who works on which chunk, on a shared filesystem; and who is alive.

A claim is a file that is made by ``O_CREAT | O_EXCL``: one process succeeds, on every
filesystem that we know. A chunk that is taken over gets a claim of the next generation, under
a new name; no name is removed, and none made twice. Claims save work, no more: two attempts at
a block have journals and files of their own, and for each block the first complete one counts.

Names in ``OUT.run/claims``, for submission S and chunk C:

=========================  ==========================================================
``S-C.gG``                 generation G is taken
``S-C.gG@B@ATTEMPT``       by this attempt, from block B on
``S-C.gG@left``            which has left it, in good order
``S.stop``                 too many blocks have failed: nobody goes on
=========================  ==========================================================
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from hpcio.files.slab import as_output_error, write_at
from hpcio.machine.filesystems import is_first
from hpcio.planning.plan import Plan

__all__ = ["Beat", "Claim", "Claims", "Pulses"]

_NAME = re.compile(r"(\d+)-(\d+)\.g(\d+)(?:@(left|\d+@(.+)))?")
# How often an attempt shows that it lives, in seconds.
BEAT_EVERY = 10.0


@dataclass(frozen=True)
class Claim:
    """One claim to a part of a chunk.

    Attributes
    ----------
    chunk, generation : int
    start : int
        The first block of it; -1 if that is not known, nor by whom it was taken.
    owner : str
        Name of the attempt.
    left : bool
        Whether the owner has gone.
    """

    chunk: int
    generation: int
    start: int = -1
    owner: str = ""
    left: bool = False


class Claims:
    """The claims of one submission, as one attempt sees and makes them."""

    def __init__(self, plan: Plan, submission: int, attempt: str) -> None:
        self.folder = plan.run_directory / "claims"
        self.submission, self.attempt = submission, attempt
        self.of: dict[int, dict[int, Claim]] = {}
        self.stopped = False

    def look(self) -> None:
        """Read the names that there are."""
        found: dict[int, dict[int, Claim]] = {}
        for name in os.listdir(self.folder):
            self.stopped |= name == f"{self.submission}.stop"
            match = _NAME.fullmatch(name)
            if match is None or int(match[1]) != self.submission:
                continue
            chunk, generation = int(match[2]), int(match[3])
            claims = found.setdefault(chunk, {})
            claim = claims.get(generation, Claim(chunk, generation))
            if match[4] == "left":
                claim = replace(claim, left=True)
            elif match[4]:
                claim = replace(claim, start=int(match[4].partition("@")[0]), owner=match[5])
            claims[generation] = claim
        self.of = found

    def latest(self, chunk: int) -> Claim | None:
        """The newest claim to a chunk; None if nobody has it."""
        claims = self.of.get(chunk)
        return claims[max(claims)] if claims else None

    def take(self, chunk: int, start: int) -> Claim | None:
        """Claim a chunk from a block on, as the next generation; None if another was faster."""
        generation = max(self.of.get(chunk, {0: None})) + 1
        name = f"{self.submission}-{chunk}.g{generation}"
        if not self._make(name):
            return None
        claim = Claim(chunk, generation, start, self.attempt)
        self.of.setdefault(chunk, {})[generation] = claim
        self._make(f"{name}@{start}@{self.attempt}")
        return claim

    def leave(self, claim: Claim) -> None:
        """Say that a claim is given up, so that others need not wait and see."""
        self._make(f"{self.submission}-{claim.chunk}.g{claim.generation}@left")

    def stop(self) -> None:
        """Let all tasks of the submission end."""
        self._make(f"{self.submission}.stop")

    def _make(self, name: str) -> bool:
        return is_first(self.folder / name)

    def until(self, claim: Claim, *, end: int) -> int:
        """Where the part of a claim ends: where the next one begins, or at `end`.

        A newer claim from the same block on leaves nothing of the older one.
        """
        others = [c for c in self.of.get(claim.chunk, {}).values() if c.start >= 0]
        return min(
            (
                c.start
                for c in others
                if c.start > claim.start
                or (c.start == claim.start and c.generation > claim.generation)
            ),
            default=end,
        )


class Beat:
    """A thread that shows that an attempt lives: a number that grows, in ``beats/ATTEMPT``."""

    def __init__(self, plan: Plan, attempt: str, *, every: float = BEAT_EVERY) -> None:
        path = plan.run_directory / "beats" / attempt
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise as_output_error(error, path) from error
        self._every, self._ended = every, threading.Event()
        self._thread = threading.Thread(target=self._run, name="hpcio-beat", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(self._every if number else 0):
            number += 1
            # What cannot be written is missed by others; that is all that it means.
            with contextlib.suppress(OSError):
                write_at(self._fd, b"%016d" % number, 0)
                os.fsync(self._fd)

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()
        os.close(self._fd)


class Pulses:
    """Which attempts live, by the clock of whoever looks.

    Nothing is learned from the age of a file, since the clocks of nodes differ: an attempt
    lives if its number has changed since we first looked, and is dead if it has not for
    `stale` seconds.
    """

    def __init__(self, plan: Plan, *, stale: float) -> None:
        self._folder, self._stale = plan.run_directory / "beats", stale
        self._seen: dict[str, tuple[object, float, bool]] = {}

    def look(self, attempt: str, sign: object = None) -> None:
        """Look at an attempt; `sign` is any other sign of life, such as its last record."""
        with contextlib.suppress(OSError):
            sign = (sign, Path(self._folder, attempt).read_bytes())
        now = time.monotonic()
        if attempt not in self._seen:
            self._seen[attempt] = (sign, now, False)
        elif self._seen[attempt][0] != sign:
            self._seen[attempt] = (sign, now, True)

    def lives(self, attempt: str) -> bool:
        """Whether it has given a sign of life since we first looked, and not too long ago."""
        _, when, changed = self._seen[attempt]
        return changed and time.monotonic() - when < self._stale

    def dead(self, attempt: str) -> bool:
        """Whether it has given no sign of life for too long."""
        return time.monotonic() - self._seen[attempt][1] >= self._stale
