"""Averages beside results of trials, where a call has several results and some are averaged.

The results of trials go to the writer of the plan, the others into sums. The record of a block in
the journal has the checksum and the file of what is kept of it, and the offset of its sums.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

import h5py
import numpy as np

from hpcio.journals import Journal, JournalRecords, Ledger, StoredReader
from hpcio.planning import Plan
from hpcio.writers.backend import Backend, Stored, Writer
from hpcio.writers.sums import SUMS

__all__ = ["Beside"]


class _Writer:
    """Stores what is kept of each record, and adds up the rest; see `hpcio.writers.Writer`."""

    def __init__(self, plan: Plan, attempt: str, base: Backend) -> None:
        self._target = plan.target
        with ExitStack() as undo:
            self._base = base.open_writer(plan.without_averages(), attempt)
            undo.callback(self._base.close)
            self._sums = SUMS.open_writer(plan, attempt)
            undo.callback(self._sums.close)
            self._open = undo.pop_all()

    def begin(self, blocks: np.ndarray, journal: Journal) -> None:
        self._base.begin(blocks, journal)
        self._sums.begin(blocks, journal)

    def write(self, block: int, data: np.ndarray) -> tuple[int, int]:
        (kept,) = self._target.shape_of(block)
        file, _ = self._base.write(block, data[:kept])
        _, offset = self._sums.write(block, data[kept:])
        self._end_of_group()
        return file, offset

    def mark_failed(self, block: int) -> None:
        self._base.mark_failed(block)
        self._sums.mark_failed(block)
        self._end_of_group()

    def _end_of_group(self) -> None:
        # Only then a sum is written: what is held back for longer would wait for the next group.
        if self._sums.is_flushed:
            self._base.flush()

    @property
    def is_flushed(self) -> bool:
        """Whether all results so far outlive this process, also in the sums."""
        return self._sums.is_flushed and self._base.is_flushed

    def flush(self) -> None:
        self._base.flush()

    def prepare_sync(self) -> Callable[[], None]:
        both = self._base.prepare_sync(), self._sums.prepare_sync()

        def sync() -> None:
            for each in both:
                each()

        return sync

    def close(self) -> None:
        self._open.close()


class _Reader:
    """Looks for both, what is kept of a block and its sums; see `hpcio.journals.StoredReader`."""

    def __init__(self, plan: Plan, records: JournalRecords, base: Backend) -> None:
        with ExitStack() as undo:
            self._each = [
                undo.enter_context(base.open_reader(plan.without_averages(), records)),
                undo.enter_context(SUMS.open_reader(plan, records)),
            ]
            self._open = undo.pop_all()

    def there(self, records: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.all([each.there(records) for each in self._each], axis=0)
        return found

    def intact(self, record: np.void) -> bool:
        return all(each.intact(record) for each in self._each)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


class Beside:
    """Stores averages beside what another way stores; see `hpcio.writers.Backend`."""

    def __init__(self, base: Backend) -> None:
        self._base, self.abilities = base, base.abilities

    def check_plan(self, plan: Plan) -> None:
        self._base.check_plan(plan.without_averages())

    def reserve(self, plan: Plan) -> None:
        self._base.reserve(plan.without_averages())

    def open_writer(self, plan: Plan, attempt: str) -> Writer:
        return _Writer(plan, attempt, self._base)

    def open_reader(self, plan: Plan, records: JournalRecords) -> StoredReader:
        return _Reader(plan, records, self._base)

    def publish(self, ledger: Ledger, fill: Callable[[h5py.File], None], final: Path) -> None:
        self._base.publish(_of_trials(ledger), fill, final)

    def add_data(self, ledger: Ledger, file: h5py.File, folder: Path) -> Stored:
        """Make the datasets of trials, then those of averages of what is there of these.

        Raises
        ------
        ResultError
            If a result or a sum is not on the disk as it was written.
        """
        stored = self._base.add_data(_of_trials(ledger), file, folder)
        ledger = replace(stored.ledger, plan=ledger.plan)
        averages = SUMS.add_data(ledger, file, folder).averages
        return replace(stored, ledger=ledger, averages=averages)


def _of_trials(ledger: Ledger) -> Ledger:
    return replace(ledger, plan=ledger.plan.without_averages())
