"""What was not synced is forgotten, at any operation: a run goes on, and its result stays.

Other than in `test_power`, nothing is replayed: runs write to a real file system
(`rigs.forgetful`), maps of journals included, and it keeps what was synced.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import hpcio
from hpcio import Plan
from hpcio.errors import HpcioError, OutputError, PlanError
from hpcio.journals import DONE, prepare, read_logs, remove
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.writers import backend_of
from tests.rigs.bench import STORED, Bench
from tests.rigs.forgetful import KEPT, Forgetful, as_local, missing
from tests.rigs.forks import forked

# The long run cuts before every operation, in one of these ways, which take turns: whose is the
# first turn. From 0 to 9, all is tried.
WAYS = [(kept, journalled) for kept in (*KEPT, "some:2") for journalled in (False, True)]
TURN = int(os.environ.get("HPCIO_FORGETS", "0"))


class Story(NamedTuple):
    """What is done to a file, and what it must be in the end.

    Attributes
    ----------
    do : callable
        Called with a bench and the output, in a child.
    go_on : callable
        Does what is left after the cut.
    before : callable, optional
        Makes what is there before.
    """

    do: Callable[[Bench, Path], object]
    go_on: Callable[[Bench, Path], object]
    before: Callable[[Bench, Path], object] | None = None


def run(bench: Bench, out: Path) -> None:
    bench.plan(out=out).run(workers=0, progress=False)


def attempt(bench: Bench, out: Path) -> None:
    """One that is killed: some trials are safe, some are in the system's hands, as it was told."""
    plan = prepare(bench.plan(out=out))
    backend_of(plan).reserve(plan)
    if not (pid := os.fork()):
        try:
            with Attempt(plan, "killed") as tried:
                run_batch(tried, np.arange(4))
                tried.sync()
                (bench.notes / "synced").touch()
                run_batch(tried, np.arange(4, 8))
                tried.writer.flush()
                os._exit(0)
        finally:
            os._exit(1)
    os.waitpid(pid, 0)


def attempt_and_run(bench: Bench, out: Path) -> None:
    attempt(bench, out)
    run(bench, out)


def run_with_gaps(bench: Bench, out: Path) -> None:
    bench.mark("raise", 5)
    bench.plan(out=out).run(workers=0, progress=False, gaps=True)


def older(bench: Bench, out: Path) -> None:
    factors = {"kwargs": {"factor": {"x": 3.0}}, "args": ("x",)}
    shape = {"out_shape": (bench.rows, 3), "out_dtype": "f8"}
    bench.plan("scaled", out=out, **factors, **shape).run(workers=0, progress=False)


def run_fresh(bench: Bench, out: Path) -> None:
    bench.plan(out=out).run(workers=0, progress=False, fresh=True)


def go_on_fresh(bench: Bench, out: Path) -> None:
    """As its user would: what was begun is gone on with; what was not is begun."""
    try:
        run(bench, out)
    except (PlanError, OutputError):
        run_fresh(bench, out)


def repack(bench: Bench, out: Path) -> None:
    hpcio.repack(out)


STORIES = {
    "a run": Story(attempt_and_run, run),
    "an attempt": Story(attempt, run),
    "gaps": Story(run_with_gaps, run_with_gaps),
    "fresh": Story(run_fresh, go_on_fresh, older),
    "repacked": Story(repack, repack, run),
}


def values(out: Path) -> bytes:
    with hpcio.open(out) as f:
        found = f["data"][...].tobytes()
    hpcio.verify(out)
    return found


def said_safe(out: Path) -> set[int]:
    """The trials that journals call safe."""
    if not Path(f"{out}.run", "plan.h5").exists():
        return set()
    logs = [log.records[: log.safe] for log in read_logs(Plan.load(out))]
    return {int(b) for of in logs for b in of["block"][of["kind"] == DONE]}


