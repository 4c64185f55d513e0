"""The benchmarks keep up with the code: all of them are imported, one row is run."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import benchmarks
from tests.rigs.support import REPOSITORY


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(benchmarks.__path__)])
def test_every_module_can_be_imported(name):
    if name == "ranks":
        pytest.importorskip("mpi4py")
    importlib.import_module(f"benchmarks.{name}")


@pytest.mark.slow
def test_a_row_of_one_file_and_one_of_the_loop_run(tmp_path):
    rows = ["--only", "direct-47kB", "--only", "journal", "--dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *rows], cwd=REPOSITORY, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "direct-47kB" in done.stderr
