"""One ordinary file with all that the result had; its parts go only when that is certain."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import per_trial
from hpcio.errors import (
    BlocksFailed,
    HpcioWarning,
    OutputError,
    PlanError,
    ResultError,
    SourceError,
)
from hpcio.journals import held
from hpcio.results import repacking
from tests.rigs.bench import CHANNELS, ROWS, TRIALS, Bench
from tests.rigs.repacking import check_ordinary, contents, run_directory
from tests.rigs.support import damage, names


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


def test_a_run_directory_whose_plan_is_gone_is_not_removed(done):
    """A run that was starting over was killed before it had written its plan."""
    (done.folder / "out.h5.run/plan.h5").unlink()
    with pytest.warns(HpcioWarning, match=r"is one file now.*not removed.*plan cannot be read"):
        hpcio.repack(done.out)
    check_ordinary(done.out, done.expected)
    assert names(done.folder, "*out.h5*") == ["out.h5", "out.h5.run"]


def test_the_run_directory_of_another_run_is_not_removed(done):
    (done.folder / "other").mkdir()
    other = Bench(done.folder / "other")
    other.plan(join="stack").run(workers=0, progress=False)
    shutil.copy(f"{other.out}.run/plan.h5", f"{done.out}.run/plan.h5")
    with pytest.warns(HpcioWarning, match=r"is one file now.*holds another run.*hpcio resume"):
        hpcio.repack(done.out)
    assert Path(f"{done.out}.run").is_dir()
    done.check()


def test_what_an_equal_plan_that_starts_over_has_done_stays(done):
    done.mark("raise", 7)
    with pytest.raises(BlocksFailed):
        done.plan().run(workers=0, progress=False, fresh=True)
    done.clear("raise")
    done.forget_calls()
    said = subprocess.run(
        [sys.executable, "-m", "hpcio", "repack", done.out], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "hpcio: note: The result is one file now" in said.stderr
    check_ordinary(done.out, done.expected)
    hpcio.Plan.load(done.out).run(workers=0, progress=False)
    assert done.calls == [7]
    done.check()


def test_in_place_is_refused_while_a_run_is_at_work(done):
    before = run_directory(done), done.out.read_bytes()
    with held(hpcio.Plan.load(done.out)), pytest.raises(PlanError, match="at work in another"):
        hpcio.repack(done.out)
    with held(hpcio.Plan.load(done.out)):
        hpcio.repack(done.out, done.folder / "one.h5")
    assert (run_directory(done), done.out.read_bytes()) == before


@pytest.mark.parametrize("how", ["replaced", "written to"])
def test_a_result_that_changes_while_it_is_repacked_stays(done, monkeypatch, how):
    hpcio.repack(done.out)  # so that no run directory keeps others away
    copied = repacking._read_back

    def changing(*args, **options):
        checked = copied(*args, **options)
        if how == "replaced":
            done.plan("scaled", args=(per_trial([0] * TRIALS),), kwargs={"factor": [3.0]}).run(
                workers=0, progress=False, fresh=True
            )
        else:
            with h5py.File(done.out, "r+") as f:
                f.attrs["note"] = "mine"
        return checked

    monkeypatch.setattr(repacking, "_read_back", changing)
    with pytest.raises(ResultError, match=r"out\.h5' was replaced, or written to.*Repack it again"):
        hpcio.repack(done.out)
    with hpcio.open(done.out) as f:
        factor = 3.0 if how == "replaced" else 2.0
        np.testing.assert_array_equal(f["data"][()], factor * done.lfp)
        assert ("note" in f.attrs) == (how == "written to")
    hpcio.verify(done.out)


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


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_names_of_any_bytes(tmp_path, sources):
    """They are no UTF-8, in which h5py tells names of sources."""
    out = tmp_path / os.fsdecode(b"bad\xff.h5")
    expected = -np.arange(80.0).reshape(40, 2)
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = -expected
    options = {"trials": 10, "sources": sources}
    plan = hpcio.Plan.create(np.negative, f"{tmp_path}/rec.h5::lfp", out=out, **options)
    plan.run(workers=0, progress=False)
    twice = hpcio.Plan.create(np.negative, f"{out}::data", trials=10, out=tmp_path / "twice.h5")
    twice.run(workers=0, progress=False)
    with hpcio.open(twice.out) as f:
        np.testing.assert_array_equal(f["data"][...], -expected)
    for into, how in (("one.h5", {}), ("packed.h5", {"compression": "gzip"}), (None, {})):
        made = hpcio.repack(out, into and tmp_path / into, **how)
        with hpcio.open(made.path) as f:
            np.testing.assert_array_equal(f["data"][...], expected)
    plan = hpcio.Plan.create(np.negative, f"{out}::data", trials=10, out=tmp_path / "again.h5")
    assert plan.run(workers=0, progress=False).computed == 4
