"""What the journals say while a run goes on, shown; and its state, at any time."""

from __future__ import annotations

import contextlib
import os
import shlex
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcio.planning.plan import Plan
from hpcio.watching.status import Queue, Status, Watcher, WorkerStatus, queues, working
from hpcio.words import column, count, duration, natural, number

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["follow_status", "print_status", "watch"]

# How often the journals are looked at, in seconds, and how often a log gets a line.
_LOOK_EVERY = 0.5
_LINE_EVERY = 10.0
# Who watches from outside looks so often, and asks a queue more and more rarely.
_WATCH_EVERY = 2.0
_ASK_FIRST, _ASK_LAST = 2.0, 30.0
# A worker is idle after so many seconds without a record, or so many blocks of its usual length.
_IDLE, _IDLE_BLOCKS = 60.0, 10
# A worker is slow if it is below this share of the others' speed; sooner nothing is known.
_SLOW, _SLOW_AFTER = 0.5, 10.0
# Rows of a table of workers, and failures in a list, unless all are asked for.
_MOST_ROWS, _MOST_FAILURES = 20, 20
# What a queue says of tasks that are as they should be.
_GOOD = ("", "running", "pending", "completed")


@contextmanager
def watch(plan: Plan, *, about: str = "", force: bool = False) -> Iterator[None]:
    """Show the progress of a run while the body is at work.

    A bar on a terminal and in a notebook; plain lines in a log file that something else
    shows. Nothing if the error output is neither, unless forced. It only reads the journals,
    and so looks the same for every executor.

    Parameters
    ----------
    plan : Plan
    about : str
        What its executor has to say; a line of its own.
    force : bool
        Show it wherever the error output goes.
    """
    notebook = _in_notebook()
    if not (force or notebook or sys.stderr.isatty() or _is_log()):
        yield
        return
    if about:
        print(f"hpcio: {about}", file=sys.stderr, flush=True)
    watcher, ended = Watcher(plan), threading.Event()
    show = _cell if notebook else _bar if sys.stderr.isatty() else _lines
    thread = threading.Thread(
        target=show, args=(_looks(watcher, ended),), name="hpcio-progress", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_log() -> bool:
    """Whether the error output goes to a file: someone will read it later."""
    try:
        return Path(f"/proc/self/fd/{sys.stderr.fileno()}").resolve().is_file()
    except (OSError, ValueError):
        return False


def _in_notebook() -> bool:
    """Whether this is the kernel of a notebook, whose output is no terminal and no file."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return type(shell).__name__ == "ZMQInteractiveShell"


def _looks(watcher: Watcher, ended: threading.Event) -> Iterator[Status]:
    """The state again and again, and once more after the end."""
    last = False
    while not last:
        last = ended.wait(_LOOK_EVERY)
        with contextlib.suppress(FileNotFoundError):  # a run directory that was thrown away
            yield watcher.look()


def _bar(states: Iterator[Status]) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("hpcio"),
        BarColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[failures]}", style="red"),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("", total=None, failures="")
        for state in states:
            failures = f"{state.failed:,} failed" if state.failed else ""
            bar.update(
                task, total=state.blocks, completed=state.done, failures=failures,
                description=_progress(state),
            )  # fmt: skip


_CELL = """\
<progress style="width: 20em; vertical-align: middle" value="{done}" max="{total}"></progress>
<span style="font-family: monospace">{text}</span>"""


def _cell(states: Iterator[Status]) -> None:
    from IPython import display as ipython

    shown = None
    for state in states:
        text = _line(state)
        page: Any = ipython.HTML(_CELL.format(done=state.done, total=state.blocks, text=text))
        if shown is None:
            shown = ipython.display(page, display_id=True)
        else:
            shown.update(page)


def _lines(states: Iterator[Status]) -> None:
    printed, text, shown = time.monotonic(), "", ""
    for state in states:
        now, text = time.monotonic(), _line(state)
        if now - printed >= _LINE_EVERY:
            printed, shown = now, text
            print("hpcio:", text, file=sys.stderr, flush=True)
    if text != shown:
        print("hpcio:", text, file=sys.stderr, flush=True)


def _progress(state: Status) -> str:
    parts = (f"{state.done:,}/{state.blocks:,} blocks", _speed(state, at_work=True))
    return ", ".join(filter(None, parts))


def _line(state: Status) -> str:
    failures = f", {state.failed:,} failed" if state.failed else ""
    return _progress(state) + failures


# ---------------------------------------------------------------------- the state of a run


@dataclass(frozen=True)
class _Row:
    """A worker in the table; some have no journal yet, and some no queue."""

    label: str
    word: str
    worker: WorkerStatus | None = None
    notes: tuple[str, ...] = ()
    gone: bool = False

    @property
    def bad(self) -> bool:
        return bool(self.notes or self.word not in _GOOD or (self.worker and self.worker.failed))

    @property
    def order(self) -> tuple[Any, ...]:
        """Those with trouble first, then who works, who waits, and who is gone."""
        return (
            not self.bad, self.gone, self.word == "completed", self.worker is None,
            natural(self.label), natural(self.worker.host if self.worker else ""),
        )  # fmt: skip


def _rows(state: Status, asked: Mapping[str, Queue]) -> list[_Row]:
    """All workers, those to look at first."""
    words = {label: word for queue in asked.values() for label, word in queue.states.items()}
    at_work = not state.published and working(state, asked.values()) is not False
    present = [w for w in state.workers if w.last >= state.since]
    usual = statistics.median([w.bytes_per_second for w in present]) if len(present) > 2 else 0.0
    rows = []
    for worker in state.workers:
        word = words.get(worker.label, "")
        gone = worker.last < state.since and worker.label not in words
        notes = []
        if not gone and worker.seconds >= _SLOW_AFTER:
            notes += ["slow"] if worker.bytes_per_second < _SLOW * usual else []
        if at_work and not gone and word in ("", "running"):
            block = 1 / worker.blocks_per_second if worker.done else 0.0
            silent = worker.seconds_since > max(_IDLE, _IDLE_BLOCKS * block)
            notes += ["idle"] if silent else []
        rows.append(_Row(worker.label, word, worker, tuple(notes), gone))
    known = {worker.label for worker in state.workers}
    rows += [_Row(label, word) for label, word in words.items() if label not in known]
    return sorted(rows, key=lambda row: row.order)


def _workers(state: Status, asked: Mapping[str, Queue], *, most: int | None) -> RenderableType:
    """The table of workers."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = _rows(state, asked)
    shown = rows if most is None or len(rows) <= most else rows[: max(1, most - 1)]
    workers = [row.worker for row in shown]
    speeds = iter(column([w.blocks_per_second for w in workers if w]))
    paces = iter(column([w.bytes_per_second / 1e6 for w in workers if w]))
    columns = {
        "worker": [row.label for row in shown],
        "host": [w.host if w else "" for w in workers],
        "state": [", ".join(filter(None, (row.word, *row.notes))) for row in shown],
        "done": [f"{w.done:,}" if w else "" for w in workers],
        "failed": [f"{w.failed:,}" if w and w.failed else "" for w in workers],
        "blocks/s": [next(speeds) if w else "" for w in workers],
        "MB/s": [next(paces) if w else "" for w in workers],
        "last record": [_ago(w.seconds_since) if w else "" for w in workers],
    }
    if len({w.host for w in state.workers}) < 2:
        del columns["host"]
    if state.published:
        del columns["last record"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in [name for name, cells in columns.items() if any(cells)]:
        words = name in ("worker", "host", "state")
        table.add_column(name, justify="left" if words else "right", no_wrap=True)
    for k, row in enumerate(shown):
        cells = [Text(cells[k]) for cells in columns.values() if any(cells)]
        table.add_row(*cells, style="red" if row.bad else None)
    rest = rows[len(shown) :]
    return Group(table, Text(_rest(rest))) if rest else table


def _rest(rows: Sequence[_Row]) -> str:
    """What the rows that are not shown have in common."""
    words = [f"{n:,} {word}" for word, n in Counter(row.word for row in rows if row.word).items()]
    workers = [row.worker for row in rows if row.worker]
    if workers:
        words.append(f"{sum(w.done for w in workers):,} blocks done")
    trouble = sum(row.bad for row in rows)
    words += [f"{trouble:,} in trouble"] if trouble else []
    return f"and {len(rows):,} more: {', '.join(words)}; --all shows them"


def _ago(seconds: float) -> str:
    return f"{duration(int(seconds))} ago" if seconds >= 1 else "now"


def _speed(state: Status, *, at_work: bool | None) -> str:
    """Blocks and bytes in a second, and the time that is left."""
    if not state.speed:
        return ""
    words = [f"{number(state.speed)} blocks/s", f"{number(state.bytes_per_second / 1e6)} MB/s"]
    if state.left and state.seconds_left is not None and at_work is not False:
        left = state.seconds_left
        words.append(f"{duration(round(left))} left" if left >= 1 else "less than 1 s left")
    return ", ".join(words)


def _blocks(state: Status) -> str:
    done = f"{state.done:,} done"
    if 0 < state.done < state.blocks:
        done += f" ({100 * state.done / state.blocks:.3g} %)"
    return f"{done}, {state.failed:,} failed, {state.left:,} left"


def _header(state: Status, asked: Mapping[str, Queue]) -> RenderableType:
    """The run as a whole."""
    from rich.table import Table
    from rich.text import Text

    hosts = len({worker.host for worker in state.workers})
    rows = {
        "result": state.out + ("" if state.published else " (not published yet)"),
        "function": state.function
        + (" (pickled: it cannot be imported by name)" if state.pickled else ""),
        "blocks": _blocks(state),
        "speed": _speed(state, at_work=working(state, asked.values())),
        "workers": f"{len(state.workers):,} on {count(hosts, 'host')}, "
        f"{count(state.attempts, 'attempt')}"
        if state.workers
        else "",
        **{name: queue.line for name, queue in asked.items()},
    }
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", justify="right")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(value))
    return table


def _console() -> Console:
    """The output; what is no terminal has lines of any length."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = 10_000
    return console


def print_status(
    state: Status, asked: Mapping[str, Queue], *, tracebacks: bool = False, everyone: bool = False
) -> None:
    """Print the state of a run for people.

    Parameters
    ----------
    state : Status
    asked : mapping of str to Queue
        Of `hpcio.watching.status.queues`.
    tracebacks : bool
        Of all blocks that failed.
    everyone : bool
        A row for every worker.
    """
    from rich.text import Text

    console = _console()
    console.print(_header(state, asked))
    if state.workers or any(queue.states for queue in asked.values()):
        console.print()
        console.print(_workers(state, asked, most=None if everyone else _MOST_ROWS))
    out = shlex.quote(state.out)
    if state.failures:
        console.print()
    for failure in state.failures[: None if tracebacks else _MOST_FAILURES]:
        head = Text(f"block {failure.block} (trial {failure.trial}): ", style="bold")
        text = failure.traceback if tracebacks else failure.reason
        console.print(head + Text(text, style="not bold"), soft_wrap=True)
    if len(state.failures) > _MOST_FAILURES and not tracebacks:
        console.print(f"... and {len(state.failures) - _MOST_FAILURES:,} more", highlight=False)
    if state.failures and not tracebacks:
        _say(console, f"Tracebacks: hpcio status {out} --failed")
    at_work = working(state, asked.values())
    if not state.published and not at_work:
        if not state.failures:
            console.print()
        unsure = "If nobody is at work on it, go" if at_work is None else "Nobody is at work. Go"
        _say(console, f"{unsure} on with: hpcio resume {out}")


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


class _Asked:
    """What queues say, asked in a thread and ever more rarely: SLURM may be long in answering."""

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
    console, watcher, asked = _console(), Watcher(plan), _Asked(plan)
    try:
        # A run directory that is thrown away, or made one file, ends it too.
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
            header = Group(_header(state, asked), Padding(bar, (1, 0)))
            height = len(console.render_lines(header))
            most = max(3, min(_MOST_ROWS, console.height - height - 4))
            live.update(Group(header, _workers(state, asked, most=most)), refresh=True)
        live.transient = True  # all of it is printed once more


def _log(console: Console, states: Iterator[tuple[Status, dict[str, Queue]]]) -> None:
    printed = -_LINE_EVERY
    for state, asked in states:
        now = time.monotonic()
        if now - printed >= _LINE_EVERY:
            printed = now
            speed = _speed(state, at_work=working(state, asked.values()))
            parts = [_blocks(state), speed, *(queue.line for queue in asked.values())]
            print("hpcio:", ", ".join(filter(None, parts)), flush=True)
