"""Draw docs/images/house.svg, the rooms of the packages, from their imports: ``make house``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from picture import draw
from rooms import PACKAGES, ROOT, House, build, file_names, read, rows, source

PICTURE = ROOT / "docs/images/house.svg"


def main() -> None:
    """Draw, or check what was drawn."""
    parser = argparse.ArgumentParser(description=__doc__, prog="docs/house")
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    parser.add_argument("picture", nargs="?", type=Path, default=PICTURE, help="another file")
    options = parser.parse_args()
    house = build(read())
    picture = draw(house)
    print("\n".join(told(house)))
    if not options.check:
        options.picture.write_text(picture, encoding="utf-8")
    elif not options.picture.exists() or options.picture.read_text(encoding="utf-8") != picture:
        sys.exit(f"{options.picture} is not what the imports say. Draw it anew: make house")


def told(house: House) -> list[str]:
    """The rooms from the ground up, a line for each, and the imports that lead up."""
    lines = []
    for storey, row in enumerate(rows(house)):
        for room in row:
            count = sum(len(source(m).read_text().splitlines()) for m in house.rooms[room])
            name = f"{room} (face)" if room in PACKAGES else room
            files = " ".join(file_names(house, room))
            lines.append(f"{storey:2} {name:20} {count:5} lines  {files}")
    for arrow in house.up:
        lines += [f"up: {module} uses {other}" for module, other in house.imports[arrow]]
    return lines


if __name__ == "__main__":
    main()
