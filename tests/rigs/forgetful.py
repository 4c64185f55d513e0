"""A file system that forgets what was not synced when the power is cut, as LazyFS does.

It is an ordinary folder, seen through FUSE. Beside it a process keeps, in its memory, what a disk
would hold: the bytes of a file as they were at the last sync of that file, the names of a folder
as they were at the last sync of that folder. When the power is cut, by command or before the Nth
operation, that is written to another folder, and all calls fail from then on (EIO).

The kernel keeps no names and attributes, and writes through at once. What is stored to a map of a
file arrives with the sync of the file. Locks are the kernel's own. ``syncfs`` does not reach a
FUSE file system; `as_local` brings it there.

Where a disk has kept more than it must, a cut says what (`KEPT`).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KIND = "forgetful"  # fuse.forgetful
COMMAND = "user.forgetful"
PAGE = 4096
HIDDEN = ".fuse_hidden"
# Nothing; all names, with files empty or as old as at their last sync; all bytes, but no names;
# and any of the names and pages, by the number that follows.
KEPT = ("nothing", "names", "bytes", "some:1")


def missing() -> str:
    """Why there can be no such file system here; "" if there can."""
    if importlib.util.find_spec("mfusepy") is None:
        return "no mfusepy here: pip install mfusepy"
    if ctypes.util.find_library("fuse3") is None or shutil.which("fusermount3") is None:
        return "no FUSE here: as root, apt install fuse3 libfuse3-3"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "no /dev/fuse here, or not for this user: as root, modprobe fuse"
    return ""


# ---------------------------------------------------------------------- for tests


class Forgetful:
    """A mount of it.

    Parameters
    ----------
    folder : path
        Everything goes there.

    Attributes
    ----------
    path : pathlib.Path
        Where files are written that may be forgotten.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).resolve()
        self.path = self.folder / "mount"
        self._process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Mount it, and wait until it is there."""
        # Here: `waiting` and its like are not for the process that serves the files.
        from tests.rigs.support import REPOSITORY
        from tests.rigs.waiting import until

        for name in ("mount", "live"):
            (self.folder / name).mkdir()
        with (self.folder / "log").open("wb") as log:
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "tests.rigs.forgetful", str(self.folder)], cwd=REPOSITORY,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "FUSE_LIBRARY_PATH": ctypes.util.find_library("fuse3") or ""},
            )  # fmt: skip
        until(lambda: self.path.is_mount() or process.poll() is not None, "the mount")
        if not self.path.is_mount():
            raise RuntimeError((self.folder / "log").read_text())

    def down(self) -> None:
        """Unmount it, whoever still holds something there."""
        if self._process is None:
            return
        subprocess.run(["fusermount3", "-u", "-z", str(self.path)], check=False)
        self._process.terminate()
        self._process.wait()
        self._process = None

    def begin(
        self,
        left: Path,
        *,
        before: Path | None = None,
        at: int = 0,
        kind: str = "any",
        kept: str = "nothing",
        journalled: bool = False,
    ) -> None:
        """Let the folder be empty, or what is on the disk already; count from now on.

        Nobody may hold files of before: a map that was not synced yet would be in the way.

        Parameters
        ----------
        left : path
            Where that is written which the cut leaves.
        before : path, optional
            A folder with what is there.
        at : int
            Cut the power before that operation; 0: by command alone.
        kind : str
            Which operations count: ``write``, ``sync``, ``name`` or ``any``.
        kept : str
            What the disk has got of what was not synced; see `KEPT`.
        journalled : bool
            Whether any sync brings all names to the disk, as on ext4 and XFS, which write one
            journal.
        """
        self._say("begin", left=str(left), before=before and str(before), at=at, kind=kind,
                  kept=kept, journalled=journalled)  # fmt: skip

    def cut(self) -> None:
        """Cut the power now, if that has not been done."""
        self._say("cut")

    def counts(self) -> dict[str, int]:
        """How many operations there were, by kind."""
        return dict(json.loads(os.getxattr(self.path, COMMAND)))

    def _say(self, what: str, **how: Any) -> None:
        os.setxattr(self.path, COMMAND, json.dumps({"do": what, **how}).encode())


def as_local() -> None:
    """Let this process take it for a file system of this machine alone."""
    import hpcio.files.bytes
    import hpcio.machine.filesystems as machine

    machine._LOCAL.add(f"fuse.{KIND}")
    hpcio.files.bytes._libc = _Libc()


class _Libc:
    """Brings ``syncfs`` to it."""

    def syncfs(self, fd: int) -> int:
        os.setxattr(fd, COMMAND, b'{"do": "sync"}')
        return 0


# ---------------------------------------------------------------------- the file system


@dataclass
class _Name:
    """A change of names: in some folders, these names are gone, and those mean a file."""

    gone: list[tuple[int, str, int]] = field(default_factory=list)
    new: list[tuple[int, str, int]] = field(default_factory=list)

    def concerns(self, folder: int) -> bool:
        return any(where == folder for where, _, _ in (*self.gone, *self.new))

    def apply(self, names: dict[int, dict[str, int]]) -> None:
        for folder, name, number in self.gone:
            if names.setdefault(folder, {}).get(name) == number:
                del names[folder][name]
        for folder, name, number in self.new:
            names.setdefault(folder, {})[name] = number


@dataclass
class _File:
    """A file or folder, kept open so that its number means it as long as anybody asks.

    Attributes
    ----------
    fd : int
    mode : int
        When it was made, or last synced.
    safe : bytes
        What the disk has.
    is_dirty : bool
        Whether it has changed since.
    """

    fd: int
    mode: int
    safe: bytes = b""
    is_dirty: bool = False

    def now(self) -> bytes:
        return Path(f"/proc/self/fd/{self.fd}").read_bytes()


class _Disk:
    """What is live, what is safe, and what is neither."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._begun = 0
        self.files: dict[int, _File] = {}
        self.begin(left="", before=None, at=0, kind="any", kept="nothing", journalled=False)

    def begin(
        self, *, left: str, before: str | None, at: int, kind: str, kept: str, journalled: bool
    ) -> None:
        for file in self.files.values():
            os.close(file.fd)
        if self._begun:
            shutil.rmtree(self.live)
        self._begun += 1
        self.live = self._folder / str(self._begun)
        if before is None:
            self.live.mkdir()
        else:
            shutil.copytree(before, self.live, symlinks=True)
        self._left, self._at, self._kind, self._kept = left, at, kind, kept
        self._journalled = journalled
        self.is_off = False
        self.counts: Counter[str] = Counter()
        self.files, self.names, self._pending = {}, {}, list[_Name]()
        self._adopt(self.live)

    def _adopt(self, path: Path) -> int:
        number = self.meet(path)
        file = self.files[number]
        if path.is_dir():
            self.names[number] = {name: self._adopt(path / name) for name in os.listdir(path)}
        else:
            file.safe = file.now()
        return number

    # ---- what happens

    def step(self, kind: str | None = None) -> None:
        """Before each operation: there may be no power any more."""
        if self.is_off:
            raise OSError(errno.EIO, "no power")
        if kind is None:
            return
        self.counts.update((kind, "any"))
        if self._at and self.counts[self._kind] == self._at:
            self.cut()
            raise OSError(errno.EIO, "no power")

    def meet(self, path: Path) -> int:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        there = os.fstat(fd)
        if there.st_ino in self.files:
            os.close(fd)
        else:
            self.files[there.st_ino] = _File(fd, there.st_mode)
        return there.st_ino

    def named(self, *, gone: tuple[Path, ...] = (), new: Path | None, number: int) -> None:
        """Names have changed."""
        self._pending.append(
            _Name(
                [(os.stat(path.parent).st_ino, path.name, number) for path in gone],
                [(os.stat(new.parent).st_ino, new.name, number)] if new else [],
            )
        )

    def sync_file(self, fd: int) -> None:
        file = self.files[os.fstat(fd).st_ino]
        file.mode = os.fstat(fd).st_mode
        if file.is_dirty:
            file.safe, file.is_dirty = file.now(), False
        if self._journalled:
            self._sync_names(lambda change: True)

    def sync_folder(self, fd: int) -> None:
        there = os.fstat(fd)
        folder = there.st_ino
        self.files[folder].mode = there.st_mode
        self._sync_names(lambda change: self._journalled or change.concerns(folder))

    def sync_all(self) -> None:
        self._sync_names(lambda change: True)
        for file in self.files.values():
            there = os.fstat(file.fd)
            file.mode = there.st_mode
            if file.is_dirty and there.st_nlink:
                file.safe, file.is_dirty = file.now(), False

    def _sync_names(self, safe: Any) -> None:
        for change in self._pending:
            if safe(change):
                change.apply(self.names)
        self._pending = [change for change in self._pending if not safe(change)]

    # ---- the end

    def cut(self) -> None:
        if self.is_off:
            return
        self.is_off = True
        kept, _, seed = self._kept.partition(":")
        chance = random.Random(f"{seed} {self.counts['any']}")
        for change in self._pending:
            if kept == "names" or (kept == "some" and chance.random() < 0.5):
                change.apply(self.names)
        self._write(os.stat(self.live).st_ino, Path(self._left), kept, chance)

    def _write(self, number: int, path: Path, kept: str, chance: random.Random) -> None:
        file = self.files[number]
        if stat.S_ISDIR(file.mode):
            path.mkdir(parents=True)
            for name, inside in sorted(self.names.get(number, {}).items()):
                self._write(inside, path / name, kept, chance)
        else:
            path.write_bytes(self._bytes_of(file, kept, chance))
        path.chmod(stat.S_IMODE(file.mode))

    @staticmethod
    def _bytes_of(file: _File, kept: str, chance: random.Random) -> bytes:
        if not file.is_dirty or kept in ("nothing", "names"):
            return file.safe
        now = file.now()
        if kept == "bytes":
            return now
        size = chance.choice((len(now), len(file.safe)))
        left = bytearray(size)
        for at in range(0, size, PAGE):
            page = chance.choice((now, file.safe))[at : min(at + PAGE, size)]
            left[at : at + len(page)] = page
        return bytes(left)


