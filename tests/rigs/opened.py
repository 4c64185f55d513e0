"""The parts of a result."""

from __future__ import annotations

import os
from pathlib import Path

import h5py


def sources_of(out: Path) -> list[Path]:
    with h5py.File(out) as f:
        return [out.parent / os.fsdecode(name) for name in f["hpcio/sources"]["path"]]
