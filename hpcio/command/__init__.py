"""The subcommands of ``hpcio``, and the options that several of them have.

This room stands on top of all others: it reads the command line, calls the public names, and says
what came of it. The command and other packages take options and `run_here` from it. A new
subcommand is a file here and a line in `hpcio.cli.COMMANDS`, or an entry point of another package.
"""

from hpcio.command.options import (
    CHUNK_OPTIONS,
    KEEP_OPTION,
    MEMORY_OPTION,
    PLAN_OPTIONS,
    RUN_OPTIONS,
    TRIAL_TIME_OPTION,
    create_plan,
    exists_of,
    plan_defaults,
    refuse_plan_options,
    was_said,
    with_options,
)
from hpcio.command.running import run_here

__all__ = [
    "CHUNK_OPTIONS",
    "KEEP_OPTION",
    "MEMORY_OPTION",
    "PLAN_OPTIONS",
    "RUN_OPTIONS",
    "TRIAL_TIME_OPTION",
    "create_plan",
    "exists_of",
    "plan_defaults",
    "refuse_plan_options",
    "run_here",
    "was_said",
    "with_options",
]
