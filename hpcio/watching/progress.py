"""What the journals say while a run goes on: a bar, a cell of a notebook, or lines of a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpcio.planning import Plan
from hpcio.watching.state import Status
from hpcio.watching.tables import speed_words
from hpcio.watching.watcher import Watcher
from hpcio.words import count, say

__all__ = ["watch", "watch_probes"]

# How often the journals are looked at, in seconds, and how often a log gets a line.
_LOOK_EVERY = 0.5
_LINE_EVERY = 10.0


@contextmanager
def watch(plan: Plan, about: str = "", *, force: bool = False) -> Iterator[None]:
    """Show the progress of a run while the body is at work.

    A terminal and a notebook get a bar, a log file plain lines. If the error output is none of
    these, nothing is shown, unless forced. Only the journals are read, so it looks the same for
    every executor.

    Parameters
    ----------
    plan : Plan
    about : str
        What its executor has to say, printed as a line before.
    force : bool
        Show it wherever the error output goes.
    """
    notebook = _in_notebook()
    if not (force or notebook or sys.stderr.isatty() or _is_log()):
        yield
        return
    if about:
        say(f"hpcio: {about}", err=True)
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


@contextmanager
def watch_probes() -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how many shapes of trials have been tried, while a plan is made.

    Yields
    ------
    callable
        To be called with how many have been tried, and of how many.
    """
    with contextlib.ExitStack() as stack:
        shown: dict[str, Callable[[int, int], None]] = {}

        def show(done: int, total: int) -> None:
            if total > 1 and sys.stderr.isatty():
                if not shown:  # few plans have anything to show
                    shown["bar"] = stack.enter_context(_probe_bar())
                shown["bar"](done, total)

        yield show


@contextmanager
def _probe_bar() -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("planning", BarColumn(), MofNCompleteColumn(), "shapes", TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("planning")
        yield lambda done, total: bar.update(task, completed=done, total=total)


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
    last, began = False, time.monotonic()
    while not last:
        last = ended.wait(_LOOK_EVERY)
        with contextlib.suppress(FileNotFoundError):  # a run directory that was thrown away
            state = watcher.look()
            # Workers of this run may not have begun, and the last records be those of another day.
            is_new = time.monotonic() - began < state.quiet
            yield replace(state, quiet=0.0) if is_new else state


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
            say(f"hpcio: {text}", err=True)
    if text != shown:
        say(f"hpcio: {text}", err=True)


def _progress(state: Status) -> str:
    done = f"{state.done:,}/{count(state.blocks, state.counted)}"
    return ", ".join(filter(None, (done, speed_words(state, at_work=True))))


def _line(state: Status) -> str:
    failures = f", {state.failed:,} failed" if state.failed else ""
    return _progress(state) + failures
