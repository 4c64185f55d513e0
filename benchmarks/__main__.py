"""The command ``python -m benchmarks``."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

import click
from rich.console import Console

from benchmarks import machine, show
from benchmarks.bench import Bench
from benchmarks.measure import Figure
from benchmarks.peers import page, picture
from benchmarks.peers.rows import SIZES
from benchmarks.peers.rows import rows as rows_of_peers
from benchmarks.peers.systems import LeftOut, System, at_hand
from benchmarks.rows import ROWS
from hpcio.bench import SCALES
from hpcio.machine.filesystems import in_memory, kind_of

# What the largest row, `writers`, has on the disk at a time, in bytes.
_SPACE = {False: SCALES["quick"].nbytes, True: SCALES["normal"].nbytes}


def _default_folders() -> list[Path]:
    """Memory and disk, as far as this machine has them."""
    memory = [p for p in (Path("/dev/shm"),) if p.is_dir()]
    disks = [Path(tempfile.gettempdir()), Path.home(), Path.cwd()]
    return memory + [p for p in disks if not in_memory(p)][:1]


@click.command()
@click.option("--full", is_flag=True, help="Larger, with 15 repetitions instead of 5.")
@click.option("--peers", is_flag=True, help="The same work by others, instead: peers-*.")
@click.option("--only", multiple=True, type=click.Choice([*ROWS, *SIZES]), help="These rows.")
@click.option(
    "--dir", "folders", multiple=True,
    type=click.Path(exists=True, file_okay=False, writable=True, resolve_path=True, path_type=Path),
    help="Measure in these folders instead of /dev/shm and a temporary folder on disk.",
)  # fmt: skip
@click.option("--json", "json_file", type=click.File("w"), help="All values; - for the output.")
@click.option("--markdown", type=click.File("w"), help="The table, such as RESULTS.md.")
@click.option("--picture", "drawing", metavar="FILE.svg", help="Of --peers: bars, SVG or PNG.",
              type=click.Path(dir_okay=False, path_type=Path))  # fmt: skip
def main(
    full: bool,
    peers: bool,
    only: tuple[str, ...],
    folders: tuple[Path, ...],
    json_file: IO[str] | None,
    markdown: IO[str] | None,
    drawing: Path | None,
) -> None:
    """Measure hpcio against the limits of this machine, as ratios within one run.

    Everything is made in a temporary folder inside each DIR and removed afterwards.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        console = Console(stderr=True, width=120)
    about = machine.describe()
    figures: list[Figure] = []
    left_out: list[LeftOut] = []
    rows = ROWS
    if peers:
        with console.status("environments of other programs"):
            systems = list(at_hand())
        left_out = [one for one in systems if isinstance(one, LeftOut)]
        rows = rows_of_peers([one for one in systems if isinstance(one, System)])
        for one in left_out:
            console.print(f"Left out: {', '.join(one.names)} ({one.why})")
    try:
        for folder in folders or _default_folders()[: 1 if peers else None]:
            if shutil.disk_usage(folder).free < _SPACE[full]:
                raise click.ClickException(
                    f"'{folder}' has less than {_SPACE[full] >> 30} GiB free. "
                    "Choose another by --dir."
                )
            place = f"{folder} ({kind_of(folder)})"
            for name, row in rows.items():
                if only and name not in only:
                    continue
                started, others = time.perf_counter(), machine.Others()
                with (
                    console.status(f"{place}: {name}"),
                    tempfile.TemporaryDirectory(prefix="hpcio-bench-", dir=folder) as inside,
                ):
                    found = list(row(Bench(Path(inside), full=full)))
                seconds, busy = time.perf_counter() - started, others.cores()
                figures += [replace(f, row=name, folder=place, others=busy) for f in found]
                console.print(
                    f"{place}: {name}, {seconds:.1f} s, others used {busy:.1f} cores", style="dim"
                )
    finally:  # what is measured is not lost with what fails
        show.terminal(console, figures)
        if json_file is not None:
            values = {"machine": about, "full": full, "figures": [asdict(f) for f in figures]}
            json.dump(values, json_file, indent=1)
        if markdown is not None:
            text = (
                page.markdown(about, figures, left_out) if peers else show.markdown(about, figures)
            )
            markdown.write(text)
        if drawing is not None:
            picture.draw(drawing, page.seconds_of(figures), about)


if __name__ == "__main__":
    main()
