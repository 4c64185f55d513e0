"""What `hpcio status` shows in a terminal and in a pipe, and how `--watch` ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from hpcio.journals.journal import DONE, FAILED
from hpcio.journals.ledger import open_journal
from hpcio.journals.rundir import prepare
from hpcio.watching.watcher import status
from tests.rigs.bench import TRIALS, Bench
from tests.rigs.made import COMMAND, attempt, command
from tests.rigs.support import ended
from tests.rigs.waiting import PATIENCE, until


def table(said: str) -> list[list[str]]:
    """The rows of the table of workers."""
    lines = said.split("─\n", 1)[1].split("\n")
    return [line.split() for line in lines[: lines.index("")] if line.strip()]


def test_many_workers_are_twenty_rows_and_a_summary(large):
    now = time.time()
    for k in range(100):
        # One is slow, and one has been silent for ten minutes.
        count = 2 if k == 57 else 10
        last = now - 600 * (k == 83)
        ends = last - 100.0 / count * np.arange(count)[::-1]
        blocks = range(10 * k, 10 * k + count)
        attempt(
            large, f"5-{k}", blocks, ends.tolist(), compute=100 / count, start=last - 100,
            host=f"n{k % 4}",
        )  # fmt: skip
    (large.run_directory / "lock").touch()
    with open(large.run_directory / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # somebody is at work
        # What was silent is far in the past; the others began 100 s ago.
        code, said, _ = command(large.out, COLUMNS="80")
    assert code == 0
    rows = table(said)
    assert len(rows) == 20
    assert rows[0][:3] == ["5-57", "n1", "slow"]
    assert [row[0] for row in rows[1:19]] == [f"5-{k}" for k in range(18)]
    assert " ".join(rows[19]) == "and 81 more: 810 trials done; --all shows them"
    assert all(len(line) <= 80 for line in said.splitlines())
    assert "hpcio resume" not in said
    assert len(table(command(large.out, "--all")[1])) == 100


def test_a_worker_without_records_for_long_is_idle(large):
    now = time.time()
    # Up to some time from now on, however long the command takes to look.
    attempt(large, "w0", range(800), (now - 199 + np.arange(800)).tolist(), compute=1)
    attempt(large, "w1", range(800, 810), (now - 199 + np.arange(10)).tolist(), compute=1)
    assert "idle" not in command(large.out)[1]  # nobody is at work
    with open(large.run_directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = table(command(large.out)[1])
    assert [row[:2] for row in rows] == [["w1", "idle"], ["w0", "800"]]
    assert re.search(r" [3-9] min.* ago$", " ".join(rows[0]))


def test_a_long_path_stays_whole_in_a_pipe(tmp_path):
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    bench = Bench(folder)
    prepare(bench.plan())
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "status", str(bench.out)], capture_output=True, text=True,
        check=True, env=environment,
    )  # fmt: skip
    assert f"{bench.out} (not published yet)" in done.stdout


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, *words: object, rows: int = 24, columns: int = 80) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            # Not by changes of `os.environ`: libraries write to that of C past it.
            kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
            line = [sys.executable, "-c", COMMAND, "status", *map(str, words)]
            # Here, where it is done before the command can look.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execve(sys.executable, line, {**kept, "TERM": "xterm-256color"})
        self.said = ""

    def read(self) -> str:
        """All that it has said so far."""
        while select.select([self.fd], [], [], 0)[0]:
            try:
                more = os.read(self.fd, 65536)
            except OSError:  # it has ended
                break
            if not more:
                break
            self.said += more.decode(errors="replace").replace("\r\n", "\n")
        return self.said

    def frames(self) -> list[str]:
        """What was drawn, one after the other, without colours."""
        clear = re.compile(r"(?:\x1b\[2K|\x1b\[1A)+")
        plain = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")
        return [plain.sub("", frame) for frame in clear.split(self.said) if frame.strip()]

    def wait(self) -> int:
        found = (0, 0)

        def over() -> bool:
            nonlocal found
            self.read()
            found = os.waitpid(self.pid, os.WNOHANG)
            return found[0] != 0

        until(over, "the end of the command")
        self.read()
        os.close(self.fd)
        return os.waitstatus_to_exitcode(found[1])


@contextlib.contextmanager
def terminal(*words: object, **options: Any) -> Iterator[Terminal]:
    there = Terminal(*words, **options)
    try:
        yield there
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(there.pid, signal.SIGKILL)
            os.waitpid(there.pid, 0)


def test_watch_follows_a_run_to_its_end(bench):
    bench.hold(7)
    with ended(bench.start(workers=2)) as child:
        until(lambda: 7 in bench.calls, "the held trial")
        with terminal(bench.out, "--watch") as watching:
            until(lambda: f"{TRIALS - 1} done" in watching.read(), "the others")
            assert not bench.out.exists()
            bench.hold()
            assert child.wait(timeout=PATIENCE) == 0
            assert watching.wait() == 0
    last = watching.frames()[-1]
    assert f"{TRIALS} done, 0 failed, 0 left" in last
    assert "(not published yet)" not in last
    assert all(len(line) <= 80 for line in last.splitlines())


def test_watch_ends_when_nobody_is_at_work_and_with_1_if_blocks_failed(large):
    journal = open_journal(large, "w0-00000000", "w0")
    journal.append(DONE, 0)
    journal.note(FAILED, 4, b"ValueError: sick\n")
    journal.close()
    with terminal(large.out, "--watch") as watching:
        assert watching.wait() == 1
    assert "trial 4: ValueError: sick" in watching.frames()[-1]
    assert "Nobody is at work." in watching.frames()[-1]


def test_ctrl_c_ends_watching_quietly(bench):
    bench.hold(7)
    with ended(bench.start(workers=2)):
        until(lambda: 7 in bench.calls, "the held trial")
        with terminal(bench.out, "--watch") as watching:
            until(lambda: "1 left" in watching.read(), "a frame")
            os.write(watching.fd, b"\x03")
            assert watching.wait() == 130
        assert "Traceback" not in watching.said
        bench.hold()
        until(bench.out.exists, "the result")


def test_a_small_terminal_holds_all_of_a_frame(large):
    for k in range(50):
        attempt(large, f"w{k}", [k], [time.time()], compute=1)
    with open(large.run_directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with terminal(large.out, "--watch", rows=18, columns=60) as watching:
            until(lambda: "more:" in watching.read(), "a frame")
            os.write(watching.fd, b"\x03")
            assert watching.wait() == 130
    for frame in watching.frames():
        assert len(frame.strip("\n").split("\n")) <= 18
        assert all(len(line) <= 60 for line in frame.split("\n"))


def test_watching_in_a_pipe_says_a_line(bench):
    bench.hold(7)
    with ended(bench.start(workers=2)):
        until(lambda: 7 in bench.calls, "the held trial")
        until(lambda: status(str(bench.out)).left == 1, "the others")
        watching = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "status", str(bench.out), "--watch"], text=True,
            stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        with ended(watching):
            assert watching.stdout is not None
            first = watching.stdout.readline()
            assert re.match(rf"hpcio: {TRIALS - 1} done \(91\.7 %\), 0 failed, 1 left, ", first)
            bench.hold()
            rest, _ = watching.communicate(timeout=PATIENCE)
            assert watching.returncode == 0
    assert f"{TRIALS} done, 0 failed, 0 left" in rest
    assert "\x1b" not in rest


PLUGIN = """
from hpcio.errors import ClusterError

