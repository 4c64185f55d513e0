"""Timelines: arrays that agree with the journals, and what pictures make of them."""

from __future__ import annotations

import struct
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import report
from hpcio.errors import MissingPackageError, OutputError, ResultError
from hpcio.journal import DONE
from hpcio.ledger import Ledger
from hpcio.report import Timeline


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A finished run: 60 trials, two workers."""
    folder = tmp_path_factory.mktemp("report")
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = np.arange(12000.0).reshape(3000, 4)
    plan = hpcio.Plan.create(
        np.negative, f"{folder}/rec.h5::/lfp", trials=50, out=folder / "out.h5", sources="task"
    )
    plan.run(workers=2, progress=False)
    return plan


def times(
    start: list[float], seconds: list[float], attempt: list[int] | None = None, **other: object
) -> Timeline:
    """Blocks of four bytes read and one written, three quarters of the time computing."""
    begin, lasted = np.asarray(start, float), np.asarray(seconds, float)
    count = begin.size
    whose = np.zeros(count, np.int32) if attempt is None else np.asarray(attempt, np.int32)
    workers = tuple(("here", f"w{k}") for k in range(int(whose.max(initial=0)) + 1))
    values = {
        "block": np.arange(count), "attempt": whose, "start": begin, "end": begin + lasted,
        "compute": 0.75 * lasted, "io": 0.25 * lasted, "nbytes": np.full(count, 1),
        "nbytes_read": np.full(count, 4), "workers": workers,
        "finish": float((begin + lasted).max(initial=0)), "function": "module:func",
    }  # fmt: skip
    return Timeline(**{**values, **other})  # type: ignore[arg-type]


# ---- arrays


def test_arrays_agree_with_the_journals(plan):
    ledger = Ledger.read(plan)
    found = report.read_timeline(ledger)
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
        assert (found.start[mine] >= log.about["start"] - 0.01).all()
        assert (np.diff(found.start[mine]) > 0).all()
    np.testing.assert_allclose(found.end - found.start, found.compute + found.io, atol=1e-6)
    assert (found.nbytes == 50 * 4 * 8).all()
    assert (found.nbytes_read == 50 * 4 * 8).all()


def test_blocks_that_are_not_done_are_left_out(plan):
    ledger = Ledger.read(plan)
    ledger.state[10:20] = 0
    found = report.read_timeline(ledger)
    assert sorted(found.block) == [*range(10), *range(20, 60)]


# ---- arithmetic


def test_short_blocks_are_merged_and_long_ones_kept():
    start = np.asarray([0.0, 0.2, 0.4, 1.0, 5.0, 0.0])
    row = np.asarray([0, 0, 0, 0, 0, 1])
    lasted = np.asarray([0.2, 0.2, 0.6, 3.0, 1.0, 6.0])
    bars = report._merge(row, start, start + lasted, 0.75 * lasted, 0.25 * lasted, 1.0)
    assert bars.row.tolist() == [0, 0, 0, 1]
    np.testing.assert_allclose(bars.left, [0, 1, 5, 0])
    np.testing.assert_allclose(bars.right, [1, 4, 6, 6])
    np.testing.assert_allclose(bars.compute, 0.75)
    np.testing.assert_allclose(bars.io, 0.25)


def test_a_merged_bar_is_as_full_as_its_blocks():
    start = np.linspace(0, 100, 1000, endpoint=False)  # at work for half of the time
    row, lasted = np.zeros(1000, int), np.full(1000, 0.05)
    bars = report._merge(row, start, start + lasted, lasted, 0 * lasted, 1.0)
    assert bars.row.size == 100
    np.testing.assert_allclose(bars.compute[:-1], 0.5)


def test_bars_of_many_workers_are_few():
    rng = np.random.default_rng(0)
    row = np.repeat(np.arange(64), 10_000)
    lasted = rng.gamma(2, 0.5, row.size)
    start = np.concatenate([np.cumsum(x) - x for x in lasted.reshape(64, -1)])
    span = float((start + lasted).max())
    bars = report._merge(row, start, start + lasted, 0.9 * lasted, 0.1 * lasted, span / 600)
    assert bars.row.size <= 64 * 600
    assert (bars.right - bars.left) @ bars.compute == pytest.approx(0.9 * lasted.sum(), rel=1e-3)


def test_a_pause_between_two_runs_is_cut_out():
    day = 86400.0
    start, end, span, pauses = report._without_pauses(
        times([1e9, 1e9 + 1, 1e9 + day], [1.0, 1.0, 2.0])
    )
    cut = 0.04 * 4
    np.testing.assert_allclose(start, [0, 1, 2 + cut], atol=1e-6)
    np.testing.assert_allclose(end, [1, 2, 4 + cut], atol=1e-6)
    assert span == pytest.approx(4 + cut)
    assert pauses == [(pytest.approx(2 + cut / 2), pytest.approx(day - 2))]


def test_short_pauses_stay():
    start, _, span, pauses = report._without_pauses(times([0.0, 3.0, 8.0], [2.0, 3.0, 4.0]))
    assert start.tolist() == [0, 3, 8]
    assert span == 12
    assert pauses == []


def test_the_last_sync_belongs_to_the_run(plan):
    found = report.read_timeline(Ledger.read(plan))
    _, end, span, _ = report._without_pauses(found)
    assert found.finish == max(log.records["end"][-1] for log in Ledger.read(plan).logs)
    assert span == pytest.approx(found.finish - found.start.min(), abs=1e-5)
    assert span > end.max()


def test_attempts_of_a_resumed_run_share_the_row_of_their_worker():
    workers = (("a", "w0"), ("a", "w1"), ("a", "w0"), ("a", "w10"), ("a", "w0"))
    # Attempt 4 of w0 runs beside its attempt 2, as a task that a cluster runs twice.
    found = times([0, 0, 10, 0, 11], [5, 5, 5, 5, 5], [0, 1, 2, 3, 4], workers=workers)
    row, names = report._rows(found)
    assert names == ["w0", "w0", "w1", "w10"]
    assert row[0] == row[2] != row[4]
    assert [names[r] for r in row] == ["w0", "w1", "w0", "w10", "w0"]


def test_rows_name_the_host_if_there_are_several():
    found = times([0, 0], [1, 1], [0, 1], workers=(("n2", "w0"), ("n1", "w1")))
    assert report._rows(found)[1] == ["n1 w1", "n2 w0"]


def test_bytes_pass_evenly_while_a_block_is_at_work():
    start, end = np.asarray([0.0, 1.0, 6.0]), np.asarray([2.0, 3.0, 6.0])
    sizes = np.asarray([200, 100, 50])
    passed = report._passed(start, end, sizes, np.asarray([0, 1, 2, 3, 5, 7]))
    np.testing.assert_allclose(passed, [0, 100, 250, 300, 300, 350])


def test_summary_says_what_ran():
    found = times([0, 0, 2, 2], [2, 2, 2, 2], [0, 1, 0, 1])
    found = replace(found, nbytes=found.nbytes * 1_000_000, nbytes_read=found.nbytes_read * 0)
    assert report.summary(found) == (
        "module:func, 4 blocks by 2 workers in 4 s: 1 blocks/s, 1 MB/s"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0123, "12.3 ms"), (4.56, "4.56 s"), (90, "1.5 min"), (4000, "1.11 h"), (9e6, "104 d")],
)
def test_durations_are_said_as_people_do(seconds, said):
    assert report._duration(seconds) == said


# ---- pictures


def test_picture_has_the_announced_size(plan, tmp_path):
    path = report.picture(tmp_path / "run.png", plan.out)
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", head[16:]) == (1600, 1100)


@pytest.mark.parametrize("workers", [1, 2, 24, 25, 64])
def test_timeline_has_a_row_for_each_worker(workers, tmp_path):
    start = np.tile(np.arange(50.0), workers)
    whose = np.repeat(np.arange(workers), 50)
    found = times(start.tolist(), [0.8] * start.size, whose.tolist())
    with report.canvas(tmp_path / "run.png", 800, 600) as figure:
        ax = figure.subplots()
        report.timeline(ax, found)
        assert len(ax.patches) == workers
        low, high = sorted(ax.get_ylim())
        assert low < 0
        assert high > workers - 1
        legend = [text.get_text() for text in ax.get_legend().get_texts()]
        assert ax.get_xlabel() == "time (s)"
        assert len(ax.get_yticks()) <= 16
    share = 50 * 0.8 / 49.8
    assert legend == [
        f"computing {0.75 * share:.0%}",
        f"reading and writing {0.25 * share:.0%}",
        f"waiting {1 - share:.0%}",
    ]


def test_a_pause_is_marked(tmp_path):
    with report.canvas(tmp_path / "run.png", 800, 600) as figure:
        for ax, draw in zip(figure.subplots(2), (report.timeline, report.throughput), strict=True):
            draw(ax, times([0, 7200], [1, 1]))
            assert [text.get_text() for text in ax.texts] == ["pause of 2 h"]
            assert ax.get_xlim()[1] < 2.2


def test_throughput_adds_up_to_all_bytes(tmp_path):
    found = times([0, 1, 4], [1, 3, 2])
    with report.canvas(tmp_path / "run.png", 800, 600) as figure:
        ax = figure.subplots()
        report.throughput(ax, found)
        read, both = (patch.get_data() for patch in ax.patches)
    width = np.diff(read.edges)
    assert width @ read.values == pytest.approx(12e-6)
    assert width @ (both.values - both.baseline) == pytest.approx(3e-6)


def test_a_matplotlibrc_changes_neither_size_nor_state(plan, tmp_path):
    import matplotlib

    def state() -> dict[str, object]:
        names = matplotlib.rcParams.keys() - {"backend"}  # to ask for it is to import pyplot
        return {name: matplotlib.rcParams[name] for name in names}

    with matplotlib.rc_context({"savefig.bbox": "tight", "font.size": 30, "figure.dpi": 50}):
        before = state()
        pyplot = "matplotlib.pyplot" in sys.modules
        path = report.picture(tmp_path / "run.png", plan.out)
        assert state() == before
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (1600, 1100)
    assert ("matplotlib.pyplot" in sys.modules) == pyplot


def test_nothing_done_is_nothing_to_draw(tmp_path):
    with pytest.raises(ResultError, match="No block is done yet"):
        report.summary(times([], []))


def test_a_picture_that_cannot_be_written_says_so(plan, tmp_path):
    with pytest.raises(OutputError, match=r"nowhere/run\.png"):
        report.picture(tmp_path / "nowhere" / "run.png", plan.out)


def test_missing_matplotlib_names_the_remedy(plan, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'hpcio\[plot\]'") as error:
        report.picture(tmp_path / "run.png", plan.out)
    assert isinstance(error.value, ImportError)
