"""Blocks that fail: tried again, named, left out as gaps; and when a run stops for them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan, per_trial
from hpcio.errors import BlocksFailed, FunctionError, WorkerError
from hpcio.planning import RunPolicy
from hpcio.running import Nobody, execute
from tests.rigs.bench import TRIALS, Bench
from tests.rigs.everyday import combinations
from tests.rigs.runs import LARGE, LFP, TABLE, Array, check, record, run
from tests.rigs.support import ended
from tests.rigs.waiting import PATIENCE, until


def failing(counts: Path, *, times: int) -> Callable[..., Array]:
    """Negates; fails in trials 1 and 3 at the first so many calls in each."""

    def negative(trial, number, noCompute=None):
        if noCompute:
            return trial.shape, trial.dtype
        if number in (1, 3):
            with (counts / str(number)).open("ab+") as f:
                f.write(b".")
            if (counts / str(number)).stat().st_size <= times:
                raise ValueError(f"no such luck in trial {number}")
        return -trial

    return negative


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    (tmp_path / "counts").mkdir()
    return tmp_path / "counts"


def calls(counts: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in counts.iterdir()}


FAILING = {"trials": TABLE, "args": [per_trial(range(5))]}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_block_that_raises_is_tried_again(tmp_path, lfp, counts, workers):
    plan = Plan.create(failing(counts, times=2), lfp, out=tmp_path / "out.h5", **FAILING)
    done = plan.run(workers=workers, retries=2, progress=False)
    assert (done.computed, done.failed) == (5, ())
    check(tmp_path / "out.h5", -LFP)
    assert calls(counts) == {"1": 3, "3": 3}


def test_a_large_block_is_read_anew_before_it_is_tried_again(tmp_path):
    source = record(tmp_path / "rec.h5", LARGE)
    seen = tmp_path / "seen"

    def spoiling(trial):
        with seen.open("ab+") as f:
            f.write(trial[0].tobytes())
        trial *= 2.0
        if seen.stat().st_size // trial[0].nbytes % 3:
            raise ValueError("not yet")
        return trial

    plan = Plan.create(
        spoiling, source, trials=len(LARGE) // 3, out=tmp_path / "out.h5",
        out_shape=(len(LARGE) // 3, 16), out_dtype="f4",
    )  # fmt: skip
    plan.run(workers=0, retries=2, progress=False)
    check(tmp_path / "out.h5", 2 * LARGE)
    assert seen.read_bytes() == np.repeat(LARGE[:: len(LARGE) // 3], 3, axis=0).tobytes()


@pytest.mark.parametrize(
    ("sources", "workers"),
    combinations(["trial", "task"], [0, 2], everyday=[("trial", 0), ("trial", 2), ("task", 0)]),
)
def test_of_failed_blocks_nothing_is_published(tmp_path, lfp, counts, workers, sources):
    func = failing(counts, times=2)
    plan = Plan.create(func, lfp, out=tmp_path / "out.h5", sources=sources, **FAILING)
    with pytest.raises(BlocksFailed, match="2 of 5 trials failed; nothing was published") as caught:
        plan.run(workers=workers, retries=1, progress=False)
    assert not plan.run_directory.with_name("out.h5").exists()
    done = caught.value.done
    assert (done.blocks, done.computed) == (3, 3)
    assert done.nbytes == done.nbytes_read == LFP[:18].nbytes
    assert [(f.block, f.trial, f.reason) for f in done.failed] == [
        (1, 1, "ValueError: no such luck in trial 1"),
        (3, 3, "ValueError: no such luck in trial 3"),
    ]
    assert "in negative\n" in done.failed[0].traceback
    assert "trial 3: ValueError: no such luck in trial 3" in str(caught.value)
    assert str(done).endswith(", 2 failed")
    # what was missing is done by the next run, and nothing else
    done = plan.run(workers=workers, progress=False)
    assert (done.blocks, done.computed, done.failed) == (5, 2, ())
    check(tmp_path / "out.h5", -LFP)
    assert calls(counts) == {"1": 3, "3": 3}


FILLS = {"f4": np.nan, "c8": np.nan, "i2": 0}


@pytest.mark.parametrize(
    ("dtype", "sources", "workers"),
    combinations(
        FILLS, ["trial", "task"], [0, 2],
        everyday=[
            *((dtype, sources, 0) for dtype in FILLS for sources in ("trial", "task")),
            ("f4", "task", 2), ("i2", "trial", 2),
        ],
    ),
)  # fmt: skip
def test_gaps_are_published_if_asked_for(tmp_path, counts, workers, sources, dtype):
    data = np.round(100 * LFP).astype(dtype)
    source = record(tmp_path / "rec.h5", data)
    plan = Plan.create(
        failing(counts, times=9), source, out=tmp_path / "out.h5", sources=sources, **FAILING
    )
    done = plan.run(workers=workers, gaps=True, progress=False)
    assert [f.trial for f in done.failed] == [1, 3]
    expected = -data
    expected[6:12] = expected[20:26] = FILLS[dtype]
    for opened in (h5py.File(tmp_path / "out.h5"), hpcio.open(tmp_path / "out.h5")):
        with opened as f:
            assert f["data"].dtype == dtype
            np.testing.assert_array_equal(f["data"], expected)
            assert f["trials"]["done"].tolist() == [True, False, True, False, True]
            assert f["trials"]["first"].tolist() == [0, 6, 12, 20, 26]
    verified = hpcio.verify(tmp_path / "out.h5")
    assert (verified.blocks, verified.gaps) == (3, 2)


@pytest.mark.parametrize(
    ("gaps", "workers"),
    combinations([False, True], [0, 1, 2], everyday=[(False, 0), (True, 0), (True, 1), (False, 2)]),
)
def test_a_run_stops_when_too_many_blocks_have_failed(tmp_path, workers, gaps):
    data = np.arange(4000.0).reshape(-1, 1)
    plan = Plan.create(
        lambda trial: 1 / 0, record(tmp_path / "rec.h5", data), trials=4,
        out=tmp_path / "out.h5", out_shape=(4, 1), out_dtype="f8",
    )  # fmt: skip
    options = {"workers": workers, "gaps": gaps, "progress": False}
    with pytest.raises(BlocksFailed, match="not tried, since more than 20 had failed") as caught:
        plan.run(**options, max_failed=20)
    # A worker stops at 20 of its own; what others are at when one says so is finished.
    assert 21 <= len(caught.value.done.failed) <= 21 * max(1, workers)
    assert not (tmp_path / "out.h5").exists()  # what was not tried is no gap
    with pytest.raises(BlocksFailed, match="more than 100 had failed"):
        plan.run(**options)


def test_everything_may_be_a_gap(tmp_path, lfp):
    plan = Plan.create(
        lambda trial: 1 / 0, lfp, trials=TABLE, out=tmp_path / "out.h5",
        out_shape=lambda shape: shape, out_dtype="f8",
    )  # fmt: skip
    done = plan.run(workers=0, gaps=True, progress=False)
    assert len(done.failed) == 5
    with hpcio.open(tmp_path / "out.h5") as f:
        np.testing.assert_array_equal(f["data"], np.full((30, 4), np.nan))
        assert not f["trials"]["done"].any()


@pytest.mark.parametrize(
    ("func", "reason"),
    [
        (lambda x: x[: 6 - (x[0, 0] == LFP[6, 0])], r"shape \(5, 4\), but \(6, 4\) was planned"),
        (lambda x: x.astype("f4" if x[0, 0] == LFP[6, 0] else "f8"), "float32, but float64 was"),
        (lambda x: None if x[0, 0] == LFP[6, 0] else x, r"returned nothing \(None\)"),
    ],
)
def test_a_result_that_was_not_planned_is_a_failure(tmp_path, lfp, func, reason):
    plan = Plan.create(func, lfp, trials=6, out=tmp_path / "out.h5")
    with pytest.raises(BlocksFailed) as caught:
        plan.run(workers=0, progress=False)
    (failure,) = caught.value.done.failed
    assert failure.block == 1
    assert re.search(f"FunctionError: .*{reason}", failure.reason)


def test_a_masked_result_is_refused_when_planned(tmp_path, lfp):
    with pytest.raises(FunctionError, match=r"result\.filled"):
        run(lambda x: np.ma.masked_less(x, 0), lfp, tmp_path / "out.h5")


KILLED = """
import os, signal
HERE = os.path.dirname(os.path.abspath(__file__))
for left in sorted(name for name in os.listdir(HERE) if name.startswith("kill-")):
    try:
        os.unlink(f"{HERE}/{left}")
    except FileNotFoundError:  # another worker, begun at the same time, was killed by it
        continue
    os.kill(os.getpid(), signal.SIGKILL)

