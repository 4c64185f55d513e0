"""Seams: parts of pages that an attempt could not write, since others write to the same page."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hpcio.files import checksum
from hpcio.journals import Ledger
from hpcio.onefile.preallocated import sizes_of_regions
from hpcio.planning import Plan

__all__ = ["SEAM", "read_seams", "seams_file", "seams_that_count"]

# Before each seam: its offset in the file, its bytes, their checksum.
SEAM = struct.Struct("<qqQ")


def seams_file(plan: Plan, attempt: str) -> Path:
    """Where an attempt keeps what it could not write into the file."""
    return plan.rundir.sources / f"{attempt}.seams"


def read_seams(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each seam of an attempt, up to the first that is torn."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return
    at = 0
    while at + SEAM.size <= len(raw):
        offset, nbytes, check = SEAM.unpack_from(raw, at)
        data = raw[at + SEAM.size : at + SEAM.size + nbytes]
        if len(data) != nbytes or checksum(data) != check:
            return
        yield offset, data
        at += SEAM.size + nbytes


def seams_that_count(ledger: Ledger, offsets: np.ndarray) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of those parts of seams whose attempt counts for their block."""
    several = offsets.size // len(ledger.plan)
    offsets, sizes = offsets.reshape(-1), sizes_of_regions(ledger.plan).reshape(-1)
    # A block without bytes has no part of a page, wherever it is said to lie.
    order = np.argsort(offsets, kind="stable")
    order = order[sizes[order] > 0]
    first = offsets[order]
    last = first + sizes[order]
    owner = np.tile(np.where(ledger.done, ledger.log, -1), several)[order]
    for i, log in enumerate(ledger.logs):
        if ledger.plan.has_grown_since(log.plan):  # the file had other places, and has them all
            continue
        for at, seam in read_seams(seams_file(ledger.plan, log.attempt)):
            here = slice(np.searchsorted(last, at, "right"), np.searchsorted(first, at + len(seam)))
            for a, b in zip(
                first[here][owner[here] == i], last[here][owner[here] == i], strict=True
            ):
                start = max(int(a), at)
                yield start, seam[start - at : int(b) - at]