def _serve(folder: Path) -> None:
    import mfusepy

    disk = _Disk(folder / "live")

    class Operations(mfusepy.Operations):
        use_ns = True

        def init_with_config(self, connection: Any, config: Any) -> None:
            config.entry_timeout = config.attr_timeout = config.negative_timeout = 0
            config.use_ino = 1

        def _at(self, path: str) -> Path:
            return disk.live / path.lstrip("/")

        def _change(self, path: str, handle: Any) -> None:
            there = os.fstat(handle.fh) if handle else os.stat(self._at(path))
            disk.files[there.st_ino].is_dirty = True

        def _own(self, fd: int) -> int:
            # Handles of before the cut are stale for good.
            disk.step()
            if fd not in handles:
                raise OSError(errno.EIO, "no power")
            return fd

        def _close(self, fd: int) -> int:
            handles.pop(fd, None)
            os.close(fd)
            return 0

        # -- commands

        def setxattr(self, path: str, name: str, value: bytes, *_: Any) -> int:
            if name != COMMAND:
                raise OSError(errno.EOPNOTSUPP, name)
            said = json.loads(value)
            match said.pop("do"):
                case "begin":
                    handles.clear()
                    disk.begin(**said)
                case "cut":
                    disk.cut()
                case "sync":
                    disk.step("sync")
                    disk.sync_all()
            return 0

        def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
            if name != COMMAND:
                raise OSError(errno.ENODATA, name)
            return json.dumps(disk.counts).encode()

        # -- looking

        def getattr(self, path: str, handle: Any = None) -> dict[str, Any]:
            # The root can be asked without power, so that it can be told to begin.
            if path != "/":
                disk.step()
            there = os.fstat(self._own(handle.fh)) if handle else os.lstat(self._at(path))
            names = ("mode", "ino", "nlink", "uid", "gid", "size", "blocks")
            seen = {f"st_{name}": getattr(there, f"st_{name}") for name in names}
            times = {f"st_{t}time": getattr(there, f"st_{t}time_ns") for t in "amc"}
            return {**seen, **times}

        def opendir(self, path: str) -> int:
            disk.step()
            fd = os.open(self._at(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            handles[fd] = False
            return fd

        def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
            self._own(fh)
            with os.scandir(self._at(path)) as there:
                found = {each.name: each.stat(follow_symlinks=False) for each in there}
            found |= {name: os.stat(self._at(path)) for name in (".", "..")}
            return [
                (name, {"st_ino": each.st_ino, "st_mode": each.st_mode}, 0)
                for name, each in found.items()
                if not name.startswith(HIDDEN)
            ]

        def releasedir(self, path: str, fh: int) -> int:
            return self._close(fh)

        def readlink(self, path: str) -> str:
            disk.step()
            return os.readlink(self._at(path))

        def statfs(self, path: str) -> dict[str, int]:
            disk.step()
            there = os.statvfs(disk.live)
            return {n: getattr(there, n) for n in dir(there) if n.startswith("f_")}

        def access(self, path: str, amode: int) -> int:
            return 0  # default_permissions: the kernel looks

        # -- files

        def _opened(self, path: str, handle: Any, flags: int, mode: int = 0) -> int:
            ours = flags & ~(os.O_APPEND | os.O_DIRECT | os.O_SYNC | os.O_DSYNC | os.O_NOFOLLOW)
            handle.fh = os.open(self._at(path), ours | os.O_CLOEXEC, mode)
            handles[handle.fh] = bool(flags & (os.O_SYNC | os.O_DSYNC))
            return 0

        def open(self, path: str, handle: Any) -> int:
            disk.step("write" if handle.flags & os.O_TRUNC else None)
            if handle.flags & os.O_TRUNC:
                self._change(path, None)
            return self._opened(path, handle, handle.flags)

        def create(self, path: str, mode: int, handle: Any = None) -> int:
            disk.step("name")
            self._opened(path, handle, handle.flags | os.O_CREAT, mode)
            disk.named(new=self._at(path), number=disk.meet(self._at(path)))
            return 0

        def read(self, path: str, size: int, offset: int, handle: Any) -> bytes:
            return os.pread(self._own(handle.fh), size, offset)

        def write(self, path: str, data: bytes, offset: int, handle: Any) -> int:
            fd = self._own(handle.fh)
            disk.step("write")
            self._change(path, handle)
            written = os.pwrite(fd, data, offset)
            if handles[fd]:
                disk.step("sync")
                disk.sync_file(fd)
            return written

        def truncate(self, path: str, length: int, handle: Any = None) -> int:
            disk.step("write")
            self._change(path, handle)
            os.truncate(self._own(handle.fh) if handle else self._at(path), length)
            return 0

        def fallocate(self, path: str, mode: int, offset: int, size: int, handle: Any) -> int:
            fd = self._own(handle.fh)
            if mode:
                raise OSError(errno.EOPNOTSUPP, "fallocate")
            disk.step("write")
            self._change(path, handle)
            os.posix_fallocate(fd, offset, size)
            return 0

        def flush(self, path: str, handle: Any) -> int:
            return 0

        def release(self, path: str, handle: Any) -> int:
            return self._close(handle.fh)

        def fsync(self, path: str, datasync: int, handle: Any) -> int:
            fd = self._own(handle.fh)
            disk.step("sync")
            disk.sync_file(fd)
            return 0

        def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
            fd = self._own(fh)
            disk.step("sync")
            disk.sync_folder(fd)
            return 0

        # -- names

        def mkdir(self, path: str, mode: int) -> int:
            disk.step("name")
            os.mkdir(self._at(path), mode)
            disk.named(new=self._at(path), number=disk.meet(self._at(path)))
            return 0

        def unlink(self, path: str) -> int:
            if os.path.basename(path).startswith(HIDDEN):  # its last user has closed it
                with suppress(FileNotFoundError):
                    os.unlink(self._at(path))
                return 0
            disk.step("name")
            number = os.lstat(self._at(path)).st_ino
            os.unlink(self._at(path))
            disk.named(gone=(self._at(path),), new=None, number=number)
            return 0

        def rmdir(self, path: str) -> int:
            disk.step("name")
            number = os.lstat(self._at(path)).st_ino
            hidden = [n for n in os.listdir(self._at(path)) if n.startswith(HIDDEN)]
            for name in hidden:  # nobody can reach them any more
                os.unlink(self._at(path) / name)
            os.rmdir(self._at(path))
            disk.named(gone=(self._at(path),), new=None, number=number)
            return 0

        def rename(self, old: str, new: str) -> int:
            disk.step("name")
            number = os.lstat(self._at(old)).st_ino
            os.rename(self._at(old), self._at(new))
            # An open file that is unlinked, or replaced, is renamed by libfuse first.
            hides = os.path.basename(new).startswith(HIDDEN)
            disk.named(gone=(self._at(old),), new=None if hides else self._at(new), number=number)
            return 0

        def link(self, target: str, source: str) -> int:
            disk.step("name")
            os.link(self._at(source), self._at(target))
            disk.named(new=self._at(target), number=os.lstat(self._at(target)).st_ino)
            return 0

        # -- attributes; they are safe with the file

        def chmod(self, path: str, mode: int) -> int:
            disk.step()
            os.chmod(self._at(path), mode)
            return 0

        def chown(self, path: str, uid: int, gid: int) -> int:
            disk.step()
            os.chown(self._at(path), uid, gid)
            return 0

        def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
            disk.step()
            os.utime(self._at(path), ns=times)
            return 0

    # Descriptors that are open, and whether each write is synced.
    handles: dict[int, bool] = {}
    mfusepy.FUSE(
        Operations(), str(folder / "mount"), raw_fi=True, foreground=True, nothreads=True,
        subtype=KIND, fsname=KIND, default_permissions=True,
    )  # fmt: skip


if __name__ == "__main__":
    # Tests that are killed leave no mount: libfuse unmounts by this signal.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    os.umask(0)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _serve(Path(sys.argv[1]))
