"""The mark of a result: by it, and not by a name, a file is known for one that a run has made."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hpcio.errors import DAMAGE
from hpcio.files.opening import open_file, read_text

__all__ = ["Mark", "mark_of"]


@dataclass(frozen=True)
class Mark:
    """What a result says of its making.

    Attributes
    ----------
    plan : str
        Digest of its plan.
    run_id : str
        The run that made it.
    """

    plan: str
    run_id: str


def mark_of(path: str | os.PathLike[str]) -> Mark | None:
    """The mark of a file; None if it is no result of hpcio, or cannot be read."""
    try:
        with open_file(path) as f:
            said = f["hpcio"]
            return Mark(read_text(said, "plan"), read_text(said, "run_id"))
    except DAMAGE:
        return None
