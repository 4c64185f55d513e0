"""The picture of a house, as SVG, for light and dark pages."""

from __future__ import annotations

import textwrap
from itertools import pairwise
from xml.sax.saxutils import escape

from layout import EAVES, GAP, MARGIN, WIDTH, Box, lay_out
from rooms import GROUND, PACKAGES, House, file_names, package, purpose, title

# In pixels. A letter counts as wide as in the widest of the usual fonts.
PAD, ROOF, LEADING, INDENT = 12, 46, 17, 36
NAME, PLAIN, FILE = 9.6, 6.3, 7.25

STYLE = """
svg { --ink: #1f2328; --soft: #59636e; --arrow: #818b98; --red: #d1242f; --room: #ffffff;
  --hpcio: #edf4fe; --hpcio-line: #a5c5f0; --slurm: #fff5e5; --slurm-line: #e3c28f;
  --ground: #eff1f3; --ground-line: #c3cbd3; }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --soft: #9da7b3; --arrow: #7d8792;
  --red: #ff7b72; --room: #0d1117; --hpcio: #111d34; --hpcio-line: #3a5f94;
  --slurm: #272012; --slurm-line: #7b6332; --ground: #21262d; --ground-line: #4b545e; } }
text { fill: var(--soft); font-size: 12px;
  font-family: system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif; }
.name { fill: var(--ink); font-size: 15px; font-weight: 600; }
.file { fill: var(--ink); font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.hpcio { fill: var(--hpcio); stroke: var(--hpcio-line); }
.slurm { fill: var(--slurm); stroke: var(--slurm-line); }
.ground { fill: var(--ground); stroke: var(--ground-line); }
rect.room { fill: var(--room); }
.down, .up { fill: none; stroke: var(--arrow); stroke-width: 1.4; marker-end: url(#down); }
.up { stroke: var(--red); stroke-width: 2.6; marker-end: url(#up); }
#down path { fill: var(--arrow); }
#up path, text.up-key { fill: var(--red); }
"""
TIP = (
    '<marker id="{0}" viewBox="0 0 8 8" refX="7.5" refY="4" orient="auto" '
    'markerUnits="userSpaceOnUse" markerWidth="{1}" markerHeight="{1}">'
    '<path d="M0,0.5L8,4L0,7.5Z"/></marker>'
)
KEY = (
    "An arrow leads from a room to one that it uses. Left out are arrows that follow from others, "
    "and those to the ground floor."
)


def draw(house: House) -> str:
    """The picture."""
    boxes, lines = lay_out(house, lambda room, width: PAD + LEADING * len(text(house, room, width)))
    key, bottom = legend_of(house, boxes)
    top = min(box.top for box in boxes.values()) - EAVES - ROOF - MARGIN
    size = f"{WIDTH} {bottom - top:.0f}"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {top:.0f} {size}" '
        'width="{}" height="{}" role="img">'.format(*size.split()),
        f"<title>The rooms of {' and '.join(PACKAGES)}, and which room uses which</title>",
        f"<style>{STYLE}</style>",
        f"<defs>{TIP.format('down', 8)}{TIP.format('up', 11)}</defs>",
        *(walls(name, boxes) for name in PACKAGES),
        *(room_of(room, box, text(house, room, box.width)) for room, box in boxes.items()),
        *(arrow("up" if ends in house.up else "down", d) for ends, d in lines.items()),
        key,
        "</svg>\n",
    ])  # fmt: skip


