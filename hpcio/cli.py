"""The command ``hpcio``.

Exit status: 0 for success, 1 for a run that failed, 2 for misuse or bad input, 130 after
Ctrl-C. Further subcommands come from other packages by the entry-point group
``hpcio.commands``.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import hpcio
from hpcio.errors import BlocksFailed, HpcioError, Interrupted, ResultError, WorkerError
from hpcio.planning.plan import Plan
from hpcio.writers import NAMES

if TYPE_CHECKING:
    from hpcio.running.run import Executor

__all__ = [
    "MEMORY_OPTION",
    "PLAN_OPTIONS",
    "RUN_OPTIONS",
    "create_plan",
    "main",
    "print_table",
    "run_here",
    "with_options",
]

FAILED, MISUSE, INTERRUPTED = 1, 2, 130


class Commands(click.Group):
    """The command's own subcommands, and those that other packages bring."""

    def _brought(self) -> dict[str, metadata.EntryPoint]:
        return {e.name: e for e in metadata.entry_points(group="hpcio.commands")}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *sorted(self._brought().keys() - self.commands.keys())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        # What is brought may know more than the command of the same name here.
        brought = self._brought().get(name)
        return brought.load() if brought else self.commands.get(name)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(hpcio.__version__, "--version", prog_name="hpcio")
def cli() -> None:
    """Run a Python function over every trial of a large HDF5 recording.

    \b
    hpcio run spectrum.py:power rec.h5::/lfp --trials rec.h5::/trials --out out.h5
    """  # noqa: D301  (click reads the backspace)


def main() -> None:
    """Run the command; errors of hpcio become one message and an exit status."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort as abort:  # click's name for Ctrl-C
        if isinstance(abort.__cause__, Interrupted):
            _complain(str(abort.__cause__))
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(MISUSE)
    except HpcioError as error:
        _complain(str(error))
        sys.exit(FAILED if isinstance(error, BlocksFailed | WorkerError | ResultError) else MISUSE)


def _complain(message: str) -> None:
    click.secho("hpcio: ", fg="red", bold=True, err=True, nl=False)
    click.echo(message, err=True)


def with_options(options: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Give a command several options, in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _literal(text: str) -> Any:
    """A Python value if `text` reads as one, else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _pair(_: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    parsed = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"'{pair}' is not NAME=VALUE.", param=option)
        if name in parsed:
            raise click.BadParameter(f"'{name}' is given twice.", param=option)
        parsed[name] = _literal(value)
    return parsed


def _indices(_: click.Context, option: click.Parameter, text: str | None) -> Any:
    """``START:STOP[:STEP]`` or a list ``3,1,2``."""
    if text is None:
        return None
    try:
        if ":" in text:
            return slice(*(int(p) if p else None for p in text.split(":")))
        return [int(p) for p in text.split(",")]
    except (ValueError, TypeError):
        raise click.BadParameter(
            f"'{text}' is neither START:STOP:STEP nor a list such as 3,1,2.", param=option
        ) from None


def _chunks(_: click.Context, option: click.Parameter, text: str | None) -> Any:
    """``auto`` or lengths ``1000,64``."""
    if text is None or text == "auto":
        return text and True
    try:
        return tuple(int(n) for n in text.split(","))
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is neither auto nor lengths such as 1000,64.", param=option
        ) from None


CHUNK_OPTIONS = [
    click.option("--chunks", callback=_chunks, metavar="auto|N,N,...",
                 help="Shape of a chunk; auto: about 1 MB."),
    click.option("--compression", metavar="NAME[:LEVEL][+shuffle]",
                 help="Such as gzip, lzf, zstd:3, lz4, blosc-zstd+shuffle."),
]  # fmt: skip
PLAN_OPTIONS = [
    click.option(
        "--trials",
        help="Which rows make which trial: FILE::DATASET or a CSV or TSV file with columns "
        "start, stop [, offset], or a number of rows for equal trials.",
    ),
    click.option("--out", type=click.Path(), help="The result, a new HDF5 file."),
    click.option(
        "--writer",
        type=click.Choice(NAMES),
        default="virtual",
        show_default=True,
        help="Files of the workers joined by a virtual dataset; or one file that all write, by "
        "themselves, through parallel HDF5, or one after the other under a lock (mutex).",
    ),
    click.option(
        "--sources",
        type=click.Choice(["auto", "trial", "task"]),
        default="auto",
        show_default=True,
        help="Store one file for each block, or for each chunk of blocks.",
    ),
    click.option(
        "--join",
        type=click.Choice(["concatenate", "stack"]),
        default="concatenate",
        show_default=True,
        help="Join results along an axis of theirs, or along a new first axis.",
    ),
    click.option("--join-axis", type=int, help="Axis of the results to join along."),
    click.option(
        "--reduce",
        type=click.Choice(["mean", "sum", "var"]),
        help="Keep the mean, sum or variance of all trials, and no trial.",
    ),
    click.option("--axis", type=int, default=0, show_default=True, help="Axis that trials cut."),
    click.option("--channel-axis", type=int, help="Axis of channels of the recording."),
    click.option("--channels-per-block", type=int, help="Compute so many channels at a time."),
    click.option("--out-channel-axis", type=int, help="Axis of channels of one result."),
    click.option("--select-trials", callback=_indices, help="Some trials, as 0:100 or 3,1,2."),
    click.option("--select-channels", callback=_indices, help="Some channels, likewise."),
    click.option("--select-time", callback=_indices, help="Some rows of each trial, likewise."),
    click.option(
        "--arg", "args", multiple=True, metavar="VALUE", help="A further argument of the function."
    ),
    click.option(
        "--kwarg",
        "kwargs",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_pair,
        help="A keyword argument of the function.",
    ),
    *CHUNK_OPTIONS,
    click.option("--fresh", is_flag=True, help="Remove the result and its run directory first."),
]

