"""The oldest numpy, h5py and distributed that hpcio promises to work beside."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.oldstack

REPOSITORY = Path(__file__).resolve().parents[2]

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

# Additions by two dask workers, while a third has died with the lock; a run by the writer mutex.
MUTEX = """
import os, signal, time
import dask, h5py, numpy as np
import hpcio
from distributed import Client, LocalCluster
from hpcio.files.locks import locked
from slurm import run

def hold(path):
    with locked(path):
        with open("pid.part", "w") as f:
            f.write(str(os.getpid()))
        os.rename("pid.part", "pid")
        while not os.path.exists("end"):
            time.sleep(0.01)

def add(dict_of_block):
    hpcio.unwrap_io(lambda trial: trial)(dict_of_block)

every = (slice(0, 20), slice(0, 4))
path = os.path.abspath("sum.h5")
one = dict(
    keeptrials=False, infile=os.path.abspath("ones.h5"), indset="ones", ingrid=every,
    inshape=(20, 4), vdsdir=None, outfile=path, outdset="sum", outgrid=every, outshape=(20, 4),
    dtype="f8",
)
with h5py.File("ones.h5", "w") as file:
    file["ones"] = np.ones((20, 4))
with h5py.File(path, "w") as file:
    file.create_dataset("sum", (20, 4), "f8")
leases = "distributed.scheduler.locks."
soon = {leases + "lease-timeout": "1s", leases + "lease-validation-interval": "200ms"}
with dask.config.set(soon), LocalCluster(
    host="127.0.0.1", n_workers=3, threads_per_worker=1, dashboard_address="127.0.0.1:0"
) as cluster, Client(cluster) as client:
    client.submit(hold, path)
    while not os.path.exists("pid"):
        time.sleep(0.01)
    with open("pid") as file:
        pid = int(file.read())
    others = [address for address, p in client.run(os.getpid).items() if p != pid]
    added = [client.submit(add, one, workers=others, pure=False) for _ in range(20)]
    os.kill(pid, signal.SIGKILL)
    open("end", "w").close()
    client.gather(added)
    with h5py.File(path) as file:
        assert (file["sum"][...] == 20).all(), file["sum"][...]
    plan = hpcio.Plan.create(np.negative, "ones.h5::/ones", trials=2, out="out.h5", writer="mutex")
    assert run(plan, client, progress=False).blocks == 10
with hpcio.open("out.h5") as file:
    assert (file["data"][...] == -1).all()
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


def test_the_mutex_of_dask_workers(tmp_path):
    run_beside_old_stack(MUTEX, tmp_path)
