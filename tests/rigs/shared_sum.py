"""A sum in a file, to which processes add one in turn; and who holds its lock, or waits for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import hpcio


@hpcio.unwrap_io
def same(trial):
    return trial


def shared_file(folder: Path, name: str = "shared.h5") -> Path:
    """A file with a sum of zero, and beside it ones to be added."""
    with h5py.File(folder / "ones.h5", "w") as f:
        f["ones"] = np.ones((4, 2))
    with h5py.File(folder / name, "w") as f:
        f.create_dataset("sum", (4, 2), "f8")
    return folder / name


def one_more(path: Path | str, **changes: Any) -> dict[str, Any]:
    """For `unwrap_io`: add one everywhere."""
    folder = os.path.dirname(path)
    every = (slice(0, 4), slice(0, 2))
    return {
        "keeptrials": False, "infile": f"{folder}/ones.h5", "indset": "ones", "ingrid": every,
        "inshape": (4, 2), "vdsdir": None, "outfile": str(path), "outdset": "sum",
        "outgrid": every, "outshape": (4, 2), "dtype": np.dtype("f8"), **changes,
    }  # fmt: skip


def total(path: Path) -> float:
    with h5py.File(path) as f:
        (found,) = np.unique(f["sum"][...])
    return float(found)


HOLD = """
import sys
from hpcio.files.locks import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


def holding(path: Path) -> subprocess.Popen[str]:
    """A process that has the lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def awaited(lock: Path) -> bool:
    """Whether a process waits for the lock of a file."""
    inode = f":{lock.stat().st_ino} "
    lines = Path("/proc/locks").read_text().splitlines()
    return any("->" in line and inode in line for line in lines)
