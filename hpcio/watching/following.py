"""The state of a run, shown again and again until it is finished."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from hpcio.planning import Plan
from hpcio.watching.state import Queue, Status, working
from hpcio.watching.tables import (
    MOST_ROWS,
    blocks_words,
    console_for,
    run_table,
    speed_words,
    workers_table,
)
from hpcio.watching.watcher import Watcher, queues
from hpcio.words import say

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["follow_status"]

# How often the journals are looked at, in seconds, and a queue is asked: at first, in the end.
_WATCH_EVERY = 2.0
_ASK_FIRST, _ASK_LAST = 2.0, 30.0
# How often a log gets a line.
_LINE_EVERY = 10.0


class _Asked:
    """Asks queues in a thread, more and more rarely, since SLURM may take long to answer."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._pool = plan, ThreadPoolExecutor(1, thread_name_prefix="hpcio-queue")
        self._delay, self._due = _ASK_FIRST, 0.0
        self._future: Future[dict[str, Queue]] | None = None
        self.answer: dict[str, Queue] | None = None

    def look(self) -> dict[str, Queue]:
        """The last answer, and a new question if it is time."""
        if self._future is not None and self._future.done():
            self.answer, self._future = self._future.result(), None
            self._due = time.monotonic() + self._delay
            self._delay = min(1.5 * self._delay, _ASK_LAST)
        if self._future is None and time.monotonic() >= self._due:
            self._future = self._pool.submit(queues, self._plan)
        return self.answer or {}

    def wait(self, seconds: float) -> None:
        """Until an answer comes, or the time is over."""
        if self._future is None:
            time.sleep(seconds)
        else:
            wait([self._future], timeout=seconds)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def follow_status(plan: Plan) -> None:
    """Show the state of a run until its result is there, or nobody is at work on it any more.

    Parameters
    ----------
    plan : Plan
    """
    console, watcher, asked = console_for(), Watcher(plan), _Asked(plan)
    try:
        # It also ends when the run directory is thrown away, or the result made one file.
        with contextlib.suppress(FileNotFoundError):
            show = _live if console.is_terminal else _log
            show(console, _states(watcher, asked))
    finally:
        asked.close()


def _states(watcher: Watcher, asked: _Asked) -> Iterator[tuple[Status, dict[str, Queue]]]:
    """The state again and again, until the run is finished."""
    while True:
        queues, state = asked.look(), watcher.look()
        yield state, queues
        if state.published:
            return
        if asked.answer is not None and working(state, queues.values()) is False:
            return
        asked.wait(_WATCH_EVERY)


def _live(console: Console, states: Iterator[tuple[Status, dict[str, Queue]]]) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar

    with Live(console=console, auto_refresh=False) as live:
        for state, asked in states:
            bar = ProgressBar(total=state.blocks, completed=state.done + state.failed)
            header = Group(run_table(state, asked), Padding(bar, (1, 0)))
            height = len(console.render_lines(header))
            most = max(3, min(MOST_ROWS, console.height - height - 4))
            with _to_its_end():
                live.update(Group(header, workers_table(state, asked, most=most)), refresh=True)
        live.transient = True  # all of it is printed once more


@contextlib.contextmanager
def _to_its_end() -> Iterator[None]:
    """Ctrl-C counts when a frame is drawn: what clears it has to know how much was drawn."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal interrupts it here
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        signal.raise_signal(signal.SIGINT)


def _log(console: Console, states: Iterator[tuple[Status, dict[str, Queue]]]) -> None:
    printed = -_LINE_EVERY
    for state, asked in states:
        now = time.monotonic()
        if now - printed >= _LINE_EVERY:
            printed = now
            speed = speed_words(state, at_work=working(state, asked.values()))
            parts = [blocks_words(state), speed, *(queue.line for queue in asked.values())]
            say(f"hpcio: {', '.join(filter(None, parts))}")
