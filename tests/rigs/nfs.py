"""The kernel's own NFS, a server and three clients, without touching this machine's kernel.

A guest of QEMU, an ordinary process, takes this machine's file tree as its own, so that it has the
same Python and the same code. In it run an NFS server, and three clients in network namespaces of
their own: each has caches of its own, as each node of a cluster has. Where the processor does not
help, QEMU translates what the guest runs, which then takes ten times as long.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

from tests.rigs.gluster import SBIN, may_mount
from tests.rigs.slurm import until
from tests.rigs.waiting import PATIENCE

QEMU = "qemu-system-x86_64"
PROGRAMS = (QEMU, "rpc.nfsd", "mount.nfs", "rpcbind", "modprobe", "ip", "mkfs.ext4")
PACKAGES = "qemu-system-x86 nfs-kernel-server nfs-common rpcbind kmod iproute2 e2fsprogs"
# The folder of the guest's kernel; see `.ci/guest-kernel`.
KERNEL = "HPCIO_GUEST_KERNEL"

CLIENTS = ("a", "b", "c")
VERSIONS = ("4.2", "3")

# The first process of the guest. What it changes lies in memory, or in its folder.
_INIT = r"""#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
for memory in /run /var/lib/nfs /mnt; do mount -t tmpfs tmpfs $memory; done
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/shm /dev/pts /mnt/disk /mnt/shared /mnt/memory
mount -t tmpfs tmpfs /dev/shm
# Of the tree it keeps what it has read; this folder changes from both sides.
mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576,cache=none own FOLDER
# slurmd asks for these two.
mount -t tmpfs tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/{freezer,systemd}
mount -t cgroup -o freezer cgroup /sys/fs/cgroup/freezer
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
cd FOLDER
exec >guest.log 2>&1
set -x
hostname server
ip link set lo up
printf '#!/bin/sh\nexec modprobe -d %q/modules "$@"\n' FOLDER >modprobe
chmod +x modprobe
echo FOLDER/modprobe >/proc/sys/kernel/modprobe
for module in ext4 nfsd nfsv3 nfsv4 veth; do ./modprobe $module; done
# After a start, a server gives no locks for this long.
echo 3 >/proc/sys/fs/nfs/nlm_timeout
echo 3 >/proc/sys/fs/nfs/nlm_grace_period

mkfs.ext4 -q -F /dev/vda
mount /dev/vda /mnt/disk
mkdir -p /run/{rpcbind,lock,netns}
mkdir -p /var/lib/nfs/{sm,sm.bak,v4recovery,rpc_pipefs,nfsdcltrack,nfsdcld}
touch /var/lib/nfs/{etab,rmtab,state,export-lock}
rpcbind -w
mount -t nfsd nfsd /proc/fs/nfsd
mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs
exportfs -o rw,sync,no_root_squash,fsid=0,no_subtree_check,insecure '*:/mnt/disk'
echo 10 >/proc/fs/nfsd/nfsv4leasetime
echo 10 >/proc/fs/nfsd/nfsv4gracetime
rpc.statd --no-notify
rpc.nfsd 8
rpc.mountd

mount_as() { # CLIENT SERVER VERSION EXPORT MORE
    mkdir -p /mnt/$3/$1
    nsenter --net=/run/netns/$1 unshare --uts sh -c \
        "hostname node-$1; exec mount.nfs -o vers=$3,hard,proto=tcp$5 $2:$4 /mnt/$3/$1"
}
number=0
for client in CLIENTS; do
    number=$((number + 1))
    net=10.9.$number
    ip netns add $client
    ip link add v$client type veth peer name e0 netns $client
    ip addr add $net.1/24 dev v$client
    ip link set v$client up
    ip -n $client addr add $net.2/24 dev e0
    ip -n $client link set e0 up
    ip -n $client link set lo up
    mount_as $client $net.1 4.2 / && mount_as $client $net.1 3 /mnt/disk ,nolock || exit 1
