"""Reductions of the user's own: three functions, called in a fixed order, checked each time."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import cli
from hpcio.errors import BlocksFailed, FunctionError, OptionError, OutputError, PlanError
from hpcio.journals import prepare
from tests.rigs.bench import Bench

Array = np.ndarray
TRIALS, ROWS, CHANNELS = 90, 4, 3


def trials() -> hpcio.Trials:
    kind = np.array(["house", "face", "tool"])[np.arange(TRIALS) % 3]
    return hpcio.Trials.equal(ROWS, rows=TRIALS * ROWS).with_columns(kind=kind)


@pytest.fixture
def data(tmp_path: Path) -> Array:
    """A recording of trials that begin with their number, shape (trials, rows, channels)."""
    data = 1e3 * np.random.default_rng(1).normal(size=(TRIALS, ROWS, CHANNELS))
    data[:, 0, 0] = np.arange(TRIALS)
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = data.reshape(-1, CHANNELS)
    return data


def planned(folder: Path, reduce: Any, func: Any = np.copy, **options: Any) -> hpcio.Plan:
    options = {"trials": trials(), "out": folder / "out.h5", "keeptrials": False, **options}
    return hpcio.Plan.create(func, f"{folder}/rec.h5::lfp", reduce=reduce, **options)


def reduced(folder: Path, reduce: Any, func: Any = np.copy, **options: Any) -> Array:
    """The result of a run, as plain h5py reads it."""
    run = {k: options.pop(k) for k in ("workers", "gaps") if k in options}
    plan = planned(folder, reduce, func, **options)
    plan.run(**{"workers": 0, "progress": False, **run})
    hpcio.verify(plan.out)
    with h5py.File(plan.out) as f:
        found: Array = f["data"][...]
    return found


# ---------------------------------------------------------------------- some reductions


def sum_of(result: Array) -> tuple[Array, int]:
    return result, 1


def add_sums(state: Any, later: Any) -> Any:
    return state[0] + later[0], state[1] + later[1]


def mean_of(state: Any) -> Any:
    total, count = state
    return total / count


MEAN = (sum_of, add_sums, mean_of)


def peak_of(result: Array) -> Any:
    """The largest value of each channel, and the number of its trial."""
    return result[1:].max(axis=0), np.full(result.shape[1], result[0, 0])


def larger(state: Any, later: Any) -> Any:
    return np.where(later[0] > state[0], (later[0], later[1]), (state[0], state[1]))


def larger_pair(state: Any, later: Any) -> Any:
    return tuple(larger(state, later))


def stacked(state: Any) -> Any:
    return np.stack(state)


PEAK = (peak_of, larger_pair, stacked)
EDGES = np.linspace(-3000, 3000, 21)


def counted(result: Array) -> Array:
    return np.histogram(result[1:], EDGES)[0]


def both(state: Array, later: Array) -> Array:
    return state + later


def itself(state: Any) -> Any:
    return state


HISTOGRAM = (counted, both, itself)


def comoment_of(result: Array) -> Any:
    mean = result.mean(axis=0)
    return len(result), mean, (result - mean).T @ (result - mean)


def join_comoments(state: Any, later: Any) -> Any:
    (n, mean, c), (m, other, d) = state, later
    between = other - mean
    return (
        n + m,
        mean + between * (m / (n + m)),
        c + d + np.outer(between, between) * n * m / (n + m),
    )


def covariance(state: Any) -> Any:
    return state[2] / (state[0] - 1)


COVARIANCE = (comoment_of, join_comoments, covariance)


def first_number(result: Array) -> Any:
    return result[0, 0]


def the_later(state: Array, later: Array) -> Array:
    return later


def the_last(state: Any, later: Any) -> Any:
    if later < state:
        raise ValueError("a later trial comes first")
    return later


def numpys(name: str, data: Array) -> Array:
    if name == "mean":
        return data.mean(axis=0)
    if name == "peak":
        peaks = data[:, 1:].max(axis=1)
        return np.stack([peaks.max(axis=0), data[peaks.argmax(axis=0), 0, 0]])
    if name == "histogram":
        return np.histogram(data[:, 1:], EDGES)[0]
    if name == "covariance":
        return np.cov(data.reshape(-1, CHANNELS).T)
    return data[-1:, 0, 0]


REDUCTIONS: dict[str, Any] = {
    "mean": MEAN, "peak": PEAK, "histogram": HISTOGRAM, "covariance": COVARIANCE,
    "the last": (first_number, the_last, itself),
}  # fmt: skip


@pytest.mark.parametrize("name", REDUCTIONS)
def test_numbers(tmp_path, data, name):
    found = reduced(tmp_path, REDUCTIONS[name], out=tmp_path / "all.h5")
    expected = numpys(name, data)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    found = reduced(tmp_path, REDUCTIONS[name], by="kind")
    for k, kind in enumerate(["face", "house", "tool"]):
        expected = numpys(name, data[trials()["kind"] == kind])
        np.testing.assert_allclose(found[k], expected.reshape(found[k].shape), rtol=1e-12)


@pytest.mark.parametrize("dtype", [">f4", "<i2", "?", "<c8"])
def test_results_of_any_type(tmp_path, dtype):
    values = np.random.default_rng(1).normal(size=(60, 2)).astype(dtype)
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = values
    found = reduced(tmp_path, (as_it_is, alternatives, itself), trials=6)
    expected = np.logical_or.reduce(values.reshape(10, 6, 2) != 0)
    np.testing.assert_array_equal(found, expected.astype(np.dtype(dtype).newbyteorder("=")))


def as_it_is(result: Array) -> Array:
    return result != 0 if result.dtype == bool else (result != 0).astype(result.dtype)


def alternatives(state: Array, later: Array) -> Array:
    return np.where(state != 0, state, later)


def test_the_same_bits_for_any_number_of_workers(tmp_path, data):
    total = (np.copy, np.add, np.copy)
    found = {
        workers: reduced(
            tmp_path, total, by="kind", workers=workers, out=tmp_path / f"{workers}.h5"
        ).tobytes()
        for workers in range(4)
    }
    assert len(set(found.values())) == 1


def test_it_is_kept_with_its_names(tmp_path, data):
    plan = prepare(planned(tmp_path, PEAK, by="kind"))
    loaded = hpcio.Plan.load(plan.out)
    assert loaded.reduction == plan.reduction
    assert [f.pickled for f in plan.reduction] == [b""] * 3
    there, here = loaded.average, plan.average
    assert there is not None
    assert here is not None
    assert (there.state, there.functions, there.result) == (here.state, here.functions, (4, 3))
    names = ", ".join(f"{__name__}:{f.__name__}" for f in PEAK)
    assert str(here) == f"what {names} make of all trials by kind"
    loaded.run(workers=0, progress=False)
    with hpcio.open(plan.out) as f:
        assert f["data"].attrs["reduce"] == names
        assert "def larger_pair(" in f.attrs["reduce_text"]
    pytest.importorskip("xarray")
    with hpcio.open(plan.out).to_xarray() as found:
        assert found["data"].dims[0] == "kind"
        np.testing.assert_allclose(
            found["data"].sel(kind="tool")[0], data[2::3, 1:].max(axis=(0, 1)), rtol=1e-12
        )


def test_functions_of_a_notebook(tmp_path, data):
    """They are pickled, and may hold values."""
    for power in (1, 2):
        found = reduced(
            tmp_path, (lambda r, n=power: r**n, lambda a, b: a + b, lambda a: a.sum()),
            workers=1, out=tmp_path / f"{power}.h5",
        )  # fmt: skip
        np.testing.assert_allclose(found, [(data**power).sum()], rtol=1e-9)


# ---------------------------------------------------------------------- gaps and kills


def fails_for_some(result: Array) -> Any:
    if result[0, 0] in (7, 40):
        raise ValueError("sick of it")
    return sum_of(result)


def test_a_start_that_raises_fails_its_trial(tmp_path, data):
    plan = planned(tmp_path, (fails_for_some, add_sums, mean_of))
    with pytest.raises(BlocksFailed, match=r"2 of 90 trials failed[^$]*ValueError: sick of it"):
        plan.run(workers=2, progress=False)
    done = plan.run(workers=2, progress=False, gaps=True)
    assert [failure.trial for failure in done.failed] == [7, 40]
    with h5py.File(plan.out) as f:
        expected = np.delete(data, (7, 40), axis=0).mean(axis=0)
        np.testing.assert_allclose(f["data"], expected, rtol=1e-12)
        assert f["data"].attrs["trials"] == 88


def fails_for_faces(trial: Array) -> Array:
    if trial[0, 0] % 3 == 1:
        raise ValueError("sick")
    return trial


@pytest.mark.parametrize(("reduce", "fill"), [(MEAN, np.nan), (HISTOGRAM, 0)])
def test_a_condition_without_trials(tmp_path, data, reduce, fill):
    shape = {"out_shape": (ROWS, CHANNELS), "out_dtype": "f8"}
    found = reduced(tmp_path, reduce, fails_for_faces, by="kind", gaps=True, **shape)
    np.testing.assert_array_equal(found[0], np.full(found[0].shape, fill))
    name = "mean" if reduce is MEAN else "histogram"
    np.testing.assert_allclose(found[2], numpys(name, data[2::3]), rtol=1e-12)


WORK = """
def start(result):
    return result, 1

