"""Whatever is wrong with a plan is said by name, with the remedy, and leaves nothing."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import (
    FunctionError,
    HpcioError,
    OutputError,
    PlanError,
    SourceError,
    TrialError,
)
from tests.rigs.bad import LENGTH, Case, case, check_error, make


def source(name: str, *says: str) -> Case:
    return case(SourceError, *says, source=name)


def trials(table: Any, *says: str, error: type[HpcioError] = TrialError, **given: Any) -> Case:
    return case(error, *says, trials=table, **given)


def func(name: Any, *says: str, error: type[HpcioError] = FunctionError, **given: Any) -> Case:
    name = f"bad_functions.py:{name}" if isinstance(name, str) and ":" not in name else name
    return case(error, *says, func=name, **given)


def tried(name: str, *says: str) -> Case:
    # With one trial: if it fails, there is no other of its shape to be tried.
    return func(name, *says, trials=[[0, 10]])


def out(name: str, *says: str) -> Case:
    return case(OutputError, *says, out=name)


def option(*says: str, error: type[HpcioError] = PlanError, **given: Any) -> Case:
    return case(error, *says, **given)


def uneven() -> np.ndarray:
    return np.array([[0, 10], [10, 40], [40, 60]])


def select(**what: Any) -> Callable[[], hpcio.Trials]:
    return lambda: hpcio.Trials.equal(10, rows=LENGTH).select(**what)


def closure_over(value: object) -> Callable[[np.ndarray], np.ndarray]:
    return lambda trial: trial if value is None else -trial


BAD = {
    # ---- the recording
    "no such file": source("no.h5::lfp", "no file", r"no\.h5'", "Check the path"),
    "no dataset named": source("rec.h5", "'rec.h5' does not name a dataset", "FILE::DATASET"),
    "no dataset after the colons": source("rec.h5::", "'rec.h5::'", "FILE::DATASET"),
    "no file before the colons": source("::lfp", "'::lfp'", "FILE::DATASET"),
    "a folder": source("folder.h5::lfp", r"folder\.h5' is a directory", "Name an HDF5 file"),
    "a file as a folder": source("rec.h5/x::lfp", r"rec\.h5/x'", "Check the path"),
    "a link to nowhere": source("dangling.h5::lfp", "no file", r"dangling\.h5", "Check the path"),
    "text": source("text.h5::lfp", r"text\.h5' is not an HDF5 file", "Convert it"),
    "an empty file": source("zero.h5::lfp", r"zero\.h5' is not an HDF5 file", "Convert it"),
    "a truncated file": source("short.h5::lfp", r"short\.h5'", "Restore it"),
    "no such dataset": source("rec.h5::/lfq", "'/lfq'", r"rec\.h5'", "Choose one", "/lfp"),
    "a group": source("rec.h5::/group", "'/group'", "is a group", "Choose one", "/group/inside"),
    "a scalar": source("rec.h5::scalar", "'scalar'", "at least one axis"),
    "a null dataset": source("rec.h5::none", "'none'", "at least one axis"),
    "a compound": source("rec.h5::compound", "'compound'", "Choose a dataset of integers"),
    "strings": source("rec.h5::text", "'text'", "Choose a dataset of integers"),
    "fixed strings": source("rec.h5::fixed", "'fixed'", "Choose a dataset of integers"),
    "opaque bytes": source("rec.h5::opaque", "'opaque'", "Choose a dataset of integers"),
    "ragged arrays": source("rec.h5::ragged", "'ragged'", "Choose a dataset of integers"),
    "a link to a missing file": source("rec.h5::gone", "'gone'", "is a link to .*there is no file"),
    "a link to nothing": source("rec.h5::broken", "'broken'", "Choose one"),
    "a virtual dataset": source("rec.h5::virtual", "virtual", r"missing\.h5'", "Put it back"),
    "no rows": source("rec.h5::empty", "'empty'", r"\(0, 3\)", "Choose another dataset"),
    # ---- trials
    "stop before start": trials([[0, 10], [20, 12]], "Trial 1", r"\[20, 12\)", "stop after start"),
    "stop at start": trials([[0, 10], [12, 12]], "Trial 1", "stop after start"),
    "a negative start": trials([[-1, 10]], "Trial 0", "Count rows from 0"),
    "beyond the end": trials([[0, 10], [50, 61]], "Trial 1", "'lfp'", r"60\. Correct the table"),
    "nan": trials([[0, 10.0], [10, np.nan]], "Trial 1", "stop is nan", "whole numbers"),
    "infinity": trials([[0, np.inf]], "Trial 0", "stop is inf", "whole numbers"),
    "half a row": trials([[0, 10.5]], "Trial 0", r"stop is 10\.5", "whole numbers"),
    "too large": trials(np.array([[0, 2**63]], "u8"), "Trial 0", "whole numbers"),
    "one column": trials([[0], [10]], r"\(2, 1\)", r"start, stop"),
    "four columns": trials([[0, 10, 0, 1]], r"\(1, 4\)", r"table\[:, :3\]"),
    "one axis": trials([0, 10], r"\(2,\)", "two axes"),
    "three axes": trials(np.zeros((1, 2, 2), int), r"\(1, 2, 2\)", "two axes"),
    "no trials": trials(np.zeros((0, 2), int), "no rows", "at least one trial"),
    "an empty list": trials([], r"\(0,\)", "two axes"),
    "words": trials([["a", "b"]], "<U1", "whole numbers"),
    "complex numbers": trials([[0, 10j]], "complex", "whole numbers"),
    "rows of several lengths": trials([[0, 10], [10]], "no array", "start, stop"),
    "nothing": trials(None, "trial", "start, stop"),
    "trials of no rows": trials(0, "0 rows", "Give a length from 1 to 60"),
    "trials of less": trials(-5, "-5 rows", "Give a length from 1 to 60"),
    "trials too long": trials(61, "61 rows", "Give a length from 1 to 60"),
    "a file that is not there": trials("no.csv", r"no\.csv'", "Check", error=SourceError),
    "words in a file": trials("words.csv", r"words\.csv', line 2, column 2: 'ten'", "whole num"),
    "one column in a file": trials("one.csv", r"one\.csv'", "1 columns", "start, stop"),
    "no trials in a file": trials("none.csv", r"none\.csv'", "Give one a line"),
    "beyond the end in a file": trials("late.csv", "Trial 1", "Correct the table"),
    "bytes in a file": trials("binary.csv", r"binary\.csv'", "CSV or TSV", error=SourceError),
    "no such table": trials("rec.h5::tabel", "'tabel'", "Choose one", error=SourceError),
    "the recording as table": trials("rec.h5::lfp", "'lfp' in 'rec.h5'", "whole numbers"),
    "text as table": trials("rec.h5::text", "'text'", "two axes"),
    "backwards in hdf5": trials("rec.h5::backwards", "Trial 1 of 'backwards' in 'rec.h5'"),
    "nan in hdf5": trials("rec.h5::nan", "Trial 1 of 'nan' in 'rec.h5'", "whole numbers"),
    "beyond the end in hdf5": trials("rec.h5::table", "Trial 1", "Correct the table"),
    # ---- selections
    "no such trial": trials(select(trials=[6]), "Trial 6", "Choose from 0 to 5"),
    "no trial left": trials(select(trials=slice(9, None)), "none of the 6 trials", "at least one"),
    "a mask of another length": trials(select(trials=[True] * 5), "mask", "5", "one for each"),
    "no such channel": trials(select(channels=[0, 3]), "Channel 3", "'lfp'", "Choose from 0 to 2"),
    "no channel left": trials(select(channels=slice(5, 9)), "channels", "at least one"),
    "no such sample": trials(select(time=[10]), "Trial 0 has no sample 10", "Select other"),
    "no sample left": trials(select(time=slice(20, 30)), "leaves nothing", "Select other"),
    "half a channel": trials(select(channels=[0.5]), "'channels'", "whole numbers"),
    "selected twice": trials(
        lambda: select(time=[1])().select(time=[0]), "'time' is selected already", "Select it once"
    ),
    # ---- axes
    "no such axis": option("axis=2", "'lfp'", "Choose one from 0 to 1", axis=2),
    "no such channel axis": option("channel axis 2", "'lfp'", error=TrialError, channel_axis=2),
    "one axis for both": option("Axis 0", "Give another axis", error=TrialError, channel_axis=0),
    "no channels in a block": option("channels_per_block is 0", "Give 1", error=TrialError,
                                     channels_per_block=0),
    "half a channel in a block": option("'channels_per_block'", "whole number", error=TrialError,
                                        channels_per_block=1.5),
    "no such axis of the result": option("join_axis=5", "join='stack'", join_axis=5),
    "no such channel axis of the result": option("out_channel_axis=5", "Say which axis",
                                                 channels_per_block=1, out_channel_axis=5),
    "both along one axis": option("both lie along axis 0", "Say join_axis=",
                                  channels_per_block=1, out_channel_axis=0),
    "an axis for stack": option("join_axis", "Leave it out", join="stack", join_axis=0),
    "too few names": option("2 axes", "names 1", "Name each", axes={"time": None}),
    "a name that is taken": option("'data' cannot be the name", axes={"data": None, "c": None}),
    "a name with a slash": option("'a/b' cannot be the name", axes={"a/b": None, "c": None}),
    "coordinates of another length": option("'c'", "3 rows", "one number or text for each",
                                            axes={"time": None, "c": [1, 2]}),
    # ---- options
    "no such writer": option("writer 'zip'", "Choose one of", writer="zip"),
    "no such kind of sources": option("sources='many'", "Choose auto", sources="many"),
    "no such join": option("join='glue'", "Choose concatenate", join="glue"),
    # ---- functions
    "no such module": func("no_such_module_at_all:f", "no_such_module_at_all", "PYTHONPATH"),
    "no such attribute": func("bad_functions:nothing", "no 'nothing'", "MODULE:FUNC"),
    "no such attribute in a file": func("nothing", "no 'nothing'", "FILE.py:FUNC"),
    "no such function file": func("no_file.py:f", "no file 'no_file.py'", "Check the path"),
    "no function named": func("bad_functions:", "names no function", "MODULE:FUNC"),
    "no module named": func(":good", "names no function", "MODULE:FUNC"),
    "no colon": case(FunctionError, "'good' names no function", "MODULE:FUNC", func="good"),
    "a number": func("FACTOR", "is a int", "Name a function"),
    "a number itself": case(FunctionError, "3 is not callable", "Pass a function", func=3),
    "nothing to call": case(FunctionError, "None is not callable", "Pass a function", func=None),
    "a syntax error": func("bad_syntax.py:f", "bad_syntax", "SyntaxError", "Mend the module"),
    "a missing import": func("bad_import.py:f", "no_such_package_at_all", "import what it needs"),
    "an error at import": func("bad_raise.py:f", "ZeroDivisionError", "Mend the module"),
    "an exit at import": func("bad_exit.py:f", "SystemExit", "Mend the module"),
    "a hidden standard module": func("bad_functions.py:lock.no", "no 'lock.no'"),
    "not picklable": case(PlanError, "cannot be pickled", "pass plain values",
                          func=closure_over(threading.Lock())),
    # ---- what they do in the dry run
    "raises": tried("raises", "'bad_functions:raises'", "ZeroDivisionError", "by nothing",
                   "Call it with one trial"),
    "exits": tried("exits", "'bad_functions:exits'", "SystemExit", "Call it with one trial"),
    "lacks an argument": tried("needs", "'bad_functions:needs'", "factor",
                               "Call it with one trial"),
    "returns nothing": tried("none", "'bad_functions:none'", "nothing", "Return a numpy array"),
    "returns a list": tried("a_list", "a list", "Return a numpy array"),
    "returns a dict": tried("a_dict", "result 'mean': .* a str", "Return a numpy array"),
    "returns text": tried("text", "a str", "Return a numpy array"),
    "returns three": tried("three", "tuple of 3", r"\(array, details\)"),
    "returns a pair of arrays": tried("pair", "tuple of 2", r"\(array, details\)"),
    "returns objects": tried("objects", "object", "Return integers"),
    "returns masks": tried("masked", "masked array", r"filled\(value\)"),
    "returns dates": tried("dates", r"datetime64\[ns\]", "Return integers"),
    "returns time spans": tried("spans", r"timedelta64\[s\]", "Return integers"),
    "returns strings": tried("strings", "<U1", "Return integers"),
    "returns records": tried("records", "'x'", "Return integers"),
    "a detail of objects": tried("bad_detail", "detail 'x'", "numbers or strings"),
    "a detail with a slash": tried("bad_name", "'a/b'", "without a slash"),
    "a detail with a number": tried("no_name", "key 3", "names"),
    "a changing rank": func("rank", r"\[1, 2\] axes", "Return the same number", trials=uneven),
    "a changing width": func("width", "different shapes", "Return equal shapes", trials=uneven),
    "a changing type": func("kind", "float64 for trial 1", "one type", trials=uneven),
    "unequal shapes to stack": func("good", "cannot be stacked", "another join", trials=uneven,
                                    join="stack"),
    # ---- what they announce
    "announces nothing": func("dry_none", "None", r"Return \(shape, dtype\)"),
    "announces a shape": func("dry_shape", r"\(10, 3\)", r"Return \(shape, dtype\)"),
    "announces an array": func("dry_array", r"Return \(shape, dtype\)"),
    "announces no type": func("dry_type", "float33", r"Return \(shape, dtype\)"),
    "announces a negative shape": func("dry_negative", r"\(-1, 3\)", "Return lengths from 0"),
    "announces dates": func("dry_dates", "datetime64", "Return integers"),
    "announces text": func("dry_text", "<U5", "Return integers"),
    "asks for values": func("dry_values", "no values", "noCompute"),
    "raises in the dry run": func("dry_raises", "'bad_functions:dry_raises'", "ZeroDivisionError",
                                  "Call it with one trial"),
    "out_shape contradicts": func("silent", r"\(10, 3\)", "out_shape", "Correct out_shape",
                                  out_shape=(1, 3)),
    "out_dtype narrows": func("silent", "float64", "int32 is asked for", out_dtype="i4"),
    "out_dtype of dates": func("good", "datetime64", "Return integers", out_shape=(1, 3),
                               out_dtype="M8[ns]"),
    "out_dtype unknown": func("good", "float33", error=PlanError, out_dtype="float33"),
    "out_shape of words": func("good", "out_shape", error=PlanError, out_shape="ab",
                               out_dtype="f8"),
    # ---- arguments
    "too few values": func("needs", "0 has 5 values for 6 trials", "one value for each",
                           args=lambda: (hpcio.per_trial([1] * 5),), error=PlanError),
    "too many values": func("needs", "'factor' has 7 values for 6 trials", "one value for each",
                            kwargs=lambda: {"factor": hpcio.per_trial([1] * 7)}, error=PlanError),
    "a number for each": func("needs", "per_trial needs a sequence", "Pass a list",
                              args=lambda: (hpcio.per_trial(3),), error=PlanError),
    "a lock": func("needs", "cannot be pickled", "pass plain values",
                   args=lambda: (threading.Lock(),), error=PlanError),
    "an open file": func("needs", "cannot be pickled", "open files inside the function",
                         args=lambda: (h5py.File("rec.h5"),), error=PlanError),
    "a generator": func("needs", "cannot be pickled", "pass plain values",
                        kwargs=lambda: {"factor": (n for n in range(3))}, error=PlanError),
    "a reserved name": func("good", "'noCompute' is set by the plan", "Take it out",
                            kwargs={"noCompute": True}, error=PlanError),
    "a number for all arguments": func("needs", "args", "tuple", args=3, error=PlanError),
    "a list for all options": func("needs", "kwargs", "dict", kwargs=[1], error=PlanError),
    "an option without a name": func("needs", "kwargs", "dict", kwargs={1: 2}, error=PlanError),
    # ---- numbers and paths
    "an axis by name": func("good", "axis='time' makes no sense", "a whole number", axis="time",
                            error=PlanError),
    "no axis": func("good", "axis=None makes no sense", axis=None, error=PlanError),
    "a join axis by name": func("good", "join_axis='time' makes", join_axis="time",
                                error=PlanError),
    "half an axis of channels": func("good", "out_channel_axis=0.5 makes", out_channel_axis=0.5,
                                     error=PlanError),
    "a number for the recording": func("good", "source=5 is no path", source=5, error=PlanError),
    "bytes for the recording": func("good", "is no path", source=b"rec.h5::lfp", error=PlanError),
    "no output": func("good", "out=None is no path", "pathlib", out=None, error=PlanError),
    "bytes for the output": func("good", "is no path", out=b"out.h5", error=PlanError),
    # ---- the output
    "it exists": out("taken.h5", r"taken\.h5' exists", "Choose another name"),
    "it is a folder": out("folder.h5", r"folder\.h5' exists", "Choose another name"),
    "it is a link to nowhere": out("broken.h5", r"broken\.h5' exists", "Choose another name"),
    "it is the recording": out("rec.h5", r"rec\.h5' exists", "Choose another name"),
    "it has no name": out("", "exists", "Choose another name"),
    "it has no folder": out("no/where/out.h5", "no folder", "no/where'", "Make it first"),
    "its folder is a file": out("rec.h5/out.h5", "no folder", r"rec\.h5'", "Make it first"),
}  # fmt: skip


@pytest.mark.parametrize(("error", "says", "given"), BAD.values(), ids=BAD)
def test_a_plan_that_cannot_be_made(folder, error, says, given):
    before = {p: p.lstat().st_mtime_ns for p in folder.rglob("*") if "__pycache__" not in str(p)}
    with pytest.raises(error) as info:
        make(given)
    check_error(info.value, says)
    after = {p: p.lstat().st_mtime_ns for p in folder.rglob("*") if "__pycache__" not in str(p)}
    assert after == before


TYPED = """
def typed(trial, noCompute=None):
    return (trial.shape, {dtype!r}) if noCompute else (100 * trial).astype({dtype!r})
