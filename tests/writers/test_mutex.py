"""One process at a time writes into a file: whoever dies, fails or waits, and however they run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np
import pytest
from distributed import Client, LocalCluster

import hpcio
import slurm as slurm_side
from hpcio.errors import OutputError, SourceError
from hpcio.files import locks
from hpcio.files.locks import check_locks, locked, open_to_write
from hpcio.journals.ledger import Ledger
from hpcio.journals.rundir import prepare
from hpcio.machine.filesystems import _mount_above, _mount_of_device, kind_of
from hpcio.running.chunks import Attempt, run_chunk
from hpcio.writers.mutex import reserve
from tests.rigs.support import REPOSITORY, TRIALS, Bench, ended, kill, start, until


@hpcio.unwrap_io
def same(trial):
    return trial


def shared_file(folder: Path, name: str = "shared.h5") -> Path:
    """A file with a sum of zero, and beside it ones to be added."""
    with h5py.File(folder / "ones.h5", "w") as f:
        f["ones"] = np.ones((4, 2))
    with h5py.File(folder / name, "w") as f:
        f.create_dataset("sum", (4, 2), "f8")
    return folder / name


def one_more(path: Path | str, **changes: Any) -> dict[str, Any]:
    """For `unwrap_io`: add one everywhere."""
    folder = os.path.dirname(path)
    every = (slice(0, 4), slice(0, 2))
    return {
        "keeptrials": False, "infile": f"{folder}/ones.h5", "indset": "ones", "ingrid": every,
        "inshape": (4, 2), "vdsdir": None, "outfile": str(path), "outdset": "sum",
        "outgrid": every, "outshape": (4, 2), "dtype": np.dtype("f8"), **changes,
    }  # fmt: skip


def total(path: Path) -> float:
    with h5py.File(path) as f:
        (found,) = np.unique(f["sum"][...])
    return float(found)


# ---------------------------------------------------------------------- processes

ADD = """
import sys
sys.path.insert(0, {root!r})
from tests.writers.test_mutex import one_more, same
print("ready", flush=True)
sys.stdin.readline()
for _ in range({times}):
    same(one_more({path!r}))
