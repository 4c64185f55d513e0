"""What a failure of power may leave of a run: every file operation of it, and the states between.

A run is traced. Of its operations some were made safe by a later sync of the same file or folder.
Each of the others may have reached the disk or not, alone or with others, or in part. The model is
that of POSIX, and knows no order: what file systems promise beyond that is not relied on (after
Pillai et al., "All file systems are not created equal", OSDI 2014, and Mohan et al., "Finding
crash-consistency bugs with bounded black-box crash testing", OSDI 2018).
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

CALLS = (
    "open,openat,creat,mkdir,mkdirat,write,writev,pwrite64,lseek,ftruncate,fallocate,"
    "fsync,fdatasync,sync,syncfs,rename,renameat,renameat2,unlink,unlinkat"
)
# How many operations in a row are present, absent or torn in all combinations.
WINDOW = 3


@dataclass
class Operation:
    """A change of a file or of a name.

    Attributes
    ----------
    kind : str
        ``create``, ``mkdir``, ``write``, ``truncate``, ``rename``, ``unlink``.
    path : str
        Relative to the folder.
    inode : int
        The file that is meant, whatever its name is.
    to : str
        The new name.
    at : int
        Where bytes are written, or the new size.
    data : bytes
    safe : int
        From which operation on it is on the disk for sure.
    """

    kind: str
    path: str
    inode: int = -1
    to: str = ""
    at: int = 0
    data: bytes = b""
    safe: int = sys.maxsize


@dataclass
class Files:
    """Names, folders and contents."""

    folders: set[str] = field(default_factory=set)
    names: dict[str, int] = field(default_factory=dict)
    contents: dict[int, bytearray] = field(default_factory=dict)

    def apply(self, op: Operation, *, torn: bool = False) -> None:
        """Do one operation, or a part of a write."""
        if op.kind == "mkdir":
            self.folders.add(op.path)
        elif op.kind == "create":
            self.names[op.path] = op.inode
        elif op.kind == "rename":
            self.names.pop(op.path, None)
            self.names[op.to] = op.inode
        elif op.kind == "unlink":
            if self.names.get(op.path) == op.inode:
                del self.names[op.path]
        else:
            content = self.contents.setdefault(op.inode, bytearray())
            data = op.data[: len(op.data) // 2] if torn else op.data
            if op.kind == "truncate":
                del content[op.at :]
            content.extend(bytes(max(0, op.at + len(data) - len(content))))
            content[op.at : op.at + len(data)] = data

    def key(self) -> int:
        """Equal for equal states."""
        return hash((frozenset(self.folders),
                     frozenset((n, bytes(self.contents.get(i, b""))) for n, i in self.names.items())
                     ))  # fmt: skip

    def write(self, folder: Path) -> None:
        """Make these files; those whose folder is not there are not reached."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        there = {""}
        for path in sorted(self.folders):
            if os.path.dirname(path) in there:
                (folder / path).mkdir(mode=0o700)
                there.add(path)
        for path, inode in self.names.items():
            if os.path.dirname(path) in there:
                (folder / path).write_bytes(self.contents.get(inode, b""))


