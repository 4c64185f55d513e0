"""The writer that goes through parallel HDF5: the same bits, however many ranks."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from tests.rigs.mpi import mpirun
from tests.rigs.ranks import FUNCTIONS, RUN, recorded
from tests.rigs.support import names

pytestmark = pytest.mark.mpi


# Ranks take long to begin: the same ones do all runs of a test, one after the other.
RUN_EACH = """
import json, sys
{before}
from hpcio.cli import cli
for words in json.loads(sys.argv[1]):
    cli.main(words, standalone_mode=False)
"""


def run_each(
    python: Path, place: Path, ranks: int, runs: dict[str, list[str]], before: str = ""
) -> str:
    """What runs of `negative` print; each has other options, and the name of its output."""
    words = [[*RUN[2:-1], out, "--quiet", *options] for out, options in runs.items()]
    script = RUN_EACH.format(before=before)
    done = mpirun(python, ranks, "-c", script, json.dumps(words), folder=place)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


WRITERS = ["virtual", "direct", "mpi", "mpi-collective"]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_writer_on_ranks(mpi_python, place, ranks):
    runs = {f"{writer}.h5": ["--writer", writer] for writer in WRITERS}
    said = run_each(mpi_python, place, ranks, runs)
    assert said.count("20 trials in") == len(WRITERS)
    for writer in WRITERS:
        with h5py.File(place / f"{writer}.h5") as f:
            assert f["data"][...].tobytes() == (-recorded(place)).tobytes()
            assert f["data"].is_virtual == (writer == "virtual")
        assert hpcio.verify(place / f"{writer}.h5").blocks == 20
        labels = {n.partition("-")[0] for n in names(place, f"{writer}.h5.run/journal/*.jnl")}
        if ranks == 1 and not writer.startswith("mpi"):  # one rank has this machine for itself
            assert all(label.startswith("w") for label in labels)
        else:
            assert labels == {f"r{k}" for k in range(ranks)}


JOINS = {
    "stack.h5": ["--join", "stack"],
    "axis1.h5": ["--join-axis", "1"],
    "channels.h5": ["--channels-per-block", "2"],
    "both.h5": ["--channels-per-block", "3", "--join", "stack"],
    "mean.h5": ["--reduce", "mean"],
}


@pytest.mark.parametrize("writer", ["mpi", "mpi-collective"])
def test_every_way_to_join(mpi_python, place, writer):
    runs = {out: ["--writer", writer, *options] for out, options in JOINS.items()}
    run_each(mpi_python, place, 3, runs)
    for out, options in JOINS.items():
        chosen = dict(zip(options[::2], options[1::2], strict=True))
        plan = hpcio.Plan.create(
            np.negative, f"{place}/rec.h5::lfp", trials=10, out=place / f"here-{out}",
            join=chosen.get("--join", "concatenate"),
            join_axis=int(chosen["--join-axis"]) if "--join-axis" in chosen else None,
            channels_per_block=int(chosen.get("--channels-per-block", 0)) or None,
            keeptrials="--reduce" not in chosen,
        )  # fmt: skip
        plan.run(workers=0, progress=False)
        with h5py.File(place / out) as f, h5py.File(plan.out) as g:
            assert f["data"].dtype == g["data"].dtype
            assert f["data"][...].tobytes() == g["data"][...].tobytes()


SEVERAL = """
import numpy as np

def several(trial):
    return {"power": trial**2, "peak": trial.argmax(axis=0).astype("i4"), "high": trial.max() > 2}
"""


@pytest.mark.parametrize("options", [[], ["--channels-per-block", "2"]], ids=["rows", "channels"])
def test_several_results_of_a_call(mpi_python, place, options):
    (place / "several.py").write_text(SEVERAL)
    if options:  # a chunk for each block, and a flag for each of them
        (place / "several.py").write_text(SEVERAL.replace("trial.max()", "trial.max(axis=0)"))
        options = [*options, "--out-channel-axis", "power=1,peak=0,high=0"]
    writers = ["direct", "mpi", "mpi-collective"]
    words = [
        ["run", "several.py:several", "rec.h5::lfp", "--trials", "10", "--out", f"{writer}.h5",
         "--join", "peak=stack,high=stack", "--writer", writer, "--quiet", *options]
        for writer in writers
    ]  # fmt: skip
    done = mpirun(mpi_python, 3, "-c", RUN_EACH.format(before=""), json.dumps(words), folder=place)
    assert done.returncode == 0, done.stderr
    trials = recorded(place).reshape(20, 10, 6)
    for writer in writers:
        with hpcio.open(place / f"{writer}.h5") as f:
            assert f["power"][...].tobytes() == (recorded(place) ** 2).tobytes()
            np.testing.assert_array_equal(f["peak"][...], trials.argmax(axis=1))
            axis = 1 if options else (1, 2)
            np.testing.assert_array_equal(f["high"][...], trials.max(axis=axis) > 2)
        assert hpcio.verify(place / f"{writer}.h5").gaps == 0


DTYPES = ["<f8", ">f4", "<f2", "<c16", ">i4", "i1", "<u2", "?"]


@pytest.mark.parametrize("writer", ["mpi", "mpi-collective"])
def test_every_type(mpi_python, place, writer):
    values = 100 * np.random.default_rng(1).random((200, 5))
    with h5py.File(place / "rec.h5", "w") as f:
        for k, dtype in enumerate(DTYPES):
            f[str(k)] = values.astype(dtype)
    words = [
        ["run", "work.py:identity", f"rec.h5::/{k}", "--trials", "10", "--out", f"{k}.h5",
         "--writer", writer, "--quiet"]
        for k in range(len(DTYPES))
    ]  # fmt: skip
    script = RUN_EACH.format(before="")
    done = mpirun(mpi_python, 2, "-c", script, json.dumps(words), folder=place)
    assert done.returncode == 0, done.stderr
    for k, dtype in enumerate(DTYPES):
        with h5py.File(place / f"{k}.h5") as f:
            assert f["data"].dtype == dtype
            assert f["data"][...].tobytes() == values.astype(dtype).tobytes()


TABLES = {
    "one.h5": [[0, 200]],
    "uneven.h5": [[0, 1], [1, 150], [150, 152], [152, 199], [199, 200]],
    "no-page.h5": [[k, k + 3] for k in range(0, 198, 3)],  # sizes that fit none
}


@pytest.mark.parametrize("writer", ["mpi", "mpi-collective"])
def test_uneven_counts_and_ranks_with_nothing(mpi_python, place, writer):
    with h5py.File(place / "rec.h5", "a") as f:
        for out, rows in TABLES.items():
            f[f"trials of {out}"] = np.asarray(rows)
    runs = {out: ["--trials", f"rec.h5::trials of {out}", "--writer", writer] for out in TABLES}
    run_each(mpi_python, place, 4, runs)
    for out, rows in TABLES.items():
        with h5py.File(place / out) as f:
            assert f["data"][...].tobytes() == (-recorded(place)[: rows[-1][1]]).tobytes()


def test_blocks_above_2_gb_are_written_in_pieces(mpi_python, place):
    """With a smaller limit of one call, so that it needs no 2 GB."""
    runs = {f"{writer}.h5": ["--writer", writer] for writer in ("mpi", "mpi-collective")}
    before = "from hpcio.onefile import mpi\nmpi.PIECE = 100"
    run_each(mpi_python, place, 3, runs, before)
    for out in runs:
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
