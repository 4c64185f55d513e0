"""Workers that dask gives up: apart, since its patience is one for all clusters of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import dask
import h5py
import numpy as np
import pytest
from distributed import Client, LocalCluster

import hpcio
import slurm

DATA = np.random.default_rng(3).standard_normal((1_000, 4))


@pytest.fixture
def impatient() -> Iterator[None]:
    """A busy machine starts a worker too slowly for dask; here it is given up at once."""
    name = "distributed.deploy.lost-worker-timeout"
    before = dask.config.get(name, "15s")
    dask.config.set({name: "0s"})
    yield
    dask.config.set({name: before})


def test_a_cluster_without_workers_is_asked_for_new_ones(tmp_path: Path, impatient: None) -> None:
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = DATA

    def once(trial, path):
        if trial[0, 0] == DATA[50 * 7, 0] and not os.path.exists(path):
            Path(path).touch()
            os._exit(9)
        return -trial

    plan = hpcio.Plan.create(
        once, f"{tmp_path}/rec.h5::lfp", trials=50, out=tmp_path / "out.h5",
        args=[str(tmp_path / "died")], out_shape=(50, 4), out_dtype="f8",
    )  # fmt: skip
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(host="127.0.0.1", **options) as cluster, Client(cluster) as client:
        done = slurm.run(plan, client, progress=False)
    assert (done.blocks, done.failed) == (20, ())
    with hpcio.open(plan.out) as f:
        np.testing.assert_array_equal(f["data"][...], -DATA)
