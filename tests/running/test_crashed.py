"""What a crash leaves torn, damaged or short is computed again, and nothing else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

import hpcio
from hpcio.errors import (
    HpcioError,
    OutputError,
)
from hpcio.journals.journal import DONE, HEADER, RECORD
from hpcio.journals.ledger import Ledger
from hpcio.journals.rundir import prepare
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.writers.sources import TaskFiles, TrialFiles
from tests.rigs.bench import ROWS, TRIALS, Bench
from tests.rigs.resuming import ALL, both_sources, copy_run, finished, half_done, resume_here
from tests.rigs.support import damage

# Files of single trials take much longer here.
mostly_by_task = pytest.mark.parametrize(
    "sources", ["task", pytest.param("trial", marks=pytest.mark.torture)]
)


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


@mostly_by_task
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
    record, log = ledger.record_of(block), ledger.logs[ledger.log[block]]
    name = log.header["name"]
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
        run_batch(attempt, np.arange(3))
        attempt.sync()
        monkeypatch.setattr(kind, "prepare_sync", lambda self: fails)
        run_batch(attempt, np.arange(3, 6))
        with pytest.raises(OutputError, match=r"out\.h5\.run': Input/output error"):
            attempt.sync()
    monkeypatch.undo()
    # What the system has not written it may still show: it must not be trusted.
    resume_here(bench, bench.out, {0, 1, 2})


@mostly_by_task
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


@mostly_by_task
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
        plan_file.rename(plan_file.with_name("plan.0123456789abcdef.part"))
        bench.plan(out=out).run(workers=0, progress=False)
        bench.check(out)
