"""A real shared file system on this machine: GlusterFS, of two bricks and some clients.

All of it lies in one folder and listens on private ports of the loopback interface. Each client
is a mount of its own, with caches of its own, as each node of a cluster has one: what one writes
another sees late, or not at all, just as there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.rigs.slurm import free_ports, until

PROGRAMS = ("glusterfsd", "glusterfs", "mount", "umount", "unshare")
PACKAGES = "glusterfs-server glusterfs-client"
SBIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

_BRICK = """\
volume disk
  type storage/posix
  option directory {folder}
end-volume
volume locks
  type features/locks
  subvolumes disk
end-volume
volume brick
  type performance/io-threads
  subvolumes locks
end-volume
volume server
  type protocol/server
  option transport-type tcp
  option transport.address-family inet
  option transport.socket.bind-address 127.0.0.1
  option transport.socket.listen-port {port}
  option auth.addr.brick.allow 127.0.0.1
  subvolumes brick
end-volume
"""

_TO_BRICK = """\
volume brick{number}
  type protocol/client
  option transport-type tcp
  option remote-host 127.0.0.1
  option remote-port {port}
  option remote-subvolume brick
  option ping-timeout 10
end-volume
"""

# What a client of an ordinary volume has, from the bricks to the mount.
_CLIENT = (
    "cluster/distribute", "features/utime", "performance/write-behind", "performance/open-behind",
    "performance/quick-read", "performance/md-cache", "performance/io-threads",
)  # fmt: skip


def missing() -> str:
    """Why there can be no GlusterFS here; "" if there can."""
    absent = [p for p in PROGRAMS if shutil.which(p, path=SBIN) is None]
    if absent:
        return f"no {', '.join(absent)} here: as root, apt install {PACKAGES}"
    if not may_mount():
        return "GlusterFS needs to be root and allowed to mount, which this process is not"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "GlusterFS needs /dev/fuse, which is not here: as root, modprobe fuse"
    return ""


def may_mount() -> bool:
    """Whether this process is root's, and has not been deprived of mounting as in a container."""
    status = Path("/proc/self/status").read_text()
    (capabilities,) = (x.split()[1] for x in status.splitlines() if x.startswith("CapEff:"))
    return os.geteuid() == 0 and bool(int(capabilities, 16) >> 21 & 1)  # CAP_SYS_ADMIN


class Gluster:
    """One volume, and for each client a mount of it.

    Parameters
    ----------
    folder : path
        Everything goes there; the mounts have the names of the clients.
    clients : sequence of str
    """

    def __init__(self, folder: Path, clients: Sequence[str] = ("a", "b")) -> None:
        self.folder = Path(folder).resolve()
        self.clients = tuple(clients)
        self._processes: list[subprocess.Popen[bytes]] = []

    def path(self, client: str) -> Path:
        """Where a client has the volume mounted."""
        return self.folder / client

    def up(self) -> None:
        """Start the bricks, mount the clients, and wait until all are there."""
        port = free_ports(2)
        to_bricks = ""
        for k in range(2):
            brick = self.folder / f"brick{k}"
            brick.mkdir(parents=True)
            volume = _BRICK.format(folder=brick, port=port + k)
            self._start("glusterfsd", f"brick{k}", volume)
            to_bricks += _TO_BRICK.format(number=k, port=port + k)
        for k in range(2):
            self._wait(lambda k=k: _answers(port + k), f"brick {k} of GlusterFS")
        below, volume = "brick0 brick1", to_bricks
        for kind in _CLIENT:
            name = kind.partition("/")[2]
            volume += f"volume {name}\n  type {kind}\n  subvolumes {below}\nend-volume\n"
            below = name
        for client in self.clients:
            self.path(client).mkdir()
            self._start("glusterfs", client, volume, str(self.path(client)))
            self._wait(self.path(client).is_mount, f"client {client} of GlusterFS")

    def _start(self, program: str, name: str, volume: str, *arguments: str) -> None:
        file = self.folder / f"{name}.vol"
        file.write_text(volume)
        command = [
            shutil.which(program, path=SBIN) or program, "--no-daemon", "-f", str(file),
            "-l", f"{file.with_suffix('.log')}", *arguments,
        ]  # fmt: skip
        self._processes.append(
            # Ctrl-C ends the test that uses it first.
            subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        )

    def _wait(self, condition: Callable[[], object], what: str) -> None:
        def come() -> object:
            ended = [p.args for p in self._processes if p.poll() is not None]
            if ended:
                raise RuntimeError(f"{ended[0]} has ended: see the logs in {self.folder}")
            return condition()

        until(come, what)

    def down(self) -> None:
        """Unmount the clients, whoever still holds something there, and end all."""
        mounts = [m for c in self.clients if str(m := self.path(c)) in _mounts()]
        for mount in mounts:
            subprocess.run(["umount", "--lazy", str(mount)], check=False)
        for process in reversed(self._processes):  # clients before bricks
            process.terminate()
        for process in reversed(self._processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
        self._processes = []


def _mounts() -> set[str]:
    """All mount points, by name: to look at one whose client has died would fail."""
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False
