"""The state of a run: figures held against its journals, and what the command shows of them."""

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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcio
from hpcio.errors import BlocksFailed, PlanError
from hpcio.files.slab import checksum
from hpcio.journals.journal import DONE, FAILED, HEADER, LOST, RECORD, SYNC, read_log
from hpcio.journals.ledger import open_journal
from hpcio.journals.rundir import discard, prepare
from hpcio.watching.status import Status, Watcher, as_json, status, working
from tests.rigs.support import ROWS, TRIALS, Bench, ended, kill, until

COMMAND = "import sys; from hpcio.cli import main; sys.argv[0] = 'hpcio'; main()"


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def logs(plan: hpcio.Plan) -> list[Any]:
    return [read_log(path, plan.digest) for path in sorted(plan.rundir.journals.glob("*.jnl"))]


def command(*words: object, path: Path | None = None, **environment: str) -> tuple[int, str, str]:
    """Exit status, output and error output of ``hpcio status``."""
    env = {**os.environ, **environment}
    if path is not None:
        env["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "status", *map(str, words)], capture_output=True,
        text=True, check=False, env=env, timeout=100,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def without_clock(state: Status) -> dict[str, Any]:
    """A state without what depends on when it was asked for."""
    said = as_json(state, {})
    del said["time"]
    for worker in said["workers"]:
        del worker["seconds_since"]
    return said


# ---------------------------------------------------------------------- real runs


def test_a_finished_run(bench):
    plan = bench.plan()
    plan.run(workers=2, progress=False)
    state = status(str(bench.out))
    assert (state.blocks, state.done, state.failed, state.left) == (TRIALS, TRIALS, 0, 0)
    assert state.published
    assert state.session is False
    assert state.seconds_left == 0.0

    found = logs(plan)
    done = np.concatenate([log.records[log.records["kind"] == DONE] for log in found])
    begin = done["end"] - done["compute"].astype(float) - done["io"]
    seconds = float(done["end"].max() - begin.min())
    each = ROWS * 3 * 8 * 2  # a trial is read, and a result of its size written
    assert state.attempts == len(found)
    assert state.nbytes == TRIALS * each
    assert state.nbytes_left == 0
    assert state.speed == pytest.approx(TRIALS / seconds, rel=1e-3)
    assert state.bytes_per_second == pytest.approx(TRIALS * each / seconds, rel=1e-3)
    assert [w.label for w in state.workers] == sorted(log.about["label"] for log in found)
    for worker, log in zip(
        state.workers, sorted(found, key=lambda x: x.about["label"]), strict=True
    ):
        records = log.records
        count = int((records["kind"] == DONE).sum())
        assert (worker.done, worker.failed, worker.attempts) == (count, 0, 1)
        assert worker.host == log.about["host"]
        assert worker.first == log.about["start"]
        assert worker.last == records["end"].max()
        assert worker.seconds_since == pytest.approx(time.time() - worker.last, abs=5)
        assert worker.blocks_per_second == pytest.approx(count / (worker.last - worker.first))
        assert worker.bytes_per_second == pytest.approx(worker.blocks_per_second * each)


def test_while_a_run_is_at_work_and_after_it_was_killed(bench):
    bench.hold(7)
    plan = bench.plan()
    with ended(bench.start(workers=2)) as child:
        until(lambda: 7 in bench.calls, "the held trial")
        until(lambda: status(str(bench.out)).done == TRIALS - 1, "all the others")
        state = status(str(bench.out))
        assert (state.left, state.failed, state.published) == (1, 0, False)
        assert state.session is True
        assert working(state, ()) is True
        assert state.seconds_left > 0
        assert len(state.workers) == 2
        assert without_clock(Watcher(plan).look()) == without_clock(state)
        kill(child)
    state = status(str(bench.out))
    assert (state.done, state.left) == (TRIALS - 1, 1)
    assert state.session is False
    assert as_json(state, {})["seconds_left"] is None  # nobody is at work
    code, said, _ = command(bench.out)
    assert code == 0
    assert f"Nobody is at work. Go on with: hpcio resume {bench.out}" in said

    bench.hold()
    bench.run(workers=2)
    state = status(str(bench.out))
    assert state.published
    assert state.done == TRIALS
    assert {w.label: w.attempts for w in state.workers}["w0"] == 2
    assert sum(w.done for w in state.workers) == TRIALS


def test_a_worker_at_its_first_block_is_listed(bench):
    bench.hold(*range(TRIALS))
    plan, watcher = bench.plan(), None
    with ended(bench.start(workers=2)):
        until(lambda: len(bench.calls) == 2, "two workers")
        watcher = Watcher(plan)
        for state in (status(str(bench.out)), watcher.look()):
            assert [(w.label, w.done) for w in state.workers] == [("w0", 0), ("w1", 0)]
            assert (state.done, state.speed, state.seconds_left) == (0, 0.0, None)
        bench.hold()
        until(bench.out.exists, "the result")
    assert sum(w.done for w in watcher.look().workers) == TRIALS


FAILING = """
import os
HERE = os.path.dirname(os.path.abspath(__file__))

def fragile(trial):
    if int(trial[0, 0]) in (3, 8) and not os.path.exists(f"{HERE}/well"):
        raise ValueError("unlucky")
    return trial
"""


def test_failed_blocks_and_their_workers(bench):
    (bench.folder / "fragile.py").write_text(FAILING)
    plan = hpcio.Plan.create(
        f"{bench.folder}/fragile.py:fragile", f"{bench.folder}/rec.h5::/lfp", trials=ROWS,
        out=bench.out, out_shape=(ROWS, 3), out_dtype="f8",
    )  # fmt: skip
    with pytest.raises(BlocksFailed):
        plan.run(workers=2, progress=False)
    state, watcher = status(str(bench.out)), Watcher(plan)
    assert (state.done, state.failed, state.left) == (TRIALS - 2, 2, 0)
    assert [(f.block, f.trial, f.reason) for f in state.failures] == [
        (3, 3, "ValueError: unlucky"), (8, 8, "ValueError: unlucky")
    ]  # fmt: skip
    failed = {log.about["label"]: int((log.records["kind"] == FAILED).sum()) for log in logs(plan)}
    assert {w.label: w.failed for w in state.workers} == failed
    assert without_clock(watcher.look()) == without_clock(state)

    code, said, _ = command(bench.out)
    assert code == 1
    assert "block 3 (trial 3): ValueError: unlucky\nblock 8 (trial 8)" in said
    assert f"Tracebacks: hpcio status {bench.out} --failed" in said
    code, said, _ = command(bench.out, "--failed")
    assert code == 1
    assert said.count('raise ValueError("unlucky")') == 2

    (bench.folder / "well").touch()
    plan.run(workers=1, progress=False)
    for state in (status(str(bench.out)), watcher.look()):
        assert (state.done, state.failed, state.failures) == (TRIALS, 0, ())
        assert not any(w.failed for w in state.workers)
    assert command(bench.out)[0] == 0


def test_one_file_and_nothing(bench):
    bench.plan().run(workers=1, progress=False)
    hpcio.repack(bench.out)
    state = status(str(bench.out))
    assert (state.published, state.done, state.left, state.workers) == (True, TRIALS, 0, ())
    assert command(bench.out, "--watch")[0] == 0
    assert json.loads(command(bench.out, "--json")[1])["working"] is False
    with pytest.raises(PlanError, match="There is no plan"):
        status(f"{bench.folder}/nothing.h5")
    assert command(f"{bench.folder}/nothing.h5", "--watch")[0] == 2


# ---------------------------------------------------------------------- made journals


def attempt(
    plan: hpcio.Plan,
    label: str,
    blocks: Sequence[int],
    ends: Sequence[float],
    *,
    compute: float = 0.0,
    start: float | None = None,
    host: str = "",
) -> Path:
    """A journal of blocks that were done at given times, each in `compute` seconds."""
    journal = open_journal(plan, f"{label}-{os.urandom(4).hex()}", label)
    for block in blocks:
        journal.append(DONE, block, compute=compute)
    journal.close()
    raw = bytearray(journal.path.read_bytes())
    size = RECORD.itemsize
    seed = int(plan.digest[:16], 16)
    records = np.frombuffer(raw, RECORD, offset=HEADER)
    records["end"] = ends
    for k in range(len(ends)):
        at = HEADER + k * size
        struct.pack_into("<Q", raw, at, checksum(bytes(raw[at + 8 : at + size]), seed))
    begin = min(ends) - compute if start is None else start
    about = json.loads(raw[8 : HEADER - 8]) | {"start": begin} | ({"host": host} if host else {})
    head = (b"HPCIOJ01" + json.dumps(about).encode()).ljust(HEADER - 8)
    raw[:HEADER] = head + struct.pack("<Q", checksum(head))
    journal.path.write_bytes(raw)
    return journal.path


@pytest.fixture
def large(tmp_path: Path) -> hpcio.Plan:
    """A plan of 1,000 blocks whose run directory is there."""
    bench = Bench(tmp_path, trials=1000)
    return prepare(bench.plan(out_shape=(ROWS, 3), out_dtype="f8"))


def both(plan: hpcio.Plan) -> Iterator[Status]:
    yield status(plan.out)
    yield Watcher(plan).look()


def test_speed_is_that_of_the_last_minute(large):
    now = time.time()
    # At first 1 block in a second for 100 s, then 5 for 80 s.
    ends = np.concatenate([np.arange(100) + 1.0, 100 + (np.arange(400) + 1) / 5]) + now - 180
    attempt(large, "w0", range(500), ends.tolist(), compute=0.1)
    for state in both(large):
        assert state.speed == pytest.approx(5, rel=0.01)
        assert state.seconds_left == pytest.approx(100, rel=0.01)
        assert state.workers[0].blocks_per_second == pytest.approx(500 / 180, rel=0.01)


def test_speed_of_slow_blocks_is_that_of_the_last_twenty(large):
    now = time.time()
    for k in range(4):  # each worker needs 100 s for a block
        ends = now - 25 * k - 100.0 * np.arange(10)[::-1]
        attempt(large, f"w{k}", range(10 * k, 10 * k + 10), ends.tolist(), compute=100)
    for state in both(large):
        assert state.speed == pytest.approx(4 / 100, rel=0.01)
        assert state.seconds_left == pytest.approx(960 * 25, rel=0.01)


def test_a_pause_counts_for_no_speed(large):
    now = time.time()
    yesterday = now - 86400 + np.arange(100) / 2
    attempt(large, "w0", range(100), yesterday.tolist(), compute=0.4)
    attempt(large, "w0", range(100, 110), (now - 1 + np.arange(10) / 10).tolist(), compute=0.1)
    for state in both(large):
        assert state.speed == pytest.approx(10, rel=0.02)
        assert state.since == pytest.approx(now - 1.1, abs=0.01)
        assert state.workers[0].attempts == 2
        # Its own time is that of its attempts: 50 s and 1 s.
        assert state.workers[0].blocks_per_second == pytest.approx(110 / 51, rel=0.02)


def test_time_left_goes_by_bytes(tmp_path):
    bench = Bench(tmp_path)
    rows = [*[1] * 6, *[9] * 6]  # the second half is nine times as much work
    edges = np.cumsum([0, *rows])
    plan = prepare(bench.plan(trials=np.stack([edges[:-1], edges[1:]], axis=1)))
    now = time.time()
    attempt(plan, "w0", range(6), (now - 5 + np.arange(6)).tolist(), compute=1)
    for state in both(plan):
        assert state.speed == pytest.approx(1)
        assert state.seconds_left == pytest.approx(54)


def test_what_was_lost_is_not_counted(large):
    watcher = Watcher(large)
    journal = open_journal(large, "w0-00000000", "w0")
    for block in range(10):
        journal.append(DONE, block)
    journal.append(SYNC, offset=6)
    assert watcher.look().done == 10
    journal.append(LOST)
    for _ in range(2):
        assert watcher.look().done == status(large.out).done == 6
    journal.close()
    attempt(large, "w1", range(6, 8), [time.time()] * 2)
    assert watcher.look().done == status(large.out).done == 8


def test_a_torn_tail_is_cut(large):
    path = attempt(large, "w0", range(5), [time.time()] * 5)
    watcher = Watcher(large)
    with path.open("ab") as f:
        f.write(b"\1" * 40)
    assert watcher.look().done == status(large.out).done == 5
    torn = path.with_name("w1-00000000.jnl")
    torn.write_bytes(path.read_bytes()[:100])
    assert watcher.look().done == status(large.out).done == 5


def test_one_who_only_records_the_deaths_of_others_is_no_worker(large):
    journal = open_journal(large, "session-00000000", "session")
    journal.note(FAILED, 4, b"WorkerError: died\n")
    journal.close()
    for state in both(large):
        assert (state.failed, state.workers) == (1, ())
        assert state.failures[0].reason == "WorkerError: died"


# ---------------------------------------------------------------------- the command


def table(said: str) -> list[list[str]]:
    """The rows of the table of workers."""
    lines = said.split("─\n", 1)[1].split("\n")
    return [line.split() for line in lines[: lines.index("")] if line.strip()]


def test_json(bench):
    bench.plan().run(workers=2, progress=False)
    code, said, _ = command(bench.out, "--json")
    found = json.loads(said)
    assert code == 0
    assert found == {
        **found, "format": 1, "out": str(bench.out), "published": True, "blocks": TRIALS,
        "done": TRIALS, "failed": 0, "left": 0, "attempts": 2, "function":
        f"{bench.module}:double", "pickled": False, "failures": [], "nbytes_left": 0,
        "seconds_left": 0.0, "working": False, "queues": {},
    }  # fmt: skip
    assert {"time", "nbytes", "speed", "bytes_per_second", "since", "workers"} < set(found)
    assert [set(w) for w in found["workers"]] == [
        {"label", "host", "attempts", "done", "failed", "blocks_per_second", "bytes_per_second",
         "seconds_since", "first", "last", "state"}
    ] * 2  # fmt: skip
    code, _, error = command(bench.out, "--json", "--watch")
    assert code == 2
    assert "--watch and --json exclude each other" in error


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
    assert " ".join(rows[19]) == "and 81 more: 810 blocks done; --all shows them"
    assert all(len(line) <= 80 for line in said.splitlines())
    assert "hpcio resume" not in said
    assert len(table(command(large.out, "--all")[1])) == 100


def test_a_worker_without_records_for_long_is_idle(large):
    now = time.time()
    attempt(large, "w0", range(200), (now - 199 + np.arange(200)).tolist(), compute=1)
    attempt(large, "w1", range(200, 210), (now - 199 + np.arange(10)).tolist(), compute=1)
    assert "idle" not in command(large.out)[1]  # nobody is at work
    with open(large.run_directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = table(command(large.out)[1])
    assert [row[:2] for row in rows] == [["w1", "idle"], ["w0", "200"]]
    assert rows[0][-4:] == ["3", "min", "10", "s"] or rows[0][-1] == "ago"


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
            os.execve(sys.executable, line, {**kept, "TERM": "xterm-256color"})
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
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
            assert child.wait(timeout=60) == 0
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
    assert "block 4 (trial 4): ValueError: sick" in watching.frames()[-1]
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
            rest, _ = watching.communicate(timeout=60)
            assert watching.returncode == 0
    assert f"{TRIALS} done, 0 failed, 0 left" in rest
    assert "\x1b" not in rest


def test_watching_a_run_that_is_thrown_away(bench):
    plan = prepare(bench.plan())
    watcher = Watcher(plan)
    watcher.look()
    discard(plan.out)
    with pytest.raises(FileNotFoundError):
        watcher.look()


# ---------------------------------------------------------------------- queues

PLUGIN = """
from hpcio.errors import ClusterError

class Queue:
    line = "job 7: 1 running, 1 pending"
    states = {"w0": "running", "w7": "pending", "w9": "out of memory"}
    alive = 2
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
    attempt(large, "w0", range(5), [time.time()] * 5, compute=0.1)
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
