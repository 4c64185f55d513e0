"""Spans: bytes of one file that are gathered, and written some at a time, while work goes on.

On a file system with servers a write that must reach one takes a journey; several are on their way
together. A span ends where a multiple of its size ends in the file, so that it begins and ends with
the stripes of servers. Only whole pages of it are written: parts of pages at its ends are seams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from hpcio.files import write_at
from hpcio.onefile.preallocated import PAGE

__all__ = ["SPAN", "Spans", "SpansOnTheirWay"]

# Size of a span, in bytes.
SPAN = 4 << 20
# So many spans are on their way at a time.
_AT_A_TIME = 4

Buffer = np.ndarray


class SpansOnTheirWay:
    """Spans that threads write into a file, and the memory that they lie in meanwhile.

    Parameters
    ----------
    fd : int
        The file. It must stay open until `close`.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pool = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="hpcio")
        self._going: deque[tuple[Future[None], Buffer]] = deque()
        self._free: list[Buffer] = []

    def buffer(self) -> Buffer:
        """Memory for another span; if too many are on their way, once one has arrived.

        Raises
        ------
        OSError
            If one could not be written.
        """
        while self._going and (len(self._going) >= _AT_A_TIME or self._going[0][0].done()):
            self._await_first()
        return self._free.pop() if self._free else np.empty(SPAN, np.uint8)

    def send(self, buffer: Buffer, first: int, last: int, offset: int) -> None:
        """Write bytes `first` to `last` of a buffer at a place in the file; then it is free."""
        future = self._pool.submit(write_at, self._fd, buffer[first:last], offset)
        self._going.append((future, buffer))

    def give_back(self, buffer: Buffer) -> None:
        """Let another span have memory of which nothing is written."""
        self._free.append(buffer)

    def _await_first(self) -> None:
        future, buffer = self._going[0]
        future.result()  # one that could not be written stays: it has never arrived
        self._going.popleft()
        self._free.append(buffer)

    def wait(self) -> None:
        """Wait until all have arrived.

        Raises
        ------
        OSError
            If one could not be written.
        """
        while self._going:
            self._await_first()

    @property
    def have_arrived(self) -> bool:
        """Whether none is on its way."""
        return not self._going

    def close(self) -> None:
        """Wait for those that are on their way, whatever becomes of them."""
        self._pool.shutdown(cancel_futures=True)


class Spans:
    """The span of one output that is being gathered.

    Parameters
    ----------
    going : SpansOnTheirWay
    seam : callable
        Keeps part of a page: given its place in the file and its bytes.
    """

    def __init__(self, going: SpansOnTheirWay, seam: Callable[[int, memoryview], None]) -> None:
        self._going, self._seam = going, seam
        self._buffer: Buffer | None = None
        self._start = self._size = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is gathered."""
        return self._buffer is None

    def gather(self, data: np.ndarray, offset: int) -> None:
        """Take the bytes of an array, which belong at a place in the file.

        Raises
        ------
        OSError
            If an earlier span, or a seam, could not be written.
        """
        raw = data.reshape(-1).view(np.uint8)
        at = 0
        while at < raw.size:
            if self._buffer is not None and offset != self._start + self._size:
                self.send()
            if self._buffer is None:
                self._buffer, self._start, self._size = self._going.buffer(), offset, 0
            size = min(raw.size - at, SPAN - self._start % SPAN - self._size)
            self._buffer[self._size : self._size + size] = raw[at : at + size]
            self._size, at, offset = self._size + size, at + size, offset + size
            if offset % SPAN == 0:
                self.send()

    def send(self) -> None:
        """Send off what was gathered: whole pages into the file, the rest into the seams."""
        if self._buffer is None:
            return
        buffer, start, stop = self._buffer, self._start, self._start + self._size
        first, last = -(-start // PAGE) * PAGE, stop // PAGE * PAGE
        held = buffer.data[: self._size]
        if first >= last:  # no whole page
            self._seam(start, held)
            self._going.give_back(buffer)
        else:
            if start < first:
                self._seam(start, held[: first - start])
            if last < stop:
                self._seam(last, held[last - start :])
            self._going.send(buffer, first - start, last - start, first)
        self._buffer = None  # after an error it is never empty again
