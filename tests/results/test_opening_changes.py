"""A result that is open while others change it: what is read is right, or an error."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import ResultError
from tests.rigs.opened import sources_of

LFP = np.arange(1.0, 1201.0).reshape(400, 3)


def make(folder: Path, **options: object) -> Path:
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = LFP
    out = folder / "out.h5"
    options = {"trials": 2, "sources": "trial", **options}
    plan = hpcio.Plan.create(np.negative, folder / "rec.h5::lfp", out=out, **options)
    plan.run(workers=0, progress=False)
    return out


@pytest.fixture(params=["all at once", "some at a time"])
def opened(tmp_path, request, monkeypatch):
    """An open result of 200 sources, and its file."""
    out = make(tmp_path)
    if request.param == "some at a time":
        monkeypatch.setattr("hpcio.files.virtual._MOST_OPEN", 16)
    with hpcio.open(out) as f:
        yield f, out


def test_a_source_that_vanishes_is_noticed(opened):
    f, out = opened
    sources_of(out)[7].unlink()
    np.testing.assert_array_equal(f["data"][20:], -LFP[20:])
    for key in (..., slice(10, 16), 14, [14, 399]):
        with pytest.raises(ResultError, match=r"cannot (open|be read)"):
            f["data"][key]


def test_a_source_that_is_replaced_is_noticed(opened):
    f, out = opened
    source = sources_of(out)[7]
    with h5py.File(source, "r+") as part:
        part["data"][...] = 0
    shutil.copy(source, f"{source}.copy")
    os.replace(f"{source}.copy", source)
    with pytest.raises(ResultError, match=r"has changed since .*Open the result again"):
        f["data"][14]


def test_a_result_that_is_repacked(opened):
    f, out = opened
    np.testing.assert_array_equal(f["data"][:4], -LFP[:4])
    subprocess.run([sys.executable, "-m", "hpcio", "repack", str(out)], check=True)
    with pytest.raises(ResultError):
        f["data"][...]
    with hpcio.open(out) as again:
        np.testing.assert_array_equal(again["data"][...], -LFP)


def test_reading_into_an_array_is_guarded_too(tmp_path):
    out = make(tmp_path)
    with hpcio.open(out) as f:
        dest = np.empty(LFP.shape)
        f["data"].read_direct(dest)
        np.testing.assert_array_equal(dest, -LFP)
        np.testing.assert_array_equal(f["data"].astype("f4")[:5], -LFP[:5].astype("f4"))
        assert f.get("data") is f["/data"] is f["./data"]
        sources_of(out)[3].unlink()
        with pytest.raises(ResultError):
            f["data"].read_direct(dest)
        with pytest.raises(ResultError):
            np.asarray(f["data"])


def test_whatever_way_was_read_the_end_tells_of_it(tmp_path):
    """HDF5 shows fill values by objects of h5py that nobody guards."""
    out = make(tmp_path)
    with hpcio.open(out) as f:
        assert f["hpcio"].parent["data"][14].tolist() == (-LFP[14]).tolist()
    f = hpcio.open(out)
    sources_of(out)[7].unlink()
    assert np.isnan(f["hpcio"].parent["data"][14]).all()
    with pytest.raises(ResultError, match="cannot be read"):
        f.close()


READ = """
import resource, sys
import numpy as np
import hpcio

with hpcio.open("out.h5") as f:
    soft, hard = (int(n) for n in sys.argv[1:3])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, soft))
    others = [open("/dev/null") for _ in range(hard)]
    try:
        np.save("read.npy", f["data"][...])
    except hpcio.errors.ResultError as error:
        print(error)
"""


@pytest.mark.parametrize(("limit", "others"), [(1024, 700), (256, 100), (256, 200), (256, 235)])
def test_too_many_other_files_are_open(tmp_path, limit, others):
    make(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(limit), str(others)], cwd=tmp_path, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    if (tmp_path / "read.npy").exists():
        np.testing.assert_array_equal(np.load(tmp_path / "read.npy"), -LFP)
    else:
        assert "Too many files are open" in done.stdout
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > limit or limit == 1024


def test_a_prefix_that_is_set_meanwhile_leads_nowhere(tmp_path, monkeypatch):
    out = make(tmp_path)
    shutil.copytree(f"{out}.run", tmp_path / "other" / "out.h5.run")
    with hpcio.open(out) as f:
        monkeypatch.setenv("HDF5_VDS_PREFIX", str(tmp_path / "other"))
        with pytest.raises(ResultError, match="which it did not find first before"):
            f["data"][0]


def test_a_folder_at_hand_that_was_deleted_is_not_asked_for(tmp_path, monkeypatch):
    out = make(tmp_path)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with hpcio.open(out) as f:
        np.testing.assert_array_equal(f["data"][...], -LFP)


def test_a_prefix_that_leads_to_other_parts_is_refused(tmp_path):
    make(tmp_path)
    shutil.copytree(tmp_path / "out.h5.run", tmp_path / "other" / "out.h5.run")
    script = "import hpcio\nprint(hpcio.open('out.h5')['data'][0, 0])"

    def read(prefix: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "HDF5_VDS_PREFIX": str(prefix)}, check=False,
        )  # fmt: skip

    assert "HDF5_VDS_PREFIX makes HDF5 read" in read(tmp_path / "other").stderr
    assert read(tmp_path / "nothing").stdout == "-1.0\n"
