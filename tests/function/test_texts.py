import functools
import importlib
import linecache
import os

import numpy as np
import pytest

import hpcio
from hpcio.function import text_of
from hpcio.function.texts import MOST_TEXT

TEXT = """\
import functools
import hpcio


def noted(func):
    @functools.wraps(func)
    def call(*args, **kwargs):
        return func(*args, **kwargs)
    return call


@noted
@hpcio.unwrap_io
def mean(trial, chunkShape=None, noCompute=None):
    # of all rows
    return trial.mean(axis=0)


class Scaled:
    def __call__(self, trial):
        return 2 * trial

    def thrice(self, trial):
        return 3 * trial


half = (
    lambda trial: trial / 2)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "texts_.py").write_text(TEXT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(importlib.import_module("sys").modules, "texts_", raising=False)
    return importlib.import_module("texts_")


def test_the_text_is_that_of_what_decorators_have_wrapped(module):
    mean = TEXT[TEXT.index("@noted") : TEXT.index("\n\n\nclass")] + "\n"
    assert text_of(module.mean) == mean
    assert text_of(functools.partial(module.mean, chunkShape=None)) == mean
    assert text_of(module.Scaled()) == (
        "    def __call__(self, trial):\n        return 2 * trial\n"
    )
    assert text_of(module.Scaled().thrice).startswith("    def thrice")
    assert "trial / 2" in text_of(module.half)


@pytest.mark.parametrize("func", [np.negative, len, np.float64, hpcio.FauxTrial])
def test_what_has_no_text_of_its_own_has_none(func):
    assert text_of(func) == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("axis=0", "axis=1"),
        lambda text: "\n" + text,
        lambda text: text + "(",
        lambda text: "",
    ],
    ids=["another function", "lines moved", "half edited", "emptied"],
)
def test_a_file_that_has_changed_since_it_was_loaded_is_not_its_text(module, tmp_path, change):
    stat = os.stat(tmp_path / "texts_.py")
    assert text_of(module.mean)
    (tmp_path / "texts_.py").write_text(change(TEXT))
    os.utime(tmp_path / "texts_.py", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert text_of(module.mean) == ""
    (tmp_path / "texts_.py").unlink()
    linecache.checkcache()
    assert text_of(module.mean) == ""


def test_a_cell_of_a_notebook_has_its_text():
    cell = "def twice(trial):\n    return 2 * trial\n"
    linecache.cache["<cell 7>"] = len(cell), None, cell.splitlines(keepends=True), "<cell 7>"
    names: dict[str, object] = {}
    exec(compile(cell, "<cell 7>", "exec"), names)
    assert text_of(names["twice"]) == cell
    linecache.cache.pop("<cell 7>")
    assert text_of(names["twice"]) == ""


def test_a_long_text_is_cut_so_that_hdf5_can_hold_it(tmp_path, monkeypatch):
    long = "def long(trial):\n" + 2000 * "    trial = trial + 1  # μ\n" + "    return trial\n"
    (tmp_path / "long_text_.py").write_text(long)
    monkeypatch.syspath_prepend(tmp_path)
    text = text_of(importlib.import_module("long_text_").long)
    assert text == f"{long[:MOST_TEXT]}\n... and {len(long) - MOST_TEXT} more characters"


def test_a_function_that_wraps_itself_has_none():
    def round_and_round(trial):
        return trial

    round_and_round.__wrapped__ = round_and_round
    assert text_of(round_and_round) == ""
