"""A run that is killed anywhere, any number of times, ends with the same bytes."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

import hpcio
from tests.rigs import support
from tests.rigs.bench import TRIALS, Bench
from tests.rigs.everyday import combinations
from tests.rigs.resuming import ALL, both_sources, finished, resume
from tests.rigs.support import ended, kill, names
from tests.rigs.waiting import until


@pytest.mark.parametrize(
    ("sources", "at"),
    combinations(
        ["trial", "task"], [(0, 0), (0, 4), (0, TRIALS - 1), (1, 4), (2, 4)],
        everyday=[
            ("trial", (0, 0)), ("task", (0, 4)), ("trial", (0, TRIALS - 1)), ("trial", (1, 4)),
            ("task", (2, 4)),
        ],
    ),
)  # fmt: skip
def test_killed_while_it_computes_a_trial(bench, sources, at):
    workers, trial = at
    bench.hold(trial)
    with ended(bench.start(workers=workers)) as child:
        until(lambda: trial in bench.calls, "the trial")
        kill(child)
    assert not bench.out.exists()
    assert trial not in finished(bench.out)
    if workers == 0:
        assert finished(bench.out) == set(range(trial))
    resume(bench, workers=workers)


CALLS = "open write writev pwrite fsync mkdir rename posix_fallocate"


def killed_at(bench: Bench, moment: int) -> bool:
    return support.killed_at(bench.script(workers=0), bench.folder, moment, CALLS)


def check_and_resume(bench: Bench) -> None:
    if bench.out.exists():
        bench.check()  # complete or not there
    done = finished(bench.out)
    bench.forget_calls()
    if Path(f"{bench.out}.run", "plan.h5").exists():
        plan = hpcio.Plan.load(bench.out)
    else:
        plan = bench.plan()
    plan.run(workers=0, progress=False)
    assert bench.calls == sorted(ALL - done)
    bench.check()
    assert names(bench.folder, ".out.h5*") == []


# Some of them: the torture has all.
MOMENTS = range(2, 120, 13)


@pytest.mark.parametrize(
    ("moment", "sources"), [*zip(MOMENTS, itertools.cycle(["trial", "task"]), strict=False)]
)
def test_killed_at_a_call_to_the_system(bench, sources, moment):
    killed_at(bench, moment)
    check_and_resume(bench)


@pytest.mark.torture
@both_sources
def test_killed_at_any_call_to_the_system(tmp_path, sources):
    moment, reached = 0, True
    while reached:
        folder = tmp_path / str(moment)
        folder.mkdir()
        bench = Bench(folder, sources=sources)
        reached = killed_at(bench, moment)
        check_and_resume(bench)
        moment += 1
    assert moment > TRIALS


@pytest.mark.parametrize(
    ("sources", "workers"),
    combinations(["trial", "task"], [0, 2], everyday=[("trial", 0), ("task", 2)]),
)
def test_killed_again_and_again(bench, workers, sources):
    for trial in range(1, TRIALS, 3):
        if trial in finished(bench.out):
            continue
        bench.hold(trial)
        bench.forget_calls()
        done = finished(bench.out)
        with ended(bench.start(workers=workers)) as child:
            until(lambda: trial in bench.calls, "the trial")  # noqa: B023  (called at once)
            kill(child)
        assert not done & set(bench.calls)
        assert finished(bench.out) >= done
    resume(bench, workers=workers)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(10))
@both_sources
def test_killed_at_random_again_and_again(bench, sources, seed):
    chance = random.Random(seed)
    for _ in range(20):
        if bench.out.exists():
            break
        if not killed_at(bench, chance.randrange(40)):
            break
        assert not bench.out.exists() or bench.check() is None
    if bench.out.exists():
        bench.check()
    else:
        resume(bench, workers=0)


@pytest.mark.torture
@pytest.mark.parametrize("workers", [1, 2, 4])
@both_sources
def test_killed_at_any_number_of_calls(tmp_path, sources, workers):
    for count in range(TRIALS):
        folder = tmp_path / str(count)
        folder.mkdir()
        bench = Bench(folder, sources=sources)
        bench.hold(TRIALS - 1)
        with ended(bench.start(workers=workers)) as child:
            until(lambda: len(bench.calls) > count, "some calls")  # noqa: B023
            kill(child)
        resume(bench, workers=workers)