class Cutting:
    """A story, and the power cut in it."""

    def __init__(self, disk: Forgetful, bench: Bench, story: Story, *, local: bool) -> None:
        self.disk, self.bench, self.story, self.local = disk, bench, story, local
        self.left = bench.folder / "left"
        self.before: Path | None = None
        self.right: set[bytes] = set()  # that may be there after a cut
        self.keeps = story.before is not None
        if story.before:
            self.before = bench.folder / "before"
            self.before.mkdir()
            story.before(bench, self.before / "out.h5")
            self.right.add(values(self.before / "out.h5"))
        whole = bench.folder / "whole"
        shutil.copytree(self.before, whole) if self.before else whole.mkdir()
        story.go_on(bench, whole / "out.h5")
        self.final = values(whole / "out.h5")
        self.right.add(self.final)

    def tell(self, **how: Any) -> str:
        """Tell the story up to a cut; what came of it."""
        shutil.rmtree(self.left, ignore_errors=True)
        (self.bench.notes / "synced").unlink(missing_ok=True)
        self.disk.begin(self.left, before=self.before, **how)

        def do() -> str:
            if self.local:
                as_local()
            self.story.do(self.bench, self.disk.path / "out.h5")
            return "fine"

        return forked(do)

    def check(self, said: str) -> None:
        """After the cut: a result is right, and what is left is done, and nothing twice."""
        out, bench = self.left / "out.h5", self.bench
        if out.exists():
            assert values(out) in self.right
        assert out.exists() or not self.keeps
        if said == "fine" and self.story.do is not attempt:
            assert values(out) == self.final
        safe = said_safe(out)
        if (bench.notes / "synced").exists() and "keeptrials" not in bench.options:
            assert out.exists() or safe >= set(range(4))
        bench.forget_calls()
        self.story.go_on(bench, out)
        assert values(out) == self.final
        # Of averages, batches of these attempts divide a group: only whole groups count.
        if self.story.go_on is run and "keeptrials" not in bench.options:
            assert not set(bench.calls) & safe

    def cut(self, **how: Any) -> None:
        said = self.tell(**how)
        self.disk.cut()
        self.check(said)

    def count(self) -> int:
        """How many operations there are without a cut."""
        said = self.tell()
        assert said == "fine", said
        return self.disk.counts()["any"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Iterator[Forgetful]:
    if missing():
        pytest.skip(missing())
    disk = Forgetful(tmp_path_factory.mktemp("forgetful"))
    try:
        disk.up()
        yield disk
    finally:
        disk.down()


def cutting(disk: Forgetful, folder: Path, writer: str, story: str, *, local: bool) -> Cutting:
    return Cutting(disk, Bench(folder, **STORED[writer]), STORIES[story], local=local)


TOLD = [
    (writer, story, local)
    for writer, story, local in itertools.product(STORED, STORIES, (True, False))
    if (local or writer != "mutex")  # elsewhere it is refused
    and not (writer == "averages" and story in ("fresh", "repacked"))
]
EVERYDAY = [
    *((writer, "a run", True) for writer in STORED),
    ("a file a trial", "a run", False),
    ("direct", "a run", False),
    ("packed", "an attempt", True),
    ("a file a batch", "gaps", True),
    ("a file a batch", "fresh", True),
    ("direct", "fresh", True),
    ("a file a trial", "repacked", True),
]


def test_what_was_not_synced_is_forgotten(disk, tmp_path):
    disk.begin(tmp_path / "left")
    (disk.path / "folder").mkdir()
    for name in ("synced", "changed", "never", "unreachable"):
        (disk.path / "folder" / name).write_bytes(b"old")
    for name in ("synced", "changed"):
        with (disk.path / "folder" / name).open("r+b") as f:
            os.fsync(f)
    (disk.path / "folder" / "changed").write_bytes(b"new!")
    (disk.path / "folder" / "unreachable").unlink()
    for folder in (disk.path / "folder", disk.path):
        hpcio.files.sync(folder)
    (disk.path / "folder" / "synced").rename(disk.path / "folder" / "renamed")
    (disk.path / "late").write_bytes(b"late")
    with (disk.path / "folder" / "never").open("rb") as f:
        disk.cut()
        with pytest.raises(OSError, match="Input/output"):
            f.read()
    left = {p.name: p.read_bytes() for p in (tmp_path / "left" / "folder").iterdir()}
    assert left == {"synced": b"old", "changed": b"old", "never": b""}
    assert os.listdir(tmp_path / "left") == ["folder"]


@pytest.mark.parametrize(("kept", "names", "bytes_"), [
    ("names", ["a", "b"], [b"old", b""]), ("bytes", ["a"], [b"new"]), ("nothing", ["a"], [b"old"]),
])  # fmt: skip
def test_what_a_disk_may_have_kept(disk, tmp_path, kept, names, bytes_):
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "a").write_bytes(b"old")
    disk.begin(tmp_path / "left", before=tmp_path / "before", at=4, kind="write", kept=kept)
    (disk.path / "b").write_bytes(b"b")
    with (disk.path / "a").open("r+b") as f:
        f.write(b"xew")
    with (disk.path / "a").open("r+b") as f:
        f.write(b"n")
    with pytest.raises(OSError, match="Input/output"):
        (disk.path / "b").write_bytes(b"c")
    found = {
        name: (tmp_path / "left" / name).read_bytes()
        for name in sorted(os.listdir(tmp_path / "left"))
    }
    assert found == dict(zip(names, bytes_, strict=True))


def test_what_is_thrown_away_is_whole_or_gone(disk, tmp_path):
    bench = Bench(tmp_path)
    before = tmp_path / "before"
    before.mkdir()
    run(bench, before / "out.h5")
    whole = {path.relative_to(before) for path in before.rglob("*")}

    def throw_away() -> str:
        remove(disk.path / "out.h5.run")
        return "fine"

    disk.begin(tmp_path / "left", before=before)
    assert forked(throw_away) == "fine"
    for at in range(1, disk.counts()["any"] + 1):
        left = tmp_path / f"left-{at}"
        disk.begin(left, before=before, at=at, kept="some:1")
        assert forked(throw_away) != "fine"
        there = {path.relative_to(left) for path in left.rglob("*")}
        assert there == whole or not (left / "out.h5.run").exists()


@pytest.mark.parametrize(("writer", "story", "local"), EVERYDAY)
def test_some_cuts(disk, tmp_path, writer, story, local):
    told = cutting(disk, tmp_path, writer, story, local=local)
    count = told.count()
    disk.cut()
    told.check("fine")
    # Stories take turns in what the disk has kept.
    turn = 2 * EVERYDAY.index((writer, story, local))
    for k in (1, 2):
        told.cut(at=k * count // 3, kept=KEPT[(turn + k) % len(KEPT)])


@pytest.mark.torture
@pytest.mark.parametrize(("writer", "story", "local"), TOLD)
def test_every_cut(disk, tmp_path, writer, story, local):
    told = cutting(disk, tmp_path, writer, story, local=local)
    count = told.count()
    for at in range(1, count + 2):
        kept, journalled = WAYS[(at + TURN) % len(WAYS)]
        try:
            told.cut(at=at, kept=kept, journalled=journalled)
        except (AssertionError, HpcioError) as error:
            raise AssertionError(
                f"cut at {at} of {count}, kept {kept}, journalled {journalled}"
            ) from error
    print("\ncuts:", count + 1)
