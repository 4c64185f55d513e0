"""A result whose parts are missing, short or another's is refused; one that was moved is found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import HpcioError, ResultError, SourceError
from hpcio.results import what_is_gone
from hpcio.status import status
from tests.rigs.bench import ROWS, Bench, record
from tests.rigs.opened import sources_of
from tests.rigs.support import run, without_privileges


@pytest.fixture(params=["trial", "task"])
def done(tmp_path, request) -> Bench:
    """A finished run."""
    bench = Bench(tmp_path, sources=request.param)
    bench.plan().run(workers=0, progress=False)
    return bench


def another_file(path: Path, **change: object) -> None:
    """A virtual source of the same size and name, with something else in it."""
    with h5py.File(path) as f:
        shape, dtype, plan = f["data"].shape, f["data"].dtype, f["data"].attrs["plan"]
    size = path.stat().st_size
    path.unlink()
    data = np.ones(change.get("shape", shape), change.get("dtype", dtype))
    with h5py.File(path, "w") as f:
        f.create_dataset(change.get("name", "data"), data=data).attrs["plan"] = change.get(
            "plan", plan
        )
    os.truncate(path, size)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "cannot be read"),
    "a broken link": (lambda p: (p.unlink(), p.symlink_to("nowhere")), "cannot be read"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "bytes instead of"),
    "empty": (lambda p: os.truncate(p, 0), "has 0 bytes instead of"),
    "only a header": (lambda p: os.truncate(p, 2048), "bytes instead of"),
    "one byte short": (lambda p: os.truncate(p, p.stat().st_size - 1), "bytes instead of"),
    "one byte longer": (lambda p: os.truncate(p, p.stat().st_size + 1), "bytes instead of"),
    "garbage": (lambda p: p.write_bytes(bytes(range(251)) * 99), "bytes instead of"),
    "garbage as long": (lambda p: p.write_bytes(b"\7" * p.stat().st_size), "is not the file"),
    "a text": (lambda p: p.write_text("moved to tape"), "bytes instead of"),
    "of another plan": (lambda p: another_file(p, plan=np.bytes_("0" * 32)), "is not the file"),
    "of another type": (lambda p: another_file(p, dtype="i8"), "is not the file"),
    "of another byte order": (lambda p: another_file(p, dtype=">f8"), "is not the file"),
    "of another precision": (lambda p: another_file(p, dtype="f4"), "is not the file"),
    "of another shape": (lambda p: another_file(p, shape=(5,)), "is not the file"),
    "of another name": (lambda p: another_file(p, name="other"), "is not the file"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_a_source_that_is_not_what_was_written_is_named(done, damage, says):
    victim = sources_of(done.out)[-1]
    damage(victim)
    with pytest.raises(ResultError, match=says) as info:
        hpcio.open(done.out)
    assert str(victim) in str(info.value)
    assert isinstance(info.value, OSError)
    assert str(info.value).endswith(f"hpcio resume {done.out}")


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage as long", "of another shape"])
def test_removing_the_result_and_resuming_mends_it(done, damage):
    DAMAGES[damage][0](sources_of(done.out)[-1])
    plan = hpcio.Plan.load(done.out)
    done.out.unlink()
    plan.run(workers=0, progress=False)
    done.check()


def test_plain_hdf5_would_have_read_zeros(done):
    """Why all this: if HDF5 one day refuses by itself, this says so."""
    sources_of(done.out)[-1].unlink()
    with h5py.File(done.out) as f:
        data = f["data"][-ROWS:]
    assert not np.array_equal(data, done.expected[-ROWS:])


def test_a_source_that_may_not_be_read_is_named(done):
    victim = sources_of(done.out)[-1]
    victim.chmod(0)
    script = f"""
import hpcio
try:
    hpcio.open({str(done.out)!r})
except hpcio.errors.ResultError as error:
    print(error)
