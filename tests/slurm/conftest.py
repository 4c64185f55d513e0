"""A bench that is submitted, and a plan for scripts."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from tests.rigs.cluster_bench import ClusterBench


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClusterBench:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "no.toml"))
    return ClusterBench(tmp_path)


@pytest.fixture
def plan(tmp_path: Path) -> hpcio.Plan:
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((40, 2))
    return hpcio.Plan.create(
        np.negative, f"{tmp_path}/rec.h5::/lfp", trials=4, out=tmp_path / "it's $(here).h5"
    )
