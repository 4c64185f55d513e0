"""The rooms of hpcio and slurm, and which room uses which, as the imports say."""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("hpcio", "slurm")  # a package stands on those before it
GROUND = f"{PACKAGES[0]}.ground floor"

Imports = dict[str, set[str]]
Arrow = tuple[str, str]  # the first uses the second


@dataclass(frozen=True)
class House:
    """Rooms, and the arrows between them.

    Attributes
    ----------
    rooms : dict
        For each room the modules in it. A room has the name of its package and its own; the face of
        a package has the name of the package.
    imports : dict
        For each arrow the imports behind it.
    down, up : list
        Arrows that agree with the order of the rooms, and arrows against it.
    storeys : dict
        How high each room stands, the ground floor at 0.
    """

    rooms: dict[str, list[str]]
    imports: dict[Arrow, list[Arrow]]
    down: list[Arrow]
    up: list[Arrow]
    storeys: dict[str, int]


def read() -> Imports:
    """For each module of this checkout the modules that it imports, wherever in its text."""
    sys.path.insert(0, str(ROOT))
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False, cache_dir=None)
    return {m: set(graph.find_modules_directly_imported_by(m)) for m in sorted(graph.modules)}


def build(imports: Imports) -> House:
    """The house that these imports make."""
    room = rooms_of(imports)
    used = {other for others in imports.values() for other in others}
    rooms: dict[str, list[str]] = defaultdict(list)
    arrows: dict[Arrow, list[Arrow]] = defaultdict(list)
    for module, others in sorted(imports.items()):
        # Of a room, an __init__ that neither imports nor is imported has only words.
        if module != room[module] or module in PACKAGES or others or module in used:
            rooms[room[module]].append(module)
        for other in sorted(others):
            if room[module] != room[other]:
                arrows[room[module], room[other]].append((module, other))
    down = downward(arrows)
    up = sorted(set(arrows) - set(down))
    return House(dict(rooms), dict(arrows), down, up, storeys_of(rooms, down))


def rooms_of(imports: Imports) -> dict[str, str]:
    """The room of each module.

    A sub-package is a room. A file beside the sub-packages belongs to the face if none of them uses
    it; to the ground floor if it uses none of them, or more than half of them use it; else it is a
    room of its own.
    """
    folders = {module.rpartition(".")[0] for module in imports} - {*PACKAGES}
    room = {module: ".".join(module.split(".")[:2]) for module in imports}
    rooms = {room[module] for module in imports if room[module] in folders}
    for module in sorted(set(imports) - {m for m in imports if room[m] in rooms}):
        users = {room[m] for m, others in imports.items() if module in others} & rooms
        uses = {room[m] for m in imports[module]} & rooms
        if module in PACKAGES or package(module) not in map(package, users):
            room[module] = package(module)
        elif package(module) == PACKAGES[0] and (not uses or len(users) > len(rooms) / 2):
            room[module] = GROUND
    return room


def package(name: str) -> str:
    """The package of a module or room."""
    return name.partition(".")[0]


def downward(arrows: dict[Arrow, list[Arrow]]) -> list[Arrow]:
    """The arrows that make no circle.

    Where there is one, arrows of many imports stay, and arrows to a room that many use: a wall is
    broken by few.
    """
    users = Counter(b for _, b in arrows)
    down: list[Arrow] = []
    for a, b in sorted(arrows, key=lambda x: (-len(arrows[x]), users[x[0]] - users[x[1]], x)):
        stands_on = PACKAGES.index(package(b)) <= PACKAGES.index(package(a))
        if stands_on and a != GROUND and b != package(a) and a not in reach(down, b):
            down.append((a, b))
    return sorted(down)


def reach(arrows: Iterable[Arrow], start: str) -> set[str]:
    """The rooms to which arrows lead from a room, and itself."""
    found, left = {start}, [start]
    while left:
        room = left.pop()
        new = {b for a, b in arrows if a == room} - found
        found |= new
        left += new
    return found


def reduced(house: House) -> list[Arrow]:
    """The arrows down, but for those that follow from others and those to the ground floor."""

    def follows(a: str, b: str) -> bool:
        return any(b in reach(house.down, c) for start, c in house.down if start == a and c != b)

    return [(a, b) for a, b in house.down if b != GROUND and not follows(a, b)]


def storeys_of(rooms: Iterable[str], down: list[Arrow]) -> dict[str, int]:
    """How high rooms stand: above all that they use, and a face above the rooms of its package."""
    found = {GROUND: 0}

    def height(room: str) -> int:
        if room not in found:
            below = {b for a, b in down if a == room}
            below |= {r for r in rooms if room in PACKAGES and package(r) == room != r}
            found[room] = 1 + max(map(height, sorted(below)), default=0)
        return found[room]

    return {room: height(room) for room in sorted(rooms)}


def rows(house: House) -> list[list[str]]:
    """The rooms of each storey, from the ground up."""
    storeys = house.storeys
    return [sorted(r for r in storeys if storeys[r] == n) for n in sorted({*storeys.values()})]


def title(room: str) -> str:
    """The name of a room in its package."""
    return "face" if room in PACKAGES else room.rpartition(".")[2]


def file_names(house: House, room: str) -> list[str]:
    """The files of a room, without ``.py``; none if the room is one file."""
    modules = house.rooms[room]
    prefix = f"{package(room) if room == GROUND else room}."
    if modules == [room] and room not in PACKAGES:
        return []
    if room in PACKAGES:
        return ["__init__" if m == room else m.removeprefix(prefix) for m in modules]
    return [m.removeprefix(prefix) for m in modules if m != room]  # each has a face


def source(module: str) -> Path:
    """The file of a module."""
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def purpose(room: str) -> str:
    """What a room is for: the first words of its docstring."""
    if room == GROUND:
        return "What every room may use"
    path = source(room)
    doc = (ast.get_docstring(ast.parse(path.read_text())) or "") if path.exists() else ""
    head, _, rest = doc.partition("\n")[0].rstrip(".").partition(": ")
    head, rest = head.replace("`", ""), rest.replace("`", "")
    words = rest if head.lower() == title(room) else head.partition(". ")[0]
    return words[:1].upper() + words[1:]
