"""Subcommands for a finished result: verify, repack."""

from __future__ import annotations

from typing import Any

import click

from hpcio.command.options import CHUNK_OPTIONS, with_options
from hpcio.results import repack as repack_result
from hpcio.results import verify as verify_result
from hpcio.words import say

__all__ = ["repack", "verify"]


@click.command()
@click.argument("out", type=click.Path())
def verify(out: str) -> None:
    """Check every byte of a result against its checksums."""
    say(str(verify_result(out)))


@click.command()
@click.argument("out", type=click.Path())
@click.argument("into", type=click.Path(), required=False)
@with_options(CHUNK_OPTIONS)
@click.option("--workers", type=click.IntRange(1), help="Threads to copy, processes to compress.")
def repack(out: str, into: str | None, **options: Any) -> None:
    """Make one ordinary HDF5 file of a result, verified.

    With INTO, a new file is made; one of NWB, if its name ends with .nwb. Without it, OUT itself
    becomes one file, and its run directory is removed after verification.
    """
    say(str(repack_result(out, into, **options)))
