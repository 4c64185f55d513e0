"""Real shared file systems, whose clients cache as nodes of a cluster do: the bytes are right."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

import hpcio
from hpcio.journals.journal import DONE
from hpcio.journals.ledger import read_logs
from hpcio.machine.filesystems import is_local, kind_of
from slurm import SLURMArrayCluster
from tests.rigs import nfs as nfs_rig
from tests.rigs.bench import Bench
from tests.rigs.gluster import Gluster
from tests.rigs.nfs import Nfs
from tests.rigs.slurm import until
from tests.rigs.support import REPOSITORY
from tests.rigs.waiting import PATIENCE

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


def done_blocks(bench: Bench) -> list[np.ndarray]:
    """The blocks that each journal has as done."""
    logs = read_logs(hpcio.Plan.load(bench.out))
    return [log.records["block"][log.records["kind"] == DONE] for log in logs]


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
        until((reader / f"{k}").exists, "what another client has published")
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
@pytest.mark.parametrize(
    ("bench", "progress"), [("task", True), ("trial", False)], indirect=["bench"]
)
def test_array_tasks_on_other_nodes(bench, progress):
    with SLURMArrayCluster(**TWO_TASKS) as there, Client(there) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
        nodes = client.run(lambda: os.environ["SLURMD_NODENAME"])
        done = bench.plan().run(there, progress=progress)
    assert sorted(nodes.values()) == ["n1", "n2"]
    assert (done.blocks, done.computed, done.repeated, done.failed) == (TRIALS, TRIALS, 0, ())
    assert done.workers == 2
    bench.check()
    blocks = done_blocks(bench)
    assert len(blocks) == 2
    assert all(b.size for b in blocks)
    assert sorted(np.concatenate(blocks)) == list(range(TRIALS))


@pytest.mark.gluster
@pytest.mark.slurm
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
    assert set(np.concatenate(done_blocks(bench))) == set(range(TRIALS))
    until(lambda: len(bench.calls) == TRIALS + 1 + done.repeated, "all calls, seen from here")
    assert bench.calls.count(5) == 2


# ---------------------------------------------------------------------- NFS, in a guest

# What runs in the guest sees NFS at /mnt/shared, each as the client it is started as, and all of
# them the same memory at /mnt/memory. This is the session; its two attempts are on other clients.
SESSION = """
import os, sys
from pathlib import Path
import numpy as np
from tests.rigs.slurm import until
from tests.rigs.bench import Bench
from hpcio.machine.filesystems import is_local, kind_of
from hpcio.journals.ledger import Ledger

name, sources, trials, writer = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
said = Path("/mnt/memory", name)
os.mkdir(name)
os.chdir(name)
assert kind_of(".").startswith("nfs") and not is_local(".")
bench = Bench(Path.cwd(), sources=sources, trials=trials)


class Elsewhere:
    about = ""

    def check(self, plan, memory):
        pass

    def execute(self, work):
        assert not Ledger.read(work.plan).logs  # this answer must not stay
        for node, part in zip("ab", np.array_split(work.blocks, 2)):
            np.save(said / "part.npy", part)
            (said / "part.npy").rename(said / f"{node}.npy")
        until(lambda: all((said / f"{node}-ended").exists() for node in "ab"), "the attempts")


done = bench.plan(writer=writer).run(Elsewhere(), progress=False)
assert (done.blocks, done.computed, done.repeated, done.workers) == (trials, trials, 0, 2), done
bench.check()
"""

ATTEMPT = """
import sys
from pathlib import Path
import numpy as np
from tests.rigs.slurm import until
from hpcio import Plan
from hpcio.running.batch import run_batch
from hpcio.running.attempt import Attempt

name, node = sys.argv[1:]
said = Path("/mnt/memory", name)
until((said / f"{node}.npy").exists, "what to do")
try:
    with Attempt(Plan.load(Path(name, "out.h5").absolute()), node) as attempt:
        run_batch(attempt, np.load(said / f"{node}.npy"))
        attempt.sync()
finally:
    (said / f"{node}-ended").touch()
"""

READER = """
import os, sys
import h5py, hpcio
from hpcio.journals.journal import DONE
from hpcio.journals.ledger import read_logs

name, trials = sys.argv[1], int(sys.argv[2])
os.chdir(name)
with h5py.File("rec.h5") as source, hpcio.open("out.h5") as result:
    assert result["data"][...].tobytes() == (2.0 * source["lfp"][...]).tobytes()
