"""The picture of the rooms shows today's imports, and a broken house is seen in it."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("grimp", reason="comes with the extra dev")

REPOSITORY = Path(__file__).resolve().parents[2]

# Two rooms and a face over a ground floor; slurm stands on them.
SOUND = {
    "hpcio": {"hpcio.high.roof"},
    "hpcio.cli": {"hpcio", "hpcio.low.cellar", "hpcio.errors"},
    "hpcio.errors": set(),
    "hpcio.high": set(),
    "hpcio.high.roof": {"hpcio.low.cellar", "hpcio.errors"},
    "hpcio.low": set(),
    "hpcio.low.cellar": {"hpcio.errors"},
    "slurm": {"slurm.between", "hpcio.cli"},
    "slurm.between": {"slurm.site.desk"},
    "slurm.live": set(),
    "slurm.live.show": {"slurm.between", "hpcio.high.roof"},
    "slurm.site": set(),
    "slurm.site.desk": {"hpcio.errors"},
}
# Each is an import that leads up.
FAULTS = [
    ("hpcio.low.cellar", "hpcio.high.roof"),
    ("hpcio.errors", "hpcio.high.roof"),
    ("hpcio.high.roof", "hpcio"),
    ("hpcio.low.cellar", "slurm.site.desk"),
    ("slurm.site.desk", "slurm.between"),
]


@pytest.fixture
def rooms(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "docs/house")
    return importlib.import_module("rooms")


@pytest.fixture
def layout(rooms):
    return importlib.import_module("layout")


@pytest.fixture
def picture(rooms):
    return importlib.import_module("picture")


def draw(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "docs/house", *map(str, arguments)],
        cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def with_faults(*faults):
    imports = {module: set(others) for module, others in SOUND.items()}
    for module, other in faults:
        imports[module].add(other)
    return imports


def test_picture_is_what_the_imports_say():
    said = draw("--check")
    assert said.returncode == 0, said.stderr


def test_check_of_another_picture_says_so_and_leaves_it(tmp_path):
    old = tmp_path / "house.svg"
    for text in (None, "<svg/>"):
        if text:
            old.write_text(text)
        said = draw("--check", old)
        assert said.returncode == 1
        assert said.stderr == f"{old} is not what the imports say. Draw it anew: make house\n"
    assert old.read_text() == "<svg/>"


def test_same_imports_give_the_same_bytes(tmp_path):
    said = [draw(tmp_path / seed, PYTHONHASHSEED=seed).stdout for seed in ("1", "2")]
    assert said[0] == said[1]
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_rooms_have_no_circle(rooms):
    house = rooms.build(rooms.read())
    assert house.up == []
    uses = {room: {b for a, b in house.imports if a == room} for room in house.rooms}
    TopologicalSorter(uses).prepare()


def test_files_have_no_circle(rooms):
    TopologicalSorter(rooms.read()).prepare()


def test_rooms_are_entered_by_their_face(rooms):
    """Files of another room are imported from its face, never by themselves."""

    def room(module: str) -> str:
        return ".".join(module.split(".")[:2]) if module.count(".") > 1 else ""

    past = [
        f"{importer} imports {imported}"
        for importer, used in rooms.read().items()
        for imported in used
        if room(imported) not in ("", room(importer), importer)
        # What SLURM tells a job is a module that its room offers as a whole.
        and imported != "slurm.site.environment"
    ]
    assert past == []


def test_rooms_stand_on_what_they_use(rooms):
    house = rooms.build(SOUND)
    assert house.up == []
    assert rooms.rows(house) == [
        ["hpcio.ground floor"],
        ["hpcio.low", "slurm.site"],
        ["hpcio.high", "slurm.between"],
        ["hpcio", "slurm.live"],
        ["slurm"],
    ]
    assert house.rooms["hpcio"] == ["hpcio", "hpcio.cli"]
    assert house.rooms["hpcio.low"] == ["hpcio.low.cellar"]
    # The face uses the lower room by way of the upper one too, and all use the ground floor.
    hpcio = [(a, b) for a, b in rooms.reduced(house) if rooms.package(a) == "hpcio"]
    assert hpcio == [("hpcio", "hpcio.high"), ("hpcio.high", "hpcio.low")]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_import_that_leads_up_is_drawn_in_red(rooms, picture, fault):
    assert '<path class="up"' not in picture.draw(rooms.build(SOUND))
    house = rooms.build(with_faults(fault))
    (arrow,) = house.up
    # Of a circle of two imports either may be the wrong one.
    assert fault in (house.imports[arrow][0], house.imports[arrow][0][::-1])
    svg = picture.draw(house)
    assert svg.count('<path class="up"') == 2  # one of them in the legend
    assert "Imports that lead up, against the order: 1." in svg


def test_no_line_runs_through_a_room(rooms, layout):
    for imports in (SOUND, with_faults(*FAULTS), rooms.read()):
        boxes, lines = layout.lay_out(rooms.build(imports), lambda room, width: 60.0)
        for arrow, line in lines.items():
            for x, y in points(line):
                inside = [
                    room for room, box in boxes.items()
                    if box.left + 1 < x < box.right - 1 and box.top + 1 < y < box.bottom - 1
                ]  # fmt: skip
                assert not inside, (arrow, x, y)


def points(line: str) -> list[tuple[float, float]]:
    """Points of a path, and of the straight lines between them."""
    ends = [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", line)]
    return [
        (a + part / 50 * (c - a), b + part / 50 * (d - b))
        for (a, b), (c, d) in pairwise(ends)
        for part in range(51)
    ]
