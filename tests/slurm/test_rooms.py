"""The rooms of the package: what their faces offer, and what an array task need not import."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

FACES = ["slurm", "slurm.site", "slurm.live", "slurm.simulation", "slurm.submissions"]


@pytest.mark.parametrize("name", FACES)
def test_a_face_has_what_it_offers(name):
    face = importlib.import_module(name)
    assert all(getattr(face, offered) is not None for offered in face.__all__)
    with pytest.raises(AttributeError, match=f"'{name}' has no attribute 'nothing'"):
        face.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("slurm.tasks.waiting", {"dask", "distributed", "click", "rich"}),
        ("slurm.tasks.finishing", {"dask", "distributed", "click", "simpy", "hpcio.bench"}),
        ("slurm.tasks.on_ranks", {"dask", "distributed", "click"}),
        ("slurm.live.worker", {"dask_jobqueue"}),
    ],
)
def test_jobs_and_workers_import_nothing_that_they_do_not_need(module, heavy):
    script = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True
    )
    assert not heavy & set(done.stdout.split())
