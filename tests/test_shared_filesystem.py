"""Real shared file systems, whose clients cache as nodes of a cluster do: the bytes are right."""

from __future__ import annotations

import os
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gluster_rig import Gluster
from slurm_rig import until
from support import Bench

import hpcio
from hpcio.filesystems import is_local, kind_of
from hpcio.journal import DONE
from hpcio.ledger import read_logs
from slurm import SLURMArrayCluster

TRIALS = 40
TWO_TASKS: dict[str, Any] = {
    "tasks": 2, "memory": "400MB", "walltime": "00:30:00",
    "scheduler_options": {"host": "127.0.0.1"},
}  # fmt: skip


@pytest.fixture
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A recording on GlusterFS, in a folder of its own."""
    if request.node.get_closest_marker("slurm"):
        folder = request.getfixturevalue("gluster_slurm").folder
    else:
        login = request.getfixturevalue("the_gluster").path("login")
        folder = Path(tempfile.mkdtemp(dir=login))
    monkeypatch.chdir(folder)
    sources = getattr(request, "param", "task")
    return Bench(folder, sources=sources, trials=TRIALS)


def elsewhere(gluster: Gluster, path: Path, client: str) -> Path:
    """The path by which this process sees through another client what `login` has at `path`."""
    return gluster.path(client) / path.relative_to(gluster.path("login"))


def done_blocks(bench: Bench) -> list[list[int]]:
    """The blocks that each journal has as done."""
    logs = read_logs(hpcio.Plan.load(bench.out))
    return [log.records["block"][log.records["kind"] == DONE].tolist() for log in logs]


# ---------------------------------------------------------------------- GlusterFS


@pytest.mark.gluster
def test_clients_see_what_others_publish(the_gluster):
    login, a, b = (the_gluster.path(c) for c in ("login", "a", "b"))
    assert kind_of(login) == "fuse.glusterfs"
    assert not is_local(login)
    for k, (writer, reader) in enumerate([(login, a), (a, b), (b, login)]):
        data = np.random.default_rng(k).bytes(300_000)
        assert not (reader / f"{k}").exists()  # this answer must not stay
        (writer / f"{k}.part").write_bytes(data)
        (writer / f"{k}.part").rename(writer / f"{k}")
        until((reader / f"{k}").exists, "what another client has published", seconds=20)
        assert (reader / f"{k}").read_bytes() == data


@pytest.mark.gluster
@pytest.mark.slurm
def test_nodes_see_one_folder_as_different_clients(gluster_slurm, the_gluster):
    slurm, folder = gluster_slurm
    device = {c: os.stat(elsewhere(the_gluster, folder, c)).st_dev for c in ("login", "a", "b")}
    assert len(set(device.values())) == 3

    def seen_by(node: str) -> int:
        return int(slurm.call("srun", "-Q", "-w", node, "stat", "-c", "%d", str(folder)))

    assert [seen_by(f"n{k}") for k in (1, 2, 3, 4)] == [device[c] for c in "abab"]
    slurm.kill("slurmd-n2")
    slurm.start_node(2)
    until(lambda: slurm.pid("slurmd-n2"), "slurmd")
    slurm.wait_for_nodes()
    assert seen_by("n2") == device["b"]


@pytest.mark.gluster
@pytest.mark.parametrize("bench", ["task", "trial"], indirect=True)
def test_a_run_of_this_machine(bench, the_gluster):
    done = bench.plan().run(workers=2, progress=False)
    assert (done.blocks, done.computed, done.repeated, done.workers) == (TRIALS, TRIALS, 0, 2)
    bench.check()
    for client in ("a", "b"):
        bench.check(elsewhere(the_gluster, bench.out, client))


@pytest.mark.gluster
@pytest.mark.slurm
@pytest.mark.parametrize("progress", [False, True])
@pytest.mark.parametrize("bench", ["task", "trial"], indirect=True)
def test_array_tasks_on_other_nodes(bench, progress):
    with SLURMArrayCluster(**TWO_TASKS) as there:
        done = bench.plan().run(there, progress=progress)
    assert (done.blocks, done.computed, done.repeated, done.failed) == (TRIALS, TRIALS, 0, ())
    assert 1 <= done.workers <= 2
    bench.check()
    blocks = done_blocks(bench)
    assert len([b for b in blocks if b]) == done.workers
    assert sorted(sum(blocks, [])) == list(range(TRIALS))


@pytest.mark.gluster
@pytest.mark.slurm
@pytest.mark.parametrize("bench", ["task", "trial"], indirect=True)
def test_a_worker_that_is_killed_on_another_node(bench):
    bench.hold(5)

    def kill() -> None:
        until(lambda: 5 in bench.calls, "trial 5")
        os.kill(bench.pid(5), signal.SIGKILL)
        bench.hold()

    with SLURMArrayCluster(**TWO_TASKS, nanny=False) as there, ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        done = bench.plan().run(there, progress=False)
        killed.result()
    assert (done.blocks, done.computed, done.failed) == (TRIALS, TRIALS, ())
    bench.check()
    blocks = done_blocks(bench)
    assert set(sum(blocks, [])) == set(range(TRIALS))
    until(lambda: len(bench.calls) == TRIALS + 1 + done.repeated, "all calls, seen from here")
    assert bench.calls.count(5) == 2
