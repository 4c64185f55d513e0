"""Ranks of an MPI job as an executor: who does what, and what must not hang."""

from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.running.ranks import share_out
from tests.rigs.everyday import combinations
from tests.rigs.mpi import mpirun
from tests.rigs.ranks import FUNCTIONS, ONCE, RUN, recorded, resumed, started
from tests.rigs.several import SOURCE, TRIALS, check_all, make_study
from tests.rigs.support import names

pytestmark = pytest.mark.mpi


def test_pypis_mpich_is_enough_for_direct(mpich_python, place):
    said = started(mpich_python, place, 2, "--writer", "direct")
    assert "20 trials" in said
    with h5py.File(place / "out.h5") as f:
        assert f["data"][...].tobytes() == (-recorded(place)).tobytes()
    labels = {n.partition("-")[0] for n in names(place, "out.h5.run/journal/*.jnl")}
    assert labels == {"r0", "r1"}


def test_a_run_begun_on_ranks_goes_on_anywhere(mpi_python, place, monkeypatch):
    """And the other way round: which processes computed, no byte tells."""
    once = [*RUN[:3], "work.py:once", *RUN[4:], "--quiet"]
    done = mpirun(mpi_python, 2, *once, "--writer", "direct", folder=place)
    assert done.returncode == 1
    assert "1 of 20 trials failed" in done.stderr
    (place / "mended").touch()
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "work", raising=False)  # one of another test
    there = hpcio.Plan.load(place / "out.h5").run(workers=0, progress=False)
    assert (there.computed, there.blocks) == (1, 20)
    with h5py.File(place / "out.h5") as f:
        assert f["data"][...].tobytes() == (-recorded(place)).tobytes()


@pytest.mark.parametrize("writer", ["mpi", "direct"])
def test_trials_are_added_on_ranks(mpi_python, place, writer):
    rows = [f"{10 * k},{10 * k + 10}" for k in range(20)]
    (place / "first.csv").write_text("\n".join(["start,stop", *rows[:15]]))
    (place / "whole.csv").write_text("\n".join(["start,stop", *rows]))
    first = [word if word != "10" else "first.csv" for word in RUN]
    extend = ["-m", "hpcio", "extend", "out.h5", "--trials", "whole.csv"]
    for words in ([*first, "--writer", writer], extend):
        done = mpirun(mpi_python, 2, *words, "--quiet", folder=place)
        assert done.returncode == 0, done.stderr
    assert "5 trials in" in done.stdout
    with h5py.File(place / "out.h5") as f:
        assert f["data"][...].tobytes() == (-recorded(place)).tobytes()
        assert f["run"][()].tolist() == [0] * 15 + [1] * 5


@pytest.mark.parametrize("writer", ["virtual", "direct", "mpi"])
def test_several_recordings_killed_in_the_second(mpi_python, tmp_path, writer):
    study = make_study(tmp_path)
    words = [
        "-m",
        "hpcio",
        "run",
        "study.py:fragile",
        SOURCE,
        "--trials",
        TRIALS,
        "--out",
        "out.h5",
    ]
    done = mpirun(mpi_python, 2, *words, "--quiet", "--writer", writer, folder=study)
    assert done.returncode != 0
    assert not (study / "out.h5").exists()
    (study / "mended").touch()
    done = mpirun(mpi_python, 2, "-m", "hpcio", "resume", "out.h5", "--quiet", folder=study)
    assert done.returncode == 0, done.stderr
    check_all(study / "out.h5")


@pytest.mark.parametrize(
    ("writer", "how"),
    combinations(
        ["mpi", "mpi-collective", "direct"], ["raise", "exit"],
        everyday=[("mpi", "raise"), ("mpi-collective", "exit"), ("direct", "raise")],
    ),
)  # fmt: skip
def test_a_function_that_raises_or_exits_is_a_failed_block(mpi_python, place, writer, how):
    done = mpirun(mpi_python, 3, *ONCE, "--writer", writer, "--kwarg", f"how={how}", folder=place)
    assert done.returncode == 1
    assert "1 of 20 trials failed" in done.stderr
    assert {"raise": "ValueError: sick", "exit": "SystemExit: 3"}[how] in done.stderr
    resumed(mpi_python, place)


@pytest.mark.parametrize(
    ("writer", "how"),
    combinations(
        ["mpi", "mpi-collective"], ["leave", "leave with 5", "kill", "abort"],
        everyday=[
            ("mpi", "leave with 5"), ("mpi", "kill"),
            ("mpi-collective", "leave"), ("mpi-collective", "abort"),
        ],
    ),
)  # fmt: skip
def test_a_rank_that_ends_takes_all_with_it(mpi_python, place, writer, how):
    done = mpirun(mpi_python, 3, *ONCE, "--writer", writer, "--kwarg", f"how={how}", folder=place)
    assert done.returncode != 0
    assert not (place / "out.h5").exists()
    resumed(mpi_python, place)


def test_a_rank_that_is_told_to_end_lets_the_run_be_resumed(mpi_python, place):
    done = mpirun(mpi_python, 2, *ONCE, "--writer", "mpi", "--kwarg", "how=terminate", folder=place)
    assert done.returncode == 130
    assert "Continue with: hpcio resume" in done.stderr
    resumed(mpi_python, place)


