"""A disk that fails once, at any call: an error says so, and going on ends with right bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rigs.bench import Bench
from tests.rigs.failing import Tried, build, tried, wrong

WRITERS = {
    "a file a batch": {"sources": "task"},
    "a file a trial": {"sources": "trial"},
    "packed": {"sources": "task", "compression": "gzip"},
    "packed trials": {"sources": "trial", "compression": "gzip"},
    "direct": {"writer": "direct"},
    "mutex": {"writer": "mutex"},
}


@pytest.fixture(scope="session")
def shim(tmp_path_factory) -> Path:
    made = build(tmp_path_factory.mktemp("shim"))
    if made is None:
        pytest.skip("needs a C compiler: apt install gcc")
    return made


def fail(shim: Path, folder: Path, writer: str, each: int) -> list[Tried]:
    bench = Bench(folder, notes=folder, **WRITERS[writer])
    right = folder / "right"
    right.write_bytes(bench.expected.tobytes())
    function = f"{folder}/{bench.module}.py:double"
    return tried(shim, folder, function, right, {"trials": 5, **bench.options}, each)


@pytest.mark.parametrize("writer", WRITERS)
def test_some_calls_that_fail(shim, tmp_path, writer):
    done = fail(shim, tmp_path, writer, each=40)
    assert len(done) > 5
    assert any(t.said != "fine" for t in done)
    assert wrong(done) == []


@pytest.mark.torture
@pytest.mark.parametrize("writer", WRITERS)
def test_every_call_that_fails(shim, tmp_path, writer):
    done = fail(shim, tmp_path, writer, each=1)
    print(len(done), "failures")
    assert wrong(done) == []