def walls(name: str, boxes: dict[str, Box]) -> str:
    """A package around its rooms: its walls, and a roof with its name."""
    here = [box for room, box in boxes.items() if package(room) == name and room != GROUND]
    left, right = min(box.left for box in here) - EAVES, max(box.right for box in here) + EAVES
    top, bottom = boxes[name].top - EAVES, boxes[GROUND].top if GROUND in boxes else 0
    x = (left + right) / 2
    return (
        f'<path class="{name}" d="M{left:.1f},{bottom:.1f}V{top:.1f}H{right:.1f}V{bottom:.1f}Z"/>'
        f'<path class="{name}" stroke-linejoin="round" '
        f'd="M{left - 5:.1f},{top:.1f}L{x:.1f},{top - ROOF:.1f}L{right + 5:.1f},{top:.1f}Z"/>'
        f'<text class="name" text-anchor="middle" x="{x:.1f}" y="{top - 12:.1f}">{name}</text>'
    )


def room_of(room: str, box: Box, lines: list[str]) -> str:
    """A room, and what stands in it."""
    kind, x = f"{package(room)} room", box.left + PAD
    if room == GROUND:
        kind, x = "ground", x + EAVES
    return (
        f'<rect class="{kind}" x="{box.left:.1f}" y="{box.top:.1f}" rx="3" '
        f'width="{box.width:.1f}" height="{box.height:.1f}"/>'
    ) + "".join(
        f'<text x="{x:.1f}" y="{box.top + 20 + LEADING * i:.1f}">{line}</text>'
        for i, line in enumerate(lines)
    )


def text(house: House, room: str, width: float) -> list[str]:
    """The lines in a room: its name, what it is for, its files."""
    space = width - 2 * PAD
    beside = (space - len(title(room)) * NAME - PAD) / PLAIN
    says = purpose(room)
    says = says if len(says) <= beside else says.partition(", ")[0]
    lines = [f'<tspan class="name">{escape(title(room))}</tspan>']
    if says and len(says) <= beside:
        lines[0] += f'<tspan dx="10">{escape(says)}</tspan>'
    else:
        lines += map(escape, textwrap.wrap(says, int(space / PLAIN)))
    files = textwrap.wrap(" ".join(file_names(house, room)), int(space / FILE))
    return lines + [f'<tspan class="file">{escape(line)}</tspan>' for line in files]


def arrow(kind: str, d: str) -> str:
    """An arrow."""
    return f'<path class="{kind}" d="{d}"/>'


def legend_of(house: House, boxes: dict[str, Box]) -> tuple[str, float]:
    """What arrows mean, and where the picture ends.

    It stands where the last package has no rooms, if there is space, else below the house.
    """
    column = [box for room, box in boxes.items() if package(room) == PACKAGES[-1]]
    tops = sorted((box.top, box.bottom) for box in column)
    gap, y = max((below[0] - above[1], above[1]) for above, below in pairwise([*tops, (0, 0)]))
    rows = key_of(house, column[0].width)
    if gap > LEADING * (len(rows) + 3):
        y += (gap - LEADING * len(rows)) / 2
        return legend(min(box.left for box in column), y, rows), MARGIN
    rows = key_of(house, WIDTH - 2 * MARGIN)
    return legend(MARGIN, GAP, rows), GAP + LEADING * len(rows) + MARGIN


def key_of(house: House, width: float) -> list[tuple[str, str]]:
    """The lines of the legend, each with the kind of arrow that it begins to explain."""
    first, *more = textwrap.wrap(KEY, int((width - INDENT) / PLAIN))
    count = sum(len(house.imports[arrow]) for arrow in house.up)
    against = ("up", f"Imports that lead up, against the order: {count}.")
    said = against if count else ("", "No import leads up.")
    return [("down", first), *(("", line) for line in more), said]


def legend(left: float, top: float, rows: list[tuple[str, str]]) -> str:
    """The legend at a place."""
    parts = []
    for i, (kind, line) in enumerate(rows):
        y = top + LEADING * (i + 0.7)
        parts.append(arrow(kind, f"M{left:.1f},{y - 4:.1f}h{INDENT - 10}") if kind else "")
        parts.append(
            f'<text class="{kind}-key" x="{left + INDENT:.1f}" y="{y:.1f}">{escape(line)}</text>'
        )
    return "".join(parts)
