"""A disk that fails while values are read that lie in several files: right values, or an error.

HDF5 shows fill values where it cannot open a file behind a virtual dataset, be it for a moment.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np

import hpcio
from hpcio.errors import ResultError
from tests.rigs.failing import ERRORS, Tried
from tests.rigs.forks import forked
from tests.rigs.support import told

KINDS = ("open", "read")
PARTS, ROWS, CHANNELS = 4, 10, 4
LFP = np.random.default_rng(3).normal(size=(PARTS * ROWS, CHANNELS))


def make_parts(folder: Path) -> str:
    """A recording of some files: two are found by another virtual dataset, one by a link."""
    folder.mkdir()
    halves = h5py.VirtualLayout((2 * ROWS, CHANNELS), "f8")
    whole = h5py.VirtualLayout(LFP.shape, "f8")
    for k in range(PARTS):
        with h5py.File(folder / f"part{k}.h5", "w") as f:
            f["lfp"] = LFP[k * ROWS : (k + 1) * ROWS]
        layout = halves if k < 2 else whole
        name = f"part{k}.h5" if k < PARTS - 1 else "link.h5"
        layout[k * ROWS : (k + 1) * ROWS] = h5py.VirtualSource(name, "lfp", (ROWS, CHANNELS))
    with h5py.File(folder / "link.h5", "w") as f:
        f["lfp"] = h5py.ExternalLink(f"part{PARTS - 1}.h5", "lfp")
    with h5py.File(folder / "halves.h5", "w") as f:
        f.create_virtual_dataset("lfp", halves)
    whole[: 2 * ROWS] = h5py.VirtualSource("halves.h5", "lfp", (2 * ROWS, CHANNELS))
    with h5py.File(folder / "rec.h5", "w") as f:
        f.create_virtual_dataset("lfp", whole)
    return f"{folder}/rec.h5::lfp"


def run(source: str, out: Path) -> str:
    """Compute each part, and look at what came of it."""
    plan = hpcio.Plan.create(
        np.negative, source, trials=ROWS, out=out, out_shape=lambda shape: shape, out_dtype="f8"
    )
    plan.run(workers=0, progress=False)
    with hpcio.open(out) as f:
        return "fine" if (f["data"][...] == -LFP).all() else "other values"


def look(out: Path) -> str:
    """Open a result and read it trial by trial, the last one first, then as a whole, and pages."""
    with hpcio.open(out) as f:
        data = f["data"]
        try:
            return _read_all(data)
        except OSError as error:  # h5py itself says what it cannot read
            raise ResultError(str(error)) from error


def _read_all(data: h5py.Dataset) -> str:
    for k in reversed(range(PARTS)):
        rows = slice(k * ROWS, (k + 1) * ROWS)
        if not (data[rows] == -LFP[rows]).all():
            return f"other values in trial {k}"
    pages = hpcio.results.guarding.PagedDataset(data._sources)
    return "fine" if (pages[...] == -LFP).all() and (data[...] == -LFP).all() else "other values"


def tried(shim: Path, folder: Path, each: int) -> list[Tried]:
    """Fail each so many-th open and read, for a moment and for good."""
    asked = (str(shim), str(folder), each)
    found = told("tests.rigs.failing_reads", *asked, env={"LD_PRELOAD": str(shim)})
    return [Tried(*one) for one in found]


def _main(shim: str, folder: str, each: int) -> None:
    os.environ.pop("LD_PRELOAD")
    libc = ctypes.CDLL(shim)
    libc.counted.restype = ctypes.c_long
    source, done = make_parts(Path(folder, "parts")), Path(folder, "done", "out.h5")
    done.parent.mkdir()
    assert run(source, done) == "fine"

    def anew() -> str:
        new = Path(folder, "new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        return run(source, new / "out.h5")

    stories: dict[str, tuple[Path, Callable[[], str]]] = {
        "recording": (Path(folder, "parts"), anew),
        "result": (done.parent, lambda: look(done)),
    }
    turn = 0
    for story, (below, do) in stories.items():
        for kind in KINDS:

            def fail(moment: int, number: int, below=below, kind=kind, do=do) -> str:
                # HDF5 looks for a file under several names, one after the other.
                libc.arm(
                    str(below).encode(), kind.encode(), ctypes.c_long(moment), number,
                    ctypes.c_long(1 + moment % 6),
                )  # fmt: skip
                try:
                    said = do()
                    return str(libc.counted()) if not moment and said == "fine" else said
                finally:
                    libc.arm(b"", b"", ctypes.c_long(0), 0, ctypes.c_long(0))

            assert fail(0, 0).isdigit()  # what is imported late is imported once
            for moment in range(1, int(forked(partial(fail, 0, 0))) + 1):
                turn += 1
                if turn % each:
                    continue
                name = ERRORS[turn // each % len(ERRORS)]
                said = forked(partial(fail, moment, getattr(errno, name)))
                print(json.dumps(Tried(f"{story}: {kind}", moment, name, said, "fine")), flush=True)


if __name__ == "__main__":
    _main(*json.loads(sys.argv[1]))
