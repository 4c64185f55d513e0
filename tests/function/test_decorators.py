"""unwrap_io: one function for arrays, for the dry run, and for a worker of any scheduler."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcio
from hpcio.errors import FunctionError, OutputError, SourceError, TrialError

LFP = np.arange(80.0).reshape(20, 4) ** 2
CUBE = np.arange(210).reshape(5, 6, 7)


@hpcio.unwrap_io
def scaled(trial, factor=2.0, *, shift=0.0, chunkShape=None, noCompute=None):
    """Scale a trial."""
    if noCompute:
        return trial.shape, np.dtype("f8")
    return factor * trial + shift


@hpcio.unwrap_io
def same(trial):
    return trial


@hpcio.unwrap_io
def never(trial):
    pytest.fail("called for an empty selection")


Worker = Callable[..., dict[str, Any]]


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """Makes the dict for rows 5 to 9 of a recording, stored as a file of its own."""
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"], f["cube"] = LFP, CUBE

    def trl_dat(**changes: Any) -> dict[str, Any]:
        return {
            "keeptrials": True,
            "infile": str(tmp_path / "rec.h5"),
            "indset": "lfp",
            "ingrid": (slice(5, 10), slice(0, 4)),
            "inshape": (5, 4),
            "sigrid": None,
            "fancy": False,
            "vdsdir": str(tmp_path / "own"),
            "outfile": str(tmp_path / "own" / "1_0.h5"),
            "outdset": "data",
            "outgrid": (slice(5, 10), slice(0, 4)),
            "outshape": (5, 4),
            "dtype": np.dtype("f8"),
            "call_id": "__1_0",
            **changes,
        }

    return trl_dat


@pytest.fixture
def shared(worker: Worker, tmp_path: Path) -> Worker:
    """Makes the same dict for the one existing file."""
    with h5py.File(tmp_path / "shared.h5", "w") as f:
        f.create_dataset("data", (20, 4), "f8", fillvalue=-1.0)
        f.create_dataset("sum", (5, 4), "f8")

    def trl_dat(**changes: Any) -> dict[str, Any]:
        return worker(**{"vdsdir": None, "outfile": str(tmp_path / "shared.h5"), **changes})

    return trl_dat


def stored(trl_dat: dict[str, Any]) -> np.ndarray:
    with h5py.File(trl_dat["outfile"]) as f:
        return f[trl_dat["outdset"]][()]


def details_of(trl_dat: dict[str, Any]) -> dict[str, np.ndarray]:
    with h5py.File(trl_dat["outfile"]) as f:
        group = f["metadata"]
        return {**dict(group.attrs), **{name: group[name][()] for name in group}}


def check(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


# ---- arrays and dry runs ------------------------------------------------------------------------


def test_an_array_is_passed_through():
    check(scaled(LFP, 3.0, shift=1.0), 3.0 * LFP + 1.0)
    assert same(LFP) is LFP


def test_a_dry_run_is_passed_through():
    faux = hpcio.FauxTrial((5, 4), (slice(5, 10), slice(0, 4)), "i2")
    assert scaled(faux, noCompute=True) == ((5, 4), np.dtype("f8"))


def test_the_function_keeps_its_name_and_documentation():
    assert (scaled.__name__, scaled.__doc__) == ("scaled", "Scale a trial.")


@pytest.mark.parametrize("wrong", [[1.0], None, 2.0, (), (1, {}), "rec.h5", np.float64(1)])
def test_any_other_first_argument_is_refused(wrong):
    with pytest.raises(FunctionError, match=f"'scaled'.* {type(wrong).__name__}"):
        scaled(wrong)


# ---- a file of its own --------------------------------------------------------------------------


def test_a_worker_writes_a_file_of_its_own_and_returns_nothing(worker, tmp_path):
    trl_dat = worker()
    assert scaled(trl_dat) is None
    check(stored(trl_dat), 2.0 * LFP[5:10])
    with h5py.File(trl_dat["outfile"]) as f:
        assert list(f) == ["data"]
        assert f["data"].chunks is None
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["1_0.h5"]


def test_arguments_come_beside_the_dict_or_in_a_tuple_with_it(worker):
    for first, more in [
        ((worker(), 3.0), {"shift": 1.0}),
        ((worker(),), {"factor": 3.0, "shift": 1.0}),
    ]:
        assert scaled(first, **more) is None
        check(stored(worker()), 3.0 * LFP[5:10] + 1.0)
    assert scaled((worker(),), 4.0) is None
    check(stored(worker()), 4.0 * LFP[5:10])


def test_a_second_call_replaces_the_file(worker):
    scaled(worker(), 2.0)
    scaled(worker(), 5.0)
    check(stored(worker()), 5.0 * LFP[5:10])


@pytest.mark.parametrize("name", ["data", "/data", "group/of/results"])
def test_the_dataset_has_the_name_it_was_given(worker, name):
    trl_dat = worker(outdset=name)
    scaled(trl_dat)
    check(stored(trl_dat), 2.0 * LFP[5:10])


def test_a_function_that_raises_leaves_no_file(worker, tmp_path):
    @hpcio.unwrap_io
    def broken(trial):
        raise ZeroDivisionError("no")

    with pytest.raises(ZeroDivisionError, match="no"):
        broken(worker())
    assert not (tmp_path / "own").exists()


# ---- the keys -----------------------------------------------------------------------------------

REQUIRED = [
    "infile", "indset", "ingrid", "inshape", "vdsdir", "outfile", "outdset", "outgrid",
    "outshape", "dtype",
]  # fmt: skip


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(worker, key):
    trl_dat = worker()
    del trl_dat[key]
    with pytest.raises(FunctionError, match=f"'scaled' lacks {key}"):
        scaled(trl_dat)


@pytest.mark.parametrize("key", ["call_id", "sigrid", "fancy", "keeptrials"])
@pytest.mark.parametrize("target", ["worker", "shared"])
def test_some_keys_may_be_absent(request, target, key):
    trl_dat = request.getfixturevalue(target)()
    del trl_dat[key]
    scaled(trl_dat)
    found = stored(trl_dat)
    check(found[5:10] if target == "shared" else found, 2.0 * LFP[5:10])


def test_the_type_may_be_given_by_name(worker):
    scaled(worker(dtype="float64"))
    check(stored(worker()), 2.0 * LFP[5:10])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"infile": "/none/rec.h5"}, SourceError, "no file '/none/rec.h5'"),
        ({"infile": __file__}, SourceError, "not an HDF5 file"),
        ({"indset": "spikes"}, SourceError, r"'spikes'.*does not exist.*/lfp"),
        ({"ingrid": (slice(18, 23), slice(0, 4))}, TrialError, r"shape \(2, 4\), not \(5, 4\)"),
        ({"ingrid": (slice(5, 10), 9)}, TrialError, "does not fit '/lfp' of shape"),
        ({"fancy": True, "sigrid": ([0, 9], [1])}, TrialError, "Correct sigrid"),
        ({"fancy": True, "sigrid": ([0], [1])}, TrialError, "Correct inshape"),
        ({"outshape": (4, 5)}, FunctionError, r"shape \(5, 4\), but \(4, 5\) was planned"),
        ({"dtype": "i4"}, FunctionError, "float64, but int32 was planned"),
        ({"vdsdir": "/proc/own", "outfile": "/proc/own/1.h5"}, OutputError, "/proc/own/1.h5"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(worker, changes, error, message):
    with pytest.raises(error, match=message):
        scaled(worker(**changes))


# ---- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ingrid", "sigrid", "expected"),
    [
        ((slice(0, 5), slice(None), slice(None)), None, CUBE),
        ((slice(1, 5, 2), slice(0, 6, 3), slice(6, 7)), None, CUBE[1::2, ::3, 6:]),
        ((slice(0, 5), [0, 2, 5], slice(0, 7)), None, CUBE[:, [0, 2, 5]]),
        # an int takes its axis away, inshape brings it back
        ((3, slice(0, 6), slice(0, 7)), None, CUBE[3:4]),
        ((slice(0, 5), np.int64(2), slice(0, 7)), None, CUBE[:, 2:3]),
        ((4, 5, 6), None, CUBE[4:, 5:, 6:]),
        # of the region read: any order, any number of times
        ((slice(1, 4), slice(0, 6), slice(0, 7)), ([2, 0], [5, 5, 1], [3]),
         CUBE[1:4][np.ix_([2, 0], [5, 5, 1], [3])]),
        ((slice(1, 4), slice(0, 6), slice(0, 7)), (range(3), np.array([4, 0]), range(6, -1, -1)),
         CUBE[1:4, [4, 0], ::-1]),
        ((slice(0, 5), slice(0, 6), 1), (range(5), [3, 2]), CUBE[:, [3, 2], 1:2]),
        ((slice(0, 2), slice(0, 3), slice(0, 2)), ([0, 1], np.array([True, False, True]), [1]),
         CUBE[:2, [0, 2], 1:2]),
    ],
)  # fmt: skip
def test_a_region_is_read_as_numpy_reads_it(worker, ingrid, sigrid, expected):
    trl_dat = worker(
        indset="cube", ingrid=ingrid, sigrid=sigrid, fancy=sigrid is not None,
        inshape=expected.shape, outshape=expected.shape, dtype=CUBE.dtype,
    )  # fmt: skip
    same(trl_dat)
    check(stored(trl_dat), np.ascontiguousarray(expected))


def test_without_fancy_the_sigrid_does_not_count(worker):
    trl_dat = worker(sigrid=([0], [1]), fancy=False)
    same(trl_dat)
    check(stored(trl_dat), LFP[5:10])


@st.composite
def selections(draw: st.DrawFn) -> tuple[tuple[Any, ...], Any, tuple[int, ...]]:
    """A region of CUBE, indices in it, and the shape that the trial must have."""
    region: list[Any] = []
    sigrid, shape = [], []
    for size in CUBE.shape:
        if draw(st.integers(0, 4)) == 0:
            region.append(draw(st.integers(0, size - 1)))
            shape.append(1)
            continue
        start = draw(st.integers(0, size - 1))
        part = slice(start, draw(st.integers(start + 1, size)), draw(st.integers(1, 3)))
        length = len(range(*part.indices(size)))
        region.append(part)
        sigrid.append(draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=5)))
        shape.append(len(sigrid[-1]))
    return tuple(region), tuple(sigrid), tuple(shape)


@given(selections())
@settings(max_examples=100, deadline=None)
def test_any_selection_is_read_as_numpy_reads_it(tmp_path_factory, selection):
    region, sigrid, shape = selection
    folder = tmp_path_factory.getbasetemp() / "any"
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / "rec.h5", "w") as f:
        f["cube"] = CUBE
    trl_dat = {
        "infile": folder / "rec.h5", "indset": "cube", "ingrid": region, "inshape": shape,
        "fancy": bool(sigrid), "sigrid": sigrid, "vdsdir": folder, "outfile": folder / "1.h5",
        "outdset": "data", "outgrid": (), "outshape": shape, "dtype": CUBE.dtype,
    }  # fmt: skip
    same(trl_dat)
    read = CUBE[region]
    check(stored(trl_dat), (read[np.ix_(*sigrid)] if sigrid else read).reshape(shape))


# ---- what is written ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reduce", "outshape"),
    [
        (lambda trial: trial.mean(axis=0), (1, 4)),
        (lambda trial: trial.mean(axis=1), (5, 1)),
        (lambda trial: trial.mean(), (1, 1)),
        (lambda trial: trial.mean(axis=0)[None, :, None], (4,)),
    ],
)
@pytest.mark.parametrize("target", ["worker", "shared"])
def test_axes_of_length_one_are_put_back_and_dropped(request, target, reduce, outshape):
    outgrid = (slice(2, 2 + outshape[0]), slice(0, outshape[1])) if len(outshape) == 2 else (2,)
    trl_dat = request.getfixturevalue(target)(outshape=outshape, outgrid=outgrid)
    hpcio.unwrap_io(reduce)(trl_dat)
    found = stored(trl_dat)
    found = found[outgrid] if target == "shared" else found
    check(found, reduce(LFP[5:10]).reshape(outshape))


@pytest.mark.parametrize(
    ("returned", "dtype"),
    [("f8", "f4"), ("f4", "f8"), ("i4", "f8"), ("i4", ">i4"), ("c16", "c8"), ("?", "u1")],
)
@pytest.mark.parametrize("target", ["worker", "shared"])
def test_the_result_gets_the_announced_type(request, tmp_path, target, returned, dtype):
    trl_dat = request.getfixturevalue(target)(dtype=np.dtype(dtype), outdset="typed")
    with h5py.File(tmp_path / "shared.h5", "a") as f:
        f.create_dataset("typed", (20, 4), dtype)
    hpcio.unwrap_io(lambda trial: trial.astype(returned))(trl_dat)
    found = stored(trl_dat)
    found = found[5:10] if target == "shared" else found
    check(found, LFP[5:10].astype(returned).astype(dtype))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, r"nothing \(None\)"),
        ([1.0, 2.0], "a list"),
        ((LFP, LFP), "tuple of 2"),
        (np.array(["a"]), "type <U1"),
        (np.array([None]), "type object"),
        (np.ma.masked_equal(LFP[5:10], 25.0), "masked"),
        ((LFP[5:10], {"fit": np.array([None])}), "'fit' has the type object"),
        ((LFP[5:10], {"a/b": np.zeros(1)}), "without a slash"),
    ],
)
def test_what_cannot_be_stored_is_refused(worker, returned, message):
    with pytest.raises(FunctionError, match=message):
        hpcio.unwrap_io(lambda trial: returned)(worker())


# ---- details ------------------------------------------------------------------------------------

DETAILS = {
    "peaks": np.array([3, 1, 2], "i2"),
    "fit": np.array([[0.5, 1.0]], "f4"),
    "phase": np.array(1j),
    "ok": np.array(True),
    "names": np.array(["one", "zwölf"]),
}


@hpcio.unwrap_io
def detailed(trial, details):
    return trial, details


@pytest.mark.parametrize("target", ["worker", "shared"])
@pytest.mark.parametrize("call_id", ["__1_0", "", None])
def test_details_become_attributes(request, target, call_id):
    trl_dat = request.getfixturevalue(target)(call_id=call_id)
    detailed(trl_dat, DETAILS)
    found = stored(trl_dat)
    check(found[5:10] if target == "shared" else found, LFP[5:10])
    kept = details_of(trl_dat)
    assert set(kept) == {name + (call_id or "") for name in DETAILS}
    for name, value in DETAILS.items():
        expected = np.char.encode(value, "utf-8") if value.dtype.kind == "U" else value
        assert kept[name + (call_id or "")].dtype == expected.dtype
        np.testing.assert_array_equal(kept[name + (call_id or "")], expected)


def test_details_of_several_calls_share_one_group(shared):
    for trial in range(3):
        detailed(shared(call_id=f"__{trial}_0"), {"n": np.array(trial)})
    assert details_of(shared()) == {"n__0_0": 0, "n__1_0": 1, "n__2_0": 2}


@pytest.mark.parametrize("target", ["worker", "shared"])
def test_details_too_large_for_an_attribute_become_datasets(request, target):
    trl_dat = request.getfixturevalue(target)()
    for factor in (1.0, 2.0):  # a second call replaces them
        detailed(trl_dat, {"spectrum": factor * np.arange(50_000.0)})
    check(details_of(trl_dat)["spectrum__1_0"], 2.0 * np.arange(50_000.0))


def test_no_details_no_group(worker):
    detailed(worker(), {})
    with h5py.File(worker()["outfile"]) as f:
        assert list(f) == ["data"]


# ---- empty selections ---------------------------------------------------------------------------

EMPTY = [
    {"ingrid": (slice(5, 5), slice(0, 4)), "inshape": (0, 4)},
    {"ingrid": (slice(5, 10), []), "inshape": (5, 0)},
    {"ingrid": (slice(30, 40), slice(0, 4)), "inshape": (0, 4)},
    {"sigrid": (range(5), []), "fancy": True, "inshape": (5, 0)},
]


@pytest.mark.parametrize("changes", EMPTY)
@pytest.mark.parametrize(
    ("dtype", "fill"), [("f4", np.nan), ("c16", np.nan), ("i2", 0), ("?", False)]
)
def test_of_an_empty_selection_nothing_is_computed(worker, changes, dtype, fill):
    trl_dat = worker(**changes, dtype=dtype)
    assert never(trl_dat) is None
    check(stored(trl_dat), np.full((5, 4), fill, dtype))


@pytest.mark.parametrize("changes", EMPTY)
def test_an_empty_selection_leaves_the_shared_file_as_it_is(shared, changes):
    before = Path(shared()["outfile"]).read_bytes()
    assert never(shared(**changes)) is None
    assert Path(shared()["outfile"]).read_bytes() == before


# ---- one shared file ----------------------------------------------------------------------------


def test_a_worker_writes_its_region_and_no_other(shared):
    assert scaled(shared(outgrid=(slice(10, 15), slice(0, 4)))) is None
    expected = np.full((20, 4), -1.0)
    expected[10:15] = 2.0 * LFP[5:10]
    check(stored(shared()), expected)


@pytest.mark.parametrize("outgrid", [(3, slice(0, 4)), ([3], slice(None)), (slice(3, 4),)])
def test_a_region_may_be_named_by_an_int_a_list_or_its_first_axes(shared, outgrid):
    hpcio.unwrap_io(lambda trial: trial.max(axis=0))(shared(outgrid=outgrid, outshape=(1, 4)))
    check(stored(shared())[3], LFP[5:10].max(axis=0))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"outgrid": (slice(18, 23), slice(0, 4))}, TrialError, "Correct outgrid"),
        # as many values, but of another shape: never reshaped into place
        ({"outgrid": (slice(0, 10), slice(0, 2))}, TrialError, "Correct outgrid"),
        ({"outdset": "none"}, SourceError, "'none'.*does not exist"),
        ({"outfile": "/none/shared.h5"}, OutputError, "no output file '/none/shared.h5'"),
        ({"keeptrials": False}, TrialError, r"shape \(5, 4\).*\(20, 4\)"),
    ],
)
def test_what_does_not_fit_the_shared_file_is_named(shared, changes, error, message):
    with pytest.raises(error, match=message):
        scaled(shared(**changes))
    check(stored(shared()), np.full((20, 4), -1.0))


def test_a_shared_file_that_is_no_hdf5_is_named(shared, tmp_path):
    (tmp_path / "notes.txt").write_text("no HDF5")
    with pytest.raises(OutputError, match=r"notes\.txt.*file signature"):
        scaled(shared(outfile=tmp_path / "notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == "no HDF5"


def test_the_lock_is_free_after_an_error(shared):
    with pytest.raises(SourceError):
        scaled(shared(outdset="none"))
    scaled(shared())
    check(stored(shared())[5:10], 2.0 * LFP[5:10])


def test_without_keeptrials_results_are_added(shared):
    trl_dat = shared(keeptrials=False, outdset="sum")
    for factor in (1.0, 2.0, 4.0):
        scaled(trl_dat, factor)
    check(stored(trl_dat), 7.0 * LFP[5:10])


def test_in_a_sum_nan_counts_as_zero(shared):
    trl_dat = shared(keeptrials=False, outdset="sum")
    scaled(trl_dat)
    hpcio.unwrap_io(lambda trial: np.where(trial > 900, np.nan, trial))(trl_dat)
    trial = LFP[5:10]
    check(stored(trl_dat), 2.0 * trial + np.where(trial > 900, 0.0, trial))


# Every process is one of `SHARE` workers, and does the trials of its share.
SHARE = 3
PROCESS = """
import sys
import numpy as np, hpcio

