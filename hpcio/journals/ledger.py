"""What all journals of a run say together: which attempt counts for each block."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from hpcio.errors import DAMAGE, Failure, as_read_error
from hpcio.files import mark_of, open_file, read_table, reading
from hpcio.journals import journal
from hpcio.journals.journal import (
    DETAILS,
    DONE,
    FAILED,
    HELD,
    RECORD,
    VOID,
    Journal,
    JournalRecords,
    read_log,
)
from hpcio.layout import Average
from hpcio.machine import only_files, user_name
from hpcio.planning import Plan

__all__ = [
    "Follower",
    "Ledger",
    "StoredReader",
    "Tried",
    "attempt_name",
    "open_journal",
    "published_state",
    "read_logs",
    "that_counts",
    "tried_by",
    "tried_since",
]


# So many records of a million are copied at a time.
_AT_A_TIME = 1 << 16
# Kinds of records that are of a block.
_OF_BLOCKS = (DONE, FAILED, DETAILS, HELD, VOID)


def _one_for_each_sum(
    average: Average, logs: tuple[JournalRecords, ...]
) -> tuple[JournalRecords, ...]:
    """The journals without the blocks of sums that do not count.

    If a group has several sums, the one with most of its blocks counts; of equal ones, the first.
    """
    done = [np.flatnonzero(log.records["kind"] == DONE) for log in logs]
    which = np.repeat(np.arange(len(logs)), [d.size for d in done])
    records = np.concatenate(
        [np.zeros(0, RECORD), *(log.records[d] for log, d in zip(logs, done, strict=True))]
    )
    number = average.sum_of(records["block"])
    keys = np.stack([number, which, records["offset"]])
    order = np.lexsort(keys[::-1])
    keys = keys[:, order]
    first = np.flatnonzero((np.diff(keys, prepend=-1) != 0).any(axis=0))
    sums, count = keys[0, first], np.diff(first, append=order.size)
    ranked = np.lexsort((np.arange(count.size), -count, sums))
    best = ranked[np.unique(sums[ranked], return_index=True)[1]]
    dropped = np.ones(order.size, bool)
    dropped[order] = ~np.isin(np.repeat(np.arange(count.size), count), best)
    return tuple(
        replace(log, records=np.delete(log.records, d[dropped[which == i]]))
        for i, (log, d) in enumerate(zip(logs, done, strict=True))
    )


def attempt_name(label: str) -> str:
    """A name that no other attempt has."""
    return f"{label}-{secrets.token_hex(4)}"


def open_journal(
    plan: Plan, name: str, label: str, *, versions: Mapping[str, str] | None = None
) -> Journal:
    """The journal of a new attempt of this process.

    Parameters
    ----------
    plan : Plan
    name, label : str
        Of the attempt.
    versions : mapping of str to str, optional
        Those that it computes with (see `versions_here`), if it computes.
    """
    return Journal(
        plan.rundir.journals, name, plan.digest,
        {"label": label, "run_id": plan.run_id, "host": socket.gethostname()[:64],
         "pid": os.getpid(), "user": user_name()[:64], "start": time.time()},
        versions=versions, mode=plan.modes.record,
    )  # fmt: skip


def read_logs(plan: Plan) -> tuple[JournalRecords, ...]:
    """All journals of a run; their order decides between two attempts at a block."""
    folder = plan.rundir.journals
    try:
        # `glob` would show nothing where a folder cannot be read, and all would seem to be lost.
        paths = sorted(folder / name for name in os.listdir(folder) if name.endswith(".jnl"))
    except FileNotFoundError:
        paths = []
    except OSError as error:
        raise as_read_error(error, folder) from error
    logs = [log for log in (read_log(path, *plan.digests) for path in paths) if log is not None]
    logs = [that_counts(_of_plan(log, plan), plan) for log in logs]
    void = {
        (log.note(r).decode(errors="replace"), int(r["block"]))
        for log in logs
        for r in log.records[log.records["kind"] == VOID]
    }
    # They stay gaps, though a process that was given up may have journalled such a block since.
    state = published_state(plan)
    gaps = [] if state is None else np.flatnonzero(state != DONE).tolist()
    return tuple(
        _without(log, gaps + [block for attempt, block in void if attempt == log.attempt])
        for log in logs
    )


def published_state(plan: Plan) -> np.ndarray | None:
    """For each block whether it is DONE in the result that the run has published, shape (B,).

    None if it has published nothing, or that cannot be read.
    """
    mark = mark_of(plan.out)
    if mark is None or mark.plan != plan.digest or mark.run_id == plan.replaces:
        return None
    try:
        with open_file(plan.out) as f:
            state: np.ndarray = read_table(f["hpcio/state"])
    except DAMAGE:  # whoever opens the result says what is wrong with it
        return None
    return state if state.shape == (len(plan),) else None


def _of_plan(log: JournalRecords, plan: Plan) -> JournalRecords:
    """A journal up to the first record of a block that the plan does not have."""
    beyond = log.records["block"] >= len(plan)
    of_none = (log.records["block"] < 0) & np.isin(log.records["kind"], _OF_BLOCKS)
    good = int(np.argmax(np.append(beyond | of_none, [True])))
    if good == log.records.size:
        return log
    return replace(log, records=log.records[:good], safe=min(log.safe, good))


def that_counts(log: JournalRecords, plan: Plan) -> JournalRecords:
    """What counts of a journal: of a former plan, that is of the blocks which are kept of it."""
    if log.plan == plan.digest:
        return log
    records = log.records
    of_block = np.isin(records["kind"], (DONE, FAILED, DETAILS, HELD))
    which = plan.kept[np.where(of_block, records["block"], 0)]
    return _only(log, ~of_block | (which == plan.digests.index(log.plan)))


def _without(log: JournalRecords, blocks: list[int]) -> JournalRecords:
    """A journal without its results of some blocks."""
    if not blocks:
        return log
    records = log.records
    return _only(log, (records["kind"] != DONE) | ~np.isin(records["block"], blocks))


def _only(log: JournalRecords, kept: np.ndarray) -> JournalRecords:
    """A journal without some of its records."""
    # `safe` counts records before the last SYNC, so it shrinks with those that are dropped.
    return replace(log, records=log.records[kept], safe=int(kept[: log.safe].sum()))


def _lost_details(log: JournalRecords) -> list[int]:
    """Positions of the DONE records of blocks whose details are damaged or gone."""
    kind, block = log.records["kind"], log.records["block"]
    noted = np.flatnonzero(kind == DETAILS).tolist()
    lost = [int(block[k]) for k in noted if not log.note(log.records[k])]
    found: list[int] = np.flatnonzero((kind == DONE) & np.isin(block, lost)).tolist()
    return found


@dataclass(frozen=True, eq=False)
class Tried:
    """The blocks that some attempts have tried.

    Attributes
    ----------
    blocks : numpy.ndarray of int64
        Blocks that are done or failed.
    computed : numpy.ndarray of int64
        These, and blocks whose results are held back. Those are lost if the process died.
    failed : numpy.ndarray of int64
        Blocks that have failed.
    """

    blocks: np.ndarray
    computed: np.ndarray
    failed: np.ndarray

    @classmethod
    def of(cls, logs: Iterable[JournalRecords]) -> Self:
        """What the journals say."""
        records = np.concatenate([np.zeros(0, RECORD), *(log.records for log in logs)])
        kind, block = records["kind"], records["block"]
        ended = np.isin(kind, (DONE, FAILED))
        return cls(block[ended], block[ended | (kind == HELD)], block[kind == FAILED])

    def left_of(self, blocks: np.ndarray) -> tuple[np.ndarray, int]:
        """What is left of blocks that are computed in order, and the position of the running one.

        If no block was running, the position equals ``len(left)``.
        """
        left = blocks[~np.isin(blocks, self.blocks)]
        begun = np.flatnonzero(~np.isin(left, self.computed))
        return left, int(begun[0]) if begun.size else left.size


def tried_since(plan: Plan, known: Collection[Path]) -> Tried:
    """What the journals say, except those `known`."""
    return Tried.of(log for log in read_logs(plan) if log.path not in known)


def tried_by(plan: Plan, attempt: str) -> Tried:
    """What the journal of one attempt says."""
    log = read_log(plan.rundir.journals / f"{attempt}.jnl", *plan.digests)
    return Tried.of([log] if log is not None else [])


class Follower:
    """Reads the journals of a run again and again, and each time only what is new.

    Checksums of records are not checked; that is enough to watch a run at work.

    Parameters
    ----------
    plan : Plan
    known : mapping of str to int, optional
        By file name, how many records of a journal are passed over.

    Attributes
    ----------
    seen : dict of str to int
        By file name, how many records a journal had at the last look.
    """

    def __init__(self, plan: Plan, *, known: Mapping[str, int] | None = None) -> None:
        self._folder = plan.rundir.journals
        self.seen = dict(known or {})

    def paths(self) -> list[Path]:
        """The journals that are there, in order.

        Raises
        ------
        FileNotFoundError
            If the run directory is gone.
        """
        # Not by `glob`, which shows nothing where a folder cannot be read.
        names = sorted(n for n in os.listdir(self._folder) if n.endswith(".jnl"))
        return [self._folder / name for name in names]

    def look(self, paths: Iterable[Path] | None = None) -> list[tuple[Path, np.ndarray]]:
        """For each journal, the records that are new since the last look, shape (n,).

        Of all that are there, or of those at some paths. Journals are opened anew each time: only
        then do network file systems show what other nodes have written.
        """
        found = []
        for path in self.paths() if paths is None else paths:
            seen = self.seen.get(path.name, 0)
            try:
                with open(path, "rb", opener=only_files) as f:
                    f.seek(journal.HEADER + seen * RECORD.itemsize)
                    raw = f.read()
            except FileNotFoundError:  # the run is being removed
                continue
            records = np.frombuffer(raw[: len(raw) // RECORD.itemsize * RECORD.itemsize], RECORD)
            written = int(np.argmin(np.append(records["kind"], 0)))  # zeros are reserved room
            self.seen[path.name] = seen + written
            if written:
                found.append((path, records[:written]))
        return found


class StoredReader(Protocol):
    """Reads back what one attempt has stored."""

    def there(self, records: np.ndarray) -> np.ndarray:
        """Whether the files of some blocks are there, are ours, and have their full length."""

    def intact(self, record: np.void) -> bool:
        """Whether the bytes of one block are those that were journalled."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True, eq=False)
