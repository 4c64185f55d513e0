"""The run directory ``OUT.run``: made, continued, refused, or thrown away."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from hpcio.errors import (
    DAMAGE,
    OptionError,
    OutputError,
    PlanError,
    SourceError,
    as_output_error,
)
from hpcio.files import (
    READABLE_FOLDER,
    RunDirectory,
    check_run_folder,
    lies_in_result,
    mark_of,
    read_table,
    rename_new,
    sync,
    try_lock,
    unlock,
)
from hpcio.function import check_versions
from hpcio.journals.ledger import Ledger
from hpcio.machine import look_again
from hpcio.planning import (
    Plan,
    difference,
    load_plan,
    open_plan_file,
    write_plan,
)
from hpcio.words import KEEPING

__all__ = [
    "Exists",
    "alone",
    "discard",
    "held",
    "on_what_is_there",
    "prepare",
    "published",
    "remove",
    "start_over",
    "sweep",
]

# What becomes of a result, or of an unfinished run, that has the name of the output.
Exists = Literal["resume", "fresh", "error"]


def prepare(plan: Plan) -> Plan:
    """Make the run directory of a plan, or adopt the one of an equal plan.

    A plan that starts over (see `start_over`) sets aside what another run has left there.

    Returns
    -------
    Plan
        The plan with the run id of the run directory.

    Raises
    ------
    PlanError
        If the directory belongs to another plan or user, or others may write to it; if a plan that
        starts over has a function or arguments that have changed since it was made.
    FunctionError
        If the function of such a plan cannot be found here.
    OutputError
        If it cannot be made.
    """
    if not plan.starts_over:
        return _made_or_adopted(replace(plan, replaces=plan.replaces or ""))
    # A plan that was loaded may be refused yet: what it would compute by has changed.
    plan.load_function()
    plan.load_reduction()
    plan.arguments()
    rundir, folder = plan.rundir, plan.run_directory
    try:
        folder.mkdir(mode=plan.modes.run_folder, exist_ok=True)
        check_run_folder(rundir)
        # But for files of the user, a run that was repacked, or starting over, leaves nothing else.
        was_a_run = rundir.plan.exists() or plan.replaces or rundir.set_aside()
        if not was_a_run and (foreign := _foreign(rundir)):
            raise _not_a_run(folder, foreign)
        # Else another process that starts over would take away what this one makes.
        with _held(rundir):
            if _older_result(plan) != plan.replaces:
                raise PlanError(
                    f"'{plan.out}' has changed just now: another run has published it, or it was "
                    "removed. Nothing was touched. Look at it, then run again."
                )
            _set_aside(plan)
            return _made_or_adopted(replace(plan, starts_over=False), beside_others=True)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise as_output_error(error, folder) from error


def _made_or_adopted(plan: Plan, *, beside_others: bool = False) -> Plan:
    """Make what is not there of a run directory; perhaps beside files that are not of a run."""
    folder = plan.run_directory
    try:
        folder.mkdir(mode=plan.modes.run_folder, exist_ok=True)
        check_run_folder(plan.rundir)  # it may have been there, of somebody else
        is_new = not plan.rundir.plan.exists()
        if is_new and not beside_others and (foreign := _foreign(plan.rundir)):
            raise _not_a_run(folder, foreign)
        # A failure of power may have left the plan alone.
        plan.rundir.sources.mkdir(mode=READABLE_FOLDER, exist_ok=True)
        for inside in plan.rundir.records():
            inside.mkdir(mode=plan.modes.record_folder, exist_ok=True)
        if is_new and write_plan(plan, folder):
            # All that follows is nothing without the plan.
            for names in (folder, folder.parent):
                sync(names)
            _remove_old(folder)
            return plan
        sync(folder)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise as_output_error(error, folder) from error
    there = load_plan(plan.out)
    if there.digest != plan.digest:
        others = difference(plan, there)
        raise PlanError(
            f"'{folder}' belongs to another plan (other {others}). {KEEPING * others.may_be_kept}"
            "Start over with fresh=True (in the shell: --fresh), or choose another output."
        )
    same = plan.same_versions or there.same_versions
    check_versions(there.packages, same=same)
    # Attempts say what differs from the versions of the plan that all processes load.
    function, *reduction = (
        replace(ours, fingerprint=theirs.fingerprint)
        for ours, theirs in zip(
            (plan.function, *plan.reduction), (there.function, *there.reduction), strict=True
        )
    )
    return replace(
        plan, run_id=there.run_id, replaces=there.replaces, function=function,
        reduction=tuple(reduction),
    )  # fmt: skip


def start_over(plan: Plan) -> Plan:
    """A plan that computes all blocks anew, and then replaces the result that is there.

    Nothing is touched yet: `prepare` makes room for it, and publishing replaces the result.

    Raises
    ------
    OutputError
        If what is there is not the result of a run, or is read by the plan itself.
    """
    replaces = _older_result(plan)
    return replace(plan, run_id=secrets.token_hex(8), replaces=replaces, starts_over=True)


def on_what_is_there(plan: Plan, exists: Exists) -> Plan:
    """A plan that goes on with what is there of its output, starts over, or is refused.

    Raises
    ------
    OutputError
        If it is to be refused, or cannot start over.
    """
    if exists not in ("resume", "fresh", "error"):
        raise OptionError(f"exists={exists!r} is unknown. Choose resume, fresh, or error.")
    if exists == "fresh":
        return start_over(plan)
    there = [path for path in (Path(plan.out), plan.rundir.plan) if os.path.lexists(path)]
    if exists == "error" and there:
        raise OutputError(
            f"'{there[0]}' exists. Choose another output, or say what is to become of it: "
            "exists='resume' or 'fresh' (in the shell: --exists)."
        )
    return plan


def _older_result(plan: Plan) -> str:
    """The run whose result a plan that starts over will replace; "" if there is none."""
    look_again(plan.out)
    mark = mark_of(plan.out)
    if mark is None and os.path.lexists(plan.out):
        raise OutputError(
            f"'{plan.out}' was not made by hpcio, or is damaged, and is not replaced. Choose "
            "another output, or move it away."
        )
    if os.path.islink(plan.out):
        raise OutputError(
            f"'{plan.out}' is a link to '{os.path.realpath(plan.out)}', and would be replaced "
            "itself. Remove the link, or choose that file as the output."
        )
    for file in plan.source.files():
        if lies_in_result(file.path, plan.out):
            raise OutputError(
                f"The result would replace '{file.path}', which is its own source. Choose another "
                "output."
            )
    return "" if mark is None else mark.run_id


def published(plan: Plan) -> bool:
    """Whether the output is there, and is not an older result that this run is to replace."""
    look_again(plan.out)
    if not os.path.lexists(plan.out):
        return False
    replaces = _replaced_by_run(plan) if plan.replaces is None else plan.replaces
    if not replaces:
        return True
    mark = mark_of(plan.out)
    return mark is None or mark.run_id != replaces


def _replaced_by_run(plan: Plan) -> str:
    """The run whose result the run that is there replaces; "" if none."""
    if not plan.rundir.plan.exists():
        return ""
    try:
        with open_plan_file(plan.out) as f:  # all of it would be a million trials
            return str(json.loads(read_table(f["spec"]).tobytes())["replaces"] or "")
    except (PlanError, SourceError, *DAMAGE):  # of somebody else, or of another version
        return ""


def _not_a_run(folder: Path, foreign: list[str]) -> PlanError:
    return PlanError(
        f"'{folder}' exists and is no run directory (it holds '{foreign[0]}'). Move that away, or "
        "choose another output."
    )


def _set_aside(plan: Plan) -> None:
    """Set aside what the run before has kept, but for what its result needs to be read."""
    rundir, folder = plan.rundir, plan.run_directory
    there = [path.name for path in folder.iterdir() if rundir.is_ours(path.name)]
    kept = {rundir.lock.name, *(path.name for path in rundir.set_aside())}
    if plan.replaces:  # its result is read by plain HDF5, which finds parts by name
        kept.add(rundir.sources.name)
    names = [name for name in there if name not in kept]
    if not names:
        return
    aside = folder / f"{secrets.token_hex(8)}.old"
    aside.mkdir(mode=0o700)
    # The plan last: without it, nobody takes what is left for a run.
    for name in sorted(names, key=lambda name: name == rundir.plan.name):
        os.rename(folder / name, aside / name)
    sync(folder)


def _remove_old(folder: Path) -> None:
    """Remove what was set aside; files of somebody else get back to where they lay."""
    for old in RunDirectory(folder).set_aside():
        _remove_ours(old, others_to=folder)


def _remove_ours(folder: Path, *, others_to: Path | None = None) -> None:
    """Remove a run directory, or what was set aside of one, but for the files of somebody else."""
    rundir = RunDirectory(folder)
    for at, _, names in os.walk(folder, topdown=False):
        inside = os.path.relpath(at, folder)
        # Notes of an attempt are known by its journal, which goes after them.
        for name in sorted(names, reverse=True):
            unknown = name.endswith(".notes") and f"{name.removesuffix('notes')}jnl" not in names
            if not unknown and rundir.is_ours(os.path.normpath(os.path.join(inside, name))):
                Path(at, name).unlink(missing_ok=True)
            elif others_to is not None:
                _put_back(Path(at, name), others_to / inside / name)
        try:
            os.rmdir(at)
        except NotADirectoryError:  # a link to a disk with more room
            os.unlink(at)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise


def _put_back(path: Path, to: Path) -> None:
    for folder in reversed([folder for folder in to.parents if not folder.exists()]):
        folder.mkdir(mode=0o700)
    with suppress(FileExistsError):  # then it stays where it is
        rename_new(path, to)


def sweep(ledger: Ledger) -> None:
    """Remove parts of a result that was replaced: files of attempts that are not of this run."""
    ours = {log.attempt for log in ledger.logs}
    rundir = ledger.plan.rundir
    for path in rundir.sources.rglob("*.*"):
        name = path.name.partition(".")[0]
        # See the page of formats: ATTEMPT, ATTEMPT-FILE, or BLOCK-ATTEMPT.
        of = (name, name.rpartition("-")[0], name.partition("-")[2])
        if rundir.is_ours(os.path.relpath(path, rundir.path)) and ours.isdisjoint(of):
            path.unlink(missing_ok=True)


def _foreign(rundir: RunDirectory) -> list[str]:
    """What a folder holds that a run directory would not."""
    return [path.name for path in rundir.path.iterdir() if not rundir.is_ours(path.name)]


@contextmanager
def held(plan: Plan) -> Iterator[None]:
    """Keep a second run of the same plan from doing the same work at the same time.

    This only saves work: attempts have files of their own, so two runs would not disturb each
    other. Where the file system has no locks, both go on.

    What a run that was starting over has set aside is removed, if it was killed before it could.
    """
    with _held(plan.rundir):
        try:
            _remove_old(plan.run_directory)
        except OSError as error:
            raise as_output_error(error, plan.run_directory) from error
        _check_ours(plan)
        yield


@contextmanager
def alone(out: str | os.PathLike[str]) -> Iterator[bool]:
    """Keep runs away from a result and its run directory.

    Yields
    ------
    bool
        Whether there is anything of a run in the directory. If not, nobody is kept away: another
        run may make one meanwhile.

    Raises
    ------
    PlanError
        If a run is at work there.
    """
    rundir = RunDirectory.of(os.fspath(out))
    with ExitStack() as stack:
        of_a_run = rundir.path.is_dir() and any(map(rundir.is_ours, os.listdir(rundir.path)))
        if of_a_run:
            stack.enter_context(_held(rundir))
        yield of_a_run


def _check_ours(plan: Plan) -> None:
    """Raise PlanError if another process has started over since the run directory was prepared.

    That may be by an equal plan: the run tells them apart.
    """
    there = ("", "")
    if plan.rundir.plan.exists():
        with open_plan_file(plan.out) as f:
            there = str(f.attrs["run_id"]), str(f.attrs["digest"])
    if there != (plan.run_id, plan.digest):
        raise PlanError(
            f"Another process has started over in '{plan.run_directory}' just now. Wait for it, "
            "then run again."
        )


@contextmanager
def _held(rundir: RunDirectory) -> Iterator[None]:
    try:
        fd = os.open(rundir.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise as_output_error(error, rundir.path) from error
    try:
        try:
            is_free = try_lock(fd, fcntl.LOCK_EX)
        except OSError as error:
            raise as_output_error(error, rundir.path) from error
        if not is_free:
            raise PlanError(
                f"'{rundir.path}' is at work in another process. Wait for it, or end it."
            )
        yield
    finally:
        unlock(fd)


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
    if path.exists() and mark_of(path) is None:
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
    gone = folder.with_name(f"{folder.name}.{secrets.token_hex(8)}.old")
    folder.rename(gone)
    # Or a failure of power could leave the name, and not all that was in it.
    sync(folder.parent)
    # No shorter name: a copy that somebody has made may end with a date.
    for doomed in folder.parent.glob(f"{glob.escape(folder.name)}.{'[0-9a-f]' * 16}.old"):
        if RunDirectory(doomed).plan.exists() or doomed == gone:
            _remove_ours(doomed)
    if gone.exists() and not folder.exists():  # with files of somebody else
        gone.rename(folder)
