"""One trial of a plan by itself: what the function gets, and what it returns, here and now."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcio.errors import TrialError
from hpcio.function import Arguments, FreshArguments, takes
from hpcio.planning.plan import Plan
from hpcio.recording import Reader
from hpcio.words import count

__all__ = ["call_block", "find_block", "read_block"]


def find_block(plan: Plan, trial: int, *, channel_block: int = 0) -> int:
    """The block of a trial, by the number that messages and results have for it.

    Raises
    ------
    TrialError
        If there is none.
    """
    where = np.flatnonzero(plan.trials.index == trial)
    if not where.size:
        raise TrialError(
            f"The plan has no trial {trial}. Its {count(len(plan.trials), 'trial')} have numbers "
            f"from {plan.trials.index.min()} to {plan.trials.index.max()}."
        )
    if not 0 <= channel_block < plan.blocks.channel_blocks:
        raise TrialError(
            f"Trial {trial} has no channel block {channel_block}: there are "
            f"{plan.blocks.channel_blocks}, from 0."
        )
    return int(where[0]) * plan.blocks.channel_blocks + channel_block


def read_block(plan: Plan, block: int) -> np.ndarray:
    """What the function gets of a block.

    Raises
    ------
    SourceError
        If the recording has changed, or cannot be read.
    """
    with Reader(plan.source, axis=plan.blocks.axis) as reader:
        return reader.of_kind(plan.blocks.kind_of(block))(int(plan.blocks.base[block])).copy()


def call_block(plan: Plan, block: int) -> Any:
    """What the function returns for a block, or raises; as it is now, be it another by now."""
    func = plan.function.as_it_is(live=plan.live)
    given = FreshArguments(Arguments.load(plan.payload))
    args, kwargs = given.of(int(plan.blocks.trial[block]))
    if takes(func, "chunkShape"):
        kwargs["chunkShape"] = plan.largest_shape()
    return func(read_block(plan, block), *args, **kwargs)
