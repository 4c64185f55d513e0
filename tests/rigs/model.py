"""What a model knows of runs and results: which trials are done, and what each result shows.

It holds no values: those that a plan gives are told by `versions`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.rigs.versions import Key


@dataclass
class Run:
    """What is in a run directory."""

    key: Key
    run_id: str
    replaces: str = ""
    done: frozenset[int] = frozenset()
    # The one file of some writers is the result by now.
    given_away: bool = False


@dataclass
class Result:
    """What a result shows; its parts by their names relative to its folder, and what they hold."""

    key: Key
    run_id: str
    done: frozenset[int]
    parts: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Place:
    """A folder with a run directory, a result, both, or nothing."""

    folder: Path
    run: Run | None = None
    result: Result | None = None

    @property
    def out(self) -> Path:
        return self.folder / "out.h5"

    @property
    def run_folder(self) -> Path:
        return self.folder / "out.h5.run"

    @property
    def published(self) -> bool:
        """Whether the result is not one that the run is to replace."""
        result, run = self.result, self.run
        return result is not None and not (run and run.replaces == result.run_id)

    @property
    def is_whole(self) -> bool:
        """Whether the result and all of its parts are there as they were, and may be read."""
        assert self.result is not None
        parts = self.result.parts.items()
        return may_be_read(self.out) and all(
            may_be_read(path := self.folder / name) and path.read_bytes() == held
            for name, held in parts
        )


def may_be_read(path: Path) -> bool:
    try:
        path.open("rb").close()
    except OSError:
        return False
    return True


class How(NamedTuple):
    """How a plan is run, and what happens when one of its trials is computed."""

    fresh: bool = False
    gaps: bool = False
    loaded: bool = False
    workers: int = 0
    event: str | None = None
    trial: int = 0


class Refused(Exception):
    """The model says that a run is refused, by one of these errors."""
