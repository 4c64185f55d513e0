"""Blocks to batches to array tasks: every block exactly once, inside the limits."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcio
from hpcio.errors import MemoryLimitError, PlanError, TimeLimitError
from slurm.forecast import check_memory, check_walltime, describe, predicted_seconds
from slurm.mapping import arrays_of, map_blocks

sizes = st.lists(st.integers(0, 10**9), min_size=1, max_size=300).map(np.asarray)
few = st.integers(1, 70)
patient = settings(deadline=None)  # other tests may keep the machine busy


@patient
@given(sizes, few, st.integers(1, 6), st.data())
def test_every_block_once_in_order(size, tasks, batches_per_task, data):
    step = data.draw(st.integers(1, 3))
    blocks = np.arange(size.size) * step  # a resumed run lacks some in between
    mapping = map_blocks(blocks, size, tasks=tasks, batches_per_task=batches_per_task)
    assert np.concatenate(mapping.batches).tolist() == blocks.tolist()
    assert all(batch.size for batch in mapping.batches)
    assert mapping.tasks <= tasks
    assert mapping.task.tolist() == sorted(mapping.task.tolist())
    assert set(mapping.task.tolist()) == set(range(mapping.tasks))
    assert np.bincount(mapping.task).max() <= batches_per_task


@patient
@given(sizes, few)
def test_bytes_are_balanced(size, tasks):
    mapping = map_blocks(np.arange(size.size), size, tasks=tasks)
    work = predicted_seconds(np.maximum(size, 1), mapping, bytes_per_second=1.0)
    fair = np.maximum(size, 1).sum() / min(tasks, size.size)
    # Blocks are not cut: a task has its fair share and less than two halves of others.
    assert work.max() <= fair + np.maximum(size, 1).max()


@patient
@given(st.integers(0, 20_000), st.integers(1, 3000))
def test_arrays_hold_every_task_once(tasks, limit):
    arrays = arrays_of(tasks, max_array_size=limit)
    assert [a.first + k for a in arrays for k in range(a.size)] == list(range(tasks))
    assert all(1 <= a.size <= limit for a in arrays)
    assert len(arrays) == -(-tasks // limit)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(PlanError, match="make no sense"):
        map_blocks(np.arange(3), np.ones(3), tasks=0)
    with pytest.raises(PlanError, match="switched off"):
        arrays_of(3, max_array_size=0)


@pytest.fixture
def plan(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((100_000, 16))
    stops = [1000, 3000, 50_000, 100_000]
    table = np.stack([[0, *stops[:-1]], stops], axis=1)
    rec = f"{tmp_path}/rec.h5::/lfp"
    return hpcio.Plan.create(np.negative, rec, trials=table, out=tmp_path / "out.h5")


def test_memory_is_held_against_the_largest_block(plan):
    check_memory(plan, 300_000_000)
    with pytest.raises(MemoryLimitError, match=r"Trial 3 needs about 28\d MB.*memory='1GB'"):
        check_memory(plan, 200_000_000)


def test_walltime_is_held_against_the_largest_block(plan):
    largest = 2 * 50_000 * 16 * 8
    check_walltime(plan, 10.0, bytes_per_second=largest / 9.0)
    with pytest.raises(TimeLimitError, match=r"Trial 3 takes about 11 s.*works for 10 s"):
        check_walltime(plan, 10.0, bytes_per_second=largest / 11.0)


def test_the_table_before_anything_is_submitted(plan):
    said = describe(plan, tasks=2, memory="200MB", walltime="00:10:00")
    assert (said.tasks, said.arrays, said.blocks) == (2, 1, 4)
    assert said.largest + said.smallest == 2 * 100_000 * 16 * 8
    lines = str(said).splitlines()
    assert "array tasks  2 in 1 job array" in lines[0]
    assert "too little!" in lines[3]
    assert "of 10 min asked for" in lines[4]
    assert repr(said) == str(said)
    assert all(f">{name}</th>" in said._repr_html_() for name, _ in said.rows())