MEMORY_OPTION = click.option(
    "--memory", "--mem", "memory", help="What one worker may use, such as 4GB."
)
RUN_OPTIONS = [
    click.option("--workers", type=click.IntRange(0), help="Processes; 0 computes in this one."),
    click.option("--threads", type=click.IntRange(1), default=1, show_default=True,
                 help="Threads of numerical libraries in each worker."),
    MEMORY_OPTION,
    click.option("--retries", type=click.IntRange(0), default=0, show_default=True,
                 help="How often a block that raises is tried again."),
    click.option("--max-failed", type=click.IntRange(0),
                 help="Stop when more have failed.  [default: a tenth, at least 100]"),
    click.option("--gaps", is_flag=True, help="Publish even if blocks failed, with NaN instead."),
    click.option("--quiet", is_flag=True, help="Show no progress."),
]  # fmt: skip


def create_plan(function: str, source: str, options: dict[str, Any]) -> Plan:
    """The plan that the command line asks for."""
    from hpcio.journals.rundir import discard
    from hpcio.recording.sources import Source
    from hpcio.recording.trials import Trials

    for name in ("trials", "out"):
        if options[name] is None:
            raise click.UsageError(f"Missing option '--{name}'.")
    if options["fresh"]:
        discard(options["out"])
    trials: Any = options["trials"]
    trials = int(trials) if trials.isdigit() else trials
    chosen = {
        name: options[f"select_{name}"]
        for name in ("trials", "channels", "time")
        if options[f"select_{name}"] is not None
    }
    if chosen:
        shape, axis = Source.read(source).shape, options["axis"]
        rows = shape[axis] if -len(shape) <= axis < len(shape) else 0
        trials = Trials.read(trials, rows=rows, axis=axis)
        if options["channel_axis"] is not None:
            trials = trials.with_blocks(channel_axis=options["channel_axis"])
        trials = trials.select(**chosen)
    return Plan.create(
        function, source, trials=trials, out=options["out"], writer=options["writer"],
        sources=options["sources"],
        join=options["join"], join_axis=options["join_axis"], axis=options["axis"],
        channel_axis=options["channel_axis"], channels_per_block=options["channels_per_block"],
        out_channel_axis=options["out_channel_axis"],
        keeptrials=options["reduce"] is None, reduce=options["reduce"],
        args=[_literal(a) for a in options["args"]], kwargs=options["kwargs"],
        chunks=options["chunks"], compression=options["compression"],
    )  # fmt: skip


def run_here(plan: Callable[[], Plan], options: dict[str, Any]) -> None:
    """Run a plan on this machine, or on the ranks that an MPI launcher has started."""
    from hpcio.machine.launch import launched
    from hpcio.writers import needs_ranks

    launch = launched()
    # One rank alone is what srun makes of any command: it has the cores of this machine.
    made = plan() if launch is None or launch.size == 1 else None
    if made is not None and (launch is None or not needs_ranks(made)):
        run_plan(made, options)
        return
    from hpcio.running import ranks

    if options["workers"] is not None:
        raise click.UsageError("--workers says nothing under mpirun: its ranks are the workers.")
    ranks.call(lambda executor: run_plan(plan() if made is None else made, options, executor))


def run_plan(plan: Plan, options: dict[str, Any], executor: Executor | None = None) -> None:
    """Run a plan and say what came of it."""
    done = plan.run(
        executor, workers=options["workers"], threads=options["threads"], memory=options["memory"],
        retries=options["retries"], max_failed=options["max_failed"], gaps=options["gaps"],
        progress=False if options["quiet"] else None,
    )  # fmt: skip
    click.echo(f"{done.out}: {done}")


