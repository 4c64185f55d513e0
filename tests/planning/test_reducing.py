"""Reductions of the user's own are tried before the run, and refused in words."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import FunctionError, OptionError
from hpcio.function import Function
from hpcio.planning.reducing import calls_of

Array = np.ndarray


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a recording of trials of shape (4, 3)."""
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.ones((40, 3))
    return tmp_path


def planned(folder: Path, reduce: Any, **options: Any) -> hpcio.Plan:
    options = {"trials": 4, "out": folder / "out.h5", "keeptrials": False, **options}
    return hpcio.Plan.create(np.copy, f"{folder}/rec.h5::lfp", reduce=reduce, **options)


def sum_of(result: Array) -> tuple[Array, int]:
    return result, 1


def add_sums(state: Any, later: Any) -> Any:
    return state[0] + later[0], state[1] + later[1]


def mean_of(state: Any) -> Any:
    return state[0] / state[1]


MEAN = (sum_of, add_sums, mean_of)


def both(state: Array, later: Array) -> Array:
    return state + later


def itself(state: Any) -> Any:
    return state


def test_functions_that_fail_when_they_are_tried(folder):
    def raises(*_: Any) -> Any:
        raise KeyError("lost")

    def lists(result: Array) -> Any:
        return list(result)

    def in_place(state: Any, later: Any) -> Any:
        state[0][:] += later[0]
        return state

    def of_32_bits(state: Any, later: Any) -> Any:
        return (state[0] + later[0]).astype("f4"), state[1]

    def one(state: Any, later: Any) -> Any:
        return state[0]

    for reduce, said in (
        ((raises, add_sums, mean_of), r"raises' \(the start of reduce\) raised KeyError"),
        ((sum_of, raises, mean_of), r"raises' \(the add of reduce\) raised KeyError: 'lost' \("),
        ((sum_of, add_sums, raises), r"raises' \(the finish of reduce\) raised KeyError"),
        ((lists, both, itself), r"lists' \(the start of reduce\) returned a list"),
        ((sum_of, in_place, mean_of), r"in_place' \(the add of reduce\).*read-only"),
        ((sum_of, of_32_bits, mean_of), r"gave \(float32 of shape \(4, 3\).*before \(float64 of"),
        ((sum_of, one, mean_of), r"gave float64 of shape \(4, 3\) as a state, and before \(float"),
        ((sum_of, add_sums, itself), r"itself' \(the finish of reduce\) returned a tuple"),
    ):  # fmt: skip
        told = calls_of([Function.of(function) for function in reduce])(((4, 3), "<f8"))
        assert re.search(said, told["error"]), told
    with pytest.raises(FunctionError, match=r"raises' \(the add of reduce\) raised KeyError"):
        planned(folder, (sum_of, raises, mean_of))
    assert not (folder / "out.h5.run").exists()


def test_what_is_no_reduction(folder):
    (folder / "number_of_reduce.py").write_text("MEAN = 3\n")
    name = f"{folder}/number_of_reduce.py:MEAN"
    for reduce, options, kind, said in (
        ((sum_of, add_sums), {}, OptionError, r"Give \(start, add, finish\)"),
        (3, {}, OptionError, "neither the name of an average nor three functions"),
        (
            (sum_of, add_sums, None),
            {},
            FunctionError,
            "The finish of reduce, None, is not callable",
        ),
        (name, {}, FunctionError, r"is a int\. Name a tuple of functions instead"),
        ("no_such:MEAN", {}, FunctionError, "Cannot import module 'no_such'"),
        (MEAN, {"channels_per_block": 2}, OptionError, "of your own needs all channels"),
        (MEAN, {"keeptrials": True}, OptionError, "goes with keeptrials=False"),
        ("mode", {}, OptionError, r"reduce='mode' is unknown\. Choose mean, .*FILE\.py:NAME"),
    ):
        with pytest.raises(kind, match=said):
            planned(folder, reduce, **options)


def test_random_numbers_are_refused(folder):
    rng = np.random.default_rng(1)

    def pick(state: Array, later: Array) -> Array:
        return state if rng.random() < 0.5 else later

    with pytest.raises(FunctionError, match=r"pick' uses a generator of random numbers"):
        planned(folder, (np.copy, pick, itself))


def test_warnings_about_ones_do_not_show():
    def start(result: Array) -> Any:
        return np.log(result - 1), np.nanmean(result[:0])

    call = calls_of([Function.of(f) for f in (start, lambda a, b: a, lambda a: a[0])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call(((2, 3), "<f8"))["shape"] == (2, 3)


@pytest.mark.parametrize("dtype", ["f4", "i2", "c8", "?"])
def test_an_add_that_is_not_associative_is_refused(folder, dtype):
    """The mean of two means, which no result of ones would show; all that is associative passes."""

    def halves(state: Array, later: Array) -> Array:
        return (state + later) / 2

    def as_float(result: Array) -> Array:
        return result * np.float64(1)

    def later_one(state: Array, later: Array) -> Array:
        return later

    announced = {"out_shape": (4, 3), "out_dtype": dtype}
    if dtype != "?":  # of which ones, twos and fours are all true
        with pytest.raises(FunctionError, match=r"halves' \(the add .*\) is not associative"):
            planned(folder, (as_float, halves, itself), **announced)
    for add in (both, later_one):
        assert planned(folder, (as_float, add, itself), **announced).average is not None


def test_results_that_functions_refuse_show_nothing(folder):
    def only_ones(result: Array) -> Array:
        if result.max() > 1:
            raise ValueError("probabilities")
        return result

    assert planned(folder, (only_ones, both, itself)).average is not None
