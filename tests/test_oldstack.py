"""The oldest numpy, h5py and distributed that hpcio promises to work beside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.oldstack

REPOSITORY = Path(__file__).resolve().parents[1]

VERSIONS = """
import cloudpickle, click, distributed, h5py, numpy, rich, xxhash
assert numpy.__version__ == "1.24.4", numpy.__version__
assert h5py.__version__ == "3.11.0", h5py.__version__
assert distributed.__version__ == "2023.5.0", distributed.__version__
import hpcio, slurm
assert hpcio.__file__.startswith({repository!r}), hpcio.__file__
"""

# Two trials, the second with its channels reversed; the function doubles them.
WORKERS = """
import h5py, numpy as np
import hpcio

@hpcio.unwrap_io
def double(trial, factor, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, np.dtype("f4")
    return (factor * trial).astype("f4")

recording = np.arange(80.0).reshape(20, 4)
with h5py.File("rec.h5", "w") as file:
    file["lfp"] = recording

def worker(trial, **target):
    rows = slice(10 * trial, 10 * trial + 10)
    common = dict(
        keeptrials=True, infile="rec.h5", indset="lfp", ingrid=(rows, slice(0, 4)),
        inshape=(10, 4), fancy=trial == 1, sigrid=(list(range(10)), [3, 2, 1, 0]),
        outdset="result", outgrid=(rows, slice(0, 4)), outshape=(10, 4),
        dtype=np.dtype("f4"), call_id=f"__{trial}_0",
    )
    return {**common, **target}

expected = 2 * np.concatenate([recording[:10], recording[10:, ::-1]])

for trial in (0, 1):
    assert double(worker(trial, vdsdir="own", outfile=f"own/{trial}.h5"), 2.0) is None
    with h5py.File(f"own/{trial}.h5") as file:
        assert file["result"].dtype == np.float32
        np.testing.assert_array_equal(file["result"], expected[10 * trial : 10 * trial + 10])

with h5py.File("shared.h5", "w") as file:
    file.create_dataset("result", (20, 4), "f4")
for trial in (0, 1):
    assert double((worker(trial, vdsdir=None, outfile="shared.h5"), 2.0)) is None
with h5py.File("shared.h5") as file:
    np.testing.assert_array_equal(file["result"], expected)

dry = hpcio.FauxTrial((10, 4), (slice(0, 10), slice(0, 4)), "f8")
assert double(dry, 2.0, noCompute=True) == ((10, 4), np.float32)
"""


def run_beside_old_stack(script: str, folder: Path) -> None:
    done = subprocess.run(
        [os.environ["HPCIO_OLDSTACK_PYTHON"], "-W", "error", "-c", script],
        cwd=folder,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_imports_beside_the_promised_versions(tmp_path):
    run_beside_old_stack(VERSIONS.format(repository=str(REPOSITORY)), tmp_path)


def test_workers_store_the_right_numbers_both_ways(tmp_path):
    run_beside_old_stack(WORKERS, tmp_path)
