"""The state of a run: figures held against its journals."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import hpcio
from hpcio.errors import BlocksFailed, HpcioWarning, PlanError
from hpcio.journals.journal import DONE, FAILED, LOST, SYNC, read_log
from hpcio.journals.ledger import Ledger, open_journal
from hpcio.journals.rundir import discard, prepare
from hpcio.reporting import write_page
from hpcio.watching.state import Status, as_json, working
from hpcio.watching.watcher import Watcher, status
from tests.rigs.bench import ROWS, STORED, TRIALS, Bench
from tests.rigs.made import attempt, command
from tests.rigs.support import ended, kill
from tests.rigs.waiting import until


def logs(plan: hpcio.Plan) -> list[Any]:
    return [read_log(path, plan.digest) for path in sorted(plan.rundir.journals.glob("*.jnl"))]


def without_clock(state: Status) -> dict[str, Any]:
    """A state without what depends on when it was asked for."""
    said = as_json(state, {})
    del said["time"], said["quiet"]
    for worker in said["workers"]:
        del worker["seconds_since"]
    return said


def test_a_finished_run(bench):
    plan = bench.plan()
    plan.run(workers=2, progress=False)
    before = time.time()
    state = status(str(bench.out))
    after = time.time()
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
    assert [w.label for w in state.workers] == sorted(log.header["label"] for log in found)
    for worker, log in zip(
        state.workers, sorted(found, key=lambda x: x.header["label"]), strict=True
    ):
        records = log.records
        count = int((records["kind"] == DONE).sum())
        assert (worker.done, worker.failed, worker.attempts) == (count, 0, 1)
        assert worker.host == log.header["host"]
        assert worker.first == log.header["start"]
        assert worker.last == records["end"].max()
        assert before - worker.last <= worker.seconds_since <= after - worker.last
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


@pytest.mark.parametrize("kind", [k for k in STORED if k != "averages"])
def test_what_was_removed_is_not_done(tmp_path, kind):
    """Neither the one file that was published, nor the parts of a run to go on with."""
    bench = Bench(tmp_path, **STORED[kind])
    bench.plan().run(workers=0, progress=False)
    bench.out.unlink()
    kept = status(str(bench.out))
    one_file = STORED[kind].get("writer", "virtual") != "virtual"
    assert (kept.published, kept.done) == (False, 0 if one_file else TRIALS)
    shutil.rmtree(tmp_path / "out.h5.run/sources")
    gone = status(str(bench.out))
    assert (gone.done, gone.left) == (0, TRIALS)
    assert bench.plan().run(workers=0, progress=False).computed == TRIALS


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
    failed = {log.header["label"]: int((log.records["kind"] == FAILED).sum()) for log in logs(plan)}
    assert {w.label: w.failed for w in state.workers} == failed
    assert without_clock(watcher.look()) == without_clock(state)

    code, said, _ = command(bench.out)
    assert code == 1
    assert "trial 3: ValueError: unlucky\ntrial 8" in said
    assert f"Tracebacks: hpcio status {bench.out} --failed" in said
    assert "Go on with" not in said
    assert f"(they are tried once more): hpcio resume {bench.out} --gaps\n" in said
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
    with pytest.raises(PlanError, match="There is no result and no run"):
        status(f"{bench.folder}/nothing.h5")
    assert command(f"{bench.folder}/nothing.h5", "--watch")[0] == 2


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


@contextlib.contextmanager
def at_work(plan: hpcio.Plan) -> Iterator[None]:
    """As long as a process has the lock of a run."""
    with open(plan.rundir.lock, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize(("silent", "compute"), [(77, 0.1), (77, 30)])
def test_a_trial_that_hangs_is_not_almost_done(large, silent, compute):
    """But one is not said to hang that takes no longer than ten others."""
    ends = time.time() - silent - compute * np.arange(990)[::-1]
    attempt(large, "w0", range(990), ends.tolist(), compute=compute)
    hangs = compute == 0.1
    with at_work(large):
        for state in both(large):
            assert state.session is True
            assert (state.quiet >= silent) == hangs
            said = as_json(state, {})
            assert (said["quiet"], said["seconds_left"] is None) == (state.quiet, hangs)
        shown = command(large.out, COLUMNS="999")[1]
    assert ("MB/s, nothing was done for " in shown) == hangs
    assert bool(re.search(r"MB/s, [\w ]+ left *$", shown, re.MULTILINE)) == (not hangs)
    assert (f"hpcio resume {large.out} --trial-time 5m" in shown) == hangs
    # When nobody is at work, nobody hangs.
    shown = command(large.out)[1]
    assert "--trial-time" not in shown
    assert "nothing was done" not in shown


def test_a_published_result_tells_of_its_gaps(bench):
    bench.mark("raise", 3, 8)
    done = bench.plan().run(workers=0, gaps=True, progress=False)
    assert str(done).endswith(", 2 failed, published with 2 gaps")
    for again in (bench.plan(), hpcio.Plan.load(bench.out)):
        said = str(again.run(workers=0, progress=False))
        assert said.startswith("nothing was computed, 10 from earlier runs, 2 failed, published")
        assert said.endswith("with 2 gaps")
    code, said, _ = command(bench.out, COLUMNS="999")
    assert (code, f"{bench.out} (published with 2 gaps)" in said) == (1, True)
    assert f"try them again, also with a mended function: hpcio resume {bench.out} --keep" in said
    hpcio.repack(bench.out)
    said = command(bench.out, COLUMNS="999")[1]
    assert "(published with 2 gaps)" in said
    assert "It is one file, and not written again" in said
    said = str(bench.plan().run(workers=0, progress=False))
    assert said == "done already, 10 trials, published with 2 gaps; nothing was computed"


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
        assert watcher.look().done == Ledger.read(large).done.sum() == 6
    journal.close()
    attempt(large, "w1", range(6, 8), [time.time()] * 2)
    assert watcher.look().done == Ledger.read(large).done.sum() == 8


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


def test_watching_a_run_that_is_thrown_away(bench):
    plan = prepare(bench.plan())
    watcher = Watcher(plan)
    watcher.look()
    discard(plan.out)
    with pytest.raises(FileNotFoundError):
        watcher.look()


def _lose(path):
    path.unlink()


def _cut(path):
    with path.open("r+b") as f:
        f.truncate(path.stat().st_size - 1)


@pytest.mark.parametrize("lose", [_lose, _cut])
@pytest.mark.parametrize("options", [{"sources": "trial"}, {"sources": "task"},
                                     {"sources": "task", "compression": "gzip"}],
                         ids=["trial", "task", "compressed"])  # fmt: skip
def test_parts_of_a_result_that_are_gone_are_said(bench, lose, options):
    plan = bench.plan(**options)
    plan.run(workers=0, progress=False)
    assert status(str(bench.out)).gone == ""
    part = max(plan.rundir.sources.rglob("*.h5"))
    lose(part)
    state = status(str(bench.out))
    assert (state.published, state.done, state.failed) == (True, TRIALS, 0)
    assert str(part) in state.gone
    assert "rm " in state.gone
    assert f"hpcio resume {bench.out}" in state.gone
    # What it says to do is enough.
    bench.out.unlink()
    plan.run(workers=0, progress=False)
    assert status(str(bench.out)).gone == ""
    with hpcio.open(bench.out) as f:
        assert f["data"].shape == plan.target.shape


def test_the_command_and_the_report_say_that_parts_are_gone(bench):
    plan = bench.plan(sources="trial")
    plan.run(workers=0, progress=False)
    assert command(bench.out)[0] == 0
    parts = sorted(plan.rundir.sources.rglob("*.h5"))
    for part in parts[:3]:
        part.unlink()
    code, said, _ = command(bench.out, COLUMNS="9999")
    assert code == 1
    assert f"{bench.out} (parts of it are gone)" in said
    assert f"3 of its {TRIALS} parts are gone or not whole: '{parts[0]}'" in said
    code, said, _ = command(bench.out, "--json")
    assert (code, json.loads(said)["published"]) == (1, True)
    assert str(parts[0]) in json.loads(said)["gone"]
    page = write_page(None, bench.out).read_text()
    assert "published, and then damaged" in page
    assert ">complete<" not in page


def test_an_average_and_a_result_that_is_cut_short_are_told_apart(bench):
    plan = bench.plan(keeptrials=False)
    plan.run(workers=0, progress=False)
    assert status(str(bench.out)).gone == ""
    _cut(bench.out)
    assert str(bench.out) in status(str(bench.out)).gone


QUEUE = """
import dataclasses
import pathlib

