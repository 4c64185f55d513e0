"""The writer that goes through parallel HDF5: the same bits, however many ranks."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import hpcio
from tests.rigs.mpi import mpirun
from tests.rigs.ranks import FUNCTIONS, RUN, recorded, started
from tests.rigs.support import names

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("writer", ["virtual", "direct", "mpi", "mpi-collective"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_writer_on_ranks(mpi_python, place, writer, ranks):
    said = started(mpi_python, place, ranks, "--writer", writer)
    assert said.count("20 trials in") == 1
    with h5py.File(place / "out.h5") as f:
        assert f["data"][...].tobytes() == (-recorded(place)).tobytes()
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


DTYPES = ["<f8", ">f4", "<f2", "<c16", ">i4", "i1", "<u2", "?"]
RUN_EACH = """
import sys
from hpcio.cli import cli
writer, count = sys.argv[1:]
for k in range(int(count)):
    cli.main(["run", "work.py:identity", f"rec.h5::/{k}", "--trials", "10", "--out", f"{k}.h5",
              "--writer", writer, "--quiet"], standalone_mode=False)
"""


@pytest.mark.parametrize("writer", ["mpi", "mpi-collective"])
def test_every_type(mpi_python, place, writer):
    values = 100 * np.random.default_rng(1).random((200, 5))
    with h5py.File(place / "rec.h5", "w") as f:
        for k, dtype in enumerate(DTYPES):
            f[str(k)] = values.astype(dtype)
    done = mpirun(mpi_python, 2, "-c", RUN_EACH, writer, str(len(DTYPES)), folder=place)
    assert done.returncode == 0, done.stderr
    for k, dtype in enumerate(DTYPES):
        with h5py.File(place / f"{k}.h5") as f:
            assert f["data"].dtype == dtype
            assert f["data"][...].tobytes() == values.astype(dtype).tobytes()


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
        assert f["data"][...].tobytes() == (-recorded(place)[: rows[-1][1]]).tobytes()


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
            assert f["data"][...].tobytes() == (-recorded(place)).tobytes()


@pytest.mark.torture
@pytest.mark.parametrize("writer", ["mpi", "mpi-collective"])
def test_a_block_of_more_than_2_gb(mpi_python, tmp_path, writer):
    (tmp_path / "work.py").write_text(FUNCTIONS)
    rows = 2**31 // 4096 + 5
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        data = f.create_dataset("lfp", (rows, 4096), "u1", fillvalue=7)
        data[-1] = 9
    run = [*RUN[:3], "work.py:identity", *RUN[4:5], "--trials", str(rows), *RUN[7:]]
    done = mpirun(mpi_python, 2, *run, "--writer", writer, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert hpcio.verify(tmp_path / "out.h5").nbytes == rows * 4096
    with h5py.File(tmp_path / "out.h5") as f:
        assert (f["data"][-2] == 7).all()
        assert (f["data"][-1] == 9).all()