"""


def adding(path: Path, times: int) -> subprocess.Popen[str]:
    """A process that adds, once it has been told to begin."""
    script = ADD.format(root=str(REPOSITORY), path=str(path), times=times)
    return subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def begin(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()


def test_no_addition_is_lost(tmp_path):
    path = shared_file(tmp_path)
    other = tmp_path / "other name.h5"
    other.symlink_to(path)
    with adding(path, 40) as a, adding(path, 40) as b, adding(other, 40) as c:
        begin(a, b, c)
        assert [p.wait(timeout=60) for p in (a, b, c)] == [0, 0, 0]
    assert total(path) == 120.0


HOLD = """
import sys
from hpcio.files.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holding(path: Path) -> subprocess.Popen[str]:
    """A process that has the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_lock_of_one_file_is_not_that_of_another(tmp_path):
    one, other = shared_file(tmp_path, "one.h5"), shared_file(tmp_path, "other.h5")
    with holding(one) as process:
        same(one_more(other))
        bench = Bench(tmp_path)
        bench.plan(writer="mutex").run(workers=1, progress=False)
        bench.check()
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
    assert (total(one), total(other)) == (0.0, 1.0)


def test_who_comes_after_a_killed_holder_knows_of_it(tmp_path):
    path = shared_file(tmp_path)
    with locked(path) as in_order:
        assert in_order
    with holding(path) as process:
        process.kill()
    with locked(path) as in_order:
        assert not in_order
    with locked(path) as in_order:
        assert in_order
    same(one_more(path))
    assert total(path) == 1.0


def test_who_waits_gets_the_lock_of_a_killed_holder(tmp_path):
    path = shared_file(tmp_path)
    with holding(path) as process, adding(path, 1) as waiting:
        begin(waiting)
        process.kill()
        assert waiting.wait(timeout=60) == 0
    assert total(path) == 1.0


def test_the_lock_is_free_after_every_error(tmp_path):
    path = shared_file(tmp_path)

    @hpcio.unwrap_io
    def broken(trial):
        raise ZeroDivisionError("no")

    with pytest.raises(ZeroDivisionError):
        broken(one_more(path))
    with pytest.raises(SourceError, match="'none'"):
        same(one_more(path, outdset="none"))
    with pytest.raises(RuntimeError, match="in the middle"), locked(path):
        raise RuntimeError("in the middle")
    with h5py.File(path, "r+") as f:
        f.create_dataset("names", (4, 2), "S3")
    with pytest.raises((TypeError, OSError)):
        same(one_more(path, outdset="names", keeptrials=True))
    whole = path.read_bytes()
    path.write_bytes(b"no HDF5")
    with pytest.raises(OutputError, match=r"shared\.h5.*file signature"):
        same(one_more(path))
    path.write_bytes(whole)
    same(one_more(path))
    assert total(path) == 1.0


def test_whoever_has_the_file_open_without_the_lock_is_complained_of(tmp_path, monkeypatch):
    path = shared_file(tmp_path)
    monkeypatch.setattr(locks, "STILL_OPEN", 0.05)
    script = "import h5py, sys\nf = h5py.File(sys.argv[1])\nprint('open', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as reader:  # fmt: skip
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        with pytest.raises(OutputError, match=r"shared\.h5' is open in another program\. Close"):
            same(one_more(path))
        assert reader.stdin is not None
        reader.stdin.close()
    same(one_more(path))
    assert total(path) == 1.0


def test_a_file_that_is_not_there_and_a_folder_that_is_closed_are_named(tmp_path):
    with (
        pytest.raises(OutputError, match=r"'.*none\.h5': No such file"),
        locked(tmp_path / "none.h5"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_what_is_opened_is_closed_and_only_what_is_written_is_written(tmp_path):
    path = tmp_path / "plain.h5"
    with h5py.File(path, "w") as f:
        f.create_dataset("data", (1000,), "u1")
        offset = None
        f["data"][...] = 0
        offset = f["data"].id.get_offset()
    before = len(os.listdir("/proc/self/fd"))
    with open_to_write(path) as f:
        # What somebody else writes there meanwhile stays.
        with path.open("r+b") as raw:
            raw.seek(offset)
            raw.write(b"\1" * 10)
        f["data"][10:20] = 2
    assert len(os.listdir("/proc/self/fd")) == before
    with h5py.File(path) as f:
        assert f["data"][:30].tolist() == [1] * 10 + [2] * 10 + [0] * 10


# ---------------------------------------------------------------------- dask


@pytest.fixture
def client() -> Iterator[Client]:
    """Two workers, each a process of two threads; dask gives up a dead one soon."""
    leases = "distributed.scheduler.locks."
    soon = {f"{leases}lease-timeout": "1s", f"{leases}lease-validation-interval": "200ms"}
    with (
        dask.config.set(soon),
        LocalCluster(
            host="127.0.0.1", n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def hold_until(path: str, sign: str, end: str) -> None:
    with locked(path):
        Path(f"{sign}.part").write_text(str(os.getpid()))
        os.rename(f"{sign}.part", sign)
        until(lambda: os.path.exists(end), "the end")


def add(path: str, times: int) -> None:
    for _ in range(times):
        same(one_more(path))


def add_after_a_short_wait(path: str) -> None:
    locks.PATIENCE = 0.1
    try:
        same(one_more(path))
    finally:
        locks.PATIENCE = 60.0


def test_dask_workers_and_a_process_beside_them_lose_no_addition(tmp_path, client):
    path = shared_file(tmp_path)
    with adding(path, 30) as beside:
        begin(beside)
        client.gather([client.submit(add, str(path), 10, pure=False) for _ in range(6)])
        assert beside.wait(timeout=60) == 0
    assert total(path) == 90.0


def test_a_dask_worker_queues_at_the_scheduler(tmp_path, client):
    path = shared_file(tmp_path)
    sign, end = tmp_path / "held", tmp_path / "end"

    def leases(dask_scheduler: Any) -> dict[str, int]:
        held = dask_scheduler.extensions["semaphores"].leases
        return {name: len(ids) for name, ids in held.items()}

    held = client.submit(hold_until, str(path), str(sign), str(end))
    until(sign.exists, "the lock")
    assert client.run_on_scheduler(leases) == {f"hpcio:{path}": 1}
    other = shared_file(tmp_path, "other.h5")
    client.submit(add, str(other), 1).result(timeout=60)  # does not wait
    end.touch()
    held.result(timeout=60)
    assert client.run_on_scheduler(leases) == {f"hpcio:{path}": 0, f"hpcio:{other}": 0}


@pytest.mark.parametrize("waiting", [add, add_after_a_short_wait])
def test_a_dask_worker_that_dies_with_the_lock_blocks_nobody(tmp_path, client, waiting):
    path = shared_file(tmp_path)
    sign, end = tmp_path / "held", tmp_path / "end"
    client.submit(hold_until, str(path), str(sign), str(end), pure=False)
    until(sign.exists, "the lock")
    pid = int(sign.read_text())
    others = [a for a, p in client.run(os.getpid).items() if p != pid]
    arguments = (str(path), 1) if waiting is add else (str(path),)
    added = client.submit(waiting, *arguments, workers=others, pure=False)
    os.kill(pid, signal.SIGKILL)
    end.touch()  # dask computes the dead one's task again
    added.result(timeout=60)
    assert total(path) == 1.0


def fails_with_the_lock(path: str) -> None:
    with locked(path):
        raise ZeroDivisionError("in the middle")


def test_the_lock_of_a_dask_worker_is_free_after_an_error(tmp_path, client):
    path = shared_file(tmp_path)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="in the middle"):
            client.submit(fails_with_the_lock, str(path), pure=False).result(timeout=60)
    client.submit(add, str(path), 1).result(timeout=60)
    assert total(path) == 1.0


def test_a_run_by_dask_workers(tmp_path, client):
    bench = Bench(tmp_path)
    done = slurm_side.run(bench.plan(writer="mutex"), client, progress=False)
    assert (done.blocks, done.computed, done.failed) == (TRIALS, TRIALS, ())
    bench.check()


# ---------------------------------------------------------------------- the writer, killed

# Writes half of the KILL_AT-th write into data.h5, and kills its process.
KILL = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef ssize_t (*writer)(int, const void *, size_t, off64_t);
static int count = 0;
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    static writer real = NULL;
    char link[64], path[4096];
    if (!real) real = (writer)dlsym(RTLD_NEXT, "pwrite64");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    int ours = length > 8 && !strcmp(path + length - 8, "/data.h5");
    if (ours && ++count == atoi(getenv("KILL_AT"))) {
        real(fd, data, size / 2, offset);
        kill(getpid(), SIGKILL);
    }
    return real(fd, data, size, offset);
}
ssize_t pwrite(int fd, const void *data, size_t size, off64_t offset) {
    return pwrite64(fd, data, size, offset);
}
"""

