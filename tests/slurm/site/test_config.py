"""Defaults: one TOML file, and what it may not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcio.errors import PlanError
from hpcio.machine import settings_file
from slurm.site.config import DEFAULTS, settings


@pytest.fixture
def toml(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    monkeypatch.setenv("HPCIO_CONFIG", str(path))

    def write(text: str) -> Path:
        path.write_text(text)
        return path

    return write


def test_defaults_of_a_cluster_come_before_those_of_all(toml):
    path = toml(
        '[submit]\npartition = "a"\ntasks = 7\n[submit.big]\npartition = "b"\nstale = 60\n'
        '[submit.other]\ntasks = 99\nsbatch = ["--qos=x"]\n'
    )
    found = settings("big")
    assert found.path == settings_file() == path
    assert (found.values["partition"], found.values["tasks"]) == ("b", 7)
    assert found.values["sbatch"] == []
    assert found.origin["partition"] == "[submit.big]"
    assert found.origin["tasks"] == "[submit]"
    assert found.origin["memory"] == "default"
    assert settings().values["partition"] == "a"


def test_without_a_file_there_are_defaults(toml):
    found = settings("big")
    assert found.values == {name: value for name, (_, value) in DEFAULTS.items()}


def test_where_the_file_is(monkeypatch, tmp_path):
    monkeypatch.delenv("HPCIO_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert settings_file() == tmp_path / "hpcio" / "config.toml"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("submit = 3", r"'submit' in .* is no section"),
        ("[submit]\ntasks = '3'", r"'tasks' in \[submit\] .* must be of type int"),
        ("[submit]\ntasks = true", r"'tasks' in \[submit\] .* must be of type int"),
        ("[submit.x]\nnodes = 3", r"'nodes' in \[submit.x\] .* not known. There are: tasks"),
        ("[other]\na = 1", r"has 'other', which nobody reads"),
        ("[submit", r"cannot be read"),
    ],
)
def test_what_a_file_may_not_say(toml, text, match):
    toml(text)
    with pytest.raises(PlanError, match=match):
        settings("big")
