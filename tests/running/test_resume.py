"""A run that is killed anywhere, any number of times, ends with the same bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hpcio
from hpcio.errors import (
    BlocksFailed,
    HpcioError,
    Interrupted,
    OutputError,
    PlanError,
    WorkerError,
)
from hpcio.journals.journal import DONE, HEADER, RECORD
from hpcio.journals.ledger import Ledger, read_logs
from hpcio.journals.rundir import prepare
from hpcio.running.chunks import Attempt, run_chunk
from hpcio.writers.virtual import TaskFiles, TrialFiles
from tests.rigs.support import ROWS, TRIALS, Bench, damage, ended, group, kill, names, start, until

both_sources = pytest.mark.parametrize("sources", ["trial", "task"])
any_workers = pytest.mark.parametrize("workers", [0, 1, 2])
ALL = set(range(TRIALS))


@pytest.fixture
def bench(tmp_path, request) -> Bench:
    callspec = getattr(request.node, "callspec", None)
    return Bench(tmp_path, sources=callspec.params.get("sources", "task") if callspec else "task")


def finished(out: Path) -> set[int]:
    """The blocks that a run which continues need not compute again."""
    if not Path(f"{out}.run", "plan.h5").exists():
        return set()
    return set(np.flatnonzero(Ledger.read_trusted(hpcio.Plan.load(out)).done).tolist())


def resume_here(bench: Bench, out: Path, done: set[int]) -> None:
    """Continue in this process; exactly the blocks that were not done are computed."""
    bench.forget_calls()
    hpcio.Plan.load(out).run(workers=0, progress=False)
    assert bench.calls == sorted(ALL - done)
    bench.check(out)


def resume(bench: Bench, *, workers: int) -> None:
    """Continue in a new process; exactly the blocks that were not done are computed."""
    done = finished(bench.out)
    bench.hold()
    bench.forget_calls()
    bench.run(workers=workers)
    assert sorted(bench.calls) == sorted(ALL - done)
    bench.check()


def copy_run(bench: Bench, to: Path) -> Path:
    """A copy of the run directory, and the name that its result will have."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    shutil.copytree(f"{bench.out}.run", to / "out.h5.run")
    return to / "out.h5"


# ---- killed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "trial"), [(0, 0), (0, 4), (0, TRIALS - 1), (1, 4), (2, 4)])
@both_sources
def test_killed_while_it_computes_a_trial(bench, workers, sources, trial):
    bench.hold(trial)
    with ended(bench.start(workers=workers)) as child:
        until(lambda: trial in bench.calls, "the trial")
        kill(child)
    assert not bench.out.exists()
    assert trial not in finished(bench.out)
    if workers == 0:
        assert finished(bench.out) == set(range(trial))
    resume(bench, workers=workers)


# Counts calls to the operating system, and ends the whole group before the given one.
DEADLY = """
import os, sys

left = int(sys.argv[1])

def deadly(call):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(0, 9)
        return call(*args, **kwargs)
    return wrapped

for name in "open write writev pwrite fsync mkdir rename posix_fallocate".split():
    setattr(os, name, deadly(getattr(os, name)))
"""


def killed_at(bench: Bench, moment: int) -> bool:
    """Run in this group alone until some call to the system; whether that was reached."""
    with ended(start(DEADLY + bench.script(workers=0), bench.folder, str(moment))) as child:
        child.communicate(timeout=60)
        assert child.returncode in (0, -signal.SIGKILL)
        return child.returncode != 0


def check_and_resume(bench: Bench) -> None:
    if bench.out.exists():
        bench.check()  # complete or not there
    done = finished(bench.out)
    bench.forget_calls()
    if Path(f"{bench.out}.run", "plan.h5").exists():
        plan = hpcio.Plan.load(bench.out)
    else:
        plan = bench.plan()
    plan.run(workers=0, progress=False)
    assert bench.calls == sorted(ALL - done)
    bench.check()
    assert names(bench.folder, ".out.h5*") == []


