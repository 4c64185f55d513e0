"""The state of a run at any time, from its journals: how far, by whom, how fast.

No scheduler is known here. A package that puts work into a queue has an entry point in the group
``hpcio.status``: a function of a plan that returns a `Queue`, or None if nothing of the plan was
ever queued.
"""

from __future__ import annotations

import json
import os
import shlex
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from hpcio.errors import DAMAGE, HpcioError, HpcioWarning, PlanError, as_read_error
from hpcio.files import RunDirectory, holder_of, read_table, result_of
from hpcio.journals import (
    DONE,
    HEADER,
    LOST,
    MAGIC,
    RECORD,
    SYNC,
    Follower,
    JournalRecords,
    published,
    published_state,
    read_logs,
    that_counts,
)
from hpcio.machine import is_local, only_files
from hpcio.planning import Plan, load_plan
from hpcio.results import open as open_result
from hpcio.results import what_is_gone
from hpcio.watching.state import Queue, Status
from hpcio.watching.tally import Tally
from hpcio.writers import without_lost

__all__ = ["Watcher", "check_queues", "queues", "status"]


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
    out = result_of(out)
    if not RunDirectory.of(out).plan.exists() and Path(out).exists():
        return _of_one_file(out)
    plan = load_plan(out)
    # Look for a session first: one that ends after this has written all that is read below.
    session = _session(plan)
    tally = Tally(plan)
    is_there = published(plan)
    for log in read_logs(plan):
        tally.add(log if is_there else without_lost(plan, log))
    state = tally.status(session=session)
    if not state.published:
        return state
    # What the result has counts: a run that was starting over may have set the journals aside.
    found = published_state(plan)
    done = state.done if found is None else int((found == DONE).sum())
    failed = state.failed if found is None else found.size - done
    return replace(state, done=done, failed=failed, gone=what_is_gone(plan.out))


def _of_one_file(out: str) -> Status:
    """The state that a result keeps, after it was made one file."""
    with open_result(out) as f:
        try:
            is_done = read_table(f["hpcio/state"]) == DONE
            trials = read_table(f["trials"])["done"]
            function, earlier = str(f.attrs["function"]), f.earlier
        except DAMAGE as error:
            raise as_read_error(error, out) from error
    if is_done.size < trials.size:  # an average, which is one block itself
        is_done = trials
    done = int(is_done.sum())
    return Status(
        out=str(Path(out).absolute()), published=True, blocks=is_done.size, done=done,
        failed=is_done.size - done, attempts=0, function=function, pickled=False, failures=(),
        seconds_left=0.0, earlier=earlier,
        counted="trial" if trials.size == is_done.size else "block",
    )  # fmt: skip


class Watcher:
    """Reads the state of a run again and again, and of each journal only what is new.

    Records are taken as they are. `status` also checks them, and leaves out what a crash has
    damaged; so at the end `status` counts.

    Parameters
    ----------
    plan : Plan
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._begin()

    def _begin(self) -> None:
        self._tally, self._journals = Tally(self._plan), Follower(self._plan)
        self._headers: dict[Path, dict[str, Any]] = {}

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
        for path in self._journals.paths():
            if path not in self._headers:
                header = _read_header(path, self._plan.digests)
                if header is None:
                    continue
                self._headers[path] = header
            elif path not in found:
                continue
            records = found.get(path, np.zeros(0, RECORD))
            log = JournalRecords(path, self._headers[path], records)
            self._tally.add(that_counts(log, self._plan))
        return self._tally.status(session=session)


def _kept(records: np.ndarray) -> np.ndarray:
    """The records of a whole journal that count; see `hpcio.journals.read_logs`."""
    if not (records["kind"] == LOST).any():
        return records
    return records[: int(records["offset"][records["kind"] == SYNC].max(initial=0))]


def _read_header(path: Path, digests: Collection[str]) -> dict[str, Any] | None:
    """The header of a journal; None if it is not there yet, or of another plan."""
    try:
        with open(path, "rb", opener=only_files) as f:
            head = f.read(HEADER)
        header, _ = json.JSONDecoder().raw_decode(head[len(MAGIC) :].decode(errors="replace"))
    except (FileNotFoundError, ValueError):
        return None
    ours = head.startswith(MAGIC) and isinstance(header, dict) and header.get("plan") in digests
    return header if ours else None


def _session(plan: Plan) -> bool | None:
    """Whether a process of this machine runs the plan; None if one of another machine may.

    The table of locks is read. Trying the lock instead would refuse a run that begins just then.
    """
    try:
        if holder_of(plan.rundir.lock) is not None:
            return True
    except FileNotFoundError:
        return False  # never run
    except OSError:
        return None
    return False if is_local(plan.run_directory) else None


# ---------------------------------------------------------------------- queues


@dataclass(frozen=True)
class _Trouble:
    """A queue that could not be asked."""

    line: str
    states: Mapping[str, str]
    trial_time: float | None = None
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


def check_queues(plan: Plan) -> None:
    """Raise PlanError if jobs of the run that is there wait or run: one works on it at a time.

    Where that cannot be asked, a warning says so.
    """
    if not os.path.isdir(plan.run_directory):
        return
    for name, queue in queues(plan).items():
        if queue.alive:
            raise PlanError(
                f"'{plan.out}' is at work in the queue already ({name}: {queue.line}). Wait for "
                f"it, or cancel it first: hpcio cancel {shlex.quote(plan.out)}"
            )
        if queue.alive is None:
            warnings.warn(
                f"Whether jobs of '{plan.out}' wait or run is not known ({name}: {queue.line}). "
                f"Cancel them if there are any: hpcio cancel {shlex.quote(plan.out)}",
                HpcioWarning,
                stacklevel=3,
            )