def traced(folder: Path, *argv: str, cwd: Path) -> list[Operation]:
    """Run a program; what it did to files below a folder, in order."""
    trace = cwd / "trace"
    subprocess.run(
        ["strace", "-f", "-y", "-qq", "-xx", "-s", "10000000", "-o", str(trace),
         "-e", f"trace={CALLS}", *argv],
        cwd=cwd, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return _Reader(folder).operations(trace.read_text())


def states(operations: list[Operation]) -> Iterator[Files]:
    """All states that a failure of power may leave, each once.

    The last operations before the failure are there in all combinations, with those before them
    or without. And where most is at stake, since a sync is about to come, so are any operations
    in a row, with all others.
    """
    seen: set[int] = set()
    syncs = {op.safe for op in operations} | {len(operations)}
    for now in range(len(operations) + 1):
        for after_sync in (False, True):
            done = operations[:now]
            safe = [op.safe < now or (after_sync and op.safe == now) for op in done]
            unsafe = [k for k in range(now) if not safe[k]]
            for files in _combined(done, safe, unsafe, everywhere=now in syncs and not after_sync):
                if (key := files.key()) not in seen:
                    seen.add(key)
                    yield files


def _combined(
    done: list[Operation], safe: list[bool], unsafe: list[int], *, everywhere: bool
) -> Iterator[Files]:
    last = max(0, len(unsafe) - WINDOW)
    for first in range(last + 1) if everywhere else [last]:
        window = unsafe[first : first + WINDOW]
        for others in ("present", "absent") if first == last else ("present",):
            how = ["present" if ok else others for ok in safe]
            for chosen in itertools.product(("absent", "present", "torn"), repeat=len(window)):
                for k, state in zip(window, chosen, strict=True):
                    how[k] = state
                files = Files()
                for op, state in zip(done, how, strict=True):
                    if state != "absent":
                        files.apply(op, torn=state == "torn")
                yield files


class _Reader:
    """Makes operations of a trace."""

    def __init__(self, folder: Path) -> None:
        self._root = f"{folder}/"
        self._ops: list[Operation] = []
        self._now = Files()
        self._at: dict[int, int] = {}  # where each descriptor is
        self._inodes = itertools.count()

    def operations(self, trace: str) -> list[Operation]:
        does = {
            "open": self._open, "openat": self._open, "creat": self._open, "mkdir": self._mkdir,
            "mkdirat": self._mkdir, "write": self._write, "writev": self._write,
            "pwrite64": self._pwrite, "lseek": self._lseek, "ftruncate": self._ftruncate,
            "fallocate": self._fallocate, "rename": self._rename, "renameat": self._rename,
            "renameat2": self._rename, "unlink": self._unlink, "unlinkat": self._unlink,
            "fsync": self._fsync, "fdatasync": self._fsync, "sync": self._sync,
            "syncfs": self._sync,
        }  # fmt: skip
        for name, text, result in _calls(trace):
            does[name](text, result)
        return self._ops

    # ---- calls

    def _open(self, text: str, result: str) -> None:
        fd, path = _descriptor(result)
        self._at[fd] = 0
        if not path.startswith(self._root) or "O_DIRECTORY" in text:
            return
        path = path.removeprefix(self._root)
        if "O_CREAT" in text and path not in self._now.names:
            self._do(Operation("create", path, next(self._inodes)))
        elif "O_TRUNC" in text:
            self._do(Operation("truncate", path, self._now.names[path]))
        if "O_APPEND" in text:
            self._at[fd] = len(self._content(path))

    def _mkdir(self, text: str, result: str) -> None:
        (path,) = self._paths(text)
        if path is not None:
            self._do(Operation("mkdir", path))

    def _write(self, text: str, result: str) -> None:
        fd, path = _descriptor(text)
        data = b"".join(map(_bytes, re.findall(r'"((?:\\x[0-9a-f]{2})*)"', text)))[: int(result)]
        at = self._at.get(fd, 0)
        self._at[fd] = at + len(data)
        self._put(path, at, data)

    def _pwrite(self, text: str, result: str) -> None:
        _, path = _descriptor(text)
        data = _bytes(re.search(r'"((?:\\x[0-9a-f]{2})*)"', text)[1])[: int(result)]
        self._put(path, int(text.rsplit(",", 1)[1]), data)

    def _lseek(self, text: str, result: str) -> None:
        self._at[_descriptor(text)[0]] = int(result)

    def _ftruncate(self, text: str, result: str) -> None:
        self._sized(_descriptor(text)[1], int(text.rsplit(",", 1)[1]), shrink=True)

    def _fallocate(self, text: str, result: str) -> None:
        *_, at, length = text.split(",")
        self._sized(_descriptor(text)[1], int(at) + int(length), shrink=False)

    def _rename(self, text: str, result: str) -> None:
        old, new = self._paths(text)
        if old is not None and new is not None and old in self._now.names:
            self._do(Operation("rename", old, self._now.names[old], to=new))

    def _unlink(self, text: str, result: str) -> None:
        (path,) = self._paths(text)
        if path is not None and path in self._now.names:
            self._do(Operation("unlink", path, self._now.names[path]))

    def _sync(self, text: str, result: str) -> None:
        self._make_safe(lambda op: True)

    def _fsync(self, text: str, result: str) -> None:
        _, path = _descriptor(text)
        if path.rstrip("/") == self._root.rstrip("/"):
            folder = ""
        elif path.startswith(self._root):
            folder = path.removeprefix(self._root)
        else:
            return
        inode = self._now.names.get(folder)
        if inode is not None:
            self._make_safe(lambda op: op.kind in ("write", "truncate") and op.inode == inode)
        else:
            self._make_safe(
                lambda op: (
                    op.kind not in ("write", "truncate")
                    and folder in (os.path.dirname(op.path), op.to and os.path.dirname(op.to))
                )
            )

    # ---- what they do

    def _do(self, op: Operation) -> None:
        self._ops.append(op)
        self._now.apply(op)

    def _put(self, path: str, at: int, data: bytes) -> None:
        if path.startswith(self._root):
            inode = self._now.names[path.removeprefix(self._root)]
            self._do(Operation("write", path.removeprefix(self._root), inode, at=at, data=data))

    def _sized(self, path: str, size: int, *, shrink: bool) -> None:
        if not path.startswith(self._root):
            return
        path = path.removeprefix(self._root)
        now = len(self._content(path))
        if size > now or (shrink and size < now):
            self._do(Operation("truncate", path, self._now.names[path], at=size))

    def _content(self, path: str) -> bytearray:
        return self._now.contents.get(self._now.names[path], bytearray())

    def _make_safe(self, which) -> None:
        for op in self._ops:
            if op.safe == sys.maxsize and which(op):
                op.safe = len(self._ops)

    def _paths(self, text: str) -> list[str | None]:
        named = re.findall(r'(?:<([^>]*)>, )?"((?:\\x[0-9a-f]{2})*)"', text)
        found = [os.path.join(*(os.fsdecode(_bytes(p)) for p in pair)) for pair in named]
        return [
            p.removeprefix(self._root).rstrip("/") if p.startswith(self._root) else None
            for p in found
        ]


def _calls(trace: str) -> Iterator[tuple[str, str, str]]:
    """Name, arguments and result of the calls that succeeded, in the order of their ends."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        pid, text = line.split(maxsplit=1)
        if text.endswith(" <unfinished ...>"):
            begun[pid] = text.removesuffix(" <unfinished ...>")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>", text):
            text = begun.pop(pid, "") + text[resumed.end() :]
        if found := re.fullmatch(r"(\w+)\((.*)\) += (\d.*)", text):
            yield found[1], found[2], found[3]


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _descriptor(text: str) -> tuple[int, str]:
    """The first descriptor in a text, and the path of its file."""
    found = re.match(r"(\d+)<([^>]*)>", text)
    if found is None:
        return -1, ""
    path = found[2]
    return int(found[1]), os.fsdecode(_bytes(path)) if path.startswith("\\x") else path
