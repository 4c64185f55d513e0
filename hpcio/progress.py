"""What the journals say while a run goes on, shown; and its state, at any time."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcio.journal import DONE, FAILED
from hpcio.ledger import Failure, Follower, Ledger
from hpcio.plan import Plan
from hpcio.result import open as open_result

__all__ = ["Status", "status", "watch"]

# How often the journals are looked at, in seconds, and how often a log gets a line.
_LOOK_EVERY = 0.25
_LINE_EVERY = 10.0


class _Counter:
    """Counts blocks in the journals of one run, reading only what is new in each."""

    def __init__(self, plan: Plan, todo: np.ndarray) -> None:
        self._journals = Follower(plan)
        self._journals.look()  # what earlier runs have done
        self._out, self._in = plan.target.sizes(), plan.input_sizes()
        self._open = np.zeros(len(plan), bool)
        self._open[todo] = True
        self.done = self.failed = self.nbytes = 0
        self._first, self._last = np.inf, -np.inf

    def look(self) -> None:
        for _, records in self._journals.look():
            self.failed += int((records["kind"] == FAILED).sum())
            done = records[records["kind"] == DONE]
            if done.size:
                begun = done["end"] - done["compute"] - done["io"]
                self._first = min(self._first, float(begun.min()))
                self._last = max(self._last, float(done["end"].max()))
            blocks = np.unique(done["block"])
            blocks = blocks[self._open[blocks]]
            self._open[blocks] = False
            self.done += blocks.size
            self.nbytes += int(self._out[blocks].sum() + self._in[blocks].sum())

    @property
    def seconds(self) -> float:
        """From the beginning of the first block to the end of the last one."""
        return max(self._last - self._first, 1e-6) if self.done else 0.0

    @property
    def speed(self) -> str:
        """Blocks and bytes in a second, without the start of the workers."""
        if not self.done:
            return ""
        return f"{self.done / self.seconds:.0f}/s, {self.nbytes / 1e6 / self.seconds:.0f} MB/s"

    def line(self, total: int) -> str:
        """All of it, as text."""
        left = (total - self.done) * self.seconds / max(1, self.done)
        parts = (
            f"{self.done}/{total} blocks",
            self.speed,
            f"{left:.0f} s left" if left >= 1 else "",
            f"{self.failed} failed" if self.failed else "",
        )
        return ", ".join(p for p in parts if p)


@contextmanager
def watch(plan: Plan, todo: np.ndarray, *, about: str = "", force: bool = False) -> Iterator[None]:
    """Show the progress of a run while the body is at work.

    A bar on a terminal and in a notebook; plain lines in a log file that something else
    shows. Nothing if the error output is neither, unless forced. It only reads the journals,
    and so looks the same for every executor.

    Parameters
    ----------
    plan : Plan
    todo : numpy.ndarray of int
        The blocks that the run is to do.
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
    counter = _Counter(plan, todo)
    ended = threading.Event()
    show = _cell if notebook else _bar if sys.stderr.isatty() else _lines
    thread = threading.Thread(
        target=show, args=(counter, todo.size, ended), name="hpcio-progress", daemon=True
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


def _looks(counter: _Counter, ended: threading.Event) -> Iterator[None]:
    """Look again and again, and once more after the end."""
    last = False
    while not last:
        last = ended.wait(_LOOK_EVERY)
        with contextlib.suppress(FileNotFoundError):  # a run directory that was thrown away
            counter.look()
        yield


def _bar(counter: _Counter, total: int, ended: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} blocks"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[failures]}", style="red"),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("hpcio", total=total, speed="", failures="")
        for _ in _looks(counter, ended):
            failures = f"{counter.failed} failed" if counter.failed else ""
            bar.update(task, completed=counter.done, speed=counter.speed, failures=failures)


_CELL = """\
<progress style="width: 20em; vertical-align: middle" value="{done}" max="{total}"></progress>
<span style="font-family: monospace">{text}</span>"""


def _cell(counter: _Counter, total: int, ended: threading.Event) -> None:
    from IPython import display as ipython

    shown = None
    for _ in _looks(counter, ended):
        page: Any = ipython.HTML(
            _CELL.format(done=counter.done, total=total, text=counter.line(total))
        )
        if shown is None:
            shown = ipython.display(page, display_id=True)
        else:
            shown.update(page)


def _lines(counter: _Counter, total: int, ended: threading.Event) -> None:
    printed = time.monotonic()
    for _ in _looks(counter, ended):
        now = time.monotonic()
        if now - printed >= _LINE_EVERY or ended.is_set():
            printed = now
            print("hpcio:", counter.line(total), file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Status:
    """The state of a run, from its journals.

    Attributes
    ----------
    out : str
    published : bool
        Whether the result is there.
    blocks, done, failed : int
    attempts : int
        How many processes have worked on it.
    function : str
    pickled : bool
        Whether the function is kept as a pickle, since it cannot be imported by name.
    failures : tuple of Failure
    """

    out: str
    published: bool
    blocks: int
    done: int
    failed: int
    attempts: int
    function: str
    pickled: bool
    failures: tuple[Failure, ...]

    @property
    def left(self) -> int:
        """Blocks that nobody has tried to the end yet."""
        return self.blocks - self.done - self.failed


def status(out: str) -> Status:
    """Read the state of a run; nothing is unpickled and nothing written."""
    if not Path(f"{out}.run").exists() and Path(out).exists():
        return _of_one_file(out)
    plan = Plan.load(out)
    ledger = Ledger.read(plan)
    failures = ledger.failures()
    return Status(
        out=plan.out,
        published=Path(plan.out).exists(),
        blocks=len(plan),
        done=int(ledger.done.sum()),
        failed=len(failures),
        attempts=len(ledger.logs),
        function=plan.function.name,
        pickled=bool(plan.function.pickled),
        failures=failures,
    )


def _of_one_file(out: str) -> Status:
    """The state that a result keeps, after it was made one file."""
    with open_result(out) as f:
        state = f["hpcio/state"][()]
        function = str(f.attrs["function"])
    done = int((state == DONE).sum())
    return Status(
        out=str(Path(out).absolute()), published=True, blocks=state.size, done=done,
        failed=state.size - done, attempts=0, function=function, pickled=False, failures=(),
    )  # fmt: skip
