"""Every error that hpcio raises on purpose, and the records that errors carry.

All descend from :class:`HpcioError`, and each is also the built-in exception that
fits, so that ``except OSError`` around a file operation keeps working. A message
names the thing (file, dataset, trial), and its last sentence is the remedy.
"""

from __future__ import annotations

import errno
import operator
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hpcio.words import brief, count, duration, html_table, in_lines, number, plain, size

__all__ = [
    "BlocksFailed",
    "Cause",
    "ClusterError",
    "ConfigError",
    "Done",
    "Failure",
    "FunctionError",
    "HpcioError",
    "HpcioWarning",
    "Interrupted",
    "MemoryLimitError",
    "MissingPackageError",
    "OptionError",
    "OutputError",
    "PlanError",
    "ResultError",
    "SourceError",
    "TimeLimitError",
    "TrialError",
    "WorkerError",
    "as_message",
    "as_output_error",
    "as_read_error",
    "check_path",
    "check_whole",
    "from_message",
]


class HpcioError(Exception):
    """Base of all errors of this package."""


class HpcioWarning(UserWarning):
    """What a user should know, and what does not stop a run."""


class _OfDisk(HpcioError, OSError):
    """An error with the number of the system's, which says nothing to people."""

    def __str__(self) -> str:
        return str(self.args[-1]) if self.args else ""


class SourceError(_OfDisk):
    """The recording cannot be read: absent, not HDF5, wrong dataset, changed meanwhile."""


class TrialError(HpcioError, ValueError):
    """A trial table or a selection does not fit the recording."""


class FunctionError(HpcioError, TypeError):
    """A compute function cannot be imported, or returns what cannot be stored."""


class ConfigError(HpcioError, TypeError):
    """The ``cfg`` of a function decorated with ``unwrap_cfg`` is not usable."""


class PlanError(HpcioError, ValueError):
    """A plan cannot be made, or a run directory belongs to another plan."""


class OptionError(PlanError, ValueError):
    """An option makes no sense, or does not go with the others."""


class MemoryLimitError(HpcioError, ValueError):
    """A block needs more memory than a worker may use."""


class TimeLimitError(HpcioError, ValueError):
    """A block takes longer than an array task may run."""


class ClusterError(HpcioError, RuntimeError):
    """The scheduler is absent, does not answer, or refuses; the message quotes it."""


class MissingPackageError(HpcioError, ImportError):
    """A package that only some features need is not installed."""


class OutputError(_OfDisk):
    """Results cannot be written: the output exists, no permission, disk full."""


class ResultError(_OfDisk):
    """A finished result cannot be trusted: a source missing, short, foreign, or changed."""


class WorkerError(HpcioError, RuntimeError):
    """Workers could not be started, or died more often than allowed."""


# So many failures are shown of a run.
_MOST_SHOWN = 5

Cause = Literal["raised", "memory", "time", "died"]


@dataclass(frozen=True, repr=False)
class Failure:
    """A block that failed: its number, its trial, and why.

    Attributes
    ----------
    block, trial : int
    traceback : str
    counted : str
        What people count, ``trial`` or ``block``; see `hpcio.planning.Plan.counted`.
    cause : {"raised", "memory", "time", "died"}
        The function has raised an error, needed more memory than it may use, took longer than
        `trial_time`, or its process has died with it.
    """

    block: int
    trial: int
    traceback: str
    counted: str = "block"
    cause: Cause = "raised"

    def __repr__(self) -> str:
        return f"Failure({self.name}: {brief(self.reason)})"

    @property
    def name(self) -> str:
        """What people call it."""
        trial = f"trial {self.trial}"
        return trial if self.counted == "trial" else f"block {self.block} ({trial})"

    @property
    def reason(self) -> str:
        """The last line of the traceback, as a terminal may show it."""
        return plain(self.traceback.strip().rpartition("\n")[2])


