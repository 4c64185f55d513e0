"""Repacking with chunks and filters: smaller, right, and refused where it cannot be."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import OutputError, PlanError, ResultError, WorkerError
from tests.rigs.bench import CHANNELS, ROWS, TRIALS
from tests.rigs.repacking import check_ordinary, run_directory
from tests.rigs.support import damage, names


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["gzip", "gzip:9+shuffle", "lzf", "zstd:3", "lz4", "blosc-zstd"])
def test_compressed(done, name, workers):
    if name.partition(":")[0] not in ("gzip", "lzf"):
        pytest.importorskip("hdf5plugin")
    hpcio.repack(done.out, compression=name, workers=workers)
    done.check()
    with h5py.File(done.out) as f:
        assert f["hpcio"].attrs["compression"].startswith(name.encode()[:4])
        assert f["data"].chunks == (TRIALS * ROWS, CHANNELS)
        assert len(f["data"]._filters) == (2 if "shuffle" in name else 1)
    hpcio.repack(done.out)
    check_ordinary(done.out, done.expected)
    with h5py.File(done.out) as f:
        assert "compression" not in f["hpcio"].attrs


def test_it_becomes_smaller(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((100_000, 8))
    plan = hpcio.Plan.create(
        np.negative, tmp_path / "rec.h5::lfp", trials=1000, out=tmp_path / "out.h5"
    )
    plan.run(workers=0, progress=False)
    hpcio.repack(tmp_path / "out.h5", compression="gzip", workers=2)
    assert (tmp_path / "out.h5").stat().st_size < 200_000
    with h5py.File(tmp_path / "out.h5") as f:
        assert f["data"].chunks == (16_384, 8)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_hdf5_reads_and_packs_it_again(done, compression):
    if not shutil.which("h5repack"):
        pytest.skip("there is no h5repack here")
    hpcio.repack(done.out, compression=compression)
    again = done.folder / "again.h5"
    subprocess.run(["h5repack", "-f", "GZIP=9", done.out, again], check=True)
    subprocess.run(["h5diff", done.out, again, "/data"], check=True)
    done.check(again)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_source_stops_compression_too(done, workers):
    data = done.expected[4 * ROWS : 5 * ROWS].tobytes()
    sources = Path(f"{done.out}.run", "sources")
    path = next(p for p in sources.rglob("*.h5") if data in p.read_bytes())
    damage(path, path.read_bytes().index(data) + 11)
    before = run_directory(done)
    with pytest.raises(ResultError, match=rf"Block 4 .*'{path}'"):
        hpcio.repack(done.out, compression="gzip", workers=workers)
    assert run_directory(done) == before
    assert names(done.folder, ".*") == []


def test_a_damaged_chunk_is_found_and_named(done):
    hpcio.repack(done.out, compression="gzip", chunks=(ROWS, CHANNELS))
    with h5py.File(done.out) as f:
        where = f["data"].id.get_chunk_info(3)
    damage(done.out, where.byte_offset + where.size // 2)
    with pytest.raises(ResultError, match=r"Block 3 .*out\.h5'\. Restore it from a backup"):
        hpcio.verify(done.out)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"compression": "zip"}, PlanError, "compression='zip' is unknown. Write NAME.*gzip"),
        ({"compression": "gzip:10"}, PlanError, "no level 10. Choose one from 0 to 9"),
        ({"compression": "lzf:1"}, PlanError, "lzf has no levels. Write 'lzf'"),
        ({"compression": "gzip", "chunks": False}, PlanError, "needs chunks"),
        ({"chunks": (5,)}, PlanError, "1 axes, but the result has 2.*Give a length for each"),
        ({"chunks": (5, 0)}, PlanError, "Give a length of at least 1"),
        ({"chunks": 5}, PlanError, "is no shape of a chunk"),
        ({"chunks": (1.5, 2)}, PlanError, "is no shape of a chunk"),
        ({"workers": 0}, WorkerError, "workers=0 makes no sense"),
    ],
)
def test_impossible_options_are_refused(done, options, error, says):
    before = run_directory(done), done.out.read_bytes()
    with pytest.raises(error, match=says):
        hpcio.repack(done.out, **options)
    assert (run_directory(done), done.out.read_bytes()) == before
    assert names(done.folder, ".*") == []


def test_a_disk_that_gets_full_is_said(done, monkeypatch):
    usage = shutil.disk_usage(done.folder)
    free = iter([1 << 40, 1 << 40, *[1000] * 100])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(free)))
    with pytest.raises(OutputError, match="Free some space"):
        hpcio.repack(done.out, compression="gzip", chunks=(1, CHANNELS), workers=1)
    monkeypatch.undo()
    assert names(done.folder, ".*") == []
    done.check()
