"""A run directory for made journals."""

from __future__ import annotations

from pathlib import Path

import pytest

import hpcio
from hpcio.journals.rundir import prepare
from tests.rigs.bench import ROWS, Bench


@pytest.fixture
def large(tmp_path: Path) -> hpcio.Plan:
    """A plan of 1,000 blocks whose run directory is there."""
    bench = Bench(tmp_path, trials=1000)
    return prepare(bench.plan(out_shape=(ROWS, 3), out_dtype="f8"))
