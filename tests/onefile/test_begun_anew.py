"""The file of a run is gone, with its result perhaps: nothing that was in it counts any more."""

from __future__ import annotations

import fcntl

import pytest

import hpcio
from hpcio.errors import Interrupted
from hpcio.journals.rundir import prepare
from hpcio.writers.backend import backend_of
from tests.rigs.bench import Bench
from tests.rigs.resuming import ALL, finished, resume_here


@pytest.mark.parametrize("writer", ["direct", "mutex"])
@pytest.mark.parametrize("gone", ["the result", "the file of a run"])
def test_a_run_whose_file_is_gone_is_stopped_and_goes_on(tmp_path, writer, gone):
    bench = Bench(tmp_path, writer=writer)
    if gone == "the result":
        bench.plan().run(workers=0, progress=False)
        bench.out.unlink()
    else:
        bench.stop(9)
        with pytest.raises(Interrupted):
            bench.plan().run(workers=0, progress=False)
        assert finished(bench.out) == set(range(9))
        (tmp_path / "out.h5.run/data.h5").unlink()
    bench.stop(4)
    bench.forget_calls()
    with pytest.raises(Interrupted):
        hpcio.Plan.load(bench.out).run(workers=0, progress=False)
    assert bench.calls == list(range(5))
    assert finished(bench.out) == set(range(4))
    bench.stop()
    resume_here(bench, bench.out, set(range(4)))
    assert finished(bench.out) == ALL


@pytest.mark.parametrize("locked", [False, True])
def test_a_file_that_was_left_half_made_is_removed_unless_somebody_makes_it(tmp_path, locked):
    bench = Bench(tmp_path, writer="direct")
    plan = prepare(bench.plan())
    left = tmp_path / "out.h5.run/data.00112233.part"
    left.write_bytes(bytes(1000))
    with left.open("rb") as f:
        if locked:
            fcntl.flock(f, fcntl.LOCK_EX)
        backend_of(plan).reserve(plan)
    assert left.exists() == locked
    bench.plan().run(workers=0, progress=False)
    bench.check()