assert hpcio.verify("out.h5").blocks == trials
records = [log.records for log in read_logs(hpcio.Plan.load("out.h5"))]
done = [r["block"][r["kind"] == DONE].tolist() for r in records]
assert sorted(sum(done, [])) == list(range(trials)), done
assert len(done) == 2 and all(done), done
"""

# A SLURM of two nodes, on clients a and b. The second run loses a worker.
ARRAY_TASKS = """
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tests.rigs.slurm import Slurm, until
from tests.rigs.bench import Bench

version, trials = sys.argv[1], int(sys.argv[2])
nodes = tuple(Path("/mnt", version, client) for client in "ab")
rig = Slurm(Path("/mnt/memory/slurm", version), nodes=2, cpus=1, at=Path.cwd(), shared=nodes)
options = {"memory": "400MB", "walltime": "00:30:00", "scheduler_options": {"host": "127.0.0.1"}}


def bench(sources):
    folder = Path.cwd() / f"tasks-{version}-{sources}"
    folder.mkdir()
    # Clients of NFS that append to one file write over each other.
    (folder / "calls").symlink_to(f"/mnt/memory/{folder.name}")
    return Bench(folder, sources=sources, trials=trials)


def kill(disturbed):
    until(lambda: 5 in disturbed.calls, "trial 5")
    os.kill(disturbed.pid(5), signal.SIGKILL)
    disturbed.hold()


try:
    rig.up()
    os.environ.update(rig.environment)
    from slurm import SLURMArrayCluster

    with SLURMArrayCluster(tasks=2, nanny=False, **options) as there, ThreadPoolExecutor(1) as pool:
        plain, disturbed = bench("task"), bench("trial")
        done = plain.plan().run(there, progress=True)
        assert (done.blocks, done.computed, done.repeated) == (trials, trials, 0), done
        plain.check()
        disturbed.hold(5)
        killed = pool.submit(kill, disturbed)
        done = disturbed.plan().run(there, progress=False)
        killed.result()
        assert (done.blocks, done.computed, done.failed) == (trials, trials, ()), done
        assert disturbed.calls.count(5) == 2, disturbed.calls
        disturbed.check()
finally:
    rig.down()
"""


# Submissions there: the tests of them, as they are elsewhere.
SUBMISSIONS = """
import json, os, subprocess, sys
from pathlib import Path
from tests.rigs.slurm import Slurm
from tests.rigs.cluster_bench import HPCIO, ClusterBench
from tests.slurm.submissions import test_submit as submit
from tests.slurm.tasks import test_task as task

version = sys.argv[1]
here = Path.cwd()
nodes = tuple(Path("/mnt", version, client) for client in "ab")
rig = Slurm(Path("/mnt/memory/submit", version), nodes=2, cpus=1, at=here, shared=nodes)


def place(name):
    folder, notes = here / f"{name}-{version}", Path(f"/mnt/memory/{name}-{version}")
    for path in (folder, notes):
        path.mkdir()
    os.chdir(folder)
    return ClusterBench(folder, notes=notes)


try:
    rig.up()
    os.environ.update(rig.environment)
    there = place("plain")
    submit.test_submit_and_come_back(rig, there, 2)
    said = json.loads(subprocess.check_output([HPCIO, "status", "--json", "out.h5"]))
    assert (said["done"], said["left"], said["published"]) == (there.trials, 0, True), said
    rig.empty()
    task.test_a_task_that_is_gone_is_taken_over_by_its_sibling(rig, place("gone"))
    rig.empty()
    task.test_a_slow_task_gets_help(rig, place("slow"))
    rig.empty()
    submit.test_cancel_then_resume(rig, place("cancel"), "when all has ended")
finally:
    rig.down()
"""


def start(nfs: Nfs, script: str, *arguments: object, client: str, version: str) -> nfs_rig.Job:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return nfs.start(*command, client=client, version=version, PYTHONPATH=path.rstrip(os.pathsep))


@pytest.mark.torture
@pytest.mark.parametrize(
    ("version", "sources", "writer"),
    [
        ("4.2", "task", "virtual"),
        ("4.2", "trial", "virtual"),
        ("4.2", "task", "mutex"),
        ("3", "task", "virtual"),
        ("3", "trial", "virtual"),
    ],
)
def test_attempts_of_two_clients_of_nfs(nfs, version, sources, writer):
    name = f"attempts-{version}-{sources}-{writer}"
    nfs.start("mkdir", f"{nfs.memory}/{name}", client="c").result()
    jobs = [start(nfs, ATTEMPT, name, c, client=c, version=version) for c in "ab"]
    jobs += [start(nfs, SESSION, name, sources, TRIALS, writer, client="c", version=version)]
    for job in jobs:
        job.result()
    for client in "ab":
        start(nfs, READER, name, TRIALS, client=client, version=version).result()


# Processes on several clients, and on the server itself, add to one dataset in turn.
ADD = """
import os, sys
from pathlib import Path
from tests.rigs.slurm import until
from tests.rigs.shared_sum import one_more, same

