"""What is wrong with the parts of a result, and what to do where anything is damaged."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpcio.errors import HpcioError, ResultError, is_of_disk
from hpcio.files import RunDirectory, mark_of
from hpcio.planning import open_plan_file
from hpcio.words import START_OVER, listed
from hpcio.writers import defects_of

__all__ = ["check_parts", "out_of", "remedy", "remedy_for_parts", "unless_moved"]

# So many damaged parts are removed by one command.
_MOST = 10


def out_of(result: Path, part: str | None) -> Path:
    """The name that its run has given a result: its parts lie in the run directory of that name."""
    folder = "" if part is None else part.partition("/")[0]
    name = folder.removesuffix(".run")
    return result.parent / name if name and name != folder else result


def remedy(result: Path, out: Path | None = None, damaged: Sequence[str] = ()) -> str:
    """What to do about a result that is damaged, as the last sentence of an error.

    Parameters
    ----------
    result : pathlib.Path
    out : pathlib.Path, optional
        The name that its run has given it, if it may have another by now; see `out_of`.
    damaged : sequence of str
        Its parts that are damaged. They must go, or the run would take them for done.
    """
    out = result if out is None else out
    if not _has_run(result, out):
        if mark_of(result) is None:  # nobody knows it for a result, which could be replaced
            return "Restore it from a backup, or remove it and run its plan again."
        return (
            "Restore it from a backup, or compute it anew: run its plan with fresh=True (in the "
            "shell: --fresh)."
        )
    names = [str(result), *([str(out)] if out.exists() else []), *damaged[:_MOST]]
    left = len(damaged) - _MOST
    return (
        "Restore it from a backup, or remove what is damaged and resume the run, which computes "
        f"what is missing then: rm {shlex.join(dict.fromkeys(names))}; "
        f"hpcio resume {shlex.quote(str(out))}"
        + f"; then verify it, since {left:,} more of its parts are damaged"
        * (left > 0)
    )


def _has_run(result: Path, out: Path) -> bool:
    """Whether the run of a result is there and can be resumed."""
    if not RunDirectory.of(str(out)).plan.exists():
        return False
    mark = mark_of(result)
    try:
        with open_plan_file(str(out)) as f:
            return mark is None or str(f.attrs["digest"]) == mark.plan
    except HpcioError:  # it is damaged, or another user's
        return False


def check_parts(result: Path, table: np.ndarray) -> None:
    """Raise ResultError unless every part of a result is there, and is what was written."""
    defects = list(defects_of(result.parent, table))
    if not defects:
        return
    first, number = str(defects[0][1].strerror), defects[0][1].errno
    said = unless_moved(result, os.fsdecode(table["path"][0]))
    if not said:
        said = f"The part {first}. "
        if len(defects) > 1:
            lines = listed([str(defect.strerror) for _, defect in defects])
            many = f"{len(defects):,} of the {len(table):,} parts of '{result}'"
            said = "\n".join([f"{many} are gone or damaged:", *lines, ""])
        said += remedy_for_parts(result, defects)
    raise ResultError(said) if number is None else ResultError(number, said)


def remedy_for_parts(result: Path, defects: Sequence[tuple[Path, ResultError]]) -> str:
    """What to do about parts of a result that are gone or damaged."""
    if any(is_of_disk(defect) for _, defect in defects):
        # They are there: a run that is resumed would not compute them again.
        return "Check their disk and who may read them, or restore them from a backup."
    first = os.path.relpath(defects[0][0], result.parent)
    there = [str(path) for path, _ in defects if path.exists()]
    return remedy(result, out_of(result, first), there)


def unless_moved(result: Path, part: str) -> str:
    """What to do if a result was moved without its folder, or renamed with it; empty if neither."""
    out = out_of(result, part)
    folder, here = RunDirectory.of(str(out)).path, RunDirectory.of(str(result)).path
    if folder.exists():
        return ""
    if (here / part.partition("/")[2]).exists():
        back = shlex.join(["mv", str(result), str(out)]), shlex.join(["mv", str(here), str(folder)])
        return (
            f"'{result}' and its folder were renamed, but the result knows its parts by the name "
            f"'{folder.name}'. Rename both back: {'; '.join(back)}"
        )
    return (
        f"'{result}' is only the index of the result; its values lie in '{folder.name}', which is "
        "not beside it. Copy that folder, too, or ask whoever made it for one file (hpcio repack "
        f"{shlex.quote(out.name)} FILE); if it was removed, {START_OVER}"
    )
