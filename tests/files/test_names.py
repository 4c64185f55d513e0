"""The final name of a finished file is not taken from another file."""

from __future__ import annotations

import os

import pytest

import hpcio
from hpcio.errors import OutputError
from hpcio.files import give_name, images, names, rename_new
from tests.rigs.bench import WRITERS, Bench


@pytest.fixture(params=["in one step", "by a look", "an old C library"])
def renaming(request, monkeypatch):
    """Each way to rename, whatever the file system of this machine can do."""
    if request.param == "by a look":
        monkeypatch.setattr(names, "_NOREPLACE", 1 << 30)  # which every file system refuses
    elif request.param == "an old C library":
        monkeypatch.setattr(names, "_renameat2", None)


def as_it_was(path):
    """What is known of a file, but for when it was last read, which looking at it may change."""
    found = os.lstat(path)
    return found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@pytest.mark.usefixtures("renaming")
@pytest.mark.parametrize("there", ["a file", "a folder", "a link to nowhere"])
def test_a_name_that_is_taken_stays(tmp_path, there):
    part, final = tmp_path / "part", tmp_path / "final"
    part.write_text("new")
    if there == "a file":
        final.write_text("old")
    elif there == "a folder":
        final.mkdir()
    else:
        final.symlink_to("nowhere")
    before = as_it_was(final)
    with pytest.raises(FileExistsError, match="final"):
        rename_new(part, final)
    with pytest.raises(OutputError, match=r"final' has appeared.*Move it away"):
        give_name(part, final, replaces="0" * 16)
    assert (as_it_was(final), part.read_text()) == (before, "new")


@pytest.mark.usefixtures("renaming")
def test_a_free_name_is_given(tmp_path):
    part, final = tmp_path / "part", tmp_path / "final"
    part.write_text("new")
    rename_new(part, final)
    assert (final.read_text(), part.exists()) == ("new", False)
    with pytest.raises(FileNotFoundError, match="part"):
        rename_new(part, tmp_path / "other")


@pytest.mark.parametrize(
    ("way", "fresh"),
    [("a file a trial", True), ("packed", False), ("direct", False), ("mutex", True)],
)
def test_a_file_that_appears_as_a_result_gets_its_name_stays(tmp_path, monkeypatch, way, fresh):
    bench = Bench(tmp_path, trials=2, **WRITERS[way])
    if fresh:
        bench.plan().run(workers=0, progress=False)
    # What comes just before the name.
    where, name = (os, "chmod") if way in ("direct", "mutex") else (images, "write_image")
    real = getattr(where, name)

    def appears(*args, **options):
        bench.out.unlink(missing_ok=True)
        bench.out.write_text("mine")
        return real(*args, **options)

    plan = bench.plan()
    with monkeypatch.context() as patched:
        patched.setattr(where, name, appears)
        with pytest.raises(OutputError, match=r"out\.h5' has appeared.*Move it away"):
            plan.run(workers=0, progress=False, fresh=fresh)
    assert bench.out.read_text() == "mine"
    bench.out.unlink()
    bench.forget_calls()
    hpcio.Plan.load(bench.out).run(workers=0, progress=False)
    assert bench.calls == []
    bench.check()


def test_a_file_that_appears_as_a_result_is_repacked_stays(tmp_path, monkeypatch):
    bench, new = Bench(tmp_path, trials=2), tmp_path / "one.h5"
    bench.plan().run(workers=0, progress=False)
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (new.write_text("mine"), real(fd))[1])
    with pytest.raises(OutputError, match=r"one\.h5' has appeared.*Move it away"):
        hpcio.repack(bench.out, new)
    assert new.read_text() == "mine"
    assert [*tmp_path.glob(".*")] == []
    bench.check()
