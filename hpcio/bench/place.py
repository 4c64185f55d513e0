"""Where it was measured: the file system of a folder, the machine, and versions."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from hpcio.fingerprints import version_of
from hpcio.machine import cores, kind_of, options_of, striping_of
from hpcio.words import count, size

__all__ = ["Place", "machine_facts"]

_PACKAGES = ("hpcio", "numpy", "h5py", "xxhash")


@dataclass(frozen=True)
class Place:
    """A folder, and those that measured there.

    Attributes
    ----------
    folder : str
    filesystem : str
        Its type, such as ``ext4``, ``nfs4`` or ``lustre``.
    mounted : tuple of str
        The options of the mount.
    hosts : tuple of str
        The nodes.
    processes : int
    cores : int
        Of this machine.
    processor, kernel, python : str
    memory : int
        Of this machine, in bytes.
    versions : dict of str
    date : str
    striping : str
        Over how many servers new files are laid out there, in words; "" if nobody says.
    """

    folder: str
    filesystem: str
    mounted: tuple[str, ...]
    hosts: tuple[str, ...]
    processes: int
    cores: int
    processor: str
    memory: int
    kernel: str
    python: str
    versions: dict[str, str]
    date: str
    striping: str = ""

    @classmethod
    def of(cls, folder: Path, hosts: Sequence[str]) -> Place:
        """Look at a folder, and at this machine."""
        return cls(
            folder=str(folder),
            filesystem=kind_of(folder) or "unknown",
            mounted=tuple(sorted(options_of(folder))),
            hosts=tuple(dict.fromkeys(hosts)),
            processes=len(hosts),
            **machine_facts(),
            date=time.strftime("%Y-%m-%d %H:%M %Z"),
            striping=_striping(folder),
        )


def _striping(folder: Path) -> str:
    found = striping_of(folder)
    if found is None:
        return ""
    over = "all servers" if found.count < 0 else count(found.count, "server")
    return f"{over}, {size(found.size)} each"


def machine_facts() -> dict[str, Any]:
    """What `Place` says of this machine and of the versions here, by its names."""
    return {
        "cores": cores(),
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {
            "HDF5": h5py.version.hdf5_version,
            **{name: version_of(name) for name in _PACKAGES},
        },
    }


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(found, "")
