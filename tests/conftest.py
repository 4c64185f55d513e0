"""What all tests share: which of them this machine can run, a real SLURM, a real GlusterFS."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import hypothesis
import numpy as np
import pytest

import hpcio
from hpcio.errors import Done
from tests.rigs import gluster as gluster_rig
from tests.rigs import nfs as nfs_rig
from tests.rigs import slurm as slurm_rig
from tests.rigs.bench import Bench
from tests.rigs.runs import record

# A busy machine makes inputs slowly, which says nothing of the test.
hypothesis.settings.register_profile(
    "hpcio", suppress_health_check=[hypothesis.HealthCheck.too_slow], deadline=None
)
hypothesis.settings.load_profile("hpcio")


def pytest_configure() -> None:
    # What a developer has made the default of the shell is not tested.
    os.environ["HPCIO_CONFIG"] = str(Path(tempfile.gettempdir()) / "hpcio-tests-have-no.toml")
    # A suite that `nohup` or a script's `&` started ignores these, and so would all its children.
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    for number, handler in usual.items():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs to be root")
    if item.get_closest_marker("oldstack") and not os.environ.get("HPCIO_OLDSTACK_PYTHON"):
        pytest.skip("no HPCIO_OLDSTACK_PYTHON: `make test` and `make oldstack-env` build it")
    if item.get_closest_marker("slurm") and slurm_rig.missing():
        pytest.skip(slurm_rig.missing())
    if item.get_closest_marker("gluster") and gluster_rig.missing():
        pytest.skip(gluster_rig.missing())


@pytest.fixture(scope="session")
def mpi_python() -> Path:
    """A Python whose h5py and mpi4py are built for Debian's Open MPI; for `rigs.mpi.mpirun`."""
    return _python_of("HPCIO_MPI_PYTHON", "make mpi-env")


@pytest.fixture(scope="session")
def mpich_python() -> Path:
    """A Python with PyPI's MPICH and an ordinary h5py; for `rigs.mpi.mpirun`."""
    return _python_of("HPCIO_MPICH_PYTHON", "make mpi-env MPI=mpich")


def _python_of(variable: str, command: str) -> Path:
    path = os.environ.get(variable)
    if not path:
        pytest.skip(f"no {variable}: `make test` and `{command}` build it, or say what is missing")
    return Path(path)


@pytest.fixture(scope="session")
def finished_plan(tmp_path_factory: pytest.TempPathFactory) -> hpcio.Plan:
    """A finished run: 60 trials, two workers."""
    folder = tmp_path_factory.mktemp("finished")
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = np.arange(12000.0).reshape(3000, 4)
    plan = hpcio.Plan.create(
        np.negative, f"{folder}/rec.h5::/lfp", trials=50, out=folder / "out.h5", sources="task"
    )
    plan.run(workers=2, progress=False)
    return plan


@pytest.fixture(scope="session")
def the_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_rig.Slurm]:
    """One SLURM of four nodes for all tests of a session."""
    slurm = slurm_rig.Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        slurm.up()
        yield slurm
    finally:
        slurm.down()


@pytest.fixture
def slurm(the_slurm: slurm_rig.Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[slurm_rig.Slurm]:
    """The SLURM, empty, with this process speaking to it."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, the_slurm.environment[name])
    yield the_slurm
    the_slurm.empty()


@pytest.fixture
def small_slurm(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], slurm_rig.Slurm]]:
    """Starts a SLURM of one node with a setting of its own, beside the other one."""
    with contextlib.ExitStack() as stack:

        def start(setting: str, *, cgroup: str = "") -> slurm_rig.Slurm:
            folder = tmp_path_factory.mktemp("small")
            small = slurm_rig.Slurm(folder, nodes=1, cpus=8, extra=setting, cgroup=cgroup)
            stack.callback(small.down)
            small.up()
            for name in ("SLURM_CONF", "PATH"):
                monkeypatch.setenv(name, small.environment[name])
            return small

        yield start


@pytest.fixture(scope="session")
def the_gluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[gluster_rig.Gluster]:
    """One GlusterFS for all tests of a session: `login` is the client of this process."""
    gluster = gluster_rig.Gluster(tmp_path_factory.mktemp("gluster"), ("login", "a", "b"))
    try:
        gluster.up()
        yield gluster
    finally:
        gluster.down()


@pytest.fixture(scope="session")
def the_gluster_slurm(
    the_gluster: gluster_rig.Gluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[slurm_rig.Slurm]:
    """One SLURM of four nodes, which see the folder of `login` through clients of their own."""
    slurm = slurm_rig.Slurm(
        tmp_path_factory.mktemp("slurm"),
        cpus=1,  # so that two tasks are on two nodes
        at=the_gluster.path("login"),
        shared=(the_gluster.path("a"), the_gluster.path("b")),
    )
    try:
        slurm.up()
        yield slurm
    finally:
        slurm.down()


class GlusterSlurm(NamedTuple):
    """A SLURM, and a fresh folder that this process and its nodes see as different clients."""

    slurm: slurm_rig.Slurm
    folder: Path


@pytest.fixture
def gluster_slurm(
    the_gluster_slurm: slurm_rig.Slurm, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GlusterSlurm]:
    """The SLURM on GlusterFS, empty, with this process speaking to it."""
    slurm = the_gluster_slurm
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.environment[name])
    yield GlusterSlurm(slurm, Path(tempfile.mkdtemp(dir=slurm.at)))
    slurm.empty()


@pytest.fixture
def lfp(tmp_path: Path) -> str:
    """The recording of `rigs.runs`."""
    return record(tmp_path / "rec.h5")


@pytest.fixture(params=["this process", "processes", "dask"])
def executor(request: pytest.FixtureRequest) -> Iterator[Callable[[hpcio.Plan], Done]]:
    """Runs a plan: here, by processes of this machine, by two workers of dask of two threads."""
    if request.param != "dask":
        workers = 0 if request.param == "this process" else 2
        yield lambda plan: plan.run(workers=workers, progress=False)
        return
    from distributed import Client, LocalCluster

    from slurm import run

    options = {"n_workers": 2, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(host="127.0.0.1", **options) as there, Client(there) as client:
        yield lambda plan: run(plan, client, progress=False)


@pytest.fixture
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    """A bench, with the kind of sources that the test is parametrized with."""
    callspec = getattr(request.node, "callspec", None)
    return Bench(tmp_path, sources=callspec.params.get("sources", "task") if callspec else "task")


@pytest.fixture(scope="module")
def nfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[nfs_rig.Nfs]:
    """An NFS server and three clients of it, in a guest."""
    if nfs_rig.missing():
        pytest.skip(nfs_rig.missing())
    nfs = nfs_rig.Nfs(tmp_path_factory.mktemp("nfs"))
    try:
        nfs.up()
        yield nfs
    finally:
        nfs.down()