RESUME = """
import hpcio
from hpcio.running.chunks import Attempt, run_chunk
from hpcio.journals.ledger import Ledger
plan = hpcio.Plan.load("out.h5")
with Attempt(plan, "here") as attempt:
    run_chunk(attempt, Ledger.read_trusted(plan).missing())
"""


@pytest.fixture(scope="module")
def kill_at(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("kill_at")
    (folder / "kill.c").write_text(KILL)
    command = ["cc", "-shared", "-fPIC", "-o", "kill.so", "kill.c", "-ldl"]
    subprocess.run(command, cwd=folder, check=True)
    return str(folder / "kill.so")


@pytest.mark.parametrize("join", ["concatenate", "stack"])
@pytest.mark.parametrize("channels", [None, 2])
def test_a_writer_that_is_killed_in_any_of_its_writes(tmp_path, kill_at, join, channels):
    """The first is killed in its first write, the second in its second, and so on."""
    lfp = np.random.default_rng(1).normal(size=(6, 4))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = lfp
    plan = hpcio.Plan.create(
        np.negative, f"{tmp_path}/rec.h5::/lfp", trials=1, out=tmp_path / "out.h5",
        writer="mutex", join=join, channels_per_block=channels,
    )  # fmt: skip
    plan = prepare(plan)
    reserve(plan)
    with h5py.File(plan.run_directory / "data.h5") as f:
        chunked = f["data"].chunks is not None
    assert chunked == bool(channels)
    for number in range(1, 30):
        child = subprocess.run(
            [sys.executable, "-c", RESUME], cwd=tmp_path, check=False,
            env={**os.environ, "LD_PRELOAD": kill_at, "KILL_AT": str(number)},
        )  # fmt: skip
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
    assert number > 5
    # Nothing was lost by all this but blocks at hand.
    assert Ledger.read_trusted(plan).done.all()
    plan.run(workers=0, progress=False)
    with hpcio.open(tmp_path / "out.h5") as f:
        assert f["data"][...].tobytes() == (-lfp).reshape(f["data"].shape).tobytes()
    assert hpcio.verify(tmp_path / "out.h5").blocks == len(plan)


@pytest.mark.slow
@pytest.mark.parametrize("channels", [None, 1])
def test_a_run_that_is_killed_again_and_again(tmp_path, channels):
    lfp = np.random.default_rng(1).normal(size=(400, 2))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = lfp
    script = (
        "import hpcio, numpy as np\n"
        "plan = hpcio.Plan.create(np.negative, 'rec.h5::/lfp', trials=1, out='out.h5',\n"
        f"                         writer='mutex', channels_per_block={channels})\n"
        "plan.run(workers=2, progress=False)\n"
    )
    journals = tmp_path / "out.h5.run" / "journal"
    for _ in range(6):
        before = len([*journals.glob("*.jnl")])
        with ended(start(script, tmp_path)) as child:
            until(
                lambda b=before, c=child: len([*journals.glob("*.jnl")]) > b or c.poll() == 0,
                "a worker",
            )
            if child.poll() is None:
                with pytest.raises(subprocess.TimeoutExpired):
                    child.wait(random.uniform(0.0, 0.1))
                kill(child)
    with ended(start(script, tmp_path)) as child:
        assert child.wait(120) == 0, child.communicate()[1]
    with hpcio.open(tmp_path / "out.h5") as f:
        assert f["data"][...].tobytes() == (-lfp).tobytes()


def test_what_a_crash_has_damaged_around_the_data_is_restored_by_the_next_run(tmp_path):
    bench = Bench(tmp_path)
    plan = prepare(bench.plan(writer="mutex", channels_per_block=1))
    reserve(plan)
    data = plan.run_directory / "data.h5"
    with Attempt(plan, "here") as attempt:
        run_chunk(attempt, np.arange(5))
        attempt.sync()
    with data.open("r+b") as f:
        f.write(b"\0" * 60)
    with pytest.raises(OSError, match="signature"):
        h5py.File(data)
    done = plan.run(workers=1, progress=False)
    assert (done.blocks, done.computed) == (len(plan), len(plan) - 5)
    with hpcio.open(bench.out) as f:
        assert f["data"][...].tobytes() == bench.expected.tobytes()


def test_a_second_copy_of_a_task_that_comes_too_late(tmp_path):
    bench = Bench(tmp_path)
    plan = prepare(bench.plan(writer="mutex"))
    reserve(plan)
    with Attempt(plan, "late") as attempt:
        run_chunk(attempt, np.arange(2))
        bench.plan(writer="mutex").run(workers=0, progress=False)
        with pytest.raises(OutputError, match=r"data\.h5' is gone: another process has finished"):
            run_chunk(attempt, np.arange(2, 4))
    bench.check()


def test_publishing_waits_for_whoever_still_writes(tmp_path):
    bench = Bench(tmp_path)
    plan = prepare(bench.plan(writer="mutex"))
    reserve(plan)
    with Attempt(plan, "here") as attempt:
        run_chunk(attempt, np.arange(TRIALS))
        attempt.sync()
    script = f"import hpcio\nhpcio.Plan.load('{bench.out}').run(workers=0, progress=False)"
    with (
        holding(plan.run_directory / "data.h5") as process,
        ended(start(script, tmp_path)) as child,
    ):
        until(lambda: _awaited(Path(f"{bench.out}.run", "data.h5.lock")), "who waits for the lock")
        assert not bench.out.exists()
        assert process.stdin is not None
        process.stdin.close()
        assert child.wait(60) == 0
    bench.check()


def _awaited(lock: Path) -> bool:
    """Whether a process waits for the lock of a file."""
    inode = f":{lock.stat().st_ino} "
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and inode in line for line in lines)


