"""Arguments belong to one call: what a function does to them, no other trial sees."""

from __future__ import annotations

import random

import numpy as np
import pytest

import hpcio
from hpcio import Plan, per_trial
from hpcio.errors import FunctionError, OptionError
from hpcio.function import Arguments, FreshArguments
from tests.rigs.everyday import combinations
from tests.rigs.runs import LFP

TRIALS = [[0, 6], [6, 12], [12, 18], [18, 24]]


def compute(lfp: str, out, func, *, workers: int, retries: int = 0, **options) -> np.ndarray:
    plan = Plan.create(func, lfp, trials=TRIALS, out=out, join="stack", **options)
    plan.run(workers=workers, retries=retries, progress=False)
    with hpcio.open(out) as f:
        return f["data"][...]


def changes_all(trial, array, config, listed, row, *, named):
    array *= 2
    listed.append(1)
    row += 1
    named["k"] += 1
    factor = config.pop("gain", 100.0) * len(listed) * named["k"]
    trial *= 2
    return (trial * array).sum(axis=0) * factor + row.sum()


TOLD = {"out_shape": (4,), "out_dtype": "f8"}


@pytest.mark.parametrize(
    ("told", "workers"),
    combinations([{}, TOLD], [0, 1, 2], everyday=[({}, 0), ({}, 1), (TOLD, 0), (TOLD, 2)]),
)
def test_what_a_call_does_to_its_arguments_no_other_sees(lfp, tmp_path, workers, told):
    rows = np.arange(8.0).reshape(4, 2)
    args = [np.arange(4.0), {"gain": 3.0}, [1], per_trial(rows)]
    found = compute(
        lfp, tmp_path / "out.h5", changes_all, workers=workers, args=args,
        kwargs={"named": {"k": 4}}, **told,
    )  # fmt: skip
    pieces = np.stack([LFP[a:b] for a, b in TRIALS])
    want = (2 * pieces * 2 * np.arange(4.0)).sum(axis=1) * 30 + (rows + 1).sum(axis=1)[:, None]
    np.testing.assert_array_equal(found, want)
    np.testing.assert_array_equal(rows, np.arange(8.0).reshape(4, 2))
    assert args[1:3] == [{"gain": 3.0}, [1]]


@pytest.mark.parametrize("value", [1, "a", (1, (2.0, None)), np.float32(2), np.dtype("f4"), len])
def test_what_no_call_can_change_is_shared(value):
    fresh = FreshArguments(Arguments.given((value,), {"x": value}))
    assert fresh.shared
    assert fresh.of(0)[0][0] is value


def test_one_object_given_twice_stays_one():
    both = [1]
    args, _ = FreshArguments(Arguments.given((both, both), {})).of(0)
    assert args[0] is args[1]
    assert args[0] is not both


# ---- random numbers


def noisy(trial, rng):
    return trial.sum(axis=0) + rng.normal(size=4)


@pytest.mark.parametrize(
    ("kind", "workers"),
    combinations(
        [np.random.PCG64, np.random.Philox], [0, 1, 3],
        everyday=[(np.random.PCG64, 0), (np.random.Philox, 1), (np.random.PCG64, 3)],
    ),
)  # fmt: skip
def test_each_trial_has_a_generator_of_its_own(lfp, tmp_path, workers, kind):
    given = np.random.Generator(kind(5))
    given.spawn(2)
    told = TOLD if workers else {}  # what a dry run draws, trials do not see
    found = compute(lfp, tmp_path / "out.h5", noisy, workers=workers, args=[given], **told)
    children = given.spawn(4)
    want = [
        LFP[a:b].sum(axis=0) + r.normal(size=4) for (a, b), r in zip(TRIALS, children, strict=True)
    ]
    np.testing.assert_array_equal(found, want)


shared = np.random.default_rng(1)


def draws_from_shared(trial):
    return trial.sum(axis=0) + shared.normal()


