"""Whose a run directory is: continued by its own plan, refused to others, and to two at once."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import hpcio
from hpcio.errors import OutputError, PlanError, SourceError
from tests.rigs.bench import ROWS, TRIALS
from tests.rigs.resuming import (
    ALL,
    both_sources,
    finished,
    half_done,
    resume,
    resume_here,
)
from tests.rigs.support import ended, kill, names
from tests.rigs.waiting import PATIENCE, until


def test_the_same_plan_goes_on_with_what_is_there(bench):
    half_done(bench, safe=3, unsafe=2)
    bench.forget_calls()
    done = bench.plan().run(workers=0, progress=False)
    assert bench.calls == list(range(5, TRIALS))
    assert (done.blocks, done.computed) == (TRIALS, TRIALS - 5)
    bench.check()


@pytest.mark.parametrize(
    "other",
    [
        {"trials": ROWS + 1},
        {"trials": np.array([[0, ROWS], [ROWS, 2 * ROWS]])},
        {"sources": "trial"},
        {"join": "stack"},
        {"out_dtype": "f4"},
        {"func": "called", "out_shape": (1,), "out_dtype": "i8"},
        {"kwargs": {"scale": 3}, "out_shape": (ROWS, 3), "out_dtype": "f8"},
    ],
    ids="+".join,
)
def test_another_plan_is_refused_and_harms_nothing(bench, other):
    half_done(bench, safe=3, unsafe=2)
    before = finished(bench.out)
    with pytest.raises(PlanError, match=r"out\.h5\.run' belongs to another plan.*fresh=True"):
        bench.plan(**other).run(workers=0, progress=False)
    assert finished(bench.out) == before
    resume_here(bench, bench.out, before)


def test_a_changed_recording_is_another_plan(bench):
    half_done(bench, safe=3, unsafe=2)
    os.utime(bench.folder / "rec.h5", ns=(1, 1))
    with pytest.raises(SourceError, match="has changed since the plan was made"):
        bench.plan().run(workers=0, progress=False)


def test_fresh_starts_over(bench):
    half_done(bench, safe=3, unsafe=2)
    bench.forget_calls()
    bench.plan(join="stack").run(workers=0, progress=False, fresh=True)
    assert bench.calls == sorted(ALL)
    with hpcio.open(bench.out) as f:
        assert f["data"].shape == (TRIALS, ROWS, 3)
    assert names(bench.folder, "*.old") == []


def test_fresh_removes_nothing_that_is_not_its_own(bench):
    plan = bench.plan()
    bench.out.write_text("my thesis")
    with pytest.raises(OutputError, match=r"out\.h5' was not made by hpcio"):
        plan.run(workers=0, fresh=True, progress=False)
    assert bench.out.read_text() == "my thesis"
    bench.out.unlink()
    other = Path(f"{bench.out}.run")
    other.mkdir()
    (other / "thesis.tex").write_text("my thesis")
    with pytest.raises(PlanError, match="is no run directory"):
        plan.run(workers=0, fresh=True, progress=False)
    with pytest.raises(PlanError, match=r"thesis\.tex.*choose another output"):
        plan.run(workers=0, progress=False)
    assert (other / "thesis.tex").read_text() == "my thesis"


@pytest.mark.parametrize("content", ["my thesis", "a recording", "another result"])
def test_a_file_of_somebody_else_is_not_taken_for_the_result(bench, content):
    half_done(bench, safe=3, unsafe=2)
    before = finished(bench.out)
    if content == "my thesis":
        bench.out.write_text(content)
    elif content == "a recording":
        shutil.copy(bench.folder / "rec.h5", bench.out)
    else:
        bench.plan(out=bench.folder / "other.h5", join="stack").run(workers=0, progress=False)
        (bench.folder / "other.h5").rename(bench.out)
    known = bench.out.read_bytes()
    with pytest.raises(OutputError, match=r"out\.h5' exists and is not the result of this plan"):
        hpcio.Plan.load(bench.out).run(workers=0, progress=False)
    assert bench.out.read_bytes() == known
    bench.out.unlink()
    resume_here(bench, bench.out, before)


def test_a_finished_run_has_nothing_left_to_do(bench):
    bench.plan().run(workers=0, progress=False)
    bench.forget_calls()
    stamp = bench.out.stat().st_mtime_ns
    done = hpcio.Plan.load(bench.out).run(workers=0, progress=False)
    assert (bench.calls, done.blocks, done.computed) == ([], TRIALS, 0)
    assert bench.out.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("workers", [0, 2, pytest.param(1, marks=pytest.mark.torture)])
def test_a_second_run_at_the_same_time_is_refused(bench, workers):
    bench.hold(5)
    with ended(bench.start(workers=workers)) as first:
        until(lambda: 5 in bench.calls, "the first run")
        for fresh in (False, True):
            with pytest.raises(PlanError, match=r"out\.h5\.run' is at work in another process"):
                bench.plan().run(workers=0, progress=False, fresh=fresh)
        bench.hold()
        _, err = first.communicate(timeout=PATIENCE)
        assert first.returncode == 0, err
    bench.check()


@both_sources
def test_several_runs_started_at_once_do_the_work_once(bench, sources):
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(ended(bench.start(workers=1))) for _ in range(3)]
        said = [child.communicate(timeout=PATIENCE) for child in children]
        codes = [child.returncode for child in children]
    assert 0 in codes
    for code, (_, err) in zip(codes, said, strict=True):
        assert code == 0 or "at work in another process" in err or "out.h5' exists" in err, err
    assert sorted(bench.calls) == sorted(ALL)
    bench.check()


@pytest.mark.parametrize("workers", [0, 1, pytest.param(2, marks=pytest.mark.torture)])
def test_after_the_first_was_killed_a_second_run_is_welcome(bench, workers):
    bench.hold(5)
    with ended(bench.start(workers=workers)) as first:
        until(lambda: 5 in bench.calls, "the first run")
        kill(first)
    resume(bench, workers=0)
