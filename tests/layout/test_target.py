"""Where the result of each block lies: every region once, and nothing left out."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcio import Plan
from tests.rigs.plans import LFP, spread


@pytest.mark.parametrize(
    ("func", "options", "shape", "region"),
    [
        # region: of the last block, which is (the last channels of) trial 4
        (np.negative, {}, (30, 4), (slice(26, 30), slice(0, 4))),
        (np.transpose, {"join_axis": 1}, (4, 30), (slice(0, 4), slice(26, 30))),
        (np.transpose, {"join_axis": -1}, (4, 30), (slice(0, 4), slice(26, 30))),
        (lambda x: x[:2], {"join": "stack"}, (5, 2, 4), (slice(4, 5), slice(0, 2), slice(0, 4))),
        (lambda x: x.mean(), {"join": "stack"}, (5,), (slice(4, 5),)),
        (lambda x: x.mean(0), {}, (20,), (slice(16, 20),)),
        (np.negative, {"channels_per_block": 3}, (30, 4), (slice(26, 30), slice(3, 4))),
        (lambda x: x[:2], {"channels_per_block": 3, "join": "stack"}, (5, 2, 4),
         (slice(4, 5), slice(0, 2), slice(3, 4))),
        (lambda x: x.mean(0), {"channels_per_block": 3, "join": "stack", "out_channel_axis": 0},
         (5, 4), (slice(4, 5), slice(3, 4))),
        (spread, {"join_axis": 2, "out_channel_axis": 0, "channels_per_block": 2}, (4, 1, 30, 2),
         (slice(2, 4), slice(0, 1), slice(26, 30), slice(0, 2))),
        (spread, {"join_axis": 1, "trials": 6}, (4, 5, 6, 2),
         (slice(0, 4), slice(4, 5), slice(0, 6), slice(0, 2))),
    ],
)  # fmt: skip
def test_results_are_joined_or_stacked(plan, func, options, shape, region):
    made = plan(func, **options)
    assert made.target.shape == shape
    assert made.target.region(len(made) - 1) == region
    check_tiles(made)


def check_tiles(made: Plan) -> None:
    """The regions of all blocks fill the result, and no two overlap."""
    seen = np.zeros(made.target.shape, np.int64)
    for i in range(len(made)):
        region = made.target.region(i)
        seen[region] += 1
        size = made.target.sizes()[i] // made.target.dtype.itemsize
        assert seen[region].size == size
    assert (seen == 1).all()


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    edges = np.cumsum([0, *lengths])
    join = draw(st.sampled_from(["concatenate", "stack"]))
    options: dict[str, Any] = {
        "trials": np.column_stack([edges[:-1], edges[1:]]), "join": join,
        "channels_per_block": draw(st.none() | st.integers(1, 4)),
    }  # fmt: skip
    if join == "stack":
        options |= {"func": lambda x: x[:1], "out_shape": lambda shape: (1, shape[1])}
    elif draw(st.booleans()):
        options |= {"func": lambda x: x.T, "out_shape": lambda shape: shape[::-1],
                    "join_axis": 1, "out_channel_axis": 0}  # fmt: skip
    else:
        options |= {"func": lambda x: np.concatenate([x, x]),
                    "out_shape": lambda shape: (2 * shape[0], shape[1])}  # fmt: skip
    return {**options, "out_dtype": LFP.dtype}


@given(cases())
@settings(max_examples=60, deadline=None)
def test_any_regions_fill_the_result(tmp_path_factory, options):
    folder = tmp_path_factory.getbasetemp() / "tiles"
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = LFP
    func = options.pop("func")
    check_tiles(Plan.create(func, f"{folder}/rec.h5::lfp", out=folder / "out.h5", **options))
