"""The page about a run: its numbers are those of the journals, and nothing in it is foreign."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import words
from hpcio.errors import MissingPackageError, OutputError, PlanError, ResultError
from hpcio.files.slab import checksum
from hpcio.journals import journal, usage
from hpcio.journals.journal import DONE, FAILED, RECORD, Journal
from hpcio.journals.ledger import Ledger
from hpcio.journals.rundir import prepare
from hpcio.journals.usage import Usage
from hpcio.watching import account
from hpcio.watching.page import GENERATOR, write_page

HOUR = 3600.0
BEGAN = 1_700_000_000.0


# ---- journals as workers would have written them


def planned(folder: Path, *, trials: int, channels: int = 4, name: str = "out.h5") -> hpcio.Plan:
    """A plan of equal trials of one row, with a run directory; the recording takes no room."""
    with h5py.File(folder / "rec.h5", "w") as f:
        f.create_dataset("lfp", (trials, channels), "f4")
    return prepare(
        hpcio.Plan.create(np.negative, f"{folder}/rec.h5::/lfp", trials=1, out=folder / name)
    )


def work(
    plan: hpcio.Plan,
    label: str,
    blocks: Iterable[int] | np.ndarray,
    *,
    host: str = "n1",
    start: float = BEGAN,
    compute: float | np.ndarray = 0.75,
    io: float | np.ndarray = 0.25,
    failed: Sequence[tuple[int, str]] = (),
) -> None:
    """The journal of an attempt that did blocks one after the other, then failed at others."""
    done = np.asarray(list(blocks), np.int64)
    count = len(list(plan.rundir.journals.glob("*.jnl")))
    about = {"label": label, "token": plan.token, "host": host, "pid": 1, "user": "ada",
             "start": start}  # fmt: skip
    made = Journal(plan.rundir.journals, f"{label}-{count:08x}", plan.digest, about)
    made.close()
    records = np.zeros(done.size + len(failed), RECORD)
    good = records[: done.size]
    good["kind"], good["block"] = DONE, done
    good["compute"], good["io"] = compute, io
    good["nbytes"] = plan.target.sizes()[done]
    records["end"] = start + np.cumsum(records["compute"].astype(float) + records["io"])
    notes = b""
    for record, (block, text) in zip(records[done.size :], failed, strict=True):
        said = text.encode()
        record["kind"], record["block"], record["offset"] = FAILED, block, len(notes)
        record["nbytes"], record["checksum"] = len(said), checksum(said)
        notes += said
    raw, size, seed = bytearray(records.tobytes()), RECORD.itemsize, journal._seed(plan.digest)
    for at in range(0, len(raw), size):
        raw[at : at + 8] = checksum(raw[at + 8 : at + size], seed).to_bytes(8, "little")
    with made.path.open("ab") as f:
        f.write(raw)
    if notes:
        made.path.with_suffix(".notes").write_bytes(notes)


# ---- pages as a reader sees them


class Tree(HTMLParser):
    """Elements of a page; end tags must match."""

    def __init__(self) -> None:
        super().__init__()
        self.tree, self.open = TreeBuilder(), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tree.start(tag, {name: value or "" for name, value in attrs})
        self.open.append(tag)
        if tag in ("meta", "br"):
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.tree.end(tag)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.tree.data(data)


def text(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


class Page:
    """What a page says: by the section it is in."""

    def __init__(self, path: Path) -> None:
        self.raw = path.read_text(encoding="utf-8")
        parser = Tree()
        parser.feed(self.raw)
        assert not parser.open
        self.root = parser.tree.close()
        self.body = self.root.find("body")
        self.state = text(self.body.find("header/p"))
        self.tiles = {
            text(tile.find("span")): text(tile.find("b"))
            for tile in self.root.find(".//div[@id='counts']")
        }
        names_and_values = [text(x) for x in self.section("ran").find("dl")]
        self.facts = dict(zip(names_and_values[::2], names_and_values[1::2], strict=True))

    def section(self, name: str) -> Element | None:
        return self.body.find(f"section[@id='{name}']")

    def tables(self, name: str) -> list[list[list[str]]]:
        """Rows of each table of a section, the first with the names of the columns."""
        return [
            [[text(cell) for cell in row] for row in table.iter("tr")]
            for table in self.section(name).iter("table")
        ]

    def failures(self) -> list[tuple[str, str, str]]:
        """Reason, trials and traceback of each group."""
        return [
            (text(d.find("summary/b")), text(d.find("summary/span")), d.find("pre").text)
            for d in self.section("failures").iter("details")
        ]


def page_of(plan: hpcio.Plan) -> Page:
    return Page(write_page(None, plan.out))


# ---- what a page says


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> hpcio.Plan:
    """A finished run of 60 trials by two workers."""
    folder = tmp_path_factory.mktemp("page")
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = np.arange(12000.0).reshape(3000, 4)
    plan = hpcio.Plan.create(
        np.negative, f"{folder}/rec.h5::/lfp", trials=50, out=folder / "out.h5", join="stack",
        axes={"trial": None, "time": None, "channel": None},
    )  # fmt: skip
    plan.run(workers=2, progress=False)
    return plan


def test_a_finished_run(real):
    page, ledger = page_of(real), Ledger.read(real)
    assert page.state == "complete"
    assert page.tiles["of 60 blocks done"] == "60"
    assert page.tiles["failed"] == page.tiles["not tried"] == page.tiles["computed twice"] == "0"
    facts = page.facts
    assert facts["function"] == f"numpy:negative, version {np.__version__}"
    assert facts["source"] == f"{real.source.path}::/lfp"
    assert facts["trials"] == "60 of 50 rows"
    assert facts["result"] == "60 trial x 50 time x 4 channel, float64, 96 kB"
    assert facts["output"] == real.out
    assert facts["user"] == ledger.logs[0].about["user"]
    assert facts["hosts"] == ledger.logs[0].about["host"]
    assert facts["began"] == words.when(min(log.about["start"] for log in ledger.logs))
    for package in (hpcio, h5py, np):
        assert f"{package.__name__} {package.__version__}" in facts["versions"]
    assert page.section("failures") is None
    assert page.section("limits") is None


def test_workers_and_slowest_are_those_of_the_journals(real):
    page, ledger = page_of(real), Ledger.read(real)
    records = np.concatenate([log.records for log in ledger.logs])
    records = records[records["kind"] == DONE]
    (table,) = page.tables("workers")
    names, *rows = table
    assert names[:6] == ["worker", "host", "blocks", "failed", "busy", "MB/s"]
    did = {log.about["label"]: int((log.records["kind"] == DONE).sum()) for log in ledger.logs}
    assert {row[0]: int(row[2]) for row in rows} == did
    ((names, *slow),) = page.tables("slowest")
    assert len(slow) == 20
    lasted = records["compute"].astype(float) + records["io"]
    order = np.argsort(-lasted)[:20]
    assert [int(row[1]) for row in slow] == records["block"][order].tolist()
    for row, k in zip(slow, order, strict=True):
        scale = 1000 if "(ms)" in names[3] else 1
        largest = scale * float(lasted.max())
        for said, what in zip(row[3:5], ("compute", "io"), strict=True):
            assert float(said) == pytest.approx(scale * records[what][k], abs=0.01 * largest)
        assert row[5] == "0.00320"


def test_an_unfinished_run_with_everything(tmp_path):
    plan = planned(tmp_path, trials=20)
    work(plan, "w0", range(6), compute=2.0, failed=[(10, "Traceback\nValueError: no")])
    work(plan, "w1", range(4, 8), io=[0.25, 0.25, 1.25, 0.25], host="n2")
    work(plan, "w0", [9, 10], start=BEGAN + HOUR)
    page = page_of(plan)
    assert page.state == "not complete"
    assert f"hpcio resume {plan.out}" in text(page.body.find("header"))
    assert page.tiles == {
        "of 20 blocks done": "10", "failed": "0", "not tried": "10", "computed twice": "2",
        "at work": "15.5 s", "read and written": f"{320 / 15.5:.3g} B/s",
    }  # fmt: skip
    assert page.facts["took"] == "15.5 s at work, 1 h in all"
    assert page.facts["hosts"] == "n1, n2"
    assert page.facts["versions"].endswith("(where this page was made)")
    ((_, *rows),) = page.tables("workers")
    assert [row[:5] for row in rows] == [
        ["w0", "n1", "8", "1", "100%"],
        ["w1", "n2", "4", "0", "100%"],
    ]
    ((_, *slow),) = page.tables("slowest")
    assert slow[0][:3] == ["0", "0", "w0"]
    svg = page.section("timeline").find(".//svg")
    assert {"w0", "w1"} < {text(x) for x in svg.iter("text")}
    assert re.search(r"pause of 59 min \d+ s", text(svg))


def test_a_run_that_has_not_begun(tmp_path):
    page = page_of(planned(tmp_path, trials=3))
    assert page.state == "not complete"
    assert page.tiles == {
        "of 3 blocks done": "0", "failed": "0", "not tried": "3", "computed twice": "0",
    }  # fmt: skip
    assert text(page.section("timeline")) == "When No block is done yet."
    assert page.section("workers") is None
    assert page.section("slowest") is None
    assert "began" not in page.facts


def test_a_published_run_with_gaps(tmp_path):
    plan = planned(tmp_path, trials=5)
    work(plan, "w0", [], failed=[(2, "ValueError: no")])
    plan.run(workers=0, progress=False)  # tries it again, with success
    assert page_of(plan).state == "complete"

    other = prepare(
        hpcio.Plan.create(_unlucky, f"{tmp_path}/rec.h5::/lfp", trials=1, out=tmp_path / "gaps.h5",
                          args=[hpcio.per_trial(np.arange(5))])
    )  # fmt: skip
    other.run(workers=0, progress=False, gaps=True)
    page = page_of(other)
    assert page.state == "published with 1 gap"
    assert page.tiles["failed"] == "1"
    assert [x[:2] for x in page.failures()] == [("ValueError: no luck", "trial 3")]


def _unlucky(trial, number, noCompute=None):
    if noCompute:
        return trial.shape, "f4"
    if number == 3:
        raise ValueError("no luck")
    return trial


# ---- failures


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
        "5,201 blocks failed and were not done since, for 3 reasons."
    )
    equal, some, one = page.failures()
    assert equal == (
        "ValueError: too short", "5,000 blocks, of the trials 0-4999",
        "Traceback\n  in trial 0\nValueError: too short",
    )  # fmt: skip
    odd = ", ".join(str(k) for k in range(5001, 5025, 2))
    assert some[:2] == ("KeyError: 'x'", f"200 blocks, of the trials {odd} and 188 more")
    assert one[:2] == ("MemoryError: much", "trial 5999")
    assert len(page.raw) < 100_000


def test_a_hundred_reasons_are_shown(tmp_path):
    plan = planned(tmp_path, trials=300)
    work(plan, "w0", [], failed=[(k, f"ValueError: {k // 2}") for k in range(300)])
    page = page_of(plan)
    assert len(page.failures()) == 100
    assert text(page.section("failures")).endswith("And 100 blocks more, for 50 other reasons.")


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


# ---- names that are no names, and what a page loads

EVIL = (
    """<script>alert("x")</script><img src=http://x.org/y onerror='z'> & {{ 7 * 7 }} $\\frac$ é"""
)


