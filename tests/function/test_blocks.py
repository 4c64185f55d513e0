"""Blocks by hand: the dict of one, and what comes of it, are those of a run."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import per_trial
from tests.rigs.plans import TRIALS, rich, weighted


def test_the_dict_of_a_block(plan, tmp_path):
    trl_dat = rich(plan).trl_dat(5)  # the second channel block of the third trial
    assert trl_dat == {
        "keeptrials": True,
        "infile": str(tmp_path / "rec.h5"),
        "indset": "lfp",
        "ingrid": (slice(12, 20, 1), slice(3, 4, 1)),
        "inshape": (8, 1),
        "sigrid": [[7, 6, 5, 4, 3, 2, 1, 0], [0]],
        "fancy": True,
        "vdsdir": str(tmp_path / "out.h5.byhand"),
        "outfile": str(tmp_path / "out.h5.byhand" / "2_1.h5"),
        "outdset": "data",
        "outgrid": (slice(10, 18), slice(2, 3)),
        "outshape": (8, 1),
        "dtype": np.dtype("f4"),
        "call_id": "__2_1",
    }


@hpcio.unwrap_io
def filtered(trial, taps=(0.5, 0.5), chunkShape=None, noCompute=None):
    """A moving average, channels first, with the mean of each channel as detail."""
    if noCompute:
        return trial.shape[::-1], np.dtype("f8")
    smooth = np.apply_along_axis(np.convolve, 0, trial, taps, mode="same")
    return smooth.T, {"mean": trial.mean(axis=0)}


@pytest.mark.parametrize(
    "options",
    [
        {"join_axis": 1},
        {"join_axis": 1, "out_channel_axis": 0, "channels_per_block": 3},
        {"join": "stack", "trials": 6},
        {"join": "stack", "trials": 6, "out_channel_axis": 0, "channels_per_block": 1},
        {"join_axis": 1, "sources": "task", "out_dtype": "f4"},
        {"join_axis": 1, "args": [per_trial([[1.0], [0.5, 0.5], [0.25] * 4, [2.0], [1.0, 1.0]])]},
        {"join_axis": 1, "trials": hpcio.Trials.from_array(TRIALS).select(
            trials=[4, 0, 2, 0], time=[3, 0, 2, 2], channels=[3, 0, 3])},
    ],
)  # fmt: skip
def test_blocks_driven_by_hand_give_what_a_run_gives(plan, options):
    made = plan(filtered, **options)
    byhand = np.full(made.target.shape, np.nan, made.target.dtype)
    details = {}
    for i in range(len(made)):
        trl_dat = made.trl_dat(i)
        args, kwargs = made.arguments().of(int(made.blocks.trial[i]))
        assert filtered((trl_dat, *args), **kwargs) is None
        with h5py.File(trl_dat["outfile"]) as f:
            byhand[trl_dat["outgrid"]] = f["data"][...]
            details.update(f["metadata"].attrs)
    made.run(workers=0, progress=False)
    with h5py.File(made.out) as f:
        assert f["data"].dtype == byhand.dtype
        assert f["data"][...].tobytes() == byhand.tobytes()
        kept = dict(f["metadata"].attrs)
    assert kept.keys() == details.keys()
    assert all(np.array_equal(kept[name], details[name]) for name in kept)


def test_blocks_driven_by_hand_into_one_shared_file(plan, tmp_path):
    made = rich(plan)
    with h5py.File(tmp_path / "shared.h5", "w") as f:
        f.create_dataset("data", made.target.shape, made.target.dtype)
    worker = hpcio.unwrap_io(weighted)
    for i in range(len(made)):
        args, kwargs = made.arguments().of(int(made.blocks.trial[i]))
        shared = {**made.trl_dat(i), "vdsdir": None, "outfile": tmp_path / "shared.h5"}
        worker((shared, *args), **kwargs)
    made.run(workers=0, progress=False)
    with h5py.File(made.out) as f, h5py.File(tmp_path / "shared.h5") as g:
        np.testing.assert_array_equal(g["data"], f["data"])
        assert g["data"].dtype == f["data"].dtype