def add(state, later):
    return state[0] + later[0], state[1] + later[1]

def finish(state):
    return state[0] / state[1]

MEAN = (start, add, finish)
"""


def module(folder: Path, text: str = WORK) -> str:
    """A file of functions, of a name of its own."""
    name = f"reduce_{secrets.token_hex(6)}.py"
    (folder / name).write_text(text)
    return f"{folder / name}:MEAN"


def test_killed_and_resumed(tmp_path):
    """In the middle of a group; resumed in a process that has only the plan."""
    bench = Bench(tmp_path, trials=1100, keeptrials=False, reduce=module(tmp_path))
    plan = bench.plan(out=tmp_path / "whole.h5")
    assert plan.average.stretches[0][1] == 3
    plan.run(workers=0, progress=False)
    bench.forget_calls()
    bench.kill_in(604, workers=2)
    bench.forget_calls()
    cli.cli.main(["run", str(bench.out), "--quiet"], standalone_mode=False)
    assert {603, 604, 605} <= set(bench.calls)
    assert len(bench.calls) < 1100
    with h5py.File(bench.out) as f, h5py.File(plan.out) as g:
        assert f["data"][...].tobytes() == g["data"][...].tobytes()


def test_a_function_that_has_changed_is_refused(tmp_path, data):
    name = module(tmp_path)
    plan = planned(tmp_path, name)
    prepare(plan)
    path = Path(name.rpartition(":")[0])
    path.write_text(WORK.replace("state[0] + later[0]", "later[0] + 1 * state[0]"))
    changed = planned(tmp_path, name)
    assert changed.digest != plan.digest
    with pytest.raises(PlanError, match=r"belongs to another plan \(other functions of reduce\)"):
        changed.run(workers=0, progress=False)
    with pytest.raises(PlanError, match=r":add' has changed since the plan was made"):
        hpcio.Plan.load(plan.out).run(workers=0, progress=False)
    path.write_text(WORK)
    planned(tmp_path, name).run(workers=0, progress=False)
    with h5py.File(plan.out) as f:
        np.testing.assert_allclose(f["data"], data.mean(axis=0), rtol=1e-12)


# ---------------------------------------------------------------------- never a wrong number


def shrinks(result: Array) -> Any:
    return result[: 3 if result[0, 0] == 50 else 4]


def fails_late(state: Array, later: Array) -> Array:
    if later[0, 0] == 50:
        raise ValueError("cannot join that")
    return later


def changes_late(state: Array, later: Array) -> Array:
    return later[:2] if later[0, 0] == 50 else later


def never_finishes(state: Array) -> Array:
    if state[0, 0] == 89:
        raise ValueError("cannot finish that")
    return state


def shorter(state: Array) -> Array:
    return state[:1] if state[0, 0] == 89 else state


@pytest.mark.parametrize(
    ("reduce", "workers", "kind", "said"),
    [
        ((shrinks, the_later, itself), 0, BlocksFailed, r"trial 50: .*shrinks' \(the start of"),
        ((np.copy, fails_late, itself), 0, FunctionError, r"fails_late' .*ValueError: cannot join"),
        ((np.copy, fails_late, itself), 1, FunctionError, r"fails_late' .*ValueError: cannot join"),
        ((np.copy, changes_late, itself), 1, FunctionError, r"gave float64 of shape \(2, 3\) as a"),
        (
            (np.copy, the_later, never_finishes),
            0,
            FunctionError,
            r"\(the finish of reduce\) raised",
        ),
        (
            (np.copy, the_later, shorter),
            1,
            FunctionError,
            r"of shape \(1, 3\), but float64 of shape",
        ),
    ],
)
def test_what_goes_wrong_in_the_run_is_named_and_nothing_published(
    tmp_path, data, reduce, workers, kind, said
):
    plan = planned(tmp_path, reduce)
    with pytest.raises(kind, match=said):
        plan.run(workers=workers, progress=False)
    assert not Path(plan.out).exists()


def test_no_function_can_change_a_state(tmp_path, data):
    """Neither by an array that it returns again and again, nor by one that it keeps."""
    memory, kept = np.zeros((ROWS, CHANNELS)), []

    def start(result: Array) -> Array:
        memory[:] = result
        return memory

    def add(state: Array, later: Array) -> Array:
        for array in (state, later, *kept[-1:]):
            assert not array.flags.writeable or array is memory
        np.add(state, later, out=memory)
        return memory

    found = reduced(tmp_path, (start, add, np.copy), by="kind", workers=1)
    for k in range(3):
        expected = data[(1, 0, 2)[k] :: 3].sum(axis=0)
        np.testing.assert_allclose(found[k], expected, rtol=1e-12)

    def spoils(result: Array) -> Array:
        result[:] = 0
        return result

    with pytest.raises(FunctionError, match=r"spoils' \(the start of reduce\).*read-only"):
        planned(tmp_path, (spoils, add, np.copy), out=tmp_path / "spoilt.h5")


# ---------------------------------------------------------------------- the command


def test_the_command_line(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = Path(module(tmp_path)).name
    words = ["run", "numpy:copy", "rec.h5::lfp", "--trials", "4", "--out", "out.h5", "--quiet",
             "--workers", "1"]  # fmt: skip
    cli.cli.main([*words, "--reduce", name], standalone_mode=False)
    with h5py.File("out.h5") as f:
        np.testing.assert_allclose(f["data"], data.mean(axis=0), rtol=1e-12)
        stem = name.partition(".")[0]
        assert f["data"].attrs["reduce"] == f"{stem}:start, {stem}:add, {stem}:finish"
    with pytest.raises(OutputError, match="is not the result of this plan"):
        cli.cli.main([*words, "--reduce", "cov"], standalone_mode=False)
    with pytest.raises(OptionError, match="'median' does not exist"):
        cli.cli.main([*words, "--reduce", "median"], standalone_mode=False)
