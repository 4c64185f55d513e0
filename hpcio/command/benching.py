"""The subcommand bench."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hpcio.bench import (
    HEADS,
    PARTS,
    SCALES,
    TEAMS,
    Figure,
    Found,
    LeftOut,
    Place,
    Team,
    advise,
    figure_rows,
    measure,
    read_found,
    write_found,
    write_page,
)
from hpcio.errors import HpcioError, HpcioWarning, OutputError, as_output_error
from hpcio.machine import cores
from hpcio.reporting import check_replaceable
from hpcio.watching import console_for
from hpcio.words import plain, say

__all__ = ["bench"]


@click.command()
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- SBATCH_OPTIONS...]")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path(),
    help="A folder of the file system to measure.  [default: this one]",
)
@click.option("--quick", is_flag=True, help="Under two minutes, under 4 GB.")
@click.option("--full", is_flag=True, help="More sizes, repeated more often: hours.")
@click.option("--processes", type=click.IntRange(1), help="At work at most; by default one a core.")
@click.option("--tasks", type=click.IntRange(1), help="Measure by so many tasks of a job array.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="All values.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), help="A page with a picture.")
def bench(
    words: tuple[str, ...],
    folder: Path,
    quick: bool,  # noqa: FBT001
    full: bool,  # noqa: FBT001
    processes: int | None,
    tasks: int | None,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Measure a file system: what it can do, and which writer is best on it.

    Every figure is the median of several, with its ratio to what plain system calls take for the
    same bytes, measured right beside it. All is made in a new folder inside DIR, and removed.

    The writer mpi is measured by ranks of this node (not by --tasks), started by mpirun, mpiexec
    or, in a job, srun, if mpi4py and an h5py with parallel HDF5 are installed. What cannot be
    measured is left out, and the reason is said.

    \b
    hpcio bench --dir /scratch/me --quick
    hpcio bench --dir /scratch/me --tasks 16 --html bench.html -- --partition=short
    """  # noqa: D301  (click reads the backspace)
    if words and tasks is None:
        raise click.UsageError("Options of sbatch are for --tasks.")
    if quick and full:
        raise click.UsageError("--quick and --full exclude each other.")
    if tasks is not None and processes is not None:
        raise click.UsageError("--processes and --tasks exclude each other.")
    for file in filter(None, (json_file, html_file)):  # not to be found out at the end
        if file.is_dir() or not os.access(file.absolute().parent, os.W_OK):
            raise OutputError(
                f"'{file}' cannot be written. Name a file in a folder that is there, and yours."
            )
    if json_file is not None and os.path.lexists(json_file):
        _check_is_ours(json_file)
    if html_file is not None:
        check_replaceable(html_file)
    scale = "quick" if quick else "full" if full else "normal"
    found = _measured(folder, scale, processes or cores(), tasks, words)
    _show(found)
    if json_file is not None:
        write_found(json_file, found)
        if found.advice is not None:
            say(f"To make it your default: hpcio config --take {shlex.quote(str(json_file))}")
    if html_file is not None:
        say(f"The page: {write_page(html_file, found)}")


def _measured(
    folder: Path, scale: str, processes: int, tasks: int | None, words: tuple[str, ...]
) -> Found:
    try:
        inside = Path(tempfile.mkdtemp(prefix="hpcio-bench-", dir=folder)).resolve()
    except OSError as error:
        raise as_output_error(error, folder) from error
    start = TEAMS["processes" if tasks is None else "array"]
    figures: list[Figure] = []
    left_out: list[LeftOut] = []
    try:
        if tasks is not None:
            _note(f"waiting for {tasks} tasks to begin")
        with Team(inside / "team", tasks or processes, start, words) as team:
            place = Place.of(folder.resolve(), team.hosts)
            try:
                for one in measure(inside, team, SCALES[scale], say=_note):
                    (figures if isinstance(one, Figure) else left_out).append(one)  # type: ignore[arg-type]
            except (HpcioError, OSError, RuntimeError, KeyboardInterrupt) as error:
                if not isinstance(error, HpcioError | KeyboardInterrupt):  # RuntimeError: of HDF5
                    error = as_output_error(error, inside)
                if not figures:
                    raise error from None
                why = str(error) or "it was interrupted"
                left_out.append(LeftOut("the rest", why))
    finally:
        with _uninterrupted():
            _note("")
            _remove(inside)
    where = f"{place.filesystem} at {place.folder}"
    advice = advise(figures, left_out, where=where)
    return Found(place, tuple(figures), tuple(left_out), advice)


def _check_is_ours(file: Path) -> None:
    """Raise OutputError if a file is another than an earlier benchmark, which may be replaced."""
    try:
        if file.is_file():  # a pipe would wait for somebody to write
            read_found(file)
            return
    except HpcioError:
        pass
    raise OutputError(
        f"'{file}' is no benchmark of hpcio and is not replaced. Choose another name."
    )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Nothing that was made is to stay, however often Ctrl-C is pressed."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _remove(folder: Path) -> None:
    """Remove all that was made."""
    try:
        shutil.rmtree(folder)
    except OSError as error:  # a task that was cancelled may write there for a moment yet
        warnings.warn(
            f"'{folder}' could not be removed ({error.strerror}). Remove it: rm -r "
            f"{shlex.quote(str(folder))}",
            HpcioWarning,
            stacklevel=2,
        )


def _note(what: str) -> None:
    """Say what is measured now; on a terminal in one line that the next one replaces."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{plain(what)}")
        sys.stderr.flush()
    elif what:
        say(what, err=True)


def _show(found: Found) -> None:
    """A table for each part of what was found, and one sentence."""
    from rich.table import Table

    console = console_for()
    for part, title in PARTS.items():
        rows = list(figure_rows(found.figures, part))
        if not rows:
            continue
        table = Table(title, box=None, padding=(0, 2, 0, 0), header_style="bold")
        for head in HEADS:
            table.add_column(head, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table, "")
    for one in found.left_out:
        say(f"Left out: {one.what}, since {one.why.removesuffix('.')}.")
    if found.advice is not None:
        say(found.advice.sentence)
