"""What is said after trials have failed works, each of it, as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hpcio
from hpcio.errors import BlocksFailed
from tests.rigs.bench import ROWS, TRIALS, Bench

SICK = (2, 5, 7)


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path, join="stack")
    bench.mark("raise", *SICK)
    return bench


def failed(bench: Bench, **options: object) -> str:
    with pytest.raises(BlocksFailed) as info:
        bench.plan().run(workers=0, progress=False, **options)
    return str(info.value)


def command_of(said: str, what: str) -> str:
    found = re.search(rf"^  {what}.*: (hpcio resume .*)$", said, re.MULTILINE)
    assert found, said
    return found[1]


def do(line: str) -> tuple[int, str]:
    """Exit status and all that a line of the shell says."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-c", line], env={**os.environ, "PATH": path}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def gaps_of(bench: Bench) -> list[int]:
    with hpcio.open(bench.out) as f:
        return np.flatnonzero(~f["trials"]["done"]).tolist()


@pytest.mark.parametrize("most", [TRIALS, 0], ids=["all were tried", "it was stopped"])
def test_publishing_without_those_that_failed(bench, most):
    said = failed(bench, max_failed=most)
    assert ("not tried" in said) == (most == 0)
    code, told = do(command_of(said, "publish without them") + " --workers 0")
    assert (code, gaps_of(bench)) == (0, list(SICK)), told
    # The last line says what there is to read.
    assert f"published with 3 gaps, data ({TRIALS}, {ROWS}, 3) float64" in told


def test_trying_again_what_failed_by_something_outside(bench):
    said = failed(bench)
    bench.clear("raise")
    bench.forget_calls()
    code, told = do(command_of(said, "try them again") + " --workers 0")
    assert (code, bench.calls, gaps_of(bench)) == (0, list(SICK), []), told


@pytest.mark.parametrize("first", ["at once", "published with gaps"])
def test_a_function_that_is_mended_keeps_what_is_done(bench, first):
    said = failed(bench)
    path = bench.folder / f"{bench.module}.py"
    before = path.read_text()
    if first == "published with gaps":
        assert do(command_of(said, "publish without them") + " --workers 0")[0] == 0
        (command,) = re.findall(
            r"(hpcio resume .*)$", do(f"hpcio status {bench.out}")[1], re.MULTILINE
        )
    else:
        command = command_of(said, "mend the function and keep what is done")
    path.write_text(before.replace('raise ValueError("sick")', "pass"))
    if first == "at once":  # the edit is told of, and the same is said
        code, told = do(command_of(said, "publish without them"))
        assert code == 2
        assert f"go on with the new one (hpcio resume {bench.out} --keep-done;" in told
    bench.forget_calls()
    code, told = do(f"{command} --workers 0")
    assert (code, bench.calls, gaps_of(bench)) == (0, list(SICK), []), told
    with hpcio.open(bench.out) as f:
        assert f["data"][()].tobytes() == bench.expected.tobytes()
        assert np.flatnonzero(f["function"][:]).tolist() == list(SICK)


def test_a_function_that_is_put_back_finishes_with_what_was_planned(bench):
    failed(bench)
    path = bench.folder / f"{bench.module}.py"
    before = path.read_text()
    path.write_text(before.replace('raise ValueError("sick")', "pass"))
    code, told = do(f"hpcio resume {bench.out}")
    assert (code, "put the old one back and finish with it" in told) == (2, True)
    path.write_text(before)
    bench.clear("raise")
    (resume,) = re.findall(r"finish with it \((hpcio resume \S+)\)", told)
    assert do(f"{resume} --workers 0")[0] == 0
    assert gaps_of(bench) == []


def test_status_offers_the_same(bench):
    said = failed(bench)
    _, told = do(f"hpcio status {bench.out}")
    what_now = said.partition("What now:")[2]
    assert what_now in told
