"""Whatever names trials, arrays, text, HDF5 or a length, is read and checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import SourceError, TrialError
from hpcio.recording.trials import Trials


def rows_of(trials: Trials) -> list[tuple[int, ...]]:
    columns = (trials.start, trials.stop, trials.offset)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_from_array() -> None:
    assert rows_of(Trials.from_array([[0, 10], [5, 20]])) == [(0, 10, 0), (5, 20, 0)]
    assert rows_of(Trials.from_array([[0.0, 10.0, -3.0]])) == [(0, 10, -3)]


def test_the_table_can_change_afterwards() -> None:
    table = np.array([[0, 10, 1]])
    trials = Trials.from_array(table)
    table[:] = 7
    assert rows_of(trials) == [(0, 10, 1)]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[0, 10], [20, 20]], r"Trial 1 of the table: its rows are \[20, 20\)"),
        ([[0, 10], [20, 30], [-4, 2]], r"Trial 2 .*\[-4, 2\).*negative"),
        ([[0, 10], [0.5, 2]], "Trial 1 .*start is 0.5"),
        ([[0, np.nan]], "Trial 0 .*stop is nan"),
        ([[0, np.inf]], "Trial 0 .*stop is inf"),
        ([[0, 1e300]], "Trial 0 .*stop is 1e"),
        ([[0, 10, 0.25]], "Trial 0 .*offset is 0.25"),
        (np.array([[0, 2**64 - 1]], np.uint64), "Trial 0 .*stop is 18446744073709551615"),
        ([[0, 1, 2, 3]], r"shape \(1, 4\).*start, stop"),
        ([[1]], r"shape \(1, 1\)"),
        ([0, 10], r"shape \(2,\)"),
        (np.zeros((0, 2)), "no rows"),
        ([["a", "b"]], "type <U1"),
        ([[True, False]], "type bool"),
        ([[0, 10], [1]], "differ in length"),
        (None, "shape"),
    ],
)
def test_a_bad_table_is_refused(table: Any, message: str) -> None:
    with pytest.raises(TrialError, match=message):
        Trials.from_array(table)


def test_from_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "rec.h5"
    with h5py.File(path, "w") as f:
        f["good"] = np.array([[0.0, 10.0, 2.0], [10.0, 30.0, -2.0]])
        f["bad"] = np.array([[0, 10], [10, 3]])
        f["empty"] = h5py.Empty("f")
        f["lfp"] = np.zeros((10, 64))
    assert rows_of(Trials.from_hdf5(f"{path}::/good")) == [(0, 10, 2), (10, 30, -2)]
    with pytest.raises(TrialError, match=r"Trial 1 of '/bad' in '.*rec.h5': .*\[10, 3\)"):
        Trials.from_hdf5(f"{path}::/bad")
    with pytest.raises(TrialError, match=r"'/lfp' in '.*rec.h5' has the shape \(10, 64\)"):
        Trials.from_hdf5(f"{path}::/lfp")
    with pytest.raises(TrialError, match=r"'/empty'.*shape None"):
        Trials.from_hdf5(f"{path}::/empty")
    with pytest.raises(SourceError, match=r"'/absent'.*does not exist"):
        Trials.from_hdf5(f"{path}::/absent")


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rec.h5"
    with h5py.File(path, "w") as f:
        table = f.create_dataset("t", data=np.ones((9, 2)), chunks=(9, 2), fletcher32=True)
        where = table.id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as raw:
        raw.seek(where)
        raw.write(b"damage")
    with pytest.raises(SourceError, match=r"cannot read '/t' in '.*rec.h5'"):
        Trials.from_hdf5(f"{path}::/t")


@pytest.mark.parametrize(
    "text",
    [
        "0,10,1\n10,30,-2\n",
        "0\t10\t1\n10\t30\t-2",
        "start,stop,offset\n0,10,1\n10,30,-2\n",
        "\ufeffstart,stop,offset\r\n0,10,1\r\n10,30,-2\r\n",
        '"Offset","name","STOP","start"\n1,"a, b",10,0\n-2,"c",30,10\n',
        "stop,label,start,offset\n10,a,0,1\n30,b,10,-2\n",
        "# by hand\n\nstart\tstop\toffset # samples\n0\t10\t1\n# 5\t6\t7\n10 \t30\t-2 # last\n",
        "0.0,1e1,1.0\n 10 , 30.0 ,-2.00\n,,\n",
    ],
)
def test_from_csv(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trials.txt"
    path.write_bytes(text.encode())
    assert rows_of(Trials.from_csv(path)) == [(0, 10, 1), (10, 30, -2)]


def test_the_ending_decides_between_commas_and_tabs(tmp_path: Path) -> None:
    commas, tabs = tmp_path / "a.csv", tmp_path / "a.tsv"
    commas.write_text("start,stop,a\tb\n0,10,x\n")
    tabs.write_text("start\tstop\ta,b\n0\t10\tx\n")
    assert rows_of(Trials.from_csv(commas)) == rows_of(Trials.from_csv(tabs)) == [(0, 10, 0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("start,stop\n0,10\n10,1O0\n", "line 3, column 2: '1O0'"),
        ("0,10\n1O,20\n", "line 2, column 1: '1O'"),
        ("0,1O\n10,20\n", "line 1, column 2: '1O'"),
        ("# c\n0,10.5\n", "line 2, column 2: '10.5'"),
        ("0,nan\n", "line 1, column 2: 'nan'"),
        ("0,inf\n", "line 1, column 2: 'inf'"),
        ("0,99999999999999999999\n", "column 2"),
        ("start,x,stop\n0,1,2\n3,4,\n", "line 3, column 3: ''"),
        ("start,stop\n0,10\n\n9,3\n", r"Trial 1 of '.*' \(line 4\): its rows are \[9, 3\)"),
        ("0,10\n1,2,3\n", "line 2 has 3 columns, the first line has 2"),
        ("0 10\n", "line 1 has 1 columns"),
        ("0,1,2,3\n", "line 1 has 4 columns"),
        ("start,start,stop\n0,1,2\n", "two columns 'start'"),
        ("offset,begin,end\n0,1,2\n", "has the columns offset, begin, end. Name those that"),
        ("start,duration\n0,10\n", "has the columns start, duration. Name those that hold"),
        ("start,stop\n", "no trials"),
        ("", "no trials"),
    ],
)
def test_a_bad_text_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "trials.csv"
    path.write_text(text)
    with pytest.raises(TrialError, match=message) as caught:
        Trials.from_csv(path)
    assert str(path) in str(caught.value)


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no file"):
        Trials.from_csv(tmp_path / "absent.csv")
    with pytest.raises(SourceError, match="Is a directory"):
        Trials.from_csv(tmp_path)
    with h5py.File(tmp_path / "rec.h5", "w"):
        pass
    with pytest.raises(SourceError, match="FILE::DATASET"):
        Trials.read(tmp_path / "rec.h5", rows=10)


def test_equal() -> None:
    trials = Trials.equal(30, rows=100, axis=-1)
    assert rows_of(trials) == [(0, 30, 0), (30, 60, 0), (60, 90, 0)]
    assert trials.axis == -1
    for length in (0, -5, 101):
        with pytest.raises(TrialError, match=f"{length} rows"):
            Trials.equal(length, rows=100)
    with pytest.raises(TrialError, match=r"'length' is 2\.5"):
        Trials.equal(2.5, rows=100)  # type: ignore[arg-type]


def test_read_takes_whatever_names_trials(tmp_path: Path) -> None:
    table = np.array([[0, 10, 0], [10, 20, 0]])
    csv, hdf5 = tmp_path / "t.csv", tmp_path / "t.h5"
    np.savetxt(csv, table, fmt="%d", delimiter=",")
    with h5py.File(hdf5, "w") as f:
        f["t"] = table
    trials = Trials.from_array(table, axis=1)
    assert Trials.read(trials, rows=20) is trials
    for spec in (10, np.int32(10), table, table.tolist(), csv, str(csv), f"{hdf5}::t"):
        found = Trials.read(spec, rows=20, axis=1)
        assert rows_of(found) == rows_of(trials)
        assert found.axis == 1


def test_columns_that_are_no_trials_are_refused() -> None:
    one = np.array([1])
    with pytest.raises(TrialError, match="'stop' has the type"):
        Trials(one, np.array([2.5]), one, one)
    with pytest.raises(TrialError, match=r"'offset' has .* shape \(2,\)"):
        Trials(one, one + 1, np.array([1, 2]), one)
    with pytest.raises(TrialError, match="Trial 7: "):
        Trials(one, one, one, one * 7)
    with pytest.raises(TrialError, match="no trials"):
        Trials(one[:0], one[:0], one[:0], one[:0])


# ---------------------------------------------------------------- the table of a result

X = np.arange(80.0).reshape(40, 2)
TABLE = [[10, 20, 3], [0, 10, 4], [30, 35, 5]]


def result(folder: Path, func: Any = np.negative, **options: Any) -> Path:
    """A result, whose trials do not lie in the order of the recording."""
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = X
    running = {name: options.pop(name) for name in ("gaps",) if name in options}
    options = {"trials": TABLE, "out": folder / "one.h5", **options}
    plan = hpcio.Plan.create(func, f"{folder}/rec.h5::/lfp", **options)
    plan.run(workers=0, progress=False, **running)
    return folder / "one.h5"


def next_step(
    one: Path, trials: Any = None, *, dataset: str = "data", **options: Any
) -> hpcio.Plan:
    spec = f"{one}::/trials" if trials is None else trials
    options = {"trials": spec, "join": "stack", "out": one.parent / "two.h5", **options}
    return hpcio.Plan.create(lambda x: x.sum(axis=0), f"{one}::/{dataset}", **options)


def test_the_table_of_a_result_cuts_that_result(tmp_path: Path) -> None:
    plan = next_step(result(tmp_path))
    assert rows_of(plan.trials) == [(0, 10, 3), (10, 20, 4), (20, 25, 5)]
    plan.run(workers=0, progress=False)
    with hpcio.open(plan.out) as f:
        assert f["data"][()].tolist() == [(-X[a:b]).sum(axis=0).tolist() for a, b, _ in TABLE]


def test_some_rows_of_it_as_an_array_do_so_too(tmp_path: Path) -> None:
    one = result(tmp_path)
    with hpcio.open(one) as f:
        table = f["trials"][()]
    assert rows_of(next_step(one, table[[2, 0]]).trials) == [(20, 25, 5), (0, 10, 3)]


def test_rows_of_a_result_that_are_no_samples_have_no_offset(tmp_path: Path) -> None:
    one = result(tmp_path, lambda x: x[::2][:2])
    assert rows_of(next_step(one).trials) == [(0, 2, 0), (2, 4, 0), (4, 6, 0)]


def test_the_table_of_a_result_cuts_its_recording_as_before(tmp_path: Path) -> None:
    one = result(tmp_path, lambda x: x[:1])
    plan = hpcio.Plan.create(
        np.negative, f"{tmp_path}/rec.h5::/lfp", trials=f"{one}::/trials", out=tmp_path / "two.h5"
    )
    assert rows_of(plan.trials) == [(10, 20, 3), (0, 10, 4), (30, 35, 5)]


def test_a_gap_in_a_result_is_no_trial(tmp_path: Path) -> None:
    def func(x: np.ndarray) -> np.ndarray:
        if x.sum() == X[0:10].sum():
            raise ValueError("unlucky")
        return x * 1

    one = result(tmp_path, func, gaps=True)
    with pytest.raises(
        TrialError, match=r"Trial 1 of the result '.*one.h5' is a gap.*table\['done'"
    ):
        next_step(one)
    with hpcio.open(one) as f:
        table = f["trials"][()]
    assert rows_of(next_step(one, table[table["done"]]).trials) == [(0, 10, 3), (20, 25, 5)]


def test_a_result_is_cut_along_the_axis_that_its_trials_were_joined_along(tmp_path: Path) -> None:
    one = result(tmp_path, lambda x: x.T, join_axis=1)
    with pytest.raises(TrialError, match=r"joined along axis 1 of 'data', not 0\. Give axis=1"):
        next_step(one)
    plan = next_step(one, axis=1, join="concatenate", join_axis=0)
    assert rows_of(plan.trials) == [(0, 10, 3), (10, 20, 4), (20, 25, 5)]


def test_an_average_is_not_cut_by_its_table(tmp_path: Path) -> None:
    one = result(tmp_path, trials=10, reduce="mean", keeptrials=False)
    with pytest.raises(TrialError, match="is an average"):
        next_step(one)


@pytest.mark.parametrize(
    ("words", "dtype"),
    [
        ([b"left", b"right", b""], "<U5"),
        ([b"", b""], "<U1"),
        (["größe".encode(), b"a"], "<U5"),
        ([b"a\0b", b"x"], "<U3"),
        ([b"\xff!"], "<U2"),
    ],
)
def test_bytes_become_text_as_short_as_the_longest(words: list[bytes], dtype: str) -> None:
    trials = Trials.equal(1, rows=len(words)).with_columns(word=np.array(words, "S20"))
    assert trials["word"].dtype == dtype
    assert trials["word"].tolist() == [word.decode(errors="replace") for word in words]
