"""Simulations: what must hold whatever is asked about."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcio.errors import OptionError
from slurm import Cluster, Disk, Work, recommend, simulate
from slurm.mapping import map_blocks
from slurm.simulation.costs import Costs
from slurm.simulation.dealing import Sums, cut
from slurm.simulation.disk import Rates
from slurm.simulation.tasks import Run

# Neither starts nor files cost anything, and nothing is ever full.
FREE = Cluster(nodes=64, slots=16, latency=0, starts=1e9, startup=0)
FAST = Disk(
    rates={"virtual": Rates((1e4,), one=(1e15,), all=(1e18,))},
    read_one=1e15, read_all=1e18, creates=1e15, per_trial=0, publish=0, publish_block=0,
    publish_source=0, verify={"virtual": 1e18},
)  # fmt: skip

works = st.builds(
    lambda seconds, equal: Work(
        trials=len(seconds),
        seconds=seconds[0] if equal else np.array(seconds),
        read=1e4,
        written=1e3,
    ),
    st.lists(st.floats(0.01, 100.0), min_size=1, max_size=60),
    st.booleans(),
)
clusters = st.builds(
    Cluster,
    nodes=st.integers(1, 4),
    slots=st.integers(1, 4),
    wait=st.floats(0, 30),
    spread=st.floats(0, 1),
    startup=st.floats(0, 3),
    startup_cores=st.none() | st.integers(1, 2),
    stragglers=st.sampled_from([0.0, 0.5, 1.0]),
    stale=st.sampled_from([6.0, 120.0]),
)
shapes = {"tasks": st.integers(1, 20), "chunks": st.integers(1, 8)}


def run_of(work, cluster, tasks, chunks, *, seed=0, disk=FAST):
    run = Run(Costs(work, disk, "virtual"), cluster, tasks=tasks, chunks_per_task=chunks, seed=seed)
    return run, run.run()


def is_whole(run, trials: int) -> bool:
    """Whether each trial was done once."""
    edges = sorted(run.parts)
    return [a for a, _ in edges] == [0, *(b for _, b in edges[:-1])] and edges[-1][1] == trials


@given(work=works, cluster=clusters, **shapes)
def test_each_trial_is_done_once(work, cluster, tasks, chunks):
    run, _ = run_of(work, cluster, tasks, chunks)
    assert is_whole(run, work.trials)


@settings(max_examples=50)
@given(work=works, cluster=clusters, seed=st.integers(0, 1000), **shapes)
def test_each_trial_is_done_once_though_tasks_are_preempted(work, cluster, seed, tasks, chunks):
    # Long enough for any trial: one that never fits between two preemptions is never done.
    often = replace(cluster, preempted=2000.0)
    run, _ = run_of(work, often, tasks, chunks, seed=seed)
    assert is_whole(run, work.trials)


@given(work=works, cluster=clusters, **shapes)
def test_nothing_is_faster_than_all_slots_at_work(work, cluster, tasks, chunks):
    _, seconds = run_of(work, cluster, tasks, chunks)
    least = max(work.total / min(tasks, cluster.total), float(np.max(work.seconds)))
    assert seconds >= least * (1 - 1e-6)


@given(count=st.integers(1, 200), seconds=st.floats(0.01, 10.0), chunks=st.integers(1, 8))
def test_more_tasks_are_never_slower_if_they_cost_nothing(count, seconds, chunks):
    work = Work(trials=count, seconds=seconds)
    took = [run_of(work, FREE, 2**k, chunks)[1] for k in range(6)]
    # Ranges are cut at whole trials, and a whole one may be last.
    assert all(more <= fewer + seconds * 1.001 for fewer, more in itertools.pairwise(took))


@given(work=works, cluster=clusters, seed=st.integers(0, 5))
def test_the_same_seed_gives_the_same_answer(work, cluster, seed):
    often = replace(cluster, preempted=5000.0, spread=0.5, wait=10.0)
    first, again = (
        simulate(work, often, FAST, tasks=5, chunks_per_task=3, seed=seed) for _ in range(2)
    )
    assert first == again


@given(
    sizes=st.lists(st.integers(1, 10**6), min_size=1, max_size=80),
    tasks=st.integers(1, 12),
    chunks=st.integers(1, 8),
)
def test_work_is_cut_as_submissions_cut_it(sizes, tasks, chunks):
    nbytes = np.array(sizes)
    mapped = map_blocks(np.arange(nbytes.size), nbytes, tasks=tasks, batches_per_task=chunks)
    edges, task = cut(
        Sums(nbytes.astype(float), nbytes.size), nbytes.size, tasks=tasks, chunks=chunks
    )
    assert edges[:-1].tolist() == [int(batch[0]) for batch in mapped.batches]
    assert task.tolist() == mapped.task.tolist()


def test_a_full_file_system_is_the_reason():
    narrow = replace(FAST, rates={"virtual": Rates((1e6,), one=(1e8,), all=(1e9,))})
    work = Work(trials=10_000, seconds=0.001, written=1e6)
    said = simulate(work, FREE, narrow, tasks=256)
    assert said.bottleneck == "the file system is full at 11 tasks"
    assert said.makespan == pytest.approx(10_000 * 1e6 / 1e9, rel=0.05)


def test_half_of_what_a_slow_task_has_is_taken_over():
    seconds = np.where(np.arange(200) < 100, 0.1, 10.0)
    work = Work(trials=200, seconds=seconds, read=1e4)
    _, alone = run_of(work, replace(FREE, stale=1e9), 2, 1)
    _, helped = run_of(work, FREE, 2, 1)
    assert alone == pytest.approx(1000, rel=0.01)
    assert helped < 0.6 * alone


@pytest.mark.parametrize("ask", [partial(simulate, tasks=2), recommend])
def test_trials_that_are_hardly_ever_done_are_refused(ask):
    often = replace(FREE, preempted=120.0)
    slow = replace(often, stragglers=1.0, slowness=100.0)
    for work, cluster, disk in (
        (Work(trials=10, seconds=3600.0), often, FAST),
        (Work(trials=10, seconds=36.0), slow, FAST),
        (Work(trials=10, seconds=0.0, read=3600e9), often, replace(FAST, read_one=1e9)),
    ):
        with pytest.raises(OptionError, match=r"A trial takes 1 h, .* preempted every 2 min: "):
            ask(work, cluster, disk)


@pytest.mark.parametrize(
    "change",
    [
        {"creates": 0}, {"read_one": -1.0}, {"read_all": np.inf}, {"publish": -1},
        {"verify": {"direct": 0}},
        {"rates": {"virtual": Rates((1e4,), one=(0.0,), all=(1e6,))}}, {"per_trial": np.nan},
    ],
)  # fmt: skip
def test_file_systems_that_make_no_sense_are_refused(change):
    with pytest.raises(OptionError, match=rf"Disk\({next(iter(change))}.* makes no sense"):
        Disk(**change)


def test_sizes_in_small_integers_do_not_overflow():
    large = np.where(np.arange(1000) < 500, 1000, 1_500_000_000)
    same = (Work(trials=1000, seconds=1.0, read=a, written=a)
            for a in (large.astype(np.int32), large.astype(np.float64)))  # fmt: skip
    one, other = (simulate(work, FREE, Disk(), tasks=8) for work in same)
    assert one == other


def test_a_preempted_task_loses_the_trial_at_hand_alone():
    work = Work(trials=1000, seconds=10.0)
    often = replace(FREE, preempted=500.0)
    run, seconds = run_of(work, often, 1, 1)
    starts = len(run.parts)
    assert starts > 5
    assert 10_000 <= seconds <= 10_000 + 10.0 * (starts + 1)


def test_ten_million_trials_on_a_thousand_nodes():
    cluster = Cluster(nodes=1000, slots=8, wait=300, spread=0.5, stragglers=0.01)
    work = Work(trials=10**7, seconds=2.0, read=1e6, written=1e4)
    said = simulate(work, cluster, Disk(), tasks=8000)
    assert said.done == 10**7
    assert said.tasks == 8000


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Cluster(nodes=0), "nodes=0"),
        (lambda: Cluster(slots=0.5), "slots=0.5"),
        (lambda: Cluster(wait=-1), "wait=-1"),
        (lambda: Cluster(spread=float("nan")), "spread=nan"),
        (lambda: Cluster(starts=float("inf")), "starts=inf"),
        (lambda: Cluster(slowness=float("nan")), "slowness=nan"),
        (lambda: Work(trials=2.5, seconds=1), "trials=2.5"),
        (lambda: Work(trials=2, seconds=None), "'seconds' of Work is no number"),
        (lambda: recommend(Work(trials=2, seconds=1), FREE, FAST, most=0), "most=0"),
        (lambda: recommend(Work(trials=2, seconds=1), FREE, FAST, writers=[]), "no writer"),
        (lambda: recommend(Work(trials=2, seconds=1), FREE, None), "disk=None is no path"),
        (lambda: Cluster(stragglers=2), "stragglers=2"),
        (lambda: Work(trials=0, seconds=1), "trials=0"),
        (lambda: Work(trials=2, seconds=np.ones(3)), r"'seconds' of Work has shape \(3,\)"),
        (lambda: Work(trials=2, seconds=-1.0), "'seconds' of Work must be finite"),
        (lambda: simulate(Work(trials=1, seconds=1), FREE, FAST, tasks=0), "tasks"),
        (
            lambda: simulate(Work(trials=1, seconds=1), FREE, FAST, tasks=1, writer="mutex"),
            "Nothing is known of writer 'mutex'.*Choose one of: virtual",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, match):
    with pytest.raises(OptionError, match=match):
        make()


def test_the_time_of_hpcio_itself_is_none_of_the_function():
    said = simulate(Work(trials=100, seconds=0.5), FREE, replace(FAST, per_trial=2.0), tasks=4)
    assert (said.computing, said.overhead) == pytest.approx((50.0, 200.0))
    assert said.bottleneck == "what hpcio itself does for each trial"
    assert "hpcio itself  50 s" in repr(said)


def test_a_simulation_shows_as_a_table():
    said = simulate(Work(trials=10, seconds=1.0), FREE, FAST, tasks=2)
    assert "bottleneck" in repr(said)
    assert said._repr_html_().count("<tr>") >= 10
