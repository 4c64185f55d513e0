"""Where the rooms of a house are drawn, and along which lines its arrows run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from math import dist

from rooms import GROUND, PACKAGES, Arrow, House, package, reduced, rows

# In pixels.
WIDTH, MARGIN, EAVES, GAP, LANE = 880, 8, 10, 22, 9

Point = tuple[float, float]
Gutter = list[list[Arrow]]


@dataclass(frozen=True)
class Box:
    """Where a room is drawn."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:  # noqa: D102
        return self.left + self.width

    @property
    def bottom(self) -> float:  # noqa: D102
        return self.top + self.height


def lay_out(
    house: House, height: Callable[[str, float], float]
) -> tuple[dict[str, Box], dict[Arrow, str]]:
    """The box of each room, and the line of each arrow that is drawn.

    Parameters
    ----------
    house : House
    height : callable
        The height of a room, which depends on its width.
    """
    arrows = reduced(house)
    steps = [arrow for arrow in arrows if is_step(house, arrow)]
    gutters = gutters_of(house, [arrow for arrow in arrows + house.up if arrow not in steps])
    columns = columns_of(gutters)
    boxes = place(house, columns, height)
    lines = {arrow: step(*(boxes[room] for room in arrow)) for arrow in steps}
    return boxes, lines | detours(house, boxes, lanes_of(columns, gutters))


def columns_of(gutters: list[Gutter]) -> list[tuple[float, float]]:
    """The left and right end of each package, between its gutters."""
    first, second, third = (EAVES + LANE * (len(gutter) + 1) for gutter in gutters)
    left, right = MARGIN + first, WIDTH - MARGIN - third
    wall = left + 0.57 * (right - left - second - EAVES)
    return [(left, wall), (wall + second + EAVES, right)]


def place(
    house: House, columns: list[tuple[float, float]], height: Callable[[str, float], float]
) -> dict[str, Box]:
    """The boxes: storeys from the bottom up, a column for each package."""
    boxes: dict[str, Box] = {}
    floor = 0.0
    for row in rows(house):
        wide: dict[str, tuple[float, float]] = {}
        for name, (left, right) in zip(PACKAGES, columns, strict=True):
            here = [room for room in by_place_below(house, row, boxes) if package(room) == name]
            each = (right - left + GAP) / max(len(here), 1)
            wide |= {room: (left + i * each, each - GAP) for i, room in enumerate(here)}
        if GROUND in wide:
            left, right = columns[0][0] - EAVES, columns[-1][1] + EAVES
            wide[GROUND] = (left, right - left)
        high = max(height(room, width) for room, (_, width) in wide.items())
        boxes |= {room: Box(x, floor - high, width, high) for room, (x, width) in wide.items()}
        floor -= high + GAP
    return boxes


def by_place_below(house: House, row: list[str], boxes: dict[str, Box]) -> list[str]:
    """The rooms of a storey, each as far to the left as those that it uses."""

    def middle(room: str) -> float:
        below = [boxes[b] for a, b in reduced(house) if a == room and package(a) == package(b)]
        return sum(box.left + box.right for box in below) / max(len(below), 1)

    return sorted(row, key=lambda room: (middle(room), room))


def is_step(house: House, arrow: Arrow) -> bool:
    """Whether an arrow leads to the storey below, in its package."""
    a, b = arrow
    return house.storeys[a] - house.storeys[b] == 1 and package(a) == package(b)


def step(high: Box, low: Box) -> str:
    """The line to a room of the storey below: straight down, if one stands over the other."""
    left, right = max(high.left, low.left), min(high.right, low.right)
    x, end = (box.left + box.width / 2 for box in (high, low))
    if left < right:
        x = end = (left + right) / 2
    y = (high.bottom + low.top) / 2
    return f"M{x:.1f},{high.bottom:.1f}C{x:.1f},{y:.1f} {end:.1f},{y:.1f} {end:.1f},{low.top:.1f}"


def gutters_of(house: House, arrows: list[Arrow]) -> list[Gutter]:
    """The lanes left of the house, between the packages, and on the right, with their arrows.

    Arrows of one lane do not touch. Short ones run near the wall, and of those between packages
    the upper ones on the left: so few lines cross.
    """
    gutters: list[Gutter] = [[], [], []]

    def order(arrow: Arrow) -> tuple[int, int, Arrow]:
        low, high = span(house, arrow)
        kind = sum(PACKAGES.index(package(room)) for room in arrow)
        nested = high - low if gutter_of(house, arrow) != 1 else low - high
        return kind, (high - low, -high, nested)[kind], arrow

    for arrow in sorted(arrows, key=order):
        gutter = gutters[gutter_of(house, arrow)]
        free = [lane for lane in gutter if not any(touch(house, arrow, other) for other in lane)]
        if free:
            free[0].append(arrow)
        else:
            gutter.append([arrow])
    return gutters


