"""A file system without locks: all works, and nobody need know HDF5_USE_FILE_LOCKING."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import h5py
import pytest

import hpcio
from hpcio.files import opening as sources
from tests.rigs.bench import CHANNELS, ROWS, TRIALS, Bench
from tests.rigs.everyday import combinations
from tests.rigs.support import run

# Says of every lock what such a file system says.
NO_LOCKS = """
#include <errno.h>
int flock(int fd, int operation) { (void)fd; (void)operation; errno = NUMBER; return -1; }
"""


ERRORS = ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"]


@pytest.fixture(scope="module", params=ERRORS)
def no_locks(request, tmp_path_factory) -> dict[str, str]:
    """The environment of a child that sees no locks anywhere."""
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("no_locks")
    (folder / "no_locks.c").write_text(NO_LOCKS.replace("NUMBER", request.param))
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", "no_locks.so", "no_locks.c"], cwd=folder, check=True
    )
    kept = {k: v for k, v in os.environ.items() if k != "HDF5_USE_FILE_LOCKING"}
    return {**kept, "LD_PRELOAD": str(folder / "no_locks.so")}


@pytest.fixture
def bench(tmp_path) -> Bench:
    return Bench(tmp_path)


ALL_STEPS = """
import fcntl, sys
import hpcio
try:
    fcntl.flock(sys.stderr, fcntl.LOCK_SH)
except OSError:
    print("no locks")
plan = hpcio.Plan.create("{module}.py:double", "rec.h5::lfp", trials={rows}, out="out.h5")
print(plan.run(workers={workers}, progress=False).computed)
print(hpcio.verify("out.h5").blocks)
print(hpcio.repack("out.h5", "one.h5").blocks)
with hpcio.open("one.h5") as f, hpcio.open("out.h5") as g:
    assert (f["data"][...] == g["data"][...]).all()
print(hpcio.repack("out.h5").blocks)
"""


@pytest.mark.parametrize(
    ("no_locks", "workers"),
    combinations(
        ERRORS, [0, 1],
        everyday=[("ENOLCK", 0), ("ENOSYS", 1), ("EOPNOTSUPP", 0), ("EINVAL", 1)],
    ),
    indirect=["no_locks"],
)  # fmt: skip
def test_every_step_works_without_locks(bench, no_locks, workers):
    script = ALL_STEPS.format(module=bench.module, rows=ROWS, workers=workers)
    said = run(script, bench.folder, env=no_locks)
    assert said.split("\n")[:-1] == ["no locks", *[str(TRIALS)] * 4]
    bench.check()
    bench.check(bench.folder / "one.h5")


BY_HAND = """
import h5py, numpy as np
import hpcio

@hpcio.unwrap_io
def double(trial, chunkShape=None, noCompute=None):
    return 2.0 * trial

with h5py.File("shared.h5", "w", locking=False) as f:
    f.create_dataset("result", {shape}, "f8")
for trial in range({trials}):
    region = (slice({rows} * trial, {rows} * (trial + 1)), slice(0, {channels}))
    dict_of_block = dict(
        keeptrials=True, infile="rec.h5", indset="lfp", ingrid=region, inshape={inshape},
        vdsdir=None, outfile="shared.h5", outdset="result", outgrid=region, outshape={inshape},
        dtype="f8",
    )
    try:
        double(dict_of_block)
    except hpcio.errors.OutputError as error:
        print(error)
"""


def test_a_mutex_that_would_exclude_nobody_is_refused(bench, no_locks):
    script = BY_HAND.format(
        shape=bench.lfp.shape, trials=TRIALS, rows=ROWS, channels=CHANNELS, inshape=(ROWS, CHANNELS)
    )
    said = run(script, bench.folder, env=no_locks)
    assert said.count("Cannot write 'shared.h5'") == TRIALS
    with h5py.File(bench.folder / "shared.h5") as f:
        assert not f["result"][...].any()


def test_plain_hdf5_would_have_refused(bench, no_locks):
    """Why all this: if HDF5 one day takes it by itself, this says so."""
    script = """
import h5py
try:
    h5py.File("rec.h5", "r", locking=True)
except OSError as error:
    print("lock file" in str(error))
"""
    assert run(script, bench.folder, env=no_locks) == "True\n"


def test_where_there_are_locks_they_are_kept(bench):
    sources._device_locks.cache_clear()
    assert sources.locking(bench.folder / "rec.h5") is None
    assert sources.locking(bench.folder / "not yet.h5") is None
    bench.plan().run(workers=0, progress=False)
    with hpcio.open(bench.out):
        # Whoever would change a result that is open for reading is told so.
        said = run(
            "import h5py\ntry:\n    h5py.File('out.h5', 'r+')\nexcept OSError as e:\n    print(e)",
            Path(bench.folder),
        )
    assert "lock" in said
