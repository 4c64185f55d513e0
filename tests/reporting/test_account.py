"""What a page tells of failures, limits and many workers."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import hpcio
from hpcio.journals import usage
from hpcio.journals.usage import Usage
from hpcio.reporting import account
from hpcio.reporting.page import write_page
from tests.rigs.pages import BEGAN, HOUR, Page, page_of, planned, text, work


def test_equal_failures_take_one_entry(tmp_path):
    plan = planned(tmp_path, trials=6000)
    failed = [(k, f"Traceback\n  in trial {k}\nValueError: too short") for k in range(5000)]
    failed += [(k, "Traceback\nKeyError: 'x'") for k in range(5001, 5401, 2)]
    failed += [(5999, "Traceback\nMemoryError: much")]
    work(plan, "w0", [], failed=failed)
    page = page_of(plan)
    assert page.state == "not complete"
    assert page.tiles["failed"] == "5,201"
    assert text(page.section("failures").find("p")).startswith(
        "5,201 trials failed and were not done since, for 3 reasons."
    )
    equal, some, one = page.failures()
    assert equal == (
        "ValueError: too short", "5,000 trials: 0-4999",
        "Traceback\n  in trial 0\nValueError: too short",
    )  # fmt: skip
    odd = ", ".join(str(k) for k in range(5001, 5025, 2))
    assert some[:2] == ("KeyError: 'x'", f"200 trials: {odd} and 188 more")
    assert one[:2] == ("MemoryError: much", "trial 5999")
    assert len(page.raw) < 100_000


def test_a_hundred_reasons_are_shown(tmp_path):
    plan = planned(tmp_path, trials=300)
    work(plan, "w0", [], failed=[(k, f"ValueError: {'x' * (k // 2)}") for k in range(300)])
    page = page_of(plan)
    assert len(page.failures()) == 100
    assert text(page.section("failures")).endswith("And 100 trials more, for 50 other reasons.")


def test_reasons_that_differ_in_numbers_alone_are_one(tmp_path):
    plan = planned(tmp_path, trials=3)
    work(plan, "w0", [], failed=[(k, f"ValueError: {k}.5 uV in trial {k}") for k in range(3)])
    assert page_of(plan).failures() == [
        ("ValueError: 0.5 uV in trial 0", "3 trials: 0-2", "ValueError: 0.5 uV in trial 0")
    ]


def test_long_and_lost_tracebacks(tmp_path):
    plan = planned(tmp_path, trials=10)
    long = "begin\n" + "x" * 10_000_000 + "\nValueError: " + "y" * 10_000
    work(plan, "w0", [0], failed=[(1, long)])
    work(plan, "w1", [], failed=[(2, "gone")])
    next(plan.rundir.journals.glob("w1-*.notes")).unlink()
    page = page_of(plan)
    assert len(page.raw) < 100_000
    (reason, _, shown), (lost, _, nothing) = page.failures()
    assert reason == "ValueError: " + "y" * 288 + " ..."
    assert shown.startswith("begin\nxxx")
    assert shown.endswith("yyy")
    assert f"[... {len(long) - 6000:,} characters are left out ...]" in shown
    assert (lost, nothing) == ("the traceback is lost", "The traceback is lost.")


def test_what_was_asked_for_and_used(tmp_path):
    plan = planned(tmp_path, trials=4)
    work(plan, "123_0", range(4))
    for k, (peak, seconds) in enumerate([(1.0e9, 600.0), (1.5e9, 1200.0), (0.9e9, 900.0)]):
        used = Usage(f"123_{k}", 8 * 10**9, int(peak), 4 * HOUR, seconds, 4, 1.1 * seconds)
        usage.write_usage(plan, f"123_{k}-0000000{k}", used)
    page = page_of(plan)
    ((_, *rows),) = page.tables("limits")
    assert rows == [
        ["memory", "8 GB", "1.5 GB", "123_1", "1 GB", "19%", "2GB"],
        ["walltime", "4 h", "20 min", "123_1", "15 min", "8%", "00:30:00"],
        ["CPUs", "4", "1.10", "123_0", "1.10", "28%", "1"],
    ]
    assert "Of 3 processes." in text(page.section("limits"))


def test_limits_that_were_tight_or_unknown():
    tight = Usage("1_0", 10**9, 950 * 10**6, 600.0, 590.0, 1, 580.0)
    memory, walltime, cpus = account.limits_of([tight])
    assert (memory.next, memory.remark) == ("1500MB", "It was tight: ask for more.")
    assert (walltime.next, walltime.remark) == (
        "00:15:00", "1 of 1 may have been stopped by it.",
    )  # fmt: skip
    assert (cpus.next, cpus.share) == ("1", pytest.approx(58 / 59))
    free = Usage("1_0", None, 950 * 10**6, None, 100_000.0, None, 399_000.0)
    memory, walltime, cpus = account.limits_of([free])
    assert [x.asked for x in (memory, walltime, cpus)] == ["", "", ""]
    assert [x.share for x in (memory, walltime, cpus)] == [None, None, None]
    assert (walltime.next, cpus.next) == ("1-18:00:00", "4")


def test_damaged_usage_is_told_of(tmp_path):
    plan = planned(tmp_path, trials=4)
    usage.write_usage(plan, "a", Usage("1_0", None, 10**8, None, 5.0, None, 1.0))
    for k in range(12):
        (plan.run_directory / "usage" / f"b{k:02}.json").write_text("{")
    said = text(page_of(plan).section("limits"))
    assert "Of 1 process." in said
    assert "Without 12 files that cannot be read: b00.json: " in said
    assert "b09.json" in said
    assert "b10.json" not in said
    assert said.endswith("and 2 more")


def test_of_many_workers_the_slowest_and_the_fastest(tmp_path):
    plan = planned(tmp_path, trials=60 * 4)
    for k in range(60):
        work(plan, f"77_{k}", range(4 * k, 4 * k + 4), compute=0.1 * (k + 1), io=0.0)
    page = page_of(plan)
    spread, slowest, fastest = page.tables("workers")
    assert [row[0] for row in slowest[1:]] == [f"77_{k}" for k in range(59, 49, -1)]
    assert [row[0] for row in fastest[1:]] == [f"77_{k}" for k in range(9, -1, -1)]
    assert spread[1] == ["trials", "4", "4", "4", "4", "4"]
    assert spread[4][0] == "first to last"
    assert (spread[4][1], spread[4][5]) == ("400 ms", "24 s")
    assert text(page.section("workers").find("h2")) == "60 workers"


def test_fifty_workers_are_all_shown_in_order(tmp_path):
    plan = planned(tmp_path, trials=50)
    for k in range(50):
        work(plan, f"77_{k}", [k], host=f"n{k % 3}")
    ((_, *rows),) = page_of(plan).tables("workers")
    assert [row[0] for row in rows] == [f"77_{k}" for k in range(50)]


def big(folder: Path, *, blocks: int, tasks: int = 1000) -> hpcio.Plan:
    """A run by a thousand array tasks, some of them slow."""
    plan = planned(folder, trials=tasks * blocks, channels=1000)
    rng = np.random.default_rng(3)
    for k in range(tasks):
        compute = rng.gamma(4, 0.02 if k % 97 else 0.04, blocks)
        work(
            plan, f"4242_{k}", range(k * blocks, (k + 1) * blocks), host=f"node{k % 64:03}",
            start=BEGAN + rng.gamma(2, 4), compute=compute, io=rng.gamma(2, 0.01, blocks),
        )  # fmt: skip
        used = Usage(f"4242_{k}", 4 * 10**9, int(rng.normal(8e8, 1e8)), HOUR, float(compute.sum()),
                     1, float(compute.sum() * 0.9))  # fmt: skip
        usage.write_usage(plan, f"4242_{k}-{k:08x}", used)
    return plan


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [100, pytest.param(1000, marks=pytest.mark.torture)])
def test_a_thousand_tasks_and_as_many_trials_each_make_a_small_page_soon(tmp_path, blocks):
    plan = big(tmp_path, blocks=blocks)
    began = time.process_time()
    path = write_page(None, plan.out)
    assert time.process_time() - began < 60  # 5 s on an idle machine
    page = Page(path)
    assert path.stat().st_size < 3_000_000
    count = f"{1000 * blocks:,}"
    assert page.tiles[f"of {count} trials done"] == count
    assert text(page.section("workers").find("h2")) == "1,000 workers"
    assert len(page.tables("slowest")[0]) == 21
