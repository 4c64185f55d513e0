"""A published file is never written again, by whomever; who publishes waits for nobody."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan
from hpcio.errors import OutputError
from hpcio.journals import start_over
from hpcio.journals.rundir import prepare
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.status import status
from hpcio.writers.backend import backend_of, trusted_ledger
from tests.rigs.plans import LFP, TRIALS, Planner, plan

__all__ = ["plan"]

BOTH = ["direct", "mutex"]
OTHER = np.full(LFP[:6].shape, 7.0)


def negated(trial, chunkShape=None, noCompute=None):
    return (trial.shape, trial.dtype) if noCompute else -trial


def unless(trial, path, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, trial.dtype
    if trial.shape[0] == 8 and os.path.exists(path):
        raise ValueError("not now")
    return -trial


def published(made: Plan) -> bytes:
    """What is read of a result; it is right."""
    with h5py.File(made.out) as f:
        assert np.array_equal(f["data"][...], -LFP)
    hpcio.verify(made.out)
    return Path(made.out).read_bytes()


@pytest.fixture
def begun(plan: Planner) -> Callable[[str], tuple[Plan, Any]]:
    """A plan, and a writer of an attempt that was given up, but still lives."""

    def make(writer: str, **options: Any) -> tuple[Plan, Any]:
        made = prepare(plan(negated, writer=writer, **options))
        backend = backend_of(made)
        backend.reserve(made)
        return made, backend.open_writer(made, "orphan")

    return make


def test_an_orphan_does_not_reach_what_was_published(begun: Any) -> None:
    made, orphan = begun("direct")
    orphan.write(0, OTHER)
    made.run(workers=0, progress=False)
    before = published(made)
    for block in range(len(TRIALS)):
        orphan.write(block, OTHER[:4])
    orphan.flush()
    orphan.prepare_sync()()
    assert published(made) == before
    with pytest.raises(OutputError, match="is gone: another process has finished it"):
        orphan.begin(np.arange(3), None)
    orphan.close()
    assert published(made) == before


def test_a_stale_writer_of_the_mutex_is_refused(begun: Any) -> None:
    made, orphan = begun("mutex")
    made.run(workers=0, progress=False)
    before = published(made)
    with pytest.raises(OutputError, match="is gone: another process has finished it"):
        orphan.write(0, OTHER)
    orphan.close()
    assert published(made) == before


@pytest.mark.parametrize("writer", BOTH)
def test_nor_does_it_reach_the_file_of_the_next_run(begun: Any, plan: Planner, writer: str) -> None:
    made, orphan = begun(writer)
    made.run(workers=0, progress=False)
    again = prepare(start_over(plan(negated, writer=writer)))
    backend_of(again).reserve(again)
    data = again.rundir.data.read_bytes()
    if writer == "mutex":
        with pytest.raises(OutputError, match="is gone"):
            orphan.write(0, OTHER)
    else:
        orphan.write(0, OTHER)
    orphan.close()
    assert again.rundir.data.read_bytes() == data


@pytest.mark.parametrize("writer", BOTH)
def test_without_others_nothing_is_copied(begun: Any, writer: str) -> None:
    made, over = begun(writer)
    over.close()
    inode = made.rundir.data.stat().st_ino
    made.run(workers=0, progress=False)
    published(made)
    assert Path(made.out).stat().st_ino == inode
    assert not made.rundir.closed.exists()
    assert not made.rundir.data.exists()


def test_a_child_that_a_function_leaves_behind_is_no_writer(plan: Planner, tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def forks(trial, chunkShape=None, noCompute=None):
        if noCompute:
            return trial.shape, trial.dtype
        if trial.shape[0] == 4:
            (tmp_path / "inode").write_text(str((tmp_path / "out.h5.run/data.h5").stat().st_ino))
            if not os.fork():
                os.close(writing)
                os.read(reading, 1)  # until the test ends
                os._exit(0)
        return -trial

    made = plan(forks, writer="direct")
    made.run(workers=0, progress=False)
    try:
        published(made)
        assert Path(made.out).stat().st_ino == int((tmp_path / "inode").read_text())
    finally:
        os.close(writing)
        os.close(reading)
        os.wait()


@pytest.mark.parametrize("writer", BOTH)
@pytest.mark.parametrize("missing", [False, True])
def test_a_publisher_that_was_killed(plan: Planner, writer: str, missing: bool) -> None:
    made = plan(negated, writer=writer)
    made = prepare(made)
    backend_of(made).reserve(made)
    with Attempt(made, "before") as attempt:
        run_batch(attempt, np.arange(4 if missing else 5))
    os.rename(made.rundir.data, made.rundir.closed)
    assert trusted_ledger(made).done.sum() == (4 if missing else 5)
    plan(negated, writer=writer).run(workers=0, progress=False)
    published(made)
    assert not made.rundir.closed.exists()


@pytest.mark.parametrize("writer", BOTH)
def test_one_publishes_at_a_time(begun: Any, writer: str) -> None:
    made, over = begun(writer)
    over.close()
    with made.rundir.offsets.open("r+b") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match="Another process is about to publish"):
            made.run(workers=0, progress=False)
    assert not Path(made.out).exists()
    assert made.run(workers=0, progress=False).computed == 0
    published(made)


def test_a_copy_that_has_no_room(begun: Any) -> None:
    """The process that is in the way is named. A limit of a file's size stands for a full disk."""
    made, orphan = begun("direct")
    with Attempt(made, "before") as attempt:
        run_batch(attempt, np.arange(5))
    limits, size = resource.getrlimit(resource.RLIMIT_FSIZE), made.rundir.data.stat().st_size
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(OutputError, match=rf"a process \({os.getpid()}\) that was given up"):
            made.run(workers=0, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not Path(made.out).exists()
    assert [*made.run_directory.glob("data.*.part")] == []
    orphan.write(0, np.ascontiguousarray(-LFP[:6]))  # what is not published can be written still
    orphan.close()
    assert made.run(workers=0, progress=False).computed == 0
    published(made)


def test_a_gap_stays_a_gap(plan: Planner, tmp_path: Path) -> None:
    """Whatever writer: what an orphan computes later is not in what was published with gaps."""

    def some(trial, chunkShape=None, noCompute=None):
        if noCompute:
            return trial.shape, trial.dtype
        if trial.shape[0] == 8:
            raise ValueError("not this one")
        return -trial

    for writer, options in [
        ("direct", {}), ("virtual", {}), ("virtual", {"chunks": (2, 2)}),
    ]:  # fmt: skip
        made = prepare(
            plan(some, writer=writer, out=tmp_path / f"{writer}{len(options)}.h5", **options)
        )
        backend_of(made).reserve(made)
        with Attempt(made, "orphan") as attempt:
            run_batch(attempt, np.arange(2))
            attempt.writer.begin(np.arange(2, 5), attempt.journal)
            made.run(workers=0, gaps=True, progress=False)
            with hpcio.open(made.out) as f:
                kept = f["data"][...]
            assert np.isnan(kept).sum() == 8 * 4
            for block in range(2, 5):
                attempt.writer.write(block, np.full(LFP[slice(*TRIALS[block][:2])].shape, 7.0))
            attempt.writer.flush()
        with hpcio.open(made.out) as f, h5py.File(made.out) as plain:
            assert np.array_equal(f["data"][...], kept, equal_nan=True)
            assert np.array_equal(plain["data"][...], kept, equal_nan=True)


@pytest.mark.parametrize("writer", ["direct", "virtual"])
def test_what_an_orphan_journals_later_is_not_said(
    plan: Planner, tmp_path: Path, writer: str
) -> None:
    """The result has a gap: so say status, and a run that is asked once more."""
    bad = tmp_path / "bad"
    made = prepare(plan(unless, kwargs={"path": str(bad)}, writer=writer))
    backend_of(made).reserve(made)
    with Attempt(made, "orphan") as orphan:
        # It is in the middle of a batch when the result is published.
        orphan.writer.begin(np.arange(2, 3), orphan.journal)
        orphan.writer.begin = lambda *_: None
        bad.touch()
        made.run(workers=0, gaps=True, progress=False)
        before = Path(made.out).read_bytes()
        bad.unlink()
        run_batch(orphan, np.arange(2, 3))
    assert Path(made.out).read_bytes() == before
    found = status(made.out)
    assert (found.done, found.failed) == (4, 1)
    assert "not now" in found.failures[0].traceback
    again = plan(unless, kwargs={"path": str(bad)}, writer=writer).run(gaps=True, progress=False)
    assert (again.blocks, [failure.block for failure in again.failed]) == (4, [2])
