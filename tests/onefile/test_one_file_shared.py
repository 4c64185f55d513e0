"""One file written by several clients of a shared file system at once: every byte is right.

The clients are those of a real GlusterFS, and of the kernel's NFS in a guest. That a lost byte
would be found is shown by writers that take no care of caches: it finds what they lose.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from hpcio.writers.backend import WRITERS
from tests.rigs import mpi as mpi_rig
from tests.rigs import nfs as nfs_rig
from tests.rigs.gluster import Gluster
from tests.rigs.nfs import Nfs
from tests.rigs.one_file import REFUSED
from tests.rigs.support import ended
from tests.rigs.waiting import PATIENCE, until

STEPS = ("-m", "tests.rigs.one_file")
PATH = str(mpi_rig.REPOSITORY)

# Processes that each see a mount of their own at one path, as nodes do: mount, path, command.
PRIVATE = ["unshare", "--mount", "--propagation", "private", "bash", "-c"]
BIND = 'mount --bind "$0" "$1" && cd "$1" && shift && exec "$@"'
# The same for ranks: path, one mount for each rank, a dash, command.
BIND_RANK = """
at=$0 mounts=()
while [ "$1" != - ]; do mounts+=("$1"); shift; done
shift
mount --bind "${mounts[OMPI_COMM_WORLD_RANK]}" "$at" && cd "$at" && exec "$@"
"""

# An exit status, as a shell has it, and what was printed.
Ended = tuple[int, str]
KILLED = 128 + 9


class Clients(Protocol):
    """The clients a, b and c of a shared file system, and a local folder for notes."""

    notes: Path

    def run(self, *commands: tuple[str, list[str]]) -> list[Ended]:
        """Run commands at once, each as a client."""

    def mpirun(self, python: Path, clients: str, command: list[str], **variables: str) -> Ended:
        """Run a command by as many ranks, each as a client."""


class OnGluster:
    def __init__(self, gluster: Gluster, folder: Path) -> None:
        self.notes, self._at = folder / "notes", folder / "shared"
        name = f"one-file-{folder.name}"
        self._mounts = {
            client: gluster.path(known) / name
            for client, known in zip("abc", gluster.clients, strict=True)
        }
        for path in (self.notes, self._at, self._mounts["a"]):
            path.mkdir()
        for path in self._mounts.values():
            until(path.exists, "the folder, elsewhere")

    def run(self, *commands: tuple[str, list[str]]) -> list[Ended]:
        with ExitStack() as stack:
            children = [
                stack.enter_context(ended(subprocess.Popen(
                    [*PRIVATE, BIND, str(self._mounts[client]), str(self._at), *command],
                    text=True, start_new_session=True, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONPATH": PATH},
                )))
                for client, command in commands
            ]  # fmt: skip
            out = [child.communicate(timeout=PATIENCE)[0] for child in children]
            status = [c.returncode if c.returncode >= 0 else 128 - c.returncode for c in children]
        return list(zip(status, out, strict=True))

    def mpirun(self, python: Path, clients: str, command: list[str], **variables: str) -> Ended:
        mounts = [str(self._mounts[client]) for client in clients]
        with mpi_rig.Ranks(
            python, len(clients), *command[1:], folder=self.notes,
            prefix=[*PRIVATE, BIND_RANK, str(self._at), *mounts, "-"],
            PYTHONPATH=PATH, **variables,
        ) as running:  # fmt: skip
            done = running.wait()
        return done.returncode, done.stdout + done.stderr


class OnNfs:
    def __init__(self, nfs: Nfs, version: str, name: str) -> None:
        self._nfs, self._version = nfs, version
        self.notes = nfs.memory / name
        folders = str(self.notes), f"{nfs.at}/{name}"
        nfs.start("mkdir", *folders, client="a", version=version).result()
        self._inside = ["env", "-C", name]

    def run(self, *commands: tuple[str, list[str]]) -> list[Ended]:
        jobs = [
            self._nfs.start(
                *self._inside, *command, client=client, version=self._version, PYTHONPATH=PATH
            )
            for client, command in commands
        ]
        return [job.ended() for job in jobs]

    def mpirun(self, python: Path, clients: str, command: list[str], **variables: str) -> Ended:
        mounts = [f"/mnt/{self._version}/{client}" for client in clients]
        launcher = [str(python.with_name("mpirun")), *mpi_rig.options(python, str(self.notes))]
        ranks = [*PRIVATE, BIND_RANK, str(self._nfs.at), *mounts, "-", *self._inside, *command]
        # Launcher and ranks begin in a folder that all of them have.
        job = self._nfs.start(
            "env", "-C", str(self.notes), *launcher, "-n", str(len(clients)), *ranks,
            client="a", version=self._version, PYTHONPATH=PATH,
            OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", **variables,
        )  # fmt: skip
        return job.ended()


@pytest.fixture
def there(request: pytest.FixtureRequest, tmp_path: Path, where: str) -> Clients:
    """The clients of a file system, in a new folder of it."""
    if where == "gluster":
        return OnGluster(request.getfixturevalue("the_gluster"), tmp_path)
    return OnNfs(request.getfixturevalue("nfs"), where, tmp_path.name)


@pytest.fixture
def python(request: pytest.FixtureRequest, writer: str) -> Path:
    """The Python of a writer."""
    if writer not in WRITERS.names():
        pytest.skip(f"there is no writer {writer!r}")
    if writer.startswith("mpi"):
        found: Path = request.getfixturevalue("mpi_python")
        return found
    return Path(sys.executable)


def alone(there: Clients, client: str, step: str, *args: object, python: Path) -> Ended:
    """Run a step of `one_file` on one client."""
    command = [str(python), *STEPS, step, str(there.notes), *map(str, args)]
    return there.run((client, command))[0]


def together(
    there: Clients, clients: str, step: str, *args: str,
    python: Path, mpi: bool = False, **variables: str,
) -> list[Ended]:  # fmt: skip
    """Run the parts of a step of `one_file` on some clients at once; ranks end together."""

    def command(part: str) -> list[str]:
        return [str(python), *STEPS, step, str(there.notes), part, str(len(clients)), *args]

    if mpi:
        return [there.mpirun(python, clients, command("rank"), **variables)]
    return there.run(*((client, command(str(k))) for k, client in enumerate(clients)))


def well(done: Ended) -> str:
    """What was printed by something that has ended well."""
    status, out = done
    assert status == 0, out
    return out


SIZES = [10_008, 47_008]  # of a record: neither divides a page, nor does a page divide it


# ---------------------------------------------------------------------- what is lost otherwise


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("where", "how"),
    [
        pytest.param("gluster", "mmap", marks=pytest.mark.gluster),
        pytest.param("4.2", "pwrite", marks=pytest.mark.torture),
        pytest.param("3", "pwrite", marks=pytest.mark.torture),
    ],
)
def test_bytes_that_are_lost_are_found(there, how, size):
    python = Path(sys.executable)
    well(alone(there, "c", "plan", "direct", size, python=python))
    for done in together(there, "ab", "plainly", how, python=python):
        well(done)
    # By a client that has nothing of the file in its cache.
    found = json.loads(well(alone(there, "c", "compare", "out.h5.run/data.h5", python=python)))
    print(found)
    assert found["wrong"] > 0


# ---------------------------------------------------------------------- one file, right

ONE_FILE = ["direct", "mutex", "mpi", "mpi-collective"]

# Without locks that reach all clients; GlusterFS has some, under which it shows old bytes.
REFUSED_ON = [("gluster", "mutex"), ("3", "mutex"), ("3", "mpi"), ("3", "mpi-collective")]

EVERYDAY = [
    ("gluster", "direct", "abc", 10_008), ("gluster", "direct", "ab", 47_008),
    ("gluster", "mpi", "abc", 10_008),
]  # fmt: skip


def marks(where: str, writer: str, *, everyday: bool) -> list[pytest.MarkDecorator]:
    return (
        [pytest.mark.gluster] * (where == "gluster")
        + [pytest.mark.mpi] * writer.startswith("mpi")
        + [pytest.mark.torture] * (not everyday)
    )


def cases() -> Iterator[Any]:
    for case in itertools.product(("gluster", *nfs_rig.VERSIONS), ONE_FILE, ("ab", "abc"), SIZES):
        where, writer = case[:2]
        if (where, writer) not in REFUSED_ON:
            yield pytest.param(*case, marks=marks(where, writer, everyday=case in EVERYDAY))


@pytest.mark.parametrize(("where", "writer", "clients", "size"), [*cases()])
def test_every_byte_is_right(there, python, writer, clients, size):
    """All clients have old bytes in their caches; one is killed, others go on, it publishes."""
    mpi = writer.startswith("mpi")
    well(alone(there, clients[-1], "plan", writer, size, python=python))
    killed, *others = together(there, clients, "write", "0", python=python, mpi=mpi)
    assert killed[0] == KILLED, killed[1]
    for done in others:
        well(done)
    for done in together(there, clients[1:], "resume", python=python, mpi=mpi):
        well(done)
    well(alone(there, clients[0], "publish", python=python))
    for client in clients:
        found, verified = well(
            alone(there, client, "look", python=Path(sys.executable))
        ).splitlines()
        assert json.loads(found)["wrong"] == 0
        assert "verified" in verified


@pytest.mark.torture
@pytest.mark.mpi
@pytest.mark.parametrize(("where", "writer"), [("4.2", "mpi")])
def test_what_ranks_lose_without_locks_is_not_published(there, python, writer):
    """Told to take no locks, MPI-IO loses what others wrote: it is they that make it safe."""
    well(alone(there, "a", "plan", writer, SIZES[0], python=python))
    no_locks = {"OMPI_MCA_fs_ufs_lock_algorithm": "1"}
    (done,) = together(there, "ab", "write", python=python, mpi=True, **no_locks)
    well(done)
    status, out = alone(there, "a", "publish", python=python)
    assert status, out
    print(out)
    assert "are not what was computed" in out


@pytest.mark.parametrize(
    ("where", "writer"),
    [pytest.param(*case, marks=marks(*case, everyday=case[0] == "gluster")) for case in REFUSED_ON],
)
def test_a_writer_is_refused_where_it_would_lose_bytes(there, python, writer):
    status, out = alone(there, "a", "plan", writer, SIZES[0], python=python)
    assert status == REFUSED, out
    assert "'direct'" in out
