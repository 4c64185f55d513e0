"""Whether an MPI launcher has started this process, found out without MPI; and its communicator.

mpi4py is imported only where the environment says that this process is a rank. Elsewhere, MPI may
end the process without an exception.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcio.errors import WorkerError

__all__ = ["Launch", "communicator", "launched"]

# The variables that tell a process its rank, the number of ranks, and the number on its node.
_LAUNCHERS = (
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),
    ("PMIx", "PMIX_RANK", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"),
)


@dataclass(frozen=True)
class Launch:
    """What a launcher has told this process.

    Attributes
    ----------
    launcher : str
    rank, size : int
        The size is 0 if the launcher does not tell.
    local : int
        Ranks on this node, as far as is known.
    """

    launcher: str
    rank: int
    size: int
    local: int


def launched() -> Launch | None:
    """How this process was started as a rank; None if it was not.

    MPI itself is not imported.

    Raises
    ------
    WorkerError
        If a rank has started this process: it cannot be a rank itself.
    """
    for launcher, rank, size, local in _LAUNCHERS:
        if rank in os.environ:
            number = int(os.environ[rank])
            if _started_by_a_rank(rank):
                raise WorkerError(
                    f"This process was started by rank {number} of an MPI job, and cannot be one "
                    "itself. Take the launcher's variables from its environment: "
                    + shlex.join(["env", *(f"-u{name}" for name in _launchers_variables())])
                    + " hpcio ..."
                )
            count = int(os.environ.get(size, "0"))
            return Launch(launcher, number, count, _number(os.environ.get(local), max(1, count)))
    return None


def _number(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdigit() else default


def _launchers_variables() -> list[str]:
    return sorted(n for n in os.environ if n.startswith(("OMPI_", "PMIX_", "PMI_", "MPI_LOCAL")))


def _started_by_a_rank(variable: str) -> bool:
    """Whether a process between the launcher and this one has MPI at work."""
    number = os.environ[variable]
    process = os.getppid()
    while process > 1:
        try:
            said = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
            if f"{variable}={number}".encode() not in said:
                return False  # the launcher
            if "/libmpi" in Path(f"/proc/{process}/maps").read_text():
                return True
            stat = Path(f"/proc/{process}/stat").read_text()
        except OSError:  # another user's, or not Linux
            return False
        process = int(stat.rpartition(")")[2].split()[1])
    return False


def communicator(launch: Launch) -> Any:
    """All ranks of the job, as mpi4py knows them.

    Raises
    ------
    WorkerError
        If there is no mpi4py, or it belongs to another MPI than the launcher.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise WorkerError(
            f"{launch.launcher} has started {launch.size} ranks, but '{sys.executable}' has no "
            "mpi4py. Install it: pip install mpi4py"
        )
    import mpi4py

    # Some MPIs end the process at their start, if the launcher of another MPI started it.
    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    from mpi4py import MPI

    library = MPI.Get_library_version().partition("\n")[0].strip("\0 ")
    foreign = launch.launcher == "Open MPI" and "Open MPI" not in library
    if not foreign and not MPI.Is_initialized():
        MPI.Init_thread()
    if foreign or launch.size not in (0, MPI.COMM_WORLD.size):
        raise WorkerError(
            f"{launch.launcher} has started {launch.size} ranks, but mpi4py belongs to another MPI "
            f"({library[:60]}), in which each would be alone. Use the launcher of that MPI, or "
            "build mpi4py with this one: pip install --force-reinstall --no-binary=mpi4py mpi4py"
        )
    return MPI.COMM_WORLD