def negative(trial):
    return -trial
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_killed_before_it_takes_work_is_replaced(lfp, tmp_path, workers):
    (tmp_path / "killed_early.py").write_text(KILLED)
    plan = Plan.create(
        f"{tmp_path}/killed_early.py:negative", lfp, trials=TABLE, out=tmp_path / "out.h5"
    )
    for k in range(3):
        (tmp_path / f"kill-{k}").touch()
    done = plan.run(workers=workers, progress=False)
    assert (done.computed, done.failed) == (5, ())
    assert not list(tmp_path.glob("kill-*"))
    check(tmp_path / "out.h5", -LFP)


def test_workers_that_are_always_killed_before_they_take_work_end_the_run(lfp, tmp_path):
    (tmp_path / "killed_always.py").write_text(KILLED)
    plan = Plan.create(
        f"{tmp_path}/killed_always.py:negative", lfp, trials=TABLE, out=tmp_path / "out.h5"
    )
    for k in range(100):
        (tmp_path / f"kill-{k}").touch()
    with pytest.raises(WorkerError, match=r"signal 9 .* before it took work"):
        plan.run(workers=1, progress=False)


def test_a_run_that_only_lacks_trials_does_not_speak_of_failures(lfp, tmp_path):
    plan = Plan.create(np.negative, lfp, trials=TABLE, out=tmp_path / "out.h5")
    with pytest.raises(BlocksFailed, match=r"5 of 5 trials are not done.*resume") as info:
        execute(plan, Nobody(), policy=RunPolicy())
    assert "Mend" not in str(info.value)