def print_table(rows: list[tuple[str, str]]) -> None:
    """Print names and values, side by side."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", justify="right")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    Console().print(table)


@cli.command()
@click.argument("function", metavar="FUNCTION|OUT")
@click.argument("source", required=False)
@with_options(PLAN_OPTIONS + RUN_OPTIONS)
def run(function: str, source: str | None, **options: Any) -> None:
    """Plan and run, or run a plan that was made before.

    FUNCTION is MODULE:FUNC or FILE.py:FUNC, SOURCE is FILE::DATASET. With one argument
    alone, OUT is the result of a plan: hpcio run out.h5
    """
    if source is not None:
        run_here(lambda: create_plan(function, source, options), options)
        return
    given = [o for o in ("trials", "out") if options[o] is not None]
    if given:
        raise click.UsageError(f"Missing argument 'SOURCE' (with --{given[0]}).")
    run_here(lambda: _load_plan(function, fresh=options["fresh"]), options)


def _load_plan(out: str, *, fresh: bool) -> Plan:
    plan = Plan.load(out)
    if fresh:
        from hpcio.journals.rundir import discard

        discard(plan.out)
    return plan


@cli.command()
@click.argument("function")
@click.argument("source")
@with_options(PLAN_OPTIONS)
@click.option("--workers", type=click.IntRange(1), help="Processes to expect the time for.")
def plan(function: str, source: str, workers: int | None, **options: Any) -> None:
    """Make a plan and say what its run will take, before any work."""
    from hpcio.journals.rundir import prepare

    made = create_plan(function, source, options)
    print_table(made.describe(workers=workers).rows())
    prepare(made)
    click.echo(f"Run it with: hpcio run {options['out']}")


@cli.command()
@click.argument("out", type=click.Path())
@with_options(RUN_OPTIONS)
def resume(out: str, **options: Any) -> None:
    """Compute what a run lacks: after a kill, Ctrl-C, or failed blocks."""
    run_here(lambda: Plan.load(out), options)


@cli.command()
@click.argument("out", type=click.Path())
@click.option("--failed", is_flag=True, help="Show the traceback of each failed block.")
@click.option("--watch", is_flag=True, help="Go on showing it until the run is finished.")
@click.option("--all", "everyone", is_flag=True, help="Show every worker.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(out: str, *, failed: bool, watch: bool, everyone: bool, as_json: bool) -> None:
    """Say how far a run is, who works on it, how fast, and what failed.

    All of it is read from the journals of the run; the queue is asked for the jobs of a run
    that was submitted. Ends with 1 if blocks have failed.
    """
    from hpcio.watching import progress
    from hpcio.watching.status import as_json as for_programs
    from hpcio.watching.status import queues
    from hpcio.watching.status import status as read

    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other.")
    kept = Path(f"{out}.run").exists() or not Path(out).exists()
    if watch and kept:
        progress.follow_status(Plan.load(out))
    # In this order: jobs that have ended by then have written all that is read.
    asked = queues(Plan.load(out)) if kept else {}
    state = read(out)
    if as_json:
        click.echo(json.dumps(for_programs(state, asked), indent=2))
    else:
        progress.print_status(state, asked, tracebacks=failed, everyone=everyone)
    if state.failed:
        sys.exit(FAILED)


@cli.command()
@click.argument("out", type=click.Path())
@click.option("-o", "--output", type=click.Path(), help="The page.  [default: OUT.html]")
def report(out: str, output: str | None) -> None:
    """Write a page of HTML about a run, finished or not: speed, workers, failures."""
    from hpcio.watching.page import write_page

    click.echo(str(write_page(output, out)))


@cli.command()
@click.argument("out", type=click.Path())
def verify(out: str) -> None:
    """Check every byte of a result against its checksums."""
    click.echo(str(hpcio.verify(out)))


@cli.command()
@click.argument("out", type=click.Path())
@click.argument("into", type=click.Path(), required=False)
@with_options(CHUNK_OPTIONS)
@click.option("--workers", type=click.IntRange(1), help="Threads to copy, processes to compress.")
def repack(out: str, into: str | None, **options: Any) -> None:
    """Make one ordinary HDF5 file of a result, verified.

    With INTO, a new file is made. Without it, OUT itself becomes one file, and its run
    directory is removed after verification.
    """
    click.echo(str(hpcio.repack(out, into, **options)))


@cli.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path), default="demo",
              show_default=True, help="Where to put recording, result and picture.")  # fmt: skip
@click.option("--workers", type=click.IntRange(0), help="Processes; by default one a core.")
def demo(folder: Path, workers: int | None) -> None:
    """Make a recording, compute its spectra on all cores, and draw them."""
    from hpcio.demo import run as run_demo

    run_demo(folder, workers=workers)
