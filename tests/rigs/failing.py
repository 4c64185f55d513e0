"""A disk that fails: the Nth call of a kind, on paths below a folder, ends with a given error.

The calls are those of the C library (`failing.c`), so that those of HDF5 fail, too. One Python has
the shim loaded, and tries each moment in a child that it forks: that costs no start.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hpcio
from tests.rigs.forks import forked, is_ours
from tests.rigs.support import told

KINDS = ("open", "read", "write", "fsync", "rename", "ftruncate", "fallocate", "close")
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "ESTALE")
SOURCE = Path(__file__).with_name("failing.c")


class Tried(NamedTuple):
    """One run on a disk that failed once, and the one that went on.

    Attributes
    ----------
    said : str
        The error of the run: ``fine``, its type and text, or a traceback if it is not ours.
    then : str
        ``fine`` if the bytes are right in the end, else a traceback.
    """

    kind: str
    moment: int
    error: str
    said: str
    then: str


def build(folder: Path) -> Path | None:
    """The shim, compiled into a folder; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    shim = folder / "failing.so"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    subprocess.run([compiler, *flags, "-o", str(shim), str(SOURCE), "-ldl"], check=True)
    return shim


def tried(
    shim: Path, folder: Path, function: str, right: Path, options: dict[str, Any], each: int
) -> list[Tried]:
    """Try each so many-th call of a run of ``rec.h5`` in `folder`, by every kind and error.

    Parameters
    ----------
    shim : path
    folder : path
        Holds ``rec.h5``; all that is tried lies below.
    function : str
    right : path
        The bytes of a right result.
    options : dict
        Of `hpcio.Plan.create`.
    each : int
    """
    asked = (str(shim), str(folder), function, str(right), options, each)
    found = told("tests.rigs.failing", *asked, env={"LD_PRELOAD": str(shim)})
    return [Tried(*one) for one in found]


# ---- in the process that has the shim


def _main(shim: str, folder: str, function: str, right: str, options: dict, each: int) -> None:
    # Its children keep the shim, which is loaded; what they start need not have it.
    os.environ.pop("LD_PRELOAD")
    libc = ctypes.CDLL(shim)
    libc.counted.restype = ctypes.c_long
    at, expected = Path(folder), Path(right).read_bytes()
    below, recording = str(at / "failing"), at / "failing" / "rec.h5"

    def begin() -> None:
        shutil.rmtree(below, ignore_errors=True)
        os.mkdir(below)
        shutil.copy2(at / "rec.h5", recording)

    def arm(kind: str, moment: int, number: int) -> None:
        libc.arm(below.encode(), kind.encode(), ctypes.c_long(moment), number, ctypes.c_long(1))

    def run() -> str:
        plan = hpcio.Plan.create(function, f"{recording}::lfp", out=f"{below}/out.h5", **options)
        plan.run(workers=0, progress=False)
        return "fine"

    def go_on() -> str:
        if not os.path.exists(f"{below}/out.h5"):
            run()
        with hpcio.open(f"{below}/out.h5") as f:
            assert f["data"][...].tobytes() == expected, "other bytes"
        hpcio.verify(f"{below}/out.h5")
        return "fine"

    def count(kind: str) -> str:
        arm(kind, 0, 0)
        run()
        return str(libc.counted())

    def fail(kind: str, moment: int, number: int) -> str:
        arm(kind, moment, number)
        try:
            return run()
        finally:
            arm("", 0, 0)

    # What is imported late is imported once, before any child is forked.
    begin()
    go_on()
    turn = 0
    for kind in KINDS:
        begin()
        calls = int(forked(lambda kind=kind: count(kind)))
        for moment in range(1, calls + 1):
            for name in ERRORS:
                turn += 1
                if turn % each:
                    continue
                begin()
                number = getattr(errno, name)
                said = forked(lambda k=kind, m=moment, n=number: fail(k, m, n))
                then = forked(go_on)
                print(json.dumps(Tried(kind, moment, name, said, then)), flush=True)


def wrong(of: Sequence[Tried]) -> list[Tried]:
    """Those that are not as they should be: no error of hpcio, or not mended by going on."""
    return [t for t in of if not is_ours(t.said) or t.then != "fine"]


if __name__ == "__main__":
    _main(*json.loads(sys.argv[1]))
