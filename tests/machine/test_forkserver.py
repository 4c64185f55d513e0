"""Processes that a server forks: as if each were a new Python, and none outlives its session."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpcio.machine import pythons, start_python
from hpcio.machine.forkserver import Forked
from tests.rigs.waiting import PATIENCE, until

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="it is not Linux")


@pytest.fixture(autouse=True)
def _afresh(monkeypatch):
    """Servers of this test alone."""
    monkeypatch.setattr(pythons, "_servers", {})
    monkeypatch.setattr(pythons, "_without", set())
    monkeypatch.setattr(pythons, "_in_vain", {})
    monkeypatch.setattr(pythons, "_retired", [])
    yield
    for server in [*(server for _, server in pythons._servers.values()), *pythons._retired]:
        server.close()


def told(*texts: str, **options: Any) -> dict[str, Any]:
    reading, writing = os.pipe()
    try:
        process = start_python("tests.rigs.forked:tell", *texts, fds=[writing], **options)
        assert isinstance(process, Forked) or options
        assert process.wait(PATIENCE) == 0
        return {**json.loads(os.read(reading, 1 << 16)), "forked": isinstance(process, Forked)}
    finally:
        os.close(reading)
        os.close(writing)


def is_there(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_is_given_what_it_is_to_have(tmp_path, monkeypatch):
    cores = os.sched_getaffinity(0)
    before = os.umask(0o027)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    here = os.stat(".").st_ino
    os.rmdir(tmp_path / "gone")
    try:
        os.sched_setaffinity(0, {min(cores)})
        said = told("a", 'b "c"')
    finally:
        os.umask(before)
        os.sched_setaffinity(0, cores)
        os.chdir(tmp_path)
    assert (said["texts"], said["cwd"], said["umask"]) == (["a", 'b "c"'], here, 0o027)
    assert said["cores"] == [min(cores)]
    assert said["name"] == "hpcio forked"
    assert not {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} & {*said["ignored"]}
    # Nothing of the server is open there; the last one is that of the listing.
    assert len(said["open"]) == 5
    assert {0, 1, 2, said["fd"]} < {*said["open"]}
    assert said["inherited"] == [0, 1, 2]
    assert told()["cores"] == sorted(cores)


def test_the_environment_is_that_of_now(monkeypatch):
    monkeypatch.setenv("HPCIO_TEST_WORD", "one")
    assert told()["word"] == "one"
    monkeypatch.setenv("HPCIO_TEST_WORD", "two")
    assert told()["word"] == "two"
    assert len(pythons._servers) == 1


def test_each_has_random_numbers_of_its_own():
    one, other = told(), told()
    assert one["pid"] != other["pid"]
    assert all(a != b for a, b in zip(one["random"], other["random"], strict=True))


@pytest.mark.parametrize(
    ("how", "status"), [("0", 0), ("7", 7), ("kill", -9), ("raise", 1)], ids=str
)
def test_its_end_is_told(how, status, capfd):
    process = start_python("tests.rigs.forked:leave", how)
    assert isinstance(process, Forked)
    assert process.wait(PATIENCE) == status
    assert process.poll() == status
    process.kill()  # of one that has ended nothing is left
    assert ("ValueError: sick" in capfd.readouterr().err) == (how == "raise")


def test_it_is_waited_for_and_ended():
    reading, writing = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = start_python("tests.rigs.forked:stay", fds=[writing])
        assert os.read(reading, 100).split()[0] == str(process.pid).encode()
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(PATIENCE) == -number
    assert len(os.listdir("/proc/self/fd")) == before + 1  # that to the server
    os.close(reading)
    os.close(writing)


def test_limits_signals_and_masks_are_those_of_the_thread_that_starts_it():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGUSR1})
    hup = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as of nohup
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
        said = told()
    finally:
        signal.signal(signal.SIGHUP, hup)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert said["files"] == 200
    assert {signal.SIGCHLD, signal.SIGUSR1} <= {*said["blocked"]}
    assert signal.SIGHUP in said["ignored"]
    said = told()
    assert said["files"] == limits[0]
    assert not said["blocked"]
    assert len(pythons._servers) == 1
    assert not pythons._retired


def test_workers_of_others_stay_when_a_server_is_replaced(monkeypatch):
    reading, writing = os.pipe()
    process = start_python("tests.rigs.forked:stay", fds=[writing])
    os.read(reading, 100)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # which numerical libraries read
    assert told()["forked"]
    (old,) = pythons._retired
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == -signal.SIGTERM
    assert not process.ended_with_server
    until(lambda: old.status() is not None, "the end of the old server")
    os.close(reading)
    os.close(writing)


def test_no_descriptor_is_left(monkeypatch):
    """Then nothing starts, and the server stays for those that it has forked."""
    assert told()["forked"]
    ((_, server),) = pythons._servers.values()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)  # the lowest that is
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, limits[1]))
        with pytest.raises(OSError, match="Too many open files"):
            start_python("tests.rigs.forked:leave", "0")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert server.status() is None
    assert told()["forked"]
    assert [one for _, one in pythons._servers.values()] == [server]


@pytest.mark.parametrize("how", ["Ctrl-C", "killed"])
def test_a_server_that_is_disturbed_while_it_starts(how, capfd):
    server = pythons.begin_pythons()
    number = signal.SIGINT if how == "Ctrl-C" else signal.SIGKILL
    os.kill(server._server.pid, number)
    if how == "killed":
        server._server.wait()
    assert told()["forked"]
    assert "Traceback" not in capfd.readouterr().err
    assert not pythons._without


def test_a_process_says_that_its_server_was_killed():
    reading, writing = os.pipe()
    process = start_python("tests.rigs.forked:stay", fds=[writing])
    os.read(reading, 100)
    ((_, server),) = pythons._servers.values()
    os.kill(server._server.pid, signal.SIGKILL)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert process.ended_with_server
    os.close(reading)
    os.close(writing)


def test_a_server_that_is_gone_is_replaced():
    first = told()
    ((_, server),) = pythons._servers.values()
    os.kill(server._server.pid, signal.SIGKILL)
    server._server.wait()
    again = told()
    assert again["forked"]
    assert again["pid"] != first["pid"]


def test_without_a_server_it_is_a_new_python(monkeypatch):
    monkeypatch.setattr(pythons, "is_possible", lambda: False)
    said = told("a", threads=1)
    assert not said["forked"]
    assert (said["texts"], said["name"]) == (["a"], "hpcio forked")


def test_a_server_with_threads_is_none(monkeypatch):
    """A copy would lack them, and wait for them."""
    monkeypatch.setattr("hpcio.machine.forkserver._IMPORTED", ())
    threaded = "import threading, time; threading.Thread(target=time.sleep, args=[600]).start(); "
    plain = pythons.new_python

    def with_thread(serve, *arguments):
        command = plain(serve, *arguments)
        if "forkserver" in serve:
            command[3] = threaded.replace(".start()", ", daemon=True).start()") + command[3]
        return command

    monkeypatch.setattr(pythons, "new_python", with_thread)
    assert not told(threads=1)["forked"]
    assert pythons._without == {1}
    assert not told(threads=1)["forked"]


@pytest.mark.parametrize("word", ["", "copy"])
def test_all_end_with_the_session_even_if_a_copy_of_it_lives(word):
    session = subprocess.Popen(
        [sys.executable, "-c", "from tests.rigs.forked import session; session()"],
        stdout=subprocess.PIPE, env={**os.environ, "HPCIO_TEST_WORD": word},
        start_new_session=True,
    )  # fmt: skip
    try:
        assert session.stdout is not None
        worker, server = map(int, session.stdout.readline().split())
        assert is_there(worker)
        os.killpg(session.pid, signal.SIGINT)  # as Ctrl-C does
        assert session.wait(PATIENCE) == -signal.SIGINT
        until(lambda: not is_there(worker) and not is_there(server), "their ends")
    finally:
        session.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(session.pid, signal.SIGKILL)
