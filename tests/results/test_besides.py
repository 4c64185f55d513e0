"""Verifying covers what a result holds besides its data."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import ResultError


def detailed(trial, noCompute=None):
    if noCompute:
        return (1, 2), "f8"
    return trial[:1], {"peak": trial.max(), "whole": np.arange(20000.0)}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.arange(80.0).reshape(40, 2)
        f["electrode"] = np.array([10.0, 20.0])
        f["electrode"].make_scale("electrode")
        f["lfp"].dims[1].label = "electrode"
        f["lfp"].dims[1].attach_scale(f["electrode"])
    name = tmp_path / "out.h5"
    plan = hpcio.Plan.create(detailed, f"{tmp_path}/rec.h5::lfp", trials=10, out=name)
    plan.run(workers=0, progress=False)
    return name


def change(f: h5py.File, name: str) -> None:
    if name == "metadata@peak":
        f["metadata"].attrs["peak__1_0"] = f["metadata"].attrs["peak__1_0"] + 1
    elif name == "metadata/whole":
        f["metadata/whole__2_0"][7] += 1
    elif name == "trials":
        table = f["trials"][()]
        table["start"][1] += 1
        f["trials"][()] = table
    else:
        f[name][0] += 1


@pytest.mark.parametrize("repacked", [False, True], ids=["virtual", "one file"])
@pytest.mark.parametrize(
    "name", ["trials", "electrode", "metadata@peak", "metadata/whole", "hpcio/checksum"]
)
def test_what_has_changed_is_found_and_named(out, name, repacked):
    if repacked:
        hpcio.repack(out)
    assert hpcio.verify(out).besides
    with h5py.File(out, "r+") as f:
        change(f, name)
    part = name.partition("@")[0].removesuffix("/whole")
    with pytest.raises(ResultError, match=f"'{part}' of '{out}' differs from what was published"):
        hpcio.verify(out)


def test_what_is_gone_is_found_and_what_was_added_does_not_matter(out):
    with h5py.File(out, "r+") as f:
        f["my notes"] = np.arange(3)
    assert "no checksums" not in str(hpcio.verify(out))
    with h5py.File(out, "r+") as f:
        del f["trials"]
    with pytest.raises(ResultError, match="'trials' of"):
        hpcio.verify(out)


def test_a_result_of_an_earlier_version(out):
    with h5py.File(out, "r+") as f:
        assert set(json.loads(f["hpcio/besides"][()].tobytes())) >= {"trials", "metadata"}
        del f["hpcio/besides"]
    for _ in range(2):
        verified = hpcio.verify(out)
        assert verified.blocks == 4
        assert str(verified).endswith("; there are no checksums of its tables and details")
        hpcio.repack(out)