@dataclasses.dataclass
class Queue:
    line: str
    alive: int | None
    states: dict

def ask(plan):
    alive = pathlib.Path(__file__).with_name("alive").read_text()
    return Queue("3 in line", None if alive == "?" else int(alive), {})
"""


def test_starting_over_waits_for_jobs_of_the_run(bench, tmp_path, monkeypatch):
    brought = tmp_path / "brought"
    (brought / "lines-1.dist-info").mkdir(parents=True)
    (brought / "lines-1.dist-info" / "METADATA").write_text("Name: lines\nVersion: 1\n")
    (brought / "lines-1.dist-info" / "entry_points.txt").write_text(
        "[hpcio.status]\nlines = lines_:ask\n"
    )
    (brought / "lines_.py").write_text(QUEUE)
    (brought / "alive").write_text("3")
    monkeypatch.syspath_prepend(brought)
    plan = bench.plan()
    plan.run(workers=0, progress=False, fresh=True)  # nobody is asked where there is no run
    before, kept = bench.out.read_bytes(), sorted(plan.run_directory.rglob("*"))
    with pytest.raises(PlanError, match=r"lines: 3 in line.*hpcio cancel"):
        bench.plan().run(workers=0, progress=False, fresh=True)
    assert bench.out.read_bytes() == before
    assert sorted(plan.run_directory.rglob("*")) == kept
    (brought / "alive").write_text("?")
    with pytest.warns(HpcioWarning, match="is not known"):
        bench.plan().run(workers=0, progress=False, fresh=True)
    (brought / "alive").write_text("0")
    assert bench.plan().run(workers=0, progress=False, fresh=True).computed == TRIALS
