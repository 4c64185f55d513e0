"""Journals and timelines as runs would have left them, and the command that tells of them."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import hpcio
from hpcio.files.bytes import checksum
from hpcio.journals.journal import DONE, HEADER, RECORD
from hpcio.journals.ledger import open_journal
from hpcio.reporting.timeline import Timeline
from tests.rigs.waiting import PATIENCE

COMMAND = "import sys; from hpcio.cli import main; sys.argv[0] = 'hpcio'; main()"


def command(*words: object, path: Path | None = None, **environment: str) -> tuple[int, str, str]:
    """Exit status, output and error output of ``hpcio status``."""
    env = {**os.environ, **environment}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "status", *map(str, words)], capture_output=True,
        text=True, check=False, env=env, timeout=PATIENCE,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def attempt(
    plan: hpcio.Plan,
    label: str,
    blocks: Sequence[int],
    ends: Sequence[float],
    *,
    compute: float = 0.0,
    start: float | None = None,
    host: str = "",
) -> Path:
    """A journal of blocks that were done at given times, each in `compute` seconds."""
    journal = open_journal(plan, f"{label}-{os.urandom(4).hex()}", label)
    for block in blocks:
        journal.append(DONE, block, compute=compute)
    journal.close()
    raw = bytearray(journal.path.read_bytes())
    size = RECORD.itemsize
    seed = int(plan.digest[:16], 16)
    records = np.frombuffer(raw, RECORD, offset=HEADER)
    records["end"] = ends
    for k in range(len(ends)):
        at = HEADER + k * size
        struct.pack_into("<Q", raw, at, checksum(bytes(raw[at + 8 : at + size]), seed))
    begin = min(ends) - compute if start is None else start
    about = json.loads(raw[8 : HEADER - 8]) | {"start": begin} | ({"host": host} if host else {})
    head = (b"HPCIOJ01" + json.dumps(about).encode()).ljust(HEADER - 8)
    raw[:HEADER] = head + struct.pack("<Q", checksum(head))
    journal.path.write_bytes(raw)
    return journal.path


def times(
    start: list[float], seconds: list[float], attempt: list[int] | None = None, **other: object
) -> Timeline:
    """Blocks of four bytes read and one written, three quarters of the time computing."""
    begin, lasted = np.asarray(start, float), np.asarray(seconds, float)
    count = begin.size
    whose = np.zeros(count, np.int32) if attempt is None else np.asarray(attempt, np.int32)
    workers = tuple(("here", f"w{k}") for k in range(int(whose.max(initial=0)) + 1))
    values = {
        "block": np.arange(count), "attempt": whose, "start": begin, "end": begin + lasted,
        "compute": 0.75 * lasted, "io": 0.25 * lasted, "nbytes": np.full(count, 1),
        "nbytes_read": np.full(count, 4), "workers": workers,
        "finish": float((begin + lasted).max(initial=0)), "function": "module:func",
    }  # fmt: skip
    return Timeline(**{**values, **other})  # type: ignore[arg-type]