"""
    said = run(script, done.folder, preexec_fn=without_privileges)
    assert f"'{victim}' cannot be read (Permission denied)" in said


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda p: None, SourceError, "no file"),
        (lambda p: p.mkdir(), SourceError, "is a directory"),
        (lambda p: p.write_text("text"), SourceError, "not an HDF5 file"),
        (lambda p: p.touch(), SourceError, "not an HDF5 file"),
        (record, ResultError, "is no result of hpcio"),
    ],
)
def test_a_file_of_somebody_else_is_refused(tmp_path, make, error, says):
    path = tmp_path / "other.h5"
    make(path)
    with pytest.raises(error, match=says) as info:
        hpcio.open(path)
    assert str(path) in str(info.value)
    assert isinstance(info.value, HpcioError)


def test_a_result_that_was_cut_short_is_refused(done):
    os.truncate(done.out, done.out.stat().st_size // 2)
    with pytest.raises(SourceError, match=r"out\.h5"):
        hpcio.open(done.out)


@pytest.mark.parametrize("name", ["elsewhere", "100 % sure %b", "größe", "a'b\"c", "new\nline"])
def test_a_result_moves_with_its_folder(done, tmp_path_factory, name):
    new = tmp_path_factory.mktemp("new") / name
    shutil.move(done.folder, new)
    done.check(new / "out.h5")
    with h5py.File(new / "out.h5") as f:
        np.testing.assert_array_equal(f["data"][...], done.expected)
    new.rename(done.folder)  # whose end somebody waits for


@pytest.mark.parametrize("name", ["50% a%b.h5", "größe.h5", "no suffix", "a'b.h5"])
@pytest.mark.parametrize("sources", ["trial", "task"])
def test_any_name_will_do(tmp_path, sources, name):
    bench = Bench(tmp_path, sources=sources)
    bench.plan(out=tmp_path / name).run(workers=0, progress=False)
    bench.check(tmp_path / name)
    with h5py.File(tmp_path / name) as f:
        np.testing.assert_array_equal(f["data"][...], bench.expected)


def test_a_result_renamed_without_its_folder_still_finds_it(done):
    done.out.rename(done.folder / "renamed.h5")
    done.check(done.folder / "renamed.h5")


def test_a_result_moved_without_its_folder_says_so(done, tmp_path_factory):
    alone = tmp_path_factory.mktemp("alone") / "out.h5"
    shutil.copy(done.out, alone)
    says = r"only the index of the result; its values lie in 'out\.h5\.run'.* Copy that folder"
    with pytest.raises(ResultError, match=says):
        hpcio.open(alone)
    assert re.search(says, what_is_gone(alone))


def test_a_result_renamed_with_its_folder_says_so_and_what_it_says_mends_it(done):
    new = done.folder / "new name.h5"
    done.out.rename(new)
    Path(f"{done.out}.run").rename(f"{new}.run")
    with pytest.raises(ResultError, match="were renamed") as info:
        hpcio.open(new)
    assert str(info.value).endswith(status(str(new)).gone)
    subprocess.run(str(info.value).rpartition("Rename both back: ")[2], shell=True, check=True)
    done.check()


def test_all_parts_that_are_gone_are_named_up_to_ten(done):
    gone = sources_of(done.out)
    for part in gone:
        part.unlink()
    with pytest.raises(ResultError) as info:
        hpcio.open(done.out)
    said = str(info.value)
    assert all(f"'{part}' cannot be read" in said for part in gone[:10])
    if len(gone) > 10:
        assert f"{len(gone)} of the {len(gone)} parts" in said
        assert f"... and {len(gone) - 10} more" in said


def test_a_link_leads_to_the_result(done, tmp_path_factory):
    link = tmp_path_factory.mktemp("links") / "link.h5"
    link.symlink_to(done.out)
    done.check(link)


def test_a_relative_name_is_relative_to_the_folder_at_hand(done, monkeypatch):
    monkeypatch.chdir(done.folder)
    done.check(Path("out.h5"))


def test_the_data_are_guarded_by_whatever_name_they_are_asked_for(done):
    with hpcio.open(done.out) as f:
        data = f["data"]
        for root in (f["/"], f["."], f.get("/")):
            assert root["data"] is data
            assert root["/data"] is data
            assert root.get("data") is data
            assert dict(root.items())["data"] is data
            assert sorted(root) == sorted(f)
            assert root["trials"].shape == f["trials"].shape
            assert root.attrs["function"] == f.attrs["function"]
        assert f[b"data"] is data
    with hpcio.open(done.out) as f:
        root = f["/"]
        os.unlink(sources_of(done.out)[-1])
        with pytest.raises(ResultError, match="cannot be read"):  # HDF5 gives fill values
            root["data"][...]


def test_a_pipe_in_the_place_of_a_source_holds_nobody_up(done):
    source = sources_of(done.out)[0]
    source.unlink()
    os.mkfifo(source)
    with pytest.raises(ResultError, match="instead of"):
        hpcio.open(done.out)


@pytest.mark.parametrize("name", ["hpcio/source_of_block", "hpcio/target/start"])
def test_a_table_that_says_to_be_larger_than_its_file_is_not_read(done, name):
    with h5py.File(done.out, "r+") as f:
        del f[name]
        f.create_dataset(name, (1 << 40,), "i8", chunks=(1 << 20,))
    with pytest.raises(ResultError, match="is said to have"):
        hpcio.open(done.out)


def test_one_file_whose_data_are_another_dataset_is_refused(tmp_path):
    bench = Bench(tmp_path, writer="direct")
    bench.plan().run(workers=0, progress=False)
    with h5py.File(bench.out, "r+") as f:
        del f["data"]
        f["data"] = bench.expected.astype("f4")
    with pytest.raises(ResultError, match=r"'data' of .* is float32 .* the run wrote float64"):
        hpcio.open(bench.out)


def test_a_result_that_names_a_type_which_numpy_cannot_parse(done):
    with h5py.File(done.out, "r+") as f:
        spec = f["hpcio/target/spec"]
        said = spec[()].tobytes().replace(b'"<f8"', b'",,1"')
        assert b",,1" in said
        del f["hpcio/target/spec"]
        f["hpcio/target/spec"] = np.frombuffer(said, np.uint8)
    with pytest.raises(ResultError, match=r"out\.h5"):
        hpcio.open(done.out)
