"""A disk that fails once, at any call: an error says so, and going on ends with right bytes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import hpcio
from hpcio.journals.rundir import prepare
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.writers.backend import backend_of
from tests.rigs.bench import STORED, Bench
from tests.rigs.failing import Tried, build, tried, wrong
from tests.rigs.support import run


@pytest.fixture(scope="session")
def shim(tmp_path_factory) -> Path:
    made = build(tmp_path_factory.mktemp("shim"))
    if made is None:
        pytest.skip("needs a C compiler: apt install gcc")
    return made


def fail(shim: Path, folder: Path, writer: str, each: int) -> list[Tried]:
    bench = Bench(folder, notes=folder, **STORED[writer])
    right = folder / "right"
    right.write_bytes(bench.expected.tobytes())
    function = f"{folder}/{bench.module}.py:double"
    return tried(shim, folder, function, right, {"trials": 5, **bench.options}, each)


@pytest.mark.parametrize("writer", STORED)
def test_some_calls_that_fail(shim, tmp_path, writer):
    done = fail(shim, tmp_path, writer, each=40)
    assert len(done) > 5
    assert any(t.said != "fine" for t in done)
    assert wrong(done) == []


@pytest.mark.torture
@pytest.mark.parametrize("writer", STORED)
def test_every_call_that_fails(shim, tmp_path, writer):
    done = fail(shim, tmp_path, writer, each=1)
    print(len(done), "failures")
    assert wrong(done) == []


RESUME = """
import ctypes, os, sys
import hpcio
from hpcio.errors import HpcioError

shim, victim, out = sys.argv[1:]
libc = ctypes.CDLL(shim)
libc.arm(victim.encode(), b"open", ctypes.c_long(1), 5)
try:
    hpcio.Plan.load(out).run(workers=0, progress=False)
except HpcioError as error:
    print(error)
"""
# Each reads back its results in a way of its own.
READ_BACK = {
    "a file a batch": "*.h5",
    "a file a trial": "*/*.h5",
    "packed": "*-0.h5",
    "log of chunks": "*-1.packed",
    "packed trials": "*/*.h5",
    "averages": "*.sums",
}


@pytest.mark.parametrize("kind", READ_BACK)
def test_a_source_that_cannot_be_opened_once_is_not_computed_again(shim, tmp_path, kind):
    options = STORED["packed" if kind == "log of chunks" else kind]
    bench = Bench(tmp_path, **options)
    plan = prepare(bench.plan())
    backend_of(plan).reserve(plan)
    if not (pid := os.fork()):
        with Attempt(plan, "killed") as attempt:
            for blocks in np.arange(8).reshape(2, 4):
                run_batch(attempt, blocks)
            attempt.sync()
            os._exit(0)
    os.waitpid(pid, 0)
    victim = min(plan.rundir.sources.glob(READ_BACK[kind]))
    bench.forget_calls()
    said = run(
        RESUME, tmp_path, str(shim), str(victim), str(bench.out),
        env={**os.environ, "LD_PRELOAD": str(shim)},
    )  # fmt: skip
    assert str(victim) in said
    assert "Input/output error" in said
    assert bench.calls == []
    bench.plan().run(workers=0, progress=False)
    assert bench.calls == [8, 9, 10, 11]
    with hpcio.open(bench.out) as f:
        assert f["data"][...].tobytes() == bench.expected.tobytes()
