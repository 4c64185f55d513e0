"""One ordinary file with all that the result had; its parts go only when that is certain."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import HpcioError, OutputError, PlanError, ResultError, SourceError, WorkerError
from hpcio.results.verify import spans
from tests.rigs.support import CHANNELS, ROWS, TRIALS, Bench, damage, ended, names, start


@pytest.fixture(params=["trial", "task"])
def done(tmp_path, request) -> Bench:
    bench = Bench(tmp_path, sources=request.param)
    bench.plan().run(workers=0, progress=False)
    return bench


def run_directory(bench: Bench) -> dict[str, bytes]:
    """All files of the run directory."""
    folder = Path(f"{bench.out}.run")
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def check_ordinary(path: Path, expected: np.ndarray) -> None:
    with h5py.File(path) as f:
        assert not f["data"].is_virtual
        assert f["data"].chunks is None
        assert f["data"][...].tobytes() == expected.tobytes()
        assert "sources" not in f["hpcio"]


def test_into_a_new_file_leaves_all_as_it_was(done, tmp_path_factory):
    new = tmp_path_factory.mktemp("new") / "one.h5"
    before = run_directory(done), done.out.read_bytes()
    verified = hpcio.repack(done.out, new)
    assert (verified.path, verified.blocks, verified.gaps) == (str(new), TRIALS, 0)
    assert (run_directory(done), done.out.read_bytes()) == before
    assert [p.name for p in new.parent.iterdir()] == ["one.h5"]
    check_ordinary(new, done.expected)
    done.check()
    shutil.rmtree(f"{done.out}.run")
    done.check(new)


def test_in_place_removes_the_run_directory(done):
    verified = hpcio.repack(done.out)
    assert (verified.path, verified.blocks) == (str(done.out), TRIALS)
    assert names(done.folder, "*out.h5*") == ["out.h5"]
    check_ordinary(done.out, done.expected)
    done.check()


def test_twice_is_as_good_as_once(done):
    hpcio.repack(done.out)
    hpcio.repack(done.out)
    done.check()
    hpcio.repack(done.out, done.folder / "again.h5")
    done.check(done.folder / "again.h5")


@pytest.mark.parametrize(
    "tool", [["h5dump", "-d", "/data"], ["h5dump", "-p", "-H"], ["h5ls", "-r"]]
)
def test_the_tools_of_hdf5_read_it(done, tool):
    if not shutil.which(tool[0]):
        pytest.skip(f"there is no {tool[0]} here")
    hpcio.repack(done.out)
    said = subprocess.run([*tool, done.out], capture_output=True, text=True, check=True).stdout
    assert "data" in said
    assert ("CONTIGUOUS" in said) == ("-p" in tool)


@pytest.mark.parametrize("how", ["flipped", "missing", "short"])
@pytest.mark.parametrize("into", [None, "one.h5"])
def test_a_damaged_source_stops_it_and_nothing_is_removed(done, how, into):
    data = done.expected[4 * ROWS : 5 * ROWS].tobytes()
    sources = Path(f"{done.out}.run", "sources")
    path = next(p for p in sources.rglob("*.h5") if data in p.read_bytes())
    if how == "flipped":
        damage(path, path.read_bytes().index(data) + 11)
    elif how == "short":
        os.truncate(path, 2100)
    else:
        path.unlink()
    before = run_directory(done), done.out.read_bytes(), sorted(os.listdir(done.folder))
    with pytest.raises(ResultError) as info:
        hpcio.repack(done.out, into and done.folder / into)
    assert ("Block 4" if how == "flipped" else str(path)) in str(info.value)
    after = run_directory(done), done.out.read_bytes(), sorted(os.listdir(done.folder))
    assert after == before


def test_the_damaged_source_is_named(done):
    data = done.expected[4 * ROWS : 5 * ROWS].tobytes()
    sources = Path(f"{done.out}.run", "sources")
    path = next(p for p in sources.rglob("*.h5") if data in p.read_bytes())
    damage(path, path.read_bytes().index(data))
    with pytest.raises(ResultError) as info:
        hpcio.repack(done.out)
    assert f"'{path}'" in str(info.value)
    assert ".part" not in str(info.value)


def test_a_damaged_copy_is_found_and_named(done):
    hpcio.repack(done.out)
    content = done.out.read_bytes()
    damage(done.out, content.index(done.expected.tobytes()) + ROWS * CHANNELS * 8 * 3)
    with pytest.raises(ResultError, match=r"Block 3 .*out\.h5'\. Restore it from a backup"):
        hpcio.verify(done.out)


@pytest.mark.parametrize(
    ("into", "error", "says"),
    [
        ("rec.h5", OutputError, r"rec\.h5' exists"),
        ("out.h5", OutputError, r"out\.h5' exists"),
        ("no/where/one.h5", OutputError, "no folder"),
    ],
)
def test_an_impossible_new_file_is_refused(done, into, error, says):
    before = run_directory(done), done.out.read_bytes(), (done.folder / "rec.h5").read_bytes()
    with pytest.raises(error, match=says):
        hpcio.repack(done.out, done.folder / into)
    after = run_directory(done), done.out.read_bytes(), (done.folder / "rec.h5").read_bytes()
    assert after == before


def test_a_disk_that_is_too_small_is_refused_beforehand(done, monkeypatch):
    usage = shutil.disk_usage(done.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    for into in (None, done.folder / "one.h5"):
        with pytest.raises(OutputError, match=r"need 0 MB.* where '.*\.h5' will lie.*Free some"):
            hpcio.repack(done.out, into)
    assert names(done.folder, "*.h5") == ["out.h5", "rec.h5"]
    assert names(done.folder, ".*") == []
    done.check()


def test_what_is_no_result_is_refused(done):
    with pytest.raises(ResultError, match="is no result of hpcio"):
        hpcio.repack(done.folder / "rec.h5")
    with pytest.raises(SourceError, match="no file"):
        hpcio.repack(done.folder / "nothing.h5")
    assert names(done.folder, ".*.part") == []


def test_the_run_directory_of_another_run_is_not_removed(done):
    (done.folder / "other").mkdir()
    other = Bench(done.folder / "other")
    other.plan(join="stack").run(workers=0, progress=False)
    shutil.copy(f"{other.out}.run/plan.h5", f"{done.out}.run/plan.h5")
    with pytest.raises(HpcioError, match="belongs to another run and is not removed"):
        hpcio.repack(done.out)
    assert Path(f"{done.out}.run").is_dir()
    done.check()


# ---- what goes with it --------------------------------------------------------------------------

FUNCTION = """

