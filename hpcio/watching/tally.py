"""Counting the records of a run, as they come."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcio.errors import Failure
from hpcio.journals import DONE, FAILED, JournalRecords, published
from hpcio.planning import Plan
from hpcio.watching.state import Status, WorkerStatus
from hpcio.words import natural
from hpcio.writers import fills_gaps

__all__ = ["Tally"]

# Speed is that of the last RECENT seconds, or of the last FEWEST blocks if those took longer.
RECENT, FEWEST = 60.0, 20
# If no block was at work for this many seconds, that is a pause, which no speed counts.
PAUSE = 30.0
# It is quiet if nobody wrote a record for so many seconds, or for so many blocks if longer.
QUIET, QUIET_BLOCKS = 30.0, 10


@dataclass
class _Counted:
    """What is known of one worker so far."""

    start: dict[Path, float]  # of its attempts, and when each wrote its last record
    last: dict[Path, float]
    done: int = 0
    nbytes: int = 0
    busy: float = 0.0


class Tally:
    """Counts the records of a run, as they come."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sizes = plan.work_sizes()
        self._state = np.zeros(len(plan), np.uint8)
        self._earlier = np.zeros(len(plan.trials), bool)
        self._workers: dict[tuple[str, str], _Counted] = {}
        self._journals: set[Path] = set()
        self._failures: dict[int, tuple[Failure, tuple[str, str]]] = {}
        # The end of each of the last blocks, and its bytes.
        self._ends, self._nbytes = np.zeros(0), np.zeros(0)
        # Stretches of work: begin and end of each.
        self._begin, self._end = np.zeros(0), np.zeros(0)

    def add(self, log: JournalRecords) -> None:
        """Count further records of a journal, which may have none yet."""
        header, records = log.header, log.records
        key = str(header["label"]), str(header["host"])
        worker = self._workers.setdefault(key, _Counted({}, {}))
        self._journals.add(log.path)
        start = worker.start.setdefault(log.path, float(header["start"]))
        last = float(records["end"].max(initial=start))
        worker.last[log.path] = max(worker.last.get(log.path, start), last)

        done = records[records["kind"] == DONE]
        worker.done += done.size
        worker.nbytes += int(self._sizes[done["block"]].sum())
        seconds = done["compute"].astype(float) + done["io"]
        worker.busy += float(seconds.sum())
        blocks, first = np.unique(done["block"], return_index=True)
        new = self._state[blocks] != DONE
        self._state[blocks] = DONE
        if self._plan.has_changed_since(log.plan):
            self._earlier[self._plan.blocks.trial[blocks[new]]] = True
        ends = done["end"][first[new]]
        self._note_recent(ends, self._sizes[blocks[new]])
        self._note_stretches(done["end"] - seconds, done["end"])

        for record in records[records["kind"] == FAILED]:
            block = int(record["block"])
            if self._state[block] != DONE:
                self._state[block] = FAILED
                text = log.note(record).decode(errors="replace")
                trial = int(self._plan.trials.index[self._plan.blocks.trial[block]])
                failure = Failure(block, trial, text, self._plan.counted, log.cause(record))
                self._failures[block] = failure, key

    def _note_recent(self, ends: np.ndarray, nbytes: np.ndarray) -> None:
        self._ends = np.concatenate([self._ends, ends])
        self._nbytes = np.concatenate([self._nbytes, nbytes])
        order = np.argsort(self._ends, kind="stable")
        ends = self._ends[order]
        recent = int(np.searchsorted(ends, ends[-1] - RECENT)) if ends.size else 0
        keep = order[max(0, min(recent, ends.size - FEWEST)) :]
        self._ends, self._nbytes = self._ends[keep], self._nbytes[keep]

    def _note_stretches(self, begin: np.ndarray, end: np.ndarray) -> None:
        begin, end = np.append(self._begin, begin), np.append(self._end, end)
        if not begin.size:
            return
        order = np.argsort(begin, kind="stable")
        begin, end = begin[order], np.maximum.accumulate(end[order])
        paused = np.flatnonzero(begin[1:] - end[:-1] > PAUSE)
        self._begin = begin[np.append(0, paused + 1)]
        self._end = end[np.append(paused, end.size - 1)]

    def status(self, *, session: bool | None) -> Status:
        """The state by what was counted so far."""
        plan, state = self._plan, self._state
        failed = [self._failures[b] for b in np.flatnonzero(state == FAILED).tolist()]
        nbytes, left = (int(self._sizes[state == kind].sum()) for kind in (DONE, 0))
        speed, pace = self._speeds(finished=bool(state.all()), done=(state == DONE), nbytes=nbytes)
        now = time.time()
        last = max((t for w in self._workers.values() for t in w.last.values()), default=now)
        taken = sum(w.busy for w in self._workers.values()) / max(1, int((state == DONE).sum()))
        silent = 0.0 if state.all() else now - last
        # A session, which journals the block it blames for the death of a worker, is not a worker.
        workers = (
            self._worker(*key, worker, sum(by == key for _, by in failed), now=now)
            for key, worker in self._workers.items()
            if key[0] != "session"
        )
        is_there = published(plan)
        return Status(
            out=plan.out,
            published=is_there,
            older=not is_there and os.path.lexists(plan.out),
            blocks=len(plan),
            done=int((state == DONE).sum()),
            failed=len(failed),
            attempts=len(self._journals),
            function=plan.function.name,
            pickled=bool(plan.function.pickled),
            failures=tuple(failure for failure, _ in failed),
            nbytes=nbytes,
            nbytes_left=left,
            speed=speed,
            bytes_per_second=pace,
            seconds_left=0.0 if state.all() else left / pace if pace else None,
            session=session,
            since=float(self._begin[-1]) if self._begin.size else 0.0,
            counted=plan.counted,
            earlier=int(self._earlier.sum()),
            fills_gaps=fills_gaps(plan),
            quiet=silent if silent > max(QUIET, QUIET_BLOCKS * taken) else 0.0,
            workers=tuple(sorted(workers, key=lambda w: (natural(w.label), natural(w.host)))),
        )

    def _speeds(self, *, finished: bool, done: np.ndarray, nbytes: int) -> tuple[float, float]:
        """Blocks and bytes in a second."""
        if not self._ends.size:
            return 0.0, 0.0
        if finished:
            seconds = max(float((self._end - self._begin).sum()), 1e-6)
            return int(done.sum()) / seconds, nbytes / seconds
        newest, since = self._ends[-1], max(self._begin[-1], self._ends[-1] - RECENT)
        if (self._ends > since).sum() < FEWEST:
            since = max(self._begin[-1], self._ends[0] if self._ends.size == FEWEST else -math.inf)
        recent = self._ends > since
        seconds = max(float(newest - since), 1e-6)
        return int(recent.sum()) / seconds, float(self._nbytes[recent].sum()) / seconds

    @staticmethod
    def _worker(
        label: str, host: str, worker: _Counted, failed: int, *, now: float
    ) -> WorkerStatus:
        last = max(worker.last.values())
        seconds = sum(worker.last[path] - start for path, start in worker.start.items())
        seconds = max(seconds, worker.busy, 1e-6)  # clocks are not exact
        return WorkerStatus(
            label=label, host=host, attempts=len(worker.start), done=worker.done, failed=failed,
            blocks_per_second=worker.done / seconds, bytes_per_second=worker.nbytes / seconds,
            seconds_since=max(0.0, now - last), first=min(worker.start.values()), last=last,
        )  # fmt: skip
