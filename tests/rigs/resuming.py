"""Runs that were stopped half-way, and how they go on: exactly what is missing is computed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import hpcio
from hpcio.journals.journal import DONE
from hpcio.journals.ledger import read_logs
from hpcio.journals.rundir import prepare
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.writers.backend import trusted_ledger
from tests.rigs.bench import TRIALS, Bench

both_sources = pytest.mark.parametrize("sources", ["trial", "task"])
ALL = set(range(TRIALS))


def finished(out: Path) -> set[int]:
    """The blocks that a run which continues need not compute again."""
    if not Path(f"{out}.run", "plan.h5").exists():
        return set()
    return set(np.flatnonzero(trusted_ledger(hpcio.Plan.load(out)).done).tolist())


def resume_here(bench: Bench, out: Path, done: set[int]) -> None:
    """Continue in this process; exactly the blocks that were not done are computed."""
    bench.forget_calls()
    hpcio.Plan.load(out).run(workers=0, progress=False)
    assert bench.calls == sorted(ALL - done)
    bench.check(out)


def resume(bench: Bench, *, workers: int) -> None:
    """Plan anew and continue; exactly the blocks that were not done are computed."""
    done = finished(bench.out)
    bench.hold()
    bench.forget_calls()
    bench.plan().run(workers=workers, progress=False)
    assert sorted(bench.calls) == sorted(ALL - done)
    bench.check()


def copy_run(bench: Bench, to: Path) -> Path:
    """A copy of the run directory, and the name that its result will have."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    shutil.copytree(f"{bench.out}.run", to / "out.h5.run")
    return to / "out.h5"


def half_done(bench: Bench, *, safe: int, unsafe: int) -> None:
    """A run directory as a kill leaves it: some blocks before the last SYNC, some after."""
    plan = prepare(bench.plan())
    bench.stop(safe + unsafe)
    with Attempt(plan, "here") as attempt:
        run_batch(attempt, np.arange(safe))
        attempt.sync()
        with pytest.raises(KeyboardInterrupt):
            run_batch(attempt, np.arange(safe, TRIALS))
    bench.stop()
    (log,) = read_logs(plan)
    assert (log.records["kind"] == DONE).sum() == safe + unsafe
    assert (log.records["kind"][: log.safe] == DONE).sum() == safe
