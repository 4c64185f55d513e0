"""A disk that fails once, at any call: an error says so, and going on ends with right bytes."""

from __future__ import annotations

import os
import subprocess
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
from tests.rigs.mpi import mpirun
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
    done = fail(shim, tmp_path, writer, each=80)
    assert len(done) > 2
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


RANK = """
import ctypes, os, sys
libc = ctypes.CDLL(sys.argv[1])
libc.counted.restype = ctypes.c_long
folder, kind, moment = sys.argv[2], sys.argv[3], int(sys.argv[4])
from hpcio.cli import main
libc.arm(folder.encode(), kind.encode(), ctypes.c_long(moment), 5)
sys.argv = ["hpcio", *sys.argv[5:]]
try:
    main()
finally:
    print("calls", libc.counted())
"""


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("kind", "each"),
    [
        ("write", 0),
        *(
            pytest.param(k, 8, marks=pytest.mark.torture)
            for k in ("open", "write", "fsync", "rename")
        ),
    ],
)
def test_calls_of_a_rank_that_fail(shim, mpi_python, tmp_path, kind, each):
    """The writer `mpi`: each is a job of one rank; without `each`, only the call in the middle."""
    bench = Bench(tmp_path)
    asked = [
        "run",
        f"{bench.module}.py:double",
        "rec.h5::lfp",
        "--trials",
        str(bench.rows),
        "--out",
    ]

    def job(name: str, moment: int) -> subprocess.CompletedProcess[str]:
        words = [str(shim), str(tmp_path / name), kind, str(moment), *asked, f"{name}/out.h5"]
        (tmp_path / name).mkdir(exist_ok=True)
        return mpirun(
            mpi_python, 1, "-c", RANK, *words, "--writer", "mpi", "--quiet", folder=tmp_path,
            LD_PRELOAD=str(shim),
        )  # fmt: skip

    whole = job("counted", 0)
    assert whole.returncode == 0, whole.stderr
    calls = int(whole.stdout.partition("calls ")[2])
    assert calls > 1
    for moment in range(1, calls + 1, each) if each else [calls // 2]:
        name = f"failed{moment}"
        said = job(name, moment)
        assert "Traceback (most" not in said.stderr
        assert said.returncode == 0 or "error" in said.stderr.lower()
        again = job(name, 0)
        assert again.returncode == 0, again.stderr
        bench.check(tmp_path / name / "out.h5")
