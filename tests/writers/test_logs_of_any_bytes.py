"""A log of packed chunks of any bytes: chunks that were logged are found, and no others."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from hpcio.writers.packed import _HEAD, _sum_of, entries_of
from tests.rigs.damaging import mutated

CHUNKS = [bytes([k]) * (20 + k) for k in range(8)]
WHOLE = b"".join(
    _HEAD.pack(k, k % 2, len(c), _sum_of(k, k % 2, c)) + c for k, c in enumerate(CHUNKS)
)


def found(tmp, data: bytes) -> dict[int, bytes]:
    path = tmp / "log.packed"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        found = entries_of(fd)
        assert all(e.mask == k % 2 for k, e in found.items())
        return {k: os.pread(fd, e.size, e.offset) for k, e in found.items()}
    finally:
        os.close(fd)


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=500))
def test_any_bytes_hold_no_chunk(tmp_path_factory, data):
    assert found(tmp_path_factory.getbasetemp(), data) == {}


@settings(deadline=None, max_examples=300)
@given(
    how=st.sampled_from(["flip", "bits", "zeros", "noise", "cut", "longer", "all"]),
    at=st.integers(0, len(WHOLE) - 1),
    seed=st.integers(0, 1 << 30),
)
def test_chunks_of_a_damaged_log_were_logged(tmp_path_factory, how, at, seed):
    chunks = found(tmp_path_factory.getbasetemp(), mutated(WHOLE, how, at, seed))
    assert list(chunks.items()) == list(enumerate(CHUNKS))[: len(chunks)]
