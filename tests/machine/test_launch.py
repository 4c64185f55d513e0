"""Whether an MPI launcher has started a process, and what is said if that does not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import pytest

from tests.rigs.mpi import environ, mpirun
from tests.rigs.ranks import RUN, recorded
from tests.rigs.waiting import PATIENCE

pytestmark = pytest.mark.mpi


def alone(
    python: str, place: Path, args: list[str], **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *args], cwd=place, text=True, capture_output=True, timeout=PATIENCE, check=False,
        env=environ(**env),
    )  # fmt: skip


def test_under_no_launcher(mpi_python, place):
    """Even where SLURM's variables would make MPI end the process that imports it."""
    slurms = {
        "SLURM_NODELIST": "n1",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_ID": "1",
        "SLURM_PROCID": "0",
    }
    done = alone(mpi_python, place, [*RUN, "--quiet", "--writer", "mpi"], **slurms)
    assert done.returncode == 1
    assert "mpirun -n R hpcio run" in done.stderr
    assert "hpcio submit --mpi" in done.stderr
    done = alone(mpi_python, place, [*RUN, "--quiet", "--fresh"], **slurms)
    assert done.returncode == 0, done.stderr


def test_one_task_of_srun_is_no_mpi_job(place):
    """srun tells any command that it is rank 0 of 1, where a site has set it so."""
    args = [*RUN, "--quiet", "--workers", "2"]
    done = alone(Path(sys.executable), place, args, PMI_RANK="0", PMI_SIZE="1")
    assert done.returncode == 0, done.stderr
    with h5py.File(place / "out.h5") as f:
        assert f["data"][...].tobytes() == (-recorded(place)).tobytes()


@pytest.mark.parametrize("launcher", ["Open MPI", "MPICH"])
def test_under_a_launcher_of_another_mpi(mpich_python, mpi_python, place, launcher):
    """Each rank would have a world of its own, and all of them the same work."""
    python, other = mpich_python, mpi_python
    if launcher == "MPICH":
        python, other = other, python
    done = mpirun(python, 2, *RUN, folder=place, launcher=other)
    assert done.returncode == 1
    assert f"{launcher} has started 2 ranks, but mpi4py belongs to another MPI" in done.stderr
    assert "pip install --force-reinstall --no-binary=mpi4py mpi4py" in done.stderr
    assert not (place / "out.h5.run").exists()


def test_without_mpi4py(mpi_python, place):
    done = mpirun(Path(sys.executable), 2, *RUN, folder=place, launcher=mpi_python)
    assert done.returncode == 1
    assert "has no mpi4py. Install it: pip install mpi4py" in done.stderr


def test_without_an_mpi_build_of_h5py(place):
    done = alone(Path(sys.executable), place, [*RUN, "--writer", "mpi"])
    assert done.returncode == 2
    assert "needs an h5py that was built with MPI" in done.stderr
    assert "HDF5_MPI=ON pip install --no-binary=h5py h5py" in done.stderr


def test_in_a_child_of_a_rank(mpi_python, place):
    """What a rank starts inherits the launcher's variables, and is no rank."""
    script = (
        "import subprocess, sys\n"
        "from mpi4py import MPI\n"
        "if MPI.COMM_WORLD.rank == 0:\n"
        "    child = [sys.executable, *sys.argv[1:]]\n"
        "    done = subprocess.run(child, capture_output=True, text=True)\n"
        "    print(done.returncode, done.stderr)\n"
        "MPI.COMM_WORLD.barrier()\n"
    )
    done = mpirun(mpi_python, 2, "-c", script, *RUN, folder=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 ")
    assert "was started by rank 0 of an MPI job" in done.stdout
    # A shell between launcher and rank is none.
    shell = place / "python.sh"
    shell.write_text(f'#!/bin/sh\n{mpi_python} "$@"\nexit $?\n')
    shell.chmod(0o755)
    done = mpirun(shell, 2, *RUN, "--quiet", folder=place, launcher=mpi_python)
    assert "20 trials" in done.stdout


def test_workers_make_no_sense_under_a_launcher(mpi_python, place):
    done = mpirun(mpi_python, 2, *RUN, "--workers", "2", folder=place)
    assert done.returncode == 2
    assert "its ranks are the workers" in done.stderr
