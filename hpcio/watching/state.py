"""What there is to know of a run at one time: the run, its workers, what queues say of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from hpcio.errors import Failure

__all__ = ["Queue", "Status", "WorkerStatus", "as_json", "working"]

# The format of `as_json`, described in docs/guide.md; a change that breaks a reader gets a new
# number.
FORMAT = 1


class Queue(Protocol):
    """What a scheduler says of the jobs of a run.

    Attributes
    ----------
    line : str
        All of it in one line.
    states : mapping of str to str
        A word or two by the label of each worker, also of workers that have no journal yet. States
        other than ``running``, ``pending`` and ``completed`` are shown first.
    alive : int or None
        Jobs that wait or run; None if that is not known now.
    trial_time : float or None
        How long a trial may take there, in seconds.
    """

    @property
    def line(self) -> str: ...  # noqa: D102

    @property
    def states(self) -> Mapping[str, str]: ...  # noqa: D102

    @property
    def alive(self) -> int | None: ...  # noqa: D102

    @property
    def trial_time(self) -> float | None: ...  # noqa: D102

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
        Blocks, including those that others did too.
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
        Whether the result is there; `gone` says if parts of it are not.
    blocks, done, failed : int
    attempts : int
        How many processes have worked on it.
    function : str
    pickled : bool
        Whether the function is kept as a pickle, since it cannot be imported by name.
    failures : tuple of Failure
    nbytes, nbytes_left : int
        Bytes read and written for the blocks that are done, and bytes to read and write for those
        that nobody has tried to the end. Zero for a result that was made one file.
    speed : float
        Blocks in a second: of the last minute while blocks are left, afterwards of all the work
        without its pauses. Zero if nothing is done.
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
    counted : str
        What people count, ``trial`` or ``block``.
    gone : str
        What of a published result is gone, and what to do then; empty if nothing is.
    older : bool
        Whether an older result stays under the name until this one is published.
    earlier : int
        Trials, of those done, whose results are kept from before function or arguments changed.
    fills_gaps : bool
        Whether the gaps of a published result can be tried again, and the result replaced.
    quiet : float
        Seconds since the last record while blocks are left, if that is much longer than blocks
        take; else 0.
    """

    out: str
    published: bool
    blocks: int
    done: int
    failed: int
    attempts: int
    function: str
    pickled: bool
    failures: tuple[Failure, ...] = field(repr=False)
    nbytes: int = 0
    nbytes_left: int = 0
    speed: float = 0.0
    bytes_per_second: float = 0.0
    seconds_left: float | None = None
    session: bool | None = False
    since: float = 0.0
    workers: tuple[WorkerStatus, ...] = field(default=(), repr=False)
    counted: str = "block"
    gone: str = ""
    older: bool = False
    earlier: int = 0
    fills_gaps: bool = False
    quiet: float = 0.0

    @property
    def left(self) -> int:
        """Blocks that nobody has tried to the end yet."""
        return self.blocks - self.done - self.failed


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
    for name in ("session", "counted", "fills_gaps"):  # for people
        said.pop(name)
    for failure in said["failures"]:
        failure.pop("counted")
    states = {label: word for queue in asked.values() for label, word in queue.states.items()}
    at_work = working(state, asked.values())
    return {
        "format": FORMAT,
        "time": time.time(),
        **said,
        "left": state.left,
        "working": at_work,
        "seconds_left": None
        if state.left and (at_work is False or state.quiet)
        else state.seconds_left,
        "workers": [{**w, "state": states.get(w["label"])} for w in said["workers"]],
        "queues": {name: queue.as_json() for name, queue in asked.items()},
    }
