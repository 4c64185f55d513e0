"""What a run takes as it grows: seconds and memory from a hundred to a million trials.

``python -m benchmarks.growth`` runs plans of trials of 1,280 bytes, each in a new process, and
draws what a trial costs. What is linear is level there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import click
import h5py
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

import hpcio
from benchmarks import machine
from benchmarks.functions import subtract_mean
from hpcio.reporting import COLOURS, canvas
from hpcio.watching import status
from hpcio.words import memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS, CHANNELS = 8, 40
NBYTES = 4 * ROWS * CHANNELS
COUNTS = (100, 1_000, 10_000, 100_000, 1_000_000)
WRITERS = ("virtual", "direct")
WORKERS = 2
# How often, in seconds, memory and open files of all processes are looked at.
_LOOK = 0.02


@dataclass(frozen=True)
class Grown:
    """One run: seconds of planning, of work, and of all else, and what its processes held.

    `session` and `worker` are bytes of memory at their peaks, `files` the most that one had open,
    `beside` bytes of the result beside its data, `looked` seconds of `hpcio status`.
    """

    writer: str
    trials: int
    plan: float
    work: float
    around: float
    session: int
    worker: int
    files: int
    beside: int
    looked: float


class Watch:
    """Looks at this process and at all below it."""

    def __init__(self) -> None:
        self.memory: dict[int, int] = {}
        self.files = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOK):
            for pid in _below(os.getpid()):
                try:
                    said = Path(f"/proc/{pid}/status").read_text()
                    files = len(os.listdir(f"/proc/{pid}/fd"))
                except (FileNotFoundError, ProcessLookupError):  # it has just ended
                    continue
                peak = next((x for x in said.splitlines() if x.startswith("VmHWM:")), "VmHWM: 0 kB")
                self.memory[pid] = max(self.memory.get(pid, 0), 1024 * int(peak.split()[1]))
                self.files = max(self.files, files)


def _below(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in map(int, children):
            yield from _below(child)


def measure(folder: Path, writer: str, trials: int) -> Grown:
    """Plan and run so many trials in this process, which has done nothing before."""
    out, source = folder / "out.h5", folder / "rec.h5"
    with h5py.File(source, "w") as f:
        f.create_dataset("data", (trials * ROWS, CHANNELS), np.float32)
    with Watch() as watch:
        begin = time.perf_counter()
        plan = hpcio.Plan.create(
            subtract_mean, f"{source}::data", trials=ROWS, out=out, writer=writer, join="stack"
        )
        planned = time.perf_counter()
        done = plan.run(workers=WORKERS, progress=False)
        over = time.perf_counter()
    looking = time.perf_counter()
    status(out)
    looked = time.perf_counter() - looking
    own = watch.memory.pop(os.getpid())
    data = trials * NBYTES if writer == "direct" else 0
    return Grown(
        writer, trials, planned - begin, done.seconds, over - planned - done.seconds, own,
        max(watch.memory.values()), watch.files, out.stat().st_size - data, looked,
    )  # fmt: skip


@contextmanager
def _folder(inside: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hpcio-bench-", dir=inside) as made:
        yield Path(made)


def measure_all(inside: Path, counts: Sequence[int], repetitions: int) -> list[Grown]:
    """Medians of all runs, each in a new process."""
    found: dict[tuple[str, int], list[Grown]] = {}
    for _ in range(repetitions):
        for trials in counts:
            for writer in WRITERS:
                with _folder(inside) as folder:
                    said = subprocess.check_output(
                        [sys.executable, "-m", "benchmarks.growth", "--one", writer, str(trials),
                         "--dir", str(folder)], text=True,
                    )  # fmt: skip
                found.setdefault((writer, trials), []).append(Grown(**json.loads(said)))
    return [_median(those) for those in found.values()]


def _median(those: Sequence[Grown]) -> Grown:
    names = [name for name, value in asdict(those[0]).items() if not isinstance(value, str)]
    return replace(those[0], **{n: median(getattr(one, n) for one in those) for n in names})


# ---------------------------------------------------------------------- showing


def table(found: Sequence[Grown]) -> Table:
    """A row for each run."""
    heads = ("writer", "trials", "planning", "work", "all else", "work a trial", "session",
             "largest other", "open files", "beside the data", "status")  # fmt: skip
    made = Table(box=box.SIMPLE_HEAD)
    for k, head in enumerate(heads):
        made.add_column(head, justify="right" if k else "left")
    for row in map(cells, found):
        made.add_row(*row)
    return made


def cells(one: Grown) -> tuple[str, ...]:
    """What a row says."""
    return (
        one.writer, f"{one.trials:,}", f"{one.plan:.3g} s", f"{one.work:.3g} s",
        f"{one.around:.3g} s", f"{one.work / one.trials * 1e6:.3g} µs", memory(int(one.session)),
        memory(int(one.worker)), f"{one.files:.0f}", f"{one.beside / one.trials:.3g} B",
        f"{one.looked:.3g} s",
    )  # fmt: skip


def markdown(found: Sequence[Grown]) -> str:
    """The table, and the machine, as Markdown."""
    facts = "".join(f"| {name} | {value} |\n" for name, value in machine.describe().items())
    heads = [str(column.header) for column in table(found).columns]
    rows = "".join(f"| {' | '.join(cells(one))} |\n" for one in found)
    return (
        "# Growth\n\nMade by `python -m benchmarks.growth --markdown`; trials of 1,280 bytes, "
        f"{WORKERS} workers, medians.\n\n| | |\n|---|---|\n{facts}\n| {' | '.join(heads)} |\n"
        f"|{'---|' + '---:|' * (len(heads) - 1)}\n{rows}"
    )


def draw(axes: Sequence[Axes], found: Sequence[Grown]) -> None:
    """Seconds a trial, and memory, against the number of trials."""
    kinds = (("work", "-"), ("plan", ":"), ("around", "--"))
    words = {"work": "work", "plan": "planning", "around": "start, publishing"}
    for writer, colour, marker in (("virtual", "blue", "o"), ("direct", "green", "^")):
        those = [one for one in found if one.writer == writer]
        x = [one.trials for one in those]
        for name, dashes in kinds:
            axes[0].plot(x, [1e6 * getattr(one, name) / one.trials for one in those], dashes,
                         color=COLOURS[colour], marker=marker, markersize=4,
                         label=f"{writer}: {words[name]}")  # fmt: skip
        for name, dashes, what in (("session", "-", "session"), ("worker", "--", "worker")):
            axes[1].plot(
                x, [getattr(one, name) / 1e6 for one in those], dashes, marker=marker,
                color=COLOURS[colour], markersize=4, label=f"{writer}: {what}",
            )  # fmt: skip
    for ax, title, unit in zip(axes, ("Time of a trial", "Memory at its peak"),
                               ("µs", "MB"), strict=True):  # fmt: skip
        ax.set(xscale="log", yscale="log", title=title, xlabel="trials", ylabel=unit)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.minorticks_off()
        ax.grid(axis="y", color=COLOURS["pale"])
        ax.legend(fontsize=8)
    axes[1].set_yticks([30, 100, 300])
    axes[1].set_ylim(25, 400)


@click.command()
@click.option("--dir", "folder", type=click.Path(exists=True, path_type=Path),
              default=Path("/dev/shm"))  # fmt: skip
@click.option("--most", default=COUNTS[-1], help="Trials of the largest run.")
@click.option("--repetitions", default=3, show_default=True)
@click.option("--markdown", "page", type=click.Path(path_type=Path), help="The table.")
@click.option("--picture", type=click.Path(path_type=Path), help="SVG or PNG.")
@click.option("--one", nargs=2, type=(click.Choice(WRITERS), int), hidden=True)
def main(
    folder: Path, most: int, repetitions: int, page: Path | None, picture: Path | None,
    one: tuple[str, int] | None,
) -> None:  # fmt: skip
    """Measure what a run takes as it grows."""
    if one is not None:
        print(json.dumps(asdict(measure(folder, *one))))
        return
    counts = [count for count in COUNTS if count <= most]
    found = sorted(measure_all(folder, counts, repetitions), key=lambda g: (g.writer, g.trials))
    Console(width=160).print(table(found))
    if page is not None:
        page.write_text(markdown(found))
    if picture is not None:
        with canvas(picture, 1600, 640) as figure:
            draw(figure.subplots(1, 2), found)


if __name__ == "__main__":
    main()
