"""Trials as people see them: in a line, and as a small table of the first ones."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from hpcio.recording.blocks import TrialRows
from hpcio.recording.selections import show
from hpcio.recording.tables import COLUMNS
from hpcio.words import brief, count, html_table

__all__ = ["trials_as_table", "trials_in_words"]

# What a table has of them, and the most letters of a name or a value.
_MOST_ROWS, _MOST_COLUMNS, _WIDEST = 8, 6, 40
# So many names of columns are told in a line.
_MOST_NAMES = 8


def trials_in_words(trials: TrialRows, *, columns: bool = True) -> str:
    """How many trials of which length there are, what is selected, and the names of columns."""
    lengths = trials.stop - trials.start
    low, high = int(lengths.min()), int(lengths.max())
    parts = [
        f"{count(len(trials), 'trial')} of {low if low == high else f'{low} to {high}'} rows "
        f"along axis {trials.axis}"
    ]
    parts += [f"time {show(trials.time)}"] * (trials.time is not None)
    parts += [f"channels {show(trials.channels)}"] * (trials.channels is not None)
    parts += [f"channel axis {trials.channel_axis}"] * (trials.channel_axis is not None)
    if trials.channels_per_block is not None:
        parts.append(f"{trials.channels_per_block} channels per block")
    if columns and trials.columns:
        names = [brief(name, _WIDEST) for name in [*trials.columns][:_MOST_NAMES]]
        parts.append(f"column{'s' * (len(trials.columns) > 1)} {', '.join(names)}")
        parts += ["..."] * (len(trials.columns) > _MOST_NAMES)
    return ", ".join(parts)


def trials_as_table(trials: TrialRows) -> str:
    """The first trials, with the first of their columns, in HTML; others are not looked at."""
    found = {"trial": trials.index, **{name: getattr(trials, name) for name in COLUMNS}}
    further = [*trials.columns.items()][:_MOST_COLUMNS]
    shown = [*found.items(), *further]
    cells = [_cells(values[:_MOST_ROWS]) for _, values in shown]
    left = {
        "more trial": len(trials) - _MOST_ROWS,
        "more column": len(trials.columns) - _MOST_COLUMNS,
    }
    return html_table(
        trials_in_words(trials, columns=False),
        [*zip(*cells, strict=True)],
        header=[brief(name, _WIDEST) for name, _ in shown],
        below=", ".join(count(number, what) for what, number in left.items() if number > 0),
    )


def _cells(values: npt.NDArray[Any]) -> list[str]:
    if values.dtype.kind == "f":
        return [f"{value:.6g}" for value in values]
    return [brief(str(value), _WIDEST) for value in values]
