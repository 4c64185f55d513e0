"""The run directory ``OUT.run``: made, continued, refused, or thrown away."""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from hpcio.errors import OutputError, PlanError, SourceError, as_output_error
from hpcio.files import READABLE_FOLDER, RunDirectory, open_file, sync
from hpcio.function import check_versions
from hpcio.planning import Plan, load_plan, write_plan

__all__ = ["discard", "held", "prepare", "remove"]


def prepare(plan: Plan) -> Plan:
    """Make the run directory of a plan, or adopt the one of an equal plan.

    Returns
    -------
    Plan
        The plan with the run id of the run directory.

    Raises
    ------
    PlanError
        If the directory belongs to another plan.
    OutputError
        If it cannot be made.
    """
    folder = plan.run_directory
    try:
        folder.mkdir(mode=plan.modes.run_folder, exist_ok=True)
        is_new = not plan.rundir.plan.exists()
        if is_new and (foreign := _foreign(plan.rundir)):
            raise PlanError(
                f"'{folder}' exists and is no run directory (it holds '{foreign[0]}'). "
                "Choose another output."
            )
        # A failure of power may have left the plan alone.
        plan.rundir.sources.mkdir(mode=READABLE_FOLDER, exist_ok=True)
        for inside in plan.rundir.records():
            inside.mkdir(mode=plan.modes.record_folder, exist_ok=True)
        if is_new:
            write_plan(plan, folder)
            # All that follows is nothing without the plan.
            for names in (folder, folder.parent):
                sync(names)
            return plan
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise as_output_error(error, folder) from error
    there = load_plan(plan.out)
    if there.digest != plan.digest:
        raise PlanError(
            f"'{folder}' belongs to another plan (function, trials, source or options differ). "
            "Start over with fresh=True (in the shell: --fresh), or choose another output."
        )
    same = plan.same_versions or there.same_versions
    check_versions(there.function.fingerprint.packages, same=same)
    return replace(plan, run_id=there.run_id)


def _foreign(rundir: RunDirectory) -> list[str]:
    """What a folder holds that a run directory would not."""
    return [path.name for path in rundir.path.iterdir() if not rundir.is_ours(path.name)]


# Locks that this process holds. A child that a function forks must not keep them.
_locks: set[int] = set()


def _let_go() -> None:
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def held(plan: Plan) -> Iterator[None]:
    """Keep a second run of the same plan from doing the same work at the same time.

    This only saves work: attempts have files of their own, so two runs would not disturb each
    other. Where the file system has no locks, both go on.
    """
    with _held(plan.rundir):
        yield


@contextmanager
def _held(rundir: RunDirectory) -> Iterator[None]:
    try:
        fd = os.open(rundir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise as_output_error(error, rundir.path) from error
    _locks.add(fd)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlanError(
                f"'{rundir.path}' is at work in another process. Wait for it, or end it."
            ) from None
        except OSError:
            pass  # no locks on this file system
        yield
    finally:
        if fd in _locks:  # not in a child that was forked meanwhile
            _locks.discard(fd)
            with suppress(OSError):  # nothing was written, and the lock is gone even so
                os.close(fd)


def discard(out: str | os.PathLike[str]) -> None:
    """Remove a result of hpcio and its run directory, to start over.

    Raises
    ------
    OutputError
        If either exists but was not made by hpcio.
    PlanError
        If a run is at work there.
    """
    path = Path(os.path.abspath(os.path.expanduser(os.fspath(out))))
    rundir = RunDirectory.of(str(path))
    folder = rundir.path
    if path.exists():
        try:
            with open_file(path) as f:
                ours = "hpcio" in f
        except SourceError:
            ours = False
        if not ours:
            raise OutputError(
                f"'{path}' was not made by hpcio and is not removed. Choose another output."
            )
    if folder.exists() and not rundir.plan.exists() and _foreign(rundir):
        raise OutputError(
            f"'{folder}' is no run directory and is not removed. Choose another output."
        )
    try:
        if not folder.exists():
            path.unlink(missing_ok=True)
            return
        with _held(rundir):
            path.unlink(missing_ok=True)
            remove(folder)
    except OutputError:
        raise
    except OSError as error:
        raise as_output_error(error, path) from error


def remove(folder: Path) -> None:
    """Remove a run directory, and the rest of earlier ones whose removal was cut short."""
    # Rename it first: its name is free at once, and nobody ever sees a part of it.
    folder.rename(folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.old"))
    for doomed in folder.parent.glob(f"{glob.escape(folder.name)}.????????.old"):
        shutil.rmtree(doomed)