@pytest.fixture
def evil(tmp_path) -> Page:
    """A page whose every name wants to be more than that."""
    short = EVIL.replace("/", "_")
    with h5py.File(tmp_path / "rec.h5", "w") as f:
        f[short] = np.zeros((4, 2))
    plan = prepare(
        hpcio.Plan.create(
            _take,
            f"{tmp_path}/rec.h5::{short}",
            trials=1,
            out=tmp_path / f"{short}.h5",
            args=[EVIL],
            axes={short: None, "channel": None},
        )
    )
    work(plan, EVIL.replace("/", "_"), [0, 1], host="<b>n1</b>", failed=[(2, f"{EVIL}\n{EVIL}")])
    usage.write(plan, "<u>", Usage(f"{EVIL}-0", 10**9, 10**8, 60.0, 30.0, 1, 20.0))
    (plan.run_directory / "usage" / "<i>.json").write_text("<html>")
    page = page_of(plan)
    assert page.facts["output"] == plan.out
    assert page.facts["source"] == f"{plan.source.path}::{short}"
    assert EVIL in page.facts["result"].replace("_", "/")
    assert page.facts["hosts"] == "<b>n1</b>"
    assert page.failures() == [(EVIL, "trial 2", f"{EVIL}\n{EVIL}")]
    assert page.tables("workers")[0][1][:2] == [short, "<b>n1</b>"]
    assert page.tables("limits")[0][1][3] == f"{EVIL}-0"
    assert "<i>.json: " in text(page.section("limits"))
    assert short in [text(x) for x in page.section("timeline").iter("text")]
    return page