@hpcio.unwrap_io
def scaled(trial, factor, chunkShape=None, noCompute=None):
    return factor * trial, {"first": trial[0, 0]}

folder, share, of, vdsdir = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] or None
print("ready", flush=True)
sys.stdin.readline()
for trial in range(share, 60, of):
    rows = (slice(5 * trial, 5 * trial + 5), slice(0, 4))
    common = dict(
        infile=f"{folder}/rec.h5", indset="lfp", ingrid=rows, inshape=(5, 4), vdsdir=vdsdir,
        outfile=f"{vdsdir}/{trial}.h5" if vdsdir else f"{folder}/shared.h5", outgrid=rows,
        outshape=(5, 4), dtype=np.dtype("f8"), call_id=f"__{trial}_0",
    )
    scaled((dict(common, outdset="data", keeptrials=True), 2.0))
    if vdsdir is None:
        scaled((dict(common, outdset="sum", keeptrials=False), 3.0))
"""


def run_share(folder: Path, vdsdir: str) -> None:
    """Let several processes begin at the same time, each with its share of 60 trials."""
    command = [sys.executable, "-c", PROCESS, str(folder)]
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, str(share), str(SHARE), vdsdir],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                )
            )
            for share in range(SHARE)
        ]  # fmt: skip
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.close()
    assert [child.returncode for child in children] == [0] * SHARE


@pytest.fixture
def recording(tmp_path: Path) -> np.ndarray:
    lfp = np.random.default_rng(1).integers(-1000, 1000, (300, 4)).astype("f8")
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = lfp
    return lfp


def test_several_processes_share_one_file(tmp_path, recording):
    with h5py.File(tmp_path / "shared.h5", "w") as f:
        f.create_dataset("data", (300, 4), "f8")
        f.create_dataset("sum", (5, 4), "f8")
    run_share(tmp_path, "")
    with h5py.File(tmp_path / "shared.h5") as f:
        check(f["data"][...], 2.0 * recording)
        check(f["sum"][...], 3.0 * recording.reshape(60, 5, 4).sum(axis=0))
        details = dict(f["metadata"].attrs)
    assert details == {f"first__{k}_0": recording[5 * k, 0] for k in range(60)}


def test_several_processes_write_files_of_their_own(tmp_path, recording):
    run_share(tmp_path, str(tmp_path / "own"))
    assert len(list((tmp_path / "own").iterdir())) == 60
    for trial in range(60):
        with h5py.File(tmp_path / "own" / f"{trial}.h5") as f:
            check(f["data"][...], 2.0 * recording[5 * trial : 5 * trial + 5])
            assert dict(f["metadata"].attrs) == {f"first__{trial}_0": recording[5 * trial, 0]}


# ---- dicts that are not as they should be -------------------------------------------------------

_NOT_ANY = [3.5, b"\0", "", object(), [None], ["a"], (slice("a"), slice(0, 4)), {}, True]


@pytest.mark.parametrize("kind", ["worker", "shared"])
@pytest.mark.parametrize(
    ("key", "values"),
    {
        "infile": [*_NOT_ANY, None, "a\0b"], "indset": [*_NOT_ANY, None, "/", "a\0b"],
        "ingrid": [*_NOT_ANY, None, "a", (slice(0, 9, 0), slice(0, 4)), np.zeros((2, 2))],
        "inshape": [*_NOT_ANY, None, (-1, 4)], "sigrid": [*_NOT_ANY, [[0.5], [0]]],
        "vdsdir": [x for x in _NOT_ANY if x is not None], "outfile": [*_NOT_ANY, None],
        "outdset": [*_NOT_ANY, None, "/", ".."], "outgrid": _NOT_ANY,
        "outshape": [*_NOT_ANY, None, (-1, 4), 5], "dtype": [None, "O", "S3", "no", 3.5, object()],
        "call_id": [3.5, b"x", [1], object()],
    }.items(),
)  # fmt: skip
def test_a_dict_that_is_not_as_it_should_be_is_refused_by_the_name_of_the_key(
    request, kind, key, values
):
    trl_dat = request.getfixturevalue(kind)
    for value in values:
        with pytest.raises(FunctionError, match=f"'{key}' of the dict for a worker of 'same' is"):
            same(trl_dat(fancy=True, **{key: value}))
    if key not in ("sigrid", "call_id"):
        lacking = trl_dat()
        del lacking[key]
        with pytest.raises(FunctionError, match=f"'same' lacks {key}"):
            same(lacking)


@pytest.mark.parametrize(
    "outgrid",
    [None, ([3, 1, 2, 0, 4], slice(0, 4)), ([0, 1, 2, 3, 4], [0, 1, 2, 3]), (slice(0, 5),) * 3],
)
def test_a_region_that_hdf5_does_not_write_is_told_by_the_name_of_the_key(shared, outgrid):
    with pytest.raises(TrialError, match="Correct outgrid"):
        same(shared(outgrid=outgrid))