@pytest.mark.parametrize(
    ("func", "options", "where"),
    [
        (draws_from_shared, {}, r"'.*test_arguments\.shared'"),
        (noisy, {"args": [[np.random.default_rng(1)]]}, "inside an argument"),
        (noisy, {"args": [random.Random(1)]}, "inside an argument"),
        (noisy, {"args": [np.random.RandomState(1)]}, "inside an argument"),
        (noisy, {"args": [per_trial([np.random.default_rng(1)] * 4)]}, "inside an argument"),
    ],
)
def test_a_generator_that_trials_would_share_is_refused(lfp, tmp_path, func, options, where):
    with pytest.raises(FunctionError, match=f"generator of random numbers, {where}.*Let the func"):
        compute(lfp, tmp_path / "out.h5", func, workers=0, **options)


def test_a_generator_without_a_seed_to_spawn_from_is_refused():
    given = np.random.Generator(np.random.RandomState(1)._bit_generator)
    with pytest.raises(OptionError, match="has no seed to spawn others from"):
        Arguments.given((given,), {})


# ---- tables and series of pandas


@pytest.mark.parametrize("kind", ["reversed", "filtered"])
def test_a_series_is_taken_by_position(lfp, tmp_path, kind):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"start": [0, 6, 12, 18, 24], "gain": [1.0, 2.0, 3.0, 4.0, 5.0]})
    table = table.query("gain > 1") if kind == "filtered" else table[::-1]
    trials = np.c_[table["start"], table["start"] + 6]
    out = tmp_path / "out.h5"
    plan = Plan.create(
        lambda trial, gain: trial.mean(axis=0) * gain, lfp, trials=trials, out=out, join="stack",
        args=[per_trial(table["gain"])], **TOLD,
    )  # fmt: skip
    plan.run(workers=1 if kind == "reversed" else 0, progress=False)
    want = [LFP[a : a + 6].mean(axis=0) * gain for _, a, gain in table.itertuples()]
    with hpcio.open(out) as f:
        np.testing.assert_array_equal(f["data"], want)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_row_of_a_frame_has_its_columns_by_name(lfp, tmp_path, workers):
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        {"gain": [1.0, 2, 3, 4, 5], "kind": list("abcab")}, index=[5, 4, 3, 2, 1]
    )
    plan = Plan.create(
        lambda trial, row: trial.mean(axis=0) * row["gain"] * (row["kind"] == "a"), lfp, trials=6,
        out=tmp_path / "out.h5", join="stack", args=[per_trial(table)],
    )  # fmt: skip
    plan.run(workers=workers, progress=False)
    want = [LFP[6 * k : 6 * k + 6].mean(axis=0) * gain for k, gain in enumerate([1, 0, 0, 4, 0])]
    with hpcio.open(tmp_path / "out.h5") as f:
        np.testing.assert_array_equal(f["data"], want)


def test_columns_are_taken_by_their_names():
    pandas = pytest.importorskip("pandas")
    table = {"label": ["a", "b"], "offset": [5, -5], "stop": [10, 30], "start": [0, 10]}
    frame = pandas.DataFrame(table)
    records = frame[["offset", "stop", "start"]].to_records(index=False)
    for given in (frame, records, np.array(records), pandas.DataFrame([[0, 10, 5], [10, 30, -5]])):
        trials = hpcio.Trials.from_array(given)
        assert trials.start.tolist() == [0, 10]
        assert trials.stop.tolist() == [10, 30]
        assert trials.offset.tolist() == [5, -5]
    with pytest.raises(hpcio.errors.TrialError, match="has the columns label, offset"):
        hpcio.Trials.from_array(frame[["label", "offset"]])


@pytest.mark.parametrize("values", [{"a": 1}, {1, 2}, 3])
def test_values_without_an_order_are_no_values_of_trials(values):
    with pytest.raises(OptionError, match="per_trial needs a sequence, not"):
        per_trial(values)


