"""One MPI job on a real SLURM, over two nodes: through parallel HDF5, resumed, and right."""

from __future__ import annotations

import subprocess
from pathlib import Path

import h5py
import pytest

import hpcio
import slurm as slurm_side
from hpcio.journals.ledger import Ledger
from hpcio.watching.watcher import status
from slurm.submissions import records as submissions
from slurm.submissions.status import queue
from tests.rigs.cluster_bench import ClusterBench
from tests.rigs.mpi import environ
from tests.rigs.slurm import until
from tests.rigs.waiting import PATIENCE

pytestmark = [pytest.mark.slurm, pytest.mark.mpi]

SUBMIT = """
import sys
import hpcio, slurm
plan = hpcio.Plan.create(sys.argv[2], "rec.h5::/lfp", trials=10, out="out.h5",
                         writer=sys.argv[1])
slurm.submit(plan, ranks=4, memory="300MB", walltime="00:30:00", sbatch=["-N2"])
"""


class RanksBench(ClusterBench):
    """A bench whose plan is submitted by a Python that has MPI; rows of it fit no page."""

    def __init__(self, folder: Path, notes: Path, python: Path) -> None:
        super().__init__(folder, notes=notes, trials=40, rows=10, channels=626)
        self.python = python

    def python_runs(self, script: str, *args: str) -> None:
        done = subprocess.run(
            [self.python, "-c", script, *args], cwd=self.folder, text=True, capture_output=True,
            env=environ(), check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def submitted(self, writer: str, script: str = SUBMIT) -> slurm_side.Submitted:
        self.python_runs(script, writer, self.func)
        return slurm_side.attach(self.out)

    def check(self, out: Path | None = None) -> None:
        super().check(out)
        with h5py.File(out or self.out) as f:
            assert not f["data"].is_virtual


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mpi_python: Path) -> RanksBench:
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "no.toml"))
    return RanksBench(tmp_path, tmp_path, mpi_python)


@pytest.mark.parametrize(
    "writer", [pytest.param("direct", marks=pytest.mark.torture), "mpi", "mpi-collective"]
)
def test_over_two_nodes(slurm, place, writer):
    place.mark("meet", 2)
    place.finished(place.submitted(writer))
    assert len({call.node for call in place.all_calls}) == 2
    script = Path(f"{place.out}.run/ranks.sh").read_text()
    assert "#SBATCH --ntasks=4" in script
    assert "mpirun -n 4" in script


def test_array_tasks_are_no_ranks(slurm, place):
    script = SUBMIT.replace("ranks=4, ", "") + "\nprint('submitted')\n"
    with pytest.raises(AssertionError, match="Ask for ranks=R"):
        place.submitted("mpi", script)
    assert not slurm.call("squeue", "-h").strip()


def test_a_job_that_is_told_of_its_end_goes_on_when_it_is_started_again(slurm, place):
    place.hold(*range(40))
    run = place.submitted("mpi")
    until(lambda: len(place.calls) == 4, "a trial on each rank")
    said = queue(hpcio.Plan.load(place.out))
    assert said is not None
    assert "MPI job of 4 ranks" in said.line
    assert "1 running" in said.line
    assert said.states == {}
    jobs = submissions.jobs(hpcio.Plan.load(place.out), 1)
    assert jobs is not None
    slurm.call("scancel", "-b", "-s", "USR1", str(jobs.arrays[0]))
    until(lambda: all(map(place.told, {call.pid for call in place.all_calls})), "the signal")
    place.clear("hold")
    place.finished(run)
    assert sorted(place.calls) == list(range(40))  # nothing was computed twice
    # But one on each rank.
    assert [call.restarts for call in place.all_calls].count(1) == 36


def test_a_trial_that_kills_its_rank_is_found_and_resume_goes_on(slurm, place):
    for what in ("hold", "die"):
        place.mark(what, 13)
    run = place.submitted("mpi")
    # Or it might be the first of all, and die before others have done anything.
    until(lambda: status(str(place.out)).done, "some other trial")
    place.clear("hold")
    run.wait(timeout=PATIENCE)
    # Passes of fewer and fewer trials have found out which it is, and done all others.
    ledger = Ledger.read(hpcio.Plan.load(place.out))
    assert ledger.done.sum() == 39
    (failure,) = ledger.failures()
    assert (failure.block, failure.cause) == (13, "died")
    assert "the rank that computed it died" in failure.reason
    assert not place.out.exists()
    place.clear("die")
    before = len(place.calls)
    place.python_runs("import slurm; slurm.attach('out.h5').resume()")
    place.finished(run)
    assert place.calls[before:] == [13]


def test_a_pass_of_ranks_tries_its_own_trials_alone(slurm, place):
    place.mark("raise", 5)
    place.mark("hold", 7)
    script = SUBMIT.replace("ranks=4,", "ranks=4, trial_time='1s', time_retry='3x',")
    run = place.submitted("direct", script)
    run.wait(timeout=PATIENCE)
    failed = {f.block: f.cause for f in Ledger.read(hpcio.Plan.load(place.out)).failures()}
    assert failed == {5: "raised", 7: "time"}
    assert (place.calls.count(5), place.calls.count(7)) == (1, 2)


@pytest.mark.gluster
@pytest.mark.parametrize("writer", [pytest.param("direct", marks=pytest.mark.torture), "mpi"])
def test_ranks_on_clients_of_glusterfs(gluster_slurm, tmp_path, monkeypatch, mpi_python, writer):
    """Two nodes, each with caches of its own; rows of 10,016 bytes fit no page."""
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "no.toml"))
    place = RanksBench(gluster_slurm.folder, tmp_path, mpi_python)
    place.mark("meet", 2)
    script = SUBMIT.replace("ranks=4", "ranks=2").replace("trials=10", "trials=2")
    place.submitted(writer, script).wait(timeout=PATIENCE)
    until(place.out.exists, "the result")
    assert hpcio.verify(place.out).blocks == 200
    with h5py.File(place.out) as f:
        assert f["data"][...].tobytes() == place.expected.tobytes()
    assert len({call.node for call in place.all_calls}) == 2
