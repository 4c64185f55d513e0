"""What a function says only shows on a terminal: it commands none, and hides nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcio.reporting import write_page
from hpcio.words import plain
from tests.rigs.waiting import PATIENCE

FUNCTION = """
import warnings

def func(trial, noCompute=None):
    if noCompute:
        return (1,), "f8"
    raise ValueError("\\x1b[2J\\x1b]0;title\\x07 \\x9b2J 5 \\u00b5V\\tand 7")
"""
SHOWN = "\\x1b[2J\\x1b]0;title\\x07 \\x9b2J 5 \u00b5V"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("one\n\ttwo", "one\n\ttwo"),
        ("\u00b5V, \u00fc, \u65e5\u672c, \U0001f600", "\u00b5V, \u00fc, \u65e5\u672c, \U0001f600"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x00\x07\x08\x0b\x7f\x9b", "\\x00\\x07\\x08\\x0b\\x7f\\x9b"),
        ("all is well\rfailed", "all is well\\x0dfailed"),
        ("of Windows\r\n", "of Windows\n"),
        ("turned \u202eround", "turned \\u202eround"),
        ("\ud800", "\\ud800"),
    ],
)
def test_a_text_is_shown(text, shown):
    assert plain(text) == shown


def command(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "hpcio", *words], cwd=folder, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    return done.stdout + done.stderr


def only_shows(said: str) -> bool:
    return not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in said)


def test_an_error_of_a_function(tmp_path):
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = np.zeros((40, 2))
    (tmp_path / "work.py").write_text(FUNCTION)
    options = ("--trials", "20", "--out", "out.h5", "--workers", "0")
    for words in (
        ("run", "work.py:func", "rec.h5::lfp", *options),
        ("status", "out.h5"),
        ("status", "out.h5", "--failed"),
    ):
        said = command(tmp_path, *words)
        assert SHOWN in said
        assert only_shows(said)
    # Programs get the bytes, as JSON writes them.
    assert only_shows(command(tmp_path, "status", "out.h5", "--json"))
    page = write_page(None, tmp_path / "out.h5").read_text()
    assert SHOWN in page
    assert only_shows(page)
