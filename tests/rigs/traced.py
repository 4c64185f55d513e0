"""What a program asks of the files of a folder, counted by strace."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

# `strace -f -y` writes a line for each call, with the paths of descriptors in angle brackets; a
# call that is interrupted in the log by one of another thread has its arguments in its first line.
_LINE = re.compile(r"^\d+ +(\w+)\((.*)$")
_PATH = re.compile(r'[<"](/[^>"]*)[>"]')
# Calls that need whoever keeps the names of files, as the metadata server of a file system does.
OPENED = frozenset(("open", "openat", "creat"))
LOOKED_UP = frozenset(
    ("access", "faccessat", "faccessat2", "stat", "lstat", "newfstatat", "statx", "readlink",
     "readlinkat", "link", "linkat", "mkdir", "mkdirat", "rename", "renameat", "renameat2",
     "rmdir", "symlink", "unlink", "unlinkat")
)  # fmt: skip
LISTED = frozenset(("getdents", "getdents64"))
SYNCED = frozenset(("fsync", "fdatasync", "syncfs", "sync_file_range"))
# No others, or each trial would be slowed down; some are not there on every machine.
_TRACED = ",".join(f"?{name}" for name in sorted(OPENED | LOOKED_UP | LISTED | SYNCED))


def missing() -> str:
    """Why nothing can be counted here; "" if it can."""
    return "" if shutil.which("strace") else "no strace: apt install strace"


def traced(
    command: Sequence[str], folder: Path, *, environment: Mapping[str, str] | None = None
) -> Counter[tuple[str, Path]]:
    """Run a command, and count such calls, those of its children included.

    Parameters
    ----------
    command : sequence of str
    folder : path
        The log of strace is beside it while the command runs.
    environment : mapping of str to str, optional

    Returns
    -------
    collections.Counter
        By name of the call, and the first path that it names. Paths in `folder` are relative.
    """
    log = folder.with_name(f"{folder.name}.strace")
    try:
        subprocess.run(
            ["strace", "-f", "-y", "-qq", "-s", "4096", "-e", f"trace={_TRACED}", "-o", str(log),
             *command],
            env=environment, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        with log.open(errors="replace") as lines:
            return Counter(call for line in lines if (call := _read(line, folder)) is not None)
    finally:
        log.unlink(missing_ok=True)


def _read(line: str, folder: Path) -> tuple[str, Path] | None:
    match = _LINE.match(line)
    # With this flag a descriptor is asked, which is open, and no name.
    if match is None or "AT_EMPTY_PATH" in match[2]:
        return None
    # `openat` and its like name the folder at hand before the file.
    found = _PATH.search(match[2].partition(", ")[2] if "AT_FDCWD" in match[2] else match[2])
    if found is None:
        return None
    path = Path(found[1])
    return match[1], path.relative_to(folder) if path.is_relative_to(folder) else path


def of_kind(calls: Mapping[tuple[str, Path], int], names: frozenset[str]) -> Counter[Path]:
    """How often some calls were made inside of the folder, by path."""
    found: Counter[Path] = Counter()
    for (name, path), number in calls.items():
        if name in names and not path.is_absolute():
            found[path] += number
    return found
