"""Plans run through any dask client; few numbers travel, and SLURM is asked but rarely."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import distributed.core
import h5py
import numpy as np
import pytest
from distributed import Client, LocalCluster
from distributed.batched import BatchedSend

import hpcio
import slurm as slurm_side
from hpcio.errors import BlocksFailed, ClusterError, OptionError, SourceError
from hpcio.journals import ClaimFolder
from hpcio.journals.rundir import prepare
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from slurm import SLURMArrayCluster
from slurm.live import dispatch, worker
from slurm.live.session import DaskExecutor
from tests.rigs.several import check_all, make_study, plan_of, record
from tests.rigs.slurm import until
from tests.rigs.waiting import PATIENCE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with h5py.File("rec.h5", "w") as f:
        f["lfp"] = np.random.default_rng(3).standard_normal((20_000, 4))
    return tmp_path


@pytest.fixture(scope="module")
def local_cluster():
    """Two workers of dask, of two threads each, which start anew when one is killed."""
    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(host="127.0.0.1", **options) as cluster:
        yield cluster


@pytest.fixture
def client(folder, local_cluster):
    # dask gives up workers that start too slowly after a test has killed them, be it while we wait.
    def are_there() -> bool:
        local_cluster.scale(2)
        return len(client.nthreads()) == 2

    with Client(local_cluster) as client:
        until(are_there, "two workers")
        yield client


def make(func=np.negative, trials=50, **options) -> hpcio.Plan:
    return hpcio.Plan.create(func, "rec.h5::/lfp", trials=trials, out="out.h5", **options)


def check() -> None:
    with h5py.File("rec.h5") as f, hpcio.open("out.h5") as g:
        assert g["data"][...].tobytes() == (-f["lfp"][...]).tobytes()
    assert hpcio.verify("out.h5").blocks == 400


def test_trials_are_added_by_a_client(client):
    rows = np.arange(400)[:, None] * 50 + [0, 50]
    make(trials=rows[:300]).run(workers=0, progress=False)
    done = slurm_side.run(hpcio.Plan.load("out.h5").extend(trials=rows[300:]), client)
    assert done.computed == 100
    check()


def test_any_client_will_do(client):
    done = slurm_side.run(make(), client, progress=False)
    check()
    assert done.computed == 400
    assert 1 <= done.workers <= 4  # two threads each, with a journal of its own


def test_a_run_begun_here_goes_on_there(client):
    plan = make(sources="task")
    with Attempt(prepare(plan), "here") as attempt:
        run_batch(attempt, np.arange(100))
        attempt.sync()
    done = slurm_side.run(plan, client, progress=False)
    check()
    assert (done.blocks, done.computed) == (400, 300)


@pytest.mark.parametrize("writer", ["virtual", "direct", "mutex"])
def test_several_recordings(client, tmp_path, writer):
    """A worker is killed in the second one; then that is another one for a while."""
    study = make_study(tmp_path)
    plan = plan_of(study, "fragile", writer=writer, kwargs={"mended": str(study / "mended")})
    with pytest.raises(BlocksFailed, match="1 of 8 trials failed"):
        slurm_side.run(plan, client, progress=False)
    (study / "mended").touch()
    old = os.stat(study / "s1.h5")
    record(study, 1, gain=2.0)
    with pytest.raises(SourceError, match=r"'\S*s1\.h5' has changed since the plan"):
        slurm_side.run(hpcio.Plan.load(plan.out), client, progress=False)
    record(study, 1)
    os.utime(study / "s1.h5", ns=(old.st_atime_ns, old.st_mtime_ns))
    assert slurm_side.run(hpcio.Plan.load(plan.out), client, progress=False).computed == 1
    check_all(study / "out.h5")


@pytest.mark.parametrize(
    ("how", "why"),
    [("dies", "worker died"), ("hangs", "took longer than 5 s (trial_time)")],
)
def test_a_block_that_takes_its_workers_along_fails_alone(client, how, why):
    """In a thread of a dask worker nothing can be raised: for one that hangs the worker ends."""

    def deadly(trial):
        if trial[0, 0] == marked and how == "dies":
            os._exit(9)
        while trial[0, 0] == marked:
            time.sleep(0.01)
        return -trial

    with h5py.File("rec.h5") as f:
        marked = f["lfp"][50 * 7, 0]
    plan = make(deadly, out_shape=(50, 4), out_dtype="f8")
    with pytest.raises(BlocksFailed) as caught:
        slurm_side.run(plan, client, progress=False, trial_time=5.0)
    (failure,) = caught.value.done.failed
    assert failure.block == 7
    assert why in failure.reason
    assert how == "dies" or "in deadly" in failure.traceback
    assert caught.value.done.blocks == 399


def test_too_many_failures_end_the_run(client):
    def fails(trial):
        raise ValueError("always")

    plan = make(fails, out_shape=(50, 4), out_dtype="f8")
    with pytest.raises(BlocksFailed, match="not tried, since more than 5 had failed") as caught:
        slurm_side.run(plan, client, progress=False, max_failed=5)
    # Each of four attempts stops by itself, and a batch in the queue finds that it has.
    assert 6 <= len(caught.value.done.failed) <= 4 * 6 + 4
    assert not os.path.exists("out.h5")


def test_what_a_dead_worker_has_journalled_counts(client):
    def fails(trial):
        if trial[0, 0] == firsts[3]:
            os._exit(9)
        if trial[0, 0] in firsts:
            raise ValueError("sick")
        return -trial

    with h5py.File("rec.h5") as f:
        firsts = f["lfp"][:200:50, 0]
    plan = make(fails, out_shape=(50, 4), out_dtype="f8")
    with pytest.raises(BlocksFailed, match="not tried, since more than 3 had failed") as caught:
        plan.run(DaskExecutor(client, chunks_per_worker=1), progress=False, max_failed=3)
    assert {failure.block for failure in caught.value.done.failed} == {0, 1, 2, 3}


def test_what_dask_sends_again_is_done_once(client, monkeypatch):
    """As when a worker has died, and another one has got its address."""
    monkeypatch.setattr(dispatch, "secrets", SimpleNamespace(token_hex=lambda _: "session"))
    plan = prepare(make())
    claims = ClaimFolder(plan.rundir.claims)
    claims.make()
    claims.take("session-0")
    done = slurm_side.run(plan, client, progress=False)
    check()
    assert done.computed == 400


def test_trouble_with_the_source_ends_the_run_with_its_words(client):
    plan = make()
    os.rename("rec.h5", "away.h5")
    with pytest.raises(SourceError, match="cannot be found"):
        slurm_side.run(plan, client, progress=False)


def test_few_messages_go_through_dask(client, monkeypatch):
    """Each through its event loops costs some milliseconds; they do not grow with the trials."""
    said: Counter[str] = Counter()
    one_way, with_answer = BatchedSend.send, distributed.core.send_recv

    def send(self, *messages):
        said.update(str(message["op"]) for message in messages)
        return one_way(self, *messages)

    async def send_recv(*args, **options):
        said[str(options["op"])] += 1
        return await with_answer(*args, **options)

    monkeypatch.setattr(BatchedSend, "send", send)
    monkeypatch.setattr(distributed.core, "send_recv", send_recv)
    sent = {}
    for trials in (50, 5):
        said.clear()
        plan = make(trials=trials, sources="task")
        plan.run(DaskExecutor(client, chunks_per_worker=4), exists="fresh", progress=False)
        sent[len(plan)] = sum(n for op, n in said.items() if "heartbeat" not in op)
    chunks = 2 * 4
    assert [*sent] == [400, 4000]
    # Of each: asked for, begun, done, fetched, let go of; of the run, who is there and who is done.
    assert max(sent.values()) <= 8 * chunks + 20, sent


def test_a_client_that_is_closed_or_none_is_said(client, folder):
    with pytest.raises(OptionError, match=r"'tcp://x:1' is no client of dask"):
        slurm_side.run(make(), "tcp://x:1")
    client.close()
    with pytest.raises(ClusterError, match="The client of dask is closed"):
        slurm_side.run(make(), client)


def test_a_limit_of_time_does_not_end_the_session(folder):
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(processes=False, **options) as here, Client(here) as client:
        with pytest.raises(OptionError, match="here that is this process"):
            slurm_side.run(make(), client, trial_time=60, progress=False)
        slurm_side.run(make(), client, progress=False)
    check()


def page_faults(allocations: int = 0) -> int:
    """How often this process was given a page of memory, or while it allocates 1 MB so often."""
    at = resource.getrusage(resource.RUSAGE_SELF).ru_minflt if allocations else 0
    for _ in range(allocations):
        np.ones(1 << 17)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - at


def run_late(out: str) -> None:
    """Begin with blocks of a session that is over."""
    worker.run_batches(out, "over", [], 0, 0, None, f"late-{os.getpid()}")


def test_memory_of_trials_serves_again_and_goes_back_at_the_end(client):
    """dask has malloc give back all that is freed, and each new page costs half a microsecond."""
    mega, trials = 1 << 20, 80
    with h5py.File("rec.h5", "w") as f:
        f["lfp"] = np.ones((trials * mega // 4 // 8, 8), np.float32)
    plan = make(trials=mega // 4 // 8)
    plan.run(DaskExecutor(client), progress=False)  # all that is needed is imported
    before = sum(client.run(page_faults).values())
    plan.run(DaskExecutor(client), exists="fresh", progress=False)
    faults = sum(client.run(page_faults).values()) - before
    assert hpcio.verify("out.h5").blocks == trials
    pages = trials * mega // resource.getpagesize()  # of the results alone, each once
    assert faults < pages / 2
    # What else runs in these workers finds malloc as it was, also after a call that came too late.
    assert min(client.run(page_faults, 10).values()) >= 10 * mega // resource.getpagesize()
    client.run(worker.finish, "over")
    client.run(run_late, plan.out)
    assert min(client.run(page_faults, 10).values()) >= 10 * mega // resource.getpagesize()


COUNTING = """#!/bin/sh
date +%s.%N >> {log}
exec {squeue} "$@"
"""


@pytest.mark.slurm
def test_squeue_is_asked_rarely_whatever_the_number_of_tasks(slurm, folder, monkeypatch):
    log = folder / "asked"
    (folder / "bin").mkdir()
    wrapper = folder / "bin" / "squeue"
    wrapper.write_text(COUNTING.format(log=log, squeue=shutil.which("squeue")))
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    options = {"memory": "300MB", "walltime": "00:30:00", "nanny": False}
    with SLURMArrayCluster(tasks=4, scheduler_options={"host": "127.0.0.1"}, **options) as there:
        make().run(there, progress=False)
        until(lambda: log.exists() and len(log.read_text().split()) >= 4, "four calls")
    check()
    asked = np.array(log.read_text().split(), float)
    assert (np.diff(asked) >= 2.0).all()


INTERRUPTED = """
import os, signal, sys
import hpcio
from slurm import SLURMArrayCluster

