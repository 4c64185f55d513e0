"""Processes that measure together: they begin together, and nobody waits for one that has ended."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from hpcio.bench import TEAMS, Team
from hpcio.bench.jobs import split
from hpcio.errors import OutputError, WorkerError
from tests.rigs.waiting import until


def team(tmp_path: Path, count: int) -> Team:
    return Team(tmp_path / "team", count, TEAMS["processes"])


def write(path: Path, *, count: int = 3) -> dict[str, object]:
    return {"path": str(path), "size": 1000, "count": count, "first": 0, "step": 1000,
            "sync": True}  # fmt: skip


def children() -> set[int]:
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


def test_all_do_their_share_and_their_bytes_are_counted_together(tmp_path):
    before = children()
    with team(tmp_path, 3) as three:
        assert three.nodes == 1
        done = three.do("write", [write(tmp_path / "a"), None, write(tmp_path / "b", count=5)])
    assert done.nbytes == 8000
    assert done.seconds > 0
    assert done.rate == 8000 / done.seconds
    assert [(tmp_path / name).stat().st_size for name in "ab"] == [3000, 5000]
    assert children() <= before


def test_what_one_of_them_raises_is_raised_here(tmp_path):
    with team(tmp_path, 2) as two:
        with pytest.raises(WorkerError, match=r"No such file or directory: '.*nowhere/a'"):
            two.do("write", [write(tmp_path / "a"), write(tmp_path / "nowhere" / "a")])
        assert two.do("write", [write(tmp_path / "b"), None]).nbytes == 3000


def test_one_that_has_ended_is_not_waited_for(tmp_path):
    before = children()
    with team(tmp_path, 2) as two:
        victim = max(children() - before)
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"Process \d of 2 processes ended with signal 9"):
            two.do("write", [write(tmp_path / "a"), write(tmp_path / "b")])
    assert children() <= before


def test_they_are_sent_home_even_where_nothing_can_be_said(tmp_path):
    before = children()
    with pytest.raises(OutputError, match="Cannot write"), team(tmp_path, 2):
        shutil.rmtree(tmp_path / "team")
    assert children() <= before


def test_they_end_with_whoever_has_started_them(tmp_path):
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        made = team(tmp_path, 1)
        os.write(writing, str(max(children())).encode())
        os._exit(0 if made else 1)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as said:
        member = int(said.read())
    until(lambda: not Path(f"/proc/{member}").exists())


def test_things_are_shared_out_without_a_gap():
    assert split(10, 3) == [(0, 3), (3, 3), (6, 4)]
    assert split(2, 3) == [(0, 0), (0, 1), (1, 1)]
