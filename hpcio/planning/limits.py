"""What a run may use: a worker needs memory for the largest block, and the disk needs room."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from hpcio.errors import MemoryLimitError
from hpcio.machine import available, check_room, parse_bytes
from hpcio.planning.plan import Plan
from hpcio.recording import LARGE
from hpcio.words import size

__all__ = ["BASE", "block_memory", "check_disk", "check_memory", "plan_memory"]

# Python, numpy and h5py, in bytes.
BASE = 80 << 20
# What a worker holds of each block besides: of its batch, and of its journal.
_OF_A_BLOCK = 64


def block_memory(plan: Plan) -> np.ndarray:
    """Bytes that each block needs at least, shape (B,).

    These hold its trial and its result, for large trials also the next one, which is read ahead,
    and for averages the sums.
    """
    trial = plan.input_sizes()
    need: np.ndarray = trial * np.where(trial < LARGE, 1, 2) + plan.result_sizes()
    return need + 2 * plan.group_bytes


def plan_memory(plan: Plan) -> int:
    """Bytes that a worker needs for the plan, and to work by it."""
    return plan.memory + _OF_A_BLOCK * len(plan)


def check_memory(plan: Plan, limit: str | int | None, *, share: int = 1) -> None:
    """Raise MemoryLimitError if the largest block does not fit into a worker.

    Parameters
    ----------
    plan : Plan
    limit : str, int or None
        What a worker may use; by default its share of what this machine has free.
    share : int
        How many workers share that.
    """
    limit = available() // share if limit is None else parse_bytes(limit)
    need = block_memory(plan)
    largest = int(need.argmax())
    base = BASE + plan_memory(plan)
    total = int(need[largest]) + base
    if total > limit:
        trial = int(plan.trials.index[plan.blocks.trial[largest]])
        remedy = (
            "Use fewer workers, allow more memory, select less, or plan with channels_per_block."
        )
        if base > limit:  # whatever its trials are
            remedy = f"Allow at least {math.ceil(total / 1e6)}MB (in the shell: --memory)."
        raise MemoryLimitError(
            f"Trial {trial} needs {total / 1e6:.0f} MB (trial, result, and "
            f"{base / 1e6:.0f} MB for Python and the plan), but a worker may use "
            f"{size(limit)}. {remedy}"
        )


def check_disk(plan: Plan, blocks: np.ndarray) -> None:
    """Raise OutputError if the results of `blocks` cannot fit on the disk."""
    if any(output.compression for output in plan.outputs):
        return  # nobody knows how small they get; a full disk is reported when it is full
    check_room(Path(plan.out), plan.stored_bytes(blocks))
