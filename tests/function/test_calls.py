"""What calls return: several results as one record, details as bytes."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from hpcio.errors import FunctionError
from hpcio.function.calls import compute_record, pack_details, unpack_details

PARTS = (
    ("power", (2, 3), np.dtype("f8")),
    ("peak", (3,), np.dtype("i4")),
    ("high", (), np.dtype("?")),
)
POWER, PEAK = np.arange(6.0).reshape(2, 3), np.array([1, 0, 1], "i4")
RECORD = POWER.tobytes() + PEAK.tobytes() + b"\1"


def record(returned: Any) -> bytes:
    found, _ = compute_record(lambda _: returned, POWER, (), {}, PARTS, np.dtype("u1"))
    return bytes(found)


@pytest.mark.parametrize(
    "returned",
    [
        {"power": POWER, "peak": PEAK, "high": np.array(True)},
        {"high": True, "peak": PEAK[None], "power": np.asfortranarray(POWER)},
        {"power": np.repeat(POWER, 2, axis=1)[:, ::2], "peak": PEAK, "high": np.True_},
        OrderedDict(power=POWER, peak=PEAK, high=True),
        ({"power": POWER, "peak": PEAK, "high": True}, {"detail": 1}),
    ],
    ids=["as planned", "another order", "not contiguous", "no plain dict", "with details"],
)
def test_a_record_is_the_bytes_of_the_results_in_the_order_of_the_plan(returned):
    assert record(returned) == RECORD


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ({"power": POWER, "peak": PEAK}, "no 'high'"),
        ({"power": POWER, "peak": PEAK, "high": True, "low": 1}, "'low', which was not"),
        ({"power": POWER, "peak": PEAK, "flag": True}, "no 'high' and 'flag', which was not"),
        ({"power": POWER, "peak": PEAK, "high": None}, r"'high': .*None"),
        (POWER, "ndarray, but the results power, peak, high"),
    ],
)
def test_other_results_are_refused(returned, said):
    with pytest.raises(FunctionError, match=said):
        record(returned)


def test_details_come_back_as_they_were():
    details = {
        "text": np.array([b"ab", b"c"]), "nothing": np.empty((0, 3)), "number": np.array(3.0),
        "columns first": np.asfortranarray(POWER), "some": PEAK[::2],
        "big": np.arange(3, dtype=">i2"),
    }  # fmt: skip
    found = unpack_details(pack_details(details))
    assert list(found) == list(details)
    for name, expected in details.items():
        assert (found[name].shape, found[name].dtype) == (expected.shape, expected.dtype)
        np.testing.assert_array_equal(found[name], expected)


def test_to_look_for_masks_imports_nothing():
    """To import `numpy.ma` takes longer than many a trial, in each worker."""
    script = (
        "import sys, hpcio.planning.making, hpcio.function.calls as calls; import numpy as np\n"
        "before = {*sys.modules}; calls.as_array(np.ones(3)); print({*sys.modules} - before)"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "set()\n"
