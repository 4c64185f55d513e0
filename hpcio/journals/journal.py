"""The journal of one attempt: which blocks are done, where they lie, and their checksums.

Each attempt has one file, and one process appends to it. The file begins with a header of
`HEADER` bytes (magic, JSON, and a hash of both). Records of `RECORD.itemsize` bytes
follow. Each record contains a hash of itself, seeded with the plan's digest, so that a
torn tail and records of another plan are recognized and cut.

Kinds of record:

========  ====================================================================
FILE      a source file was opened; `offset` is where its data begin in bytes,
          `nbytes` the size of its dataset
DONE      a block was written: `offset` in bytes within the dataset of `file`
FAILED    a block failed; its traceback lies at `offset` in the notes, `file` is the
          place of its cause in `CAUSES`
DETAILS   a block's details lie at `offset` in the notes
SYNC      the first `offset` records are safe against a crash of the machine
LOST      writing to the disk failed: what no SYNC covers never counts
HELD      a block was computed; its DONE follows when its bytes have left the process
VOID      the result of a block is not where the attempt named in the notes has put it
PLACES    which blocks a source file has room for lies at `offset` in the notes: their runs,
          as pairs of ``<i8``; only of several results of a call
========  ====================================================================
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from hpcio.errors import Cause, PlanError, as_read_error
from hpcio.files import NewNames, check_types, checksum, read_own, write_at
from hpcio.machine import is_local, read_whole

__all__ = [
    "CAUSES",
    "DETAILS",
    "DONE",
    "FAILED",
    "FILE",
    "HELD",
    "LOST",
    "PLACES",
    "RECORD",
    "SYNC",
    "VOID",
    "Journal",
    "JournalRecords",
    "read_log",
]

FILE, DONE, FAILED, DETAILS, SYNC, LOST, HELD, VOID, PLACES = range(1, 10)

# Why a block has failed; see `hpcio.errors.Failure`. They may not change their places.
CAUSES: tuple[Cause, ...] = ("raised", "memory", "time", "died")

MAGIC = b"HPCIOJ01"
HEADER = 1024
RECORD = np.dtype(
    [
        ("check", "<u8"),
        ("kind", "<u4"),
        ("file", "<u4"),
        ("block", "<i8"),
        ("offset", "<i8"),
        ("checksum", "<u8"),
        ("nbytes", "<i8"),
        ("end", "<f8"),  # seconds since 1970, when the block was journalled
        ("compute", "<f4"),  # seconds in the compute function
        ("io", "<f4"),  # seconds reading and writing
    ]
)
_BODY = struct.Struct("<IIqqQqdff")
# The same record as what its checksum is of.
_SUMMED = np.dtype([("check", "<u8"), ("body", f"V{_BODY.size}")])
_CHECK = struct.Struct("<Q")

# A journal that is mapped into memory grows by so many bytes at a time.
_ROOM = 1024 * RECORD.itemsize


def _seed(digest: str) -> int:
    return int(digest[:16], 16)


def _write(fd: int, data: bytes) -> None:
    """Append all of `data`: `os.write` may stop before its end."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def _head(header: Mapping[str, Any], versions: Mapping[str, str]) -> bytes:
    """The header of a journal, with as many of the versions as there is room for."""
    shown = {name: version[:64] for name, version in versions.items()}
    while True:
        left = len(versions) - len(shown)
        said = {**shown, "...": f"{left} more are not as planned"} if left else shown
        head = MAGIC + json.dumps({**header, "versions": said} if shown else header).encode()
        if not shown or len(head) <= HEADER - _CHECK.size:
            return head
        shown.popitem()


