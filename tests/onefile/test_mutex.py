"""The writer `mutex`: killed in any of its writes, and publishing while others write."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.errors import OutputError
from hpcio.journals.rundir import prepare
from hpcio.onefile.preallocated import reserve
from hpcio.running.attempt import Attempt
from hpcio.running.batch import run_batch
from hpcio.writers.backend import trusted_ledger
from tests.rigs.bench import TRIALS, Bench
from tests.rigs.everyday import combinations
from tests.rigs.shared_sum import awaited, holding
from tests.rigs.support import ended, group, kill, start
from tests.rigs.waiting import PATIENCE, until

# Writes half of the KILL_AT-th write into data.h5, and kills its process.
KILL = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
typedef ssize_t (*writer)(int, const void *, size_t, off64_t);
static int count = 0;
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    static writer real = NULL;
    char link[64], path[4096];
    if (!real) real = (writer)dlsym(RTLD_NEXT, "pwrite64");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    int ours = length > 8 && !strcmp(path + length - 8, "/data.h5");
    if (ours && ++count == atoi(getenv("KILL_AT"))) {
        real(fd, data, size / 2, offset);
        kill(getpid(), SIGKILL);
    }
    return real(fd, data, size, offset);
}
ssize_t pwrite(int fd, const void *data, size_t size, off64_t offset) {
    return pwrite64(fd, data, size, offset);
}
"""

RESUME = """
import hpcio
from hpcio.running.batch import run_batch
from hpcio.running.attempt import Attempt
from hpcio.writers.backend import trusted_ledger
plan = hpcio.Plan.load("out.h5")
with Attempt(plan, "here") as attempt:
    run_batch(attempt, trusted_ledger(plan).missing())
"""


@pytest.fixture(scope="module")
def kill_at(tmp_path_factory: pytest.TempPathFactory) -> str:
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("kill_at")
    (folder / "kill.c").write_text(KILL)
    command = ["cc", "-shared", "-fPIC", "-o", "kill.so", "kill.c", "-ldl"]
    subprocess.run(command, cwd=folder, check=True)
    return str(folder / "kill.so")


@pytest.mark.parametrize(
    ("join", "channels"),
    combinations(
        ["concatenate", "stack"], [None, 2], everyday=[("concatenate", None), ("stack", 2)]
    ),
)
def test_a_writer_that_is_killed_in_any_of_its_writes(tmp_path, kill_at, join, channels):
    """The first is killed in its first write, the second in its second, and so on."""
    lfp = np.random.default_rng(1).normal(size=(6, 4))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = lfp
    plan = hpcio.Plan.create(
        np.negative, f"{tmp_path}/rec.h5::/lfp", trials=1, out=tmp_path / "out.h5",
        writer="mutex", join=join, channels_per_block=channels,
    )  # fmt: skip
    plan = prepare(plan)
    reserve(plan)
    with h5py.File(plan.run_directory / "data.h5") as f:
        chunked = f["data"].chunks is not None
    assert chunked == bool(channels)
    for number in range(1, 30):
        child = subprocess.run(
            [sys.executable, "-c", RESUME], cwd=tmp_path, check=False,
            env={**os.environ, "LD_PRELOAD": kill_at, "KILL_AT": str(number)},
        )  # fmt: skip
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL
    assert number > 5
    # Nothing was lost by all this but blocks at hand.
    assert trusted_ledger(plan).done.all()
    plan.run(workers=0, progress=False)
    with hpcio.open(tmp_path / "out.h5") as f:
        assert f["data"][...].tobytes() == (-lfp).reshape(f["data"].shape).tobytes()
    assert hpcio.verify(tmp_path / "out.h5").blocks == len(plan)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "times"),
    [(1, 3), *(pytest.param(n, 10, marks=pytest.mark.torture) for n in (None, 1))],
)
def test_a_run_that_is_killed_again_and_again(tmp_path, channels, times):
    lfp = np.random.default_rng(1).normal(size=(400, 2))
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f["lfp"] = lfp
    script = (
        "import hpcio, numpy as np\n"
        "plan = hpcio.Plan.create(np.negative, 'rec.h5::/lfp', trials=1, out='out.h5',\n"
        f"                         writer='mutex', channels_per_block={channels})\n"
        "plan.run(workers=2, progress=False)\n"
    )
    journals = tmp_path / "out.h5.run" / "journal"
    for _ in range(times):
        before = len([*journals.glob("*.jnl")])
        with ended(start(script, tmp_path)) as child:
            until(
                lambda b=before, c=child: len([*journals.glob("*.jnl")]) > b or c.poll() == 0,
                "a worker",
            )
            # At any moment: it may also have ended before.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(random.uniform(0.0, 0.1))
            if group(child.pid):
                kill(child)
    with ended(start(script, tmp_path)) as child:
        assert child.wait(PATIENCE) == 0, child.communicate()[1]
    with hpcio.open(tmp_path / "out.h5") as f:
        assert f["data"][...].tobytes() == (-lfp).tobytes()


def test_what_a_crash_has_damaged_around_the_data_is_restored_by_the_next_run(tmp_path):
    bench = Bench(tmp_path)
    plan = prepare(bench.plan(writer="mutex", channels_per_block=1))
    reserve(plan)
    data = plan.run_directory / "data.h5"
    with Attempt(plan, "here") as attempt:
        run_batch(attempt, np.arange(5))
        attempt.sync()
    with data.open("r+b") as f:
        f.write(b"\0" * 60)
    with pytest.raises(OSError, match="signature"):
        h5py.File(data)
    done = plan.run(workers=1, progress=False)
    assert (done.blocks, done.computed) == (len(plan), len(plan) - 5)
    with hpcio.open(bench.out) as f:
        assert f["data"][...].tobytes() == bench.expected.tobytes()


def test_a_second_copy_of_a_task_that_comes_too_late(tmp_path):
    bench = Bench(tmp_path)
    plan = prepare(bench.plan(writer="mutex"))
    reserve(plan)
    with Attempt(plan, "late") as attempt:
        run_batch(attempt, np.arange(2))
        bench.plan(writer="mutex").run(workers=0, progress=False)
        with pytest.raises(OutputError, match=r"data\.h5' is gone: another process has finished"):
            run_batch(attempt, np.arange(2, 4))
    bench.check()


def test_publishing_waits_for_whoever_still_writes(tmp_path):
    bench = Bench(tmp_path)
    plan = prepare(bench.plan(writer="mutex"))
    reserve(plan)
    with Attempt(plan, "here") as attempt:
        run_batch(attempt, np.arange(TRIALS))
        attempt.sync()
    script = f"import hpcio\nhpcio.Plan.load('{bench.out}').run(workers=0, progress=False)"
    with (
        holding(plan.run_directory / "data.h5") as process,
        ended(start(script, tmp_path)) as child,
    ):
        until(lambda: awaited(Path(f"{bench.out}.run", "data.h5.lock")), "who waits for the lock")
        assert not bench.out.exists()
        assert process.stdin is not None
        process.stdin.close()
        assert child.wait(PATIENCE) == 0
    bench.check()
