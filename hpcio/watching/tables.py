"""The state of a run as text for people: the run as a whole, its workers, its failures."""

from __future__ import annotations

import os
import shlex
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hpcio.results import about_older
from hpcio.watching.state import Queue, Status, WorkerStatus, working
from hpcio.words import (
    after_failures,
    column,
    count,
    duration,
    earlier_words,
    natural,
    number,
    plain,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

__all__ = [
    "MOST_ROWS",
    "blocks_words",
    "console_for",
    "print_pairs",
    "print_status",
    "run_table",
    "speed_words",
    "workers_table",
]

# A worker is idle after _IDLE seconds without a record, or _IDLE_BLOCKS of its blocks if longer.
_IDLE, _IDLE_BLOCKS = 60.0, 10
# A worker is slow if it has less than this share of the usual speed, after so many seconds.
_SLOW, _SLOW_AFTER = 0.5, 10.0
# Rows of a table of workers, and failures in a list, unless all are asked for.
MOST_ROWS, _MOST_FAILURES = 20, 20
# What a queue says of tasks that are as they should be.
_GOOD = ("", "running", "pending", "completed")


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


def workers_table(state: Status, asked: Mapping[str, Queue], *, most: int | None) -> RenderableType:
    """The table of workers."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

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
        f"{state.counted}s/s": [next(speeds) if w else "" for w in workers],
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
        cells = [_shown(cells[k]) for cells in columns.values() if any(cells)]
        table.add_row(*cells, style="red" if row.bad else None)
    rest = rows[len(shown) :]
    return Group(table, _shown(_rest(rest, state.counted))) if rest else table


def _shown(text: str, style: str = "") -> Text:
    """A text for rich, which has names of others in it; see `plain`."""
    from rich.text import Text

    return Text(plain(text), style=style)


def _rest(rows: Sequence[_Row], counted: str) -> str:
    """What the rows that are not shown have in common."""
    words = [f"{n:,} {word}" for word, n in Counter(row.word for row in rows if row.word).items()]
    workers = [row.worker for row in rows if row.worker]
    if workers:
        words.append(f"{count(sum(w.done for w in workers), counted)} done")
    trouble = sum(row.bad for row in rows)
    words += [f"{trouble:,} in trouble"] if trouble else []
    return f"and {len(rows):,} more: {', '.join(words)}; --all shows them"


def _ago(seconds: float) -> str:
    return f"{duration(int(seconds))} ago" if seconds >= 1 else "now"


def speed_words(state: Status, *, at_work: bool | None) -> str:
    """Blocks and bytes in a second, and the time that is left; or for how long nothing was done."""
    words = [
        f"{number(state.speed)} {state.counted}s/s",
        f"{number(state.bytes_per_second / 1e6)} MB/s",
    ] * bool(state.speed)
    if state.quiet and at_work is not False:
        words.append(f"nothing was done for {duration(round(state.quiet))}")
    elif state.left and state.seconds_left is not None and at_work is not False:
        left = state.seconds_left
        words.append(f"{duration(round(left))} left" if left >= 1 else "less than 1 s left")
    return ", ".join(words)


def blocks_words(state: Status) -> str:
    """How many blocks are done, failed, left."""
    done = f"{state.done:,} done"
    if 0 < state.done < state.blocks:
        done += f" ({100 * state.done / state.blocks:.3g} %)"
    return f"{done}, {state.failed:,} failed, {state.left:,} left"


def _how_it_is(state: Status) -> str:
    if state.gone:
        return " (parts of it are gone)"
    if state.published:
        gaps = state.blocks - state.done
        return f" (published with {count(gaps, 'gap')})" if gaps else ""
    older = "; until then an older result has this name" if state.older else ""
    return f" (not published yet{older})"


def run_table(state: Status, asked: Mapping[str, Queue]) -> RenderableType:
    """The run as a whole."""
    hosts = len({worker.host for worker in state.workers})
    rows = {
        "result": state.out + _how_it_is(state),
        "function": state.function
        + (" (pickled: it cannot be imported by name)" if state.pickled else ""),
        f"{state.counted}s": blocks_words(state),
        "kept": earlier_words(state.earlier) if state.earlier else "",
        "speed": speed_words(state, at_work=working(state, asked.values())),
        "workers": f"{len(state.workers):,} on {count(hosts, 'host')}, "
        f"{count(state.attempts, 'attempt')}"
        if state.workers
        else "",
        **{name: queue.line for name, queue in asked.items()},
    }
    return _pairs((name, value) for name, value in rows.items() if value)


def _pairs(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """Names and values, side by side."""
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", justify="right")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(_shown(name), _shown(value))
    return table


def print_pairs(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values, side by side."""
    from rich.console import Console

    Console().print(_pairs(rows))


def console_for() -> Console:
    """The console of the output; where that is not a terminal, lines are not folded."""
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
        As from `hpcio.watching.queues`.
    tracebacks : bool
        Of all blocks that failed.
    everyone : bool
        A row for every worker.
    """
    console = console_for()
    console.print(run_table(state, asked))
    if state.workers or any(queue.states for queue in asked.values()):
        console.print()
        console.print(workers_table(state, asked, most=None if everyone else MOST_ROWS))
    out = shlex.quote(state.out)
    if state.failures:
        console.print()
    for failure in state.failures[: None if tracebacks else _MOST_FAILURES]:
        head = _shown(f"{failure.name}: ", "bold")
        text = failure.traceback if tracebacks else failure.reason
        console.print(head + _shown(text, "not bold"), soft_wrap=True)
    if len(state.failures) > _MOST_FAILURES and not tracebacks:
        console.print(f"... and {len(state.failures) - _MOST_FAILURES:,} more", highlight=False)
    if state.failures and not tracebacks:
        _say(console, f"Tracebacks: hpcio status {out} --failed")
    if state.gone:
        console.print()
        _say(console, state.gone)
    at_work = working(state, asked.values())
    if not state.published and not at_work:
        if not state.failures:
            console.print()
        unsure = "If nobody is at work on it, go" if at_work is None else "Nobody is at work. Go"
        too_long = not asked and any(failure.cause == "time" for failure in state.failures)
        if state.left or not state.failed:
            limit = " --trial-time TIME" if too_long else ""
            _say(console, f"{unsure} on with: hpcio resume {out}{limit}")
        if state.failed:
            allow = state.blocks if state.left else 0
            lines = after_failures(
                state.out, state.counted, allow=allow, too_long=too_long, by_name=not state.pickled
            )
            _say(console, "\n".join(lines))
    if state.published and state.done < state.blocks and not state.gone:
        again = f"To try them again, also with a mended function: hpcio resume {out} --keep-done"
        if not state.fills_gaps:
            again = "It is one file, and not written again: to fill them, start over with --fresh."
        _say(console, f"Those {state.counted}s are gaps of the result. {again}")
    words = {word for queue in asked.values() for word in queue.states.values()}
    is_limited = any(queue.trial_time is not None for queue in asked.values())
    if state.quiet and (state.session or "running" in words) and not is_limited:
        console.print()
        _say(
            console,
            f"Nothing was done for {duration(round(state.quiet))}. If a {state.counted} hangs, "
            "stop the run, and go on with a limit, such as: "
            f"hpcio resume {out} --trial-time 5m",
        )
    if state.older:
        _say(console, plain(about_older(state.out)))


def _say(console: Console, text: str) -> None:
    console.print(_shown(text), soft_wrap=True, highlight=False)