def spectrum(trial, factor, chunkShape=None, noCompute=None):
    import numpy as np
    if noCompute:
        return trial.shape, "f4"
    number = called(trial)
    details = {
        "peak": trial.max(axis=0), "name": np.array("größe"), "number": np.int64(number),
        "large": np.arange(20_000.0) + number,
    }
    return (factor * trial).astype("f4"), details
"""


def contents(path: Path) -> dict[str, object]:
    """All that a reader can see, but how the data are stored."""
    seen: dict[str, object] = {}

    def attributes(name: str, item: h5py.HLObject) -> None:
        for key, value in item.attrs.items():
            if key not in ("DIMENSION_LIST", "REFERENCE_LIST"):
                seen[f"{name}@{key}"] = np.asarray(value).tolist()

    def visit(name: str, item: h5py.HLObject) -> None:
        if name.startswith("hpcio/source"):
            return
        attributes(name, item)
        if isinstance(item, h5py.Dataset):
            seen[name] = (item.dtype, item.shape, item[()].tobytes())

    with h5py.File(path) as f:
        attributes("/", f)
        f.visititems(visit)
        for k, dim in enumerate(f["data"].dims):
            scales = [(scale.name, scale[()].tolist(), scale.is_scale) for scale in dim.values()]
            seen[f"axis {k}"] = (dim.label, list(dim.keys()), scales)
    return seen


@pytest.mark.parametrize("join", ["concatenate", "stack"])
@pytest.mark.parametrize("place", ["new", "in place"])
def test_labels_scales_details_and_attributes_are_kept(tmp_path, join, place):
    bench = Bench(tmp_path)
    path = tmp_path / f"{bench.module}.py"
    path.write_text(path.read_text() + FUNCTION)
    axes: dict[str, object] = {
        "time": None if join == "concatenate" else np.arange(ROWS) / 1000,
        "channel": ["left", "right", "größe"],
    }
    if join == "stack":
        axes = {"trial": None, **axes}
    bench.plan(
        "spectrum", args=(2.0,), join=join, axes=axes,
        trials=np.stack([np.arange(TRIALS), np.arange(1, 1 + TRIALS), np.arange(TRIALS)], 1)
        * [ROWS, ROWS, -1],
    ).run(workers=0, progress=False)  # fmt: skip
    before = contents(bench.out)
    new = tmp_path / "one.h5" if place == "new" else bench.out
    hpcio.repack(bench.out, new if place == "new" else None)
    assert contents(new) == before
    assert before["metadata@number__3_0"] == 3
    assert before["metadata@name__3_0"] == "größe".encode()
    assert before["metadata/large__3_0"][1] == (20_000,)
    assert before["axis 1" if join == "concatenate" else "axis 2"] == (
        "channel", ["channel"],
        [("/channel", [b"left", b"right", "größe".encode()], True)],
    )  # fmt: skip
    with hpcio.open(new) as f:
        assert f["trials"]["offset"].tolist() == [-n for n in range(TRIALS)]
        assert f.attrs["function"].endswith(":spectrum")


def test_scales_of_the_copy_know_their_dataset(tmp_path):
    bench = Bench(tmp_path)
    bench.plan(join="stack").run(workers=0, progress=False)
    hpcio.repack(bench.out)
    with h5py.File(bench.out) as f:
        scale = f["trial"]
        (reference, axis) = scale.attrs["REFERENCE_LIST"][0]
        assert (f[reference].name, axis) == ("/data", 0)
        assert len(scale.attrs["REFERENCE_LIST"]) == 1


@pytest.mark.parametrize("dtype", ["i2", ">f4", "f2", "c16", "?", "u8"])
@pytest.mark.parametrize("sources", ["trial", "task"])
def test_any_type_and_gaps(tmp_path, dtype, sources):
    bench = Bench(tmp_path, sources=sources)
    path = tmp_path / f"{bench.module}.py"
    path.write_text(
        path.read_text() + "\n\ndef some(trial):\n    if called(trial) == 5:\n"
        f"        raise ValueError('no')\n    return (10 * trial).astype('{dtype}')\n"
    )
    plan = bench.plan("some", out_shape=(ROWS, CHANNELS), out_dtype=dtype)
    plan.run(workers=0, progress=False, gaps=True)
    with h5py.File(bench.out) as f:
        before = f["data"][...]
    verified = hpcio.repack(bench.out)
    assert (verified.blocks, verified.gaps) == (TRIALS - 1, 1)
    with h5py.File(bench.out) as f:
        assert f["data"].dtype == np.dtype(dtype)
        assert f["data"][...].tobytes() == before.tobytes()
        assert np.flatnonzero(~f["trials"]["done"]).tolist() == [5]
        if np.dtype(dtype).kind in "fc":
            assert np.isnan(f["data"].fillvalue)


def test_a_result_larger_than_one_piece(tmp_path, monkeypatch):
    bench = Bench(tmp_path)
    bench.plan(channels_per_block=2).run(workers=0, progress=False)
    monkeypatch.setattr(spans, "__defaults__", (100,))
    hpcio.repack(bench.out)
    with h5py.File(bench.out) as f:
        assert f["data"][...].tobytes() == bench.expected.tobytes()


# ---- every kind of result -----------------------------------------------------------------------

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


@pytest.fixture
def small_pieces(monkeypatch):
    """Let blocks be larger than what is read and compared at a time, and lie across its edges."""
    for module in ("hpcio.results.repack", "hpcio.results.verify", "hpcio.results.packing"):
        for name, nbytes in (("PIECE", 64), ("SPAN", 256)):
            monkeypatch.setattr(sys.modules[module], name, nbytes, raising=False)
    monkeypatch.setattr(spans, "__defaults__", (100,))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("how", ["contiguous", "gzip", "processes"])
@pytest.mark.parametrize("dtype", ["i2", ">f4", "c16", "?"])
@pytest.mark.parametrize("sources", ["trial", "task"])
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
    bench.plan("none").run(workers=0, progress=False)
    assert hpcio.repack(bench.out, **HOW[how]).blocks == TRIALS
    with hpcio.open(bench.out) as f:
        assert f["data"].shape == (0, CHANNELS)


def test_more_sources_than_may_be_open(tmp_path, monkeypatch):
    bench = Bench(tmp_path, sources="trial")
    bench.plan().run(workers=0, progress=False)
    monkeypatch.setattr("hpcio.results.opening.room_for", lambda sources: False)
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


# ---- compressed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["gzip", "gzip:9+shuffle", "lzf", "zstd:3", "lz4", "blosc-zstd"])
def test_compressed(done, name, workers):
    if name.partition(":")[0] not in ("gzip", "lzf"):
        pytest.importorskip("hdf5plugin")
    hpcio.repack(done.out, compression=name, workers=workers)
    done.check()
    with h5py.File(done.out) as f:
        assert f["hpcio"].attrs["compression"].startswith(name.encode()[:4])
        assert f["data"].chunks == (TRIALS * ROWS, CHANNELS)
        assert len(f["data"]._filters) == (2 if "shuffle" in name else 1)
    hpcio.repack(done.out)
    check_ordinary(done.out, done.expected)
    with h5py.File(done.out) as f:
        assert "compression" not in f["hpcio"].attrs


def test_it_becomes_smaller(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((100_000, 8))
    plan = hpcio.Plan.create(
        np.negative, tmp_path / "rec.h5::lfp", trials=1000, out=tmp_path / "out.h5"
    )
    plan.run(workers=0, progress=False)
    hpcio.repack(tmp_path / "out.h5", compression="gzip", workers=2)
    assert (tmp_path / "out.h5").stat().st_size < 200_000
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["data"].chunks == (16_384, 8)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_hdf5_reads_and_packs_it_again(done, compression):
    if not shutil.which("h5repack"):
        pytest.skip("there is no h5repack here")
    hpcio.repack(done.out, compression=compression)
    again = done.folder / "again.h5"
    subprocess.run(["h5repack", "-f", "GZIP=9", done.out, again], check=True)
    subprocess.run(["h5diff", done.out, again, "/data"], check=True)
    done.check(again)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_source_stops_compression_too(done, workers):
    data = done.expected[4 * ROWS : 5 * ROWS].tobytes()
    sources = Path(f"{done.out}.run", "sources")
    path = next(p for p in sources.rglob("*.h5") if data in p.read_bytes())
    damage(path, path.read_bytes().index(data) + 11)
    before = run_directory(done)
    with pytest.raises(ResultError, match=rf"Block 4 .*'{path}'"):
        hpcio.repack(done.out, compression="gzip", workers=workers)
    assert run_directory(done) == before
    assert names(done.folder, ".*") == []


def test_a_damaged_chunk_is_found_and_named(done):
    hpcio.repack(done.out, compression="gzip", chunks=(ROWS, CHANNELS))
    with h5py.File(done.out) as f:
        where = f["data"].id.get_chunk_info(3)
    damage(done.out, where.byte_offset + where.size // 2)
    with pytest.raises(ResultError, match=r"Block 3 .*out\.h5'\. Restore it from a backup"):
        hpcio.verify(done.out)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"compression": "zip"}, PlanError, "compression='zip' is unknown. Write NAME.*gzip"),
        ({"compression": "gzip:10"}, PlanError, "no level 10. Choose one from 0 to 9"),
        ({"compression": "lzf:1"}, PlanError, "lzf has no levels. Write 'lzf'"),
        ({"compression": "gzip", "chunks": False}, PlanError, "needs chunks"),
        ({"chunks": (5,)}, PlanError, "1 axes, but the result has 2.*Give a length for each"),
        ({"chunks": (5, 0)}, PlanError, "Give a length of at least 1"),
        ({"chunks": 5}, PlanError, "is no shape of a chunk"),
        ({"chunks": (1.5, 2)}, PlanError, "is no shape of a chunk"),
        ({"workers": 0}, WorkerError, "workers=0 makes no sense"),
    ],
)
def test_impossible_options_are_refused(done, options, error, says):
    before = run_directory(done), done.out.read_bytes()
    with pytest.raises(error, match=says):
        hpcio.repack(done.out, **options)
    assert (run_directory(done), done.out.read_bytes()) == before
    assert names(done.folder, ".*") == []


def test_a_disk_that_gets_full_is_said(done, monkeypatch):
    usage = shutil.disk_usage(done.folder)
    free = iter([1 << 40, 1 << 40, *[1000] * 100])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(free)))
    with pytest.raises(OutputError, match="Free some space"):
        hpcio.repack(done.out, compression="gzip", chunks=(1, CHANNELS), workers=1)
    monkeypatch.undo()
    assert names(done.folder, ".*") == []
    done.check()


# ---- killed -------------------------------------------------------------------------------------

# Ends itself before the given call to the system of those named.
KILLED = """
import json, os, sys
import hpcio

