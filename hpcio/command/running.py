"""Subcommands that plan and run: run, plan, extend, resume."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from hpcio.command.options import (
    PLAN_OPTIONS,
    RUN_OPTIONS,
    TRIAL_OPTIONS,
    TRIAL_TIME_OPTION,
    create_plan,
    exists_of,
    given_trials,
    refuse_plan_options,
    trials_as_told,
    with_options,
)
from hpcio.journals import on_what_is_there
from hpcio.machine import launched
from hpcio.plan import Plan
from hpcio.recording import read_recording
from hpcio.results import open as open_result
from hpcio.running import Executor, begin, call_on_ranks
from hpcio.watching import check_queues, print_pairs
from hpcio.words import say
from hpcio.writers import needs_ranks

__all__ = ["extend", "plan", "resume", "run", "run_here"]


def run_here(plan: Callable[[], Plan], options: dict[str, Any]) -> None:
    """Run a plan on this machine, or on the ranks that an MPI launcher has started."""
    launch = launched()
    # srun makes one rank of any command. A rank alone has the cores of this machine.
    made = plan() if launch is None or launch.size == 1 else None
    if made is not None and (launch is None or not needs_ranks(made)):
        _run_plan(made, options)
        return
    if options["workers"] is not None:
        raise click.UsageError("--workers says nothing under mpirun: its ranks are the workers.")
    call_on_ranks(lambda executor: _run_plan(plan() if made is None else made, options, executor))


def _run_plan(plan: Plan, options: dict[str, Any], executor: Executor | None = None) -> None:
    """Run a plan and say what came of it."""
    done = plan.run(
        executor, workers=options["workers"], threads=options["threads"], memory=options["memory"],
        retries=options["retries"], max_failed=options["max_failed"], gaps=options["gaps"],
        trial_time=options["trial_time"], exists=exists_of(options),
        keep_done=options["keep_done"], progress=False if options["quiet"] else None,
    )  # fmt: skip
    with open_result(done.out) as f:  # which may have grown since it was planned so
        made = [f"{o.name} {f[o.name].shape} {f[o.name].dtype}" for o in plan.outputs]
    say(f"{done.out}: {done}, {', '.join(made)}")


@click.command()
@click.argument("function", metavar="FUNCTION|OUT")
@click.argument("source", required=False)
@with_options(PLAN_OPTIONS + RUN_OPTIONS)
def run(function: str, source: str | None, **options: Any) -> None:
    """Plan and run, or run a plan that was made before.

    FUNCTION is MODULE:FUNC or FILE.py:FUNC, SOURCE is the recording, FILE::DATASET, or a pattern
    in quotes for several, 'data/s*.h5::/lfp'. With one argument alone, OUT is the result of a plan:
    hpcio run out.h5
    """
    if source is not None:
        run_here(lambda: create_plan(function, source, options), options)
        return
    refuse_plan_options(function)
    run_here(lambda: Plan.load(function), options)


@click.command()
@click.argument("function")
@click.argument("source")
@with_options([*PLAN_OPTIONS, TRIAL_TIME_OPTION])
@click.option("--workers", type=click.IntRange(1), help="Processes to expect the time for.")
def plan(function: str, source: str, workers: int | None, **options: Any) -> None:
    """Make a plan and say what its run will take, before any work."""
    made = create_plan(function, source, options)
    print_pairs(made.describe(workers=workers, trial_time=options["trial_time"]).rows())
    if (exists := exists_of(options)) == "fresh":
        check_queues(made)
    begin(Plan(**vars(on_what_is_there(made, exists))))
    say(f"Run it with: hpcio run {options['out']}")


@click.command()
@click.argument("out", type=click.Path())
@click.argument("source", required=False)
@with_options([*TRIAL_OPTIONS, *RUN_OPTIONS])
@click.option("--only-plan", is_flag=True, help="Run nothing yet: hpcio run, or submit, does it.")
def extend(out: str, source: str | None, only_plan: bool, **options: Any) -> None:  # noqa: FBT001
    """Add trials to a finished result.

    OUT is the result, SOURCE a further recording, or a pattern in quotes for several, of which
    those that are there already are left out. Without SOURCE trials are of the recording that is
    there. Only the new trials are computed; trials that are there may be among those of the table,
    if all of them are. In between, the result stays as it is.
    """

    def extended() -> Plan:
        there = Plan.load(out)
        where: dict[str, Any] = {"axis": there.blocks.axis, "out": there.out}
        recording = there.source.now if source is None else partial(read_recording, source, **where)
        trials = trials_as_told(given_trials(options), recording, options, **where)
        return there.extend(
            trials=trials, source=source, outside=options["outside"],
            keep_done=options["keep_done"], trial_time=options["trial_time"],
        )  # fmt: skip

    if only_plan:
        made = begin(extended())
        say(f"{len(made.trials):,} trials. Run it with: hpcio run {shlex.quote(out)}")
    else:
        run_here(extended, {**options, "keep_done": False})  # the plan has seen to it


@click.command()
@click.argument("out", type=click.Path())
@with_options(RUN_OPTIONS)
def resume(out: str, **options: Any) -> None:
    """Compute what a run lacks: after a kill, Ctrl-C, or failed trials."""
    run_here(lambda: Plan.load(out), options)
