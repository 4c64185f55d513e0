"""Combinations of parameters: a few are tried every day, all others by the torture."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import pytest


def combinations(*values: Sequence[Any], everyday: Collection[tuple[Any, ...]]) -> list[Any]:
    """All combinations of some values, for `parametrize`; every value has its turn every day."""
    combined = [*itertools.product(*values)]
    assert all(some in combined for some in everyday)
    for place, each in enumerate(values):
        assert all(value in [some[place] for some in everyday] for value in each)
    return [
        pytest.param(*one, marks=[] if one in everyday else [pytest.mark.torture])
        for one in combined
    ]
