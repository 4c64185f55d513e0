"""Results of every kind become one file: however their bytes lie in however many parts."""

from __future__ import annotations

import itertools
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.results.verifying import spans
from tests.rigs.bench import CHANNELS, ROWS, TRIALS, Bench
from tests.rigs.everyday import combinations
from tests.rigs.repacking import contents


def test_a_result_larger_than_one_piece(tmp_path, monkeypatch):
    bench = Bench(tmp_path)
    bench.plan(channels_per_block=2).run(workers=0, progress=False)
    monkeypatch.setattr(spans, "__defaults__", (100,))
    hpcio.repack(bench.out)
    with h5py.File(bench.out) as f:
        assert f["data"][...].tobytes() == bench.expected.tobytes()


HOW: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "one thread": {"workers": 1},
    "chunks": {"chunks": True},
    "odd chunks": {"chunks": (7, 2)},
    "gzip": {"compression": "gzip:1+shuffle"},
    "processes": {"chunks": (4, 3), "compression": "lzf", "workers": 2},
}
UNEVEN = np.array([[0, 3], [3, 30], [2, 9], [30, 60]])
KINDS: dict[str, dict[str, Any]] = {
    "rows": {"trials": 5},
    "direct": {"trials": 5, "writer": "direct"},
    "columns": {"trials": 5, "axis": 1},
    "direct columns": {"trials": 5, "axis": 1, "writer": "direct"},
    "columns into rows": {"trials": 5, "axis": 1, "join_axis": 0},
    "stacked": {"trials": 5, "join": "stack"},
    "channels": {"trials": 5, "channels_per_block": 2},
    "channels stacked": {"trials": 5, "channels_per_block": 2, "join": "stack"},
    "uneven": {"trials": UNEVEN},
}


@pytest.mark.parametrize(
    ("kind", "how"),
    combinations(
        KINDS, HOW,
        everyday=[
            *((kind, how) for kind in KINDS for how in HOW if how != "processes"),
            *((kind, "processes") for kind in ("direct columns", "channels stacked", "uneven")),
        ],
    ),
)  # fmt: skip
def test_every_kind_of_result(tmp_path, small_pieces, kind, how):
    options = HOW[how]
    recording = np.random.default_rng(0).normal(size=(3, 60) if "col" in kind else (60, 3))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = recording
    out, one = tmp_path / "out.h5", tmp_path / "one.h5"
    plan = hpcio.Plan.create(np.negative, tmp_path / "rec.h5::lfp", out=out, **KINDS[kind])
    plan.run(workers=0, progress=False)
    with hpcio.open(out) as f:
        expected = f["data"][...]
    if isinstance(options.get("chunks"), tuple):
        rest = (2,) * (expected.ndim - 2)
        options = {**options, "chunks": options["chunks"] + rest}
    verified = hpcio.repack(out, one, **options)
    assert verified.blocks == len(plan)
    with h5py.File(one) as f:
        assert f["data"][...].tobytes() == expected.tobytes()
        assert (f["data"].chunks is None) == (how in ("contiguous", "one thread"))
        assert not f["data"].is_virtual
    before = contents(one)
    hpcio.repack(one, **HOW["contiguous"])  # and back
    after = contents(one)
    before.pop("/hpcio@compression", None)
    before.pop("hpcio@compression", None)
    assert after == before
    if plan.writer == "direct" or kind == "rows":
        assert hpcio.repack(out, **options).blocks == len(plan)  # in place
        assert hpcio.verify(out).nbytes == expected.nbytes


DTYPES = ["i2", ">f4", "c16", "?"]


@pytest.mark.parametrize(
    ("sources", "dtype", "how"),
    combinations(
        ["trial", "task"], DTYPES, ["contiguous", "gzip", "processes"],
        everyday=[
            *itertools.product(["trial", "task"], DTYPES, ["contiguous", "gzip"]),
            ("trial", ">f4", "processes"), ("task", "i2", "processes"),
        ],
    ),
)  # fmt: skip
def test_gaps_where_blocks_lie_across_pieces(tmp_path, small_pieces, sources, dtype, how):
    bench = Bench(tmp_path, sources=sources)
    path = tmp_path / f"{bench.module}.py"
    path.write_text(
        path.read_text() + "\n\ndef some(trial):\n    if int(trial[0, 0]) in (0, 5, 6, 11):\n"
        f"        raise ValueError('no')\n    return (10 * trial).astype('{dtype}')\n"
    )
    plan = bench.plan("some", out_shape=(ROWS, CHANNELS), out_dtype=dtype)
    plan.run(workers=0, progress=False, gaps=True)
    with hpcio.open(bench.out) as f:
        expected = f["data"][...]  # NaN among them, or zero
    verified = hpcio.repack(bench.out, **HOW[how])
    assert (verified.blocks, verified.gaps) == (TRIALS - 4, 4)
    with h5py.File(bench.out) as f:
        assert f["data"][...].tobytes() == expected.tobytes()


@pytest.mark.parametrize("how", ["contiguous", "chunks"])
def test_results_of_nothing(tmp_path, how):
    bench = Bench(tmp_path)
    path = tmp_path / f"{bench.module}.py"
    path.write_text(path.read_text() + "\n\ndef none(trial):\n    return trial[:0]\n")
    options = {"out_shape": (0, CHANNELS), "out_dtype": "f8"}
    bench.plan("none", **options).run(workers=0, progress=False)
    assert hpcio.repack(bench.out, **HOW[how]).blocks == TRIALS
    with hpcio.open(bench.out) as f:
        assert f["data"].shape == (0, CHANNELS)


def test_more_sources_than_may_be_open(tmp_path, monkeypatch):
    bench = Bench(tmp_path, sources="trial")
    bench.plan().run(workers=0, progress=False)
    monkeypatch.setattr("hpcio.files.virtual._MOST_OPEN", 3)
    hpcio.repack(bench.out, tmp_path / "one.h5")
    hpcio.repack(bench.out, tmp_path / "packed.h5", compression="gzip", workers=1)
    monkeypatch.undo()
    bench.check(tmp_path / "one.h5")
    bench.check(tmp_path / "packed.h5")


def test_sources_whose_names_have_per_cent_signs(tmp_path):
    (tmp_path / "50%%b%").mkdir()
    bench = Bench(tmp_path / "50%%b%")
    bench.plan().run(workers=0, progress=False)
    hpcio.repack(bench.out)
    bench.check()
