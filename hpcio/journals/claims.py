"""Claims: who takes a part of the work, where several could.

A claim is an empty file that is made by ``O_CREAT | O_EXCL``. One process at most succeeds, on
every file system that we know. Claims are never removed, and no name is used twice. They only save
work: two attempts at one block do not disturb each other, and the journals say which one counts.
"""

from __future__ import annotations

import os
from pathlib import Path

from hpcio.errors import as_output_error
from hpcio.machine import is_first

__all__ = ["ClaimFolder"]


class ClaimFolder:
    """The claims of a run; whoever makes them chooses their names.

    Parameters
    ----------
    folder : pathlib.Path
        Such as `hpcio.files.RunDirectory.claims`.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> claims = ClaimFolder(Path(folder.name, "claims"))
    >>> claims.make()
    >>> claims.take("1-0"), claims.take("1-0"), claims.is_taken("1-0")
    (True, False, True)
    >>> folder.cleanup()
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> None:
        """Make the folder, before the first claim."""
        self.folder.mkdir(mode=0o700, exist_ok=True)

    def take(self, name: str) -> bool:
        """Claim a name; whether this process was the first to do so.

        Raises
        ------
        OutputError
            If the disk refuses: what nobody can claim would not be done, without a word.
        """
        path = self.folder / name
        try:
            return is_first(path)
        except OSError as error:
            raise as_output_error(error, path) from error

    def is_taken(self, name: str) -> bool:
        """Whether somebody has claimed a name."""
        try:
            # Opened anew: a network file system asks then whether what it remembers of the folder,
            # names that are not there included, still holds.
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            os.stat(name, dir_fd=folder)
        except OSError:
            return False
        finally:
            os.close(folder)
        return True

    def names(self) -> list[str]:
        """All names that are claimed, as the file system lists them now.

        Raises
        ------
        OutputError
        """
        try:
            return os.listdir(self.folder)
        except OSError as error:
            raise as_output_error(error, self.folder) from error