class Journal:
    """Append records to the journal of one attempt.

    Parameters
    ----------
    folder : path
        The journals of the run; the journal is ``NAME.jnl`` in it, and the notes
        (tracebacks and details) ``NAME.notes``.
    name : str
        Name of the attempt.
    digest : str
        Digest of the plan, hexadecimal.
    header : mapping
        What the attempt says of itself: host, process, label, start.
    versions : mapping of str to str, optional
        Those that it computes with; as many as the header has room for.
    mode : int
        Who may read journal and notes, before the umask.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        name: str,
        digest: str,
        header: Mapping[str, Any],
        *,
        versions: Mapping[str, str] | None = None,
        mode: int = 0o600,
    ) -> None:
        self.path = Path(folder, f"{name}.jnl")
        self._seed = _seed(digest)
        head = _head({**header, "name": name, "plan": digest}, versions or {})
        if len(head) > HEADER - _CHECK.size:
            raise PlanError(f"The name of attempt '{name}' is too long. Use a shorter label.")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._mode = mode
        self._fd = os.open(self.path, flags, mode)
        head = head.ljust(HEADER - _CHECK.size, b" ")
        try:
            _write(self._fd, head + _CHECK.pack(checksum(head)))
        except BaseException:
            os.close(self._fd)
            raise
        self._record = bytearray(RECORD.itemsize)
        self._body = memoryview(self._record)[_CHECK.size :]
        # What is stored to a map of the file outlives the process, as what is written does, at a
        # third of the cost. On network file systems only writing is known to be safe.
        self._map: mmap.mmap | None = None
        self._end = HEADER
        # On a shared file system (NFS), other nodes see a record only after a sync.
        self.shared = not is_local(folder)
        if not self.shared:
            os.posix_fallocate(self._fd, 0, HEADER + _ROOM)
            self._map = mmap.mmap(self._fd, HEADER + _ROOM)
        self._notes: int | None = None
        self._noted = 0
        self._names = NewNames()
        self._names.add(self.path.parent)

    def append(
        self,
        kind: int,
        block: int = -1,
        *,
        file: int = 0,
        offset: int = 0,
        check: int = 0,
        nbytes: int = 0,
        compute: float = 0.0,
        io: float = 0.0,
    ) -> None:
        """Add one record, which outlives this process from now on."""
        _BODY.pack_into(
            self._record, _CHECK.size, kind, file, block, offset, check, nbytes, time.time(),
            compute, io,
        )  # fmt: skip
        _CHECK.pack_into(self._record, 0, checksum(self._body, self._seed))
        end = self._end
        if self._map is None:
            write_at(self._fd, self._record, end)
        else:
            if end == len(self._map):
                self._grow()
            self._map[end : end + RECORD.itemsize] = self._record
        self._end = end + RECORD.itemsize

    def _grow(self) -> None:
        assert self._map is not None
        size = len(self._map) + _ROOM
        # Reserve room first: storing to a page for which the disk has no room would be fatal.
        os.posix_fallocate(self._fd, 0, size)
        self._map.resize(size)

    def note_failure(self, block: int, text: str, cause: Cause = "raised") -> None:
        """Journal a block as failed, with its traceback."""
        self.note(FAILED, block, text.encode(), file=CAUSES.index(cause))

    def note(self, kind: int, block: int, text: bytes, *, file: int = 0) -> None:
        """Keep `text` beside the journal, then a record of `kind` that points to it."""
        if self._notes is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            self._notes = os.open(self.path.with_suffix(".notes"), flags, self._mode)
            self._names.add(self.path.parent)
        _write(self._notes, text)
        self.append(
            kind, block, file=file, offset=self._noted, check=checksum(text), nbytes=len(text)
        )
        self._noted += len(text)

    @property
    def count(self) -> int:
        """How many records there are."""
        return (self._end - HEADER) // RECORD.itemsize

    def sync_notes(self) -> None:
        """Make the notes so far safe; any thread may call it."""
        if self._notes is not None:
            os.fsync(self._notes)

    def sync(self) -> None:
        """Make the journal itself safe."""
        os.fsync(self._fd)  # pages of the map included
        self._names.take()()

    def close(self) -> None:
        """Close the files; what was appended stays."""
        if self._map is not None:
            self._map.close()
            os.ftruncate(self._fd, self._end)
        os.close(self._fd)
        if self._notes is not None:
            os.close(self._notes)


@dataclass(frozen=True, eq=False)
class JournalRecords:
    """What the journal of one attempt says.

    Attributes
    ----------
    path : pathlib.Path
    header : dict
        What the attempt said of itself: host, process, label, start.
    records : numpy.ndarray of RECORD, shape (n,)
        The valid records, in the order in which they were written.
    safe : int
        The first `safe` records are covered by a SYNC.
    """

    path: Path
    header: dict[str, Any]
    records: np.ndarray
    safe: int = 0
    _notes: list[bytes] = field(default_factory=list, repr=False)

    @property
    def attempt(self) -> str:
        """The name of the attempt."""
        return str(self.header["name"])

    @property
    def plan(self) -> str:
        """The digest of the plan that the attempt has worked on."""
        return str(self.header["plan"])

    def cause(self, record: np.void) -> Cause:
        """Why the block of a FAILED record has failed."""
        place = int(record["file"])
        return CAUSES[place] if place < len(CAUSES) else "raised"

    def note(self, record: np.void) -> bytes:
        """The text that a FAILED or DETAILS record points to, or b'' if it was lost."""
        if not self._notes:
            try:
                self._notes.append(read_whole(self.path.with_suffix(".notes")))
            except FileNotFoundError:
                self._notes.append(b"")
            except OSError as error:
                raise as_read_error(error, self.path.with_suffix(".notes")) from error
        start = int(record["offset"])
        text = self._notes[0][start : start + int(record["nbytes"])]
        return text if checksum(text) == int(record["checksum"]) else b""


@dataclass(frozen=True)
class _Header:
    """What every attempt says of itself."""

    name: str
    plan: str
    label: str
    run_id: str
    host: str
    pid: int
    user: str
    start: float
    versions: Mapping[str, str] | None


def _sensible(records: np.ndarray) -> int:
    """How many records, from the first on, have numbers that a run can have written."""
    wrong = (records["block"] < -1) | (records["offset"] < 0) | (records["nbytes"] < 0)
    for name in ("end", "compute", "io"):
        wrong |= ~np.isfinite(records[name])
    return int(np.argmax(np.append(wrong, [True])))


def read_log(path: str | os.PathLike[str], *digests: str) -> JournalRecords | None:
    """Read a journal of one of some plans and cut a torn tail; None if its header is damaged.

    Nothing in such a journal counts, and its blocks are done again.

    Raises
    ------
    PlanError
        If the journal is of another plan or user, or others may write it.
    SourceError
        If it cannot be read.
    """
    try:
        said = read_own(Path(path))
    except OSError as error:
        raise as_read_error(error, path) from error
    head = said[:HEADER]
    if len(head) < HEADER or _CHECK.unpack(head[-_CHECK.size :]) != (
        checksum(head[: -_CHECK.size]),
    ):
        return None
    if not head.startswith(MAGIC):
        raise PlanError(f"'{path}' is no journal of hpcio. Remove it from the run directory.")
    try:
        header = json.loads(head[len(MAGIC) : -_CHECK.size])
        # Journals of earlier states say nothing of versions.
        whole = {"versions": None, **header}
        check_types(_Header(*(whole[name] for name in _Header.__annotations__)))
        if header["name"] != Path(path).stem:  # files are found by it
            raise ValueError("it is the journal of another attempt")
    except (ValueError, TypeError, KeyError, RecursionError):
        raise PlanError(
            f"'{path}' is no journal of hpcio. Remove it from the run directory."
        ) from None
    if header["plan"] not in digests:
        raise PlanError(
            f"The journal '{path}' belongs to another plan. "
            "Start over (in the shell: hpcio run --fresh ...), or choose another output."
        )
    records = np.zeros(0, RECORD)
    if len(said) >= HEADER + RECORD.itemsize:  # no copy of what may be much
        records = np.frombuffer(said, RECORD, (len(said) - HEADER) // RECORD.itemsize, HEADER)
    bodies = map(checksum, records.view(_SUMMED)["body"], repeat(_seed(header["plan"])))
    found = np.fromiter(bodies, np.uint64, records.size)
    records = records[: np.argmax(np.append(found != records["check"], [True]))]
    records = records[: _sensible(records)]
    safe = min(int(records["offset"][records["kind"] == SYNC].max(initial=0)), records.size)
    if (records["kind"] == LOST).any():
        records = records[:safe]
    return JournalRecords(Path(path), header, records, safe)
