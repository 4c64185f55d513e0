"""A dataset is followed to the innermost files in which its values lie."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import SourceError
from hpcio.files import FileState, check_whole, follow, sample_of, where_hdf5_finds
from tests.rigs.support import run

ONES = np.ones((20, 2))


def part(path: Path, values: np.ndarray = ONES) -> None:
    with h5py.File(path, "w") as f:
        f["lfp"] = values


def virtual(path: Path, *parts: str, dataset: str = "lfp") -> None:
    layout = h5py.VirtualLayout((20 * len(parts), 2), "f8")
    for k, name in enumerate(parts):
        layout[20 * k : 20 * k + 20] = h5py.VirtualSource(name, dataset, (20, 2))
    with h5py.File(path, "a") as f:
        f.create_virtual_dataset("lfp", layout)


def names(folder: Path, name: str = "rec.h5", dataset: str = "lfp") -> list[str]:
    with h5py.File(folder / name) as f:
        return [os.path.relpath(file, folder) for file in follow(f, dataset).files]


def nested(folder: Path) -> list[str]:
    for name in ("a.h5", "b.h5", "c.h5"):
        part(folder / name)
    virtual(folder / "inner.h5", "b.h5", "c.h5")
    layout = h5py.VirtualLayout((60, 2), "f8")
    layout[:20] = h5py.VirtualSource("a.h5", "lfp", (20, 2))
    layout[20:] = h5py.VirtualSource("inner.h5", "lfp", (40, 2))
    with h5py.File(folder / "rec.h5", "w") as f:
        f.create_virtual_dataset("lfp", layout)
    return ["rec.h5", "a.h5", "inner.h5", "b.h5", "c.h5"]


def links(folder: Path) -> list[str]:
    part(folder / "a.h5")
    with h5py.File(folder / "middle.h5", "w") as f:
        f["deep/er"] = h5py.ExternalLink("a.h5", "/lfp")
    with h5py.File(folder / "rec.h5", "w") as f:
        f["group"] = h5py.ExternalLink("middle.h5", "/deep")
        f["lfp"] = h5py.SoftLink("/group/er")
    return ["rec.h5", "middle.h5", "a.h5"]


def raw(folder: Path) -> list[str]:
    for name in ("one.raw", "two.raw"):
        ONES.tofile(folder / name)
    with h5py.File(folder / "rec.h5", "w") as f:
        files = [(str(folder / "one.raw"), 0, 160), (str(folder / "two.raw"), 0, 160)]
        f.create_dataset("lfp", (20, 2), "f8", external=files)
    return ["rec.h5", "one.raw", "two.raw"]


def pattern(folder: Path) -> list[str]:
    for k in range(3):
        part(folder / f"part{k}.h5")
    space = h5py.h5s.create_simple((60, 2), (h5py.h5s.UNLIMITED, 2))
    space.select_hyperslab((0, 0), (h5py.h5s.UNLIMITED, 1), (20, 1), (20, 2))
    source = h5py.h5s.create_simple((20, 2))
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    dcpl.set_virtual(space, b"part%b.h5", b"lfp", source)
    with h5py.File(folder / "rec.h5", "w", libver="latest") as f:
        made = h5py.h5s.create_simple((60, 2), (h5py.h5s.UNLIMITED, 2))
        h5py.h5d.create(f.id, b"lfp", h5py.h5t.NATIVE_DOUBLE, made, dcpl)
    return ["rec.h5", "part0.h5", "part1.h5", "part2.h5"]


def within(folder: Path) -> list[str]:
    with h5py.File(folder / "rec.h5", "w") as f:
        f["one"], f["two"] = ONES, ONES
    layout = h5py.VirtualLayout((40, 2), "f8")
    layout[:20] = h5py.VirtualSource(".", "one", (20, 2))
    layout[20:] = h5py.VirtualSource(".", "two", (20, 2))
    with h5py.File(folder / "rec.h5", "a") as f:
        f.create_virtual_dataset("lfp", layout)
    return ["rec.h5"]


KINDS = [nested, links, raw, pattern, within]


@pytest.mark.parametrize("make", KINDS)
def test_all_files_are_found(tmp_path, make):
    assert make(tmp_path) == names(tmp_path)


@pytest.mark.parametrize("make", [nested, links, raw, pattern])
def test_each_of_them_counts(tmp_path, make):
    """Missing, each is named; changed, each makes another recording."""
    files = make(tmp_path)
    source = f"{tmp_path}/rec.h5::lfp"
    plan = hpcio.Plan.create(np.negative, source, trials=10, out=tmp_path / "out.h5")
    for name in files[1:]:
        path, away = tmp_path / name, tmp_path / "away"
        path.rename(away)
        if make is not pattern:  # which HDF5 takes for a shorter dataset then
            with pytest.raises(SourceError, match=name):
                hpcio.Plan.create(np.negative, source, trials=10, out=tmp_path / "out.h5")
        with pytest.raises(SourceError, match=name):
            plan.run(workers=0, progress=False)
        away.rename(path)
        before = path.stat().st_mtime_ns
        os.utime(path, ns=(before, before + 10**9))
        with pytest.raises(SourceError, match=f"{name}', in which .* has changed since"):
            plan.run(workers=0, progress=False)
        os.utime(path, ns=(before, before))
    plan.run(workers=0, progress=False)


def test_what_is_within_a_file_must_be_there(tmp_path):
    within(tmp_path)
    with h5py.File(tmp_path / "rec.h5", "a") as f:
        del f["two"]
    with pytest.raises(SourceError, match=r"its source 'two' of '\.' is not there"):
        names(tmp_path)


def test_a_part_must_hold_what_is_taken_of_it(tmp_path):
    nested(tmp_path)
    part(tmp_path / "c.h5", ONES[:19])
    with pytest.raises(SourceError, match=r"c.h5' has the shape \(19, 2\), and 40 values are"):
        names(tmp_path)
    with h5py.File(tmp_path / "c.h5", "w") as f:
        f["renamed"] = ONES
    with pytest.raises(SourceError, match=r"its source 'lfp' of 'c.h5' is not there"):
        names(tmp_path)


@pytest.mark.parametrize("left", [0, 159])
def test_a_raw_file_must_be_long_enough(tmp_path, left):
    raw(tmp_path)
    os.truncate(tmp_path / "two.raw", left)
    with pytest.raises(SourceError, match=f"two.raw' is too short: it holds {left} of 160 bytes"):
        names(tmp_path)


def test_a_link_must_lead_somewhere(tmp_path):
    links(tmp_path)
    with h5py.File(tmp_path / "a.h5", "a") as f:
        f.move("lfp", "raw")
    with pytest.raises(SourceError, match=r"link to '/lfp' in another .*a.h5' has no dataset"):
        hpcio.Plan.create(np.negative, f"{tmp_path}/rec.h5::lfp", trials=1, out=tmp_path / "o.h5")


def test_prefixes_are_looked_at_as_hdf5_does(tmp_path, monkeypatch):
    """The file that is followed is the one that HDF5 reads."""
    (tmp_path / "other").mkdir()
    part(tmp_path / "a.h5")
    part(tmp_path / "other" / "a.h5", 2 * ONES)
    virtual(tmp_path / "rec.h5", "a.h5")
    monkeypatch.setenv("HDF5_VDS_PREFIX", str(tmp_path / "other"))
    found = where_hdf5_finds(str(tmp_path / "rec.h5"), "a.h5", "HDF5_VDS_PREFIX")
    assert found == ("HDF5_VDS_PREFIX", str(tmp_path / "other" / "a.h5"))
    assert names(tmp_path) == ["rec.h5", "other/a.h5"]


FOLLOWED = """
import os, sys
import h5py, numpy as np
from hpcio.errors import HpcioError
from hpcio.files import follow

