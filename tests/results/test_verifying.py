"""Any byte of a result that is not the one computed is found, and the file to blame named."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import BlocksFailed, ResultError
from hpcio.layout.target import Target
from hpcio.results.verifying import spans
from hpcio.words import size
from tests.rigs.bench import CHANNELS, ROWS, TRIALS, Bench
from tests.rigs.opened import sources_of
from tests.rigs.support import damage

BYTES = ROWS * CHANNELS * 8  # of the result of one trial


@pytest.fixture(params=["trial", "task"])
def done(tmp_path, request) -> Bench:
    """A finished run of some chunks."""
    bench = Bench(tmp_path, sources=request.param)
    bench.stop(TRIALS // 2)
    with pytest.raises(KeyboardInterrupt):
        bench.plan().run(workers=0, progress=False)
    bench.stop()
    hpcio.Plan.load(bench.out).run(workers=0, progress=False)
    return bench


def where_is(bench: Bench, block: int) -> tuple[Path, int]:
    """The source that holds a block, and where in it."""
    data = bench.expected[ROWS * block : ROWS * (block + 1)].tobytes()
    found = [
        (path, path.read_bytes().index(data))
        for path in Path(f"{bench.out}.run", "sources").rglob("*.h5")
        if data in path.read_bytes()
    ]
    assert len(found) == 1
    return found[0]


def test_says_what_was_verified(done):
    verified = hpcio.verify(done.out)
    assert (verified.blocks, verified.gaps) == (TRIALS, 0)
    assert verified.nbytes == done.expected.nbytes
    assert f"12 trials, {size(done.expected.nbytes)} verified" in str(verified)


def flip_and_verify(bench: Bench, step: int) -> None:
    for block in range(TRIALS):
        path, start = where_is(bench, block)
        for byte in range(0, BYTES, step):
            damage(path, start + byte, byte % 8)
            with pytest.raises(ResultError) as info:
                hpcio.verify(bench.out)
            said = str(info.value)
            rows = f"rows {ROWS * block} to {ROWS * (block + 1) - 1} of 'data'"
            assert said.startswith(f"Block {block} ({rows}) differs from what was computed")
            assert f"'{path}'" in said
            damage(path, start + byte, byte % 8)
    assert hpcio.verify(bench.out).blocks == TRIALS


def test_a_flipped_bit_is_found_and_named(done):
    flip_and_verify(done, step=29)


@pytest.mark.torture
def test_a_flipped_bit_anywhere_is_found_and_named(done):
    flip_and_verify(done, step=1)


def test_a_flipped_bit_in_any_header_is_found_at_once(done):
    for path in sorted(Path(f"{done.out}.run", "sources").rglob("*.h5"))[:4]:
        for byte in range(0, 2048, 61):
            damage(path, byte, byte % 8)
            with pytest.raises(ResultError, match="is not the file that was written") as info:
                hpcio.verify(done.out)
            assert f"'{path}'" in str(info.value)
            damage(path, byte, byte % 8)
    assert hpcio.verify(done.out).blocks == TRIALS


def test_what_the_message_says_mends_it(done):
    path, start = where_is(done, 4)
    damage(path, start)
    with pytest.raises(ResultError) as info:
        hpcio.verify(done.out)
    follow(str(info.value))
    assert not path.exists()
    done.check()


def test_two_blocks_that_changed_places_are_found(done):
    (path, first), (other, second) = where_is(done, 2), where_is(done, 3)
    one, two = (
        p.read_bytes()[at : at + BYTES] for p, at in ((path, first), (other, second))
    )  # fmt: skip
    for p, at, data in ((path, first, two), (other, second, one)):
        with p.open("r+b") as f:
            f.seek(at)
            f.write(data)
    with pytest.raises(ResultError, match=r"2 blocks of .* differ from") as info:
        hpcio.verify(done.out)
    for block, p in ((2, path), (3, other)):
        assert re.search(rf"in '{re.escape(str(p))}': .*block {block} ", str(info.value))


@pytest.mark.parametrize("how", ["virtual", "one file", "chunked"])
def test_all_blocks_that_differ_are_named_by_their_files(tmp_path, how):
    bench = Bench(tmp_path, sources="trial")
    bench.plan().run(workers=0, progress=False)
    if how == "one file":
        hpcio.repack(bench.out)
    elif how == "chunked":
        hpcio.repack(bench.out, compression="gzip", chunks=(ROWS, CHANNELS))
    wrong = [1, 4, 5, 7] if how == "chunked" else [1, *range(3, TRIALS)]
    parts = {
        block: sources_of(bench.out)[block] if how == "virtual" else bench.out for block in wrong
    }
    for block, path in parts.items():
        if how == "chunked":  # which HDF5 cannot unpack then
            with h5py.File(path) as f:
                at = f["data"].id.get_chunk_info(block).byte_offset + 9
        else:
            data = bench.expected[ROWS * block : ROWS * (block + 1)].tobytes()
            at = path.read_bytes().index(data)
        damage(path, at)
    says = f"^{len(wrong)} blocks of '{bench.out}' differ from what was computed"
    with pytest.raises(ResultError, match=says) as info:
        hpcio.verify(bench.out)
    for block in wrong[:10]:
        where = rf"in '{parts[block]}': .*block {block} \(rows {ROWS * block} "
        assert re.search(where, str(info.value))
    assert ("rm " in str(info.value)) == (how == "virtual")
    with pytest.raises(ResultError, match=says):
        hpcio.repack(bench.out, tmp_path / "copy.h5")
    if how == "virtual":
        follow(str(info.value))
        bench.check()


def follow(said: str) -> None:
    """Do what the end of a message says: remove some files, and resume."""
    removing, resuming = said[said.index(": rm ") + 2 :].split("; ")
    for name in shlex.split(removing)[1:]:
        Path(name).unlink()
    command, what, out = shlex.split(resuming)
    assert (command, what) == ("hpcio", "resume")
    hpcio.Plan.load(out).run(workers=0, progress=False)


KINDS = {
    "virtual": {}, "packed": {"compression": "gzip"}, "direct": {"writer": "direct"},
    "mutex": {"writer": "mutex"}, "average": {"keeptrials": False}, "repacked": {},
}  # fmt: skip


@pytest.mark.parametrize("what", ["data", "trials"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_of_any_damaged_result_mends_it(tmp_path, kind, what):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.random.default_rng(0).normal(size=(40, 3))
    out = tmp_path / "out.h5"
    plan = hpcio.Plan.create(
        np.negative, tmp_path / "rec.h5::lfp", trials=5, out=out, **KINDS[kind]
    )
    plan.run(workers=0, progress=False)
    if kind == "repacked":
        hpcio.repack(out)
    with hpcio.open(out) as f:
        before = f["data"][...]
    if what == "trials":
        with h5py.File(out, "r+") as f:
            table = f["trials"][()]
            table["start"] += 1
            f["trials"][()] = table
    elif kind in ("virtual", "packed"):
        path = max(Path(f"{out}.run", "sources").rglob("*.h5"))
        with h5py.File(path) as f:
            at = f["data"].id.get_offset() or f["data"].id.get_chunk_info(0).byte_offset + 9
        damage(path, at)
    else:
        with h5py.File(out, "r+") as f:
            f["data"][-1] += 1
    with pytest.raises(ResultError) as info:
        hpcio.verify(out)
    said = str(info.value)
    if kind != "repacked":
        follow(said)
    else:
        assert "run its plan with fresh=True" in said
        plan.run(workers=0, progress=False, fresh=True)
    hpcio.verify(out)
    with hpcio.open(out) as f:
        np.testing.assert_array_equal(f["data"][...], before)


def test_zeros_in_the_place_of_a_block_are_found(done):
    path, start = where_is(done, 7)
    with path.open("r+b") as f:
        f.seek(start)
        f.write(bytes(BYTES))
    with pytest.raises(ResultError, match="Block 7 "):
        hpcio.verify(done.out)


def test_a_missing_source_is_named(done):
    path, _ = where_is(done, 4)
    path.unlink()
    with pytest.raises(ResultError, match="cannot be read") as info:
        hpcio.verify(done.out)
    assert f"'{path}'" in str(info.value)


def test_a_dataset_of_another_type_is_refused(done):
    with h5py.File(done.out, "r+") as f:
        data = f["data"][...]
        del f["data"]
        f["data"] = data.astype("f4")
    with pytest.raises(ResultError, match=r"'data' of .* is float32 .* the run wrote float64"):
        hpcio.verify(done.out)


# ---- gaps ---------------------------------------------------------------------------------------


def with_gaps(folder: Path, sources: str, dtype: str) -> Bench:
    bench = Bench(folder, sources=sources)
    path = folder / f"{bench.module}.py"
    path.write_text(
        path.read_text() + f"\n\ndef some(trial):\n    number = called(trial)\n"
        f"    if number in (0, 5, 6, {TRIALS - 1}):\n        raise ValueError('no')\n"
        f"    return (100 * trial).astype('{dtype}')\n"
    )
    plan = bench.plan("some", out_shape=(ROWS, CHANNELS), out_dtype=dtype)
    with pytest.raises(BlocksFailed):
        plan.run(workers=0, progress=False)
    plan.run(workers=0, progress=False, gaps=True)
    return bench


@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", "c8", "?"])
@pytest.mark.parametrize("sources", ["trial", "task"])
def test_gaps_hold_the_fill_value_and_are_counted(tmp_path, sources, dtype):
    bench = with_gaps(tmp_path, sources, dtype)
    verified = hpcio.verify(bench.out)
    assert (verified.blocks, verified.gaps) == (TRIALS - 4, 4)
    assert verified.nbytes == (TRIALS - 4) * ROWS * CHANNELS * np.dtype(dtype).itemsize
    expected = (100 * bench.lfp).astype(dtype)
    expected[: 1 * ROWS] = expected[-ROWS:] = expected[5 * ROWS : 7 * ROWS] = (
        np.nan if dtype[0] in "fc" else 0
    )
    with h5py.File(bench.out) as f:
        np.testing.assert_array_equal(f["data"][...], expected)
        assert np.flatnonzero(~f["trials"]["done"]).tolist() == [0, 5, 6, TRIALS - 1]


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_a_block_beside_a_gap_is_verified(tmp_path, sources):
    bench = with_gaps(tmp_path, sources, "f8")
    for path in Path(f"{bench.out}.run", "sources").rglob("*.h5"):
        content = path.read_bytes()
        block = (100 * bench.lfp)[4 * ROWS : 5 * ROWS].tobytes()
        if block in content:
            damage(path, content.index(block) + BYTES - 1)
    with pytest.raises(ResultError, match="Block 4 "):
        hpcio.verify(bench.out)


# ---- pieces -------------------------------------------------------------------------------------

LAYOUTS = {
    "rows": ({"trials": 5}, (60, 3)),
    "columns": ({"trials": 5, "axis": 1}, (3, 60)),
    "stacked": ({"trials": 5, "join": "stack"}, (60, 3)),
    "channels": ({"trials": 5, "channels_per_block": 2}, (60, 7)),
    "uneven": ({"trials": np.array([[0, 3], [3, 30], [2, 9], [30, 60]])}, (60, 3)),
    "selected": ({"trials": hpcio.Trials.equal(5, rows=60).select(channels=[2, 0])}, (60, 3)),
    "three axes": ({"trials": 5, "axis": 1}, (3, 60, 2)),
}


@pytest.mark.parametrize(("options", "shape"), LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("nbytes", [1, 100, 1000, 1 << 20])
def test_pieces_hold_every_block_once_and_whole(tmp_path, options, shape, nbytes):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros(shape)
    plan = hpcio.Plan.create(
        np.negative, tmp_path / "rec.h5::lfp", out=tmp_path / "out.h5", **options
    )
    target: Target = plan.target
    seen: list[int] = []
    row = 0
    for blocks, first, last in spans(target, nbytes):
        assert first == row
        row = last
        seen += blocks.tolist()
        for b in blocks.tolist():
            inside = target.region(b)[target.axis]
            assert first <= inside.start
            assert inside.stop <= last
    assert row == target.shape[target.axis]
    assert seen == list(range(len(plan)))


@pytest.mark.parametrize(("options", "shape"), LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("sources", ["trial", "task"])
def test_any_layout_is_verified(tmp_path, options, shape, sources):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.random.default_rng(0).normal(size=shape)
    out = tmp_path / "out.h5"
    plan = hpcio.Plan.create(
        np.negative, tmp_path / "rec.h5::lfp", out=out, sources=sources, **options
    )
    plan.run(workers=0, progress=False)
    assert hpcio.verify(out).blocks == len(plan)
    path = max(Path(f"{out}.run", "sources").rglob("*.h5"))
    damage(path, os.path.getsize(path) - 1)
    with pytest.raises(ResultError, match=f"Block {len(plan) - 1} "):
        hpcio.verify(out)


def test_a_copy_whose_parts_are_those_of_the_original_is_told(done, tmp_path):
    copy = tmp_path / "copy.h5"
    shutil.copy(done.out, copy)
    shutil.copytree(f"{done.out}.run", f"{copy}.run")
    place = f"its parts lie in '{done.out}.run', and are nowhere else"
    assert place in str(hpcio.verify(copy))
    assert "lie in" not in str(hpcio.verify(done.out))
    assert "lie in" not in str(hpcio.repack(done.out, tmp_path / "one.h5"))
