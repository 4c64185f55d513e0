"""One MPI job on a real SLURM, over two nodes: through parallel HDF5, resumed, and right."""

from __future__ import annotations

import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from slurm.submissions import records as submissions
from slurm.submissions.status import queue
from tests.rigs.mpi import environ
from tests.rigs.slurm import until

pytestmark = [pytest.mark.slurm, pytest.mark.mpi]

WORK = """
import os, time

HERE = NOTES

def double(trial, noCompute=None):
    if noCompute:
        return trial.shape, trial.dtype
    number = int(trial[0, 0])
    node, again = os.environ["SLURMD_NODENAME"], os.environ.get("SLURM_RESTART_COUNT", "0")
    with open(f"{HERE}/calls", "ab", buffering=0) as calls:
        calls.write(f"{number} {node} {again}\\n".encode())
    while os.path.exists(f"{HERE}/meet") and len({c.split()[1] for c in open(f"{HERE}/calls")}) < 2:
        time.sleep(0.005)  # or ranks of one node may do it all before those of the other have begun
    while os.path.exists(f"{HERE}/hold-{number}"):
        time.sleep(0.005)
    if os.path.exists(f"{HERE}/raise-{number}"):
        raise ValueError("sick")
    if os.path.exists(f"{HERE}/die-{number}"):
        os._exit(7)
    return trial * 2
"""

SUBMIT = """
import sys
import hpcio, slurm
plan = hpcio.Plan.create("work.py:double", "rec.h5::/lfp", trials=10, out="out.h5",
                         writer=sys.argv[1])
slurm.submit(plan, ranks=4, memory="300MB", walltime="00:30:00", sbatch=["-N2"],
             gaps=len(sys.argv) > 2)
"""


class Place:
    """A folder with a recording, and a function that tells of its calls, in `notes`."""

    def __init__(self, folder: Path, notes: Path, python: Path) -> None:
        self.folder, self.notes, self.python = folder, notes, python
        data = np.random.default_rng(3).standard_normal((400, 626))
        data[::10, 0] = np.arange(40)
        with h5py.File(folder / "rec.h5", "w") as f:
            f["lfp"] = data
        self.expected = data * 2
        (folder / "work.py").write_text(WORK.replace("NOTES", repr(str(notes))))
        (notes / "calls").touch()
        self.out = folder / "out.h5"

    def python_runs(self, script: str, *args: str) -> None:
        done = subprocess.run(
            [self.python, "-c", script, *args], cwd=self.folder, text=True, capture_output=True,
            env=environ(),
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    @property
    def calls(self) -> list[list[str]]:
        return [line.split() for line in (self.notes / "calls").read_text().splitlines()]

    def finished(self) -> None:
        import slurm as slurm_side

        slurm_side.attach(self.out).wait(timeout=100)
        logs = "\n".join(p.read_text() for p in Path(f"{self.out}.run", "logs").glob("*.log"))
        until(self.out.exists, f"the result: {logs}")
        with h5py.File(self.out) as f:
            assert not f["data"].is_virtual
            assert f["data"][...].tobytes() == self.expected.tobytes()
        assert hpcio.verify(self.out).blocks == 40


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mpi_python: Path) -> Place:
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "no.toml"))
    return Place(tmp_path, tmp_path, mpi_python)


@pytest.mark.parametrize("writer", ["direct", "mpi", "mpi-collective"])
def test_over_two_nodes(slurm, place, writer):
    (place.notes / "meet").touch()
    place.python_runs(SUBMIT, writer)
    place.finished()
    assert len({node for _, node, _ in place.calls}) == 2
    script = Path(f"{place.out}.run/ranks.sh").read_text()
    assert "#SBATCH --ntasks=4" in script
    assert "mpirun -n 4" in script


def test_array_tasks_are_no_ranks(slurm, place):
    script = SUBMIT.replace("ranks=4, ", "") + "\nprint('submitted')\n"
    with pytest.raises(AssertionError, match="Ask for ranks=R"):
        place.python_runs(script, "mpi")
    assert not slurm.call("squeue", "-h").strip()


def test_a_job_that_is_told_of_its_end_goes_on_when_it_is_started_again(slurm, place):
    for trial in range(40):
        (place.notes / f"hold-{trial}").touch()
    place.python_runs(SUBMIT, "mpi")
    until(lambda: len(place.calls) == 4, "a trial on each rank")
    said = queue(hpcio.Plan.load(place.out))
    assert said is not None
    assert "MPI job of 4 ranks" in said.line
    assert "1 running" in said.line
    assert said.states == {}
    jobs = submissions.jobs(hpcio.Plan.load(place.out), 1)
    assert jobs is not None
    slurm.call("scancel", "-b", "-s", "USR1", str(jobs.arrays[0]))
    for trial in range(40):
        (place.notes / f"hold-{trial}").unlink()
    place.finished()
    numbers = [call[0] for call in place.calls]
    assert len(numbers) == len(set(numbers)) == 40  # nothing was computed twice
    assert [call[2] for call in place.calls].count("1") >= 4


def test_a_rank_that_dies_ends_the_job_and_resume_goes_on(slurm, place):
    (place.notes / "die-13").touch()
    place.python_runs(SUBMIT, "mpi")
    import slurm as slurm_side

    slurm_side.attach(place.out).wait(timeout=100)
    assert not place.out.exists()
    (place.notes / "die-13").unlink()
    before = len(place.calls)
    place.python_runs("import slurm; slurm.attach('out.h5').resume()")
    place.finished()
    assert 13 in {int(call[0]) for call in place.calls[before:]}
    assert len(place.calls) - before < 40


@pytest.mark.gluster
@pytest.mark.parametrize("writer", ["direct", "mpi"])
def test_ranks_on_clients_of_glusterfs(gluster_slurm, tmp_path, monkeypatch, mpi_python, writer):
    """Two nodes, each with caches of its own; rows of 10,016 bytes fit no page."""
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "no.toml"))
    place = Place(gluster_slurm.folder, tmp_path, mpi_python)
    (place.notes / "meet").touch()
    script = SUBMIT.replace("ranks=4", "ranks=2").replace("trials=10", "trials=2")
    place.python_runs(script, writer)
    import slurm as slurm_side

    slurm_side.attach(place.out).wait(timeout=100)
    until(place.out.exists, "the result")
    assert hpcio.verify(place.out).blocks == 200
    with h5py.File(place.out) as f:
        assert f["data"][...].tobytes() == place.expected.tobytes()
    assert len({node for _, node, _ in place.calls}) == 2
