"""Results of more parts than may be open at once read as h5py reads them."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hpcio
from tests.rigs.bench import Bench
from tests.rigs.opened import sources_of
from tests.rigs.support import run

READ_MANY = """
import resource, sys
import numpy as np
import hpcio

soft, hard = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
expected = np.load("expected.npy")
mask = np.zeros(len(expected), bool)
mask[[0, 7, len(mask) // 2, -1]] = True
keys = [
    ..., (), slice(None), slice(10, None, 97), slice(-20, -3), 0, -1, len(mask) // 2,
    (slice(None), 1), (slice(None), [0, 2]), (..., -1), (3, ...), (-3, 2),
    [0, 1, 2, len(mask) - 1], list(range(3, len(mask), 5)), mask, (mask, 1), (mask, slice(1, 3)),
    (slice(None), np.array([True, False, True])),
]
with hpcio.open("many.h5") as f:
    for key in keys:
        np.testing.assert_array_equal(f["data"][key], expected[key], strict=True, err_msg=repr(key))
    np.testing.assert_array_equal(np.asarray(f["data"]), expected)
print(hpcio.verify("many.h5").blocks)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A result of 550 virtual sources, one for each trial of a row."""
    folder = tmp_path_factory.mktemp("many")
    lfp = np.random.default_rng(1).normal(size=(550, 3))
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = lfp
    np.save(folder / "expected.npy", np.negative(lfp))
    plan = hpcio.Plan.create(
        np.negative, folder / "rec.h5::lfp", trials=1, out=folder / "many.h5", sources="trial"
    )
    plan.run(workers=0, progress=False)
    assert len(sources_of(folder / "many.h5")) == 550
    return folder


def test_more_sources_than_open_files_give_the_right_numbers(many):
    assert int(run(READ_MANY, many, "400", "400")) == 550


READ_CHANNELS = """
import resource, sys
import numpy as np
import hpcio

resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
expected = np.load("expected.npy")
with hpcio.open("wide.h5") as f:
    for key in (..., (slice(None), -1), (1, [3, 549])):
        np.testing.assert_array_equal(f["data"][key], expected[key], err_msg=repr(key))
"""


@pytest.mark.parametrize("join", ["concatenate", "stack"])
def test_one_trial_of_more_sources_than_open_files(tmp_path, join):
    lfp = np.random.default_rng(1).normal(size=(2, 550))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = lfp
    plan = hpcio.Plan.create(
        np.negative, tmp_path / "rec.h5::lfp", trials=1, out=tmp_path / "wide.h5",
        sources="trial", channels_per_block=1, join=join,
    )  # fmt: skip
    plan.run(workers=0, progress=False)
    expected = np.negative(lfp if join == "concatenate" else lfp[:, None])
    np.save(tmp_path / "expected.npy", expected)
    script = READ_CHANNELS
    if join == "stack":
        script = script.replace("(slice(None), ", "(slice(None), 0, ").replace("(1, [", "(1, 0, [")
    run(script, tmp_path)


READ_SEVERAL = """
import resource
import numpy as np
import hpcio

resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
expected = np.load("expected.npy")
results = [hpcio.open("some.h5") if n % 2 else hpcio.open(f"again/some.h5") for n in range(4)]
for f in results:
    np.testing.assert_array_equal(f["data"][...], expected)
for f in results:
    np.testing.assert_array_equal(f["data"][...], expected)
"""


def test_several_results_open_at_once_share_the_open_files(tmp_path):
    lfp = np.random.default_rng(1).normal(size=(200, 3))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = lfp
    np.save(tmp_path / "expected.npy", np.negative(lfp))
    (tmp_path / "again").mkdir()
    for out in ("some.h5", "again/some.h5"):
        hpcio.Plan.create(
            np.negative, tmp_path / "rec.h5::lfp", trials=1, out=tmp_path / out, sources="trial"
        ).run(workers=0, progress=False)
    run(READ_SEVERAL, tmp_path)


def test_the_limit_is_raised_no_further_than_needed(tmp_path):
    bench = Bench(tmp_path, sources="trial")
    bench.plan().run(workers=0, progress=False)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with hpcio.open(bench.out) as f:
        assert isinstance(f["data"], h5py.Dataset)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


SHAPES = {  # source, options of the plan
    "rows": ((12, 5), {}),
    "columns": ((5, 12), {"axis": 1}),
    "stacked": ((12, 5), {"join": "stack"}),
    "channels": ((12, 7), {"channels_per_block": 2}),
    "stacked channels": ((12, 7), {"channels_per_block": 3, "join": "stack"}),
    "three axes": ((4, 12, 3), {"axis": 1}),
    "one axis": ((12,), {}),
}


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def pair(request, tmp_path_factory) -> Iterator[tuple[h5py.Dataset, h5py.Dataset, np.ndarray]]:
    """A dataset of more sources than are held open, one of the same values, and these."""
    folder = tmp_path_factory.mktemp("many")
    shape, options = SHAPES[request.param]
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = np.arange(np.prod(shape), dtype="i4").reshape(shape)
    plan = hpcio.Plan.create(
        np.negative, folder / "rec.h5::lfp", trials=2, out=folder / "out.h5", sources="trial",
        **options,
    )  # fmt: skip
    plan.run(workers=0, progress=False)
    with h5py.File(folder / "out.h5") as f:
        values = f["data"][...]
    # An ordinary dataset: HDF5 refuses some masks of virtual ones.
    with (
        pytest.MonkeyPatch.context() as patch,
        h5py.File(folder / "plain.h5", "w") as f,
        hpcio.open(folder / "out.h5") as many,
    ):
        patch.setattr("hpcio.files.virtual._MOST_OPEN", 4)
        yield many["data"], f.create_dataset("data", data=values), values


def part(draw: st.DrawFn, length: int, *, fancy: bool) -> object:
    number = st.integers(-length - 1, length)
    kinds = [number, st.slices(length), st.builds(slice, st.none() | number, st.none() | number)]
    if fancy:
        kinds += [
            st.lists(number, max_size=length, unique=True).map(sorted),
            st.lists(number, max_size=4),
            st.lists(st.integers(0, length - 1), max_size=length, unique=True).map(sorted),
            st.lists(st.booleans(), min_size=length, max_size=length).map(np.array),
            st.lists(st.booleans(), min_size=1, max_size=length + 1).map(np.array),
            number.map(np.int64),
            number.map(np.asarray),
            st.sampled_from([None, 1.5, [0.5], "data", [[0, 1]]]),
        ]
    return draw(st.one_of(kinds))


@st.composite
def index(draw: st.DrawFn, shape: tuple[int, ...]) -> object:
    if draw(st.integers(0, 9)) == 0:
        size = int(np.prod(shape))
        mask = draw(st.lists(st.booleans(), min_size=size, max_size=size))
        return np.array(mask, bool).reshape(shape)
    fancy = draw(st.integers(0, len(shape) - 1))
    parts = [part(draw, n, fancy=k == fancy) for k, n in enumerate(shape)]
    if draw(st.booleans()):
        first = draw(st.integers(0, len(parts)))
        last = draw(st.integers(first, len(parts)))
        parts[first:last] = [...]
    elif draw(st.booleans()):
        parts = parts[: draw(st.integers(1, len(parts)))]
    return parts[0] if len(parts) == 1 and draw(st.booleans()) else tuple(parts)


def outcome(dataset: object, key: object) -> tuple[str, object]:
    try:
        found = dataset[key]  # type: ignore[index]
    except (TypeError, ValueError, IndexError, OSError):
        return "refused", None
    return "read", (np.shape(found), found.dtype, found.tobytes())


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_the_data_of_a_result_is_read_as_h5py_does(pair, data):
    many, plain, values = pair
    key = data.draw(index(plain.shape))
    ours, theirs = outcome(many, key), outcome(plain, key)
    # h5py refuses some masks of nothing in combination with an ellipsis, and reads nothing where
    # an index is out of range; numpy does neither.
    assert ours in (theirs, outcome(values, key))


THREADS = """
import os, threading
import numpy as np
import hpcio

def read():
    begun.set()
    while True:
        try:
            data[...]
        except ValueError as error:
            print("closed" in str(error))
            return

for _ in range(20):
    begun = threading.Event()
    with hpcio.open("out.h5") as f:
        data = f["data"]
        reader = threading.Thread(target=read)
        reader.start()
        begun.wait()
        if not (child := os.fork()):
            os._exit(int(data[0, 0] != 1))
        assert os.waitpid(child, 0)[1] == 0
    reader.join()
"""


def test_threads_that_read_while_it_is_closed_or_forked_get_an_error_at_most(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = -np.ones((40, 3))
    hpcio.Plan.create(
        np.negative, tmp_path / "rec.h5::lfp", trials=2, out=tmp_path / "out.h5", sources="trial"
    ).run(workers=0, progress=False)
    assert run(THREADS, tmp_path) == "True\n" * 20


@pytest.mark.parametrize("sources", ["trial", "task"])
def test_what_is_read_is_of_the_type_that_was_asked_for(tmp_path, sources):
    """And holds fill values as HDF5 converts them."""

    def fails(trial):
        if trial[0, 0] == 20:
            raise ValueError("sick")
        return trial.astype("f4")

    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.arange(120, dtype="f4").reshape(30, 4)
    plan = hpcio.Plan.create(
        fails, tmp_path / "rec.h5::lfp", trials=5, out=tmp_path / "out.h5", sources=sources,
        out_shape=(5, 4), out_dtype="f4",
    )  # fmt: skip
    plan.run(workers=0, progress=False, gaps=True)
    with hpcio.open(plan.out) as ours, h5py.File(plan.out) as plain:
        for kind in ("f8", "f4", "f2", "i4", "u1"):
            for key in (..., 0, (1, 2), slice(3, 7), [0, 29], np.uint8(3), np.array([1, 5], "u1")):
                found, right = (f["data"].astype(kind)[key] for f in (ours, plain))
                np.testing.assert_array_equal(found, right, strict=True, err_msg=f"{kind} {key}")
        data = ours["data"]
        with pytest.raises(TypeError, match="does not fit"):
            data.read_direct(np.zeros((4, 5)), np.s_[:5])
        with pytest.raises(ValueError, match="without a copy"):
            np.asarray(data, copy=False)
    with pytest.raises(ValueError, match="is closed"):
        data[0]


def test_the_data_of_a_result_is_a_dataset(pair):
    many, plain, values = pair
    assert (many.shape, many.dtype, many.ndim, many.size, len(many)) == (
        plain.shape, plain.dtype, plain.ndim, plain.size, len(plain),
    )  # fmt: skip
    np.testing.assert_array_equal(np.asarray(many), values)
    np.testing.assert_array_equal(np.asarray(many, "f4"), values.astype("f4"))
    np.testing.assert_array_equal(many.astype("f4")[-2:], values.astype("f4")[-2:])
    np.testing.assert_array_equal(list(many), list(values))
    into = np.zeros((2 * len(values), *values.shape[1:]), "f8")
    many.read_direct(into, np.s_[1:4], np.s_[3:6])
    np.testing.assert_array_equal(into[3:6], values[1:4])
    assert not into[:3].any()
    assert not into[6:].any()