@dataclass(frozen=True, repr=False)
class Done:
    """The record of a run.

    Attributes
    ----------
    out : str
        Path of the result.
    seconds : float
        Time of reading, computing and writing, without the start of the workers.
    blocks : int
        Blocks that are done, those of earlier runs included.
    computed : int
        Blocks that this run has computed.
    repeated : int
        Results that were computed more often than needed: a worker was lost, or two copies
        of one were at work.
    nbytes : int
        Bytes of results that this run has written.
    nbytes_read : int
        Bytes of trials that this run has read.
    failed : tuple of Failure
    workers : int
        Processes that have computed blocks in this run.
    counted : str
        What people count, ``trial`` or ``block``.
    gaps : int
        Blocks that the published result does not have, since they had failed.
    """

    out: str
    seconds: float = 0.0
    blocks: int = 0
    computed: int = 0
    repeated: int = 0
    nbytes: int = 0
    nbytes_read: int = 0
    failed: tuple[Failure, ...] = ()
    workers: int = 0
    counted: str = "block"
    gaps: int = 0

    @property
    def blocks_per_second(self) -> float:
        """Speed of this run."""
        return self.computed / self.seconds if self.seconds else 0.0

    @property
    def mb_per_second(self) -> float:
        """Bytes read and written in a second, in units of 10^6."""
        return (self.nbytes + self.nbytes_read) / 1e6 / self.seconds if self.seconds else 0.0

    def _rows(self) -> list[tuple[str, str]]:
        """Names and values, for a table."""
        earlier = self.blocks - self.computed
        speed = f"{number(self.blocks_per_second)} {self.counted}s/s, "
        speed += f"{number(self.mb_per_second)} MB/s"
        new = f"{count(self.computed, self.counted)} in {duration(self.seconds)} ({speed})"
        rows = [
            ("into", self.out),
            ("done", count(self.blocks, self.counted)),
            ("of earlier runs", f"{earlier:,}" if earlier else ""),
            ("computed", new if self.computed else "nothing"),
            ("by", count(self.workers, "worker") if self.workers else ""),
            ("read", size(self.nbytes_read) if self.computed else ""),
            ("written", size(self.nbytes) if self.computed else ""),
            ("computed twice", f"{self.repeated:,}" if self.repeated else ""),
            ("gaps", f"{self.gaps:,}" if self.gaps else ""),
            ("failed", f"{len(self.failed):,}" if self.failed else ""),
            *((failure.name, failure.reason) for failure in self.failed[:_MOST_SHOWN]),
            ("...", "and more, in failed" if len(self.failed) > _MOST_SHOWN else ""),
        ]
        return [(name, value) for name, value in rows if value]

    def __repr__(self) -> str:
        return in_lines(self._rows())

    def _repr_html_(self) -> str:
        return html_table("What a run has done", self._rows())

    def __str__(self) -> str:
        earlier = self.blocks - self.computed
        gaps = f", published with {count(self.gaps, 'gap')}" if self.gaps else ""
        if not self.computed and not self.failed:
            return f"done already, {count(self.blocks, self.counted)}{gaps}; nothing was computed"
        new = (
            f"{count(self.computed, self.counted)} in {self.seconds:.2f} s "
            f"({number(self.blocks_per_second)} {self.counted}s/s, "
            f"{number(self.mb_per_second)} MB/s)"
        )
        return (
            (new if self.computed else "nothing was computed")
            + (f", {earlier} from earlier runs" if earlier else "")
            + (f", {self.repeated} computed twice" if self.repeated else "")
            + (f", {len(self.failed)} failed" if self.failed else "")
            + gaps
        )


class BlocksFailed(HpcioError, RuntimeError):
    """Some blocks failed; nothing was published.

    Attributes
    ----------
    done : Done
        The record of the run; ``done.failed`` lists the blocks with their tracebacks.
    """

    def __init__(self, message: str, done: Done) -> None:
        super().__init__(message)
        self.done = done


