"""A journal of any bytes: its whole records are read, or it is refused; nothing else happens."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcio.errors import HpcioError
from hpcio.journals.journal import DONE, FAILED, HEADER, RECORD, Journal, read_log
from tests.rigs.damaging import mutated

DIGEST = "0123456789abcdef" * 2
TEXT = b"Traceback: sick"
ABOUT = {"label": "w0", "run_id": "r", "host": "h", "pid": 7, "user": "u", "start": 1.5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A journal of nine results and one failure, whose note lies beside it."""
    journal = Journal(tmp_path_factory.mktemp("journal"), "w0-01234567", DIGEST, ABOUT)
    for block in range(9):
        journal.append(DONE, block, offset=8 * block, nbytes=8)
    journal.note(FAILED, 9, TEXT)
    journal.close()
    return journal.path


def written(whole: Path, data: bytes) -> np.ndarray | None:
    """The records of a journal of such bytes; None if it is refused, or nothing counts in it."""
    copy = whole.with_name(f"copy-{os.getpid()}.jnl")
    copy.write_bytes(data)
    try:
        found = read_log(copy, DIGEST)
    except HpcioError:
        return None
    return None if found is None else found.records


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=3 * HEADER))
def test_any_bytes_are_no_journal(whole, data):
    assert written(whole, data) is None


@settings(deadline=None, max_examples=300)
@given(
    how=st.sampled_from(["flip", "bits", "zeros", "noise", "cut", "longer", "all"]),
    at=st.integers(0, HEADER + 10 * RECORD.itemsize - 1),
    seed=st.integers(0, 1 << 30),
)
def test_what_is_read_of_a_damaged_journal_was_written(whole, how, at, seed):
    first = read_log(whole, DIGEST).records
    found = written(whole, mutated(whole.read_bytes(), how, at, seed))
    if found is not None:
        assert found.tobytes() == first[: found.size].tobytes()


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=100) | st.just(TEXT))
def test_a_note_of_any_bytes_is_what_was_noted_or_nothing(whole, data):
    whole.with_suffix(".notes").write_bytes(data)
    log = read_log(whole, DIGEST)
    assert log.note(log.records[-1]) == (TEXT if data.startswith(TEXT) else b"")
