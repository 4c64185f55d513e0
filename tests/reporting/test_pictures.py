"""Pictures of a run: what is drawn, and into what."""

from __future__ import annotations

import struct
import sys
from dataclasses import replace

import numpy as np
import pytest

from hpcio.errors import MissingPackageError, OutputError, ResultError
from hpcio.reporting import pictures as report
from hpcio.words import duration
from tests.reporting.test_timeline import times


@pytest.fixture(scope="module")
def plan(finished_plan):
    return finished_plan


def test_summary_says_what_ran():
    found = times([0, 0, 2, 2], [2, 2, 2, 2], [0, 1, 0, 1])
    found = replace(found, nbytes=found.nbytes * 1_000_000, nbytes_read=found.nbytes_read * 0)
    assert report.summary(found) == (
        "module:func, 4 blocks by 2 workers in 4 s: 1 blocks/s, 1 MB/s"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0123, "12.3 ms"),
        (4.56, "4.56 s"),
        (90, "1 min 30 s"),
        (4000, "1 h 7 min"),
        (9e6, "104 d 4 h"),
    ],
)
def test_durations_are_said_as_people_do(seconds, said):
    assert duration(seconds) == said


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
        report.draw_timeline(ax, found)
        if workers <= 24:
            assert len(ax.patches) == workers
        else:
            (image,) = ax.images
            assert image.get_array().shape[0] == workers
            assert image.get_zorder() > max(patch.get_zorder() for patch in ax.patches)
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
        for ax, draw in zip(
            figure.subplots(2), (report.draw_timeline, report.draw_throughput), strict=True
        ):
            draw(ax, times([0, 7200], [1, 1]))
            assert [text.get_text() for text in ax.texts] == ["pause of 2 h"]
            assert ax.get_xlim()[1] < 2.2


def test_the_name_of_a_late_pause_stays_inside(tmp_path):
    start = [*map(float, range(9)), 7200.0]
    with report.canvas(tmp_path / "run.png", 800, 600) as figure:
        for ax, draw in zip(
            figure.subplots(2), (report.draw_timeline, report.draw_throughput), strict=True
        ):
            draw(ax, times(start, [1.0] * 10))
            figure.canvas.draw()
            (name,) = ax.texts
            assert name.get_window_extent().x1 < ax.get_window_extent().x1


@pytest.mark.parametrize(
    ("seconds", "unit", "last"), [(200, "s", "200"), (5400, "min", "90"), (90000, "h", "25")]
)
def test_long_times_are_in_minutes_and_hours(tmp_path, seconds, unit, last):
    with report.canvas(tmp_path / "run.png", 1600, 1100) as figure:
        ax = figure.subplots()
        report.draw_timeline(ax, times([0.0], [float(seconds)]))
        assert ax.get_xlabel() == f"time ({unit})"
        assert [text.get_text() for text in ax.get_xticklabels()][-1] == last


def test_throughput_adds_up_to_all_bytes(tmp_path):
    found = times([0, 1, 4], [1, 3, 2])
    with report.canvas(tmp_path / "run.png", 800, 600) as figure:
        ax = figure.subplots()
        report.draw_throughput(ax, found)
        read, both = (patch.get_data() for patch in ax.patches)
    width = np.diff(read.edges)
    assert width @ read.values == pytest.approx(12e-6)
    assert width @ (both.values - both.baseline) == pytest.approx(3e-6)


def colours(path, row: slice, column: slice) -> set[tuple[int, ...]]:
    """The colours of some pixels of a picture."""
    from matplotlib.image import imread

    pixels = np.rint(255 * imread(path)[row, column, :3]).astype(int)
    return {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()}


@pytest.mark.parametrize("workers", [2, 30, 1000])
def test_busy_workers_are_blue_and_orange(tmp_path, workers):
    whose = np.arange(workers)
    found = times([0.0] * workers, [10.0] * workers, whose.tolist())
    path = tmp_path / "run.png"
    with report.canvas(path, 800, 600) as figure:
        ax = figure.subplots()
        report.draw_timeline(ax, found)
        figure.canvas.draw()
        left, bottom, right, top = (round(x) for x in ax.get_window_extent().extents)
    middle = slice((left + right) // 2, (left + right) // 2 + 1)
    seen = colours(path, slice(600 - top, 600 - bottom), middle)
    blue, orange = (np.asarray([0, 114, 178]), np.asarray([230, 159, 0]))
    if workers == 2:
        assert {tuple(blue), tuple(orange)} <= seen
    else:
        mixed = 0.75 * blue + 0.25 * orange
        assert any(np.abs(np.asarray(colour) - mixed).max() <= 2 for colour in seen)


def test_a_drawing_for_a_page_has_variables_for_what_may_be_dark():
    svg = report.drawing(times([0, 1], [1, 1], [0, 1], workers=(("a", "<$w0$>"), ("a", "w1"))))
    assert svg.startswith('<svg viewBox="0 0 720 ')
    assert "http" not in svg
    assert "metadata" not in svg
    assert "&lt;$w0$&gt;" in svg
    for name in ("ink", "grey", "pale"):
        assert f"var(--{name})" in svg
        assert report.COLOURS[name].lower() not in svg
    assert len(svg) < 100_000
    ids = [part.split('"')[0] for part in svg.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    assert report.drawing(times([0, 1], [1, 1])) == report.drawing(times([0, 1], [1, 1]))


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


def test_powers_of_ten_are_drawn_as_such(tmp_path):
    with report.canvas(tmp_path / "log.png", 400, 300) as figure:
        ax = figure.subplots()
        ax.semilogy([1, 1000])
        figure.canvas.draw()
        assert all(label.get_parse_math() for label in ax.get_yticklabels())
