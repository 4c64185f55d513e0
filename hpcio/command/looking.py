"""Subcommands that look at a run: status, report."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpcio.files import RunDirectory, result_of
from hpcio.plan import Plan
from hpcio.reporting import write_page
from hpcio.watching import (
    as_json as for_programs,
)
from hpcio.watching import follow_status, print_status, queues
from hpcio.watching import status as read
from hpcio.words import say, say_json

__all__ = ["report", "status"]

# Exit status if trials have failed or parts of the result are gone, and after Ctrl-C.
FAILED, INTERRUPTED = 1, 130


@click.command()
@click.argument("out", type=click.Path())
@click.option("--failed", is_flag=True, help="Show the traceback of each failed trial.")
@click.option("--watch", is_flag=True, help="Go on showing it until the run is finished.")
@click.option("--all", "everyone", is_flag=True, help="Show every worker.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(out: str, *, failed: bool, watch: bool, everyone: bool, as_json: bool) -> None:
    """Say how far a run is, who works on it, how fast, and what failed.

    All of it is read from the journals of the run; the queue is asked for the jobs of a run
    that was submitted. Ends with 1 if trials have failed, or parts of the result are gone. Whether
    function or recording have changed since is not looked at.
    """
    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other.")
    out = result_of(out)
    kept = RunDirectory.of(out).plan.exists() or not Path(out).exists()
    if watch and kept:
        try:
            follow_status(Plan.load(out))
        except KeyboardInterrupt:  # the usual way to leave it, of which nothing need be said
            sys.exit(INTERRUPTED)
    # Queues are asked first: jobs that have ended by then have written all that is read below.
    asked = queues(Plan.load(out)) if kept else {}
    state = read(out)
    if as_json:
        say_json(for_programs(state, asked))
    else:
        print_status(state, asked, tracebacks=failed, everyone=everyone)
    if state.failed or state.gone:
        sys.exit(FAILED)


@click.command()
@click.argument("out", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="The page.  [default: OUT.html]")
def report(out: str, output: str | None) -> None:
    """Write a page of HTML about a run, finished or not: speed, workers, failures."""
    say(str(write_page(output, out)))