@pytest.mark.parametrize("moment", range(2, 120, 13))
@both_sources
def test_killed_at_a_call_to_the_system(bench, sources, moment):
    killed_at(bench, moment)
    check_and_resume(bench)


@pytest.mark.torture
@both_sources
def test_killed_at_any_call_to_the_system(tmp_path, sources):
    moment, reached = 0, True
    while reached:
        folder = tmp_path / str(moment)
        folder.mkdir()
        bench = Bench(folder, sources=sources)
        reached = killed_at(bench, moment)
        check_and_resume(bench)
        moment += 1
    assert moment > TRIALS


@pytest.mark.parametrize("workers", [0, 2])
@both_sources
def test_killed_again_and_again(bench, workers, sources):
    for trial in range(1, TRIALS, 3):
        if trial in finished(bench.out):
            continue
        bench.hold(trial)
        bench.forget_calls()
        done = finished(bench.out)
        with ended(bench.start(workers=workers)) as child:
            until(lambda: trial in bench.calls, "the trial")  # noqa: B023  (called at once)
            kill(child)
        assert not done & set(bench.calls)
        assert finished(bench.out) >= done
    resume(bench, workers=workers)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(10))
@both_sources
def test_killed_at_random_again_and_again(bench, sources, seed):
    chance = random.Random(seed)
    for _ in range(20):
        if bench.out.exists():
            break
        if not killed_at(bench, chance.randrange(40)):
            break
        assert not bench.out.exists() or bench.check() is None
    if bench.out.exists():
        bench.check()
    else:
        resume(bench, workers=0)


@pytest.mark.torture
@pytest.mark.parametrize("workers", [1, 2, 4])
@both_sources
def test_killed_at_any_number_of_calls(tmp_path, sources, workers):
    for count in range(TRIALS):
        folder = tmp_path / str(count)
        folder.mkdir()
        bench = Bench(folder, sources=sources)
        bench.hold(TRIALS - 1)
        with ended(bench.start(workers=workers)) as child:
            until(lambda: len(bench.calls) > count, "some calls")  # noqa: B023
            kill(child)
        resume(bench, workers=workers)


# ---- what a crash leaves behind -----------------------------------------------------------------


def half_done(bench: Bench, *, safe: int, unsafe: int) -> None:
    """A run directory as a kill leaves it: some blocks before the last SYNC, some after."""
    plan = prepare(bench.plan())
    bench.stop(safe + unsafe)
    with Attempt(plan, "here") as attempt:
        run_chunk(attempt, np.arange(safe))
        attempt.sync()
        with pytest.raises(KeyboardInterrupt):
            run_chunk(attempt, np.arange(safe, TRIALS))
    bench.stop()
    (log,) = read_logs(plan)
    assert (log.records["kind"] == DONE).sum() == safe + unsafe
    assert (log.records["kind"][: log.safe] == DONE).sum() == safe


def journal_of(out: Path) -> Path:
    (path,) = Path(f"{out}.run", "journal").glob("*.jnl")
    return path