# ---------------------------------------------------------------------- where it is refused


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        ("nfs4", "rw,vers=4.2,hard,local_lock=none", ""),
        ("nfs", "rw,vers=3,hard,local_lock=none", ""),
        ("nfs", "rw,vers=3,hard,nolock,local_lock=all", "local_lock=all, nolock"),
        ("nfs", "rw,vers=3,hard,local_lock=flock", "local_lock=flock"),
        ("nfs4", "rw,vers=4.1,nocto,local_lock=none", "nocto"),
        ("lustre", "rw,flock,lazystatfs", ""),
        ("lustre", "rw,lazystatfs", "without flock"),
        ("lustre", "rw,localflock", "without flock"),
        ("gpfs", "rw", ""),
        ("ceph", "rw", ""),
        ("gfs2", "rw,localflocks", "localflocks"),
        ("beegfs", "rw", "type beegfs, whose locks are by default those of one node"),
        ("fuse.glusterfs", "rw", "type fuse.glusterfs, whose clients may read old bytes"),
        ("fuse.sshfs", "rw", "does not know enough"),
        ("", "", "type unknown"),
    ],
)
def test_where_locks_do_not_protect_it_is_refused(tmp_path, monkeypatch, kind, options, why):
    """As if the folder were mounted so."""
    monkeypatch.setattr(locks, "is_local", lambda path: False)
    monkeypatch.setattr(locks, "kind_of", lambda path: kind)
    monkeypatch.setattr(locks, "options_of", lambda path: frozenset(options.split(",")))
    bench = Bench(tmp_path)
    path = shared_file(tmp_path)
    if not why:
        same(one_more(path))
        assert total(path) == 1.0
        bench.plan(writer="mutex").run(workers=0, progress=False)
        bench.check()
        return
    with pytest.raises(OutputError, match=f"{why}.*'virtual' or writer='direct'.*vdsdir"):
        same(one_more(path))
    with pytest.raises(OutputError, match=f"Cannot write '{tmp_path}'.*{why}"):
        bench.plan(writer="mutex")
    assert total(path) == 0.0


def test_a_mount_is_found_by_its_name_where_its_device_tells_nothing(tmp_path):
    assert _mount_of_device(0) is None
    for folder in (str(tmp_path), "/dev/shm", "/proc/self", "/"):
        assert _mount_above(folder)[0] == kind_of(folder)
    assert "rw" in _mount_above("/dev/shm")[1]


@pytest.mark.gluster
def test_it_is_refused_on_glusterfs_and_others_work_there(the_gluster):
    folder = Path(tempfile.mkdtemp(dir=the_gluster.path("login")))
    path = shared_file(folder)
    said = r"fuse\.glusterfs, whose clients may read old bytes even under a lock\. Use writer="
    with pytest.raises(OutputError, match=said):
        check_locks(folder)
    with pytest.raises(OutputError, match=said):
        same(one_more(path))
    assert total(path) == 0.0
    assert not Path(f"{path}.lock").exists()
    bench = Bench(folder)
    with pytest.raises(OutputError, match=said):
        bench.plan(writer="mutex")
    for writer in ("virtual", "direct"):
        bench.plan(writer=writer, out=folder / f"{writer}.h5").run(workers=1, progress=False)
        bench.check(folder / f"{writer}.h5")