def gutter_of(house: House, arrow: Arrow) -> int:
    """Beside which wall an arrow runs: outside if it leads up inside a package."""
    a, b = (PACKAGES.index(package(room)) for room in arrow)
    return 1 if a != b or arrow in house.down else 2 * a


def span(house: House, arrow: Arrow) -> tuple[int, int]:
    """The lowest and the highest storey of an arrow."""
    low, high = sorted(house.storeys[room] for room in arrow)
    return low, high


def touch(house: House, one: Arrow, other: Arrow) -> bool:
    """Whether two arrows have a storey in common."""
    (low, high), (bottom, top) = span(house, one), span(house, other)
    return low <= top and bottom <= high


def lanes_of(columns: list[tuple[float, float]], gutters: list[Gutter]) -> dict[Arrow, float]:
    """Where from left to right arrows run in their gutters."""
    walls = [(columns[0][0], -1), (columns[0][1], 1), (columns[1][1], 1)]
    return {
        arrow: wall + way * (EAVES + LANE * (n + 1))
        for gutter, (wall, way) in zip(gutters, walls, strict=True)
        for n, lane in enumerate(gutter)
        for arrow in lane
    }


def detours(house: House, boxes: dict[str, Box], lanes: dict[Arrow, float]) -> dict[Arrow, str]:
    """The lines that run in lanes."""
    walls: dict[tuple[str, int], list[Arrow]] = defaultdict(list)
    for arrow in lanes:
        for room in arrow:
            walls[room, gutter_of(house, arrow)].append(arrow)
    lines = {}
    for arrow, x in lanes.items():
        out, into = (
            door(house, boxes, room, arrow, x, walls[room, gutter_of(house, arrow)])
            for room in arrow
        )
        lines[arrow] = rounded([*out, (x, out[-1][1]), (x, into[-1][1]), *reversed(into)])
    return lines


def door(
    house: House, boxes: dict[str, Box], room: str, arrow: Arrow, x: float, others: list[Arrow]
) -> list[Point]:
    """From where an arrow meets a room to where nothing is between it and its lane.

    That is a place in the wall beside the lane, shared evenly with the other arrows there. A room
    with a neighbour on that side has its door in the floor or the ceiling.
    """
    box, storey = boxes[room], house.storeys[room]

    def order(other: Arrow) -> tuple[bool, int, Arrow]:
        way = sum(house.storeys[end] for end in other) - 2 * storey
        return way <= 0, way, other

    place = sorted(others, key=order).index(arrow) + 1
    edge = box.right if x > box.right else box.left
    peers = [boxes[r] for r in boxes if house.storeys[r] == storey and package(r) == package(room)]
    if box.left < x < box.right:
        return [(x, box.top)]
    if edge in (max(peer.right for peer in peers), min(peer.left for peer in peers)):
        return [(edge, box.top + box.height * place / (len(others) + 1))]
    inside = edge + (-8 if x > edge else 8) * (place + 1)
    leaves_below = (arrow[0] == room) == (arrow in house.down)
    aside = 5 * (int(x / LANE) % 3 - 1)
    wall, way = (box.bottom, GAP / 2 + aside) if leaves_below else (box.top, aside - GAP / 2)
    return [(inside, wall), (inside, wall + way)]


def rounded(points: list[Point], radius: float = 8) -> str:
    """A line through points, its corners round."""
    d = "M{:.1f},{:.1f}".format(*points[0])
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        a, b = (toward(corner, end, radius) for end in (before, after))
        d += "L{:.1f},{:.1f}Q{:.1f},{:.1f} {:.1f},{:.1f}".format(*a, *corner, *b)
    return d + "L{:.1f},{:.1f}".format(*points[-1])


def toward(start: Point, end: Point, length: float) -> Point:
    """The point at a distance on the way, or half the way."""
    part = min(length / max(dist(start, end), length), 0.5)
    return start[0] + part * (end[0] - start[0]), start[1] + part * (end[1] - start[1])
