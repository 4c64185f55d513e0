"""Any recording that HDF5 reads is read right; one that has changed or lacks parts is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan, Trials
from hpcio.errors import SourceError
from hpcio.journals import prepare
from hpcio.recording import Recording
from tests.rigs.runs import LFP, as_virtual_dataset, check, pieces, record, run, tripled

CUBE = np.arange(12 * 12 * 12, dtype="i4").reshape(12, 12, 12)
STORAGE: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "chunked": {"chunks": (5, 4, 12)},
    "compressed": {"chunks": (3, 12, 7), "compression": "gzip", "shuffle": True},
    "checked": {"chunks": True, "fletcher32": True},
    "growing": {"maxshape": (None, 12, 12)},
}


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("storage", STORAGE)
def test_any_axis_of_any_dataset_is_cut_into_trials(tmp_path, axis, storage):
    source = record(tmp_path / "rec.h5", CUBE, **STORAGE[storage])
    trials = Trials.from_array([[0, 3], [3, 8], [8, 12]], axis=axis)
    run(np.negative, source, tmp_path / "out.h5", trials=trials, axis=axis)
    check(tmp_path / "out.h5", -CUBE)
    run(np.sum, source, tmp_path / "sums.h5", trials=trials, axis=axis, join="stack")
    parts = np.split(CUBE, [3, 8], axis)
    check(tmp_path / "sums.h5", np.array([part.sum() for part in parts]))


def with_userblock(path: Path) -> None:
    with h5py.File(path, "w", userblock_size=1024) as f:
        f["lfp"] = LFP
    with path.open("r+b") as f:
        f.write(b"a header of another program")


def with_external_data(path: Path) -> None:
    raw = path.with_suffix(".raw")
    raw.write_bytes(LFP.tobytes())
    with h5py.File(path, "w") as f:
        f.create_dataset("lfp", LFP.shape, "f8", external=[(str(raw), 0, LFP.nbytes)])


def with_link(path: Path) -> None:
    other = path.with_name("other.h5")
    with h5py.File(other, "w") as f:
        f["before"], f["lfp"] = np.zeros(1000), LFP
    with h5py.File(path, "w") as f:
        f["lfp"], f["behind"] = h5py.ExternalLink("other.h5", "lfp"), np.full(1000, 7.0)


def never_written(path: Path) -> None:
    with h5py.File(path, "w") as f:
        f.create_dataset("lfp", LFP.shape, "f8", fillvalue=1.5)


def of_twelve_bits(path: Path) -> None:
    """Samples of an ADC: 12 significant bits in 16, which numpy cannot hold as they are."""
    with h5py.File(path, "w") as f:
        kind = h5py.h5t.STD_I16LE.copy()
        kind.set_precision(12)
        kind.set_offset(2)
        space = h5py.h5s.create_simple(LFP.shape)
        dataset = h5py.Dataset(h5py.h5d.create(f.id, b"lfp", kind, space))
        dataset[...] = np.round(100 * LFP).astype("i2")


@pytest.mark.parametrize(
    "make",
    [with_userblock, with_external_data, with_link, as_virtual_dataset, never_written,
     of_twelve_bits],
)  # fmt: skip
def test_a_recording_in_any_form_that_hdf5_reads(tmp_path, make):
    make(tmp_path / "rec.h5")
    with h5py.File(tmp_path / "rec.h5") as f:
        expected = f["lfp"][...]
    run(np.copy, f"{tmp_path}/rec.h5::lfp", tmp_path / "out.h5")
    check(tmp_path / "out.h5", expected)


def test_the_result_of_one_run_is_the_recording_of_the_next(tmp_path, lfp):
    run(lambda x: x - x.mean(axis=0), lfp, tmp_path / "first.h5")
    run(np.abs, f"{tmp_path}/first.h5::data", tmp_path / "second.h5", workers=2)
    check(tmp_path / "second.h5", np.concatenate([abs(x - x.mean(axis=0)) for x in pieces()]))


@pytest.mark.parametrize("move", ["part2.h5", "everything"])
def test_a_virtual_recording_without_its_parts_is_refused(tmp_path, move):
    # HDF5 would read zeros in their place, and say nothing
    (tmp_path / "100% full").mkdir()
    rec = tmp_path / "100% full" / "rec.h5"
    as_virtual_dataset(rec)
    plan = Plan.create(np.copy, f"{rec}::lfp", trials=6, out=tmp_path / "early.h5")
    if move == "everything":
        (tmp_path / "lone.h5").write_bytes(rec.read_bytes())
        rec = tmp_path / "lone.h5"
    else:
        rec.with_name(move).rename(tmp_path / move)
        with pytest.raises(
            SourceError, match=rf"{move}', in which values of the .*cannot be found"
        ):
            plan.run(workers=0, progress=False)
    with pytest.raises(SourceError, match="virtual dataset with the source"):
        Plan.create(np.copy, f"{rec}::lfp", trials=6, out=tmp_path / "out.h5")
    with pytest.raises(SourceError, match="virtual dataset with the source"):
        tripled({**plan.trl_dat(0), "infile": rec})


def test_a_virtual_recording_of_more_files_than_may_be_open(tmp_path):
    files = len(os.listdir("/proc/self/fd")) + 60
    values = np.arange(4.0 * files).reshape(files, 4)
    layout = h5py.VirtualLayout((files, 4), "f8")
    for k in range(files):
        with h5py.File(tmp_path / f"{k}.h5", "w") as f:
            f["x"] = values[k]
        layout[k] = h5py.VirtualSource(f"{k}.h5", "x", (4,))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f.create_virtual_dataset("lfp", layout)
    script = (
        "import resource, hpcio, numpy as np\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))\n"
        "plan = hpcio.Plan.create(np.negative, 'rec.h5::lfp', trials=10, out='out.h5')\n"
        "plan.run(workers=1, progress=False)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    with hpcio.open(tmp_path / "out.h5") as f:
        assert (f["data"][...] == -values[: files // 10 * 10]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_recording_that_changes_is_noticed(tmp_path, lfp, workers):
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    with h5py.File(tmp_path / "rec.h5", "a") as f:
        f["more"] = 1
    with pytest.raises(hpcio.errors.SourceError, match="has changed since the plan was made"):
        plan.run(workers=workers, progress=False)


def test_a_recording_that_was_only_touched_says_how_to_set_its_time_back(tmp_path, lfp):
    recording = (tmp_path / "rec.h5").rename(tmp_path / "my rec.h5")
    lfp = f"{recording}::lfp"
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    prepare(plan)
    recording.touch()
    with pytest.raises(
        SourceError, match=r"has changed since .* set that back and go on: touch -d"
    ):
        Plan.create(np.negative, lfp, trials=6, out=plan.out).run(workers=0, progress=False)
    with pytest.raises(SourceError, match="a sample of its content are the same") as info:
        plan.run(workers=0, progress=False)
    subprocess.run(
        ["sh", "-c", str(info.value).partition("set that back and go on: ")[2]], check=True
    )
    assert plan.run(workers=0, progress=False).computed == 5
    recording.touch()  # once the result is there, too
    with pytest.raises(SourceError, match=r"set that back and go on: touch -d"):
        Plan.create(np.negative, lfp, trials=6, out=plan.out).run(workers=0, progress=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_another_dataset_in_a_file_of_the_same_size_and_time_is_noticed(tmp_path, lfp, workers):
    plan = Plan.create(np.negative, lfp, trials=6, out=tmp_path / "out.h5")
    time_ns = os.stat(tmp_path / "rec.h5").st_mtime_ns
    record(tmp_path / "rec.h5", LFP.reshape(60, 2))
    os.utime(tmp_path / "rec.h5", ns=(time_ns, time_ns))
    with pytest.raises(SourceError, match="replaced by another of the same size and time"):
        plan.run(workers=workers, progress=False)


@pytest.mark.parametrize("name", ["DIMENSION_LIST", "DIMENSION_LABELS"])
@pytest.mark.parametrize("value", [np.arange(2), np.zeros((0, 3)), [b"a", b"b", b"c"], 1.5])
def test_scales_that_would_crash_hdf5_are_none(tmp_path, name, value):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.ones((6, 2))
        f["lfp"].attrs[name] = value
    with Recording.read(f"{tmp_path}/rec.h5::lfp").open() as opened:
        assert [opened.axis_name(axis) for axis in range(2)] == ["", ""]
        assert [opened.coordinates(axis) for axis in range(2)] == [None, None]


def test_a_scale_whose_name_cannot_be_read_has_that_of_its_dataset(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"], f["row"] = np.ones((6, 2)), np.arange(6)
        f["row"].make_scale("samples")
        f["lfp"].dims[0].attach_scale(f["row"])
        del f["row"].attrs["NAME"]
        # A number of 128 bits has no native type.
        kind = h5py.h5t.STD_I64LE.copy()
        kind.set_size(16)
        h5py.h5a.create(f["row"].id, b"NAME", kind, h5py.h5s.create(h5py.h5s.SCALAR))
    with Recording.read(f"{tmp_path}/rec.h5::lfp").open() as opened:
        assert opened.axis_name(0) == "row"
        np.testing.assert_array_equal(opened.coordinates(0), np.arange(6))


def test_floats_that_no_machine_has_are_named(tmp_path):
    """Of 128 bits by IEEE, as some compilers of Fortran have them."""
    kind = h5py.h5t.IEEE_F64LE.copy()
    kind.set_size(16)
    kind.set_precision(128)
    kind.set_fields(127, 112, 15, 0, 112)
    kind.set_ebias(16383)
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        h5py.h5d.create(f.id, b"lfp", kind, h5py.h5s.create_simple((6, 2)))
    with pytest.raises(SourceError, match=r"'lfp'.* has a type of HDF5 that numpy has no word for"):
        Recording.read(f"{tmp_path}/rec.h5::lfp")