def waits(trial):
    import time
    open("computing", "w").close()
    while True:
        time.sleep(0.01)

plan = hpcio.Plan.create(waits, "rec.h5::/lfp", trials=50, out="out.h5",
                         out_shape=(50, 4), out_dtype="f8")
with SLURMArrayCluster(tasks=2, memory="300MB", walltime="00:30:00",
                       scheduler_options={"host": "127.0.0.1"}) as cluster:
    plan.run(cluster, progress=False)
"""


@pytest.mark.slurm
def test_ctrl_c_leaves_no_job(slurm, folder):
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stderr=subprocess.PIPE, text=True,
        env=slurm.environment,
    )  # fmt: skip
    try:
        until(lambda: Path("computing").exists(), "the function to be called")
        child.send_signal(2)
        _, said = child.communicate(timeout=PATIENCE)
    finally:
        child.kill()
        child.wait()
    assert f"hpcio resume {folder}/out.h5" in said
    until(lambda: not slurm.call("squeue", "-h").strip(), "jobs to go")
    assert not list(folder.glob(".hpcio-cluster-*"))


def hungry(trial):
    if len(trial) == 50 and trial[0, 0] > 0:
        np.ones(2**28)  # 2 GB
    return -trial


@pytest.mark.slurm
def test_a_trial_beyond_the_memory_of_its_task_is_named(slurm, folder):
    with h5py.File("rec.h5", "r+") as f:
        f["lfp"][:, 0] = -1
        f["lfp"][50 * 11, 0] = 1
    plan = make(hungry, out_shape=(50, 4), out_dtype="f8")
    options = {"memory": "600MB", "walltime": "00:30:00"}
    options["scheduler_options"] = {"host": "127.0.0.1"}
    with SLURMArrayCluster(tasks=1, **options) as there, pytest.raises(BlocksFailed) as caught:
        plan.run(there, progress=False)
    (failure,) = caught.value.done.failed
    assert (failure.block, failure.trial) == (11, 11)
    assert "more memory than" in failure.reason
    assert caught.value.done.blocks == 399
