"""Who may read what a run writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ACCESS", "READABLE", "READABLE_FOLDER", "Access", "Modes"]

Access = Literal["result", "shared", "private"]

# What a result needs is as readable as the result, if the umask lets it; nobody else writes there.
READABLE, READABLE_FOLDER = 0o644, 0o755


@dataclass(frozen=True)
class Modes:
    """The modes of what a run makes, before the umask.

    Attributes
    ----------
    result : int
    run_folder : int
        Of the run directory: whoever may not enter it cannot read the sources of the result.
    record, record_folder : int
        Of plan, journals, logs and scripts.
    """

    result: int
    run_folder: int
    record: int
    record_folder: int


# Who may read: the result as any new file, all of a run, or nothing but its owner.
ACCESS: dict[Access, Modes] = {
    "result": Modes(0o666, READABLE_FOLDER, 0o600, 0o700),
    "shared": Modes(0o666, READABLE_FOLDER, READABLE, READABLE_FOLDER),
    "private": Modes(0o600, 0o700, 0o600, 0o700),
}
