"""Ranks of an MPI job, and the writer that goes through parallel HDF5; and what must not hang."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.journals.ledger import Ledger
from hpcio.running.ranks import share_out
from tests.rigs.mpi import environ, mpirun
from tests.rigs.support import names

pytestmark = pytest.mark.mpi

FUNCTIONS = """
import os, sys
import numpy as np

def negative(trial):
    return -trial

def identity(trial):
    return trial

def bad(how):
    if how == "raise": raise ValueError("sick")
    if how == "exit": sys.exit(3)
    if how == "leave": os._exit(0)
    if how == "leave with 5": os._exit(5)
    if how == "kill": os.kill(os.getpid(), 9)
    if how == "terminate": os.kill(os.getpid(), 15)
    if how == "abort": os.abort()

def once(trial, how="raise", at=13.0):
    if trial[0, 0] == at and not os.path.exists("mended"):
        bad(how)
    return -trial
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(FUNCTIONS)
    data = np.random.default_rng(1).normal(size=(200, 6))
    data[:, 0] = np.arange(200) // 10
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = data
    return tmp_path


def lfp(place: Path) -> np.ndarray:
    with h5py.File(place / "rec.h5") as f:
        data: np.ndarray = f["lfp"][...]
    return data


RUN = ["-m", "hpcio", "run", "work.py:negative", "rec.h5::lfp", "--trials", "10", "--out", "out.h5"]


def started(python: Path, place: Path, ranks: int, *args: str) -> str:
    """The output of a run on ranks that ends well."""
    done = mpirun(python, ranks, *RUN, "--quiet", *args, folder=place)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


# ---------------------------------------------------------------------- that it works


