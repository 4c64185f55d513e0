"""One process at a time has the lock of a file: whoever dies, fails or waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import h5py
import pytest
from distributed import Client, LocalCluster

import hpcio
from hpcio.errors import OutputError, SourceError
from hpcio.files import locks
from hpcio.files.locks import check_locks, locked, open_to_write
from hpcio.journals import prepare
from hpcio.writers import backend_of
from tests.rigs.bench import Bench
from tests.rigs.forks import forked
from tests.rigs.shared_sum import awaited, holding, one_more, same, shared_file, total
from tests.rigs.support import REPOSITORY
from tests.rigs.waiting import PATIENCE, until

ADD = """
import sys
sys.path.insert(0, {root!r})
from tests.rigs.shared_sum import one_more, same
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
        assert [p.wait(timeout=PATIENCE) for p in (a, b, c)] == [0, 0, 0]
    assert total(path) == 120.0


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
        until(lambda: awaited(Path(f"{path}.lock")), "who waits for the lock")
        process.kill()
        assert waiting.wait(timeout=PATIENCE) == 0
    assert total(path) == 1.0


@pytest.mark.parametrize("shared", [False, True])
def test_nobody_waits_for_a_stopped_holder(tmp_path, monkeypatch, shared):
    """As an orphan of a session that was killed may be, or one that a debugger has stopped."""
    path = shared_file(tmp_path)
    monkeypatch.setattr(locks, "LOOK_EVERY", 0.05)
    if shared:
        monkeypatch.setattr(locks, "is_local", lambda _: False)
        monkeypatch.setattr(locks, "check_locks", lambda _: None)
    if not (pid := os.fork()):
        with locked(path):
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        with (
            pytest.raises(OutputError, match=rf"Process {pid} is stopped.*kill -9 {pid}"),
            locked(path),
        ):
            pass
    finally:
        os.kill(pid, signal.SIGCONT)
        os.waitpid(pid, 0)
    with locked(path) as in_order:  # those who gave up waiting have not got it meanwhile
        assert in_order


def test_who_gave_up_waiting_locks_nothing_else(tmp_path, monkeypatch):
    """The thread that waits outlives it, and the system may ask again by the same number."""
    path = shared_file(tmp_path)
    monkeypatch.setattr(locks, "LOOK_EVERY", 0.05)
    if not (holder := os.fork()):
        with locked(path):
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(holder, os.WUNTRACED)
    if not (waiting := os.fork()):
        try:
            with locked(path):
                os._exit(2)
        except OutputError:
            others = [os.open(tmp_path / f"other-{k}", os.O_RDWR | os.O_CREAT) for k in range(8)]
            os.kill(
                os.getpid(), signal.SIGSTOP
            )  # after this the system call of the thread begins anew
            os.kill(holder, signal.SIGCONT)
            until(lambda: threading.active_count() == 1, "the end of the thread")
            infos = [Path(f"/proc/self/fdinfo/{fd}").read_text() for fd in others]
            os._exit(int(any("lock:" in info for info in infos)))
        os._exit(3)
    os.waitpid(waiting, os.WUNTRACED)
    os.kill(waiting, signal.SIGCONT)
    _, status = os.waitpid(waiting, 0)
    os.waitpid(holder, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    with locked(path):
        pass


def test_a_run_says_which_process_holds_it_up(tmp_path, monkeypatch):
    bench = Bench(tmp_path, writer="mutex")
    monkeypatch.setattr(locks, "LOOK_EVERY", 0.05)
    plan = bench.plan()
    prepare(plan)
    backend_of(plan).reserve(plan)
    if not (pid := os.fork()):
        with locked(plan.rundir.data):
            os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.waitpid(pid, os.WUNTRACED)
        with pytest.raises(OutputError, match=f"Process {pid} is stopped"):
            plan.run(workers=0, progress=False)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert bench.plan().run(workers=0, progress=False).blocks == len(plan)


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


@pytest.mark.parametrize("how", ["file", "link", "dangling", "hard link", "pipe", "folder"])
def test_what_is_no_lock_is_refused_and_left_as_it_is(tmp_path, how):
    path, lock, victim = shared_file(tmp_path), tmp_path / "shared.h5.lock", tmp_path / "victim"
    victim.write_text("of somebody else")
    {
        "file": lambda: lock.write_text("of somebody else"),
        "link": lambda: lock.symlink_to(victim),
        "dangling": lambda: lock.symlink_to("none"),
        "hard link": lambda: (tmp_path / "empty").touch() or lock.hardlink_to(tmp_path / "empty"),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
    }[how]()
    with pytest.raises(OutputError, match=r"shared\.h5\.lock' is no lock .* Move it away"):
        same(one_more(path))
    assert victim.read_text() == "of somebody else"
    assert how != "file" or lock.read_text() == "of somebody else"
    assert not (tmp_path / "none").exists()
    assert total(path) == 0.0


@pytest.mark.root
def test_others_take_turns_once_the_owner_of_the_lock_lets_them():
    def add_as_another() -> str:
        os.setuid(65534)
        same(one_more(path))
        return "fine"

    with tempfile.TemporaryDirectory() as name:  # where all may go
        os.chmod(name, 0o777)
        path = shared_file(Path(name))
        path.chmod(0o666)
        lock = Path(f"{path}.lock")
        same(one_more(path))
        assert "lock', which another user has made. Its owner lets" in forked(add_as_another)
        lock.chmod(0o666)
        assert forked(add_as_another) == "fine"
        assert (total(path), lock.stat().st_uid, lock.stat().st_size) == (2.0, 0, 0)


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


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two workers, each a process of two threads; dask gives up a dead one soon."""
    leases = "distributed.scheduler.locks."
    soon = {f"{leases}lease-timeout": "1s", f"{leases}lease-validation-interval": "200ms"}
    with (
        dask.config.set(soon),
        LocalCluster(
            host="127.0.0.1", n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0"
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=PATIENCE)  # one may have been killed
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
        assert beside.wait(timeout=PATIENCE) == 0
    assert total(path) == 90.0


def test_a_dask_worker_queues_at_the_scheduler(tmp_path, client):
    path = shared_file(tmp_path)
    sign, end = tmp_path / "held", tmp_path / "end"

    def leases(dask_scheduler: Any) -> dict[str, int]:
        held = dask_scheduler.extensions["semaphores"].leases
        return {name: len(ids) for name, ids in held.items() if str(tmp_path) in name}

    held = client.submit(hold_until, str(path), str(sign), str(end))
    until(sign.exists, "the lock")
    assert client.run_on_scheduler(leases) == {f"hpcio:{path}": 1}
    other = shared_file(tmp_path, "other.h5")
    client.submit(add, str(other), 1).result(timeout=PATIENCE)  # does not wait
    end.touch()
    held.result(timeout=PATIENCE)
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
    added.result(timeout=PATIENCE)
    assert total(path) == 1.0


def fails_with_the_lock(path: str) -> None:
    with locked(path):
        raise ZeroDivisionError("in the middle")


def test_the_lock_of_a_dask_worker_is_free_after_an_error(tmp_path, client):
    path = shared_file(tmp_path)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError, match="in the middle"):
            client.submit(fails_with_the_lock, str(path), pure=False).result(timeout=PATIENCE)
    client.submit(add, str(path), 1).result(timeout=PATIENCE)
    assert total(path) == 1.0


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
