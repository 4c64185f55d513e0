"""The state of a run at any time, from its journals: how far, by whom, how fast.

Schedulers are not known here. Packages that put work into a queue tell of it by the entry-point
group ``hpcio.status``: a function of a plan that returns a `Queue`, or None if nothing of the
plan was ever queued.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hpcio.errors import HpcioError
from hpcio.journals.journal import DONE, FAILED, HEADER, LOST, MAGIC, RECORD, SYNC, Log
from hpcio.journals.ledger import Failure, Follower, read_logs
from hpcio.machine.filesystems import is_local, look_again
from hpcio.planning.plan import Plan
from hpcio.results.opening import open as open_result
from hpcio.words import natural

__all__ = [
    "Queue",
    "Status",
    "Watcher",
    "WorkerStatus",
    "as_json",
    "queues",
    "status",
    "working",
]

# What `as_json` gives is described in docs/guide.md; a change that breaks a reader is a new one.
FORMAT = 1
# Speed is that of the last so many seconds, or of the last so many blocks if those took longer.
RECENT, FEWEST = 60.0, 20
# So many seconds in which no block was at work are a pause, and count for no speed.
PAUSE = 30.0


class Queue(Protocol):
    """What a scheduler says of the jobs of a run.

    Attributes
    ----------
    line : str
        All of it in one line.
    states : mapping of str to str
        By label of a worker, also of those that have no journal yet: a word or two. Others
        than ``running``, ``pending`` and ``completed`` are shown first.
    alive : int or None
        Jobs that wait or run; None if that is not known now.
    """

    @property
    def line(self) -> str: ...  # noqa: D102

    @property
    def states(self) -> Mapping[str, str]: ...  # noqa: D102

    @property
    def alive(self) -> int | None: ...  # noqa: D102

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""


@dataclass(frozen=True)
class WorkerStatus:
    """What one worker, or array task, has done in all of its attempts.

    Attributes
    ----------
    label, host : str
    attempts : int
        Processes that it has had: it was started again, or the run was resumed.
    done : int
        Blocks, those included that others did too.
    failed : int
        Blocks that failed here, and that nobody has done since.
    blocks_per_second, bytes_per_second : float
        Of its own time; bytes are those read and written.
    seconds_since : float
        Since its last record, by the clocks of its machine and of this one.
    first, last : float
        When it began, and when it wrote its last record, in seconds since 1970.
    """

    label: str
    host: str
    attempts: int
    done: int
    failed: int
    blocks_per_second: float
    bytes_per_second: float
    seconds_since: float
    first: float
    last: float

    @property
    def seconds(self) -> float:
        """From its begin to its last record, pauses included."""
        return self.last - self.first


@dataclass(frozen=True)
class Status:
    """The state of a run, from its journals.

    Attributes
    ----------
    out : str
    published : bool
        Whether the result is there.
    blocks, done, failed : int
    attempts : int
        How many processes have worked on it.
    function : str
    pickled : bool
        Whether the function is kept as a pickle, since it cannot be imported by name.
    failures : tuple of Failure
    nbytes, nbytes_left : int
        Bytes read and written for the blocks that are done, and yet to be for those that nobody
        has tried to the end. Zero for a result that was made one file.
    speed : float
        Blocks in a second: lately while there are blocks left, else of all the work, pauses
        left out. Zero if nothing is done.
    bytes_per_second : float
        Read and written, likewise.
    seconds_left : float or None
        At that speed; None if nothing is known.
    session : bool or None
        Whether a process that runs the plan is alive and not waiting for a queue: True if it is
        on this machine, None if it may be on another one.
    since : float
        When the present stretch of work began, in seconds since 1970: after the last pause.
    workers : tuple of WorkerStatus
        In the order of their labels, w2 before w10.
    """

    out: str
    published: bool
    blocks: int
    done: int
    failed: int
    attempts: int
    function: str
    pickled: bool
    failures: tuple[Failure, ...]
    nbytes: int = 0
    nbytes_left: int = 0
    speed: float = 0.0
    bytes_per_second: float = 0.0
    seconds_left: float | None = None
    session: bool | None = False
    since: float = 0.0
    workers: tuple[WorkerStatus, ...] = ()

    @property
    def left(self) -> int:
        """Blocks that nobody has tried to the end yet."""
        return self.blocks - self.done - self.failed


def status(out: str) -> Status:
    """Read the state of a run; nothing is unpickled and nothing written.

    Parameters
    ----------
    out : str
        The result.

    Raises
    ------
    PlanError
        If there is no run of that result.

    Examples
    --------
    >>> state = status("out.h5")  # doctest: +SKIP
    >>> state.done, state.left, state.seconds_left  # doctest: +SKIP
    (1200, 800, 64.2)
    """
    if not Path(f"{out}.run").exists() and Path(out).exists():
        return _of_one_file(out)
    plan = Plan.load(out)
    # First: whoever ends after this has written all that is read then.
    session = _session(plan)
    tally = _Tally(plan)
    for log in read_logs(plan):
        tally.add(log)
    return tally.status(session=session)


def _of_one_file(out: str) -> Status:
    """The state that a result keeps, after it was made one file."""
    with open_result(out) as f:
        state = f["hpcio/state"][()]
        function = str(f.attrs["function"])
    done = int((state == DONE).sum())
    return Status(
        out=str(Path(out).absolute()), published=True, blocks=state.size, done=done,
        failed=state.size - done, attempts=0, function=function, pickled=False, failures=(),
        seconds_left=0.0,
    )  # fmt: skip


class Watcher:
    """Reads the state of a run again and again, and of each journal only what is new.

    Records are taken as they are. `status` also checks them, and so cuts what a crash has
    damaged; it is what counts at the end.

    Parameters
    ----------
    plan : Plan
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._begin()

    def _begin(self) -> None:
        self._tally, self._journals = _Tally(self._plan), Follower(self._plan)
        self._about: dict[Path, dict[str, Any]] = {}

    def look(self) -> Status:
        """The state now.

        Raises
        ------
        FileNotFoundError
            If the run directory is gone.
        """
        session = _session(self._plan)
        new = self._journals.look()
        if any((records["kind"] == LOST).any() for _, records in new):
            # Some of what was counted is to be computed again.
            self._begin()
            new = [(path, _kept(records)) for path, records in self._journals.look()]
        found = dict(new)
        for path in sorted(self._plan.rundir.journals.glob("*.jnl")):
            if path not in self._about:
                about = _read_about(path, self._plan.digest)
                if about is None:
                    continue
                self._about[path] = about
            elif path not in found:
                continue
            records = found.get(path, np.zeros(0, RECORD))
            self._tally.add(Log(path, self._about[path], records))
        return self._tally.status(session=session)


