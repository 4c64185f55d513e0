"""Bytes that are gathered into spans: all arrive, in whole pages or as seams, and no other."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcio.onefile import spans
from hpcio.onefile.spans import Spans, SpansOnTheirWay

SPAN, PAGE = 64, 8


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(spans, "SPAN", SPAN)
    monkeypatch.setattr(spans, "PAGE", PAGE)


class Written:
    """Notes what reaches a file, and keeps it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.whole: list[tuple[int, bytes]] = []
        self.seams: list[tuple[int, bytes]] = []
        self.lock = threading.Lock()
        monkeypatch.setattr(spans, "write_at", self.write)

    def write(self, _: int, data: np.ndarray, offset: int) -> None:
        with self.lock:
            self.whole.append((offset, data.tobytes()))

    def seam(self, offset: int, data: memoryview) -> None:
        self.seams.append((offset, bytes(data)))


@given(
    pieces=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 200)), max_size=30),
    flushes=st.sets(st.integers(0, 30)),
)
def test_every_byte_arrives_once_where_it_belongs(pieces, flushes):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(spans, "SPAN", SPAN)
        monkeypatch.setattr(spans, "PAGE", PAGE)
        written = Written(monkeypatch)
        going = SpansOnTheirWay(-1)
        own = Spans(going, written.seam)
        expected: dict[int, int] = {}
        offset = 0
        random = np.random.default_rng(0)
        for k, (skip, size) in enumerate(pieces):
            offset += skip
            data = random.integers(0, 256, size, np.uint8)
            own.gather(data, offset)
            expected |= {offset + i: int(v) for i, v in enumerate(data)}
            data[:] = 0  # the memory is the function's again
            offset += size
            if k in flushes:
                own.send()
                going.wait()
        own.send()
        going.wait()
        assert own.is_empty
        assert going.have_arrived
        going.close()
    found: dict[int, int] = {}
    for at, raw in [*written.whole, *written.seams]:
        assert not found.keys() & range(at, at + len(raw))
        found |= {at + i: v for i, v in enumerate(raw)}
    assert found == expected
    for at, raw in written.whole:  # whole pages, within one span
        assert at % PAGE == len(raw) % PAGE == 0
        assert at // SPAN == (at + len(raw) - 1) // SPAN
    for at, raw in written.seams:  # parts of pages: none is whole
        assert -(-at // PAGE) >= (at + len(raw)) // PAGE


def test_some_are_on_their_way_at_a_time_and_no_more(monkeypatch):
    """Of those that wait for a server, as many as may be; the next one waits for the first."""
    going = SpansOnTheirWay(-1)
    begun, may_end = threading.Semaphore(0), threading.Event()

    def write(*_: object) -> None:
        begun.release()
        may_end.wait()

    monkeypatch.setattr(spans, "write_at", write)
    own = Spans(going, lambda *_: None)
    own.gather(np.zeros(4 * SPAN, np.uint8), 0)
    for _ in range(4):
        assert begun.acquire(timeout=60)
    fifth = threading.Thread(target=own.gather, args=(np.zeros(SPAN, np.uint8), 4 * SPAN))
    fifth.start()
    assert not begun.acquire(blocking=False)
    assert not going.have_arrived
    may_end.set()
    fifth.join()
    going.wait()
    assert going.have_arrived
    going.close()


def test_an_error_of_a_span_is_raised_and_none_is_lost(monkeypatch):
    def write(_: int, __: object, offset: int) -> None:
        if offset == SPAN:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(spans, "write_at", write)
    going = SpansOnTheirWay(-1)
    own = Spans(going, lambda *_: None)
    own.gather(np.zeros(3 * SPAN, np.uint8), 0)
    for _ in range(2):  # whoever asks again does not hear that all is well
        with pytest.raises(OSError, match="No space left"):
            going.wait()
        assert not going.have_arrived
    going.close()


def test_a_seam_that_cannot_be_kept_is_not_forgotten():
    def seam(*_: object) -> None:
        raise OSError(28, "No space left on device")

    going = SpansOnTheirWay(-1)
    own = Spans(going, seam)
    own.gather(np.zeros(3, np.uint8), 1)
    with pytest.raises(OSError, match="No space left"):
        own.send()
    assert not own.is_empty
    going.close()


def test_a_real_file(tmp_path: Path):
    fd = os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT, 0o600)
    os.ftruncate(fd, 1000)
    seams: list[tuple[int, bytes]] = []
    going = SpansOnTheirWay(fd)
    own = Spans(going, lambda at, raw: seams.append((at, bytes(raw))))
    data = np.random.default_rng(0).integers(0, 256, (9, 100), np.uint8)
    for k, row in enumerate(data):
        own.gather(row.view(np.uint16), 50 + 100 * k)
    own.send()
    going.wait()
    going.close()
    for at, raw in seams:
        os.pwrite(fd, raw, at)
    os.close(fd)
    assert (tmp_path / "f").read_bytes()[50:950] == data.tobytes()