def _take(trial, _):
    return trial


def test_names_stay_names(evil):
    tags = {x.tag for x in evil.root.iter()}
    assert not tags & {"script", "img", "u", "i", "iframe", "object", "embed", "link", "base"}
    assert all(text(x).isdecimal() for x in evil.root.findall(".//div[@id='counts']//b")[:4])


def test_nothing_is_loaded(evil):
    for element in evil.root.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "poster", "action", "data"):
                assert re.match("#|data:image/png;base64,", value), value
            if name in ("style", "clip-path", "fill", "filter"):
                assert not re.search(r"url\((?!#)", value), value
    for style in evil.root.iter("style"):
        assert not re.search(r"url\(|@import|http", text(style))
    policy = evil.root.find(".//meta[@http-equiv]").get("content")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


# ---- asked for and used


def test_what_was_asked_for_and_used(tmp_path):
    plan = planned(tmp_path, trials=4)
    work(plan, "123_0", range(4))
    for k, (peak, seconds) in enumerate([(1.0e9, 600.0), (1.5e9, 1200.0), (0.9e9, 900.0)]):
        used = Usage(f"123_{k}", 8 * 10**9, int(peak), 4 * HOUR, seconds, 4, 1.1 * seconds)
        usage.write(plan, f"123_{k}-0000000{k}", used)
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
    usage.write(plan, "a", Usage("1_0", None, 10**8, None, 5.0, None, 1.0))
    for k in range(12):
        (plan.run_directory / "usage" / f"b{k:02}.json").write_text("{")
    said = text(page_of(plan).section("limits"))
    assert "Of 1 process." in said
    assert "Without 12 files that cannot be read: b00.json: " in said
    assert "b09.json" in said
    assert "b10.json" not in said
    assert said.endswith("and 2 more")


