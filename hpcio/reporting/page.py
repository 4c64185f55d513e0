"""A page about a run, to open in a browser and to mail: what ran, how fast, what went wrong.

It is one file that loads nothing and runs nothing. What it says is in `account` and
`sections`, what it looks like in ``templates``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from hpcio.errors import FunctionError, HpcioError, OutputError, ResultError, as_output_error
from hpcio.files import RunDirectory, mark_of, result_of
from hpcio.machine import write_whole
from hpcio.planning import Plan, load_plan
from hpcio.reporting import account
from hpcio.reporting.sections import SECTIONS, RunView, Section, render
from hpcio.reporting.timeline import worked

__all__ = ["GENERATOR", "check_replaceable", "save_page", "write_page"]

# A page that holds this is one of ours, and may be replaced.
GENERATOR = '<meta name="generator" content="hpcio report">'


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
    result = Path(os.path.abspath(result_of(out)))
    kept = RunDirectory.of(str(result)).path.exists()
    if result.is_file() and not kept and mark_of(result) is None:
        raise ResultError(f"'{result}' is no result of hpcio. Name the OUT of a run.")
    if result.is_file() and not kept:
        raise ResultError(
            f"'{result}' has no run directory any more, where all that a report says is kept. "
            "Make the report before the result becomes one file."
        )
    plan = load_plan(out)
    named = Path(f"{plan.out}.html" if path is None else path).expanduser()
    return save_page(named, lambda: _render(plan))


def save_page(named: Path, make: Callable[[], str]) -> Path:
    """Write a page of HTML; an earlier page of hpcio is replaced, and nothing else is.

    Parameters
    ----------
    named : pathlib.Path
    make : callable
        Makes the page, if it may be written. It holds `GENERATOR`.

    Raises
    ------
    OutputError
        If the page cannot be written, or its name is taken by another file.
    """
    final = Path(os.path.realpath(named))
    check_replaceable(final)
    # Names of files may hold bytes that are no text.
    page = make().encode("utf-8", "backslashreplace")
    try:
        write_whole(final, page, mode=0o666)
    except OSError as error:
        raise as_output_error(error, final) from error
    return named


def check_replaceable(path: Path) -> None:
    """Raise OutputError if a page would replace something else."""
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


def _section(name: str, run: RunView) -> Section | None:
    try:
        return SECTIONS[name](run)
    except HpcioError:
        raise
    except Exception as error:
        raise FunctionError(
            f"The section '{name}' of the report raised {type(error).__name__}: {error}. Mend it, "
            "or remove the package that brings it."
        ) from error


def _render(plan: Plan) -> str:
    """The page; templates escape all that they are given, but for the picture."""
    run = RunView(plan)
    made = {name: _section(name, run) for name in SECTIONS.names()}
    times = run.times
    return render(
        "page",
        generator=GENERATOR,
        name=Path(plan.out).name,
        state=account.state_of(
            plan, run.counts, published=bool(run.made), gone=account.gone_of(plan)
        ),
        counted=plan.counted,
        counts=run.counts,
        seconds=worked(times) if len(times) else 0.0,
        nbytes=int(times.nbytes.sum() + times.nbytes_read.sum()),
        sections=[
            {"name": name, "title": section.title, "body": section.body}
            for name, section in made.items()
            if section is not None
        ],
        now=time.time(),
    )