def done_in(out: Path, nbytes: int) -> set[int]:
    """The blocks whose records lie whole in the first bytes of the journal."""
    raw = journal_of(out).read_bytes()[HEADER:nbytes]
    records = np.frombuffer(raw[: len(raw) // RECORD.itemsize * RECORD.itemsize], RECORD)
    return set(records["block"][records["kind"] == DONE].tolist())


def torn(bench: Bench, tmp_path: Path, step: int) -> None:
    half_done(bench, safe=2, unsafe=3)
    whole = journal_of(bench.out).stat().st_size
    for length in range(0, whole + 1, step):
        out = copy_run(bench, tmp_path / "copy")
        done = done_in(out, length)
        os.truncate(journal_of(out), length)
        resume_here(bench, out, done)


@both_sources
def test_a_torn_tail_of_the_journal_is_computed_again(bench, tmp_path, sources):
    torn(bench, tmp_path, step=53)


@pytest.mark.torture
@both_sources
def test_many_torn_tails_of_the_journal_are_computed_again(bench, tmp_path, sources):
    torn(bench, tmp_path, step=3)


def flipped(bench: Bench, tmp_path: Path, step: int) -> None:
    half_done(bench, safe=2, unsafe=3)
    bits = 8 * journal_of(bench.out).stat().st_size
    for bit in range(0, bits, step):
        out = copy_run(bench, tmp_path / "copy")
        record = (bit // 8 - HEADER) // RECORD.itemsize
        # In a damaged header, nothing counts; else what comes before the damaged record.
        done = done_in(out, HEADER + record * RECORD.itemsize) if record >= 0 else set()
        damage(journal_of(out), bit // 8, bit % 8)
        resume_here(bench, out, done)


@both_sources
def test_a_damaged_journal_is_computed_again_from_there(bench, tmp_path, sources):
    flipped(bench, tmp_path, step=397)


@pytest.mark.torture
@both_sources
def test_many_damaged_journals_are_computed_again_from_there(bench, tmp_path, sources):
    flipped(bench, tmp_path, step=11)  # every bit of a byte has its turn


def stored(bench: Bench, block: int) -> tuple[Path, int]:
    """File and offset of the result of a block."""
    ledger = Ledger.read(hpcio.Plan.load(bench.out))
    record, log = ledger.record[block], ledger.logs[ledger.log[block]]
    name = log.about["name"]
    folder = Path(f"{bench.out}.run", "sources")
    if bench.sources == "trial":
        (path,) = folder.glob(f"*/{block:07d}-{name}.h5")
    else:
        path = folder / f"{name}-{record['file']}.h5"
    content, data = path.read_bytes(), bench.expected[ROWS * block : ROWS * (block + 1)]
    return path, content.index(data.tobytes())


@pytest.mark.parametrize("byte", [0, 57, ROWS * 3 * 8 - 1])
@both_sources
def test_what_was_damaged_after_the_last_sync_is_computed_again(bench, sources, byte):
    half_done(bench, safe=2, unsafe=4)
    path, offset = stored(bench, 3)
    damage(path, offset + byte)
    resume_here(bench, bench.out, ALL - {3, *range(6, TRIALS)})


@pytest.mark.parametrize("left", [0, 100, 2048])
@both_sources
def test_what_was_cut_short_after_the_last_sync_is_computed_again(bench, sources, left):
    half_done(bench, safe=2, unsafe=4)
    path, _ = stored(bench, 3)
    os.truncate(path, left)
    lost = {3} if sources == "trial" else {2, 3, 4, 5}
    resume_here(bench, bench.out, ALL - lost - set(range(6, TRIALS)))


@both_sources
def test_what_is_missing_after_the_last_sync_is_computed_again(bench, sources):
    half_done(bench, safe=2, unsafe=4)
    stored(bench, 3)[0].unlink()
    lost = {3} if sources == "trial" else {2, 3, 4, 5}
    resume_here(bench, bench.out, ALL - lost - set(range(6, TRIALS)))


@pytest.mark.parametrize("how", ["missing", "short", "longer", "foreign"])
@both_sources
def test_a_source_that_was_lost_later_is_computed_again(bench, sources, how):
    half_done(bench, safe=4, unsafe=0)
    path, _ = stored(bench, 1)
    if how == "missing":
        path.unlink()
    elif how == "short":
        os.truncate(path, 100)
    elif how == "longer":
        os.truncate(path, path.stat().st_size + 1)
    else:
        damage(path, 300)
    lost = {1} if sources == "trial" else {0, 1, 2, 3}
    resume_here(bench, bench.out, ALL - lost - set(range(4, TRIALS)))


@both_sources
def test_after_a_failed_sync_its_blocks_are_computed_again(bench, monkeypatch, sources):
    plan = prepare(bench.plan())
    kind = TrialFiles if sources == "trial" else TaskFiles

    def fails() -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Attempt(plan, "here") as attempt:
        run_chunk(attempt, np.arange(3))
        attempt.sync()
        monkeypatch.setattr(kind, "syncing", lambda self: fails)
        run_chunk(attempt, np.arange(3, 6))
        with pytest.raises(OutputError, match=r"out\.h5\.run': Input/output error"):
            attempt.sync()
    monkeypatch.undo()
    # What the system has not written it may still show: it must not be trusted.
    resume_here(bench, bench.out, {0, 1, 2})


@both_sources
def test_every_state_that_the_files_go_through(bench, tmp_path, monkeypatch, sources):
    states: list[Path] = []

    def watched(name: str) -> None:
        call = getattr(os, name)

        def wrapped(*args, **kwargs):
            returned = call(*args, **kwargs)
            if Path(f"{bench.out}.run").exists():
                states.append(tmp_path / f"state-{len(states)}")
                with monkeypatch.context() as unwatched:
                    for other, original in originals.items():
                        unwatched.setattr(os, other, original)
                    copy_run(bench, states[-1])
            return returned

        monkeypatch.setattr(os, name, wrapped)

    watch = ["open", "write", "writev", "pwrite", "mkdir", "rename", "ftruncate"]
    originals = {name: getattr(os, name) for name in watch}
    plan = bench.plan()
    for name in watch:
        watched(name)
    plan.run(workers=0, progress=False)
    monkeypatch.undo()
    assert len(states) > TRIALS
    progress = []
    for state in states:
        out = state / "out.h5"
        done = finished(out)
        progress.append(len(done))
        bench.forget_calls()
        if (state / "out.h5.run" / "plan.h5").exists():
            again = hpcio.Plan.load(out)
        else:
            again = bench.plan(out=out)
        again.run(workers=0, progress=False)
        assert bench.calls == sorted(ALL - done)
        bench.check(out)
    assert progress == sorted(progress)
    assert set(progress) >= {0, TRIALS}


@both_sources
def test_a_plan_file_of_any_length_is_started_over_or_refused(bench, tmp_path, sources):
    prepare(bench.plan())
    whole = Path(f"{bench.out}.run", "plan.h5").stat().st_size
    for length in range(0, whole, 997):
        out = copy_run(bench, tmp_path / "copy")
        plan_file = Path(f"{out}.run", "plan.h5")
        os.truncate(plan_file, length)
        bench.forget_calls()
        # Under its final name it is complete, or the disk is broken ...
        with pytest.raises(HpcioError, match=r"plan\.h5"):
            hpcio.Plan.load(out)
        # ... and under its first name nobody looks at it.
        plan_file.rename(plan_file.with_name("plan.0123.part"))
        bench.plan(out=out).run(workers=0, progress=False)
        bench.check(out)


# ---- whose run directory ------------------------------------------------------------------------


def test_the_same_plan_goes_on_with_what_is_there(bench):
    half_done(bench, safe=3, unsafe=2)
    bench.forget_calls()
    done = bench.plan().run(workers=0, progress=False)
    assert bench.calls == list(range(5, TRIALS))
    assert (done.blocks, done.computed) == (TRIALS, TRIALS - 5)
    bench.check()


@pytest.mark.parametrize(
    "other",
    [
        {"trials": ROWS + 1},
        {"trials": np.array([[0, ROWS], [ROWS, 2 * ROWS]])},
        {"sources": "trial"},
        {"join": "stack"},
        {"out_dtype": "f4"},
        {"func": "called", "out_shape": (1,), "out_dtype": "i8"},
        {"kwargs": {"scale": 3}, "out_shape": (ROWS, 3), "out_dtype": "f8"},
    ],
    ids="+".join,
)
def test_another_plan_is_refused_and_harms_nothing(bench, other):
    half_done(bench, safe=3, unsafe=2)
    before = finished(bench.out)
    with pytest.raises(PlanError, match=r"out\.h5\.run' belongs to another plan.*fresh=True"):
        bench.plan(**other).run(workers=0, progress=False)
    assert finished(bench.out) == before
    resume_here(bench, bench.out, before)


def test_a_changed_recording_is_another_plan(bench):
    half_done(bench, safe=3, unsafe=2)
    os.utime(bench.folder / "rec.h5", ns=(1, 1))
    with pytest.raises(PlanError, match="belongs to another plan"):
        bench.plan().run(workers=0, progress=False)


def test_fresh_starts_over(bench):
    half_done(bench, safe=3, unsafe=2)
    bench.forget_calls()
    bench.plan(join="stack").run(workers=0, progress=False, fresh=True)
    assert bench.calls == sorted(ALL)
    with hpcio.open(bench.out) as f:
        assert f["data"].shape == (TRIALS, ROWS, 3)
    assert names(bench.folder, "*.old") == []


def test_fresh_removes_nothing_that_is_not_its_own(bench):
    plan = bench.plan()
    bench.out.write_text("my thesis")
    with pytest.raises(OutputError, match=r"out\.h5' was not made by hpcio"):
        plan.run(workers=0, fresh=True, progress=False)
    assert bench.out.read_text() == "my thesis"
    bench.out.unlink()
    other = Path(f"{bench.out}.run")
    other.mkdir()
    (other / "thesis.tex").write_text("my thesis")
    with pytest.raises(OutputError, match="is no run directory"):
        plan.run(workers=0, fresh=True, progress=False)
    with pytest.raises(PlanError, match=r"thesis\.tex.*Choose another output"):
        plan.run(workers=0, progress=False)
    assert (other / "thesis.tex").read_text() == "my thesis"


@pytest.mark.parametrize("content", ["my thesis", "a recording", "another result"])
def test_a_file_of_somebody_else_is_not_taken_for_the_result(bench, content):
    half_done(bench, safe=3, unsafe=2)
    before = finished(bench.out)
    if content == "my thesis":
        bench.out.write_text(content)
    elif content == "a recording":
        shutil.copy(bench.folder / "rec.h5", bench.out)
    else:
        bench.plan(out=bench.folder / "other.h5", join="stack").run(workers=0, progress=False)
        (bench.folder / "other.h5").rename(bench.out)
    known = bench.out.read_bytes()
    with pytest.raises(OutputError, match=r"out\.h5' exists and is not the result of this plan"):
        hpcio.Plan.load(bench.out).run(workers=0, progress=False)
    assert bench.out.read_bytes() == known
    bench.out.unlink()
    resume_here(bench, bench.out, before)


def test_a_finished_run_has_nothing_left_to_do(bench):
    bench.plan().run(workers=0, progress=False)
    bench.forget_calls()
    stamp = bench.out.stat().st_mtime_ns
    done = hpcio.Plan.load(bench.out).run(workers=0, progress=False)
    assert (bench.calls, done.blocks, done.computed) == ([], TRIALS, 0)
    assert bench.out.stat().st_mtime_ns == stamp


@any_workers
def test_a_second_run_at_the_same_time_is_refused(bench, workers):
    bench.hold(5)
    with ended(bench.start(workers=workers)) as first:
        until(lambda: 5 in bench.calls, "the first run")
        for fresh in (False, True):
            with pytest.raises(PlanError, match=r"out\.h5\.run' is at work in another process"):
                bench.plan().run(workers=0, progress=False, fresh=fresh)
        bench.hold()
        _, err = first.communicate(timeout=60)
        assert first.returncode == 0, err
    bench.check()


@both_sources
def test_several_runs_started_at_once_do_the_work_once(bench, sources):
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(ended(bench.start(workers=1))) for _ in range(3)]
        said = [child.communicate(timeout=60) for child in children]
        codes = [child.returncode for child in children]
    assert 0 in codes
    for code, (_, err) in zip(codes, said, strict=True):
        assert code == 0 or "at work in another process" in err or "out.h5' exists" in err, err
    assert sorted(bench.calls) == sorted(ALL)
    bench.check()


@any_workers
def test_after_the_first_was_killed_a_second_run_is_welcome(bench, workers):
    bench.hold(5)
    with ended(bench.start(workers=workers)) as first:
        until(lambda: 5 in bench.calls, "the first run")
        kill(first)
    resume(bench, workers=0)


# ---- stopped, or robbed of processes ------------------------------------------------------------


@any_workers
@both_sources
def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(bench, workers, sources):
    bench.hold(6)
    with ended(bench.start(workers=workers)) as child:
        until(lambda: 6 in bench.calls, "the trial")
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does
        _, err = child.communicate(timeout=60)
        assert child.returncode != 0
        assert not group(child.pid)
    done = finished(bench.out)
    assert f"Stopped with {len(done)} of {TRIALS} blocks done" in err
    assert f"hpcio resume {bench.out}" in err
    assert not bench.out.exists()
    assert names(bench.folder, ".out.h5*") == []
    assert 6 not in done
    # What was finished before Ctrl-C is not lost, and safe.
    assert len(done) >= len(set(bench.calls)) - max(1, workers)
    for log in read_logs(hpcio.Plan.load(bench.out)):
        late = log.records["kind"][log.safe :]
        assert workers == 0 or not (late == DONE).any()
    resume(bench, workers=workers)


def test_the_command_that_ctrl_c_names_goes_on(bench):
    bench.hold(6)
    with ended(bench.start(workers=1)) as child:
        until(lambda: 6 in bench.calls, "the trial")
        os.killpg(child.pid, signal.SIGINT)
        _, err = child.communicate(timeout=60)
    bench.hold()
    (command,) = re.findall(r"Continue with: (hpcio resume .*)", err)
    bench.forget_calls()
    program, *args = shlex.split(command)
    subprocess.run(
        [Path(sys.executable).with_name(program), *args], cwd="/", check=True, capture_output=True
    )
    assert sorted(bench.calls) == list(range(6, TRIALS))
    bench.check()


def test_ctrl_c_in_a_session_is_an_error_that_can_be_caught(bench):
    bench.stop(6)
    with pytest.raises(Interrupted, match=r"Stopped with 6 of 12 blocks done.*hpcio resume"):
        bench.plan().run(workers=0, progress=False)
    bench.stop()
    resume_here(bench, bench.out, set(range(6)))


@pytest.mark.parametrize("workers", [1, 2])
@both_sources
def test_a_worker_that_is_killed_is_replaced(bench, workers, sources):
    bench.hold(5)
    with ended(bench.start(workers=workers)) as child:
        until(lambda: 5 in bench.calls, "the trial")
        bench.hold()
        os.kill(bench.pid(5), signal.SIGKILL)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
    assert "failed" not in out
    assert set(bench.calls) == ALL
    assert bench.calls.count(5) == 2
    bench.check()


def test_all_workers_killed_at_once_are_replaced(bench):
    bench.hold(0, 1, 6, 7)
    with ended(bench.start(workers=2)) as child:
        until(lambda: len(bench.calls) == 2, "both workers")
        at_work = {bench.pid(trial) for trial in bench.calls}
        bench.hold()
        for pid in at_work:
            os.kill(pid, signal.SIGKILL)
        _, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
    bench.check()


DEADLY_FUNCTIONS = {
    "signal 9": "os.kill(os.getpid(), 9)",
    "exit status 0": "signal.raise_signal(15)",  # a worker's way to stop
    "exit status 7": "os._exit(7)",
    "signal 11": "ctypes.string_at(0)",
    "signal 6": "os.abort()",
}


def deadly(bench: Bench, how: str, trials: tuple[int, ...]) -> None:
    """A function that ends its worker in some trials."""
    path = bench.folder / f"{bench.module}.py"
    path.write_text(
        path.read_text() + "\n\ndef deadly(trial, chunkShape=None, noCompute=None):\n"
        "    import ctypes, faulthandler, resource, signal, sys, time\n"
        "    if noCompute:\n"
        "        return trial.shape, 'f8'\n"
        f"    if called(trial) in {trials}:\n"
        "        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "        print('last words', flush=True)\n"
        f"        {how}\n"
        "    return 2.0 * trial\n"
    )


def test_a_trial_that_asks_python_to_exit_fails_as_any_other(bench):
    deadly(bench, "sys.exit(3)", (4,))
    with pytest.raises(BlocksFailed) as info:
        bench.plan("deadly").run(workers=2, progress=False)
    (failure,) = info.value.done.failed
    assert (failure.block, failure.reason) == (4, "SystemExit: 3")
    assert info.value.done.workers <= 2


@pytest.mark.parametrize(("ends", "how"), DEADLY_FUNCTIONS.items(), ids=DEADLY_FUNCTIONS)
def test_only_the_trial_that_ends_its_worker_fails(bench, ends, how):
    deadly(bench, how, (4,))
    with pytest.raises(BlocksFailed, match="1 of 12 blocks failed; nothing was pub") as info:
        bench.plan("deadly").run(workers=2, progress=False)
    (failure,) = info.value.done.failed
    assert (failure.block, failure.trial) == (4, 4)
    assert failure.reason.startswith(f"WorkerError: the worker ended with {ends}")
    assert "last words" in failure.traceback
    assert sorted(bench.calls) == sorted([*ALL, 4])  # a second chance, for that one alone
    assert finished(bench.out) == ALL - {4}
    assert not bench.out.exists()
    bench.forget_calls()
    done = hpcio.Plan.load(bench.out).run(workers=2, progress=False, gaps=True)
    assert set(bench.calls) == {4}
    assert [f.block for f in done.failed] == [4]
    with hpcio.open(bench.out) as f:
        data, rows = f["data"][...], slice(4 * ROWS, 5 * ROWS)
        assert np.isnan(data[rows]).all()
        data[rows] = bench.expected[rows]
        assert data.tobytes() == bench.expected.tobytes()
        assert np.flatnonzero(~f["trials"]["done"]).tolist() == [4]


def test_several_deadly_trials_and_retries(bench):
    deadly(bench, "os._exit(7)", (0, 5, 6, 11))
    with pytest.raises(BlocksFailed) as info:
        bench.plan("deadly").run(workers=2, progress=False, retries=1)
    assert [f.block for f in info.value.done.failed] == [0, 5, 6, 11]
    assert finished(bench.out) == ALL - {0, 5, 6, 11}


def test_a_function_that_ends_every_worker_ends_the_run(tmp_path):
    bench = Bench(tmp_path, trials=100)
    deadly(bench, "os._exit(7)", tuple(range(100)))
    with pytest.raises(WorkerError, match="workers in a row died before they had finished") as info:
        bench.plan("deadly").run(workers=2, progress=False)
    assert "last words" in str(info.value)
    assert len(bench.calls) < 30
    path = tmp_path / f"{bench.module}.py"
    path.write_text(path.read_text().replace("os._exit(7)", "pass"))
    bench.plan("deadly").run(workers=2, progress=False, fresh=True)
    bench.check()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_orphans_end_by_themselves(bench, workers, number):
    bench.hold(5)
    with ended(bench.start(workers=workers)) as child:
        until(lambda: 5 in bench.calls, "the trial")
        child.send_signal(number)  # to the session alone
        child.communicate()
        assert group(child.pid)
        bench.hold()
        until(lambda: not group(child.pid), "the end of the orphans")
    resume(bench, workers=workers)