# ---- many workers, many trials


def test_of_many_workers_the_slowest_and_the_fastest(tmp_path):
    plan = planned(tmp_path, trials=60 * 4)
    for k in range(60):
        work(plan, f"77_{k}", range(4 * k, 4 * k + 4), compute=0.1 * (k + 1), io=0.0)
    page = page_of(plan)
    spread, slowest, fastest = page.tables("workers")
    assert [row[0] for row in slowest[1:]] == [f"77_{k}" for k in range(59, 49, -1)]
    assert [row[0] for row in fastest[1:]] == [f"77_{k}" for k in range(9, -1, -1)]
    assert spread[1] == ["blocks", "4", "4", "4", "4", "4"]
    assert spread[4][0] == "first to last"
    assert (spread[4][1], spread[4][5]) == ("400 ms", "24 s")
    assert text(page.section("workers").find("h2")) == "60 workers"


def test_fifty_workers_are_all_shown_in_order(tmp_path):
    plan = planned(tmp_path, trials=50)
    for k in range(50):
        work(plan, f"77_{k}", [k], host=f"n{k % 3}")
    ((_, *rows),) = page_of(plan).tables("workers")
    assert [row[0] for row in rows] == [f"77_{k}" for k in range(50)]


def big(folder: Path, *, tasks: int = 1000, blocks: int = 1000) -> hpcio.Plan:
    """A run of a million trials by a thousand array tasks, some of them slow."""
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
        usage.write(plan, f"4242_{k}-{k:08x}", used)
    return plan


