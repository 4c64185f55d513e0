"""Values that lie in several files, on a disk that fails: right ones, or an error."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import SourceError
from tests.rigs.failing import build, wrong
from tests.rigs.failing_reads import LFP, PARTS, ROWS, make_parts, tried


@pytest.mark.parametrize("each", [5, pytest.param(1, marks=pytest.mark.torture)])
def test_each_open_and_read_fails_once(tmp_path, each):
    shim = build(tmp_path)
    if shim is None:
        pytest.skip("there is no C compiler here")
    found = tried(shim, tmp_path, each)
    assert {t.kind for t in found} == {
        f"{story}: {kind}" for story in ("recording", "result") for kind in ("open", "read")
    }
    assert wrong(found) == []


# Parts that a virtual dataset names, and ones that it finds by another one.
@pytest.mark.parametrize("part", [1, 2])
def test_a_part_that_is_away_for_a_moment_ends_the_run(tmp_path, part):
    source = make_parts(tmp_path / "parts")
    path, away = tmp_path / "parts" / f"part{part}.h5", tmp_path / "away.h5"

    def negative(trial):
        if trial[0, 0] == LFP[0, 0]:  # all was there when the run began
            path.rename(away)
        if trial[0, 0] == LFP[(PARTS - 1) * ROWS, 0]:
            away.rename(path)
        return -trial

    plan = hpcio.Plan.create(
        negative, source, trials=ROWS, out=tmp_path / "out.h5", out_shape=(ROWS, 4), out_dtype="f8"
    )
    with pytest.raises(SourceError, match=f"part{part}.h5"):
        plan.run(workers=0, progress=False)
    away.rename(path)
    plan = hpcio.Plan.create(
        np.negative, source, trials=ROWS, out=tmp_path / "b.h5", out_shape=(ROWS, 4), out_dtype="f8"
    )
    plan.run(workers=0, progress=False)
    with hpcio.open(tmp_path / "b.h5") as f:
        assert (f["data"][...] == -LFP).all()


def test_files_that_a_region_does_not_need_may_be_unread(tmp_path):
    """Values of two files in turn: their regions meet everywhere, and no row needs both."""
    layout = h5py.VirtualLayout((20, 3), "f8")
    for k in range(2):
        with h5py.File(tmp_path / f"part{k}.h5", "w") as f:
            f["d"] = np.full((10, 3), float(k))
        layout[k::2] = h5py.VirtualSource(tmp_path / f"part{k}.h5", "d", (10, 3))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f.create_virtual_dataset("lfp", layout)
    trials = [[k, k + 1] for k in range(20)]
    plan = hpcio.Plan.create(np.negative, f"{tmp_path}/rec.h5::lfp", trials=trials,
                             out=tmp_path / "out.h5")  # fmt: skip
    plan.run(workers=0, progress=False)
    with hpcio.open(tmp_path / "out.h5") as f:
        assert (f["data"][...] == -(np.arange(20) % 2)[:, None]).all()
    assert not any("part" in os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                   if os.path.exists(f"/proc/self/fd/{n}"))  # fmt: skip
