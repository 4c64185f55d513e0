"""A folder full of things that are wrong, and functions that do not keep their word."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import errors
from hpcio.errors import (
    BlocksFailed,
    HpcioError,
)
from tests.rigs.bench import record

LENGTH = 60  # rows of the recording, of 3 channels

FUNCTIONS = """
import numpy as np

FACTOR = 3
lock = __import__("threading").Lock()

def good(trial, noCompute=None):
    return (trial.shape, trial.dtype) if noCompute else trial
def silent(trial): return trial
def raises(trial): raise ZeroDivisionError("by nothing")
def exits(trial): raise SystemExit(3)
def needs(trial, factor): return trial
def none(trial): return None
def a_list(trial): return trial.tolist()
def a_dict(trial): return {"mean": "text"}
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
    plain = {Exception, BaseException, object}
    assert any(base.__module__ == "builtins" for base in {*type(error).__mro__} - plain)
    assert ": None" not in message


def begun(folder: Path) -> Path:
    with pytest.raises(BlocksFailed):
        make({"func": "bad_functions.py:lies", "args": ("error",)}).run(workers=0, progress=False)
    return folder / "out.h5.run" / "plan.h5"
