"""What all journals of a run say together: for each block, which attempt counts."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from hpcio import journal, writers
from hpcio.journal import DETAILS, DONE, FAILED, RECORD, Log, read_log
from hpcio.plan import Plan

__all__ = [
    "Failure",
    "Follower",
    "Ledger",
    "journal_folder",
    "read_logs",
    "tried_by",
    "tried_since",
]


@dataclass(frozen=True)
class Failure:
    """A block that failed: its number, its trial, and why."""

    block: int
    trial: int
    traceback: str

    @property
    def reason(self) -> str:
        """The last line of the traceback."""
        return self.traceback.strip().rpartition("\n")[2]


def journal_folder(plan: Plan) -> Path:
    """Where the journals of a run lie."""
    return plan.run_directory / "journal"


def read_logs(plan: Plan) -> tuple[Log, ...]:
    """All journals of a run, in the order that decides between two attempts at a block."""
    paths = sorted(journal_folder(plan).glob("*.jnl"))
    logs = (read_log(path, plan.digest) for path in paths)
    return tuple(log for log in logs if log is not None)


def _lost_details(log: Log) -> list[int]:
    """Positions of the DONE records of blocks whose details are damaged or gone."""
    kind, block = log.records["kind"], log.records["block"]
    noted = np.flatnonzero(kind == DETAILS).tolist()
    lost = [int(block[k]) for k in noted if not log.note(log.records[k])]
    found: list[int] = np.flatnonzero((kind == DONE) & np.isin(block, lost)).tolist()
    return found


def tried_since(plan: Plan, known: Collection[Path]) -> np.ndarray:
    """The blocks that are done or failed by journals other than those `known`."""
    return _tried(log for log in read_logs(plan) if log.path not in known)


def tried_by(plan: Plan, attempt: str) -> np.ndarray:
    """The blocks that an attempt has journalled, done or failed."""
    log = read_log(journal_folder(plan) / f"{attempt}.jnl", plan.digest)
    return _tried([log] if log is not None else [])


def _tried(logs: Iterable[Log]) -> np.ndarray:
    tried = [r["block"][np.isin(r["kind"], (DONE, FAILED))] for r in (x.records for x in logs)]
    return np.concatenate([np.zeros(0, np.int64), *tried])


class Follower:
    """Reads the journals of a run again and again, and of each only what is new.

    Records are taken as they are, without their checksums: enough to watch a run at work.

    Parameters
    ----------
    plan : Plan
    known : collection of str
        File names of journals that are not to be read.
    """

    def __init__(self, plan: Plan, *, known: Collection[str] = ()) -> None:
        self._folder, self._ignored = journal_folder(plan), frozenset(known)
        self._read: dict[str, int] = {}

    def look(self) -> list[tuple[Path, np.ndarray]]:
        """For each journal the records that are new since the last look, shape (n,).

        Journals are opened anew each time, which is what makes network file systems show
        what other nodes have written.
        """
        found = []
        for name in sorted(n for n in os.listdir(self._folder) if n.endswith(".jnl")):
            if name in self._ignored:
                continue
            path, start = self._folder / name, self._read.get(name, journal.HEADER)
            try:
                with path.open("rb") as f:
                    f.seek(start)
                    raw = f.read()
            except FileNotFoundError:  # of a run that is being thrown away
                continue
            records = np.frombuffer(raw[: len(raw) // RECORD.itemsize * RECORD.itemsize], RECORD)
            written = int(np.argmin(np.append(records["kind"], 0)))  # zeros are reserved room
            self._read[name] = start + written * RECORD.itemsize
            if written:
                found.append((path, records[:written]))
        return found


@dataclass(frozen=True, eq=False)
class Ledger:
    """For each block of a plan, where its result lies.

    Attributes
    ----------
    plan : Plan
    logs : tuple of Log
        The journals, in fixed order: for each block the first complete one counts.
    state : numpy.ndarray of uint8, shape (B,)
        0, `journal.DONE` or `journal.FAILED`.
    log : numpy.ndarray of int32, shape (B,)
        Which journal counts, for blocks that are done or failed.
    record : numpy.ndarray of journal.RECORD, shape (B,)
        The record that counts.
    """

    plan: Plan
    logs: tuple[Log, ...]
    state: np.ndarray
    log: np.ndarray
    record: np.ndarray

    @classmethod
    def read(cls, plan: Plan) -> Self:
        """Read the journals as they are: what observers and the finished run need."""
        return cls._of(plan, read_logs(plan))

    @classmethod
    def read_trusted(cls, plan: Plan) -> Self:
        """Read the journals, and hold against their checksums what a crash may have eaten.

        Records before the last SYNC of an attempt are trusted, as long as their files are
        there; the data of later ones are read back. Those that differ count as never done.
        """
        logs = list(read_logs(plan))
        for i, log in enumerate(logs):
            done = np.flatnonzero(log.records["kind"] == DONE)
            if not done.size:
                continue
            late = done[done >= log.safe]
            with writers.module_of(plan.writer).ReadBack(plan, log) as stored:
                bad = done[~stored.there(log.records[done])].tolist()
                bad += [k for k in late.tolist() if not stored.intact(log.records[k])]
            bad += _lost_details(log)
            if bad:
                logs[i] = replace(log, records=np.delete(log.records, bad))
        return cls._of(plan, tuple(logs))

    @classmethod
    def _of(cls, plan: Plan, logs: tuple[Log, ...]) -> Self:
        count = len(plan)
        state = np.zeros(count, np.uint8)
        which = np.full(count, -1, np.int32)
        record = np.zeros(count, journal.RECORD)
        # What is written last stays: failures first, then results, the first journal last.
        for kind in (FAILED, DONE):
            for i in reversed(range(len(logs))):
                found = logs[i].records[logs[i].records["kind"] == kind][::-1]
                block = found["block"]
                state[block], which[block], record[block] = kind, i, found
        return cls(plan, logs, state, which, record)

    @property
    def done(self) -> np.ndarray:
        """Whether each block is done, shape (B,)."""
        done: np.ndarray = self.state == DONE
        return done

    def missing(self) -> np.ndarray:
        """The blocks that are not done, failed ones included, in order."""
        return np.flatnonzero(~self.done)

    def failures(self) -> tuple[Failure, ...]:
        """The blocks that failed and were not done since."""
        return tuple(
            Failure(
                block=b,
                trial=int(self.plan.trials.index[self.plan.blocks.trial[b]]),
                traceback=self.logs[self.log[b]].note(self.record[b]).decode(errors="replace"),
            )
            for b in np.flatnonzero(self.state == FAILED).tolist()
        )

    def details(self) -> dict[int, bytes]:
        """The details of blocks that are done, as their attempt noted them."""
        found = {}
        for i, log in enumerate(self.logs):
            for r in log.records[log.records["kind"] == DETAILS]:
                block = int(r["block"])
                if self.state[block] == DONE and self.log[block] == i:
                    found[block] = log.note(r)
        return found
