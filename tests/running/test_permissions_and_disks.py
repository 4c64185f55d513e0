"""What may not be read or written, and disks that are full: said, and nothing is lost."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hpcio.errors import (
    OutputError,
)
from tests.rigs.bad import check_error, make
from tests.rigs.support import run, without_privileges

CANNOT_WRITE = r"OutputError Cannot write '.*out\.h5.*'"

CHILD = """
import sys
import hpcio
workers = int(sys.argv[1])
try:
    plan = hpcio.Plan.create("bad_functions.py:good", "rec.h5::lfp", trials=10, out=sys.argv[2],
                             sources=sys.argv[3])
    plan.run(workers=workers, progress=False)
except hpcio.errors.HpcioError as error:
    assert isinstance(error, OSError), type(error)
    print(type(error).__name__, error)
else:
    print("fine")
"""


def child(folder: Path, target: str, *, workers: int = 0, sources: str = "task", **how: Any) -> str:
    return run(CHILD, folder, str(workers), target, sources, **how)


def test_no_permission_to_read_the_recording(folder):
    (folder / "rec.h5").chmod(0)
    said = child(folder, "out.h5", preexec_fn=without_privileges)
    assert re.match(r"SourceError No permission to read '.*rec\.h5'\. Ask its owner", said)


def test_no_permission_to_enter_the_folder_of_the_recording(folder):
    (folder / "deep").mkdir()
    (folder / "rec.h5").rename(folder / "deep" / "real.h5")
    (folder / "rec.h5").symlink_to("deep/real.h5")
    (folder / "deep").chmod(0)
    said = child(folder, "out.h5", preexec_fn=without_privileges)
    assert re.match(r"SourceError No permission to read '.*rec\.h5'\. Ask its owner", said)


def test_no_permission_to_write_the_output(folder):
    (folder / "deep").mkdir(mode=0o555)
    said = child(folder, "deep/out.h5", preexec_fn=without_privileges)
    assert re.match(r"OutputError No permission to write into '.*deep'\. Choose another", said)
    assert list((folder / "deep").iterdir()) == []


@pytest.mark.parametrize(
    ("inside", "workers"),
    [(".", 0), ("journal", 0), ("sources", 0), ("journal", 1), ("sources", 1), ("logs", 1)],
)
def test_no_permission_to_write_into_the_run_directory(folder, inside, workers):
    script = CHILD.replace("plan.run(", f"""
    import os
    from hpcio.journals.rundir import prepare
    prepare(plan)
    os.chmod("out.h5.run/{inside}", 0o500)
    plan.run(""")  # fmt: skip
    said = run(script, folder, str(workers), "out.h5", "task", preexec_fn=without_privileges)
    (folder / "out.h5.run" / inside).chmod(0o700)
    assert re.match(CANNOT_WRITE + ".*Permission denied. Choose an output folder", said), said
    assert not (folder / "out.h5").exists()


def mounted(size: str, options: str = "") -> list[str]:
    """A way to start a child that sees a small file system at `small`, and nobody else does."""
    mount = f"mount -t tmpfs -o size={size}{options} small small"
    return ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]


@pytest.mark.root
def test_a_file_system_that_is_read_only(folder):
    (folder / "small").mkdir()
    said = child(folder, "small/out.h5", prefix=mounted("1M", ",ro"))
    assert re.match(r"OutputError .*small'.*(Choose another output folder)", said), said


FULL = """
import os, sys
import numpy as np
import h5py
import hpcio

workers, sources, room = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
plan = hpcio.Plan.create("bad_functions.py:good", "big.h5::lfp", trials=100, out="small/out.h5",
                         sources=sources)
# What others write while the run is at work: planning has seen an empty disk.
from hpcio.running import run
run.check_disk = lambda *_: None
with open("small/others", "wb") as f:
    os.posix_fallocate(f.fileno(), 0, os.statvfs("small").f_bavail * 4096 - room)
try:
    plan.run(workers=workers, progress=False)
except hpcio.errors.HpcioError as error:
    print(type(error).__name__, error)
    assert not os.path.exists("small/out.h5")
    assert not [n for n in os.listdir("small") if n.startswith(".")]
else:
    print("fine")
os.unlink("small/others")
plan.run(workers=workers, progress=False)
assert hpcio.verify("small/out.h5").blocks == 20
with hpcio.open("small/out.h5") as f, h5py.File("big.h5") as g:
    assert np.array_equal(f["data"], g["lfp"])
"""


def fill(folder: Path, room: int, workers: int, sources: str) -> None:
    (folder / "small").mkdir()
    with h5py.File(folder / "big.h5", "w") as f:
        f["lfp"] = np.random.default_rng(0).normal(size=(2000, 32))  # 512,000 bytes
    said = run(FULL, folder, str(workers), sources, str(room * 1024), prefix=mounted("8M"))
    assert re.match(f"{CANNOT_WRITE}.*Free some space, then resume", said), said


@pytest.mark.root
@pytest.mark.parametrize(
    ("room", "workers", "sources"),
    # Every two of them meet; those at any moment, below, are all others.
    [(0, 0, "trial"), (0, 1, "task"), (12, 0, "task"), (12, 1, "trial"),
     (40, 0, "trial"), (40, 1, "task"), (300, 0, "task"), (300, 1, "trial")],
)  # fmt: skip
def test_a_disk_that_is_full(folder, room, workers, sources):
    fill(folder, room, workers, sources)


@pytest.mark.root
@pytest.mark.torture
@pytest.mark.parametrize("room", range(0, 580, 4))
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sources", ["trial", "task"])
def test_a_disk_that_is_full_at_any_moment(folder, room, workers, sources):
    fill(folder, room, workers, sources)


def test_a_disk_that_is_known_to_be_too_small(folder, monkeypatch):
    plan = make({})
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(OutputError) as info:
        plan.run(workers=0, progress=False)
    check_error(info.value, r"need 0 MB, but only 0 MB are free.*out\.h5'.*Free some space")
    assert not (folder / "out.h5").exists()


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
""" + CHILD.replace("rec.h5::lfp", "big.h5::lfp")


@pytest.mark.parametrize("limit", [3000, 20_000, 60_000, 200_000, 500_000])
@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_may_not_grow_as_large_as_they_must(folder, limit, workers):
    with h5py.File(folder / "big.h5", "w") as f:
        f["lfp"] = np.zeros((2000, 32))
    # Python itself writes bytecode that is cut short then, and cannot import it.
    plain = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    said = run(LIMITED, folder, str(workers), "out.h5", "task", str(limit), env=plain)
    if said != "fine\n":
        # The limit meets HDF5's lay-out of the output too, which is a file of its own.
        cannot = CANNOT_WRITE.replace("out", "(out|layout)", 1).replace(r"\.h5", r".*\.h5", 1)
        assert re.match(f"{cannot}.*Free some space", said), said
        assert not (folder / "out.h5").exists()
        assert list(folder.glob(".out*")) == []
    else:
        assert workers == 1  # whose chunks are small
        assert limit >= 60_000
