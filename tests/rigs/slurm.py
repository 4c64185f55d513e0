"""A real SLURM on this machine: munged, slurmctld and some slurmd as ordinary processes.

All of it lies in one folder, listens on private ports of the loopback interface, and needs no
systemd and no root. Several can run side by side. By hand::

    eval "$(make slurm-up)"      # export SLURM_CONF=...
    sinfo
    make slurm-down
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.rigs import waiting
from tests.rigs.waiting import PATIENCE

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
PACKAGES = "slurmctld slurmd slurm-client munge"

# For what SLURM or dask is about to do: asking costs them a call each.
until = functools.partial(waiting.until, every=0.1)


def missing() -> str:
    """Why there can be no SLURM here; "" if there can."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    absent = [p for p in PROGRAMS if shutil.which(p, path=path) is None]
    if absent:
        return f"no {', '.join(absent)} here: as root, apt install {PACKAGES}"
    return ""


class Slurm:
    """One SLURM of some nodes, each of some CPUs.

    Parameters
    ----------
    folder : path
        Everything goes there.
    nodes, cpus : int
    memory : int
        Of each node, in MB.
    extra : str
        Further lines of slurm.conf.
    cgroup : str
        What is in cgroup.conf; without it tasks are in no cgroups.
    at : path, optional
        A folder that nodes are to see by different ways.
    shared : tuple of path
        What the nodes see there, in turn: mounts of one shared file system, each with caches
        of its own. Needs root.
    """

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int = 4,
        cpus: int = 4,
        memory: int = 8000,
        extra: str = "",
        cgroup: str = "",
        at: Path | None = None,
        shared: tuple[Path, ...] = (),
    ) -> None:
        self.folder = Path(folder).resolve()
        self.nodes, self.cpus, self.memory, self.extra = nodes, cpus, memory, extra
        self.cgroup = cgroup
        # Of cgroups there is one tree for all.
        self.prefix = f"n{os.getpid()}-" if cgroup else "n"
        self.at, self.shared = at, shared
        self.conf = self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to speak to this SLURM."""
        path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
        return {**os.environ, "SLURM_CONF": str(self.conf), "PATH": path}

    def call(self, *command: str, timeout: float = PATIENCE) -> str:
        """Run a command against this SLURM and return what it prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    # -- up

    def up(self) -> None:
        """Start everything, and wait until all nodes are idle."""
        for name in ("state", "spool"):  # of an earlier one, which had other ports
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("munge", "state", "spool", "log"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for name in (self.folder, self.folder / "munge"):
            name.chmod(0o755)
        munge = self.folder / "munge"
        key = munge / "key"
        key.unlink(missing_ok=True)
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self.call(
            "munged", "--force", f"--key-file={key}", f"--socket={munge / 's'}",
            f"--pid-file={munge / 'pid'}", f"--log-file={munge / 'log'}",
            f"--seed-file={munge / 'seed'}",
        )  # fmt: skip
        self.conf.write_text(self._config(free_ports(self.nodes + 1)))
        if self.cgroup:
            (self.folder / "cgroup.conf").write_text(self.cgroup)
        self.start_controller()
        for k in range(self.nodes):
            self.start_node(k + 1)
        self.wait_for_nodes()

    def start_controller(self) -> None:
        self.call("slurmctld", "-f", str(self.conf))

    def start_node(self, number: int) -> None:
        command = ["slurmd", "-f", str(self.conf), "-N", f"{self.prefix}{number}"]
        if self.at is not None:
            # In mounts of its own, which go when the last of its processes ends.
            mount = self.shared[(number - 1) % len(self.shared)]
            bind = 'mount --bind "$0" "$1" && shift && exec "$@"'
            private = ["unshare", "--mount", "--propagation", "private"]
            command = [*private, "sh", "-c", bind, str(mount), str(self.at), *command]
        self.call(*command)

    def wait_for_nodes(self) -> None:
        """Wait until every node is idle."""

        def idle() -> bool:
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                said = self.call("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", timeout=10)
                return len(set(said.split())) == self.nodes
            return False

        until(idle, f"all nodes of SLURM: see {self.folder / 'log'}")

    def save(self) -> None:
        """Let the controller save its jobs, and wait until it has.

        What it has not saved, some seconds, it forgets when it is killed, and the nodes do not.
        It saves when something changes: here a comment, which is then found in the file.
        """
        state, said = self.folder / "state" / "job_state", f"saved-{secrets.token_hex(4)}"
        jobs = set(self.call("squeue", "-h", "-o", "%A").split())
        for job in jobs:
            self.call("scontrol", "update", f"JobId={job}", f"Comment={said}")
        until(
            lambda: state.exists() and state.read_bytes().count(said.encode()) >= len(jobs),
            "the state to be saved",
        )

    def wait_for_answer(self) -> None:
        """Wait until the controller answers."""

        def answers() -> bool:
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                self.call("scontrol", "ping", timeout=10)
                self.call("squeue", "-h", timeout=10)
                return True
            return False

        until(answers, f"an answer of SLURM: see {self.folder / 'log'}")

    def empty(self) -> None:
        """Cancel all jobs and wait until none is left, and all nodes are as they were."""
        self.call("scancel", "--quiet", f"--user={os.geteuid()}")
        until(lambda: not self.call("squeue", "-h").strip(), "all jobs to end")
        self.wait_for_nodes()

    def _config(self, port: int) -> str:
        host = socket.gethostname().partition(".")[0]
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout
        d = self.folder
        return f"""\
ClusterName=t{port}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user.strip()}
SlurmdUser={user.strip()}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={d}/munge/s,cred_expire=5
ProctrackType=proctrack/linuxproc
{"" if self.cgroup else "TaskPlugin=task/none"}
JobAcctGatherType=jobacct_gather/linux
JobCompType=jobcomp/filetxt
JobCompLoc={d}/jobcomp
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
MpiDefault=none
SwitchType=switch/none
ReturnToService=1
StateSaveLocation={d}/state
SlurmdSpoolDir={d}/spool/%n
SlurmctldPidFile={d}/slurmctld.pid
SlurmdPidFile={d}/slurmd-%n.pid
SlurmctldLogFile={d}/log/slurmctld
SlurmdLogFile={d}/log/slurmd-%n
KillWait=2
SlurmdTimeout=10
JobRequeue=1
MinJobAge=300
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
{self.extra}
NodeName={self.prefix}[1-{self.nodes}] NodeHostname={host} NodeAddr=127.0.0.1 \
Port=[{port + 1}-{port + self.nodes}] CPUs={self.cpus} RealMemory={self.memory}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=500
PartitionName=short Nodes={self.prefix}1 MaxTime=30 State=UP DefMemPerCPU=500
"""

    # -- down

    def pid(self, daemon: str) -> int | None:
        """The process of a daemon such as ``slurmctld`` or ``slurmd-n1``; None if it is gone."""
        name = "munge/pid" if daemon == "munged" else f"{daemon}.pid"
        try:
            pid = int((self.folder / name).read_text())
            found = Path(f"/proc/{pid}/comm").read_text().strip()
        except (OSError, ValueError):
            return None
        return pid if found == daemon.partition("-")[0] else None

    def kill(self, daemon: str) -> None:
        """End a daemon at once, and wait for it."""
        pid = self.pid(daemon)
        if pid is not None:
            _kill([pid])

    def down(self) -> None:
        """End the daemons, and every process of a job of this SLURM."""
        daemons = [
            "slurmctld",
            *(f"slurmd-{self.prefix}{k + 1}" for k in range(self.nodes)),
            "munged",
        ]
        if self.pid("slurmctld") is not None:
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                self.call("scancel", "--quiet", f"--user={os.geteuid()}", timeout=5)
        pids = [pid for d in daemons if (pid := self.pid(d)) is not None]
        _kill([*pids, *self._steps(), *self._jobs()])

    def _jobs(self) -> Iterator[int]:
        """Processes that belong to a job of this SLURM, by their environment."""
        ours = f"SLURM_CONF={self.conf}".encode()
        for pid, environment in _read_all("environ"):
            variables = environment.split(b"\0")
            if ours in variables and any(v.startswith(b"SLURM_JOB_ID=") for v in variables):
                yield pid

    def _steps(self) -> Iterator[int]:
        """The slurmstepd of this SLURM: they hold files in its folder."""
        for pid, command in _read_all("cmdline"):
            if not command.startswith(b"slurmstepd"):
                continue
            with contextlib.suppress(OSError):
                held = {os.readlink(f) for f in Path(f"/proc/{pid}/fd").iterdir()}
                if any(name.startswith(f"{self.folder}/") for name in held):
                    yield pid


def _read_all(name: str) -> Iterator[tuple[int, bytes]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            with contextlib.suppress(OSError):
                yield int(folder.name), (folder / name).read_bytes()


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + PATIENCE
    while any(map(_lives, pids)) and time.monotonic() < end:
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def free_ports(count: int) -> int:
    """The first of some consecutive free ports, below those that the system gives away."""
    while True:
        first = random.randrange(20000, 32000)
        with contextlib.ExitStack() as stack:
            try:
                for port in range(first, first + count):
                    stack.enter_context(contextlib.closing(socket.socket())).bind(
                        ("127.0.0.1", port)
                    )
            except OSError:
                continue
            return first


def main() -> None:
    """``up FOLDER`` or ``down FOLDER``."""
    verb, folder = sys.argv[1:]
    slurm = Slurm(Path(folder))
    if verb == "up":
        if missing():
            sys.exit(missing())
        slurm.down()
        slurm.up()
        print(f"export SLURM_CONF={slurm.conf}")
    else:
        slurm.down()


if __name__ == "__main__":
    main()
