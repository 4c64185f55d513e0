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
    """A recording of four files, which it takes in all ways there are.

    Of the first two another virtual dataset takes all, or a half. The others, and the other halves,
    it names; one is named by two mappings; to one half a link leads.
    """
    folder.mkdir()
    inner = h5py.VirtualLayout((2 * ROWS, CHANNELS), "f8")
    outer = h5py.VirtualLayout(LFP.shape, "f8")

    def take(layout: h5py.VirtualLayout, name: str, begin: int, end: int) -> None:
        """Take rows of the part in which they lie."""
        rows = slice(begin % ROWS, begin % ROWS + end - begin)
        layout[begin:end] = h5py.VirtualSource(name, "lfp", (ROWS, CHANNELS))[rows]

    for k in range(PARTS):
        with h5py.File(folder / f"part{k}.h5", "w") as f:
            f["lfp"] = LFP[k * ROWS : (k + 1) * ROWS]
    with h5py.File(folder / "link.h5", "w") as f:
        f["lfp"] = h5py.ExternalLink("part3.h5", "lfp")
    take(inner, "part0.h5", 0, 10)
    take(inner, "part1.h5", 10, 20)
    with h5py.File(folder / "inner.h5", "w") as f:
        f.create_virtual_dataset("lfp", inner)
    outer[:15] = h5py.VirtualSource("inner.h5", "lfp", (2 * ROWS, CHANNELS))[:15]
    take(outer, "part1.h5", 15, 20)
    take(outer, "part2.h5", 20, 25)
    take(outer, "part2.h5", 25, 30)
    take(outer, "link.h5", 30, 35)
    take(outer, "part3.h5", 35, 40)
    with h5py.File(folder / "rec.h5", "w") as f:
        f.create_virtual_dataset("lfp", outer)
    return f"{folder}/rec.h5::lfp"


def run(source: str, out: Path) -> str:
    """Compute each part, and look at what came of it."""
    plan = hpcio.Plan.create(
        np.negative, source, trials=ROWS, out=out, out_shape=lambda shape: shape, out_dtype="f8",
        channels_per_block=CHANNELS // 2,  # so that several mappings lead to one source
    )  # fmt: skip
    plan.run(workers=0, progress=False)
    with hpcio.open(out) as f:
        return "fine" if (f["data"][...] == -LFP).all() else "other values"


def look(out: Path) -> str:
    """Open a result and read it trial by trial, the last one first, then as a whole."""
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
    return "fine" if (data[...] == -LFP).all() else "other values"


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