class Interrupted(HpcioError, KeyboardInterrupt):
    """The run was stopped by Ctrl-C after saving what was finished; it can be resumed."""


_NOT_THERE = (errno.ENOENT, errno.ENOTDIR)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def number_of(error: BaseException) -> int | None:
    """The number that the system gave an error, which HDF5 has only in its text; None if none."""
    number: int | None = getattr(error, "errno", None)
    said = re.search(r"errno = (\d+)", str(error)) if number is None else None
    return int(said[1]) if said else number


# What a file that is gone, or whose damage sends HDF5 to places that it does not have, gives.
_OF_FILES = {None, 0, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EOVERFLOW}


# What h5py, JSON, numpy (which parses the names of types) and Python raise for values that are not
# what was written.
DAMAGE = (
    OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError,
    MemoryError, SyntaxError,
)  # fmt: skip


def is_of_disk(error: BaseException) -> bool:
    """Whether a file could not be read though it may be there and whole: its disk has failed."""
    return number_of(error) not in _OF_FILES


def as_output_error(
    error: OSError | RuntimeError | KeyError, path: str | os.PathLike[str]
) -> OutputError:
    """The error to raise when `path` could not be written: what happened, and the remedy.

    HDF5 reports a full disk by errors of either type, with the number only in their text.
    """
    number = number_of(error)
    what = str(error).partition("\n")[0] if number is None else _said_of(error, number)
    if number in _FULL:
        remedy = "The disk or quota is full. Free some space, then resume."
    elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "Choose an output folder that you may write to."
    elif number in _NOT_THERE:
        remedy = "Choose a folder that is there."
    else:
        remedy = "Check the file system, then resume."
    said = f"Cannot write '{path}': {what}. {remedy}"
    return OutputError(said) if number is None else OutputError(number, said)


def as_read_error(error: Exception, path: str | os.PathLike[str]) -> SourceError:
    """The error to raise when `path` could not be read though it is there, and the remedy."""
    number = number_of(error)
    what = str(error.args[0] if error.args else error).partition("\n")[0]
    if number is not None:
        what = _said_of(error, number)
    remedy = "Check the file system, then resume."
    if number in _NOT_THERE:
        remedy = "Name a file that is there, or put it back."
    said = f"Cannot read '{path}': {what}. {remedy}"
    return SourceError(said) if number is None else SourceError(number, said)


def _said_of(error: BaseException, number: int) -> str:
    """What the system has said, or would: HDF5 gives the number alone, or lines about itself."""
    said: str | None = getattr(error, "strerror", None)
    return os.strerror(number) if not said or "\n" in said else said


def check_path(name: str, value: object) -> None:
    """Raise OptionError unless an option can be the path of a file."""
    if not isinstance(value, str | os.PathLike) or isinstance(os.fspath(value), bytes):
        raise OptionError(f"{name}={value!r:.100} is no path. Give a str or a pathlib.Path.")


def check_whole(
    name: str,
    value: object,
    *,
    least: int | None = None,
    error: type[HpcioError] = OptionError,
) -> int:
    """The number of an option; raise an error unless it is a whole one, and large enough."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # what if it has none is below
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        use = "a whole number" if least is None else f"{least} or more"
        raise error(f"{name}={value!r:.100} makes no sense. Use {use}.")
    return number


def as_message(error: HpcioError) -> dict[str, Any]:
    """An error as one process tells another, in JSON; `from_message` makes it one again."""
    number = getattr(error, "errno", None)
    text = str(error) if number is None else getattr(error, "strerror", str(error))
    return {"kind": type(error).__name__, "error": text, "errno": number}


def from_message(said: Mapping[str, Any]) -> HpcioError:
    """The error that another process has told."""
    kind = globals()[said["kind"]] if said["kind"] in __all__ else WorkerError
    number = said.get("errno")
    error: HpcioError = kind(said["error"]) if number is None else kind(number, said["error"])
    return error
