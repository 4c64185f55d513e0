"""Steps of writing one file from several clients of a shared file system; each is a process.

``python one_file.py STEP NOTES ...`` in the shared folder, as one of its clients. What processes
tell each other lies in the folder NOTES, which is local and the same for all of them.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

import hpcio
from hpcio.cli import cli
from hpcio.errors import HpcioError
from hpcio.files.bytes import write_at
from hpcio.journals.rundir import prepare
from hpcio.machine.filesystems import is_local, look_again
from hpcio.onefile.preallocated import load_offsets
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.running.run import Nobody
from hpcio.writers.backend import backend_of, trusted_ledger
from tests.rigs.waiting import until

# Bytes of a recording, at the most. Where ranks take turns on one CPU, each collective call takes
# tenths of a second.
TOTAL, COLLECTIVE = 12_000_000, 1_500_000

# What `plan` ends with if the writer says that it is not safe there.
REFUSED = 9


def plan(notes: Path, writer: str, size: str) -> None:
    """Make a recording of records of that many bytes, and the file for the results."""
    total = COLLECTIVE if writer == "mpi-collective" else TOTAL
    data = np.random.default_rng(5).standard_normal((total // int(size), int(size) // 8))
    with h5py.File("rec.h5", "w") as f:
        f["lfp"] = data
    assert not is_local(".")
    try:
        plan = hpcio.Plan.create(np.negative, "rec.h5::/lfp", trials=1, out="out.h5", writer=writer)
        plan = prepare(plan)
        backend_of(plan).reserve(plan)
    except HpcioError as error:
        print(error)
        sys.exit(REFUSED)


def write(notes: Path, part: str, parts: str, victim: str = "no") -> None:
    """Write a part of the blocks; a victim is killed by signal 9 before it has written all."""
    plan, number = opened(notes, part, parts)
    chunks = share(np.arange(len(plan)), int(parts))[number]
    if victim == str(number):
        count = sum(c.size for c in chunks)
        mortal = Mortal(notes / "reached", count * 3 // 4, count)
    with Attempt(plan, f"c{number}") as attempt:
        if victim == str(number):
            attempt.func = mortal
        for chunk in chunks:
            run_batch(attempt, chunk)
        attempt.sync()


def resume(notes: Path, part: str, parts: str) -> None:
    """Write what is missing; the first of the parts tells the others what that is."""
    plan, number = opened(notes, part, parts)
    if number == 0:
        missing = trusted_ledger(plan).missing()
        np.save(notes / "missing.part.npy", missing)
        (notes / "missing.part.npy").rename(notes / "missing.npy")
    until((notes / "missing.npy").exists, "what is missing")
    missing = np.load(notes / "missing.npy")
    assert 0 < missing.size < len(plan)
    with Attempt(plan, f"again{number}") as attempt:
        for chunk in share(missing, int(parts))[number]:
            run_batch(attempt, chunk)
        attempt.sync()


def publish(notes: Path) -> None:
    """Finish the result; nothing is computed any more."""
    done = hpcio.Plan.load("out.h5").run(Nobody(), progress=False)
    assert not done.computed, done


def plainly(notes: Path, part: str, parts: str, how: str) -> None:
    """Write a part of the blocks as one would without knowing of caches."""
    plan, number = opened(notes, part, parts)
    offsets, sizes = load_offsets(plan), plan.target.sizes()
    with h5py.File("rec.h5") as f:
        data = -f["lfp"][...]
    fd = os.open(plan.rundir.data, os.O_RDWR)
    view = mmap.mmap(fd, 0) if how == "mmap" else None
    everybody(notes, "open", part, parts)
    started = time.monotonic()
    for chunk in share(np.arange(len(plan)), int(parts))[number]:
        for block in chunk.tolist():
            start = int(offsets[block])
            if view is None:
                write_at(fd, data[block], start)
            else:
                view[start : start + int(sizes[block])] = data[block].tobytes()
    if view is not None:
        view.close()
    os.fsync(fd)
    print(json.dumps({"seconds": time.monotonic() - started}))
    os.close(fd)


def compare(notes: Path, name: str) -> None:
    """Tell how many bytes of the dataset are not what they should be, by plain h5py."""
    until(lambda: look_again(name) or os.path.exists(name), name)
    with h5py.File("rec.h5") as source, h5py.File(name) as result:
        expected, found = -source["lfp"][...], result["data"][...]
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    wrong = expected.view(np.uint8) != found.view(np.uint8)
    print(json.dumps({"wrong": int(wrong.sum()), "of": wrong.size}))


def look(notes: Path) -> None:
    """Compare the result, and call ``hpcio verify``."""
    compare(notes, "out.h5")
    cli.main(["verify", "out.h5"], standalone_mode=False)


# ---------------------------------------------------------------------- what they share


def opened(notes: Path, part: str, parts: str) -> tuple[hpcio.Plan, int]:
    """The plan, and the number of this part, once all parts have the whole file in their caches."""
    number = rank(part)
    plan = hpcio.Plan.load("out.h5")
    assert plan.rundir.data.read_bytes()
    everybody(notes, "read", part, parts)
    return plan, number


def rank(part: str) -> int:
    return int(os.environ["OMPI_COMM_WORLD_RANK"] if part == "rank" else part)


def everybody(notes: Path, what: str, part: str, parts: str) -> None:
    """Wait until all parts have come here."""
    step = sys.argv[1]
    (notes / f"{step}-{what}-{rank(part)}").touch()
    others = [notes / f"{step}-{what}-{k}" for k in range(int(parts))]
    until(lambda: all(path.exists() for path in others), f"all who {step}")


def share(blocks: np.ndarray, parts: int) -> list[list[np.ndarray]]:
    """For each part its chunks: of the first half in turn, of the second half all from one range.

    Some chunks are smaller than a page of 64 KiB, some hold whole ones.
    """
    turns, ranges = np.array_split(blocks, 2)
    sizes = np.resize((1, 16, 3, 9, 5), turns.size)
    chunks = [c for c in np.split(turns, np.cumsum(sizes)) if c.size]
    return [
        [*chunks[k::parts], *np.array_split(whole, 3)]
        for k, whole in enumerate(np.array_split(ranges, parts))
    ]


class Mortal:
    """A function that gets its process killed somewhere between one call and the last one."""

    def __init__(self, reached: Path, call: int, last: int) -> None:
        self.reached, self.call, self.last = reached, call, last
        self.calls = 0
        script = (
            'until [ -e "$0" ]; do kill -0 "$1" || exit; sleep 0.01; done 2>/dev/null\nkill -9 "$1"'
        )
        quiet = subprocess.DEVNULL
        subprocess.Popen(
            ["sh", "-c", script, str(reached), str(os.getpid())],
            stdin=quiet, stdout=quiet, stderr=quiet,
        )  # fmt: skip

    def __call__(self, trial: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == self.call:
            self.reached.touch()
        if self.calls == self.last:
            until(lambda: False, "signal 9")
        return np.negative(trial)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
