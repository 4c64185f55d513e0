"""A journal says what is done; what does not check itself never counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpcio.errors import HpcioError, PlanError
from hpcio.journals import journal
from hpcio.journals.journal import (
    DETAILS,
    DONE,
    FAILED,
    FILE,
    HEADER,
    LOST,
    RECORD,
    SYNC,
    Journal,
    JournalRecords,
    read_log,
)
from tests.rigs.support import damage

DIGEST = "0123456789abcdef" * 2
ABOUT = {"label": "w0", "run_id": "t", "host": "here", "pid": 1, "user": "me", "start": 12.5}


@pytest.fixture(params=["local", "network"], autouse=True)
def kind_of_filesystem(request, monkeypatch) -> str:
    """Local journals are maps of memory, those on a network file system are written."""
    monkeypatch.setattr(journal, "is_local", lambda folder: request.param == "local")
    return request.param


@pytest.fixture
def path(tmp_path) -> Path:
    """A journal of a file and four blocks, two of them safe."""
    log = Journal(tmp_path, "w0-1", DIGEST, ABOUT)
    log.append(FILE, file=0, offset=2048, nbytes=4000)
    for block in range(4):
        log.append(DONE, block, offset=1000 * block, check=7 * block, nbytes=1000, compute=0.5)
        if block == 1:
            log.append(SYNC, offset=log.count)
    log.close()
    return log.path


def read(path: Path) -> JournalRecords:
    log = read_log(path, DIGEST)
    assert log is not None
    return log


def test_says_what_was_appended(path):
    log = read(path)
    assert log.records["kind"].tolist() == [FILE, DONE, DONE, SYNC, DONE, DONE]
    done = log.records[log.records["kind"] == DONE]
    assert done["block"].tolist() == [0, 1, 2, 3]
    assert done["offset"].tolist() == [0, 1000, 2000, 3000]
    assert done["checksum"].tolist() == [0, 7, 14, 21]
    assert done["compute"].tolist() == [0.5] * 4
    assert (np.diff(log.records["end"]) >= 0).all()
    assert log.header == {**ABOUT, "name": "w0-1", "plan": DIGEST}


def test_records_that_a_sync_covers_are_safe(path):
    log = read(path)
    assert log.safe == 3
    assert log.records["kind"][: log.safe].tolist() == [FILE, DONE, DONE]


def test_what_no_sync_covers_does_not_count_after_a_failed_one(tmp_path):
    log = Journal(tmp_path, "w0-1", DIGEST, ABOUT)
    for block in range(3):
        log.append(DONE, block)
    covered = log.count
    log.append(DONE, 3)
    log.append(SYNC, offset=covered)
    log.append(DONE, 4)
    log.append(LOST)
    log.close()
    assert read(log.path).records["block"].tolist() == [0, 1, 2]


def test_is_private_and_written_once(path, tmp_path):
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        Journal(tmp_path, "w0-1", DIGEST, ABOUT)


def test_a_record_outlives_the_process_at_once(tmp_path):
    log = Journal(tmp_path, "w0-1", DIGEST, ABOUT)
    assert not read(log.path).records.size
    for block in range(3):
        log.append(DONE, block)
        assert read(log.path).records["block"].tolist() == list(range(block + 1))
    log.close()
    assert log.path.stat().st_size == HEADER + 3 * RECORD.itemsize


def test_a_torn_tail_of_any_length_is_cut(path):
    whole = path.read_bytes()
    records = read(path).records
    for length in range(HEADER, len(whole)):
        path.write_bytes(whole[:length])
        log, n = read(path), (length - HEADER) // RECORD.itemsize
        np.testing.assert_array_equal(log.records, records[:n])
        assert log.safe == (3 if n >= 4 else 0)


def test_a_torn_header_is_no_journal_yet(path):
    whole = path.read_bytes()
    for length in range(HEADER):
        path.write_bytes(whole[:length])
        assert read_log(path, DIGEST) is None


def test_any_flipped_bit_of_a_record_cuts_there(path):
    records = read(path).records
    for bit in range(8 * HEADER, 8 * path.stat().st_size):
        damage(path, bit // 8, bit % 8)
        n = (bit // 8 - HEADER) // RECORD.itemsize
        np.testing.assert_array_equal(read(path).records, records[:n])
        damage(path, bit // 8, bit % 8)


def test_any_flipped_bit_of_the_header_is_seen(path):
    for bit in range(8 * HEADER):
        damage(path, bit // 8, bit % 8)
        assert read_log(path, DIGEST) is None
        damage(path, bit // 8, bit % 8)


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b" "])
def test_a_file_that_a_crash_of_the_machine_has_filled_is_no_journal(path, filler):
    path.write_bytes(filler * path.stat().st_size)
    assert read_log(path, DIGEST) is None


def test_records_of_another_plan_do_not_count(path, tmp_path):
    other = "f" * 32
    with pytest.raises(PlanError, match=r"w0-1\.jnl' belongs to another plan.*--fresh"):
        read_log(path, other)
    log = Journal(tmp_path, "w1", other, ABOUT)
    log.close()
    records = path.read_bytes()[HEADER:]
    log.path.write_bytes(log.path.read_bytes() + records)
    found = read_log(log.path, other)
    assert found is not None
    assert not found.records.size


def test_notes_are_found_by_their_record(tmp_path):
    texts = [b"Traceback: first", b"", bytes(range(256)) * 40]
    log = Journal(tmp_path, "w0-1", DIGEST, ABOUT)
    for block, text in enumerate(texts):
        log.note(FAILED if block < 2 else DETAILS, block, text)
    log.close()
    found = read(log.path)
    assert [found.note(r) for r in found.records] == texts
    assert log.path.with_suffix(".notes").stat().st_mode & 0o777 == 0o600


def test_a_damaged_note_counts_as_lost(tmp_path):
    log = Journal(tmp_path, "w0-1", DIGEST, ABOUT)
    log.note(FAILED, 0, b"first")
    log.note(FAILED, 1, b"second")
    log.close()
    damage(log.path.with_suffix(".notes"), 2)
    found = read(log.path)
    assert [found.note(r) for r in found.records] == [b"", b"second"]
    log.path.with_suffix(".notes").unlink()
    found = read(log.path)
    assert [found.note(r) for r in found.records] == [b"", b""]


def test_a_name_that_does_not_fit_the_header_is_refused(tmp_path):
    with pytest.raises(HpcioError, match="shorter label"):
        Journal(tmp_path, "w" * 100, DIGEST, {**ABOUT, "host": "h" * HEADER})
    assert not list(tmp_path.iterdir())


def test_many_appends_are_all_there(tmp_path):
    count = 5000
    log = Journal(tmp_path, "w0-1", DIGEST, ABOUT)
    for block in range(count):
        log.append(DONE, block, check=block * (2**64 // count))
    log.close()
    records = read(log.path).records
    assert records["block"].tolist() == list(range(count))
    assert int(records["checksum"][-1]) == (count - 1) * (2**64 // count)
    assert journal.RECORD.itemsize == 64
