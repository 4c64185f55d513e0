"""A real MPI on this machine: some ranks on one node, of which nothing is left afterwards.

The Pythons are those of the fixtures `mpi_python` (Open MPI) and `mpich_python`; each has its own
`mpirun` beside it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.rigs.support import REPOSITORY
from tests.rigs.waiting import PATIENCE, until

# All processes of a run have this variable. Their group does not tell them: each rank of Open MPI
# is the leader of one, and those of MPICH are even in sessions of their own.
MARK = "HPCIO_TEST_RANKS"


def mpirun(
    python: Path,
    ranks: int,
    *args: str,
    folder: Path,
    seconds: float = PATIENCE,
    launcher: Path | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """Run some ranks of a Python with these arguments, and wait for their end.

    A run that does not end within its limit is killed, and the test fails with what was printed.
    """
    with Ranks(python, ranks, *args, folder=folder, launcher=launcher, **environment) as running:
        return running.wait(seconds)


class Ranks:
    """Some ranks at work in a folder; they end with the ``with`` block at the latest.

    Parameters
    ----------
    python : path
        As the fixtures give it.
    ranks : int
        There may be more than cores.
    args : str
        What Python is called with.
    folder : path
        Where they are run.
    launcher : path, optional
        The Python whose `mpirun` it is, if it is not the same.
    prefix : sequence of str
        A command that runs each rank.
    environment : str
        Further variables.
    """

    def __init__(
        self,
        python: Path,
        ranks: int,
        *args: str,
        folder: Path,
        launcher: Path | None = None,
        prefix: Sequence[str] = (),
        **environment: str,
    ) -> None:
        whose = launcher or python
        # What MPI itself puts on disk, sockets too, whose paths must be short; and what is printed.
        self._own = tempfile.TemporaryDirectory(prefix="hpcio-mpi-")
        self._token = secrets.token_hex(8)
        self._segments = set(_segments())
        command = [
            str(whose.with_name("mpirun")), *options(whose, self._own.name), "-n", str(ranks),
            *prefix, str(python), *args,
        ]  # fmt: skip
        with open(f"{self._own.name}/out", "w") as out, open(f"{self._own.name}/err", "w") as err:
            self.process = subprocess.Popen(
                command, cwd=folder, env={**environ(**environment), MARK: self._token},
                start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip

    @property
    def out(self) -> str:
        """What was printed so far."""
        return Path(self._own.name, "out").read_text(errors="replace")

    @property
    def err(self) -> str:
        """What was printed to stderr so far."""
        return Path(self._own.name, "err").read_text(errors="replace")

    @property
    def pids(self) -> list[int]:
        """All processes of this run that are alive: launchers, ranks, and children of these."""
        mark, alive = f"{MARK}={self._token}".encode(), []
        for name in filter(str.isdigit, os.listdir("/proc")):
            # Of one that has just ended, or is another user's.
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    alive.append(int(name))
        return alive

    def wait(self, seconds: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """How it ended; a run beyond its limit is killed, and the test fails."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(
                f"the ranks had not ended after {seconds} s; until then they printed\n{self.out}\n"
                f"and to stderr\n{self.err}"
            )
        return subprocess.CompletedProcess(self.process.args, status, self.out, self.err)

    def kill(self) -> None:
        """End all processes of this run by signal 9."""

        looks = 0

        def dead() -> bool:
            nonlocal looks
            alive = self.pids
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            # One that has just been started shows no environment for a moment: look again.
            looks = 0 if alive else looks + 1
            return looks == 3

        until(dead, "the end of all ranks")
        self.process.wait()

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()
        self._own.cleanup()
        # Ranks of MPICH that were killed, or called Abort, leave their shared memory.
        for path in set(_segments()) - self._segments:
            if not _in_use(path):
                path.unlink(missing_ok=True)


def environ(**more: str) -> dict[str, str]:
    """The environment that ranks are started in."""
    # Within a job of SLURM the launchers would ask that for nodes, and within a rank for ranks.
    strange = ("SLURM_", "OMPI_", "PMIX_", "PMI_", "HYDRA_")
    return {
        **{k: v for k, v in os.environ.items() if k == "SLURM_CONF" or not k.startswith(strange)},
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "HYDRA_LAUNCHER": "fork",
        "PYTHONPATH": str(REPOSITORY),
        **more,
    }


def mpich(python: Path) -> bool:
    """Whether this Python's MPI is MPICH; else it is Open MPI."""
    return python.with_name("mpichversion").exists()


def options(python: Path, own: str) -> list[str]:
    """What `mpirun` is told on one node; what Open MPI puts on disk goes into the folder `own`."""
    if mpich(python):
        return []
    return [
        "--oversubscribe",
        # Else two runs at once put their first ranks on the same core.
        "--bind-to", "none",
        # One node: this halves the start-up.
        "--mca", "pml", "ob1", "--mca", "btl", "self,vader",
        # Where nothing is left of ranks that were killed.
        "--mca", "orte_tmpdir_base", own, "--mca", "btl_vader_backing_directory", own,
        "--mca", "osc_sm_backing_directory", own,
    ]  # fmt: skip


def _segments() -> Iterator[Path]:
    return Path("/dev/shm").glob("mpich_shm_*")


def _in_use(path: Path) -> bool:
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            if str(path) in maps.read_text():
                return True
    return False
