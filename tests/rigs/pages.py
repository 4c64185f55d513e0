"""Runs for a page to tell of, and pages as a reader sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder

import h5py
import numpy as np

import hpcio
from hpcio.files.bytes import checksum
from hpcio.journals import journal
from hpcio.journals.journal import DONE, FAILED, RECORD, Journal
from hpcio.journals.rundir import prepare
from hpcio.reporting.page import write_page

HOUR = 3600.0
BEGAN = 1_700_000_000.0


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
    about = {"label": label, "run_id": plan.run_id, "host": host, "pid": 1, "user": "ada",
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