left = int(sys.argv[1])

def deadly(call):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(0, 9)
        return call(*args, **kwargs)
    return wrapped

for name in sys.argv[2].split():
    setattr(os, name, deadly(getattr(os, name)))
hpcio.repack("out.h5", **json.loads(sys.argv[3]))
"""


def killed_at(folder: Path, moment: int, calls: str, **options: Any) -> bool:
    with ended(start(KILLED, folder, str(moment), calls, json.dumps(options))) as child:
        _, err = child.communicate(timeout=60)
        assert child.returncode in (0, -9), err
        return child.returncode != 0


def check_and_go_on(bench: Bench, folder: Path, *, remove: bool = True) -> None:
    bench.check(folder / "out.h5")
    if not remove:
        return
    hpcio.repack(folder / "out.h5")
    bench.check(folder / "out.h5")
    check_ordinary(folder / "out.h5", bench.expected)
    assert names(folder, "*out.h5*") == ["out.h5"]


@pytest.mark.parametrize("moment", range(4))
def test_killed_while_it_renames(done, moment):
    assert killed_at(done.folder, moment, "rename fsync") == (moment < 4)
    check_and_go_on(done, done.folder)


@pytest.mark.parametrize(
    ("calls", "moments", "options"),
    [
        ("preadv pwrite posix_fadvise", 20, {}),
        ("statvfs fsync", 6, {"compression": "gzip", "chunks": [20, CHANNELS]}),
        ("statvfs fsync", 6, {"compression": "gzip", "chunks": [20, CHANNELS], "workers": 2}),
    ],
)
def test_killed_while_it_copies(done, calls, moments, options):
    for moment in range(0, moments, 3):
        killed_at(done.folder, moment, calls, **options)
        check_and_go_on(done, done.folder, remove=False)
    check_and_go_on(done, done.folder)


def test_killed_while_it_removes_the_run_directory(done):
    assert killed_at(done.folder, 3, "unlink")
    assert names(done.folder, "*.old") != []
    done.check()
    Path(f"{done.out}.run").mkdir()  # as the next run of the plan does
    shutil.copy(next(done.folder.glob("*.old/plan.h5")), f"{done.out}.run/plan.h5")
    check_and_go_on(done, done.folder)


@pytest.mark.torture
@pytest.mark.parametrize("sources", ["trial", "task"])
def test_killed_at_any_call_to_the_system(tmp_path, sources):
    original = tmp_path / "original"
    original.mkdir()
    bench = Bench(original, sources=sources)
    bench.plan().run(workers=0, progress=False)
    moment, reached = 0, True
    while reached:
        folder = tmp_path / str(moment)
        shutil.copytree(original, folder)
        reached = killed_at(folder, moment, "open fsync rename unlink rmdir pread fstat")
        bench.check(folder / "out.h5")
        hpcio.repack(folder / "out.h5")
        check_ordinary(folder / "out.h5", bench.expected)
        moment += 1
    assert moment > 2 * TRIALS
