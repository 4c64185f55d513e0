"""What this machine has to give: cores, memory, room on a disk; sizes as people write them."""

from __future__ import annotations

import getpass
import os
import re
import shutil
from pathlib import Path

from hpcio.errors import OptionError, OutputError

__all__ = ["available", "check_room", "cores", "is_stopped", "parse_bytes", "umask", "user_name"]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def user_name() -> str:
    """The name of the user, or the number where the machine knows no name, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # which one depends on the version of Python
        return str(os.geteuid())


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped, as by Ctrl-Z; not by a debugger, which lets it go on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):  # it has ended, or there is no /proc
        return False


_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse_bytes(value: str | int) -> int:
    """A size in bytes, from a number or text such as ``"4GB"`` or ``"512MiB"``.

    Examples
    --------
    >>> parse_bytes("4GB"), parse_bytes("1 KiB")
    (4000000000, 1024)
    """
    if isinstance(value, int) and value > 0:
        return value
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?i?)b?\s*", str(value).lower())
    if not match or (match[2] and match[2] not in _UNITS | _BINARY):
        raise OptionError(f"'{value}' is no size. Write a number of bytes, or such as 4GB.")
    return int(float(match[1]) * (_UNITS | _BINARY)[match[2]])


def parse_seconds(value: str | float) -> float:
    """A time in seconds, from a number or text such as ``"90s"``, ``"10m"`` or ``"1.5h"``.

    Examples
    --------
    >>> parse_seconds("10m"), parse_seconds("1.5 h"), parse_seconds(90)
    (600.0, 5400.0, 90.0)
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(s|sec|m|min|h|d)?\s*", str(value).lower())
    seconds = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
    if not seconds:
        raise OptionError(
            f"'{value}' is no time. Write a number of seconds, or such as 90s, 10m, 2h."
        )
    return seconds


def available() -> int:
    """Bytes of memory that this process may still take, of the machine and of its cgroup."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    try:
        with open("/proc/meminfo") as f:
            free = next(int(x.split()[1]) * 1024 for x in f if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass  # not Linux: the number of sysconf must do
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            with open(limit) as a, open(used) as b:
                free = min(free, int(a.read()) - int(b.read()))
        except (OSError, ValueError):
            continue  # no such kind of cgroup, or "max"
    return max(free, 0)


def check_room(out: Path, need: int) -> None:
    """Raise OutputError if `need` bytes cannot fit on the disk where `out` will lie."""
    free = shutil.disk_usage(out.parent).free
    if need > free:
        raise OutputError(
            f"The results need {need / 1e6:.0f} MB, but only {free / 1e6:.0f} MB are free where "
            f"'{out}' will lie. Free some space, or choose another output."
        )


def umask() -> int:
    """That of this process; to set it, even for a moment, would be seen by other threads."""
    try:
        with open("/proc/self/status") as f:
            return next(int(line.split()[1], 8) for line in f if line.startswith("Umask:"))
    except (OSError, StopIteration):  # on other systems than Linux there is no other way
        found = os.umask(0o077)
        os.umask(found)
        return found
