"""Runs over several recordings: the numbers of plain numpy, whatever happens on the way."""

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
from hpcio import Plan
from hpcio.errors import PlanError, SourceError
from hpcio.journals.rundir import prepare
from hpcio.reporting import write_page
from tests.rigs.bench import WRITERS
from tests.rigs.runs import check, left_by_a_kill
from tests.rigs.several import LFP, NAMES, PIECES, TABLES, check_all, make_study, record
from tests.rigs.several import plan_of as plan
from tests.rigs.support import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_study(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("writer", WRITERS)
def test_any_writer(folder, writer, workers):
    plan(folder, **WRITERS[writer]).run(workers=workers, progress=False)
    check_all(folder / "out.h5")


def test_blocks_of_channels_and_selections(folder):
    trials = [hpcio.Trials.read(table).select(channels=[3, 0, 2]) for table in TABLES]
    plan(folder, trials=trials, channels_per_block=2).run(workers=0, progress=False)
    check(folder / "out.h5", 2 * np.concatenate(PIECES)[:, [3, 0, 2]])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_average_for_each_recording(folder, workers):
    made = plan(folder, "mean", keeptrials=False, by="recording")
    made.run(workers=workers, progress=False)
    means = np.array([piece.mean(axis=0) for piece in PIECES])
    with hpcio.open(folder / "out.h5") as f:
        assert f["recording"].asstr()[:].tolist() == ["s0", "s1", "s2"]
        assert f["count"][:].tolist() == [3, 1, 4]
        expected = [means[:3].mean(axis=0), means[3], means[4:].mean(axis=0)]
        np.testing.assert_allclose(f["data"][:], expected, rtol=1e-14)


def test_one_table_for_all(folder):
    """Its last row comes first: trials are sorted by recording, and else stay in its order."""
    rows = [rows for table in TABLES for rows in table][::-1]
    start, stop = zip(*rows, strict=True)
    table = {"recording": NAMES[::-1], "start": start, "stop": stop}
    plan(folder, trials=table).run(workers=2, progress=False)
    check(folder / "out.h5", 2 * np.concatenate([PIECES[k] for k in (2, 1, 0, 3, 7, 6, 5, 4)]))
    with hpcio.open(folder / "out.h5") as f:
        assert f["trials"]["trial"].tolist() == [5, 6, 7, 4, 0, 1, 2, 3]
        assert f["recording"].asstr()[:].tolist() == NAMES


def test_a_pattern_leaves_the_result_out(folder):
    """Be it finished or not, `sum.h5` and the parts of it are none of the recordings."""
    options = {"trials": f"{folder}/s*.h5::/trials", "out": folder / "sum.h5", "sources": "trial"}
    source = f"{folder}/**/s*.h5::lfp"
    for computed in (8, 0):
        made = Plan.create(f"{folder}/study.py:double", source, **options)
        assert made.run(workers=0, progress=False).computed == computed
    check_all(folder / "sum.h5")


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_in_the_second_recording(folder, monkeypatch, workers):
    """The process of the run itself, or a worker of it."""
    monkeypatch.chdir(folder)
    script = f"import hpcio; hpcio.Plan.load('out.h5').run(workers={workers}, progress=False)"
    prepare(plan(folder, "fragile"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == (-9 if workers == 0 else 1)
    (folder / "mended").touch()
    assert Plan.load("out.h5").run(workers=0, progress=False).computed <= 5
    check_all(folder / "out.h5")


@pytest.mark.parametrize("writer", WRITERS)
def test_killed_and_resumed(folder, writer):
    made = left_by_a_kill(plan(folder, **WRITERS[writer]), safe=2, more=3)
    done = Plan.load(made.out).run(workers=0, progress=False)
    assert 3 <= done.computed <= 6
    check_all(folder / "out.h5")
    assert plan(folder, **WRITERS[writer]).run(progress=False).computed == 0


def test_moved_together_with_its_recordings(folder):
    left_by_a_kill(plan(folder), safe=2, more=0)
    there = folder.with_name("archive")
    shutil.move(folder, there)
    made = Plan.load(there / "out.h5")
    assert [part.path for part in made.source.parts] == [f"{there}/s{k}.h5" for k in range(3)]
    assert made.run(workers=2, progress=False).computed == 6
    check_all(there / "out.h5")


def test_a_recording_that_has_changed_is_named(folder):
    left_by_a_kill(plan(folder), safe=2, more=0)
    record(folder, 1, gain=2.0)
    with pytest.raises(SourceError, match=r"'\S*s1\.h5' has changed since the plan"):
        Plan.load(folder / "out.h5").run(workers=0, progress=False)
    with pytest.raises(PlanError, match="another plan \\(other recording\\)"):
        plan(folder).run(progress=False)
    assert not (folder / "out.h5").exists()


def test_a_recording_that_changes_during_the_run_is_no_result(folder):
    def overwriting(trial):
        with open(folder / "s0.h5", "r+b") as f:  # which was read before
            f.write(f.read(1))
        os.utime(folder / "s0.h5")
        return trial

    made = Plan.create(
        overwriting, f"{folder}/s*.h5::lfp", trials="::/trials", out=folder / "out.h5",
        out_shape=lambda shape: shape, out_dtype="f8",
    )  # fmt: skip
    with pytest.raises(SourceError, match=r"'\S*s0\.h5' has changed since the plan"):
        made.run(workers=0, progress=False)
    assert not (folder / "out.h5").exists()


def test_the_dict_of_a_block_reads_its_own_recording(folder):
    made = plan(folder)
    for block, piece in enumerate(PIECES):
        told = made.trl_dat(block)
        Path(told["vdsdir"]).mkdir(exist_ok=True)
        made.load_function()(told)
        with h5py.File(told["outfile"]) as f:
            np.testing.assert_array_equal(f["data"], 2 * piece)


def shell(folder: Path, line: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_in_the_shell(folder):
    said = shell(folder, "hpcio plan study.py:double 's*.h5::/lfp' --trials ::/trials --out out.h5")
    assert "3 recordings, from " in said
    shell(folder, "hpcio run out.h5 --workers 2 --quiet")
    check_all(folder / "out.h5")
    assert "8 done, 0 failed" in shell(folder, "hpcio status out.h5")
    assert "3 recordings, from " in write_page(folder / "page.html", folder / "out.h5").read_text()
    shell(
        folder, "hpcio run study.py:double 's*.h5::/lfp' --trials 's?.h5::/trials' --workers 0 "
        "--where recording=s0,s2 --select-channels 1 --out some.h5 --quiet",
    )  # fmt: skip
    rows = ["s0,0,10", "s1,60,70", "s1,0,5"]
    (folder / "all.csv").write_text("\n".join(["recording,start,stop", *rows]))
    shell(
        folder, "hpcio run study.py:double s1.h5::/lfp --trials all.csv --where recording=s1 "
        "--workers 0 --out one.h5 --quiet",
    )  # fmt: skip
    check(folder / "one.h5", 2 * LFP[1][[*range(60, 70), *range(5)]])
    check(folder / "some.h5", 2 * np.concatenate([*PIECES[:3], *PIECES[4:]])[:, 1:2])


def test_where_a_result_came_from(folder):
    made = plan(folder)
    made.run(workers=0, progress=False)
    hpcio.repack(folder / "out.h5")
    with hpcio.open(folder / "out.h5") as f:
        said = {name: json.loads(f.attrs[name]) for name in f.attrs if name.startswith("source")}
        table = f["hpcio/recordings"][:]
    assert said["source"] == [f"{folder}/s{k}.h5" for k in range(3)]
    assert said["source_dataset"] == ["/lfp"] * 3
    assert said["source_size"] == table["size"].tolist() == [x.size for x in made.source.parts]
    assert [path.decode() for path in table["path"]] == said["source"]
    assert hpcio.verify(folder / "out.h5").blocks == 8
    with h5py.File(folder / "out.h5", "r+") as f:
        f["hpcio/recordings"][1] = table[0]
    with pytest.raises(hpcio.errors.ResultError, match="'hpcio/recordings'"):
        hpcio.verify(folder / "out.h5")


def second(source: Any, out: Path, **options: Any) -> list[tuple[str, str]]:
    """A step over results; which functions its result tells of, and which result each has made."""
    Plan.create(np.negative, source, out=out, **options).run(workers=0, progress=False)
    with hpcio.open(out) as f:
        steps = json.loads(f.attrs["chain"])
        return [(step["function"].rpartition(":")[2], Path(step["result"]).stem) for step in steps]


def test_the_next_step_keeps_the_column_recording(folder):
    """Also where the result is called as one of its recordings is."""
    (folder / "out").mkdir()
    out = folder / "out" / "s1.h5"
    plan(folder, out=out).run(workers=0, progress=False)
    assert second(out, folder / "b.h5", trials=out) == [("double", "s1")]
    check(folder / "b.h5", -2 * np.concatenate(PIECES))
    with hpcio.open(folder / "b.h5") as f:
        assert f["recording"].asstr()[:].tolist() == NAMES
        (step,) = json.loads(f.attrs["chain"])
        assert step["source"] == [f"{folder}/s{k}.h5" for k in range(3)]


def test_results_and_recordings_as_one(folder):
    """Each earlier step is told, once; what a recording of results was computed of, too."""
    one = Plan.create(np.abs, f"{folder}/s1.h5::lfp", trials=35, out=folder / "one.h5")
    one.run(workers=0, progress=False)
    assert second(folder / "one.h5", folder / "two.h5", trials=35) == [("absolute", "one")]
    found = second(
        [f"{folder}/{name}" for name in ("s0.h5::lfp", "two.h5", "one.h5")], folder / "all.h5",
        trials=[10, "::/trials", 70],
    )  # fmt: skip
    assert found == [("absolute", "one"), ("negative", "two")]
    size = np.abs(LFP[1])
    check(folder / "all.h5", -np.concatenate([LFP[0], -size, size]))


def test_results_of_several_recordings_as_one(folder):
    for name in ("a", "b"):
        plan(folder, out=folder / f"out_{name}.h5").run(workers=0, progress=False)
    found = second(f"{folder}/out_?.h5", folder / "both.h5", trials="::/trials")
    assert found == [("double", "out_a"), ("double", "out_b")]
    check(folder / "both.h5", -2 * np.concatenate([*PIECES, *PIECES]))
    with hpcio.open(folder / "both.h5") as f:
        assert f["earlier_recording"].asstr()[:].tolist() == NAMES * 2
        assert f["recording"].asstr()[:].tolist() == ["out_a"] * 8 + ["out_b"] * 8
        assert "2 recordings, the first of them " in repr(f)


MANY = """
import resource, h5py, numpy as np, hpcio
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
long = "with a name so long that attributes of HDF5 cannot name them all " * 3
for k in range(300):
    with h5py.File(f"{long}{k}.h5", "w") as f:
        f["x"] = np.full((4 + k % 3, 2), k, "i4")
plan = hpcio.Plan.create("study.py:double", f"{long}*.h5::x", trials=2, out="many.h5")
plan.run(workers=2, progress=False)
with hpcio.open("many.h5") as f:
    numbers = [k for k in range(300) for _ in range((4 + k % 3) // 2 * 2)]
    np.testing.assert_array_equal(f["data"], 2 * np.stack([numbers, numbers], 1))
    assert len(f["hpcio/recordings"]) == 300
    print(len(f.attrs["source"]), len(hpcio.open("many.h5").attrs["source_size"]))
"""


def test_more_recordings_than_files_may_be_open(folder):
    named, sizes = map(int, run(MANY, folder).split())
    assert 40_000 < named < 50_000
    assert sizes > 300 * 4
