"""A FauxTrial knows everything about a trial but its values, and says so when asked for them."""

from __future__ import annotations

import copy
import operator
import pickle

import numpy as np
import pytest

from hpcio.errors import FunctionError, TrialError
from hpcio.function.faux import FauxTrial


@pytest.fixture
def trial() -> FauxTrial:
    """Rows 1000 to 1500 of 64 channels."""
    region = (slice(1000, 1500), slice(0, 64))
    return FauxTrial((500, 64), region, "float32", ("time", "channel"))


def test_describes_the_trial(trial):
    assert trial.shape == (500, 64)
    assert trial.ndim == 2
    assert trial.size == 32_000
    assert trial.nbytes == 128_000
    assert trial.dtype == np.float32
    assert len(trial) == 500


def test_numpy_functions_of_the_shape_work(trial):
    assert np.shape(trial) == (500, 64)
    assert np.ndim(trial) == 2
    assert np.size(trial) == 32_000
    assert np.size(trial, axis=1) == 64
    assert np.shape(a=trial) == (500, 64)


def test_transpose_reverses_everything(trial):
    assert trial.T.shape == (64, 500)
    assert trial.T.idx == (slice(0, 64), slice(1000, 1500))
    assert trial.T.dimord == ("channel", "time")
    assert trial.T.T == FauxTrial(trial.shape, trial.idx, trial.dtype, trial.dimord)


def test_squeeze_drops_axes_of_length_one():
    region = ([7], slice(0, 500), slice(3, 4))
    trial = FauxTrial((1, 500, 1), region, "f8", ("epoch", "time", "channel"))
    assert trial.squeeze().shape == (500,)
    assert trial.squeeze().idx == (slice(0, 500),)
    assert trial.squeeze(axis=-1).idx == ([7], slice(0, 500))
    assert trial.squeeze(axis=(0, 2)) == trial.squeeze()


@pytest.mark.parametrize("axis", [1, 3, -4, "time"])
def test_squeeze_refuses_other_axes(axis):
    trial = FauxTrial((1, 500, 1), (slice(0, 1), slice(0, 500), slice(0, 1)), "f8")
    with pytest.raises(TrialError, match=r"[Aa]xis"):
        trial.squeeze(axis)


def test_is_a_value(trial):
    same = FauxTrial([500, 64], list(trial.idx), np.float32, ["time", "channel"])
    assert same == trial
    assert {same: "seen"}[trial] == "seen"
    assert trial != trial.T
    assert FauxTrial((2,), ([3, 4],), "f8") != FauxTrial((2,), (slice(None, 3, 4),), "f8")
    assert trial != "a string"
    assert trial in [None, trial]
    assert pickle.loads(pickle.dumps(trial)) == trial
    assert copy.deepcopy(trial) == trial


def test_cannot_be_changed(trial):
    with pytest.raises(AttributeError):
        trial.shape = (1,)


def test_repr_is_short():
    trial = FauxTrial((2, 50, 7), ([4, 9], range(50), slice(None, 14, 2)), "i2", ("a", "b", "c"))
    assert repr(trial) == (
        "FauxTrial(shape=(2, 50, 7), dtype=int16, idx=[[4, 9], [0, ..., 49], :14:2], "
        "dimord=('a', 'b', 'c'))"
    )


USES_OF_VALUES = {
    "add": lambda t: t + 1,
    "radd": lambda t: 1 + t,
    "add an array": lambda t: np.ones((500, 64)) + t,
    "add in place": lambda t: operator.iadd(t, 1),
    "negative": lambda t: -t,
    "matmul": lambda t: t.T @ t,
    "less": lambda t: t < 0,
    "equal": lambda t: t == 0,
    "equal to an array": lambda t: t == np.zeros(64),
    "index": lambda t: t[0],
    "assign": lambda t: operator.setitem(t, 0, 1),
    "iterate": list,
    "sum": sum,
    "contains": lambda t: 3 in t,
    "truth": bool,
    "int": int,
    "float": float,
    "complex": complex,
    "asarray": np.asarray,
    "asarray of a list": lambda t: np.asarray([t, t]),
    "ufunc": np.exp,
    "ufunc method": np.add.reduce,
    "numpy function": np.mean,
    "numpy.fft": np.fft.rfft,
    "numpy.linalg": np.linalg.norm,
    "method": lambda t: t.mean(axis=0),
    "attribute": lambda t: t.real,
}


@pytest.mark.parametrize("use", USES_OF_VALUES.values(), ids=USES_OF_VALUES)
def test_values_are_refused_with_the_remedy(trial, use):
    with pytest.raises(FunctionError, match=r"dry run.*no values.*noCompute.*\(shape, dtype\)"):
        use(trial)


def test_names_what_asked_for_values(trial):
    with pytest.raises(FunctionError, match=r"numpy\.fft\.rfft"):
        np.fft.rfft(trial)
    with pytest.raises(FunctionError, match=r"trial\.astype"):
        trial.astype("f8")


def test_unknown_attribute_is_an_ordinary_error(trial):
    with pytest.raises(AttributeError, match="sampling_rate"):
        trial.sampling_rate  # noqa: B018


def test_a_single_number_has_no_length():
    with pytest.raises(FunctionError, match="length"):
        len(FauxTrial((), (), "f8"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((5, (slice(5),), "f8"), "shape"),
        (((2.5,), (slice(5),), "f8"), "shape"),
        (((-1,), (slice(5),), "f8"), "negative"),
        (((5, 2), (slice(5),), "f8"), "idx"),
        (((5,), slice(5), "f8"), "idx"),
        (((5,), (3,), "f8"), "idx"),
        (((2,), ([True, False],), "f8"), "mask"),
        (((5,), (slice(5),), "float33"), "float33"),
        (((5,), (slice(5),), None), "type"),
        (((5,), (slice(5),), "f8", "time"), "dimord"),
        (((5,), (slice(5),), "f8", 1), "dimord"),
        (((5,), (slice(5),), "f8", ("time", "channel")), "dimord"),
    ],
)
def test_refuses_parts_that_do_not_fit(arguments, named):
    with pytest.raises(TrialError, match=named):
        FauxTrial(*arguments)
