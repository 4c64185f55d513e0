"""Files of a small run, damaged one at a time, and what its readers make of them.

One Python reads each damaged file in a child that it forks: HDF5 may crash on it.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hpcio
from tests.rigs.forks import forked
from tests.rigs.support import told


class Damaged(NamedTuple):
    """What was damaged, and what came of it.

    Attributes
    ----------
    path : str
        Relative to the folder of the result.
    how : str
    read : str
        ``fine`` if `hpcio.open` gives the right values, ``wrong`` if others, or the error.
    verified : str
        ``fine``, or the error of `hpcio.verify`.
    """

    path: str
    how: str
    read: str
    verified: str


def flips(size: int, count: int) -> Iterator[tuple[str, int, int]]:
    """One bit each, in steps from the first byte of a file to the last."""
    for k in range(min(count, size)):
        byte = k * (size - 1) // max(1, count - 1)
        yield "flip", byte, k % 8


def mutations(size: int, count: int, seed: int) -> Iterator[tuple[str, int, int]]:
    """Several bits, other bytes, less or more of them."""
    chosen = random.Random(seed)
    for _ in range(count):
        how = chosen.choice(["flip", "bits", "zeros", "noise", "cut", "longer", "all"])
        yield how, chosen.randrange(size), chosen.randrange(1 << 30)


def mutated(data: bytes, how: str, at: int, seed: int) -> bytes:
    """Damaged bytes, the same for the same words."""
    chosen, raw = random.Random(seed), bytearray(data)
    length = min(len(raw) - at, 1 + chosen.randrange(64))
    if how == "flip":
        raw[at] ^= 1 << seed % 8
    elif how == "bits":
        for _ in range(1 + chosen.randrange(8)):
            raw[chosen.randrange(len(raw))] ^= 1 << chosen.randrange(8)
    elif how == "zeros":
        raw[at : at + length] = bytes(length)
    elif how == "noise":
        raw[at : at + length] = chosen.randbytes(length)
    elif how == "cut":
        del raw[at:]
    elif how == "longer":
        raw[at:at] = chosen.randbytes(length)
    elif how == "all":
        raw[:] = chosen.randbytes(len(raw))
    return bytes(raw)


def damaged(
    out: Path, right: Path, *, inside: str, how: str, count: int, resumes: bool
) -> list[Damaged]:
    """Damage each file of a run in turn.

    Parameters
    ----------
    out : path
        The result, or where it will lie; the folder holds nothing but the run and it.
    right : path
        The bytes of the right result.
    inside : str
        Which files, as a pattern of `pathlib.Path.glob` in that folder.
    how : str
        ``flips`` or ``mutations``.
    count : int
        How often for each file.
    resumes : bool
        Whether the run is gone on with before its result is read.
    """
    found = told("tests.rigs.damaging", str(out), str(right), inside, how, count, resumes)
    return [Damaged(*one) for one in found]


def _main(out: str, right: str, inside: str, how: str, count: int, resumes: bool) -> None:
    expected, whole = Path(right).read_bytes(), Path(out).parent
    copy = whole.with_name("damaged")
    again = copy / Path(out).name

    def read() -> str:
        with hpcio.open(again) as f:
            try:
                values = f["data"][...]
            except (OSError, RuntimeError) as error:  # of h5py, which has read it
                raise hpcio.errors.ResultError(str(error)) from error
            return "fine" if values.tobytes() == expected else "wrong"

    def go_on() -> str:
        hpcio.Plan.load(again).run(workers=0, progress=False)
        return "fine"

    def verify() -> str:
        hpcio.verify(again)
        return "fine"

    def renew() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)

    renew()
    # What is imported late is imported once, before any child is forked.
    if resumes:
        go_on()
    assert (read(), verify()) == ("fine", "fine")
    renew()
    for number, path in enumerate(sorted(p for p in whole.glob(inside) if p.is_file())):
        name, data = str(path.relative_to(whole)), path.read_bytes()
        if not data:
            continue
        turns = flips(len(data), count) if how == "flips" else mutations(len(data), count, number)
        for words in turns:
            (copy / name).write_bytes(mutated(data, *words))
            said = forked(go_on) if resumes else "fine"
            if said == "fine":
                said, verified = forked(read), forked(verify)
            else:
                verified = said
            print(json.dumps(Damaged(name, str(words), said, verified)), flush=True)
            if resumes:
                renew()
            else:
                (copy / name).write_bytes(data)


if __name__ == "__main__":
    _main(*json.loads(sys.argv[1]))
