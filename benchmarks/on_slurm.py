"""A real SLURM of this machine, and work that needs no cores there: trials that sleep."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import h5py
import numpy as np

import hpcio
import slurm
from tests.rigs.slurm import Slurm, missing, until
from tests.rigs.waiting import PATIENCE

# It has more CPUs than the machine has cores.
NODES, SLOTS = 2, 8
ROWS, CHANNELS = 50, 4
# Bytes of a trial, and of its result.
NBYTES = 8 * ROWS * CHANNELS
# How long, in seconds, jobs may take.
LONG = 12 * PATIENCE
_FUNCTION = """
import time


def slept(trial, seconds, chunkShape=None, noCompute=None):
    if noCompute:
        return trial.shape, "f8"
    time.sleep(float(seconds))
    return trial
"""


@contextmanager
def started(inside: Path, *, extra: str = "") -> Iterator[tuple[Slurm, Path]]:
    """A SLURM that is the one at hand meanwhile, and a new folder for plans.

    Parameters
    ----------
    inside : pathlib.Path
        There is the folder.
    extra : str
        Further lines of slurm.conf.
    """
    if missing():
        raise click.ClickException(missing())
    before = dict(os.environ)
    with (
        # Not in the folder of the results, whose path may be long: there are sockets in it.
        TemporaryDirectory(prefix="hpcio-slurm-") as daemons,
        TemporaryDirectory(prefix="hpcio-bench-", dir=inside) as made,
    ):
        folder = Path(made)
        folder.chmod(0o755)
        rig = Slurm(Path(daemons), nodes=NODES, cpus=SLOTS, memory=16_000, extra=extra)
        os.environ["HPCIO_CONFIG"] = str(folder / "no.toml")
        try:
            rig.up()
            os.environ.update(rig.environment)
            yield rig, folder
        finally:
            rig.down()
            os.environ.clear()
            os.environ.update(before)


def planned(folder: Path, trials: int, seconds: Any, **options: Any) -> hpcio.Plan:
    """A plan of trials that sleep, in a new folder; `seconds` is an argument of the function."""
    folder.mkdir()
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((trials * ROWS, CHANNELS))
    (folder / "napping.py").write_text(_FUNCTION)
    return hpcio.Plan.create(
        f"{folder}/napping.py:slept", f"{folder}/rec.h5::/lfp", trials=ROWS, args=(seconds,),
        out=folder / "out.h5", **options,
    )  # fmt: skip


def verified(out: str) -> float:
    """Wait for the result of a submission; when it was verified, in seconds since 1970."""
    outcome = Path(f"{out}.run", "outcome.json")
    until(outcome.exists, "the result", seconds=LONG)
    slurm.attach(out).wait(timeout=PATIENCE)
    said = json.loads(outcome.read_text())
    assert said["status"] == "complete", said["message"]
    return float(said["time"])
