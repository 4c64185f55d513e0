"""Trials of a batch in order: small ones are read together, and each is what it was on the disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpcio
from hpcio.errors import SourceError
from hpcio.planning import Plan
from hpcio.recording import ReadAhead, Reader, reading
from hpcio.recording.several import SeveralRecordings

ROWS, COLUMNS = 400, 8
X = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "rec.h5"
    with h5py.File(path, "w") as f:
        f["x"] = X
    return path


def planned(source: Path, table: np.ndarray, **options: object) -> Plan:
    out = source.with_name("out.h5")
    return hpcio.Plan.create(np.negative, f"{source}::x", trials=table, out=out, **options)


def reads_of(plan: Plan, taken: list[int], pool: ThreadPoolExecutor) -> list[np.ndarray]:
    """The trials of some blocks; each is spoiled once its copy was made, as a function may."""
    blocks, found = np.asarray(taken), []
    with Reader(plan.source, axis=0) as reader:
        ahead = ReadAhead(
            reader, plan.blocks.input_kinds, plan.blocks.input_kind[blocks],
            plan.blocks.base[blocks], pool,
        )  # fmt: skip
        for k in range(len(taken)):
            trial = ahead.take(k)
            found.append(trial.copy())
            trial[...] = np.nan
            del trial
            if k % 3 == 0:
                np.testing.assert_array_equal(ahead.again(k), found[-1])
    return found


def cut(steps: list[tuple[int, int]]) -> np.ndarray:
    table, at = [], 0
    for gap, rows in steps:
        start = min(max(0, at + (gap if abs(gap) > 3 else 0)), ROWS - rows)
        table.append((start, start + rows))
        at = start + rows
    return np.asarray(table)


# Trials that follow each other, that leave rows out, that share rows, of several lengths.
TRIALS = st.lists(
    st.tuples(st.integers(-6, 6), st.sampled_from([3, 5])), min_size=1, max_size=40
).map(cut)


@given(table=TRIALS, most=st.sampled_from([0, 700, 1 << 17]))
def test_each_trial_is_what_lies_there(source, table, most):
    plan = planned(source, table)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(reading, "TOGETHER", most)
        found = reads_of(plan, list(range(len(table))), pool)
    for (start, stop), trial in zip(table, found, strict=True):
        np.testing.assert_array_equal(trial, X[start:stop])


def test_some_trials_of_many(source):
    plan = planned(source, np.arange(100)[:, None] * 4 + [0, 4])
    taken = [0, 1, 2, 5, 6, 50, 98, 99]
    with ThreadPoolExecutor(1) as pool:
        for k, trial in zip(taken, reads_of(plan, taken, pool), strict=True):
            np.testing.assert_array_equal(trial, X[4 * k : 4 * k + 4])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What is read at once, while a test is at work."""
    made, read_at = [], reading.read_at

    def counted(*arguments):
        made.append(arguments)
        return read_at(*arguments)

    monkeypatch.setattr(reading, "read_at", counted)
    return made


def test_few_calls_read_many_small_trials(source, calls):
    plan = planned(source, np.arange(100)[:, None] * 4 + [0, 4])
    with ThreadPoolExecutor(1) as pool:
        reads_of(plan, list(range(100)), pool)
    again = len(range(0, 100, 3))
    assert len(calls) == again + 1  # all of it is 25,600 bytes


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, np.ndarray]]:
    """Recordings of unequal lengths, one of them with chunks, which are not read as bytes."""
    folder, found = tmp_path_factory.mktemp("several"), []
    for k, rows in enumerate((97, 60, 41, 8, 120)):
        values = np.random.default_rng(k).standard_normal((rows, COLUMNS))
        path = folder / f"s{k}.h5"
        with h5py.File(path, "w") as f:
            f.create_dataset("x", data=values, chunks=(10, COLUMNS) if k == 2 else None)
        found.append((f"{path}::x", values))
    return found


@given(
    rows=st.sampled_from([1, 4, 5, 8]),
    most=st.sampled_from([0, 700, 1 << 17]),
    step=st.integers(1, 3),
)
def test_each_trial_of_several_recordings_is_what_lies_there(several, rows, most, step):
    names, values = zip(*several, strict=True)
    out = Path(names[0].partition("::")[0]).with_name("out.h5")
    plan = hpcio.Plan.create(np.negative, list(names), trials=rows, out=out)
    expected = [v[n : n + rows] for v in values for n in range(0, len(v) - rows + 1, rows)]
    taken = list(range(0, len(expected), step))
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(reading, "TOGETHER", most)
        for k, trial in zip(taken, reads_of(plan, taken, pool), strict=True):
            np.testing.assert_array_equal(trial, expected[k])


def test_few_calls_read_the_small_trials_of_each_of_several_recordings(several, calls):
    plain = [name for k, (name, _) in enumerate(several) if k != 2]
    out = Path(plain[0].partition("::")[0]).with_name("out.h5")
    plan = hpcio.Plan.create(np.negative, plain, trials=4, out=out)
    taken = list(range(len(plan)))
    assert isinstance(plan.source, SeveralRecordings)
    with ThreadPoolExecutor(1) as pool:
        reads_of(plan, taken, pool)
    assert len(calls) == len(range(0, len(taken), 3)) + len(plain)


def test_trials_that_somebody_keeps_stay_as_they_were(source, monkeypatch):
    monkeypatch.setattr(reading, "TOGETHER", 1500)
    plan = planned(source, np.arange(100)[:, None] * 4 + [0, 4])
    kept: list[np.ndarray] = []

    def func(trial):
        kept.append(trial[1:])
        return trial * 1.0

    plan = hpcio.Plan.create(
        func, f"{source}::x", trials=4, out=source.with_name("kept.h5"), out_shape=(4, 8),
        out_dtype="f8",
    )  # fmt: skip
    plan.run(workers=0, progress=False)
    for k, rows in enumerate(kept[-100:]):
        np.testing.assert_array_equal(rows, X[4 * k + 1 : 4 * k + 4])


def test_a_recording_that_was_cut_short_is_told_of_the_trial_that_it_lacks(tmp_path):
    path = tmp_path / "rec.h5"
    with h5py.File(path, "w") as f:
        f["x"] = X
    plan = planned(path, np.arange(100)[:, None] * 4 + [0, 4])
    with h5py.File(path) as f:
        first = f["x"].id.get_offset()
    with ThreadPoolExecutor(1) as pool, Reader(plan.source, axis=0) as reader:
        ahead = ReadAhead(
            reader, plan.blocks.input_kinds, plan.blocks.input_kind, plan.blocks.base, pool
        )
        with path.open("r+b") as f:
            f.truncate(first + 7 * 4 * COLUMNS * 8)
        for k in range(7):
            np.testing.assert_array_equal(ahead.take(k), X[4 * k : 4 * k + 4])
        with pytest.raises(SourceError, match="ends before row 32"):
            ahead.take(7)
