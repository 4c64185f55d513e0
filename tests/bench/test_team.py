"""Processes that measure together: they begin together, and nobody waits for one that has ended."""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpcio.bench import TEAMS, Team, serve
from hpcio.bench import team as team_module
from hpcio.bench.jobs import split
from hpcio.errors import HpcioWarning, OutputError, WorkerError
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


class Threads:
    """Members of this process; each begins when those before it are ready, and a while later."""

    patience = math.inf

    def __init__(self, folder: Path, count: int, later: float) -> None:
        self._folder, self._later = folder, later
        self._threads = [
            threading.Thread(target=serve, args=(str(folder), str(k)), kwargs={"host": f"n{k}"},
                             name=f"n{k}") for k in range(count)
        ]  # fmt: skip
        self._begun, self._at = 0, 0.0

    def check(self) -> None:
        now = time.monotonic()
        if self._begun == len(self._threads) or now < self._at:
            return
        if self._begun and not (self._folder / f"0.ready.{self._begun - 1}").exists():
            return
        if self._begun and not self._at:
            self._at = now + self._later
            return
        self._threads[self._begun].start()
        self._begun, self._at = self._begun + 1, 0.0

    def end(self) -> None:
        for thread in self._threads:
            thread.join()


def test_those_that_begin_first_wait_for_those_that_a_queue_lets_begin_later(tmp_path, monkeypatch):
    monkeypatch.setattr(team_module, "_PATIENCE", 0.05)
    with Team(tmp_path / "team", 2, lambda folder, count, _: Threads(folder, count, 0.4)) as two:
        assert two.hosts == ("n0", "n1")


def test_nodes_whose_clocks_differ_are_said_to_begin_apart(tmp_path, monkeypatch):
    late = {"n1": 5.0}
    clock = SimpleNamespace(
        time=lambda: time.time() + late.get(threading.current_thread().name, 0.0),
        monotonic=time.monotonic, sleep=time.sleep,
    )  # fmt: skip
    monkeypatch.setattr(team_module, "time", clock)
    with Team(tmp_path / "team", 2, lambda folder, count, _: Threads(folder, count, 0.0)) as two:
        each = [write(tmp_path / name) for name in "ab"]
        with pytest.warns(HpcioWarning, match=r"up to \d(\.\d)? s apart, by the clocks"):
            assert two.do("write", each).nbytes == 6000
        two.do("write", each)  # said once


def test_things_are_shared_out_without_a_gap():
    assert split(10, 3) == [(0, 3), (3, 3), (6, 4)]
    assert split(2, 3) == [(0, 0), (0, 1), (1, 1)]