@pytest.mark.slow
def test_a_thousand_tasks_and_a_million_trials_make_a_small_page_soon(tmp_path):
    plan = big(tmp_path)
    began = time.process_time()
    path = write_page(None, plan.out)
    assert time.process_time() - began < 60  # 5 s on an idle machine
    page = Page(path)
    assert path.stat().st_size < 3_000_000
    assert page.tiles["of 1,000,000 blocks done"] == "1,000,000"
    assert text(page.section("workers").find("h2")) == "1,000 workers"
    assert len(page.tables("slowest")[0]) == 21


# ---- writing the page


def test_an_earlier_page_is_replaced_and_nothing_else(real, tmp_path):
    path = tmp_path / "report.html"
    assert write_page(path, real.out) == path
    old = path.read_bytes()
    assert GENERATOR.encode() in old[:200]
    path.write_bytes(old[:300])
    write_page(path, f"{real.out}.run")
    assert len(path.read_bytes()) > 10_000
    for content in (b"", b"<!DOCTYPE html>\n<html>mine", b"x" * 300 + GENERATOR.encode()):
        path.write_bytes(content)
        with pytest.raises(OutputError, match=r"report\.html' is no report of hpcio"):
            write_page(path, real.out)
        assert path.read_bytes() == content
    with pytest.raises(OutputError, match="is no report of hpcio"):
        write_page(tmp_path, real.out)
    assert [x.name for x in tmp_path.iterdir()] == ["report.html"]
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OutputError, match="is no report of hpcio"):
        write_page(path, real.out)


def test_a_link_stays_a_link(real, tmp_path):
    (tmp_path / "link.html").symlink_to("there.html")
    write_page(tmp_path / "link.html", real.out)
    write_page(tmp_path / "link.html", real.out)
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "there.html").read_text().startswith("<!DOCTYPE html>")


def test_a_page_that_cannot_be_written_says_so(real, tmp_path):
    with pytest.raises(OutputError, match=r"nowhere/report\.html"):
        write_page(tmp_path / "nowhere" / "report.html", real.out)


def test_names_that_are_no_text(tmp_path):
    folder = tmp_path / "b\udcffd"
    folder.mkdir()
    plan = planned(folder, trials=2)
    work(plan, "w0", [0])
    assert "b\\udcffd" in page_of(plan).facts["output"]


def test_without_a_run_directory_there_is_nothing_to_tell(tmp_path):
    with pytest.raises(PlanError, match="There is no plan"):
        write_page(None, tmp_path / "out.h5")
    plan = planned(tmp_path, trials=2)
    plan.run(workers=0, progress=False)
    hpcio.repack(plan.out)
    with pytest.raises(ResultError, match="has no run directory any more"):
        write_page(None, plan.out)
    assert not (tmp_path / "out.h5.html").exists()


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_names_the_remedy(real, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"{package}.*pip install 'hpcio\[plot\]'"):
        write_page(tmp_path / "report.html", real.out)
    assert list(tmp_path.iterdir()) == []


def test_the_command(real, tmp_path):
    call = [sys.executable, "-c", "from hpcio.cli import main; main()", "report", real.out]
    done = subprocess.run([*call, "-o", "r.html"], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == b"r.html\n"
    assert Page(tmp_path / "r.html").state == "complete"
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, check=True, text=True)
    assert done.stdout == f"{real.out}.html\n"
    (tmp_path / "mine.html").write_text("mine")
    done = subprocess.run(
        [*call, "-o", "mine.html"], cwd=tmp_path, capture_output=True, check=False, text=True
    )
    assert done.returncode == 2
    assert "mine.html' is no report of hpcio" in done.stderr
