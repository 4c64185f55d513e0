"""New Pythons take modules from nowhere that the folder at hand could hide them."""

from __future__ import annotations

import subprocess

from hpcio.machine import new_python

NAMES = ("queue", "json", "struct", "subprocess", "contextlib", "hpcio")


def test_the_folder_at_hand_hides_no_module(tmp_path):
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()\nraise SystemExit(7)\n")
    command = new_python("hpcio.results.packing:serve", '{"path": "nothing.h5"}')
    done = subprocess.run(
        command, cwd=tmp_path, input=b"", capture_output=True, timeout=60, check=False
    )
    assert done.returncode != 7
    assert not (tmp_path / "ran").exists()
