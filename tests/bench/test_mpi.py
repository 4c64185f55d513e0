"""Of the whole room: ranks that a launcher starts are a team, and the writer `mpi` is measured."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from hpcio.bench import TEAMS, Figure, Team
from hpcio.errors import WorkerError
from tests.rigs.mpi import MARK, environ
from tests.rigs.waiting import PATIENCE, until

BEGIN = """
import json, os, sys
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from hpcio.bench import TEAMS, Scale, Team, measure, measuring, team
from hpcio.errors import HpcioError
place, ranks = Path(sys.argv[1]), TEAMS["ranks"]

def write(name, count=3):
    return {"path": f"{place}/{name}", "size": 1000, "count": count, "first": 0, "step": 1000,
            "sync": True}
"""


@contextmanager
def started(python: Path, script: str, place: Path) -> Iterator[subprocess.Popen[str]]:
    """A Python whose team of ranks is what is tried; it ends with the block at the latest."""
    with tempfile.TemporaryDirectory(prefix="hpcio-mpi-") as own:
        folders = "orte_tmpdir_base", "btl_vader_backing_directory", "osc_sm_backing_directory"
        # Where nothing is left of ranks that were killed.
        more = {MARK: str(place), **{f"OMPI_MCA_{name}": own for name in folders}}
        with subprocess.Popen(
            [python, "-W", "error", "-c", BEGIN + script, str(place)], cwd=place, text=True,
            env=environ(**more), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            try:
                yield process
            finally:
                process.kill()
        until(lambda: not of(place), "the end of launcher and ranks")


def said_by(python: Path, script: str, place: Path) -> str:
    """What it prints; it leaves nobody behind."""
    with started(python, script, place) as process:
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (0, "")
        assert not of(place)
    return out


def of(place: Path) -> list[int]:
    """All processes that are of it, launchers and ranks, too."""
    mark, alive = f"{MARK}={place}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                alive.append(int(path.parent.name))
        except OSError:  # it has just ended
            pass
    return alive


@pytest.mark.mpi
@pytest.mark.parametrize("kind", ["mpi_python", "mpich_python"])
def test_ranks_are_a_team(kind, request, tmp_path):
    """More of them than this machine has cores, too."""
    script = """
with Team(place / "team", os.cpu_count() + 1, ranks) as some:
    done = some.do("write", [write("a"), write("b", count=5)] + [None] * (some.count - 2))
    print(done.nbytes, some.nodes)
"""
    assert said_by(request.getfixturevalue(kind), script, tmp_path) == "8000 1\n"
    assert [(tmp_path / name).stat().st_size for name in "ab"] == [3000, 5000]


@pytest.mark.mpi
def test_mpi_is_measured_beside_its_limit(mpi_python, tmp_path):
    script = """
with Team(place / "team", 2, TEAMS["processes"]) as processes:
    measured = measure(place, processes, Scale((64_000,), 2, 0.01, 600.0, 64 << 20))
    print(json.dumps([asdict(one) for one in islice(measured, 8)]))
    measured.close()
"""
    figures = [Figure(**one) for one in json.loads(said_by(mpi_python, script, tmp_path))]
    assert [f.what for f in figures] == [
        "own files", "one file", "a file a trial", "virtual", "virtual-trial", "direct", "mpi",
        "mutex",
    ]  # fmt: skip
    mpi = figures[6]
    assert (mpi.part, mpi.size, mpi.processes, mpi.nodes) == ("write", 64_000, 2, 1)
    assert (mpi.unit, mpi.limit) == ("B/s", "one file")
    assert len(mpi.values) == len(mpi.limits) == 2
    pairs = zip(mpi.values, mpi.limits, strict=True)
    assert mpi.ratio.median == np.median([limit / ours for ours, limit in pairs])


@pytest.mark.mpi
def test_what_ranks_write_is_a_result_that_verifies(mpi_python, tmp_path):
    script = """
import h5py, hpcio
with Team(place / "team", 2, TEAMS["processes"]) as processes:
    bench = measuring._Measurements(place, processes, Scale((), 3, 0.01, 600.0, 64 << 20), print)
    with bench._end_ranks:
        for count in (2, 1):
            (place / f"x{count}").mkdir()
            plan = bench._planned(place / f"x{count}", "mpi", 47_008, 7)
            done = bench._computed(plan, 47_008, count)
            more = plan.run(workers=0, progress=False)
            hpcio.verify(plan.out)
            with h5py.File(plan.source.path) as f, h5py.File(plan.out) as result:
                got = result["data"]
                same = (got[...] == f["data"][:][: 7 * 47_008 // 16].reshape(got.shape)).all()
            print(done.nbytes, more.blocks, more.computed, same, plan.writer)
"""
    said = said_by(mpi_python, script, tmp_path).splitlines()
    assert said == [f"{7 * 47_008} 7 0 True mpi"] * 2


@pytest.mark.mpi
def test_a_rank_that_fails_is_heard_while_others_wait_for_it(mpi_python, tmp_path):
    """Rank 0 is in a call of MPI that rank 1 never makes."""
    script = """
team._LAUNCHER_ENDS = 0.5  # they cannot end by themselves
with Team(place / "processes", 2, TEAMS["processes"]) as processes:
    bench = measuring._Measurements(place, processes, Scale((), 3, 0.01, 600.0, 64 << 20), print)
    plan = bench._planned(place, "mpi", 1000, 2)
    measuring.backend_of(plan).reserve(plan)
    given = {"out": plan.out, "size": 1000, "first": 0, "count": 1, "step": 1}
    try:
        with Team(place / "team", 2, ranks) as two:
            two.do("compute", [given, {**given, "out": f"{place}/nowhere.h5"}])
    except HpcioError as error:
        print(type(error).__name__, error)
"""
    said = said_by(mpi_python, script, tmp_path)
    assert said.startswith("PlanError")
    assert "nowhere.h5" in said


@pytest.mark.mpi
def test_ranks_that_have_ended_are_not_waited_for(mpi_python, tmp_path):
    script = """
import signal
with Team(place / "team", 2, ranks) as two:
    tasks = Path(f"/proc/{two._members._process.pid}/task").iterdir()
    children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    os.kill(max(children), signal.SIGKILL)
    try:
        two.do("write", [write("a"), write("b")])
    except HpcioError as error:
        print(type(error).__name__, error)
"""
    said = said_by(mpi_python, script, tmp_path)
    assert re.match(r"WorkerError '.*/mpirun' has ended with exit status \d+: .*signal 9", said)


@pytest.mark.mpi
def test_ranks_end_with_whoever_has_started_them(mpi_python, tmp_path):
    script = """
with Team(place / "team", 2, ranks) as two:
    print("ready", flush=True)
    sys.stdin.read()
"""
    with started(mpi_python, script, tmp_path) as process:
        assert process.stdout.readline() == "ready\n"
        assert len(of(tmp_path)) >= 4
        process.kill()
        until(lambda: not of(tmp_path), "the end of launcher and ranks")


def test_without_a_launcher_there_are_no_ranks(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(WorkerError, match=r"There is no mpirun, no mpiexec, .* module load"):
        Team(tmp_path / "team", 2, TEAMS["ranks"])
