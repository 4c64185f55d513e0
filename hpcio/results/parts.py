"""Whether the parts of a result are there, by their sizes alone."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from hpcio.errors import HpcioError, ResultError
from hpcio.files import open_file
from hpcio.results.opening import refusing_damage
from hpcio.results.remedies import remedy_for_parts, unless_moved

__all__ = ["about_older", "what_is_gone"]


def what_is_gone(out: str | os.PathLike[str]) -> str:
    """What of a published result is gone, and what to do; empty if nothing is.

    Files are looked for and their sizes compared; `open` also looks into them, and `verify` reads
    all of them.

    Parameters
    ----------
    out : str or path

    Returns
    -------
    str
    """
    result = Path(os.path.realpath(out))
    try:
        with refusing_damage(result), open_file(result) as f:
            kept = f["hpcio"]
            parts = kept["sources"]["path", "size"].tolist() if "sources" in kept else []
    except HpcioError as error:
        return str(error)
    defects = [defect for path, size in parts if (defect := _defect(result.parent, path, size))]
    if not defects:
        return ""
    if moved := unless_moved(result, os.fsdecode(parts[0][0])):
        return moved
    many = f"{len(defects):,} of its {len(parts):,} parts are" if len(parts) > 1 else "Its part is"
    return (
        f"{many} gone or not whole: {defects[0][1].strerror}{', ...' * (len(defects) > 1)}. "
        f"{remedy_for_parts(result, defects)}"
    )


def about_older(out: str | os.PathLike[str]) -> str:
    """How to go back to an older result, which a run that started over has not replaced yet."""
    result, folder = os.fspath(out), f"{os.fspath(out)}.run"
    with refusing_damage(result), open_file(result) as f:
        has_parts = "hpcio/sources" in f
    if not has_parts:
        return f"The older result is still there; to go back to it, remove '{folder}'."
    return (
        f"The older result is still there, and its parts lie in '{folder}', too, so do not remove "
        "that folder; to go back to the older result, make it one file (hpcio repack "
        f"{shlex.quote(result)}), and then remove the folder."
    )


def _defect(folder: Path, name: bytes, size: int) -> tuple[Path, ResultError] | None:
    """A part of a result and what is wrong with it; None if nothing is."""
    path = folder / os.fsdecode(name)
    try:
        found = os.stat(path).st_size
    except (OSError, ValueError) as error:  # a name that no file has
        why = f"'{path}' ({getattr(error, 'strerror', error)})"
        return path, ResultError(getattr(error, "errno", None), why)
    if found == size:
        return None
    return path, ResultError(None, f"'{path}' ({found:,} bytes instead of {size:,})")
