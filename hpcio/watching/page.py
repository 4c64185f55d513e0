"""A page about a run, to open in a browser and to mail: what ran, how fast, what went wrong.

It is one file that loads nothing and runs nothing. What it says is in
`hpcio.watching.account`, what it looks like in ``page.html.j2``.
"""

from __future__ import annotations

import os
import shlex
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hpcio import words
from hpcio.errors import MissingPackageError, OutputError, ResultError
from hpcio.files.slab import as_output_error
from hpcio.journals.ledger import Ledger
from hpcio.journals.usage import read as read_usage
from hpcio.machine.filesystems import write_whole
from hpcio.planning.plan import Plan
from hpcio.watching import account
from hpcio.watching.pictures import drawing
from hpcio.watching.timeline import read_timeline, worked

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["write_page"]

# By this a page is known as one of ours, which may be replaced.
GENERATOR = '<meta name="generator" content="hpcio report">'

SLOWEST = 20
# Of more workers than these, only so many of the slowest and of the fastest are shown.
MOST_WORKERS, SOME_WORKERS = 50, 10
MOST_GROUPS = 100


def write_page(path: str | os.PathLike[str] | None, out: str | os.PathLike[str]) -> Path:
    """Write a page of HTML about a run, finished or not.

    Parameters
    ----------
    path : str, path or None
        The page; None for ``OUT.html`` beside the result. An earlier page is replaced, and
        nothing else is.
    out : str or path
        The result of the run; its run directory must be there.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    MissingPackageError
        If jinja2 or matplotlib is not installed.
    PlanError
        If there is no run directory.
    ResultError
        If the result was made one file, and its journals are gone.
    OutputError
        If the page cannot be written, or its name is taken by another file.

    Examples
    --------
    >>> write_page("report.html", "out.h5")  # doctest: +SKIP
    PosixPath('report.html')
    """
    result = Path(os.path.abspath(os.path.expanduser(os.fspath(out))))
    if result.is_file() and not Path(f"{result}.run").exists():
        raise ResultError(
            f"'{result}' has no run directory any more, where all that a report says is kept. "
            "Make the report before the result becomes one file."
        )
    plan = Plan.load(out)
    named = Path(f"{plan.out}.html" if path is None else path).expanduser()
    final = Path(os.path.realpath(named))
    _check_replaceable(final)
    # Names of files may hold bytes that are no text.
    page = _render(plan).encode("utf-8", "backslashreplace")
    try:
        write_whole(final, page, mode=0o666)
    except OSError as error:
        raise as_output_error(error, final) from error
    return named


def _check_replaceable(path: Path) -> None:
    begin = b""
    try:
        if not path.exists():
            return
        # A pipe would wait for somebody to write.
        if path.is_file():
            with path.open("rb") as f:
                begin = f.read(200)
    except PermissionError:
        pass  # what cannot be read is not ours
    if GENERATOR.encode() not in begin:
        raise OutputError(
            f"'{path}' is no report of hpcio and is not replaced. Choose another name."
        )


def _template() -> Template:
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise MissingPackageError(
            "Reports need jinja2. Install it: pip install 'hpcio[plot]'"
        ) from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        count=words.count, duration=words.duration, number=words.number, size=words.size,
        when=words.when,
    )  # fmt: skip
    return environment.from_string(
        resources.files("hpcio.watching").joinpath("page.html.j2").read_text(encoding="utf-8")
    )


def _render(plan: Plan) -> str:
    """The page; whatever the template is given is escaped, but for the picture."""
    template = _template()
    ledger = Ledger.read(plan)
    times = read_timeline(ledger)
    counts, made = account.counts_of(ledger), account.provenance_of(plan)
    groups = account.groups_of(ledger.failures())
    workers = account.workers_of(ledger)
    usages, damaged = read_usage(plan)
    by_speed = sorted(workers, key=lambda w: w.speed)
    many = len(workers) > MOST_WORKERS
    slowest = account.slowest_of(ledger, times, SLOWEST)
    # Trials of milliseconds are not told in seconds.
    unit, in_a_second = ("s", 1) if any(x.compute + x.io >= 1 for x in slowest) else ("ms", 1000)
    columns = [
        [in_a_second * x.compute for x in slowest],
        [in_a_second * x.io for x in slowest],
        [x.nbytes / 1e6 for x in slowest],
    ]
    days = {words.when(t, "%F") for w in workers for t in (w.first, w.last)}
    return template.render(
        generator=GENERATOR,
        name=Path(plan.out).name,
        state=account.state_of(plan, counts, published=bool(made)),
        counts=counts,
        seconds=worked(times) if len(times) else 0.0,
        nbytes=int(times.nbytes.sum() + times.nbytes_read.sum()),
        facts=account.facts_of(ledger, times, made),
        drawing=drawing(times) if len(times) else "",
        groups=groups[:MOST_GROUPS],
        more=groups[MOST_GROUPS:],
        tracebacks=f"hpcio status --failed {shlex.quote(plan.out)}",
        usages=usages,
        limits=account.limits_of(usages),
        damaged=damaged,
        workers=workers,
        tables=(
            [("The slowest", by_speed[:SOME_WORKERS]), ("The fastest", by_speed[-SOME_WORKERS:])]
            if many
            else [("", workers)]
        ),
        spread=account.spread_of(workers) if many else [],
        clock="%H:%M:%S" if len(days) == 1 else "%m-%d %H:%M:%S",
        slowest=slowest,
        unit=unit,
        columns=[words.column(values) for values in columns],
        median=float(np.median(times.compute + times.io)) if len(times) else 0.0,
        now=time.time(),
    )