class Ledger:
    """For each block of a plan, where its result lies.

    Attributes
    ----------
    plan : Plan
    logs : tuple of JournalRecords
        The journals, in fixed order: for each block the first complete one counts.
    state : numpy.ndarray of uint8, shape (B,)
        0, `journal.DONE` or `journal.FAILED`.
    log : numpy.ndarray of int32, shape (B,)
        Which journal counts, for blocks that are done or failed.
    row : numpy.ndarray of int32, shape (B,)
        Which of its records counts; see `records_of`.
    """

    plan: Plan
    logs: tuple[JournalRecords, ...]
    state: np.ndarray
    log: np.ndarray
    row: np.ndarray

    @classmethod
    def read(cls, plan: Plan) -> Self:
        """Read the journals as they are; observers and the finished run need no more."""
        return cls._of(plan, read_logs(plan))

    @classmethod
    def read_trusted(
        cls, plan: Plan, open_reader: Callable[[Plan, JournalRecords], StoredReader]
    ) -> Self:
        """Read the journals, and check the results that a crash may have damaged.

        Records before the last SYNC of an attempt are trusted if their files are there. The data
        of later ones are read back. Blocks whose checksum differs count as never done.

        Parameters
        ----------
        plan : Plan
        open_reader : callable
            Opens what reads back the results of one attempt, for the plan's writer.
        """
        logs = list(read_logs(plan))
        for i, log in enumerate(logs):
            done = np.flatnonzero(log.records["kind"] == DONE)
            if not done.size:
                continue
            late = done[done >= log.safe]
            with reading(plan.rundir.sources), open_reader(plan, log) as stored:
                some = np.array_split(done, 1 + done.size // _AT_A_TIME)
                bad = [k for part in some
                       for k in part[~stored.there(log.records[part])].tolist()]  # fmt: skip
                bad += [k for k in late.tolist() if not stored.intact(log.records[k])]
            bad += _lost_details(log)
            if bad:
                logs[i] = replace(log, records=np.delete(log.records, bad))
        return cls._of(plan, tuple(logs))

    @classmethod
    def _of(cls, plan: Plan, logs: tuple[JournalRecords, ...]) -> Self:
        if plan.grouping is not None:
            logs = _one_for_each_sum(plan.grouping, logs)
        count = len(plan)
        state = np.zeros(count, np.uint8)
        which = np.full(count, -1, np.int32)
        row = np.full(count, -1, np.int32)
        # The last assignment counts. Of failures, that is the latest one.
        failed = [np.flatnonzero(log.records["kind"] == FAILED) for log in logs]
        times = [log.records["end"][k] for log, k in zip(logs, failed, strict=True)]
        for i in sorted(
            (i for i in range(len(logs)) if failed[i].size), key=lambda i: times[i][-1]
        ):
            block = logs[i].records["block"][failed[i]]
            state[block], which[block], row[block] = FAILED, i, failed[i]
        # Then results, the first journal last.
        for i in reversed(range(len(logs))):
            found = np.flatnonzero(logs[i].records["kind"] == DONE)[::-1]
            block = logs[i].records["block"][found]
            state[block], which[block], row[block] = DONE, i, found
        return cls(plan, logs, state, which, row)

    @property
    def done(self) -> np.ndarray:
        """Whether each block is done, shape (B,)."""
        done: np.ndarray = self.state == DONE
        return done

    def records_of(self, blocks: np.ndarray) -> np.ndarray:
        """The records that count of some blocks that are done or failed, RECORD, shape (n,)."""
        found = np.zeros(blocks.size, RECORD)
        for i, of in self._by_log(blocks):
            found[of] = self.logs[i].records[self.row[blocks[of]]]
        return found

    def values_of(self, name: str, blocks: np.ndarray) -> np.ndarray:
        """What these records say under one name, shape (n,): of a million, all are much memory."""
        found = np.zeros(blocks.size, RECORD[name])
        for i, of in self._by_log(blocks):
            found[of] = self.logs[i].records[name][self.row[blocks[of]]]
        return found

    def record_of(self, block: int) -> np.void:
        """The record that counts of a block that is done or failed."""
        record: np.void = self.logs[self.log[block]].records[self.row[block]]
        return record

    def _by_log(self, blocks: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Each journal that counts for some blocks, and which of them those are."""
        log = self.log[blocks]
        for i in range(len(self.logs)):
            of = np.flatnonzero(log == i)
            if of.size:
                yield i, of

    def with_what_is_there(self, differ: np.ndarray, found: np.ndarray) -> tuple[Self, np.ndarray]:
        """For blocks that differ, let the attempt count whose result is there.

        Parameters
        ----------
        differ : numpy.ndarray of int
            Blocks whose bytes are not those of the record that counts.
        found : numpy.ndarray of uint64, shape (B,)
            Checksums of what is there.

        Returns
        -------
        Ledger
        numpy.ndarray of int
            The blocks whose bytes match no record.
        """
        log, row = self.log.copy(), self.row.copy()
        nobodys = np.ones(len(self.plan), bool)
        for i in reversed(range(len(self.logs))):
            records = self.logs[i].records
            there = np.flatnonzero((records["kind"] == DONE) & np.isin(records["block"], differ))
            there = there[records["checksum"][there] == found[records["block"][there]]]
            block = records["block"][there]
            log[block], row[block], nobodys[block] = i, there, False
        return replace(self, log=log, row=row), differ[nobodys[differ]]

    def void(self, blocks: np.ndarray) -> None:
        """Record that results are not there, whatever journals say: the blocks are not done."""
        with closing(open_journal(self.plan, attempt_name("void"), "void")) as journal:
            for i, log in enumerate(self.logs):
                records = log.records
                claimed = records["block"][records["kind"] == DONE]
                for block in claimed[np.isin(claimed, blocks)].tolist():
                    journal.note(VOID, block, self.logs[i].attempt.encode())
            journal.sync_notes()
            journal.sync()

    def missing(self) -> np.ndarray:
        """The blocks that must be computed, in order.

        These are blocks that are not done, including failed ones, and all others of their groups.
        """
        groups = self.plan.group_of(np.arange(len(self.plan)))
        return np.flatnonzero(np.isin(groups, groups[~self.done]))

    def failures(self) -> tuple[Failure, ...]:
        """The blocks that failed and were not done since."""
        return tuple(
            Failure(
                block=b,
                trial=int(self.plan.trials.index[self.plan.blocks.trial[b]]),
                traceback=self.logs[self.log[b]].note(self.record_of(b)).decode(errors="replace"),
                counted=self.plan.counted,
                cause=self.logs[self.log[b]].cause(self.record_of(b)),
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