class Queue:
    line = "job 7: 1 running, 1 pending"
    states = {"w0": "running", "w7": "pending", "w9": "out of memory"}
    alive = 2
    trial_time = None
    def as_json(self):
        return {"jobs": [7]}

def good(plan):
    return Queue()

def bad(plan):
    raise ClusterError("It is closed. Go home.")

def none(plan):
    return None
"""


def test_packages_tell_of_their_queues(large, tmp_path_factory):
    # Not idle, however long the command takes to look.
    attempt(large, "w0", range(5), [time.time() + PATIENCE] * 5, compute=0.1)
    site = tmp_path_factory.mktemp("site")
    (site / "plugin.py").write_text(PLUGIN)
    info = site / "plugin-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1\n")
    names = ("good", "bad", "none")
    lines = "".join(f"{name} = plugin:{name}\n" for name in names)
    (info / "entry_points.txt").write_text(f"[hpcio.status]\n{lines}")
    code, said, _ = command(large.out, path=site, COLUMNS="100")
    assert code == 0
    assert "    good  job 7: 1 running, 1 pending" in said
    assert "     bad  It is closed. Go home." in said
    assert [row[:4] for row in table(said)] == [
        ["w9", "out", "of", "memory"], ["w0", "running", "5", *table(said)[1][3:4]],
        ["w7", "pending"],
    ]  # fmt: skip
    assert "hpcio resume" not in said  # somebody is at work
    found = json.loads(command(large.out, "--json", path=site)[1])
    assert found["working"] is True
    assert found["queues"] == {
        "good": {"jobs": [7]},
        "bad": {"line": "It is closed. Go home.", "alive": None},
    }
    assert found["workers"][0]["state"] == "running"
