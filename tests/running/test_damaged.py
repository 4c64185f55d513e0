"""Files of a run that are damaged anywhere: told by an error, or the bytes are right.

A bit that flips in the data of a result is not seen by `hpcio.open`: `hpcio.verify` names it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import pytest

import hpcio
from hpcio.errors import ResultError
from tests.rigs.bench import STORED, Bench
from tests.rigs.damaging import Damaged, damaged
from tests.rigs.forks import is_crash, is_error, is_ours
from tests.rigs.mpi import mpirun
from tests.rigs.runs import left_by_a_kill

# How often each file is damaged in the long tests.
MANY = int(os.environ.get("HPCIO_DAMAGES", "300"))
# Every day.
SOME = 1


@pytest.fixture(params=STORED)
def bench(request, tmp_path) -> Bench:
    (tmp_path / "whole").mkdir()
    return Bench(tmp_path, out=tmp_path / "whole" / "out.h5", **STORED[request.param])


def finish(bench: Bench) -> tuple[Path, Path]:
    bench.plan().run(workers=0, progress=False)
    return _placed(bench)


def leave(bench: Bench) -> tuple[Path, Path]:
    """A run that was killed."""
    left_by_a_kill(bench.plan(), safe=4, more=4)
    return _placed(bench)


def _placed(bench: Bench) -> tuple[Path, Path]:
    right = bench.folder / "right"
    right.write_bytes(bench.expected.tobytes())
    return Path(bench.options["out"]), right


def told(of: list[Damaged]) -> list[Damaged]:
    """Those that give wrong values and nobody tells, or end by anything but an error of ours.

    Crashes of HDF5 are told by the system.
    """
    print(len(of), "damages,", sum(is_crash(d.read) or is_crash(d.verified) for d in of), "crashes")
    return [
        d
        for d in of
        if not (is_ours(d.read) or is_crash(d.read) or d.read == "wrong")
        or not (is_ours(d.verified) or is_crash(d.verified))
        or (d.read == "wrong" and not is_error(d.verified))
    ]


@pytest.mark.parametrize("count", [SOME, pytest.param(MANY, marks=pytest.mark.torture)])
def test_a_flipped_bit_of_a_finished_run(bench, count):
    out, right = finish(bench)
    # A file a trial is twelve, of which each has its own bits.
    for inside, each in (("out.h5", 8 * count), ("out.h5.run/sources/**/*", count)):
        assert (
            told(damaged(out, right, inside=inside, how="flips", count=each, resumes=False)) == []
        )


@pytest.mark.mpi
@pytest.mark.parametrize("count", [SOME, pytest.param(MANY, marks=pytest.mark.torture)])
def test_a_flipped_bit_of_a_result_of_a_rank(tmp_path, mpi_python, count):
    """The writer `mpi` ends with a file like those of `direct`, but of another HDF5."""
    (tmp_path / "whole").mkdir()
    bench = Bench(tmp_path, out=tmp_path / "whole" / "out.h5")
    words = ["run", f"{bench.module}.py:double", "rec.h5::lfp", "--trials", str(bench.rows)]
    words += ["--out", "whole/out.h5", "--writer", "mpi", "--quiet"]
    done = mpirun(mpi_python, 1, "-m", "hpcio", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    out, right = _placed(bench)
    flipped = damaged(out, right, inside="out.h5", how="flips", count=8 * count, resumes=False)
    assert len(flipped) == 8 * count
    assert told(flipped) == []


@pytest.mark.parametrize("count", [SOME, pytest.param(MANY, marks=pytest.mark.torture)])
def test_a_flipped_bit_of_a_run_that_goes_on(bench, count):
    out, right = leave(bench)
    done = damaged(out, right, inside="out.h5.run/**/*", how="flips", count=count, resumes=True)
    assert len(done) >= 2 * count
    assert told(done) == []
    # No bit of a plan, and none of a journal, makes it end with other values.
    assert not [d for d in done if d.read == "wrong" and not d.path.startswith("out.h5.run/so")]


@pytest.mark.parametrize("count", [20, pytest.param(MANY * 10, marks=pytest.mark.torture)])
def test_a_result_of_any_bytes_is_read_or_refused(tmp_path, count):
    """Nothing but errors of hpcio, and no hang; crashes of HDF5 are counted, not forbidden."""
    (tmp_path / "whole").mkdir()
    bench = Bench(tmp_path, out=tmp_path / "whole" / "out.h5")
    out, right = finish(bench)
    done = damaged(out, right, inside="out.h5", how="mutations", count=count, resumes=False)
    assert len(done) == count
    assert told(done) == []


@pytest.mark.parametrize("count", [SOME, pytest.param(MANY, marks=pytest.mark.torture)])
def test_a_run_of_any_bytes_goes_on_or_is_refused(bench, count):
    """Plan, journal, notes, logs and sources; crashes are counted, as HDF5 reads packed sources."""
    out, right = leave(bench)
    done = damaged(out, right, inside="out.h5.run/**/*", how="mutations", count=count, resumes=True)
    assert told(done) == []


@pytest.mark.parametrize("how", ["sibling", "short", "foreign", "gone"])
@pytest.mark.parametrize("sources", ["trial", "task"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_source_that_is_another_file_is_named(tmp_path, how, sources, compression):
    bench = Bench(tmp_path, out=tmp_path / "out.h5", sources=sources, compression=compression)
    leave(bench)  # its batches are files of equal shape
    hpcio.Plan.load(bench.out).run(workers=0, progress=False)
    with h5py.File(bench.out) as f:
        one, other = (bench.folder / os.fsdecode(p) for p in f["hpcio/sources"]["path"][:2])
    if how == "sibling":
        swapped = one.read_bytes()
        shutil.copy(other, one)
        other.write_bytes(swapped)
    elif how == "short":
        os.truncate(one, one.stat().st_size - 1)
    elif how == "foreign":
        shutil.copy(tmp_path / "rec.h5", one)
    else:
        one.unlink()
    with pytest.raises(ResultError, match=r"sources/.*\.h5'"):
        hpcio.verify(bench.out)
