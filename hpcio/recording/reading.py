"""Reading trials: the recording that one attempt holds open, and reading ahead."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import ExitStack, suppress
from functools import partial
from threading import Lock
from typing import NamedTuple, Self

import numpy as np

from hpcio.errors import SourceError, as_read_error
from hpcio.files import read_at
from hpcio.recording.blocks import InputKind
from hpcio.recording.recording import Recording
from hpcio.recording.selections import take

__all__ = ["LARGE", "ReadAhead", "Reader"]

# Rows of up to so many bytes are read whole, whatever is selected of them: disk and page
# cache work by pages anyway.
WHOLE_ROWS = 16 << 10
# Blocks of so many bytes are worth a second thread; at 1 MB it costs as much as it gains.
LARGE = 4 << 20
# Trials that follow each other are read together, up to so many bytes: of small ones the calls cost
# more than the bytes. They stay in the cache of the processor until they are used.
TOGETHER = 128 << 10
# Bytes of whole rows that are read at a time, before what is selected of them is copied.
ROWS_AT_A_TIME = 1 << 20
# Of several recordings so many are open: trials follow each other recording by recording.
MOST_OPEN = 4


class Reader:
    """A recording that is held open for one attempt, and read trial by trial.

    Of several that are read as one, each is opened when a trial of it is read, and few are open at
    a time.

    Parameters
    ----------
    recording : Recording
    axis : int
        The axis that trials cut.

    Raises
    ------
    SourceError
        If the recording cannot be read, or has changed since the plan was made.
    """

    def __init__(self, recording: Recording, *, axis: int) -> None:
        self._recording, self._axis, self.dtype = recording, axis, recording.dtype
        # The parts that are open, by their first row; the one that was used last comes last.
        self._open: dict[int, _OpenPart] = {}
        self._lock = Lock()
        # The last one again: most trials lie in the part of the one before.
        self._now: _Now | None = None
        self._alone = len(recording.parts) == 1
        if self._alone:
            self._open[0] = _OpenPart(recording.parts[0], axis=axis)
        else:
            recording.check_unchanged()

    def is_large(self, kind: InputKind, base: int) -> bool:
        """Whether trials like the one at `base` are worth reading ahead: large, and plain bytes.

        HDF5 lets only one thread in, so reading by it would hold up the function.
        """
        if math.prod(kind.inshape) * self.dtype.itemsize < LARGE:
            return False
        opened = self._open[0] if self._alone else self._part_of(kind, base).opened
        return opened.is_plain(kind)

    def of_kind(self, kind: InputKind) -> Callable[[int], np.ndarray]:
        """How trials of a kind are read: a function of the row at which a trial begins.

        The caller may change the array that it returns.
        """
        return self._open[0].of_kind(kind) if self._alone else partial(self._of_part, kind)

    def in_rows(self, kind: InputKind) -> Callable[[int, int], np.ndarray] | None:
        """How so many trials of a kind that follow each other are read at once, from a row on.

        Of several recordings, those come that are in one with the first of them. None where they
        are not in one piece.
        """
        if self._alone:
            return self._open[0].in_rows(kind)
        return partial(self._in_rows_of_part, kind) if self._axis == 0 else None

    def _of_part(self, kind: InputKind, base: int) -> np.ndarray:
        now = self._part_of(kind, base)
        read = now.reads.get(id(kind))
        if read is None:
            read = now.reads[id(kind)] = now.opened.of_kind(kind)
        return read(base - now.first)

    def _in_rows_of_part(self, kind: InputKind, base: int, count: int) -> np.ndarray:
        now = self._part_of(kind, base)
        read = now.opened.in_rows(kind)
        if read is None:
            return self._of_part(kind, base)
        here = (now.stop - base - kind.grid[0].start) // kind.inshape[0]
        return read(base - now.first, min(count, here))

    def _part_of(self, kind: InputKind, base: int) -> _Now:
        rows, now = kind.grid[self._axis], self._now
        if now is None or base + rows.start < now.first or base + rows.stop > now.stop:
            now = self._turned_to(kind, base)
        return now

    def _turned_to(self, kind: InputKind, base: int) -> _Now:
        """The part that a trial lies in, open; that which was used the longest ago is closed."""
        rows, region = kind.grid[self._axis], list(kind.grid)
        region[self._axis] = slice(base + rows.start, base + rows.stop, rows.step)
        part, inside = self._recording.at(tuple(region))
        first = base + rows.start - inside[self._axis].start
        # A thread may still read ahead for a batch that was left.
        with self._lock:
            opened = self._open.pop(first, None)
            for other in self._open.values():  # one recording is read at a time
                other.forget()
            if opened is None:
                while len(self._open) >= MOST_OPEN:
                    self._open.pop(next(iter(self._open))).close()
                opened = _OpenPart(part, axis=self._axis)
            self._open[first] = opened
            self._now = _Now(first, first + part.shape[self._axis], opened, {})
            return self._now

    def close(self) -> None:
        """Let go of the recording."""
        with ExitStack() as stack:
            while self._open:
                stack.callback(self._open.popitem()[1].close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Now(NamedTuple):
    """A part that is open, which rows of the whole it has, and how trials of it are read."""

    first: int
    stop: int
    opened: _OpenPart
    reads: dict[int, Callable[[int], np.ndarray]]  # by `id` of their kind, which the plan holds


class _OpenPart:
    """A recording that is open, or one of several, and how trials of it are read.

    Where values lie as plain bytes and trials cut the first axis, rows are read as bytes. One
    `preadv` reads a whole trial, three times as fast as HDF5. If some channels are selected, whole
    rows are read and the channels are picked. The kind of recording reads everything else.
    """

    def __init__(self, recording: Recording, *, axis: int) -> None:
        self._open = recording.open()
        self._axis, self._shape, self._dtype = axis, recording.shape, recording.dtype
        self._scaling = scaling = recording.scaling
        self._stored = self._dtype if scaling is None else np.dtype(scaling.stored)
        self._fd = -1
        # Memory of the last trials, and its shapes.
        self._memory: list[np.ndarray] = []
        self._shapes: list[tuple[int, ...]] = []
        if axis == 0 and self._open.plain is not None:
            path, self._offset = self._open.plain
            self._row = int(np.prod(self._shape[1:], dtype=np.int64)) * self._stored.itemsize
            try:
                self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                self.close()
                raise as_read_error(error, path) from error

    def is_plain(self, kind: InputKind) -> bool:
        """Whether trials of a kind are read as plain bytes."""
        return self.of_kind(kind).func != self._by_kind

    def of_kind(self, kind: InputKind) -> partial[np.ndarray]:
        """How trials of a kind are read, as `Reader.of_kind` has it."""
        if self._fd < 0 or kind.grid[0].step != 1:
            return partial(self._by_kind, kind)
        whole = all(
            (g.start, g.stop, g.step) == (0, n, 1)
            for g, n in zip(kind.grid[1:], self._shape[1:], strict=True)
        )
        if whole and kind.sigrid is None and self._scaling is None:
            return partial(self._in_one_piece, kind)
        if whole or self._row <= WHOLE_ROWS:
            return partial(self._from_rows, kind)
        return partial(self._by_kind, kind)

    def in_rows(self, kind: InputKind) -> Callable[[int, int], np.ndarray] | None:
        """How trials that follow each other are read at once, as `Reader.in_rows` has it."""
        plain = self.of_kind(kind).func == self._in_one_piece
        return partial(self._in_one_piece, kind) if plain else None

    def _in_one_piece(self, kind: InputKind, base: int, count: int = 1) -> np.ndarray:
        rows, *others = kind.inshape
        array = self._empty((count * rows, *others))
        self._fill(array, base + kind.grid[0].start)
        return array.view()  # the function may change its type or flags

    def _from_rows(self, kind: InputKind, base: int) -> np.ndarray:
        """Read whole rows, some at a time, and pick from them: HDF5 picks single values slowly.

        What becomes values of a unit does so while the cache of the processor has it.
        """
        first, last = base + kind.grid[0].start, base + kind.grid[0].stop
        others = kind.grid[1:]
        shape = tuple(len(range(g.start, g.stop, g.step)) for g in others)
        region = self._empty((last - first, *shape))
        step = min(last - first, max(1, ROWS_AT_A_TIME // max(1, self._row)))
        rows = np.empty((step, *self._shape[1:]), self._stored)
        factors = None if self._scaling is None else self._scaling.factors_of(kind.grid)
        for at in range(first, last, step):
            some = rows[: last - at]
            self._fill(some, at)
            picked, into = some[(slice(None), *others)], region[at - first : at - first + len(some)]
            if self._scaling is None or factors is None:
                into[...] = picked
            else:
                self._scaling.apply(picked, factors, out=into)
        return take(region, kind.sigrid).view()

    def _by_kind(self, kind: InputKind, base: int) -> np.ndarray:
        region = list(kind.grid)
        rows = region[self._axis]
        region[self._axis] = slice(base + rows.start, base + rows.stop, rows.step)
        return take(self._open.read(tuple(region)), kind.sigrid)

    def _fill(self, array: np.ndarray, row: int) -> None:
        try:
            whole = read_at(self._fd, array, self._offset + row * self._row)
        except OSError as error:
            raise SourceError(
                error.errno,
                f"Reading row {row} of '{self._open.name}' failed ({error.strerror}). "
                "Check its disk, then resume.",
            ) from error
        if not whole:
            raise SourceError(
                f"'{self._open.name}' ends before row {row + len(array)}. It was cut short "
                "while the run went on: make a new plan."
            )

    def _empty(self, shape: tuple[int, ...]) -> np.ndarray:
        # Fresh memory for a large trial costs as much as reading it. The memory of an earlier
        # trial is used again if nobody else holds it. The list and the argument are then its only
        # two references; a view, or a trial that the function kept, would be a third.
        memory = self._memory  # another thread may forget it meanwhile
        for k, known in enumerate(self._shapes[: len(memory)]):
            if known == shape and sys.getrefcount(memory[k]) == 2:
                return memory[k]
        array = np.empty(shape, self._dtype)
        self._memory = [*self._memory[-1:], array]
        self._shapes = [*self._shapes[-1:], shape]
        return array

    def forget(self) -> None:
        """Let go of the memory of the last trials."""
        self._memory, self._shapes = [], []

    def close(self) -> None:
        """Let go of the recording."""
        fd, self._fd = self._fd, -1
        try:
            self._open.close()
        finally:
            if fd >= 0:
                _close(fd, self._open.name)


def _close(fd: int, path: str) -> None:
    try:
        os.close(fd)
    except OSError as error:
        raise as_read_error(error, path) from error


class ReadAhead:
    """The trials of a batch in order; while one is computed, the next large one is read.

    Small ones that lie one behind the other are read together.

    Parameters
    ----------
    reader : Reader
    kinds : sequence of InputKind
        All kinds of input of the plan.
    kind, base : numpy.ndarray of int, shape (n,)
        Index into `kinds` and first row of each trial.
    pool : concurrent.futures.Executor
        Reads ahead, so that the function does not wait for the disk.
    """

    def __init__(
        self,
        reader: Reader,
        kinds: Sequence[InputKind],
        kind: np.ndarray,
        base: np.ndarray,
        pool: Executor,
    ) -> None:
        # Of each kind the row of a trial, the first: all are likely to be stored alike.
        distinct = {int(kind[k]): int(base[k]) for k in np.unique(kind, return_index=True)[1]}
        self._read = {k: reader.of_kind(kinds[k]) for k in distinct}
        self._large = {k for k, at in distinct.items() if reader.is_large(kinds[k], at)}
        self._kind, self._base, self._pool = kind, base, pool
        self._next: Future[np.ndarray] | None = None
        self._in_rows = {k: reader.in_rows(kinds[k]) for k in distinct}
        most = {
            k: TOGETHER // max(1, math.prod(kinds[k].inshape) * reader.dtype.itemsize)
            for k, read in self._in_rows.items() if read is not None
        }  # fmt: skip
        self._rows_of = {k: kinds[k].inshape[0] for k in distinct}
        self._together = runs_of(kind, base, self._rows_of, most)
        # Trials that were read together: the first of them, the one behind the last, and rows.
        self._first = self._stop = self._rows = 0
        self._some: np.ndarray | None = None

    def take(self, k: int) -> np.ndarray:
        """The trial at position `k`; the caller takes each position once, in order."""
        if k < self._stop:
            at = (k - self._first) * self._rows
            assert self._some is not None
            return self._some[at : at + self._rows]
        # The future is dropped before the trial is used, since it would keep the memory.
        future, self._next = self._next, None
        trial = self._now(k) if future is None else future.result()
        del future
        if self._large and k + 1 < len(self._kind) and int(self._kind[k + 1]) in self._large:
            self._next = self._pool.submit(self._now, k + 1)
        return trial

    def again(self, k: int) -> np.ndarray:
        """Read the trial at position `k` once more, into memory of its own."""
        if self._next is not None:
            wait([self._next])  # two threads must not look for free memory at the same time
        return self._read[int(self._kind[k])](int(self._base[k]))

    def _now(self, k: int) -> np.ndarray:
        kind, base = int(self._kind[k]), int(self._base[k])
        self._some = None  # its memory is used again
        read, count = self._in_rows[kind], int(self._together[k])
        if read is not None and count > 1:
            with suppress(SourceError):  # the first one may be readable, or says what is wrong
                self._some = some = read(base, count)
                self._rows = rows = self._rows_of[kind]
                self._first, self._stop = k, k + len(some) // rows
                return some[:rows]
        return self._read[kind](base)


def runs_of(
    kind: np.ndarray, base: np.ndarray, rows: Mapping[int, int], most: Mapping[int, int]
) -> np.ndarray:
    """How many trials of one kind follow each other without a gap, from each one on: shape (n,).

    Parameters
    ----------
    kind, base : numpy.ndarray of int, shape (n,)
        The kind and the first row of each trial.
    rows, most : mapping of int to int
        Rows of a trial of each kind, and up to how many are counted, else one.

    Examples
    --------
    >>> kind, base = np.array([0, 0, 0, 1]), np.array([0, 5, 10, 15])
    >>> runs_of(kind, base, {0: 5, 1: 9}, {0: 2, 1: 2}).tolist()
    [2, 2, 1, 1]
    """
    of, limit = np.zeros((2, int(kind.max(initial=0)) + 1), np.int64)
    of[[*rows]], limit[[*most]] = [*rows.values()], [*most.values()]
    goes_on = (kind[1:] == kind[:-1]) & (base[1:] - base[:-1] == of[kind[:-1]])
    ends = np.flatnonzero(np.append(~goes_on, [True]))
    here = np.arange(kind.size)
    length = ends[np.searchsorted(ends, here)] - here + 1
    counts: np.ndarray = np.minimum(length, limit[kind]).clip(min=1)
    return counts
