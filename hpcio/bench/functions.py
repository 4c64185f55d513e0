"""What is computed in a benchmark: nothing."""

from __future__ import annotations

from typing import Any

from hpcio.function import unwrap_io

__all__ = ["as_it_is"]


@unwrap_io
def as_it_is(trial: Any, noCompute: bool = False) -> Any:  # noqa: FBT001, FBT002
    """Return a trial as it is."""
    if noCompute:
        return trial.shape, trial.dtype
    return trial