def _kept(records: np.ndarray) -> np.ndarray:
    """The records of a whole journal that count; see `hpcio.journals.journal.read_log`."""
    if not (records["kind"] == LOST).any():
        return records
    return records[: int(records["offset"][records["kind"] == SYNC].max(initial=0))]


def _read_about(path: Path, digest: str) -> dict[str, Any] | None:
    """What the header of a journal says; None if it is not there yet, or of another plan."""
    try:
        with path.open("rb") as f:
            head = f.read(HEADER)
        about, _ = json.JSONDecoder().raw_decode(head[len(MAGIC) :].decode(errors="replace"))
    except (FileNotFoundError, ValueError):
        return None
    ours = head.startswith(MAGIC) and isinstance(about, dict) and about.get("plan") == digest
    return about if ours else None


# ---------------------------------------------------------------------- counting


@dataclass
class _Worker:
    """What is known of one worker so far."""

    start: dict[Path, float]  # of its attempts, and when each wrote its last record
    last: dict[Path, float]
    done: int = 0
    nbytes: int = 0
    busy: float = 0.0


class _Tally:
    """Counts the records of a run, as they come."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sizes = plan.input_sizes() + plan.target.sizes()
        self._state = np.zeros(len(plan), np.uint8)
        self._workers: dict[tuple[str, str], _Worker] = {}
        self._journals: set[Path] = set()
        self._failures: dict[int, tuple[Failure, tuple[str, str]]] = {}
        # The end of each of the last blocks, and its bytes.
        self._ends, self._nbytes = np.zeros(0), np.zeros(0)
        # Stretches of work: begin and end of each.
        self._begin, self._end = np.zeros(0), np.zeros(0)

    def add(self, log: Log) -> None:
        """Count further records of a journal; none of them if it has only begun."""
        about, records = log.about, log.records
        key = str(about["label"]), str(about["host"])
        worker = self._workers.setdefault(key, _Worker({}, {}))
        self._journals.add(log.path)
        start = worker.start.setdefault(log.path, float(about["start"]))
        last = float(records["end"].max(initial=start))
        worker.last[log.path] = max(worker.last.get(log.path, start), last)

        done = records[records["kind"] == DONE]
        worker.done += done.size
        worker.nbytes += int(self._sizes[done["block"]].sum())
        seconds = done["compute"].astype(float) + done["io"]
        worker.busy += float(seconds.sum())
        blocks, first = np.unique(done["block"], return_index=True)
        new = self._state[blocks] != DONE
        self._state[blocks] = DONE
        ends = done["end"][first[new]]
        self._note_recent(ends, self._sizes[blocks[new]])
        self._note_stretches(done["end"] - seconds, done["end"])

        for record in records[records["kind"] == FAILED]:
            block = int(record["block"])
            if self._state[block] != DONE:
                self._state[block] = FAILED
                text = log.note(record).decode(errors="replace")
                trial = int(self._plan.trials.index[self._plan.blocks.trial[block]])
                self._failures[block] = Failure(block=block, trial=trial, traceback=text), key

    def _note_recent(self, ends: np.ndarray, nbytes: np.ndarray) -> None:
        self._ends = np.concatenate([self._ends, ends])
        self._nbytes = np.concatenate([self._nbytes, nbytes])
        order = np.argsort(self._ends, kind="stable")
        ends = self._ends[order]
        recent = int(np.searchsorted(ends, ends[-1] - RECENT)) if ends.size else 0
        keep = order[max(0, min(recent, ends.size - FEWEST)) :]
        self._ends, self._nbytes = self._ends[keep], self._nbytes[keep]

    def _note_stretches(self, begin: np.ndarray, end: np.ndarray) -> None:
        begin, end = np.append(self._begin, begin), np.append(self._end, end)
        if not begin.size:
            return
        order = np.argsort(begin, kind="stable")
        begin, end = begin[order], np.maximum.accumulate(end[order])
        paused = np.flatnonzero(begin[1:] - end[:-1] > PAUSE)
        self._begin = begin[np.append(0, paused + 1)]
        self._end = end[np.append(paused, end.size - 1)]

    def status(self, *, session: bool | None) -> Status:
        """The state by what was counted so far."""
        plan, state = self._plan, self._state
        failed = [self._failures[b] for b in np.flatnonzero(state == FAILED).tolist()]
        nbytes, left = (int(self._sizes[state == kind].sum()) for kind in (DONE, 0))
        speed, pace = self._speeds(finished=bool(state.all()), done=(state == DONE), nbytes=nbytes)
        now = time.time()
        look_again(plan.out)
        # A session that journals whom it blames for the death of a worker is no worker.
        workers = (
            self._worker(*key, worker, sum(by == key for _, by in failed), now=now)
            for key, worker in self._workers.items()
            if key[0] != "session"
        )
        return Status(
            out=plan.out,
            published=Path(plan.out).exists(),
            blocks=len(plan),
            done=int((state == DONE).sum()),
            failed=len(failed),
            attempts=len(self._journals),
            function=plan.function.name,
            pickled=bool(plan.function.pickled),
            failures=tuple(failure for failure, _ in failed),
            nbytes=nbytes,
            nbytes_left=left,
            speed=speed,
            bytes_per_second=pace,
            seconds_left=0.0 if state.all() else left / pace if pace else None,
            session=session,
            since=float(self._begin[-1]) if self._begin.size else 0.0,
            workers=tuple(sorted(workers, key=lambda w: (natural(w.label), natural(w.host)))),
        )

    def _speeds(self, *, finished: bool, done: np.ndarray, nbytes: int) -> tuple[float, float]:
        """Blocks and bytes in a second."""
        if not self._ends.size:
            return 0.0, 0.0
        if finished:
            seconds = max(float((self._end - self._begin).sum()), 1e-6)
            return int(done.sum()) / seconds, nbytes / seconds
        newest, since = self._ends[-1], max(self._begin[-1], self._ends[-1] - RECENT)
        if (self._ends > since).sum() < FEWEST:
            since = max(self._begin[-1], self._ends[0] if self._ends.size == FEWEST else -math.inf)
        recent = self._ends > since
        seconds = max(float(newest - since), 1e-6)
        return int(recent.sum()) / seconds, float(self._nbytes[recent].sum()) / seconds

    @staticmethod
    def _worker(label: str, host: str, worker: _Worker, failed: int, *, now: float) -> WorkerStatus:
        last = max(worker.last.values())
        seconds = sum(worker.last[path] - start for path, start in worker.start.items())
        seconds = max(seconds, worker.busy, 1e-6)  # clocks are not exact
        return WorkerStatus(
            label=label, host=host, attempts=len(worker.start), done=worker.done, failed=failed,
            blocks_per_second=worker.done / seconds, bytes_per_second=worker.nbytes / seconds,
            seconds_since=max(0.0, now - last), first=min(worker.start.values()), last=last,
        )  # fmt: skip


def _session(plan: Plan) -> bool | None:
    """Whether a process of this machine runs the plan; None if one of another machine may.

    The table of locks is read. Trying the lock instead would refuse a run that begins just then.
    """
    try:
        inode = os.stat(plan.rundir.lock).st_ino
        locks = Path("/proc/locks").read_text()
    except FileNotFoundError:
        return False  # never run
    except OSError:
        return None
    # Not by device: btrfs shows another one there than to everybody else.
    if f":{inode} " in locks:
        return True
    return False if is_local(plan.run_directory) else None


# ---------------------------------------------------------------------- queues


@dataclass(frozen=True)
class _Trouble:
    """A queue that cannot be told of."""

    line: str
    states: Mapping[str, str]
    alive: int | None = None

    def as_json(self) -> dict[str, Any]:
        return {"line": self.line, "alive": self.alive}


def queues(plan: Plan) -> dict[str, Queue]:
    """What schedulers say of a run, by their names; empty if it was never queued."""
    found: dict[str, Queue] = {}
    for entry in metadata.entry_points(group="hpcio.status"):
        try:
            queue = entry.load()(plan)
        except HpcioError as error:
            queue = _Trouble(str(error), {})
        if queue is not None:
            found[entry.name] = queue
    return found


def working(state: Status, asked: Iterable[Queue]) -> bool | None:
    """Whether anybody is at work on a run, or waits to be; None if that is not known."""
    alive = [queue.alive for queue in asked]
    if state.session or any(alive):
        return True
    if alive:
        return None if None in alive else False
    return state.session


def as_json(state: Status, asked: Mapping[str, Queue]) -> dict[str, Any]:
    """All of it as JSON can hold it; docs/guide.md describes it."""
    said = asdict(state)
    said.pop("session")
    states = {label: word for queue in asked.values() for label, word in queue.states.items()}
    at_work = working(state, asked.values())
    return {
        "format": FORMAT,
        "time": time.time(),
        **said,
        "left": state.left,
        "working": at_work,
        "seconds_left": None if state.left and at_work is False else state.seconds_left,
        "workers": [{**w, "state": states.get(w["label"])} for w in said["workers"]],
        "queues": {name: queue.as_json() for name, queue in asked.items()},
    }
