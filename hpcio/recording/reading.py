"""Reading trials: the open source of one attempt."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, Future, wait
from functools import partial
from typing import Self

import h5py
import numpy as np

from hpcio.errors import SourceError
from hpcio.files.slab import read_at
from hpcio.function.blocks import read_region, take
from hpcio.planning.plan import Plan
from hpcio.recording.sources import check_parts, find_dataset, open_file
from hpcio.recording.trials import Form

__all__ = ["LARGE", "ReadAhead", "Reader", "plain_offset"]

# Rows of up to so many bytes are read whole, whatever is selected of them: disk and page
# cache deal in pages anyway.
WHOLE_ROWS = 16 << 10
# Blocks of so many bytes are worth a second thread; at 1 MB, handing over costs what it gains.
LARGE = 4 << 20
# Bytes of rows that are held at a time while some of them are picked.
BATCH = 1 << 20


def plain_offset(dataset: h5py.Dataset, path: str) -> int | None:
    """Where the bytes of a dataset begin, if they lie in its file just as numpy holds them."""
    plain = (
        dataset.chunks is None
        and not dataset.is_virtual
        and dataset.external is None
        and os.path.samefile(dataset.file.filename, path)  # no external link
        and dataset.file.driver == "sec2"
        and dataset.file.userblock_size == 0
        and dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype, logical=True)
        and dataset.id.get_storage_size() == dataset.size * dataset.dtype.itemsize
    )
    offset: int | None = dataset.id.get_offset() if plain else None
    return offset


class Reader:
    """The source of a plan, held open for one attempt.

    Of a contiguous dataset that is cut along its first axis, rows are read as plain bytes:
    a whole trial by one `preadv`, three times as fast as through HDF5; of some channels, the
    rows they are in. All else is read by HDF5.

    Parameters
    ----------
    plan : Plan

    Raises
    ------
    SourceError
        If the source cannot be read, or has changed since the plan was made.
    """

    def __init__(self, plan: Plan) -> None:
        source = plan.source
        source.check_unchanged()
        self._file = open_file(source.path)
        self._fd = -1
        try:
            self._dataset = find_dataset(self._file, source.dataset)
            if (self._dataset.shape, self._dataset.dtype) != (source.shape, source.dtype):
                raise SourceError(
                    f"'{source.dataset}' in '{source.path}' is not what the plan was made for. "
                    "Make a new plan (in the shell: --fresh)."
                )
            check_parts(self._dataset)
            self._axis = plan.blocks.axis
            self._dtype = source.dtype
            self._shape = source.shape
            offset = plain_offset(self._dataset, source.path) if self._axis == 0 else None
            if offset is not None:
                self._fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
                self._offset = offset
                self._row = int(np.prod(source.shape[1:], dtype=np.int64)) * self._dtype.itemsize
        except BaseException:
            self.close()
            raise
        self._memory: list[np.ndarray] = []

    def is_large(self, form: Form) -> bool:
        """Whether trials of this form are worth reading ahead: large, and not by HDF5.

        HDF5 lets only one thread in, so that reading by it would hold up the function.
        """
        size = int(np.prod(form.inshape, dtype=np.int64)) * self._dtype.itemsize
        return size >= LARGE and self.of_form(form).func != self._through_hdf5

    def of_form(self, form: Form) -> partial[np.ndarray]:
        """How trials of a form are read: a function of the row at which a trial begins.

        The array that it gives is the caller's to change.
        """
        if self._fd < 0 or form.grid[0].step != 1:
            return partial(self._through_hdf5, form)
        whole = all(
            (g.start, g.stop, g.step) == (0, n, 1)
            for g, n in zip(form.grid[1:], self._shape[1:], strict=True)
        )
        if whole and form.sigrid is None:
            return partial(self._in_one_piece, form)
        if self._row <= WHOLE_ROWS:
            return partial(self._from_rows, form)
        return partial(self._through_hdf5, form)

    def _in_one_piece(self, form: Form, base: int) -> np.ndarray:
        array = self._empty(form.inshape)
        self._fill(array, base + form.grid[0].start)
        return array

    def _from_rows(self, form: Form, base: int) -> np.ndarray:
        """Read whole rows, some at a time, and pick: HDF5 gathers single values slowly."""
        first, last = base + form.grid[0].start, base + form.grid[0].stop
        others = form.grid[1:]
        shape = tuple(len(range(g.start, g.stop, g.step)) for g in others)
        region = np.empty((last - first, *shape), self._dtype)
        step = min(last - first, max(1, BATCH // max(1, self._row)))
        rows = np.empty((step, *self._shape[1:]), self._dtype)
        for at in range(first, last, step):
            some = rows[: last - at]
            self._fill(some, at)
            region[at - first : at - first + len(some)] = some[(slice(None), *others)]
        return take(region, form.sigrid)

    def _through_hdf5(self, form: Form, base: int) -> np.ndarray:
        rows = form.grid[self._axis]
        region = list(form.grid)
        region[self._axis] = slice(base + rows.start, base + rows.stop, rows.step)
        return read_region(self._dataset, tuple(region), form.sigrid, form.inshape)

    def _fill(self, array: np.ndarray, row: int) -> None:
        try:
            whole = read_at(self._fd, array, self._offset + row * self._row)
        except OSError as error:
            raise SourceError(
                error.errno,
                f"Reading row {row} of '{self._file.filename}' failed ({error.strerror}). "
                "Check its disk, then resume.",
            ) from error
        if not whole:
            raise SourceError(
                f"'{self._file.filename}' ends before row {row + len(array)}. It was cut short "
                "while the run went on: make a new plan."
            )

    def _empty(self, shape: tuple[int, ...]) -> np.ndarray:
        # Fresh memory for a large trial costs as much as reading it. Memory of an earlier
        # trial serves again if nobody else holds it: the list and the argument are the only
        # two references then (a view, or a trial that the function kept, would be a third).
        for k in range(len(self._memory)):
            if self._memory[k].shape == shape and sys.getrefcount(self._memory[k]) == 2:
                return self._memory[k]
        array = np.empty(shape, self._dtype)
        self._memory = [*self._memory[-1:], array]
        return array

    def close(self) -> None:
        """Let go of the source."""
        self._file.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ReadAhead:
    """The trials of a chunk in their order, the next large one read while one is at work.

    Parameters
    ----------
    reader : Reader
    forms : sequence of Form
        All forms of the plan.
    todo : sequence of (int, int)
        Form and first row of each trial.
    pool : concurrent.futures.Executor
        Where to read ahead: it hides the time of a disk behind that of the function.
    """

    def __init__(
        self, reader: Reader, forms: Sequence[Form], todo: Sequence[tuple[int, int]], pool: Executor
    ) -> None:
        distinct = {form for form, _ in todo}
        self._read = {form: reader.of_form(forms[form]) for form in distinct}
        self._large = {form for form in distinct if reader.is_large(forms[form])}
        self._todo, self._pool = todo, pool
        self._next: Future[np.ndarray] | None = None

    def take(self, k: int) -> np.ndarray:
        """The trial at position `k`; positions are taken once each, in order."""
        # The future goes out of hand before the trial is used: it would keep its memory.
        future, self._next = self._next, None
        trial = self._now(k) if future is None else future.result()
        del future
        if self._large and k + 1 < len(self._todo) and self._todo[k + 1][0] in self._large:
            self._next = self._pool.submit(self._now, k + 1)
        return trial

    def again(self, k: int) -> np.ndarray:
        """The trial at position `k` once more, in memory of its own."""
        if self._next is not None:
            wait([self._next])  # two threads must not look for free memory at the same time
        return self._now(k)

    def _now(self, k: int) -> np.ndarray:
        form, base = self._todo[k]
        return self._read[form](base)
