"""Whatever is wrong is said before work begins, by name, with the remedy, and leaves nothing."""

from __future__ import annotations

import builtins
import fcntl
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import errors
from hpcio.errors import (
    BlocksFailed,
    FunctionError,
    HpcioError,
    MemoryLimitError,
    OutputError,
    PlanError,
    SourceError,
    TrialError,
    WorkerError,
)
from tests.rigs.support import record, run, without_privileges

LENGTH = 60  # rows of the recording, of 3 channels

FUNCTIONS = """
import numpy as np

FACTOR = 3
lock = __import__("threading").Lock()

def good(trial): return trial
def raises(trial): raise ZeroDivisionError("by nothing")
def exits(trial): raise SystemExit(3)
def needs(trial, factor): return trial
def none(trial): return None
def a_list(trial): return trial.tolist()
def a_dict(trial): return {"mean": trial.mean()}
def text(trial): return "mean"
def three(trial): return trial, {}, trial
def pair(trial): return trial, trial
def objects(trial): return np.array([None, trial], dtype=object)
def masked(trial): return np.ma.masked_less(trial, 0)
def dates(trial): return np.zeros(3, "M8[ns]")
def spans(trial): return np.zeros(3, "m8[s]")
def strings(trial): return np.array(["a", "b"])
def records(trial): return np.zeros(3, [("x", "f4")])
def rank(trial): return trial if trial.shape[0] < 25 else trial[0]
def width(trial): return trial[:, : 1 + trial.shape[0] // 25]
def kind(trial): return trial.astype("f4" if trial.shape[0] < 25 else "f8")
def empty(trial): return trial[:0]
def bad_detail(trial): return trial, {"x": np.array([None])}
def bad_name(trial): return trial, {"a/b": trial[0]}
def no_name(trial): return trial, {3: trial[0]}

def asks(trial, noCompute=None):
    return (trial.shape, "f8") if noCompute else trial
def dry_raises(trial, noCompute=None): raise ZeroDivisionError("by nothing")
def dry_values(trial, noCompute=None): return (trial + 1).shape, "f8"
def dry_none(trial, noCompute=None): return None
def dry_shape(trial, noCompute=None): return trial.shape
def dry_array(trial, noCompute=None): return np.zeros(3)
def dry_type(trial, noCompute=None): return trial.shape, "float33"
def dry_negative(trial, noCompute=None): return (-1, 3), "f8"
def dry_dates(trial, noCompute=None): return trial.shape, "M8[ns]"
def dry_text(trial, noCompute=None): return trial.shape, "U5"

def lies(trial, what=None, noCompute=None):
    if noCompute:
        return trial.shape, "f8"
    return {
        "shape": lambda: trial[:2], "rank": lambda: trial[..., None, None].repeat(2, -1),
        "type": lambda: trial.astype("c16"), "narrow": lambda: trial.astype("f4"),
        "none": lambda: None, "list": lambda: trial.tolist(), "number": lambda: 3.0,
        "objects": lambda: objects(trial), "masked": lambda: masked(trial),
        "dates": lambda: dates(trial), "details": lambda: bad_detail(trial),
        "three": lambda: three(trial), "error": lambda: raises(trial),
        "exit": lambda: exits(trial),
    }[what]()
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A recording with all sorts of things in it, beside all sorts of files."""
    folder = tmp_path_factory.mktemp("bad")
    record(folder / "rec.h5")
    with h5py.File(folder / "rec.h5", "r+") as f:
        f["group/inside"] = np.zeros((9, 2))
        f["scalar"] = 3.0
        f["empty"] = np.zeros((0, 3))
        f["none"] = h5py.Empty("f8")
        f["compound"] = np.zeros(60, [("x", "f4"), ("y", "i4")])
        f["text"] = ["a"] * 60
        f["fixed"] = np.array([b"abc"] * 60)
        f["opaque"] = np.zeros(60, "V5")
        f.create_dataset("ragged", (60,), h5py.vlen_dtype("f8"))
        f["gone"] = h5py.ExternalLink("nowhere.h5", "/lfp")
        f["broken"] = h5py.SoftLink("/nothing")
        f["table"] = np.array([[0, 10], [10, 70]])
        f["backwards"] = np.array([[0, 10], [10, 10]])
        f["nan"] = np.array([[0, 10.0], [10, np.nan]])
        virtual = h5py.VirtualLayout((60, 3), "f8")
        virtual[:] = h5py.VirtualSource("missing.h5", "lfp", (60, 3))
        f.create_virtual_dataset("virtual", virtual)
    (folder / "text.h5").write_text("not HDF5")
    (folder / "zero.h5").touch()
    shutil.copy(folder / "rec.h5", folder / "short.h5")
    os.truncate(folder / "short.h5", 3000)
    (folder / "folder.h5").mkdir()
    (folder / "dangling.h5").symlink_to("nowhere")
    (folder / "taken.h5").write_text("my thesis")
    (folder / "broken.h5").symlink_to("nowhere")
    (folder / "words.csv").write_text("start,stop\n0,ten\n")
    (folder / "one.csv").write_text("0\n10\n")
    (folder / "none.csv").write_text("start,stop\n")
    (folder / "late.csv").write_text("start,stop\n0,10\n50,70\n")
    (folder / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    (folder / "bad_functions.py").write_text(FUNCTIONS)
    (folder / "bad_syntax.py").write_text("def f(trial:\n")
    (folder / "bad_import.py").write_text("import no_such_package_at_all\ndef f(trial): pass\n")
    (folder / "bad_exit.py").write_text("def f(trial): pass\nraise SystemExit(3)\n")
    (folder / "bad_raise.py").write_text("def f(trial): pass\n1 / 0\n")
    return folder


@pytest.fixture
def folder(template, tmp_path, monkeypatch) -> Path:
    """A copy of it, as the folder at hand."""
    shutil.copytree(template, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [n for n in sys.modules if n.startswith("bad_")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


class Case(NamedTuple):
    """What is given instead of what is right, what is raised, and what it must say."""

    error: type[HpcioError]
    says: str
    given: dict[str, Any]


def case(error: type[HpcioError], *says: str, **given: Any) -> Case:
    return Case(error, ".*".join(says), given)


def source(name: str, *says: str) -> Case:
    return case(SourceError, *says, source=name)


def trials(table: Any, *says: str, error: type[HpcioError] = TrialError, **given: Any) -> Case:
    return case(error, *says, trials=table, **given)


def func(name: Any, *says: str, error: type[HpcioError] = FunctionError, **given: Any) -> Case:
    name = f"bad_functions.py:{name}" if isinstance(name, str) and ":" not in name else name
    return case(error, *says, func=name, **given)


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
    "a link to a missing file": source("rec.h5::gone", "'gone'", "Choose one"),
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
    "words in a file": trials("words.csv", r"words\.csv', line 2, column 2", "'ten'", "Correct it"),
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
    "raises": func("raises", "'bad_functions:raises'", "ZeroDivisionError", "by nothing",
                   "Call it with one trial"),
    "exits": func("exits", "'bad_functions:exits'", "SystemExit", "Call it with one trial"),
    "lacks an argument": func("needs", "'bad_functions:needs'", "factor", "Call it with one trial"),
    "returns nothing": func("none", "'bad_functions:none'", "nothing", "Return a numpy array"),
    "returns a list": func("a_list", "a list", "Return a numpy array"),
    "returns a dict": func("a_dict", "a dict", "Return a numpy array"),
    "returns text": func("text", "a str", "Return a numpy array"),
    "returns three": func("three", "tuple of 3", r"\(array, details\)"),
    "returns a pair of arrays": func("pair", "tuple of 2", r"\(array, details\)"),
    "returns objects": func("objects", "object", "Return integers"),
    "returns masks": func("masked", "masked array", r"filled\(value\)"),
    "returns dates": func("dates", r"datetime64\[ns\]", "Return integers"),
    "returns time spans": func("spans", r"timedelta64\[s\]", "Return integers"),
    "returns strings": func("strings", "<U1", "Return integers"),
    "returns records": func("records", "'x'", "Return integers"),
    "a detail of objects": func("bad_detail", "detail 'x'", "numbers or strings"),
    "a detail with a slash": func("bad_name", "'a/b'", "without a slash"),
    "a detail with a number": func("no_name", "key 3", "names"),
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
    "out_shape contradicts": func("good", r"\(10, 3\)", "out_shape", "Correct out_shape",
                                  out_shape=(1, 3)),
    "out_dtype narrows": func("good", "float64", "int32 is asked for", out_dtype="i4"),
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
    # ---- the output
    "it exists": out("taken.h5", r"taken\.h5' exists", "Choose another name"),
    "it is a folder": out("folder.h5", r"folder\.h5' exists", "Choose another name"),
    "it is a link to nowhere": out("broken.h5", r"broken\.h5' exists", "Choose another name"),
    "it is the recording": out("rec.h5", r"rec\.h5' exists", "Choose another name"),
    "it has no name": out("", "exists", "Choose another name"),
    "it has no folder": out("no/where/out.h5", "no folder", "no/where'", "Make it first"),
    "its folder is a file": out("rec.h5/out.h5", "no folder", r"rec\.h5'", "Make it first"),
}  # fmt: skip


def make(given: dict[str, Any]) -> hpcio.Plan:
    values = {
        key: value() if callable(value) and key in ("trials", "args", "kwargs") else value
        for key, value in given.items()
    }
    options = {"func": "bad_functions.py:good", "source": "rec.h5::lfp", "trials": 10,
               "out": "out.h5", **values}  # fmt: skip
    return hpcio.Plan.create(options.pop("func"), options.pop("source"), **options)


def check_error(error: HpcioError, says: str) -> None:
    message = str(error)
    assert re.search(says, message, re.DOTALL), message
    assert type(error).__module__ == errors.__name__
    # Also what Python itself would have raised.
    assert any(base.__name__ in dir(builtins) for base in type(error).__bases__)
    assert ": None" not in message


@pytest.mark.parametrize(("error", "says", "given"), BAD.values(), ids=BAD)
def test_a_plan_that_cannot_be_made(folder, error, says, given):
    before = {p: p.lstat().st_mtime_ns for p in folder.rglob("*") if "__pycache__" not in str(p)}
    with pytest.raises(error) as info:
        make(given)
    check_error(info.value, says)
    after = {p: p.lstat().st_mtime_ns for p in folder.rglob("*") if "__pycache__" not in str(p)}
    assert after == before


@pytest.mark.parametrize(
    "dtype", ["f2", "<f4", ">f8", "g", "<c8", ">c16", "G", "?", "i1", ">u2", "u8"]
)
def test_a_type_is_stored_as_it_is_or_refused(folder, dtype):
    (folder / "bad_types.py").write_text(
        f"def typed(trial):\n    return (100 * trial).astype({dtype!r})\n"
    )
    with h5py.File("rec.h5") as f:
        expected = (100 * f["lfp"][...]).astype(dtype)
    try:
        plan = make({"func": "bad_types.py:typed"})
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


# ---- in the run ---------------------------------------------------------------------------------

LIES = {
    "shape": r"shape \(2, 3\), but \(10, 3\) was planned.*out_shape=",
    "rank": r"\(10, 3, 1, 2\), but \(10, 3\) was planned.*out_shape=",
    "type": r"complex128, but float64 was planned.*out_dtype=",
    "narrow": r"float32, but float64 was planned.*out_dtype=",
    "none": r"returned nothing.*Return a numpy array",
    "list": r"returned a list.*Return a numpy array",
    "number": r"shape \(\), but \(10, 3\) was planned",
    "objects": r"array of type object.*Return integers",
    "masked": r"masked array.*filled\(value\)",
    "dates": r"datetime64\[ns\].*Return integers",
    "details": r"detail 'x'.*numbers or strings",
    "three": r"tuple of 3.*\(array, details\)",
    "error": r"ZeroDivisionError: by nothing",
    "exit": r"SystemExit: 3",
}


@pytest.mark.parametrize(("what", "says"), LIES.items(), ids=LIES)
def test_a_function_that_does_not_keep_its_word(folder, what, says):
    plan = make({"func": "bad_functions.py:lies", "args": (what,)})
    with pytest.raises(BlocksFailed, match="6 of 6 blocks failed; nothing was published") as info:
        plan.run(workers=0, progress=False)
    assert [f.block for f in info.value.done.failed] == list(range(6))
    assert all(re.search(says, f.reason) for f in info.value.done.failed)
    assert "bad_functions.py" in info.value.done.failed[0].traceback or what != "error"
    check_error(info.value, "block 0 .trial 0.*Mend the cause, then run again")
    assert not (folder / "out.h5").exists()
    assert list(folder.glob(".out*")) == []


@pytest.mark.parametrize(
    ("error", "says", "given"),
    [
        case(WorkerError, "workers=-1", "Use 0 or more", workers=-1),
        case(WorkerError, "threads=0", "Use 1 or more", threads=0),
        case(PlanError, "'much' is no size", "4GB", memory="much"),
        case(PlanError, "retries=-1", "Use 0 or more", retries=-1),
        case(MemoryLimitError, "Trial 0 needs", "Use fewer workers", memory=1000),
        case(MemoryLimitError, "Trial 0 needs", "Use fewer workers", memory="50 MB"),
    ],
)
def test_a_run_that_cannot_begin(folder, error, says, given):
    plan = make({})
    with pytest.raises(error) as info:
        plan.run(progress=False, **given)
    check_error(info.value, says)
    assert not (folder / "out.h5").exists()
    assert not (folder / "out.h5.run").exists()


def test_a_trial_that_is_larger_than_what_is_allowed_is_named(folder):
    plan = make({"trials": np.array([[0, 10], [0, 20], [0, 60]]), "out_dtype": "f8"})
    plan = make({"trials": hpcio.Trials.from_array([[0, 5], [0, 60], [0, 20]])})
    with pytest.raises(MemoryLimitError, match="Trial 1 needs"):
        plan.run(workers=1, memory=80 << 20, progress=False)


def lost(path: Path) -> None:
    path.unlink()


def touched(path: Path) -> None:
    os.utime(path, ns=(0, 0))


def longer(path: Path) -> None:
    with h5py.File(path, "r+") as f:
        f["more"] = np.zeros(1000)


def replaced(path: Path) -> None:
    path.unlink()
    record(path)


@pytest.mark.parametrize("change", [lost, touched, longer, replaced])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_recording_that_has_changed_since(folder, change, begun, workers):
    plan = make({"func": "bad_functions.py:lies", "args": ("error",)})
    if begun:
        with pytest.raises(BlocksFailed):
            plan.run(workers=0, progress=False)
    change(folder / "rec.h5")
    with pytest.raises(SourceError) as info:
        plan.run(workers=workers, progress=False)
    check_error(info.value, r"rec\.h5' .*(has changed|cannot be found).*new plan")
    assert not (folder / "out.h5").exists()


def test_a_recording_that_is_open_for_writing_elsewhere(folder):
    with (folder / "rec.h5").open("rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with pytest.raises(SourceError) as info:
            make({})
    check_error(info.value, r"rec\.h5' is open for writing elsewhere.*Close it there")


def test_a_recording_that_is_cut_short_while_the_run_goes_on(folder):
    (folder / "bad_cut.py").write_text(
        "import os\ndef cut(trial, path, size):\n    os.truncate(path, size)\n    return trial\n"
    )
    (folder / "big.h5").unlink(missing_ok=True)
    with h5py.File(folder / "big.h5", "w") as f:
        f["lfp"] = np.zeros((1000, 3))
    path = str(folder / "big.h5")
    plan = make({"func": "bad_cut.py:cut", "args": (path, 6000), "source": f"{path}::lfp",
                 "trials": 100, "out_shape": (100, 3), "out_dtype": "f8"})  # fmt: skip
    for workers in (0, 1):
        os.truncate(path, plan.source.size)
        os.utime(path, ns=(plan.source.mtime_ns, plan.source.mtime_ns))
        with pytest.raises(SourceError) as info:
            plan.run(workers=workers, progress=False)
        check_error(info.value, r"big\.h5'.*(cut short|changed).*new plan")
    assert not (folder / "out.h5").exists()


def test_an_output_that_appears_meanwhile_is_not_replaced(folder):
    plan = make({})
    (folder / "out.h5").write_text("my thesis")
    with pytest.raises(OutputError) as info:
        plan.run(workers=0, progress=False)
    check_error(info.value, r"out\.h5' exists.*Choose another name")
    (folder / "out.h5").unlink()
    (folder / "bad_late.py").write_text(
        "import pathlib\n\ndef late(trial):\n"
        "    pathlib.Path('out.h5').write_text('my thesis')\n    return trial\n"
    )
    plan = make({"func": "bad_late.py:late", "out_shape": (10, 3), "out_dtype": "f8"})
    with pytest.raises(OutputError) as info:
        plan.run(workers=0, progress=False, fresh=True)
    check_error(info.value, r"out\.h5' has appeared.*Move it away")
    assert (folder / "out.h5").read_text() == "my thesis"
    assert list(folder.glob(".out*")) == []


def test_a_run_directory_that_is_a_file(folder):
    plan = make({})
    (folder / "out.h5.run").write_text("my thesis")
    with pytest.raises(HpcioError, match=r"out\.h5\.run'"):
        plan.run(workers=0, progress=False)
    assert (folder / "out.h5.run").read_text() == "my thesis"


def test_names_too_long_for_the_file_system(folder):
    with pytest.raises(OutputError) as info:
        make({"out": "x" * 300 + ".h5"}).run(workers=0, progress=False)
    check_error(info.value, "xxx.*(too long)")


# ---- plans --------------------------------------------------------------------------------------


def test_no_plan(folder):
    with pytest.raises(PlanError) as info:
        hpcio.Plan.load("nothing.h5")
    check_error(info.value, r"no plan '.*nothing\.h5\.run/plan\.h5'.*Make one: hpcio plan")


def begun(folder: Path) -> Path:
    with pytest.raises(BlocksFailed):
        make({"func": "bad_functions.py:lies", "args": ("error",)}).run(workers=0, progress=False)
    return folder / "out.h5.run" / "plan.h5"


def test_a_plan_of_another_version(folder):
    with h5py.File(begun(folder), "r+") as f:
        f.attrs["format"] = 999
    with pytest.raises(PlanError) as info:
        hpcio.Plan.load("out.h5")
    check_error(info.value, r"plan\.h5' was made by another version.*Plan again")


@pytest.mark.parametrize("content", [b"", b"my thesis", bytes(5000)])
def test_a_plan_that_is_no_plan(folder, content):
    begun(folder).write_bytes(content)
    with pytest.raises(HpcioError, match=r"plan\.h5'"):
        hpcio.Plan.load("out.h5")


@pytest.mark.root
@pytest.mark.parametrize("victim", ["plan.h5", "."])
def test_a_plan_of_another_user_is_not_loaded(folder, victim):
    plan = begun(folder)
    os.chown(plan.parent / victim, 65534, 65534)
    with pytest.raises(PlanError) as info:
        hpcio.Plan.load("out.h5")
    check_error(info.value, "belongs to another user.*Make one of your own")


def test_a_journal_of_another_plan(folder):
    begun(folder)
    folder.joinpath("out.h5.run").rename(folder / "other.h5.run")
    with pytest.raises(BlocksFailed):
        make({"func": "bad_functions.py:lies", "args": ("none",)}).run(workers=0, progress=False)
    for path in (folder / "other.h5.run" / "journal").iterdir():
        shutil.copy(path, folder / "out.h5.run" / "journal")
    with pytest.raises(PlanError) as info:
        hpcio.Plan.load("out.h5").run(workers=0, progress=False)
    check_error(info.value, r"journal '.*\.jnl' belongs to another plan.*Start over")


# ---- permissions and full disks -----------------------------------------------------------------

CANNOT_WRITE = r"OutputError (\[Errno \d+\] )?Cannot write '.*out\.h5.*'"

CHILD = """
import sys
import hpcio
workers = int(sys.argv[1])
try:
    plan = hpcio.Plan.create("bad_functions.py:good", "rec.h5::lfp", trials=10, out=sys.argv[2],
                             sources=sys.argv[3])
    plan.run(workers=workers, progress=False)
except hpcio.errors.HpcioError as error:
    assert isinstance(error, OSError), type(error)
    print(type(error).__name__, error)
else:
    print("fine")
"""


def child(folder: Path, target: str, *, workers: int = 0, sources: str = "task", **how: Any) -> str:
    return run(CHILD, folder, str(workers), target, sources, **how)


def test_no_permission_to_read_the_recording(folder):
    (folder / "rec.h5").chmod(0)
    said = child(folder, "out.h5", preexec_fn=without_privileges)
    assert re.match(r"SourceError No permission to read '.*rec\.h5'\. Ask its owner", said)


def test_no_permission_to_enter_the_folder_of_the_recording(folder):
    (folder / "deep").mkdir()
    (folder / "rec.h5").rename(folder / "deep" / "real.h5")
    (folder / "rec.h5").symlink_to("deep/real.h5")
    (folder / "deep").chmod(0)
    said = child(folder, "out.h5", preexec_fn=without_privileges)
    assert re.match(r"SourceError No permission to read '.*rec\.h5'\. Ask its owner", said)


def test_no_permission_to_write_the_output(folder):
    (folder / "deep").mkdir(mode=0o555)
    said = child(folder, "deep/out.h5", preexec_fn=without_privileges)
    assert re.match(r"OutputError No permission to write into '.*deep'\. Choose another", said)
    assert list((folder / "deep").iterdir()) == []


@pytest.mark.parametrize(
    ("inside", "workers"),
    [(".", 0), ("journal", 0), ("sources", 0), ("journal", 1), ("sources", 1), ("logs", 1)],
)
def test_no_permission_to_write_into_the_run_directory(folder, inside, workers):
    script = CHILD.replace("plan.run(", f"""
    import os
    from hpcio.journals.rundir import prepare
    prepare(plan)
    os.chmod("out.h5.run/{inside}", 0o500)
    plan.run(""")  # fmt: skip
    said = run(script, folder, str(workers), "out.h5", "task", preexec_fn=without_privileges)
    (folder / "out.h5.run" / inside).chmod(0o700)
    assert re.match(CANNOT_WRITE + ".*Permission denied. Choose an output folder", said), said
    assert not (folder / "out.h5").exists()


def mounted(size: str, options: str = "") -> list[str]:
    """A way to start a child that sees a small file system at `small`, and nobody else does."""
    mount = f"mount -t tmpfs -o size={size}{options} small small"
    return ["unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh"]


@pytest.mark.root
def test_a_file_system_that_is_read_only(folder):
    (folder / "small").mkdir()
    said = child(folder, "small/out.h5", prefix=mounted("1M", ",ro"))
    assert re.match(r"OutputError .*small'.*(Choose another output folder)", said), said


FULL = """
import os, sys
import numpy as np
import h5py
import hpcio

workers, sources, room = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
plan = hpcio.Plan.create("bad_functions.py:good", "big.h5::lfp", trials=100, out="small/out.h5",
                         sources=sources)
# What others write while the run is at work: planning has seen an empty disk.
from hpcio.running import run
run.check_disk = lambda *_: None
with open("small/others", "wb") as f:
    os.posix_fallocate(f.fileno(), 0, os.statvfs("small").f_bavail * 4096 - room)
try:
    plan.run(workers=workers, progress=False)
except hpcio.errors.HpcioError as error:
    print(type(error).__name__, error)
    assert not os.path.exists("small/out.h5")
    assert not [n for n in os.listdir("small") if n.startswith(".")]
else:
    print("fine")
os.unlink("small/others")
plan.run(workers=workers, progress=False)
assert hpcio.verify("small/out.h5").blocks == 20
with hpcio.open("small/out.h5") as f, h5py.File("big.h5") as g:
    assert np.array_equal(f["data"], g["lfp"])
"""


def fill(folder: Path, room: int, workers: int, sources: str) -> None:
    (folder / "small").mkdir()
    with h5py.File(folder / "big.h5", "w") as f:
        f["lfp"] = np.random.default_rng(0).normal(size=(2000, 32))  # 512,000 bytes
    said = run(FULL, folder, str(workers), sources, str(room * 1024), prefix=mounted("8M"))
    assert re.match(f"{CANNOT_WRITE}.*Free some space, then resume", said), said


@pytest.mark.root
@pytest.mark.parametrize("room", [0, 12, 40, 300])
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sources", ["trial", "task"])
def test_a_disk_that_is_full(folder, room, workers, sources):
    fill(folder, room, workers, sources)


@pytest.mark.root
@pytest.mark.torture
@pytest.mark.parametrize("room", range(0, 580, 4))
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("sources", ["trial", "task"])
def test_a_disk_that_is_full_at_any_moment(folder, room, workers, sources):
    fill(folder, room, workers, sources)


def test_a_disk_that_is_known_to_be_too_small(folder, monkeypatch):
    plan = make({})
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(OutputError) as info:
        plan.run(workers=0, progress=False)
    check_error(info.value, r"need 0 MB, but only 0 MB are free.*out\.h5'.*Free some space")
    assert not (folder / "out.h5").exists()


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
""" + CHILD.replace("rec.h5::lfp", "big.h5::lfp")


@pytest.mark.parametrize("limit", [3000, 20_000, 60_000, 200_000, 500_000])
@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_may_not_grow_as_large_as_they_must(folder, limit, workers):
    with h5py.File(folder / "big.h5", "w") as f:
        f["lfp"] = np.zeros((2000, 32))
    said = run(LIMITED, folder, str(workers), "out.h5", "task", str(limit))
    if said != "fine\n":
        # The limit meets HDF5's lay-out of the output too, which is a file of its own.
        cannot = CANNOT_WRITE.replace("out", "(out|layout)", 1).replace(r"\.h5", r".*\.h5", 1)
        assert re.match(f"{cannot}.*Free some space", said), said
        assert not (folder / "out.h5").exists()
        assert list(folder.glob(".out*")) == []
    else:
        assert workers == 1  # whose chunks are small
        assert limit >= 60_000