TROUBLE = """
import sys
from mpi4py import MPI
rank = MPI.COMM_WORLD.rank
what = sys.argv.pop(1)
from hpcio.running import attempt
from hpcio.running import ranks
from hpcio.onefile import mpi
if rank == 1 and what == "plan":
    def load(*_): raise OSError("bad path on one rank")
    ranks.load_for_worker = load
if rank == 1 and what == "source":
    from hpcio.errors import SourceError
    def init(*_, **__): raise SourceError("the source has gone on one rank")
    attempt.Reader = init
if rank == 1 and what == "open":
    from pathlib import Path
    from hpcio.files.rundir import RunDirectory
    RunDirectory.data = Path("/nowhere/data.h5")
if rank == 1 and what == "write":
    def write(*_): raise OSError(28, "No space left on device")
    mpi.Mpi._write = write
if rank == 1 and what == "close":
    def close(*_): raise RuntimeError("no close")
    mpi.Mpi.close = close
if rank == 0 and what == "work of rank 0":
    def run_batch(*_): raise RuntimeError("rank 0 fails")
    ranks.run_batch = run_batch
if rank == 0 and what == "before":
    def execute(*_): raise RuntimeError("nothing was sent")
    ranks.Ranks.execute = execute
from hpcio.cli import main
main()
"""


@pytest.mark.parametrize(
    ("what", "said", "writer"),
    [
        ("plan", "bad path on one rank", "mpi"),
        ("source", "hpcio: rank 1: the source has gone on one rank", "mpi"),
        ("open", "'/nowhere/data.h5' is gone", "mpi"),
        pytest.param(
            "open", "'/nowhere/data.h5' is gone", "mpi-collective",
            marks=pytest.mark.torture,
        ),
        pytest.param("write", "No space left on device", "mpi", marks=pytest.mark.torture),
        ("write", "No space left on device", "mpi-collective"),
        ("close", "RuntimeError: no close", "mpi-collective"),
        ("work of rank 0", "RuntimeError: rank 0 fails", "mpi-collective"),
        ("before", "RuntimeError: nothing was sent", "mpi"),
    ],
)  # fmt: skip
def test_trouble_on_one_rank_ends_all(mpi_python, place, writer, what, said):
    args = ["-c", TROUBLE, what, *RUN[2:], "--quiet", "--writer", writer]
    done = mpirun(mpi_python, 3, *args, folder=place)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (place / "out.h5").exists()
    resumed(mpi_python, place)


def test_errors_before_the_work_are_told_once(mpi_python, place):
    done = mpirun(mpi_python, 3, *RUN[:5], "--trials", "0", *RUN[7:], folder=place)
    assert done.returncode == 2
    assert done.stderr.count("hpcio: ") == 1


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_shares_are_fair(ranks):
    rng = np.random.default_rng(ranks)
    for _ in range(20):
        sizes = rng.integers(0, 1000, rng.integers(1, 60))
        shares = share_out(sizes, ranks)
        assert sorted(c for share in shares for c in share) == list(range(sizes.size))
        loads = [int(sizes[share].sum()) for share in shares]
        assert max(loads) - min(loads) <= int(sizes.max())
        for share in shares:
            assert sizes[share].tolist() == sorted(sizes[share].tolist(), reverse=True)


def test_who_is_done_helps_others(mpi_python, place):
    """A rank that is held up leaves what it has not begun to the other."""
    (place / "work.py").write_text(
        FUNCTIONS + "\n\nimport time\n\ndef slow(trial, noCompute=None):\n"
        "    if noCompute:\n"
        "        return trial.shape, trial.dtype\n"
        "    if os.environ['OMPI_COMM_WORLD_RANK'] == '0':\n"
        "        while len(os.listdir('tried')) < 18:  # all but a chunk of two\n"
        "            time.sleep(0.01)\n"
        "    else:\n"
        "        open(f'tried/{trial[0, 0]:.0f}', 'w').close()\n"
        "    return -trial\n"
    )
    (place / "tried").mkdir()
    run = [*RUN[:3], "work.py:slow", *RUN[4:], "--quiet", "--writer", "direct"]
    done = mpirun(mpi_python, 2, *run, folder=place)
    assert done.returncode == 0, done.stderr
    with h5py.File(place / "out.h5") as f:
        assert f["data"][...].tobytes() == (-recorded(place)).tobytes()


def test_what_fails_on_all_ranks_is_counted_together(mpi_python, place):
    """Each rank might have tried five of its own; batches are of one trial or two."""
    (place / "work.py").write_text(
        FUNCTIONS + "\n\ndef sick(trial):\n    raise ValueError('sick')\n"
    )
    run = [*RUN[:3], "work.py:sick", *RUN[4:], "--quiet", "--writer", "direct", "--max-failed", "4",
           "--out-shape", "10,6", "--out-dtype", "f8"]  # fmt: skip
    done = mpirun(mpi_python, 2, *run, folder=place)
    assert done.returncode == 1
    assert "more than 4 had failed" in done.stderr
    failed = len(hpcio.watching.status(str(place / "out.h5")).failures)
    assert 5 <= failed <= 8
