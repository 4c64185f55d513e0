"""The subcommand demo."""

from __future__ import annotations

from pathlib import Path

import click

from hpcio.demo import run

__all__ = ["demo"]


@click.command()
@click.option("--dir", "folder", type=click.Path(path_type=Path), default="demo",
              show_default=True, help="Where to put recording, result and picture.")  # fmt: skip
@click.option("--workers", type=click.IntRange(0), help="Processes; by default one a core.")
def demo(folder: Path, workers: int | None) -> None:
    """Make a recording, compute its spectra on all cores, and draw them."""
    run(folder, workers=workers)
