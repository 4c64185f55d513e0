"""What a function says only shows on a terminal: it commands none, and hides nothing."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import click
import h5py
import numpy as np
import pytest

import hpcio
from hpcio import cli
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


HOSTILE = "\x1b[2J\x07[red]\x9b2J\x7f\udcff\u202e"


def said(*words: str) -> str:
    """What a command prints, called in this process."""
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        contextlib.suppress(SystemExit),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["hpcio", *words])
        cli._status()
    return printed.getvalue()


def test_no_subcommand_says_a_name_of_others_so_that_a_terminal_obeys(tmp_path, monkeypatch):
    """Names of files, attributes of results, hosts and labels in them are anybody's."""
    name = f"o{HOSTILE}.h5"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPCIO_CONFIG", f"c{HOSTILE}.toml")
    (tmp_path / "work.py").write_text(FUNCTION)
    with h5py.File("rec.h5", "w") as f:
        f["lfp"] = np.zeros((40, 2))
    hpcio.Plan.create(np.negative, "rec.h5::lfp", trials=20, out="one.h5").run(
        workers=0, progress=False
    )
    hpcio.repack("one.h5")
    with h5py.File("one.h5", "r+") as f:
        for key, value in f.attrs.items():
            if isinstance(value, str):
                f.attrs[key] = value + HOSTILE.replace("\udcff", "")
    made = ("numpy:negative", "rec.h5::lfp", "--trials", "20", "--out", name)
    failing = ("work.py:func", "rec.h5::lfp", "--trials", "20", "--out", f"failed{name}")
    commands = [
        ("plan", *made),
        ("status", name),
        ("run", *made, "--workers", "0"),
        ("run", *failing, "--workers", "0"),
        *((word, name) for word in ("status", "verify", "report", "resume", "logs", "cancel")),
        ("extend", name, "--trials", "10"),
        ("status", f"failed{name}", "--failed"),
        ("call", f"failed{name}", "0"),
        ("status", name, "--json"),
        ("status", "one.h5"),
        ("status", "one.h5", "--json"),
        ("repack", name, f"new{name}"),
        ("repack", name),
        ("submit", *made[:-1], f"other{name}", "--print"),
        ("submit", f"failed{name}", "--script-only"),
        ("config",),
        ("config", "--json"),
        ("config", "--take", f"none{HOSTILE}"),
        ("bench", "--dir", f"none{HOSTILE}"),
        ("verify", f"none{HOSTILE}"),
        ("run", "numpy:negative", f"none{HOSTILE}::x", *made[2:]),
        ("status", f"--{HOSTILE}"),
        (HOSTILE,),
    ]
    assert {words[0] for words in commands[:-1]} | {"demo"} == {
        *cli.cli.list_commands(click.Context(cli.cli))
    }
    for words in commands:
        text = said(*words)
        assert text, words
        assert only_shows(text), words
        assert not set("\u202e\udcff") & set(text), words
    assert "\\x1b[2J\\x07[red]" in said("status", "one.h5")


@pytest.mark.parametrize(
    ("words", "unbuffered"), [(["status", "out.h5"], ""), (["verify", "out.h5"], "1")], ids=str
)
def test_an_output_that_is_full_is_one_line_and_one_that_is_closed_none(
    finished_plan, words, unbuffered
):
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    call = [sys.executable, "-m", "hpcio", *words]
    folder = Path(finished_plan.out).parent
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            call, cwd=folder, stdout=full, stderr=subprocess.PIPE, env=env, check=False
        )
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"Cannot write the standard output: No space left on device." in done.stderr
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        call, cwd=folder, stdout=writing, stderr=subprocess.PIPE, env=env, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")
