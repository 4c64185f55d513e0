"""The page about a run: its numbers are those of the journals, and nothing in it is foreign."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest

import hpcio
from hpcio import words
from hpcio.errors import MissingPackageError, OutputError, PlanError, ResultError
from hpcio.journals import usage
from hpcio.journals.journal import DONE
from hpcio.journals.ledger import Ledger
from hpcio.journals.rundir import prepare
from hpcio.journals.usage import Usage
from hpcio.reporting.page import GENERATOR, write_page
from tests.rigs.pages import BEGAN, HOUR, Page, page_of, planned, text, work


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
    assert page.tiles["of 60 trials done"] == "60"
    assert page.tiles["failed"] == page.tiles["not tried"] == page.tiles["computed twice"] == "0"
    facts = page.facts
    assert facts["function"] == f"numpy:negative, version {np.__version__}"
    assert facts["recording"] == f"{real.source.path}::/lfp"
    assert facts["trials"] == "60 of 50 rows"
    assert facts["result"] == "60 trial x 50 time x 4 channel, float64, 96 kB"
    assert facts["output"] == real.out
    assert facts["user"] == ledger.logs[0].header["user"]
    assert facts["hosts"] == ledger.logs[0].header["host"]
    assert facts["began"] == words.when(min(log.header["start"] for log in ledger.logs))
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
    assert names[:6] == ["worker", "host", "trials", "failed", "busy", "MB/s"]
    did = {log.header["label"]: int((log.records["kind"] == DONE).sum()) for log in ledger.logs}
    assert {row[0]: int(row[2]) for row in rows} == did
    ((names, *slow),) = page.tables("slowest")
    assert len(slow) == 20
    lasted = records["compute"].astype(float) + records["io"]
    order = np.argsort(-lasted)[:20]
    assert [int(row[0]) for row in slow] == records["block"][order].tolist()
    for row, k in zip(slow, order, strict=True):
        scale = 1000 if "(ms)" in names[2] else 1
        largest = scale * float(lasted.max())
        for said, what in zip(row[2:4], ("compute", "io"), strict=True):
            assert float(said) == pytest.approx(scale * records[what][k], abs=0.01 * largest)
        assert row[4] == "0.00320"


def test_an_unfinished_run_with_everything(tmp_path):
    plan = planned(tmp_path, trials=20)
    work(plan, "w0", range(6), compute=2.0, failed=[(10, "Traceback\nValueError: no")])
    work(plan, "w1", range(4, 8), io=[0.25, 0.25, 1.25, 0.25], host="n2")
    work(plan, "w0", [9, 10], start=BEGAN + HOUR)
    page = page_of(plan)
    assert page.state == "not complete"
    assert f"hpcio resume {plan.out}" in text(page.body.find("header"))
    assert page.tiles == {
        "of 20 trials done": "10", "failed": "0", "not tried": "10", "computed twice": "2",
        "at work": "15.5 s", "read and written": f"{320 / 15.5:.3g} B/s",
    }  # fmt: skip
    assert page.facts["took"] == "15.5 s at work, 1 h in all"
    assert page.facts["hosts"] == "n1, n2"
    assert page.facts["versions"] == "not known"  # nobody has said them
    ((_, *rows),) = page.tables("workers")
    assert [row[:5] for row in rows] == [
        ["w0", "n1", "8", "1", "100%"],
        ["w1", "n2", "4", "0", "100%"],
    ]
    ((_, *slow),) = page.tables("slowest")
    assert slow[0][:3] == ["0", "w0", "2.00"]
    svg = page.section("timeline").find(".//svg")
    assert {"w0", "w1"} < {text(x) for x in svg.iter("text")}
    assert re.search(r"pause of 59 min \d+ s", text(svg))


def test_a_run_that_has_not_begun(tmp_path):
    page = page_of(planned(tmp_path, trials=3))
    assert page.state == "not complete"
    assert page.tiles == {
        "of 3 trials done": "0", "failed": "0", "not tried": "3", "computed twice": "0",
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
    usage.write_usage(plan, "<u>", Usage(f"{EVIL}-0", 10**9, 10**8, 60.0, 30.0, 1, 20.0))
    (plan.run_directory / "usage" / "<i>.json").write_text("<html>")
    page = page_of(plan)
    assert page.facts["output"] == plan.out
    assert page.facts["recording"] == f"{plan.source.path}::{short}"
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
    with pytest.raises(PlanError, match="There is no result and no run"):
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