def test_workers_that_are_killed_one_after_the_other_leave_nothing_undone(tmp_path):
    """One before it has taken work, then one that worked while the new one started."""
    bench = Bench(tmp_path)
    bench.hold(*range(TRIALS))
    with ended(bench.start(workers=2)) as session:
        until(lambda: len(workers_of(session.pid)) == 2, "two workers")
        first, second = workers_of(session.pid)
        os.kill(first, signal.SIGKILL)
        until(lambda: len(bench.calls) >= 2, "two trials")
        os.kill(second, signal.SIGKILL)
        until(lambda: len(bench.calls) >= 3, "another trial")
        bench.hold()
        assert session.wait(timeout=PATIENCE) == 0
    with hpcio.open(bench.out) as f:
        assert f["data"][...].tobytes() == bench.expected.tobytes()


def test_trials_are_not_to_blame_when_the_server_of_all_workers_is_killed(tmp_path):
    bench = Bench(tmp_path)
    bench.hold(*range(TRIALS))
    with ended(bench.start(workers=2)) as session:
        for calls in (2, 4, 6):  # as often as would make each of them a suspect twice
            until(lambda calls=calls: len(bench.calls) >= calls, "two trials")
            one, _ = workers_of(session.pid)
            os.kill(int(Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[1]), 9)
            until(lambda one=one: one not in workers_of(session.pid), "its end")
        bench.hold()
        assert session.wait(timeout=PATIENCE) == 0
    with hpcio.open(bench.out) as f:
        assert f["data"][...].tobytes() == bench.expected.tobytes()


def workers_of(pid: int) -> list[int]:
    """The workers of a session that live, in order, whether it has started them or its server."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
        if Path(f"/proc/{pid}/comm").read_text() == "hpcio worker\n":
            found.append(pid)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in map(int, children):
            found += workers_of(child)
    return found
