"""Subcommands of ``hpcio`` that need SLURM: submit, resume, cancel, logs, config."""

from __future__ import annotations

import os
import shlex
from typing import Any

import click

from hpcio import Plan
from hpcio.command import (
    KEEP_OPTION,
    MEMORY_OPTION,
    PLAN_OPTIONS,
    RUN_OPTIONS,
    TRIAL_TIME_OPTION,
    create_plan,
    exists_of,
    plan_defaults,
    refuse_plan_options,
    run_here,
    was_said,
    with_options,
)
from hpcio.errors import ClusterError, OptionError, PlanError
from hpcio.journals import on_what_is_there, published
from hpcio.machine import keep_bench, read_whole, set_in_section
from hpcio.words import plain, say, say_json
from slurm import submissions
from slurm.site import SubmitOptions, join_words, read_site, settings

__all__ = ["cancel", "config", "logs", "resume", "submit"]


class NumberOrAuto(click.IntRange):
    """A number from 1 on, or the word auto."""

    name = "integer|auto"

    def __init__(self) -> None:
        super().__init__(1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; ``"auto"`` as it is."""
        return value if value == "auto" else super().convert(value, param, ctx)


_JOB_OPTIONS = [
    click.option(
        "--tasks",
        type=NumberOrAuto(),
        help="Array tasks at the most; auto: as many as a simulation recommends.  [default: 16]",
    ),
    click.option(
        "--chunks-per-task",
        type=click.IntRange(1),
        help="Tasks take over chunks from each other.  [default: 4]",
    ),
    click.option("--partition", help="Where to run; auto: the smallest that fits."),
    click.option("--time", "walltime", help="Of each task, such as 01:00:00."),
    click.option("--cpus", type=click.IntRange(1), help="Of each task."),
    click.option("--throttle", type=click.IntRange(1), help="Tasks that may run at a time."),
    click.option(
        "--mem-retry",
        metavar="2x|off",
        help="Trials that lack memory get so much more in another pass.  [default: 2x]",
    ),
    click.option(
        "--mem-max",
        metavar="SIZE",
        help="At the most so much.  [default: that of the largest node]",
    ),
    click.option(
        "--time-retry", metavar="2x|off", help="Likewise, once, of --trial-time.  [default: off]"
    ),
    click.option("--prologue", help="Shell before Python, such as 'module load hdf5'."),
    click.option("--name", help="Of the jobs."),
    click.option("--mpi", is_flag=True, help="One MPI job instead of a job array."),
    click.option("--ntasks", "ranks", type=click.IntRange(1), help="Its ranks, with --mpi."),
]
# Who says one of these means a job, whatever else an option of a run may be called.
_OF_JOBS = {
    option.name for option in click.command()(with_options(_JOB_OPTIONS)(lambda: None)).params
}
_POLICY_OPTIONS = [
    click.option("--retries", type=click.IntRange(0), default=None,
                 help="How often a trial that raises is tried again.  [default: 0]"),
    click.option("--max-failed", type=click.IntRange(0),
                 help="Stop when more have failed.  [default: a tenth, at least 100]"),
    TRIAL_TIME_OPTION,
    click.option("--gaps/--no-gaps", default=None,
                 help="Publish even if trials failed, with NaN instead."),
]  # fmt: skip


def _given(options: dict[str, Any], words: tuple[str, ...]) -> dict[str, Any]:
    """What `slurm.submit` is asked for; what was not said is left to its defaults."""
    found = {n: options[n] for n in SubmitOptions.names() if options.get(n) is not None}
    if bool(options.get("mpi")) != ("ranks" in found):
        raise click.UsageError("--mpi and --ntasks RANKS go together.")
    if words:
        found["sbatch"] = join_words(words)
    return found


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("function", metavar="FUNCTION|OUT")
@click.argument("source", required=False)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- SBATCH_OPTIONS...]")
@with_options([*PLAN_OPTIONS, MEMORY_OPTION, *_JOB_OPTIONS, *_POLICY_OPTIONS, KEEP_OPTION])
@click.option("--print", "only_print", is_flag=True, help="Show the job scripts, submit nothing.")
@click.option("--script-only", is_flag=True, help="Write the job scripts, submit nothing.")
@click.option("--probe", is_flag=True, help="Compute a few trials here first, to check --time.")
def submit(
    function: str,
    source: str | None,
    words: tuple[str, ...],
    only_print: bool,  # noqa: FBT001
    script_only: bool,  # noqa: FBT001
    probe: bool,  # noqa: FBT001
    **options: Any,
) -> None:
    """Submit a run as a SLURM job array; log out, and come back to the result.

    FUNCTION is MODULE:FUNC or FILE.py:FUNC, SOURCE is FILE::DATASET. With one argument
    alone, OUT is the result of a plan: hpcio submit out.h5

    \b
    hpcio submit spectrum.py:power rec.h5::/lfp --trials rec.h5::/trials --out out.h5 \\
        --tasks 64 --partition short --time 01:00:00 --mem 8G -- --qos=high
    """  # noqa: D301  (click reads the backspace)
    if source is not None and source.startswith("-"):  # OUT alone, then -- and options
        words, source = (source, *words), None
    if source is None:
        refuse_plan_options(function)
    plan = Plan.load(function) if source is None else create_plan(function, source, options)
    exists = exists_of(options)
    if options["keep_done"] and exists != "resume":
        raise click.UsageError("--keep-done goes on with what is there. Leave out --exists.")
    kept = options["keep_done"] and not only_print
    plan = plan.keeping_done() if kept else Plan(**vars(on_what_is_there(plan, exists)))
    given = _given({**options, "probe": probe}, words)
    if only_print:
        for text in submissions.scripts(plan, **given):
            say(text)
        return
    if script_only:
        submissions.write_scripts(plan, **given)
    else:
        submissions.submit(plan, **given)
    _say(plan)


def _say(plan: Plan) -> None:
    """Tell what was submitted or written, and what to do with it."""
    out = shlex.quote(_short(plan.out))
    if published(plan):
        say(f"{plan.out} is there: nothing is missing.")
        return
    last = submissions.newest(plan)
    assert last is not None
    jobs = submissions.jobs(plan, last.number)
    if jobs is None:
        for script in last.script:
            say(f"sbatch {shlex.quote(script)}")
        say(f"sbatch --dependency=afterany:JOB {shlex.quote(last.finish_script)}")
    else:
        arrays = ", ".join(map(str, jobs.arrays))
        tasks = f"{last.tasks} task{'s' * (last.tasks != 1)}"
        if last.ranks:
            tasks = f"{last.ranks} ranks"
        say(f"Submitted {tasks} as job {arrays}; job {jobs.finish} finishes the result.")
    say(f"See how far it is:  hpcio status {out}\nStop it:            hpcio cancel {out}")


def _short(path: str) -> str:
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative


@click.command()
@click.argument("out", type=click.Path())
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- SBATCH_OPTIONS...]")
@with_options([*RUN_OPTIONS, *_JOB_OPTIONS])
@click.option("--here", is_flag=True, help="Compute on this machine, wherever it began.")
def resume(out: str, words: tuple[str, ...], here: bool, **options: Any) -> None:  # noqa: FBT001
    """Compute what a run lacks: after a kill, Ctrl-C, or failed trials.

    A run that was submitted is submitted again, with what was asked for before where
    nothing else is said; any other goes on here.
    """
    plan = Plan.load(out)
    last = submissions.newest(plan)
    given = _given({k: v for k, v in options.items() if was_said(k)}, words)
    if here or (last is None and not (_OF_JOBS | {"sbatch"}) & given.keys()):
        run_here(lambda: plan, options)
        return
    if options["keep_done"]:
        plan.keeping_done()
    submissions.Submitted(plan.out).resume(**given)
    _say(plan)


@click.command()
@click.argument("out", type=click.Path())
def cancel(out: str) -> None:
    """Cancel the jobs of a run; what is done is kept."""
    run = submissions.attach(out)
    before = run.queue()
    alive = [row for row in before.rows if row.alive] if before else []
    run.cancel()
    if alive:
        say(f"Cancelled. Go on with: hpcio resume {shlex.quote(out)}")
    else:
        say("No job of this run is in the queue.")


@click.command()
@click.argument("out", type=click.Path())
@click.argument("task", type=int, required=False)
@click.option("--lines", type=click.IntRange(1), default=50, show_default=True,
              help="Of each log, from its end.")  # fmt: skip
def logs(out: str, task: int | None, lines: int) -> None:
    """Show the log of an array task, or of those that say that something went wrong.

    Of a run that was not submitted: what its workers have printed.
    """
    plan = Plan.load(out)
    last = submissions.newest(plan)
    if last is not None:
        found = submissions.log_files(plan, last, task=task)
    elif task is None:
        there = [path for path in plan.rundir.logs.glob("*.log") if path.stat().st_size]
        found = sorted(there, key=lambda path: path.stat().st_mtime)
    else:
        raise PlanError(f"'{plan.out}' was not submitted, and has no task {task}. Leave it out.")
    if not found:
        say("No log says that something went wrong." if last and task is None else "No log yet.")
    for path in found:
        click.secho(plain(f"==> {path} <=="), bold=True)
        kept = read_whole(path).decode(errors="replace").splitlines()
        if len(kept) > lines:
            click.secho(f"... {len(kept) - lines} lines before", dim=True)
        say("\n".join(kept[-lines:]))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option(
    "--take",
    type=click.Path(),
    metavar="FILE.json",
    help="Take over the writer that a benchmark found best (hpcio bench --json).",
)
def config(as_json: bool, take: str | None) -> None:  # noqa: FBT001
    """Show the defaults of plans and submissions, and the file that they come from."""
    if take is not None:
        from hpcio.bench import read_advice

        found_best = read_advice(take)
        best = {"writer": found_best.writer, "sources": found_best.sources}
        path = set_in_section("plan", best)
        words = ", ".join(f"{name} = {value}" for name, value in best.items())
        say(f"[plan] of '{path}' says now: {words}.\n{found_best.sentence}")
        _keep_for_auto(take)
        return
    try:
        cluster = read_site().cluster
    except ClusterError:  # without SLURM, what holds everywhere is shown
        cluster = None
    found, of_plans = settings(cluster), plan_defaults()
    values = {"writer": "virtual", "sources": "auto"} | of_plans | found.values
    origin = dict.fromkeys(values, "default") | dict.fromkeys(of_plans, "[plan]") | found.origin
    if as_json:
        where = {"path": str(found.path), "cluster": cluster}
        say_json({**where, "values": values, "origin": origin})
        return
    there = "" if found.path.exists() else " (not there)"
    rows = [("file", f"{found.path}{there}"), ("cluster", cluster or "none here")]
    rows += [(name, f"{_shown(value)}  {origin[name]}") for name, value in values.items()]
    # Not in a table that folds: a path is to be copied.
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        say(f"{name:>{width}}  {value}")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return shlex.join(value) or "-"
    return "-" if value in (None, "") else str(value)


def _keep_for_auto(path: str) -> None:
    """Keep what a benchmark has measured for ``--tasks auto``, if it can be used there."""
    from slurm.simulation import Disk

    try:
        Disk.of(path)
    except OptionError as error:
        say(f"--tasks auto goes by what it knew before: {error}", err=True)
    else:
        say(f"What was measured is kept for --tasks auto: {keep_bench(path)}")
