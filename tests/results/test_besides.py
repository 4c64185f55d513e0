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
    if name == "data@label":
        f["data"].dims[1].label = "channel"
    elif name == "data@scale":
        f["data"].dims[1].detach_scale(f["electrode"])
    elif name.startswith("/@"):
        f.attrs[name[2:]] = "another"
    elif name == "electrode@NAME":
        del f["electrode"].attrs["NAME"]
    elif name == "metadata@peak":
        f["metadata"].attrs["peak__1_0"] = f["metadata"].attrs["peak__1_0"] + 1
    elif name == "metadata/whole":
        f["metadata/whole__2_0"][7] += 1
    elif name == "trials":
        table = f["trials"][()]
        table["start"][1] += 1
        f["trials"][()] = table
    else:
        f[name][0] += 1


# What each is called in the error.
CHANGES = {
    "trials": "'trials'",
    "electrode": "'electrode'",
    "metadata@peak": "The attribute 'peak__1_0' of 'metadata'",
    "metadata/whole": "'metadata/whole__2_0'",
    "hpcio/checksum": "'hpcio/checksum'",
    "/@function": "The attribute 'function'",
    "/@versions": "The attribute 'versions'",
    "electrode@NAME": "The attribute 'NAME' of 'electrode'",
    "data@label": "The label of axis 1",
    "data@scale": "The scale of axis 1",
}


@pytest.mark.parametrize("repacked", [False, True], ids=["virtual", "one file"])
@pytest.mark.parametrize("name", CHANGES)
def test_what_has_changed_is_found_and_named(out, name, repacked):
    if repacked:
        hpcio.repack(out)
    assert hpcio.verify(out).besides
    with h5py.File(out, "r+") as f:
        change(f, name)
    says = f"^{CHANGES[name]} of '{out}' differs from what was published"
    with pytest.raises(ResultError, match=says):
        hpcio.verify(out)


@pytest.mark.parametrize("repacked", [False, True], ids=["virtual", "one file"])
@pytest.mark.parametrize("name", ["electrode", "trials"])
def test_the_same_bytes_of_another_type_are_found(out, name, repacked):
    """One bit of a type: the order of bytes; where a field lies; how it is called."""
    if repacked:
        hpcio.repack(out)
    with h5py.File(out, "r+") as f:
        values, attributes = f[name][()], dict(f[name].attrs)
    kind = values.dtype
    others = [kind.newbyteorder(">")]
    if kind.names:
        fields = {at: [kind.fields[of][at] for of in kind.names] for at in (0, 1)}
        names = ["fjrst", *kind.names[1:]]
        size = {"formats": fields[0], "itemsize": kind.itemsize}
        others += [
            np.dtype({"names": names, "offsets": fields[1], **size}),
            np.dtype({"names": kind.names, "offsets": [8, 0, *fields[1][2:]], **size}),
        ]
    for other in others:
        with h5py.File(out, "r+") as f:
            del f[name]
            f[name] = np.frombuffer(values.tobytes(), other)
            f[name].attrs.update(attributes)
        with pytest.raises(ResultError, match=f"'{name}'"):
            hpcio.verify(out)


def test_how_many_trials_are_in_an_average_is_verified(out):
    plan = hpcio.Plan.create(
        np.negative, out.with_name("rec.h5::lfp"), trials=10, out=out.with_name("mean.h5"),
        keeptrials=False,
    )  # fmt: skip
    plan.run(workers=0, progress=False)
    hpcio.verify(plan.out)
    with h5py.File(plan.out, "r+") as f:
        f["data"].attrs["trials"] = 3
    with pytest.raises(ResultError, match=r"The attribute 'trials' of 'data' of .* differs"):
        hpcio.verify(plan.out)


def test_all_that_differs_is_named(out):
    with h5py.File(out, "r+") as f:
        change(f, "trials")
        said = list(f.attrs)
        for name in said:
            del f.attrs[name]
    with pytest.raises(ResultError, match=f"^{len(said) + 1} things in '{out}' differ") as info:
        hpcio.verify(out)
    assert "the attribute 'args'" in str(info.value)
    assert f"... and {len(said) + 1 - 10} more" in str(info.value)


def test_what_a_repacked_result_has_of_another_kind_does_not_matter(out):
    for options in ({"compression": "gzip"}, {"chunks": True}, {}):
        hpcio.repack(out, **options)
        assert hpcio.verify(out).besides


def test_what_is_gone_is_found_and_what_was_added_does_not_matter(out):
    with h5py.File(out, "r+") as f:
        f["my notes"] = np.arange(3)
        f["my notes"].make_scale("notes")
        f["my notes"].attrs["of"] = "mine"
        f["data"].dims[0].label = "mine"
        f["data"].dims[1].attach_scale(f["electrode"])
        for thing in (f, f["data"], f["trials"], f["electrode"], f["metadata"]):
            thing.attrs["my note"] = "seen"
        f["metadata/more"] = np.arange(3)
    assert "no checksums" not in str(hpcio.verify(out))
    with h5py.File(out, "r+") as f:
        del f["trials"]
    with pytest.raises(ResultError, match="'trials' of"):
        hpcio.verify(out)


def test_a_result_of_an_earlier_version(out):
    with h5py.File(out, "r+") as f:
        things, axes = json.loads(f["hpcio/besides"][()].tobytes())
        assert set(things) >= {"/", "data", "trials", "metadata"}
        assert axes == [["", ["/axis_0"]], ["electrode", ["/electrode"]]]
        del f["hpcio/besides"]
    for _ in range(2):
        verified = hpcio.verify(out)
        assert verified.blocks == 4
        assert str(verified).endswith("; there are no checksums of its tables and details")
        hpcio.repack(out)


# The checksums that an earlier version kept in this result: of values, not of types or attributes.
EARLIER = {
    "axis_0": 15932829466786497451, "electrode": 7840159762699511442,
    "metadata": 550121219991986498, "trials": 9611758894624291365,
    "hpcio/target": 6860776274770228083, "hpcio/state": 5877245831746286270,
    "hpcio/checksum": 11312743253290382859,
}  # fmt: skip


@pytest.mark.parametrize("name", ["trials", "electrode", "metadata@peak", "hpcio/checksum"])
def test_the_checksums_of_an_earlier_version_are_compared(out, name):
    with h5py.File(out, "r+") as f:
        del f["hpcio/besides"]
        f["hpcio/besides"] = np.frombuffer(json.dumps(EARLIER).encode(), np.uint8)
    assert hpcio.verify(out).besides
    hpcio.repack(out)
    assert hpcio.verify(out).besides
    with h5py.File(out, "r+") as f:
        change(f, name)
    part = name.partition("@")[0]
    with pytest.raises(ResultError, match=f"^'{part}' of '{out}' differs from what was published"):
        hpcio.verify(out)
