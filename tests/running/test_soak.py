"""Runs that are killed again and again, whoever is killed, at moments that nobody chooses.

When a kill comes decides how far a run has come, and nothing that is asserted depends on it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import hpcio
from hpcio.errors import HpcioError
from hpcio.journals.ledger import Ledger
from tests.rigs.bench import Bench
from tests.rigs.resuming import finished
from tests.rigs.support import group, names, remove_layouts
from tests.rigs.versions import die_at
from tests.rigs.waiting import until

# How many kills the long test survives, and where their randomness begins.
KILLS = int(os.environ.get("HPCIO_KILLS", "300"))
SEED = int(os.environ.get("HPCIO_SEED", "0"))
TRIALS = 40

WAYS: list[dict[str, Any]] = [
    *(
        {"sources": sources, "compression": compression}
        for sources in ("task", "trial")
        for compression in (None, "gzip", "lzf", "zstd+shuffle")
    ),
    {"writer": "direct"},
    {"writer": "mutex"},
    {"keeptrials": False, "sources": "task"},
    {"keeptrials": False, "reduce": "var", "writer": "direct"},
]
# To whom, and by what.
SIGNALS = [
    ("worker", signal.SIGKILL), ("worker", signal.SIGTERM),
    ("session", signal.SIGKILL), ("session", signal.SIGTERM), ("session", signal.SIGINT),
    ("group", signal.SIGKILL), ("group", signal.SIGTERM), ("group", signal.SIGINT),
]  # fmt: skip
# How a session ends that nobody has killed.
FINE, REFUSED, STOPPED = 0, 3, 4


class Kill(NamedTuple):
    """Whom a signal goes to, and when: at a call to the system, after some trials, or some time."""

    whom: str
    signal: signal.Signals
    when: str
    moment: float
    workers: int

    @classmethod
    def drawn(cls, chance: random.Random) -> Kill:
        workers = chance.choice([0, 0, 0, 1, 2])
        if not workers and chance.random() < 0.5:
            return cls("session", signal.SIGKILL, "call", chance.randrange(180), 0)
        whom, number = chance.choice([s for s in SIGNALS if workers or s[0] != "worker"])
        if chance.random() < 0.6:
            return cls(whom, number, "trials", chance.randrange(TRIALS), workers)
        return cls(whom, number, "time", chance.random() * (0.6 if workers else 0.1), workers)


def session(bench: Bench, kill: Kill | None) -> int:
    """Begin a run in a process that leads a group, and give its number."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        plan = bench.plan()
        if kill and kill.when == "call":
            die_at(int(kill.moment))
        plan.run(workers=kill.workers if kill else 0, progress=False)
        status = FINE
    except HpcioError:
        status = REFUSED
    except KeyboardInterrupt:
        status = STOPPED
    finally:
        os._exit(status)


def ended_by(bench: Bench, kill: Kill, pid: int) -> int:
    """Let a session come as far as it shall, send the signal, and wait for the end of the group."""
    status: int | None = None

    def has_ended() -> bool:
        nonlocal status
        if status is None:
            found, raw = os.waitpid(pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(raw) if found else None
        return status is not None

    begun = time.monotonic()

    def is_due() -> bool:
        if kill.when == "time":
            return time.monotonic() - begun > kill.moment
        return kill.when == "trials" and len(bench.calls) > kill.moment

    until(lambda: has_ended() or is_due(), "the moment", every=0.0005)
    processes = [pid, *group(pid)]
    if status is None:
        _send(kill, pid)
    until(has_ended, "the end of the session")
    until(lambda: not group(pid), "the end of the group")
    remove_layouts(*processes)
    assert status is not None
    return status


def _send(kill: Kill, pid: int) -> None:
    others = [one for one in group(pid) if one != pid]
    targets = {"session": [pid], "group": [*others, pid], "worker": others[:1]}[kill.whom]
    for target in targets:
        try:
            os.kill(target, kill.signal)
        except ProcessLookupError:
            continue


def soak(folder: Path, kills: int, seed: int) -> Counter[str]:
    """Kill runs until so many kills have come in time; what was done is never done again."""
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    while counts["kills"] < kills:
        counts["runs"] += 1
        story = folder / f"run{counts['runs']}"
        (story / "right").mkdir(parents=True)
        options = chance.choice(WAYS)
        bench = Bench(story, trials=TRIALS, **options)
        right = bench.plan(out=story / "right" / "out.h5")
        right.run(workers=0, progress=False)
        expected = values(Path(right.out))
        known: frozenset[int] = frozenset()
        while True:
            kill = Kill.drawn(chance) if counts["kills"] < kills else None
            bench.forget_calls()
            pid = session(bench, kill)
            if kill is None:
                _, raw = os.waitpid(pid, 0)
                status = os.waitstatus_to_exitcode(raw)
            else:
                status = ended_by(bench, kill, pid)
            calls = bench.calls
            what = f"{options} {kill} ended with {status}; seed {seed}, kill {counts['kills']}"
            assert known.isdisjoint(calls), what
            counts["computed"] += len(calls)
            if status == FINE:
                break
            assert status in (REFUSED, STOPPED) or status < 0, what
            assert kill is not None, what
            counts["kills"] += 1
            counts[f"{kill.whom}, {kill.signal.name}"] += 1
            if bench.out.exists():
                assert values(bench.out) == expected, what
            done = journalled(bench.out)
            assert known <= done, what
            assert finished(bench.out) == done, what
            known = done
        assert values(bench.out) == expected, what
        assert hpcio.verify(bench.out).gaps == 0
        assert names(story, ".out.h5*") == []
        shutil.rmtree(story)
    return counts


def journalled(out: Path) -> frozenset[int]:
    """The blocks that journals say are done."""
    if not Path(f"{out}.run", "plan.h5").exists():
        return frozenset()
    return frozenset(np.flatnonzero(Ledger.read(hpcio.Plan.load(out)).done).tolist())


def values(out: Path) -> bytes:
    with hpcio.open(out) as f:
        assert f["trials"]["done"].all()
        found: bytes = f["data"][...].tobytes()
    return found


@pytest.mark.parametrize("kills", [6, pytest.param(KILLS, marks=pytest.mark.torture)])
def test_runs_that_are_killed_again_and_again_end_with_the_same_bytes(tmp_path, kills):
    counts = soak(tmp_path, kills, SEED)
    print(*(f"{count} {what}" for what, count in counts.items()), sep="\n")
    assert counts["kills"] == kills
