"""A failure of power leaves a run that can be resumed, and a result that is right if it is there.

Every file operation of a small run is recorded: one attempt is killed after its last SYNC, the next
one finishes and publishes. Each state that the disk may be left in is built and gone on with.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.rigs.bench import WRITERS, Bench
from tests.rigs.power import Operation, states, traced

RUN = """
import sys
import hpcio
from hpcio.journals import journal as journals
from tests.rigs.runs import left_by_a_kill

# A trace shows what is written, and not what is stored to a map of the file.
begin = journals.Journal.__init__
def begin_without_map(self, *args, **options):
    begin(self, *args, **options)
    self.shared = False
journals.Journal.__init__ = begin_without_map
journals.is_local = lambda path: False

plan = hpcio.Plan.create(sys.argv[1], sys.argv[2], trials=5, out=sys.argv[3], **OPTIONS)
left_by_a_kill(plan, safe=4, more=4)
plan.run(workers=0, progress=False)
"""


@pytest.fixture(params=WRITERS)
def bench(request, tmp_path) -> Bench:
    return Bench(tmp_path, **WRITERS[request.param])


@pytest.fixture
def recorded(bench, tmp_path) -> list[Operation]:
    if not shutil.which("strace"):
        pytest.skip("needs strace: apt install strace")
    out = tmp_path / "traced" / "out.h5"
    out.parent.mkdir()
    script = RUN.replace("**OPTIONS", f"**{bench.options!r}")
    names = f"{tmp_path}/{bench.module}.py:double", f"{tmp_path}/rec.h5::/lfp"
    operations = traced(out.parent, sys.executable, "-c", script, *names, str(out), cwd=tmp_path)
    bench.check(out)
    return operations


def go_on(bench: Bench, out: Path) -> None:
    """From a state of the disk: the result is right if it is there; a run ends with it."""
    if not out.exists():
        bench.plan(out=out).run(workers=0, progress=False)
    bench.check(out)


def try_states(bench: Bench, operations: list[Operation], folder: Path, *, each: int) -> int:
    tried = 0
    for k, files in enumerate(states(operations)):
        if k % each == 0:
            files.write(folder)
            go_on(bench, folder / "out.h5")
            tried += 1
    return tried


def test_some_states_after_a_failure_of_power(bench, recorded, tmp_path):
    assert try_states(bench, recorded, tmp_path / "left", each=97) > 5


@pytest.mark.torture
def test_every_state_after_a_failure_of_power(bench, recorded, tmp_path):
    print(try_states(bench, recorded, tmp_path / "left", each=1), "states")