# ---- what does not fit


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(1201, "i1"), (-129, "i1"), (2**40, "i4"), (1e300, "f4"), (1e6, "f2"), (1e300j, "c8")],
)
def test_values_that_a_type_cannot_hold_fail(lfp, tmp_path, value, dtype):
    kind = "i8" if isinstance(value, int) else None
    func = lambda trial: np.full(4, value, kind)  # noqa: E731
    with pytest.raises(hpcio.errors.BlocksFailed, match="cannot hold"):
        compute(lfp, tmp_path / "out.h5", func, workers=0, out_shape=(4,), out_dtype=dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.5])
def test_what_is_no_number_stays_so(lfp, tmp_path, value):
    func = lambda trial: np.full(4, value)  # noqa: E731
    found = compute(lfp, tmp_path / "out.h5", func, workers=0, out_shape=(4,), out_dtype="f4")
    np.testing.assert_array_equal(found, np.full((4, 4), value, "f4"))


def test_trials_of_another_axis_are_refused(lfp, tmp_path):
    trials = hpcio.Trials.from_array([[0, 2], [2, 4]])
    with pytest.raises(OptionError, match="axis=1, but the trials were made for axis 0"):
        Plan.create(np.negative, lfp, trials=trials, axis=1, out=tmp_path / "out.h5")


# ---- the trial


def swaps(trial):
    trial.byteswap(inplace=True)
    trial.dtype = trial.dtype.newbyteorder()
    return trial.sum(axis=0).astype("f8")


def locks(trial):
    trial.flags.writeable = False
    return trial.sum(axis=0)


def reshapes(trial):
    trial.shape = (trial.size,)
    return trial[:4] * 1


@pytest.mark.parametrize(
    ("func", "workers"),
    combinations(
        [swaps, locks, reshapes], [0, 1],
        everyday=[(swaps, 0), (locks, 0), (reshapes, 0), (swaps, 1)],
    ),
)  # fmt: skip
def test_what_a_call_does_to_its_trial_no_other_sees(lfp, tmp_path, func, workers):
    want = [func(LFP[a:b].copy()) for a, b in TRIALS]
    found = compute(lfp, tmp_path / "out.h5", func, workers=workers, out_shape=(4,), out_dtype="f8")
    np.testing.assert_array_equal(found, want)


def counting():
    seen = []

    def count():
        seen.append(1)
        return len(seen)

    return count


def counts(trial, count):
    return trial.mean(axis=0) * count()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_function_that_holds_something_is_fresh_for_each_call(lfp, tmp_path, workers):
    data = compute(
        lfp, tmp_path / "out.h5", counts, args=[counting()], workers=workers, out_shape=(4,),
        out_dtype="f8",
    )  # fmt: skip
    np.testing.assert_array_equal(data, [LFP[a:b].mean(axis=0) for a, b in TRIALS])


class Tagged(np.ndarray):
    """As numpy's manual shows: what it keeps beside its values is not pickled."""

    def __array_finalize__(self, other):
        self.rate = getattr(other, "rate", 1.0)


def test_an_argument_that_pickling_changes_is_refused(lfp, tmp_path):
    tagged = np.ones(4).view(Tagged)
    tagged.rate = 1000.0
    with pytest.raises(OptionError, match="The argument 0 is another one once it was pickled"):
        Plan.create(np.multiply, lfp, trials=6, out=tmp_path / "out.h5", args=[tagged])


def test_a_seed_sequence_is_refused(lfp, tmp_path):
    with pytest.raises(OptionError, match="each trial gets a child"):
        Plan.create(noisy, lfp, trials=6, out=tmp_path / "o.h5", args=[np.random.SeedSequence(1)])


def test_missing_integers_and_times_stay_what_they_are():
    pandas = pytest.importorskip("pandas")
    whole = pandas.Series([9007199254740993, pandas.NA], dtype="Int64")
    assert per_trial(whole).of(0) == 9007199254740993
    assert per_trial(whole).of(1) is pandas.NA
    times = pandas.Series(pandas.to_datetime(["2020-01-01"]))
    assert per_trial(times).of(0) == pandas.Timestamp("2020-01-01")