done
set +x
touch up
while [ ! -e jobs/stop ]; do
    for job in jobs/*.job; do
        [ -e "$job" ] || continue
        mv "$job" "$job.taken"
        (
            bash "$job.taken" >"$job.out" 2>&1
            echo $? >"$job.status.part"
            mv "$job.status.part" "$job.status"
        ) &
    done
    sleep 0.1
done
sync
echo o >/proc/sysrq-trigger
sleep 5
"""


def missing() -> str:
    """Why there can be no NFS here; "" if there can."""
    absent = [p for p in PROGRAMS if shutil.which(p, path=SBIN) is None]
    if absent:
        return f"no {', '.join(absent)} here: as root, apt install {PACKAGES}"
    if not os.environ.get(KERNEL):
        return f"no kernel for a guest: {KERNEL}=$(.ci/guest-kernel)"
    if not may_mount():
        return "a guest with this machine's file tree needs to be root, which this process is not"
    return ""


def _accelerator() -> str:
    """What QEMU runs the guest by: the processor, or a translation of what the guest does."""
    helps = {"vmx", "svm"} & set(Path("/proc/cpuinfo").read_text().split())
    return "kvm" if helps and os.access("/dev/kvm", os.W_OK) else "tcg,thread=multi"


def _shared(name: str, folder: Path) -> tuple[str, ...]:
    """Options of QEMU by which the guest can mount a folder, of whatever file systems."""
    shared = f"local,id={name},path={_quoted(folder)},security_model=none,multidevs=remap"
    return "-fsdev", shared, "-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"


def _quoted(path: Path) -> str:
    """A path as part of an option of QEMU."""
    return str(path).replace(",", ",,")


class Job:
    """A command at work in the guest."""

    def __init__(self, nfs: Nfs, script: str) -> None:
        self._nfs = nfs
        nfs.jobs += 1
        self._file = nfs.folder / "jobs" / f"{nfs.jobs}.job"
        part = self._file.with_suffix(".part")
        part.write_text(script)
        part.rename(self._file)

    def result(self, seconds: float = PATIENCE) -> str:
        """What it prints; it must end well."""
        status, out = self.ended(seconds)
        if status:
            raise RuntimeError(f"exit status {status}:\n{out}")
        return out

    def ended(self, seconds: float = PATIENCE) -> tuple[int, str]:
        """Its exit status, 128 and more for a signal, and what it prints."""
        status = Path(f"{self._file}.status")
        until(lambda: status.exists() or not self._nfs.lives(), "a command", seconds=seconds)
        if not status.exists():
            raise RuntimeError(f"the guest has ended: see the logs in {self._nfs.folder}")
        out = Path(f"{self._file}.out").read_text(errors="replace")
        return int(status.read_text()), out


class Nfs:
    """One server, and three clients of NFS 4.2 and of NFS 3.

    Parameters
    ----------
    folder : path
        Everything goes there. It must not lie in /dev, /mnt or /run, where the guest has its own.

    Attributes
    ----------
    at : pathlib.Path
        Where commands see the shared folder.
    memory : pathlib.Path
        A folder in the guest's memory, the same for all its commands.
    """

    at, memory = Path("/mnt/shared"), Path("/mnt/memory")

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).resolve()
        self.jobs = 0
        self._guest: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Start the guest, and wait until all clients have mounted."""
        for name in ("jobs", "modules/lib"):
            (self.folder / name).mkdir(parents=True)
        kernel = Path(os.environ[KERNEL])
        (self.folder / "modules/lib/modules").symlink_to(kernel / "lib/modules")
        script = _INIT.replace("FOLDER", shlex.quote(str(self.folder)))
        init = self.folder / "init"
        init.write_text(script.replace("CLIENTS", " ".join(CLIENTS)))
        init.chmod(0o755)
        with (self.folder / "disk").open("wb") as disk:
            disk.truncate(4 << 30)
        command = [
            shutil.which(QEMU, path=SBIN) or "", "-accel", _accelerator(), "-cpu", "max",
            "-smp", "2", "-m", "3G", "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio",
            "-kernel", str(kernel / "vmlinuz"), "-initrd", str(kernel / "initrd"),
            "-append", f"console=ttyS0 quiet panic=-1 hand={init}",
            "-drive", f"file={_quoted(self.folder / 'disk')},if=virtio,format=raw,cache=unsafe",
            *_shared("tree", Path("/")), *_shared("own", self.folder), "-device", "virtio-rng-pci",
        ]  # fmt: skip
        with (self.folder / "console.log").open("wb") as console:
            self._guest = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                start_new_session=True,
            )  # fmt: skip
        until(lambda: self._is_up() or not self.lives(), "the guest")
        if not self._is_up():
            raise RuntimeError(f"the guest did not come up: see the logs in {self.folder}")

    def _is_up(self) -> bool:
        return (self.folder / "up").exists()

    def lives(self) -> bool:
        """Whether the guest is there."""
        return self._guest is not None and self._guest.poll() is None

    def start(self, *command: str, client: str, version: str = "4.2", **variables: str) -> Job:
        """Begin a command in the guest, which sees the shared folder as one of the clients."""
        variables = {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(self.memory), **variables}
        script = (
            f"hostname node-{client}\n"
            f"mount --bind /mnt/{version}/{client} {self.at}\n"
            f"cd {self.at}\n"
            + "".join(f"export {k}={shlex.quote(v)}\n" for k, v in variables.items())
            + f"exec {shlex.join(command)}\n"
        )
        private = "unshare --mount --uts --propagation private bash -c"
        return Job(self, f"{private} {shlex.quote(script)}\n")

    def down(self) -> None:
        """End the guest; nothing of it stays but its logs."""
        if self._guest is None:
            return
        (self.folder / "jobs" / "stop").touch()
        with contextlib.suppress(AssertionError):
            until(lambda: not self.lives(), "the end of the guest")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._guest.pid, signal.SIGKILL)
        self._guest.wait()
        self._guest = None
        (self.folder / "disk").unlink()
