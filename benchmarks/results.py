"""Results that cost nothing, handed to the system: writer, checksum and journal alone."""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np

from benchmarks.limits import begin, clock
from hpcio.files.bytes import checksum
from hpcio.journals.journal import DONE
from hpcio.planning import load_plan
from hpcio.recording.reading import LARGE
from hpcio.running.attempt import Attempt


def write(attempt: Attempt, data: np.ndarray, blocks: np.ndarray) -> None:
    """Store `data` as the result of each block, and journal it, as the loop over a batch does."""
    writer, append = attempt.writer, attempt.journal.append
    store = writer.write
    writer.begin(blocks, attempt.journal)
    large = data.nbytes >= LARGE
    for block in blocks.tolist():
        checking = attempt.pool.submit(checksum, data) if large else None
        file, offset = store(block, data)
        check = checksum(data) if checking is None else checking.result()
        append(
            DONE, block, file=file, offset=offset, check=check, nbytes=data.nbytes,
            compute=1e-6, io=1e-6,
        )  # fmt: skip


def serve(barrier: Barrier, pipe: Connection, part: int, parts: int) -> None:
    """One of `parts` processes, for `limits.Writers`: each writes its share of a plan."""
    while True:
        try:
            path, *_ = pipe.recv()
        except EOFError:
            return
        plan = load_plan(Path(path))
        shape = plan.target.shapes[0]
        data = np.random.default_rng(os.getpid()).random(shape).astype(plan.target.dtype)
        blocks = np.array_split(np.arange(len(plan)), parts)[part]
        with Attempt(plan, f"p{part}") as attempt:
            started = begin(barrier)
            write(attempt, data, blocks)
            pipe.send((started, clock()))
