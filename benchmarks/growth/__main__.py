"""``python -m benchmarks.growth``: measure, show and draw the parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import machine
from benchmarks.growth import files, plans, tasks, trials
from benchmarks.growth.part import Part, update_json, update_page

PARTS: dict[str, Part[Any]] = {
    part.name: part for part in (trials.PART, tasks.PART, files.PART, plans.PART)
}
_HEAD = (
    "# Growth\n\nMade by `python -m benchmarks.growth --markdown`; [README.md](README.md#growth) "
    "says more. On both axes of the pictures are logarithms: what grows with the run is level."
)


@click.command()
@click.option("--dir", "folder", type=click.Path(exists=True, path_type=Path),
              default=Path("/dev/shm"))  # fmt: skip
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="Not all parts.")
@click.option("--most", default=10_000_000, help="Trials, or tasks, of the largest run.")
@click.option("--repetitions", default=3, show_default=True)
@click.option("--json", "kept", type=click.Path(path_type=Path), help="Keep what was measured.")
@click.option("--from", "given", type=click.Path(exists=True, path_type=Path),
              help="Show what was kept, instead of measuring.")  # fmt: skip
@click.option("--markdown", "page", type=click.Path(path_type=Path),
              help="The tables; what is there of other parts stays.")  # fmt: skip
@click.option("--pictures", type=click.Path(exists=True, path_type=Path), help="A folder.")
def main(
    folder: Path, only: tuple[str, ...], most: int, repetitions: int, kept: Path | None,
    given: Path | None, page: Path | None, pictures: Path | None,
) -> None:  # fmt: skip
    """Measure what hpcio takes as a run grows."""
    there = {} if given is None else json.loads(given.read_text())
    for name in only or there or PARTS:
        part = PARTS[name]
        if given is None:
            facts, others = machine.describe(), machine.Others()
            found = part.measure(folder, most, repetitions)
            facts["others"] = f"{others.cores():.1f} cores"
        else:
            facts, found = there[name]["machine"], part.read(there[name]["rows"])
        Console(width=180).print(part.table(found))
        # Each part at once: the next one may take long.
        if kept is not None:
            update_json(kept, {name: {"machine": facts, "rows": part.said(found)}})
        if page is not None:
            update_page(page, _HEAD, {part.title: part.markdown(found, facts)})
        if pictures is not None:
            part.save_picture(pictures, found)


if __name__ == "__main__":
    main()
