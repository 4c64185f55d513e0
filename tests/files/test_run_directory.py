"""What lies in a run directory is known by its name; what is not of a run stays."""

from __future__ import annotations

import os
import shutil

import pytest

import hpcio
from hpcio.errors import BlocksFailed
from hpcio.files import RunDirectory
from tests.rigs.bench import STORED, Bench
from tests.rigs.runs import left_by_a_kill

OURS = [
    "plan.0123456789abcdef.part", "data.01234567.part", ".data.npy.12.part", "data.h5.lock",
    "closed.h5", "array-2.sh", "ranks.sh", "finish.sh", ".finish.sh.7.part", "outcome.json",
    "sources/0012/0050000-2-7-01234567.h5", "sources/4_2-01234567-3.89abcdef.h5",
    "sources/w0-01234567-3.89abcdef.part", "sources/r1-01234567.seams",
    "logs/0123456789abcdef-99-w12.log", "logs/12_3.log", "logs/finish-13.log",
    "logs/w0-01234567.stack.log", "usage/1-2-01234567.json", "usage/.1-2-01234567.json.9.part",
    "beats/1-2-01234567", "claims/1-2.g3", "claims/1-2.g3@left", "claims/1-2.g3@again",
    "claims/1-2.g3@dead@40", "claims/1-2.g3@40@1-2-01234567", "claims/1.stop", "claims/1.publish",
    "claims/1.done.12@1-2-01234567", "claims/1.failed.3@1-2-01234567",
    "claims/0123456789abcdef-12", "claims/0123456789abcdef.stop",
    "claims/0123456789abcdef.failed.3.12", "submissions/1.npz", "submissions/1.jobs.json",
    "submissions/.1.json.8.part",
    "0123456789abcdef.old/journal/here-01234567.jnl",
]  # fmt: skip
MINE = [
    "my.txt", "data.backup.part", "plan.h5.backup", "finish-2.sh", "old.old",
    "sources/notes-20261127.txt", "sources/x.txt", "sources/here-01234567-0.h5.backup",
    "sources/0000/mine.h5", "journal/lab-20261127.notes", "logs/mine.log", "usage/x", "beats/x",
    "claims/mine", "submissions/1.txt",
]  # fmt: skip
BESIDE = [
    ".out.h5.before.repack", ".out.h5.my notes.repack", "out.h5.run.20261127.old/plan.h5",
    ".out.h5.0123456789abcdef.mine.part",
]  # fmt: skip


@pytest.mark.parametrize("way", STORED)
def test_all_that_a_run_writes_is_known(tmp_path, way):
    bench = Bench(tmp_path, trials=4, **STORED[way])
    bench.mark("raise", 3)
    plan = bench.plan()
    left_by_a_kill(plan, safe=1, more=1)
    with pytest.raises(BlocksFailed):
        plan.run(workers=1, progress=False)
    rundir = RunDirectory.of(str(bench.out))
    found = [p.relative_to(rundir.path) for p in rundir.path.rglob("*") if p.is_file()]
    assert len(found) > 5
    assert [name for name in found if not rundir.is_ours(str(name))] == []


@pytest.mark.parametrize("name", OURS)
def test_a_name_of_ours(tmp_path, name):
    assert RunDirectory(tmp_path).is_ours(name)


@pytest.mark.parametrize("writer", ["virtual", "direct"])
def test_files_of_the_user_stay_where_they_are(tmp_path, writer):
    bench = Bench(tmp_path, trials=2, writer=writer)
    bench.plan().run(workers=0, progress=False)
    run = tmp_path / "out.h5.run"
    paths = [run / name for name in MINE] + [tmp_path / name for name in BESIDE]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    for options in ({"join": "stack"}, {}):
        bench.plan(**options).run(workers=0, progress=False, fresh=True)
        assert [path for path in paths if not path.exists()] == []
    hpcio.repack(bench.out)
    assert [path for path in paths if path.read_text() != "mine"] == []
    left = sorted(os.path.relpath(p, run) for p in run.rglob("*") if p.is_file())
    assert left == sorted(MINE)
    shutil.rmtree(run)
    bench.check()
