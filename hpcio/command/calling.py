"""The subcommand that calls the function for one trial, to find out why it fails: call."""

from __future__ import annotations

import sys
from typing import Any

import click
import numpy as np

from hpcio.errors import HpcioError
from hpcio.plan import Plan
from hpcio.words import print_traceback, say

__all__ = ["call"]

# Exit status if the function raises.
FAILED = 1


@click.command()
@click.argument("out", type=click.Path())
@click.argument("trial", type=int)
@click.option("--channel-block", type=int, default=0, help="Of a trial that is cut into several.")
@click.option("--pdb", is_flag=True, help="If it raises, look around where it did.")
def call(out: str, trial: int, *, channel_block: int, pdb: bool) -> None:
    """Call the function of a run for one trial, here, and show what it returns.

    TRIAL is its number, as status names it. The function is taken as it is now (one of a script or
    notebook as it was planned); nothing is kept.
    """
    plan = Plan.load(out)
    if plan.function.pickled:
        say("(the function as it was planned: it is kept by its value)", err=True)
    given = plan.trial(trial, channel_block=channel_block)
    say(f"trial {trial}: {_shown(given)}")
    try:
        found = plan.call(trial, channel_block=channel_block)
    except HpcioError:
        raise
    except Exception as error:  # noqa: BLE001  (whatever it raises)
        print_traceback(error)
        if pdb:
            import pdb as debugger

            debugger.post_mortem(error.__traceback__)
        sys.exit(FAILED)
    for part in found if isinstance(found, tuple) else (found,):
        say(f"returns {_shown(part)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"details {', '.join(map(str, value))}"
    array = np.asarray(value)
    text = np.array2string(array, threshold=20, edgeitems=2, precision=4)
    return f"{array.dtype} of shape {array.shape}\n{text}"