name, times, processes, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
said = Path("/mnt/memory", name)
path = Path(folder, name, "shared.h5")
open(path, "rb").read()  # this must not stay
(said / str(os.getpid())).touch()
until(lambda: len(os.listdir(said)) == processes, "the others")
for _ in range(times):
    same(one_more(path))
"""

MAKE = """
import sys
from pathlib import Path
from tests.rigs.shared_sum import shared_file

folder = Path(sys.argv[1])
folder.mkdir()
shared_file(folder)
"""

SUM = """
import sys
from pathlib import Path
from tests.rigs.shared_sum import total

found = total(Path(sys.argv[1], "shared.h5"))
assert found == float(sys.argv[2]), found
"""


@pytest.mark.torture
@pytest.mark.parametrize("clients", ["ab", "abc", "aabb", "ab-"])
def test_no_addition_is_lost_on_nfs(nfs, clients):
    """`-` stands for a process on the server, which sees the disk itself."""
    name, times = f"add-{clients}", 25
    start(nfs, MAKE, name, client="c", version="4.2").result()
    nfs.start("mkdir", f"{nfs.memory}/{name}", client="c").result()
    jobs = []
    for client in clients:
        where = "/mnt/disk" if client == "-" else nfs.at
        arguments = (name, times, len(clients), where)
        jobs.append(start(nfs, ADD, *arguments, client=client.replace("-", "a"), version="4.2"))
    for job in jobs:
        job.result(seconds=4 * PATIENCE)
    for client in "abc":
        start(nfs, SUM, name, times * len(clients), client=client, version="4.2").result()


HELD = """
import os, sys
from hpcio.files.locks import locked

with locked(sys.argv[1] + "/shared.h5") as in_order:
    print(in_order)
    sys.stdout.flush()
    if len(sys.argv) > 2:
        os.kill(os.getpid(), 9)
"""


@pytest.mark.torture
def test_a_holder_of_the_lock_that_is_killed_on_another_client_of_nfs(nfs):
    start(nfs, MAKE, "held", client="a", version="4.2").result()
    assert start(nfs, HELD, "held", client="b", version="4.2").result() == "True\n"
    for client, found in (("a", "True"), ("b", "False"), ("a", "False")):
        with pytest.raises(RuntimeError, match=f"exit status 137:\n{found}"):
            start(nfs, HELD, "held", "die", client=client, version="4.2").result()
    assert start(nfs, HELD, "held", client="c", version="4.2").result() == "False\n"
    assert start(nfs, HELD, "held", client="b", version="4.2").result() == "True\n"


REFUSED = """
from pathlib import Path
import pytest
from hpcio.errors import OutputError
from tests.rigs.bench import Bench
from tests.rigs.shared_sum import one_more, same, shared_file, total

folder = Path.cwd() / "refused"
folder.mkdir()
path, said = shared_file(folder), "mounted with local_lock=all, nolock.*writer='direct'"
with pytest.raises(OutputError, match=said):
    same(one_more(path))
bench = Bench(folder)
with pytest.raises(OutputError, match=said):
    bench.plan(writer="mutex")
assert total(path) == 0.0
bench.plan(writer="direct").run(workers=1, progress=False)
bench.check()
"""


@pytest.mark.torture
def test_the_mutex_is_refused_where_nfs_does_not_lock(nfs):
    start(nfs, REFUSED, client="a", version="3").result()


@pytest.mark.torture
@pytest.mark.slurm
@pytest.mark.parametrize("version", nfs_rig.VERSIONS)
def test_array_tasks_on_nfs(nfs, version):
    job = start(nfs, ARRAY_TASKS, version, TRIALS, client="c", version=version)
    job.result(seconds=4 * PATIENCE)


@pytest.mark.torture
@pytest.mark.slurm
@pytest.mark.parametrize("version", nfs_rig.VERSIONS)
def test_submissions_on_nfs(nfs, version):
    start(nfs, SUBMISSIONS, version, client="c", version=version).result(seconds=4 * PATIENCE)
