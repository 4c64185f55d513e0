"""Averages: each attempt keeps the sums of its groups of trials; at the end they are added up.

Whatever the writer of a plan is, its average is one small dataset that is written at the end. A sum
lies in a file of the attempt, after a head with its checksum. It is written when the last trial of
its group has been tried; only then its blocks are journalled as done. Of several results of a call,
the sums of a group lie one after the other.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from hpcio.errors import ResultError, as_output_error, as_read_error
from hpcio.files import NewNames, checksum, read_at, write_at, write_under_name
from hpcio.journals import DONE, Journal, JournalRecords, Ledger, StoredReader
from hpcio.layout import (
    Average,
    Functions,
    Output,
    State,
    Target,
    begin,
    combine,
    nbytes_of,
    results_in,
)
from hpcio.planning import Plan, WriterAbilities
from hpcio.writers.backend import Stored, Writer

__all__ = ["SUMS"]

# Before the arrays of a sum: its first block, the trials in it, bytes and checksum of the arrays.
_HEAD = struct.Struct("<qqqQ")


def _grouping(plan: Plan) -> Average:
    assert plan.grouping is not None
    return plan.grouping


def _average(output: Output) -> Average:
    assert output.average is not None
    return output.average


def _sizes_of_sums(plan: Plan) -> np.ndarray:
    """Bytes of the sum of each output, with its head, for each channel block: (outputs, blocks)."""
    return np.asarray(
        [
            [
                _HEAD.size + nbytes_of(_average(output), output.shape_of(block))
                for block in range(_grouping(plan).channel_blocks)
            ]
            for output in plan.averaged
        ]
    )


def _path(plan: Plan, attempt: str) -> Path:
    return plan.rundir.sources / f"{attempt}.sums"


class _SumsWriter:
    """Holds the current group of one attempt, and writes the others; see `hpcio.writers.Writer`."""

    def __init__(self, plan: Plan, attempt: str) -> None:
        self._plan, self._average = plan, _grouping(plan)
        self._functions = plan.load_reduction()
        path = _path(plan, attempt)
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise as_output_error(error, path) from error
        self._names = NewNames()
        self._names.add(path.parent)
        # The sums of one group lie one after the other, by condition and channel block.
        each = _sizes_of_sums(plan).sum(axis=0).tolist()
        self._places = np.cumsum([0, *(each * self._average.conditions)]).tolist()
        self._end = 0
        # Of each channel block, the results that are averaged.
        self._parts = [
            [(output.shape_of(block), output.dtype) for output in plan.averaged]
            for block in range(self._average.channel_blocks)
        ]
        self._at_hand: dict[int, list[State]] = {}
        self._first: dict[int, int] = {}  # the first block of each of these
        self._slot: dict[int, int] = {}
        self._last = np.zeros(0, np.int64)  # last block of each group of the batch
        self.is_flushed = True

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        self._at_hand.clear()
        group = self._average.group_of(blocks)
        self._last = blocks[np.flatnonzero(np.diff(group, append=-1))]
        slots = self._average.slot_of(blocks)
        self._slot = dict(zip(blocks.tolist(), slots.tolist(), strict=True))
        self.is_flushed = True

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        slot = self._slot[block]
        if slot not in self._at_hand:
            self._at_hand[slot] = [
                begin(_average(output), output.shape_of(block), self._functions)
                for output in self._plan.averaged
            ]
            self._first[slot] = self._average.first_of(block)
        results = [data]
        if self._plan.several:
            results = results_in(data, self._parts[block % self._average.channel_blocks])
        for state, result in zip(self._at_hand[slot], results, strict=True):
            state.add(result)
        self.is_flushed = False
        offset = self._end + self._places[slot]
        self._look(block)
        return 0, offset

    def mark_failed(self, block: int) -> None:
        self._look(block)

    def _look(self, block: int) -> None:
        """Write the sums of a group if its last block has been tried."""
        if block != self._last[np.searchsorted(self._last, block)]:
            return
        for slot, states in sorted(self._at_hand.items()):
            packed = b"".join(_packed(state, self._first[slot]) for state in states)
            write_at(self._fd, packed, self._end + self._places[slot])
        self._end += self._places[-1]
        self._at_hand.clear()
        self.is_flushed = True

    def flush(self) -> None:
        """Do nothing: a sum cannot be kept before its group is complete."""

    def prepare_sync(self) -> Callable[[], None]:
        names = self._names.take()

        def sync() -> None:
            os.fsync(self._fd)
            names()

        return sync

    def close(self) -> None:
        os.close(self._fd)


def _packed(state: State, first: int) -> bytes:
    """A sum as it lies in the file, given its first block."""
    data = b"".join(part.tobytes() for part in state.parts())
    return _HEAD.pack(first, state.count, len(data), checksum(data)) + data


class _SumsReader:
    """The sums of one attempt."""

    def __init__(
        self, plan: Plan, records: JournalRecords, functions: Functions | None = None
    ) -> None:
        self._outputs, self._grouping = plan.averaged, _grouping(plan)
        self._functions = functions
        # Where the sum of each output begins, after the first byte of a group's, by channel block.
        sizes = _sizes_of_sums(plan)
        self._inside = (np.cumsum(sizes, axis=0) - sizes).tolist()
        self._known: dict[int, tuple[int, State | None]] = {}
        path = _path(plan, records.attempt)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            self._fd = -1
        except OSError as error:
            raise as_read_error(error, path) from error

    def there(self, records: np.ndarray) -> np.ndarray:
        """Whether the file is there and long enough; `intact` tells whether a sum is whole."""
        if self._fd < 0:
            return np.zeros(records.size, bool)
        found: np.ndarray = records["offset"] < os.fstat(self._fd).st_size
        return found

    def read(self, record: np.void, k: int = 0) -> State | None:
        """The sum of output `k` that a block went into; None if it is not what was written."""
        offset = int(record["offset"])
        known, state = self._known.get(k, (-1, None))
        if known != offset:
            state = self._read(int(record["block"]), offset, k)
            self._known[k] = offset, state
        return state

    def _read(self, block: int, offset: int, k: int) -> State | None:
        offset += self._inside[k][block % self._grouping.channel_blocks]
        head = os.pread(self._fd, _HEAD.size, offset) if self._fd >= 0 else b""
        if len(head) < _HEAD.size:
            return None
        first, count, nbytes, check = _HEAD.unpack(head)
        output = self._outputs[k]
        state = begin(_average(output), output.shape_of(block), self._functions)
        data = np.empty(sum(part.nbytes for part in state.parts()), np.uint8)
        if first != self._grouping.first_of(block) or nbytes != data.nbytes:
            return None
        if not read_at(self._fd, data, offset + _HEAD.size) or checksum(data) != check:
            return None
        state.count = count
        at = 0
        for part in state.parts():
            part.reshape(-1).view(np.uint8)[:] = data[at : at + part.nbytes]
            at += part.nbytes
        return state

    def intact(self, record: np.void) -> bool:
        """Whether the sums that a block went into are what was written."""
        return all(self.read(record, k) is not None for k in range(len(self._outputs)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def _sums(
    ledger: Ledger, k: int, blocks: np.ndarray, functions: Functions | None
) -> Iterator[State]:
    """The sums of output `k` that count, of the blocks of one slot, in the order of groups."""
    plan, average = ledger.plan, _grouping(ledger.plan)
    blocks = blocks[ledger.done[blocks]]
    _, first, count = np.unique(average.sum_of(blocks), return_index=True, return_counts=True)
    with ExitStack() as stack:
        opened: dict[int, _SumsReader] = {}
        for block, members in zip(blocks[first].tolist(), count.tolist(), strict=True):
            log = int(ledger.log[block])
            if log not in opened:
                opened[log] = stack.enter_context(_SumsReader(plan, ledger.logs[log], functions))
            state = opened[log].read(ledger.record_of(block), k)
            if state is None or state.count != members:
                path = _path(plan, ledger.logs[log].attempt)
                raise ResultError(
                    f"The sum of block {block} and others in '{path}' is not what was written. "
                    "Remove that file, then resume: they are computed again."
                )
            yield state


# ---------------------------------------------------------------------- the result


class _Sums:
    """Stores averages, whatever the writer is; see `hpcio.writers.Backend`."""

    abilities = WriterAbilities()

    def check_plan(self, plan: Plan) -> None:
        """Accept every plan."""

    def reserve(self, plan: Plan) -> None:
        """Do nothing: each attempt makes a file of its own."""

    def open_writer(self, plan: Plan, attempt: str) -> Writer:
        return _SumsWriter(plan, attempt)

    def open_reader(self, plan: Plan, records: JournalRecords) -> StoredReader:
        return _SumsReader(plan, records)

    def publish(self, ledger: Ledger, fill: Callable[[h5py.File], None], final: Path) -> None:
        plan = ledger.plan
        write_under_name(
            fill, final, tag=plan.run_id, mode=plan.modes.result, replaces=plan.replaces
        )

    def add_data(self, ledger: Ledger, file: h5py.File, folder: Path) -> Stored:
        """Add up the groups in their order, and store the averages.

        Raises
        ------
        ResultError
            If a sum is not on the disk as it was written.
        """
        plan, functions = ledger.plan, ledger.plan.load_reduction()
        found = {}
        for k, output in enumerate(plan.averaged):
            whole = _made(ledger, k, output, functions)
            _store(ledger, output, whole, file)
            found[output.name] = checksum(whole)
        if plan.several:
            return replace(Stored.blocks_of(ledger), averages=found)
        one = Target.of_one_block(plan.target.shape, plan.target.dtype)
        check = np.asarray([found["data"]], np.uint64)
        return Stored(ledger, one, np.full(1, DONE, np.uint8), check)


def _made(ledger: Ledger, k: int, output: Output, functions: Functions | None) -> np.ndarray:
    """The average that is output `k`, of the trials that are done."""
    target, average = output.target, _average(output)
    whole = np.full(target.shape, target.fill, target.dtype)
    slot = average.slot_of(np.arange(len(ledger.plan)))
    by_slot = np.split(np.argsort(slot, kind="stable"), np.bincount(slot).cumsum()[:-1])
    for blocks in by_slot:
        first = int(blocks[0])
        sums = _sums(ledger, k, blocks, functions)
        whole[target.region(first)] = combine(average, output.shape_of(first), sums, functions)
    return whole


def _store(ledger: Ledger, output: Output, whole: np.ndarray, file: h5py.File) -> None:
    """Make the dataset of an average, which says what it is of."""
    target, average = output.target, _average(output)
    data = file.create_dataset(
        output.name, data=whole, fillvalue=target.dtype.type(target.fill)
    )  # fmt: skip
    done = ledger.done.reshape(-1, average.channel_blocks)
    data.attrs["reduce"] = average.name
    data.attrs["trials"] = int(done.all(axis=1).sum())


SUMS = _Sums()
