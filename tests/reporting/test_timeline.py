"""Timelines: arrays that agree with the journals, and their arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from hpcio.journals.journal import DONE
from hpcio.journals.ledger import Ledger
from hpcio.reporting import timeline
from tests.rigs.made import times


@pytest.fixture(scope="module")
def plan(finished_plan):
    return finished_plan


def test_arrays_agree_with_the_journals(plan):
    ledger = Ledger.read(plan)
    found = timeline.read_timeline(ledger)
    assert len(found) == len(plan) == 60
    assert found.function == "numpy:negative"
    assert {label for _, label in found.workers} == {"w0", "w1"}
    for k, log in enumerate(ledger.logs):
        mine = found.attempt == k
        records = log.records[log.records["kind"] == DONE]
        np.testing.assert_array_equal(found.block[mine], records["block"])
        np.testing.assert_array_equal(found.end[mine], records["end"])
        np.testing.assert_array_equal(found.compute[mine], records["compute"])
        np.testing.assert_array_equal(found.io[mine], records["io"])
        assert (found.start[mine] >= log.header["start"] - 0.01).all()
        assert (np.diff(found.start[mine]) > 0).all()
    np.testing.assert_allclose(found.end - found.start, found.compute + found.io, atol=1e-6)
    assert (found.nbytes == 50 * 4 * 8).all()
    assert (found.nbytes_read == 50 * 4 * 8).all()


def test_blocks_that_are_not_done_are_left_out(plan):
    ledger = Ledger.read(plan)
    ledger.state[10:20] = 0
    found = timeline.read_timeline(ledger)
    assert sorted(found.block) == [*range(10), *range(20, 60)]


def test_short_blocks_are_merged_and_long_ones_kept():
    start = np.asarray([0.0, 0.2, 0.4, 1.0, 5.0, 0.0])
    row = np.asarray([0, 0, 0, 0, 0, 1])
    lasted = np.asarray([0.2, 0.2, 0.6, 3.0, 1.0, 6.0])
    bars = timeline.bars_of(row, start, start + lasted, 0.75 * lasted, 0.25 * lasted, 1.0)
    assert bars.row.tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(bars.left, [0, 1, 5, 0])
    np.testing.assert_allclose(bars.right, [1, 4, 6, 6])
    np.testing.assert_allclose(bars.compute, 0.75)
    np.testing.assert_allclose(bars.io, 0.25)


def test_a_merged_bar_is_as_full_as_its_blocks():
    start = np.linspace(0, 100, 1000, endpoint=False)  # at work for half of the time
    row, lasted = np.zeros(1000, int), np.full(1000, 0.05)
    bars = timeline.bars_of(row, start, start + lasted, lasted, 0 * lasted, 1.0)
    assert bars.row.size == 100
    np.testing.assert_allclose(bars.compute[:-1], 0.5)


def test_bars_of_many_workers_are_few():
    rng = np.random.default_rng(0)
    row = np.repeat(np.arange(64), 10_000)
    lasted = rng.gamma(2, 0.5, row.size)
    start = np.concatenate([np.cumsum(x) - x for x in lasted.reshape(64, -1)])
    span = float((start + lasted).max())
    bars = timeline.bars_of(row, start, start + lasted, 0.9 * lasted, 0.1 * lasted, span / 600)
    assert bars.row.size <= 64 * 600
    assert (bars.right - bars.left) @ bars.compute == pytest.approx(0.9 * lasted.sum(), rel=1e-3)


def test_a_pause_between_two_runs_is_cut_out():
    day = 86400.0
    start, end, span, pauses = timeline.without_pauses(
        times([1e9, 1e9 + 1, 1e9 + day], [1.0, 1.0, 2.0])
    )
    cut = 0.04 * 4
    np.testing.assert_allclose(start, [0, 1, 2 + cut], atol=1e-6)
    np.testing.assert_allclose(end, [1, 2, 4 + cut], atol=1e-6)
    assert span == pytest.approx(4 + cut)
    assert pauses == [(pytest.approx(2 + cut / 2), pytest.approx(day - 2))]


def test_short_pauses_stay():
    start, _, span, pauses = timeline.without_pauses(times([0.0, 3.0, 8.0], [2.0, 3.0, 4.0]))
    assert start.tolist() == [0, 3, 8]
    assert span == 12
    assert pauses == []


def test_the_last_sync_belongs_to_the_run(plan):
    found = timeline.read_timeline(Ledger.read(plan))
    _, end, span, _ = timeline.without_pauses(found)
    assert found.finish == max(log.records["end"][-1] for log in Ledger.read(plan).logs)
    assert span == pytest.approx(found.finish - found.start.min(), abs=1e-5)
    assert span > end.max()


def test_attempts_of_a_resumed_run_share_the_row_of_their_worker():
    workers = (("a", "w0"), ("a", "w1"), ("a", "w0"), ("a", "w10"), ("a", "w0"))
    # Attempt 4 of w0 runs beside its attempt 2, as a task that a cluster runs twice.
    found = times([0, 0, 10, 0, 11], [5, 5, 5, 5, 5], [0, 1, 2, 3, 4], workers=workers)
    row, names = timeline.rows_of(found)
    assert names == ["w0", "w0", "w1", "w10"]
    assert row[0] == row[2] != row[4]
    assert [names[r] for r in row] == ["w0", "w1", "w0", "w10", "w0"]


def test_rows_name_the_host_of_labels_that_several_have():
    workers = (("n2", "7_9"), ("n1", "7_10"), ("n3", "7_8"), ("n1", "7_8"))
    found = times([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 2, 3], workers=workers)
    row, names = timeline.rows_of(found)
    assert names == ["n1 7_8", "n3 7_8", "7_9", "7_10"]
    assert row.tolist() == [2, 3, 1, 0]


@pytest.mark.parametrize("count", [30, 400, 1000])
def test_lines_of_pixels_are_as_full_as_their_blocks(count):
    start = np.tile(np.arange(0, 60.0, 6), count)
    row = np.repeat(np.arange(count), 10)
    lasted = 3.0 + 2.0 * (row % 2)  # at work for a half of the time, or for five sixths
    compute, io = timeline.shares_of(
        row, start, start + lasted, 0.75 * lasted, 0.25 * lasted, 60.0, count
    )
    lines = min(count, 400)
    assert compute.shape == io.shape == (lines, timeline.COLUMNS)
    np.testing.assert_allclose(compute, 3 * io, atol=1e-6)
    assert (compute + io).max() <= 1 + 1e-9
    if count == lines:
        np.testing.assert_allclose(
            (compute + io).mean(axis=1), [0.5, 5 / 6] * (count // 2), rtol=1e-3
        )
        np.testing.assert_allclose((compute + io)[:, :30], 1, rtol=1e-6)
        np.testing.assert_allclose((compute + io)[:, 51:59], 0, atol=1e-6)
    assert (compute + io).mean() == pytest.approx((0.5 + 5 / 6) / 2, rel=2e-2)


def test_time_at_work_is_without_pauses():
    assert timeline.worked(times([0, 1, 86400], [1, 1, 2])) == pytest.approx(4)
    assert timeline.worked(times([0, 3], [2, 3])) == pytest.approx(6)


def test_bytes_pass_evenly_while_a_block_is_at_work():
    start, end = np.asarray([0.0, 1.0, 6.0]), np.asarray([2.0, 3.0, 6.0])
    sizes = np.asarray([200, 100, 50])
    passed = timeline.passed_by(start, end, sizes, np.asarray([0, 1, 2, 3, 5, 7]))
    np.testing.assert_allclose(passed, [0, 100, 250, 300, 300, 350])
