"""Submissions that are harmed at random come to an end, with the right bytes, and little twice."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.rigs.harms import EACH, KINDS, WRITERS, Harms

pytestmark = pytest.mark.slurm

MANY = int(os.environ.get("HPCIO_HARMS", "300"))
# To go on from there.
FIRST = int(os.environ.get("HPCIO_HARMS_FIRST", "0"))
# Trials that two seconds compute.
MOST = int(2 / EACH)


@pytest.mark.torture
@pytest.mark.parametrize("where", ["here", "gluster"])
def test_many_harms(where, request, tmp_path, monkeypatch):
    """Half of them on a local disk, half on GlusterFS, whose nodes have clients of their own."""
    monkeypatch.setenv("HPCIO_CONFIG", str(tmp_path / "no.toml"))
    if where == "here":
        (tmp_path / "runs").mkdir()
        slurm, folder = request.getfixturevalue("slurm"), tmp_path / "runs"
    else:
        slurm, folder = request.getfixturevalue("gluster_slurm")
    # On network file systems `mutex` is refused.
    harms = Harms(slurm, folder, tmp_path, WRITERS if where == "here" else WRITERS[:2])
    kinds: Counter[str] = Counter()
    for seed in range(FIRST, max(len(KINDS), MANY // 2)):
        harm = harms.run(seed)
        print(harm)
        kinds[harm.kind] += 1
        # Whoever resumes what SLURM has lost sight of may do more twice than was at hand.
        assert harm.repeated <= MOST, harm
    print(kinds)