values = {"pre": 2.0, "rec": 1.0}
for name in ("virtual", "link", "raw"):
    with h5py.File(sys.argv[1]) as f:
        try:
            found = values[os.path.basename(os.path.dirname(follow(f, name).files[-1]))]
        except HpcioError:
            found = None
    with h5py.File(sys.argv[1]) as f:
        try:
            read = f[name][0]
        except OSError:
            read = None
    assert found == read, (name, found, read)
"""


@pytest.mark.parametrize(
    "prefix",
    ["${ORIGIN}/../pre", "/no:${ORIGIN}/../pre", "${ORIGIN}/../pre:/no", "/no:{}/pre", "{}/pre:/no",
     "{}/pre", ":{}/pre", ""],
)  # fmt: skip
def test_any_prefix_is_understood_as_by_hdf5(tmp_path, prefix):
    for folder, value in (("pre", 2.0), ("rec", 1.0)):
        (tmp_path / folder).mkdir()
        np.full(4, value).tofile(tmp_path / folder / "part.raw")
        with h5py.File(tmp_path / folder / "part.h5", "w") as f:
            f["x"] = np.full(4, value)
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource("part.h5", "x", (4,))
    with h5py.File(tmp_path / "rec/rec.h5", "w") as f:
        f.create_virtual_dataset("virtual", layout)
        f["link"] = h5py.ExternalLink("part.h5", "x")
        f.create_dataset("raw", (4,), "f8", external=[("part.raw", 0, 32)])
    value = prefix.replace("{}", str(tmp_path))
    variables = ("HDF5_VDS_PREFIX", "HDF5_EXT_PREFIX", "HDF5_EXTFILE_PREFIX")
    env = {**os.environ, **(dict.fromkeys(variables, value) if value else {})}
    run(FOLLOWED, tmp_path / "rec", str(tmp_path / "rec/rec.h5"), env=env)


def test_it_is_followed_again_when_something_has_changed(tmp_path):
    nested(tmp_path)
    with h5py.File(tmp_path / "rec.h5") as f:
        check_whole(f, "lfp")
        check_whole(f, "lfp")
        (tmp_path / "c.h5").unlink()
        with pytest.raises(SourceError, match=r"c\.h5"):
            check_whole(f, "lfp")


@pytest.mark.parametrize("size", [0, 100, 400_000, 5_000_000])
def test_a_sample_tells_files_of_one_size_and_time_apart(tmp_path, size):
    random = np.random.default_rng(size)
    samples = []
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(random.bytes(size))
        os.utime(tmp_path / name, (1e9, 1e9))
        samples.append(sample_of([FileState.of(str(tmp_path / name))]))
    shutil.copy(tmp_path / "one", tmp_path / "again")
    samples.append(sample_of([FileState.of(str(tmp_path / "again"))]))
    assert (samples[0] == samples[1]) == (size == 0)
    assert samples[0] == samples[2]


def found_by_the_folder(folder: Path) -> str:
    """A recording whose parts HDF5 finds in the folder at hand, and others of their names."""
    for place, value in (("here", 1.0), ("there", 7.0)):
        (folder / place).mkdir()
        for name in ("a.h5", "b.h5"):
            part(folder / place / name, np.full((20, 2), value))
    (folder / "rec").mkdir()
    virtual(folder / "rec/rec.h5", "a.h5", "b.h5")
    return f"{folder}/rec/rec.h5::lfp"


def test_parts_that_are_looked_for_elsewhere_are_not_read(tmp_path, monkeypatch):
    source = found_by_the_folder(tmp_path)
    monkeypatch.chdir(tmp_path / "here")

    def moves(trial):
        os.chdir(tmp_path / "there")
        return trial

    plan = hpcio.Plan.create(
        np.negative, source, trials=10, out=tmp_path / "out.h5", sources="task"
    )
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(SourceError, match="by the folder at hand"):
        plan.run(workers=0, progress=False)
    monkeypatch.chdir(tmp_path / "here")
    other = hpcio.Plan.create(
        moves, source, trials=10, out=tmp_path / "moved.h5", out_shape=(10, 2), out_dtype="f8"
    )
    with pytest.raises(hpcio.errors.HpcioError, match="by the folder at hand"):
        other.run(workers=1, progress=False)
    plan.run(workers=1, progress=False)
    with hpcio.open(plan.out) as f:
        assert (f["data"][...] == -1).all()


def test_parts_that_a_variable_leads_to_are_read_while_it_leads_there(tmp_path, monkeypatch):
    source = found_by_the_folder(tmp_path)
    monkeypatch.setenv("HDF5_VDS_PREFIX", str(tmp_path / "here"))
    recording = hpcio.Plan.create(np.copy, source, trials=10, out=tmp_path / "o.h5").source
    recording.check_unchanged()
    monkeypatch.setenv("HDF5_VDS_PREFIX", str(tmp_path / "there"))
    with pytest.raises(SourceError, match="by the variable HDF5_VDS_PREFIX"):
        recording.check_unchanged()


LEAKS = """
import resource
import hpcio
import numpy as np
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
plan = hpcio.Plan.create(
    "leaking.py:leaks", "rec.h5::lfp", trials=20, out="out.h5", join="stack", writer="direct",
    out_shape=(2,), out_dtype="f8",
)
plan.run(workers=1, progress=False)
with hpcio.open("out.h5") as f:
    print(*np.unique(f["data"][...]))
"""
LEAKING = """
kept = []

def leaks(trial):
    if not kept:
        try:
            while True:
                kept.append(open("/dev/null"))
        except OSError:
            pass
        for _ in range(6):
            kept.pop().close()
    return trial.sum(axis=0)
"""


def test_a_function_that_leaves_hardly_a_file_to_open_gets_right_values(tmp_path):
    for k in range(12):
        part(tmp_path / f"{k}.h5")
    virtual(tmp_path / "rec.h5", *(f"{k}.h5" for k in range(12)))
    (tmp_path / "leaking.py").write_text(LEAKING)
    assert run(LEAKS, tmp_path) == "20.0\n"
