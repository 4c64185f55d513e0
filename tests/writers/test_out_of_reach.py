"""A part that was published is never written again, though its writer may live yet."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import Plan
from hpcio.journals.rundir import prepare
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from tests.rigs.opened import sources_of
from tests.rigs.plans import LFP, Planner, plan

__all__ = ["plan"]

COPY = re.compile(r"orphan-[0-9a-f]{8}-0\.[0-9a-f]{8}\.h5")


def negated(trial, chunkShape=None, noCompute=None):
    return (trial.shape, trial.dtype) if noCompute else -trial


def parts(made: Plan) -> dict[str, tuple[int, bytes]]:
    """The parts of a result, by name: when each was written last, and all of it."""
    found = sources_of(Path(made.out))
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.mark.parametrize(
    "options", [{"sources": "task"}, {"sources": "trial"}, {"sources": "task", "chunks": (2, 2)}]
)
def test_an_orphan_does_not_reach_a_part(plan: Planner, options: dict[str, Any]) -> None:
    made = prepare(plan(negated, writer="virtual", **options))
    seen: list[Any] = []

    def late(trial: np.ndarray, **given: Any) -> np.ndarray:
        if trial.shape[0] == 8:  # in its third trial another session publishes
            orphan.writer.flush()
            made.run(workers=0, progress=False)
            seen.extend([parts(made), hpcio.open(made.out)])
        return negated(trial, **given)

    with Attempt(made, "orphan") as orphan:
        orphan.func = late
        run_batch(orphan, np.arange(5))
    before, opened = seen
    assert parts(made) == before
    with opened as f:  # which would raise if a part had changed
        assert np.array_equal(f["data"][...], -LFP)
    if options == {"sources": "task"}:
        assert [name for name in before if name.startswith("orphan")] == [
            name for name in before if COPY.fullmatch(name)
        ]
        assert len(before) == 2
    hpcio.verify(made.out)
    # What the orphan has done counts, where it has done it.
    os.unlink(made.out)
    assert made.run(workers=0, progress=False).computed == 0
    with h5py.File(made.out) as f:
        assert np.array_equal(f["data"][...], -LFP)
    assert not any(COPY.fullmatch(name) for name in parts(made)) or "chunks" in options
    hpcio.verify(made.out)


def test_what_its_writer_has_closed_is_not_copied(plan: Planner) -> None:
    made = prepare(plan(negated, writer="virtual", sources="task"))
    with Attempt(made, "orphan") as attempt:
        attempt.may_fail = 0

        def fails(trial: np.ndarray, **given: Any) -> np.ndarray:
            if trial.shape[0] == 8:
                raise ValueError("not now")
            return negated(trial, **given)

        attempt.func = fails
        run_batch(attempt, np.arange(5))
    made.run(workers=0, progress=False)
    assert len(parts(made)) == 2
    assert not any(COPY.fullmatch(name) for name in parts(made))
