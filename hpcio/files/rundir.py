"""The run directory ``OUT.run``: the name of each thing in it, in one place."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from hpcio.errors import check_path

__all__ = ["RunDirectory", "lies_in_result", "result_of"]


def result_of(name: str | os.PathLike[str]) -> str:
    """The path of a result that a user names, as ``OUT`` or by its run directory.

    The shell completes ``OUT.run/`` as readily as ``OUT``.
    """
    check_path("out", name)
    path = os.path.expanduser(os.fspath(name))
    folder = path.rstrip("/")
    if folder.endswith(".run") and os.path.exists(RunDirectory(Path(folder)).plan):
        return folder.removesuffix(".run")
    return path


def lies_in_result(file: str | os.PathLike[str], out: str | os.PathLike[str]) -> bool:
    """Whether a file is a result itself, or lies in its run directory."""
    if os.path.exists(file) and os.path.exists(out) and os.path.samefile(file, out):
        return True
    folder = os.path.realpath(RunDirectory.of(os.fspath(out)).path)
    return os.path.realpath(file).startswith(folder + os.sep)


# All that runs write, and nothing wider: people put files of their own beside it, and copies.
_HEX = "[0-9a-f]"
_ATTEMPT = rf"[^/@.]+-{_HEX}{{8}}"
_TOKEN = _HEX + "{16}"  # such as a run id
# What a run that starts over has set aside.
_ASIDE = re.compile(rf"{_TOKEN}\.old")
# The plan and the one file, half made or not; job scripts.
_OTHERS = re.compile(
    rf"plan\.h5|plan\.{_TOKEN}\.part|data\.{_HEX}{{8}}\.part|data\.h5\.lock"
    r"|(array|ranks)(-\d+)?\.sh|finish\.sh"
)
_INSIDE = {
    "journal": re.compile(rf"{_ATTEMPT}\.(jnl|notes)"),
    "sources": re.compile(
        rf"\d{{4,}}/\d{{7,}}-{_ATTEMPT}\.h5|{_ATTEMPT}\.(sums|seams)"
        rf"|{_ATTEMPT}-\d+\.(h5|packed|{_HEX}{{8}}\.(h5|part))"
    ),
    "logs": re.compile(
        rf"{_TOKEN}-\d+-w\d+\.log|\d+_\d+\.log|finish-\d+\.log|{_ATTEMPT}\.stack\.log"
    ),
    "usage": re.compile(rf"{_ATTEMPT}\.json"),
    "beats": re.compile(_ATTEMPT),
    "claims": re.compile(
        rf"\d+-\d+\.g\d+(@(left|again|dead@\d+|\d+@{_ATTEMPT}))?|\d+\.(stop|publish)"
        rf"|\d+\.(done|failed)\.\d+@{_ATTEMPT}|{_TOKEN}(-\d+|\.stop|\.failed\.\d+\.\d+)"
    ),
    "submissions": re.compile(r"\d+\.(json|npz|jobs\.json)"),
}
# A small file that a process was killed over; see `hpcio.machine.write_whole`.
_HALF_MADE = re.compile(r"\.(?P<name>.+)\.\d+\.part")


def _whole(name: str) -> str:
    """The name that a file gets when it is whole."""
    half_made = _HALF_MADE.fullmatch(name)
    return half_made["name"] if half_made else name


@dataclass(frozen=True)
class RunDirectory:
    """Where everything of a run lies, except its result.

    It knows names and touches nothing. The design's page of formats says what each file holds.

    Attributes
    ----------
    path : pathlib.Path

    Examples
    --------
    >>> RunDirectory.of("/data/out.h5").journals
    PosixPath('/data/out.h5.run/journal')
    """

    path: Path

    @classmethod
    def of(cls, out: str) -> RunDirectory:
        """The run directory of a result."""
        return cls(Path(f"{out}.run"))

    def records(self) -> tuple[Path, ...]:
        """The folders of what a run says of itself, that every run has."""
        return self.journals, self.logs

    def is_ours(self, name: str) -> bool:
        """Whether a run may have something of that name; all else is of somebody else.

        Parameters
        ----------
        name : str
            Relative to the run directory.
        """
        top, _, inside = name.partition("/")
        if _ASIDE.fullmatch(top):
            return not inside or self.is_ours(inside)
        whole = _whole(inside or top)
        if inside:
            return top in _INSIDE and bool(_INSIDE[top].fullmatch(whole))
        files = (self.lock, self.data, self.closed, self.offsets, self.outcome)
        return (
            top in _INSIDE
            or whole in {path.name for path in files}
            or bool(_OTHERS.fullmatch(whole))
        )

    def set_aside(self) -> list[Path]:
        """What runs that started over have set aside; removed with the next run."""
        return [path for path in self.path.glob("*.old") if _ASIDE.fullmatch(path.name)]

    # What every run has.

    @property
    def plan(self) -> Path:
        """The plan: complete, or not there."""
        return self.path / "plan.h5"

    @property
    def journals(self) -> Path:
        """A journal, and perhaps notes, of each attempt."""
        return self.path / "journal"

    @property
    def sources(self) -> Path:
        """Files that attempts have written for themselves."""
        return self.path / "sources"

    @property
    def logs(self) -> Path:
        """The output of workers and jobs."""
        return self.path / "logs"

    @property
    def lock(self) -> Path:
        """Held while a run is at work."""
        return self.path / "lock"

    # What some runs have.

    @property
    def data(self) -> Path:
        """The one file of some writers, before it is published."""
        return self.path / "data.h5"

    @property
    def closed(self) -> Path:
        """The same file while it is being published: writers do not find it."""
        return self.path / "closed.h5"

    @property
    def offsets(self) -> Path:
        """Where each block begins in that file."""
        return self.path / "data.npy"

    @property
    def claims(self) -> Path:
        """Who has taken which part of the work; see `hpcio.journals.ClaimFolder`."""
        return self.path / "claims"

    @property
    def usage(self) -> Path:
        """The limits of processes, and what they used."""
        return self.path / "usage"

    @property
    def heartbeats(self) -> Path:
        """One number for each array task, which grows while the task lives."""
        return self.path / "beats"

    @property
    def submissions(self) -> Path:
        """Each submission: which array task has which blocks."""
        return self.path / "submissions"

    @property
    def outcome(self) -> Path:
        """What the finalizer of a submission has found."""
        return self.path / "outcome.json"