@pytest.mark.parametrize("writer", ["virtual", "direct", "mpi", "mpi-collective"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_writer_on_ranks(mpi_python, place, writer, ranks):
    said = started(mpi_python, place, ranks, "--writer", writer)
    assert said.count("20 blocks in") == 1
    with h5py.File(place / "out.h5") as f:
        assert f["data"][...].tobytes() == (-lfp(place)).tobytes()
        assert f["data"].is_virtual == (writer == "virtual")
    assert hpcio.verify(place / "out.h5").blocks == 20
    labels = {n.partition("-")[0] for n in names(place, "out.h5.run/journal/*.jnl")}
    if ranks == 1 and not writer.startswith("mpi"):  # one rank has this machine for itself
        assert all(label.startswith("w") for label in labels)
    else:
        assert labels == {f"r{k}" for k in range(ranks)}


@pytest.mark.parametrize("writer", ["mpi", "mpi-collective"])
@pytest.mark.parametrize(
    "options",
    [["--join", "stack"], ["--join-axis", "1"], ["--channels-per-block", "2"],
     ["--channels-per-block", "3", "--join", "stack"], ["--reduce", "mean"]],
    ids=str,
)  # fmt: skip
def test_every_way_to_join(mpi_python, place, writer, options):
    started(mpi_python, place, 3, "--writer", writer, *options)
    source = f"{place}/rec.h5::lfp"
    chosen = dict(zip(options[::2], options[1::2], strict=True))
    plan = hpcio.Plan.create(
        np.negative, source, trials=10, out=place / "here.h5",
        join=chosen.get("--join", "concatenate"),
        join_axis=int(chosen["--join-axis"]) if "--join-axis" in chosen else None,
        channels_per_block=int(chosen.get("--channels-per-block", 0)) or None,
        keeptrials="--reduce" not in chosen,
    )  # fmt: skip
    plan.run(workers=0, progress=False)
    with h5py.File(place / "out.h5") as f, h5py.File(plan.out) as g:
        assert f["data"].dtype == g["data"].dtype
        assert f["data"][...].tobytes() == g["data"][...].tobytes()


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", "<c16", ">i4", "i1", "<u2", "?"])
@pytest.mark.parametrize("writer", ["mpi", "mpi-collective"])
def test_every_type(mpi_python, place, dtype, writer):
    data = (100 * np.random.default_rng(1).random((200, 5))).astype(dtype)
    with h5py.File(place / "rec.h5", "w") as f:
        f["lfp"] = data
    run = [*RUN[:3], "work.py:identity", *RUN[4:], "--writer", writer, "--quiet"]
    done = mpirun(mpi_python, 2, *run, folder=place)
    assert done.returncode == 0, done.stderr
    with h5py.File(place / "out.h5") as f:
        assert f["data"].dtype == dtype
        assert f["data"][...].tobytes() == data.tobytes()


@pytest.mark.parametrize("writer", ["mpi", "mpi-collective"])
@pytest.mark.parametrize("trials", ["one", "uneven", "sizes that fit no page"])
def test_uneven_counts_and_ranks_with_nothing(mpi_python, place, writer, trials):
    rows = {
        "one": [[0, 200]],
        "uneven": [[0, 1], [1, 150], [150, 152], [152, 199], [199, 200]],
        "sizes that fit no page": [[k, k + 3] for k in range(0, 198, 3)],
    }[trials]
    with h5py.File(place / "rec.h5", "a") as f:
        f["trials"] = np.asarray(rows)
    run = [*RUN[:5], "--trials", "rec.h5::trials", *RUN[7:], "--writer", writer, "--quiet"]
    done = mpirun(mpi_python, 4, *run, folder=place)
    assert done.returncode == 0, done.stderr
    with h5py.File(place / "out.h5") as f:
        assert f["data"][...].tobytes() == (-lfp(place)[: rows[-1][1]]).tobytes()


def test_blocks_above_2_gb_are_written_in_pieces(mpi_python, place):
    """With a smaller limit of one call, so that it needs no 2 GB."""
    script = (
        "import sys\n"
        "from hpcio.writers import mpi\n"
        "mpi.PIECE = 100\n"
        "from hpcio.cli import main\n"
        "main()\n"
    )
    for writer in ("mpi", "mpi-collective"):
        out = f"{writer}.h5"
        args = ["-c", script, *RUN[2:-1], out, "--writer", writer]
        done = mpirun(mpi_python, 3, *args, folder=place)
        assert done.returncode == 0, done.stderr
        with h5py.File(place / out) as f:
            assert f["data"][...].tobytes() == (-lfp(place)).tobytes()


@pytest.mark.torture
@pytest.mark.parametrize("writer", ["mpi", "mpi-collective"])
def test_a_block_of_more_than_2_gb(mpi_python, tmp_path, writer):
    (tmp_path / "work.py").write_text(FUNCTIONS)
    rows = 2**31 // 4096 + 5
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        data = f.create_dataset("lfp", (rows, 4096), "u1", fillvalue=7)
        data[-1] = 9
    run = [*RUN[:3], "work.py:identity", *RUN[4:5], "--trials", str(rows), *RUN[7:]]
    done = mpirun(mpi_python, 2, *run, "--writer", writer, folder=tmp_path, seconds=300)
    assert done.returncode == 0, done.stderr
    assert hpcio.verify(tmp_path / "out.h5").nbytes == rows * 4096
    with h5py.File(tmp_path / "out.h5") as f:
        assert (f["data"][-2] == 7).all()
        assert (f["data"][-1] == 9).all()


def test_pypis_mpich_is_enough_for_direct(mpich_python, place):
    said = started(mpich_python, place, 2, "--writer", "direct")
    assert "20 blocks" in said
    with h5py.File(place / "out.h5") as f:
        assert f["data"][...].tobytes() == (-lfp(place)).tobytes()
    labels = {n.partition("-")[0] for n in names(place, "out.h5.run/journal/*.jnl")}
    assert labels == {"r0", "r1"}


def test_a_run_begun_on_ranks_goes_on_anywhere(mpi_python, place, monkeypatch):
    """And the other way round: which processes computed, no byte tells."""
    once = [*RUN[:3], "work.py:once", *RUN[4:], "--quiet"]
    done = mpirun(mpi_python, 2, *once, "--writer", "direct", folder=place)
    assert done.returncode == 1
    assert "1 of 20 blocks failed" in done.stderr
    (place / "mended").touch()
    monkeypatch.chdir(place)
    there = hpcio.Plan.load(place / "out.h5").run(workers=0, progress=False)
    assert (there.computed, there.blocks) == (1, 20)
    with h5py.File(place / "out.h5") as f:
        assert f["data"][...].tobytes() == (-lfp(place)).tobytes()


# ---------------------------------------------------------------------- that it never hangs

ONCE = ["-m", "hpcio", "run", "work.py:once", "rec.h5::lfp", "--trials", "10", "--out", "out.h5",
        "--quiet"]  # fmt: skip


def resumed(python: Path, place: Path, ranks: int = 2) -> None:
    """What the journals have is kept, the rest computed, and the result right."""
    (place / "mended").touch()
    kept = int(Ledger.read_trusted(hpcio.Plan.load(place / "out.h5")).done.sum())
    done = mpirun(python, ranks, "-m", "hpcio", "resume", "out.h5", "--quiet", folder=place)
    assert done.returncode == 0, done.stderr
    assert f"{20 - kept} blocks in" in done.stdout
    with h5py.File(place / "out.h5") as f:
        assert f["data"][...].tobytes() == (-lfp(place)).tobytes()


@pytest.mark.parametrize("how", ["raise", "exit"])
@pytest.mark.parametrize("writer", ["mpi", "mpi-collective", "direct"])
def test_a_function_that_raises_or_exits_is_a_failed_block(mpi_python, place, writer, how):
    done = mpirun(mpi_python, 3, *ONCE, "--writer", writer, "--kwarg", f"how={how}", folder=place)
    assert done.returncode == 1
    assert "1 of 20 blocks failed" in done.stderr
    assert {"raise": "ValueError: sick", "exit": "SystemExit: 3"}[how] in done.stderr
    resumed(mpi_python, place)


@pytest.mark.parametrize("how", ["leave", "leave with 5", "kill", "abort"])
@pytest.mark.parametrize("writer", ["mpi", "mpi-collective"])
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
from hpcio.running import chunks
from hpcio.running import ranks
from hpcio.planning.plan import Plan
from hpcio.writers import mpi
if rank == 1 and what == "plan":
    def load(*_): raise OSError("bad path on one rank")
    Plan.load = load
if rank == 1 and what == "source":
    from hpcio.errors import SourceError
    def init(*_): raise SourceError("the source has gone on one rank")
    chunks.Reader = init
if rank == 1 and what == "open":
    mpi.data_file = lambda plan: "/nowhere/data.h5"
if rank == 1 and what == "write":
    def write(*_): raise OSError(28, "No space left on device")
    mpi.Mpi._write = write
if rank == 1 and what == "close":
    def close(*_): raise RuntimeError("no close")
    mpi.Mpi.close = close
if rank == 0 and what == "work of rank 0":
    def run_chunk(*_): raise RuntimeError("rank 0 fails")
    ranks.run_chunk = run_chunk
if rank == 0 and what == "before":
    def execute(*_): raise RuntimeError("nothing was sent")
    ranks.Ranks.execute = execute
from hpcio.cli import main
main()
"""


@pytest.mark.parametrize("writer", ["mpi", "mpi-collective"])
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("plan", "bad path on one rank"),
        ("source", "hpcio: rank 1: the source has gone on one rank"),
        ("open", "Cannot write '/nowhere/data.h5': No such file"),
        ("write", "No space left on device"),
        ("close", "RuntimeError: no close"),
        ("work of rank 0", "RuntimeError: rank 0 fails"),
        ("before", "RuntimeError: nothing was sent"),
    ],
)
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


# ---------------------------------------------------------------------- where there are no ranks


def alone(
    python: str, place: Path, args: list[str], **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *args], cwd=place, text=True, capture_output=True, timeout=60, check=False,
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
        assert f["data"][...].tobytes() == (-lfp(place)).tobytes()


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
    assert "20 blocks" in done.stdout


def test_workers_make_no_sense_under_a_launcher(mpi_python, place):
    done = mpirun(mpi_python, 2, *RUN, "--workers", "2", folder=place)
    assert done.returncode == 2
    assert "its ranks are the workers" in done.stderr


# ---------------------------------------------------------------------- who does what


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
        assert f["data"][...].tobytes() == (-lfp(place)).tobytes()
