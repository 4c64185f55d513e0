"""Repacking in place that is killed at any moment leaves the old result or the new one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import hpcio
from tests.rigs import support
from tests.rigs.bench import CHANNELS, TRIALS, Bench
from tests.rigs.repacking import check_ordinary
from tests.rigs.support import names


def killed_at(folder: Path, moment: int, calls: str, **options: Any) -> bool:
    script = f'import hpcio; hpcio.repack("out.h5", **{options!r})'
    return support.killed_at(script, folder, moment, calls)


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