def silent(trial):
    return typed(trial)
"""


@pytest.mark.parametrize(
    ("dtype", "func"),
    [
        *((d, "typed") for d in ("f2", "<f4", ">f8", "g", "<c8", ">c16", "G", "?", "i1", ">u2")),
        *((d, "silent") for d in ("u8", "G")),
    ],
)
def test_a_type_is_stored_as_it_is_or_refused(folder, dtype, func):
    (folder / "bad_types.py").write_text(TYPED.format(dtype=dtype))
    with h5py.File("rec.h5") as f:
        expected = (100 * f["lfp"][...]).astype(dtype)
    try:
        plan = make({"func": f"bad_types.py:{func}"})
    except FunctionError as error:
        assert dtype == "G"  # which h5py cannot hold everywhere
        check_error(error, "complex.*Return integers, floats")
        return
    plan.run(workers=0, progress=False)
    hpcio.repack("out.h5", "one.h5")
    for name in ("out.h5", "one.h5"):
        with hpcio.open(name) as f:
            assert f["data"].dtype == np.dtype(dtype)
            np.testing.assert_array_equal(f["data"][...], expected)


def test_a_recording_that_is_open_for_writing_elsewhere(folder):
    with (folder / "rec.h5").open("rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with pytest.raises(SourceError) as info:
            make({})
    check_error(info.value, r"rec\.h5' is open for writing elsewhere.*Close it there")
