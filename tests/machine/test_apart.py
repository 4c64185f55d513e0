"""Calls in processes of their own: results in order, deaths told, errors raised, nothing left."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hpcio.errors import (
    FunctionError,
    OutputError,
    WorkerError,
    as_message,
    as_output_error,
    from_message,
)
from hpcio.machine import Death, call_apart
from tests.rigs.waiting import PATIENCE, until

HERE = "tests.machine.test_apart"


def adding(given: int):
    """Adds a number; some numbers end the process."""
    if given < 0:
        raise FunctionError("negative")

    def call(job: int) -> list[int]:
        if job == 13:
            os.kill(os.getpid(), 11)
        if job == 14:
            os._exit(3)
        return [given + job, os.getpid()]

    return call


def waiting(folder: str):
    """Each call waits for a file of its own, and tells that it has begun."""

    def call(job: int) -> int:
        Path(folder, f"{job}.begun").touch()
        while not Path(folder, f"{job}.go").exists():
            time.sleep(0.005)
        return os.getpid()

    return call


def holding(given: object):
    """Takes its time, and lets no other thread run."""

    def call(job: int) -> int:
        return sum(itertools.repeat(1, job))

    return call


def forking(given: object):
    """Leaves a child that holds everything open."""

    def call(job: str) -> str:
        pid = os.fork()
        if not pid:
            time.sleep(600)
        Path(job).write_text(str(pid))
        os._exit(7)

    return call


def test_results_come_in_order_and_from_elsewhere():
    found = call_apart(f"{HERE}:adding", 100, range(20, 30))
    assert [total for total, _ in found] == [*range(120, 130)]
    assert os.getpid() not in {pid for _, pid in found}


def test_few_quick_jobs_need_one_process(monkeypatch):
    monkeypatch.setattr("hpcio.machine.apart._ALONE", PATIENCE)  # so that no load matters
    assert len({pid for _, pid in call_apart(f"{HERE}:adding", 0, [1, 2, 3], processes=3)}) == 1


def test_deaths_are_told_and_the_others_done():
    found = call_apart(f"{HERE}:adding", 0, [1, 13, 2, 14, 3])
    assert found[1] == Death("its process ended with signal 11 (SIGSEGV)")
    assert found[3] == Death("its process ended with exit status 3")
    assert [found[k][0] for k in (0, 2, 4)] == [1, 2, 3]


def test_a_call_that_takes_longer_than_it_may_ends_with_its_process():
    found = call_apart(f"{HERE}:holding", None, [1, 10**12, 2], limit=0.5)
    assert (found[0], found[2]) == (1, 2)
    assert found[1].why == "it took longer than 500 ms"
    assert f'File "{__file__}", line' in found[1].stacks


def test_long_jobs_are_done_side_by_side(tmp_path):
    done: list[int] = []
    result: list[object] = []

    def call() -> None:
        made = f"{HERE}:waiting"
        result.extend(call_apart(made, str(tmp_path), [0, 1, 2], processes=3, on_done=done.append))

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: len(list(tmp_path.glob("*.begun"))) == 3, "three at a time")
    for k in range(3):
        (tmp_path / f"{k}.go").touch()
    thread.join()
    assert len(set(result)) == 3
    assert sorted(done) == [1, 2, 3]


def test_an_error_of_ours_is_raised_here():
    with pytest.raises(FunctionError, match="negative"):
        call_apart(f"{HERE}:adding", -1, [1, 2])


def test_a_child_that_lives_on_does_not_hold_it_up(tmp_path):
    note = tmp_path / "pid"
    (found,) = call_apart(f"{HERE}:forking", None, [str(note)])
    os.kill(int(note.read_text()), 9)
    assert found == Death("its process ended with exit status 7")


def reading(given: object):
    return lambda _: [
        sys.stdin.read(),
        subprocess.check_output(["cat"], text=True),
    ]


def test_whoever_reads_the_standard_input_takes_no_job():
    assert call_apart(f"{HERE}:reading", None, [1, 2]) == [["", ""]] * 2


def test_what_cannot_be_pickled_starts_nothing():
    with pytest.raises((pickle.PicklingError, AttributeError)):
        call_apart(f"{HERE}:adding", lambda: 1, [1])


def test_an_error_of_the_system_keeps_its_number():
    error = as_output_error(OSError(28, "No space left on device"), "/x")
    told = from_message(json.loads(json.dumps(as_message(error))))
    assert (type(told), told.errno, str(told)) == (OutputError, 28, str(error))


def test_nothing_to_do_starts_nothing():
    assert call_apart("no.such:module", None, []) == []


def test_a_process_that_cannot_begin_is_a_death():
    (found,) = call_apart("no.such:module", None, [1])
    assert found == Death("its process ended with exit status 1")


def test_a_python_that_is_not_there(monkeypatch):
    monkeypatch.setattr("sys.executable", "/no/such/python")
    with pytest.raises(WorkerError, match="could not be started"):
        call_apart(f"{HERE}:adding", 0, [1])


def test_what_nobody_expected_is_shown_as_text(capfd):
    (death,) = call_apart("builtins:exec", 'raise ValueError("\x1b[2J5 \u03bcV")', [1])
    assert isinstance(death, Death)
    said = capfd.readouterr().err
    assert "ValueError: \\x1b[2J5 μV" in said
    assert "\x1b" not in said
