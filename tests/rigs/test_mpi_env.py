"""Ranks of the MPI environments work, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.rigs.mpi import REPOSITORY, Ranks, mpich, mpirun
from tests.rigs.waiting import until

pytestmark = [pytest.mark.mpi, pytest.mark.tooling]

# Each rank writes the rows that it shares with nobody, in another order than they lie.
WRITE = """
import sys
import h5py, numpy as np
from mpi4py import MPI

world = MPI.COMM_WORLD
assert h5py.get_config().mpi
with h5py.File("one.h5", "w", driver="mpio", comm=world) as file:
    data = file.create_dataset("data", (10, 3), "f8")
    for row in reversed(range(world.rank, 10, world.size)):
        data[row] = 100 * world.rank + np.arange(row, row + 3)
"""

# Each line in one write, lest those of two ranks mingle.
SIZE = """
import h5py, hpcio
from mpi4py import MPI
world, mpi = MPI.COMM_WORLD, h5py.get_config().mpi
print(f"{world.rank} of {world.size}, {mpi}, {hpcio.__file__}\\n", end="", flush=True)
"""

# A rank that waits for ever, for one that does so too; a child of each.
HANG = """
import subprocess, sys
from mpi4py import MPI
child = subprocess.Popen(["sleep", "infinity"], start_new_session=True)
print(f"{child.pid}\\n", end="", flush=True)
if MPI.COMM_WORLD.rank == 0:
    MPI.COMM_WORLD.recv(source=1)
child.wait()
"""


@pytest.fixture(params=["mpi_python", "mpich_python"])
def python(request: pytest.FixtureRequest) -> Path:
    """Both of them, in turn."""
    return request.getfixturevalue(request.param)


def test_two_ranks_write_one_file_by_parallel_hdf5(mpi_python, tmp_path):
    done = mpirun(mpi_python, 2, "-c", WRITE, folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = np.arange(10)[:, None]
    with h5py.File(tmp_path / "one.h5") as f:
        assert f["data"].dtype == "f8"
        np.testing.assert_array_equal(f["data"], 100 * (rows % 2) + rows + np.arange(3))


@pytest.mark.parametrize("ranks", [2, 5])
def test_the_ranks_are_one_world_and_have_what_hpcio_needs(python, ranks, tmp_path):
    done = mpirun(python, ranks, "-W", "error", "-c", SIZE, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    same = f"{not mpich(python)}, {REPOSITORY}/hpcio/__init__.py"
    expected = [f"{rank} of {ranks}, {same}" for rank in range(ranks)]
    assert sorted(done.stdout.splitlines()) == expected


def test_an_abort_is_the_status_of_all(python, tmp_path):
    script = "from mpi4py import MPI\nworld = MPI.COMM_WORLD\nif world.rank: world.Abort(3)\n"
    done = mpirun(python, 2, "-c", f"{script}world.Barrier()", folder=tmp_path)
    assert done.returncode == 3


def test_ranks_that_hang_fail_the_test_and_leave_nothing(python, tmp_path):
    with Ranks(python, 2, "-c", HANG, folder=tmp_path, TMPDIR=str(tmp_path)) as hanging:
        until(lambda: hanging.out.count("\n") == 2, "the children of both ranks")
        children = [int(line) for line in hanging.out.splitlines()]
        # One that has just been started shows no environment for a moment.
        until(lambda: set(children) < set(hanging.pids), "all of them")
        shared = {path for pid in hanging.pids for path in shared_memory(pid)}
        with pytest.raises(pytest.fail.Exception, match=rf"0 s; .*\n{children[0]}\n{children[1]}"):
            hanging.wait(0)
        assert hanging.pids == []
        assert not [pid for pid in children if alive(pid)]
    assert not [path for path in shared if path.exists()]
    assert list(tmp_path.iterdir()) == []


def shared_memory(pid: int) -> list[Path]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [Path("/" + line.partition("/")[2]) for line in lines if "/dev/shm/" in line]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_without_open_mpi_it_says_what_to_install(tmp_path):
    (tmp_path / "bin").mkdir()
    for program in ("bash", "dirname", "id"):
        (tmp_path / "bin" / program).symlink_to(shutil.which(program))
    done = subprocess.run(
        [REPOSITORY / ".ci" / "mpi-env"], capture_output=True, text=True, check=False,
        env={"PATH": f"{tmp_path}/bin", "HOME": str(tmp_path), "MPI_PYTHON": sys.executable},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert "As root: apt install openmpi-bin libopenmpi-dev libhdf5-openmpi-dev" in done.stderr
    assert "mpi-env: there is no gcc here." in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize("kind", ["openmpi", "mpich"])
def test_make_prints_the_path_last_and_builds_nothing_twice(kind, request):
    python = request.getfixturevalue("mpi_python" if kind == "openmpi" else "mpich_python")

    def state() -> list[tuple[int, int]]:
        there = [python.parents[1], python.parent, python]
        return [(s.st_ino, s.st_mtime_ns) for s in map(os.lstat, there)]

    before = state()
    # Not what the `make test` around this test was called with.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", "-s", "mpi-env", f"MPI={kind}", f"VENV={sys.prefix}"],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(python)
    assert state() == before
