"""Processes that do the same thing at the same time, on this machine or on several nodes.

They meet in files of one folder, which all of them see: a job, a word from each that is ready, the
time at which all begin, and what each has measured. So the same processes serve on a laptop and as
tasks of a job array, on any shared file system, and nothing listens anywhere.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from hpcio.bench.jobs import JOBS
from hpcio.errors import (
    HpcioError,
    HpcioWarning,
    WorkerError,
    as_message,
    as_output_error,
    from_message,
)
from hpcio.machine import (
    Registry,
    end_with_parent,
    how_it_ended,
    is_local,
    launched,
    look_again,
    new_python,
    read_whole,
    with_threads,
    write_whole,
)
from hpcio.words import count as counted

__all__ = ["TEAMS", "Members", "Round", "StartMembers", "Team", "local_members", "serve"]

# How long, in seconds, everybody waits before they begin: the last must have heard of it.
_LEAD = {True: 0.03, False: 0.6}  # whether all are on this machine
# How often, in seconds, one looks for the word of another.
_LOOK = {True: 0.002, False: 0.02}
# If nodes begin so many seconds apart, and a quarter of a round, that is said.
_APART = 0.2
# Who has nothing to do in a round must not disturb those that have.
_LOOK_IDLE = 0.5
# After so many seconds without a word, a process ends, and a team is given up.
_PATIENCE = 600.0


@dataclass(frozen=True)
class Round:
    """What a team has measured together.

    Attributes
    ----------
    seconds : float
        From the first begin to the last end; of several nodes, whose clocks may differ, the time of
        the one that took longest.
    nbytes : int
        Bytes, or things, that all have done together.
    """

    seconds: float
    nbytes: int

    @property
    def rate(self) -> float:
        """Bytes, or things, in a second."""
        return self.nbytes / self.seconds


class Members(Protocol):
    """The processes of a team.

    Attributes
    ----------
    patience : float
        So many seconds it may take until all of them are there.
    """

    patience: float

    def check(self) -> None:
        """Raise WorkerError if one of them has ended."""

    def end(self) -> None:
        """End them, and wait for that."""


# Starts so many processes that call `serve` with a folder and their number, from 0; the texts are
# options of whatever starts them.
StartMembers = Callable[[Path, int, Sequence[str]], Members]

TEAMS: Registry[StartMembers] = Registry(
    "kind of team",
    group="hpcio.bench_teams",
    own={"processes": "hpcio.bench.team:local_members", "ranks": "hpcio.bench.team:rank_members"},
)


class Team:
    """Some processes, and the folder in which they meet.

    Parameters
    ----------
    folder : pathlib.Path
        A new folder of this user's alone, which all processes see.
    count : int
    start : callable
        Starts them; see `TEAMS`.
    options : sequence of str
        Given to it.
    """

    def __init__(
        self, folder: Path, count: int, start: StartMembers, options: Sequence[str] = ()
    ) -> None:
        self.count = count
        self._folder = folder
        self._numbers = itertools.count()
        folder.mkdir(mode=0o700)
        self._members = start(folder, count, options)
        self.hosts: tuple[str, ...] = ()
        self._together = True
        try:
            said = self._do("greet", [{}] * count, patience=self._members.patience)
        except BaseException:
            self._members.end()
            raise
        self.hosts = tuple(each["host"] for each in said)

    @property
    def nodes(self) -> int:
        """How many machines they are on."""
        return len({*self.hosts})

    def do(self, job: str, each: Sequence[Mapping[str, Any] | None]) -> Round:
        """Have processes do a job together.

        Parameters
        ----------
        job : str
            A name of `hpcio.bench.jobs.JOBS`.
        each : sequence of mapping or None, shape (count,)
            What each process is given; None for one that does nothing.

        Raises
        ------
        WorkerError
            If a process has ended, or does not answer.
        HpcioError
            What one of them has raised.
        """
        said = self._do(job, each)
        begins, ends = [s["begin"] for s in said], [s["end"] for s in said]
        seconds = max(ends) - min(begins)
        if self.nodes > 1:
            seconds = max(end - begin for begin, end in zip(begins, ends, strict=True))
            self._hold_together([s["heard"] for s in said], seconds)
        return Round(max(seconds, 1e-9), sum(s["nbytes"] for s in said))

    def _hold_together(self, heard: Sequence[float], seconds: float) -> None:
        """Warn if nodes begin apart: what they reach is added up as if they were at it together."""
        apart = max(heard) - min(heard)
        if self._together and apart > max(_APART, seconds / 4):
            self._together = False  # said once
            warnings.warn(
                f"Tasks heard that they should begin up to {apart:.2g} s apart, by the clocks of "
                f"their nodes, in a round of {seconds:.2g} s: totals may be too high. Set the "
                "clocks (chronyc tracking), or measure for longer (--full).",
                HpcioWarning,
                stacklevel=2,
            )

    def _do(
        self,
        job: str,
        each: Sequence[Mapping[str, Any] | None],
        patience: float = _PATIENCE,
    ) -> list[dict[str, Any]]:
        number = next(self._numbers)
        at_work = [rank for rank, given in enumerate(each) if given is not None]
        together = self.nodes == 1 and is_local(self._folder)
        self._say(f"{number}.job", {"job": job, "each": list(each)})
        try:
            self._hear(number, "ready", at_work, patience)
        except HpcioError:
            self._say(f"{number}.go", {"at": None})  # the others need not wait
            raise
        self._say(f"{number}.go", {"at": time.time() + _LEAD[together]})
        return self._hear(number, "done", at_work, patience)

    def _say(self, name: str, message: Any) -> None:
        path = self._folder / name
        try:
            write_whole(path, json.dumps(message).encode())
        except OSError as error:
            raise as_output_error(error, path) from error

    def _hear(
        self, number: int, word: str, ranks: Sequence[int], patience: float
    ) -> list[dict[str, Any]]:
        until = time.monotonic() + patience
        missing, said = deque(ranks), dict[int, dict[str, Any]]()
        while missing:
            rank = missing[0]
            message = _heard(self._folder / f"{number}.{word}.{rank}")
            if message is None:
                # Ask another: ranks wait for each other, so that one that fails holds up this one.
                missing.rotate(-1)
                self._members.check()
                if time.monotonic() > until:
                    raise WorkerError(
                        f"Process {rank} of {self.count} has not answered for {patience:.0f} s. "
                        "See whether its node is alive, and begin again."
                    )
                time.sleep(_LOOK[is_local(self._folder)])
                continue
            if "error" in message:
                raise from_message(message)
            said[missing.popleft()] = message
        return [said[rank] for rank in ranks]

    def close(self) -> None:
        """Send them home."""
        try:
            self._say(f"{next(self._numbers)}.job", {"job": "", "each": []})
        finally:
            self._members.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _heard(path: Path) -> dict[str, Any] | None:
    """What somebody has said under a name; None if nothing yet."""
    try:
        message: dict[str, Any] = json.loads(read_whole(path))
    except FileNotFoundError:
        look_again(path)
        return None
    return message


# ---------------------------------------------------------------------- on this machine


class _Local:
    """Processes of this machine."""

    patience = _PATIENCE

    def __init__(self, folder: Path, count: int) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(count):
                command = new_python(
                    "hpcio.machine.children:be_child", str(os.getpid()),
                    "hpcio.bench.team:serve_here", str(folder), str(rank),
                )  # fmt: skip
                self._processes.append(
                    # The session decides what Ctrl-C means.
                    subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, env=with_threads(1), process_group=0
                    )
                )
        except OSError as error:
            self.end()
            raise WorkerError(f"A process could not be started: {error}.") from error

    def check(self) -> None:
        for rank, process in enumerate(self._processes):
            status = process.poll()
            if status is not None:
                raise WorkerError(
                    f"Process {rank} of {counted(len(self._processes), 'process', 'processes')} "
                    f"ended with {how_it_ended(status)}. See what it printed, and begin again."
                )

    def end(self) -> None:
        for process in self._processes:
            try:
                process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def local_members(folder: Path, count: int, options: Sequence[str] = ()) -> Members:
    """Processes of this machine; they end with this one, and have no options."""
    return _Local(folder, count)


# ---------------------------------------------------------------------- ranks, on this machine

# Ranks are like the processes beside them: as many as were asked for, on whatever core is free.
# Else Open MPI starts no more than there are cores, and binds each to one. It reads the second pair
# of variables from its version 5 on.
_LIKE_PROCESSES = {
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
}
# So long, in seconds, a launcher has to end by itself, and then when it is told to.
_LAUNCHER_ENDS = 5.0


class _Ranks:
    """The ranks of one MPI job."""

    patience = _PATIENCE

    def __init__(self, folder: Path, count: int) -> None:
        self._log, self._launcher = folder / "launcher.log", _launcher()
        ranks = [*self._launcher, "-n", str(count)]
        command = new_python("hpcio.bench.team:serve_as_rank", str(folder))
        own = new_python("hpcio.machine.children:become", str(os.getpid()), *ranks, *command)
        try:
            with open(self._log, "wb") as log:
                self._process = subprocess.Popen(
                    own, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env={**_LIKE_PROCESSES, **with_threads(1)}, process_group=0,
                )  # fmt: skip
        except OSError as error:
            raise WorkerError(f"Ranks could not be started: {error}.") from error

    def check(self) -> None:
        status = self._process.poll()
        if status is not None:
            raise WorkerError(
                f"'{self._launcher[0]}' has ended with {how_it_ended(status)}: {self._words()}. "
                f"See whether it works: {' '.join(self._launcher)} -n 2 hostname"
            )

    def _words(self) -> str:
        """What was said first: launchers begin with what is wrong, and go on with advice."""
        said = self._log.read_text(errors="replace").strip("-\n ").partition("\n\n")[0]
        once = dict.fromkeys(said.splitlines())  # of what each rank has said
        return " ".join(" ".join(once).split()).rstrip(".:")

    def end(self) -> None:
        for end in (self._process.terminate, self._process.kill):  # it ends its ranks, if it can
            try:
                self._process.wait(timeout=_LAUNCHER_ENDS)
            except subprocess.TimeoutExpired:
                end()
        self._process.wait()


def _launcher() -> list[str]:
    """What starts ranks on this machine; what lies beside this Python is of its MPI."""
    places = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    for name in ("mpirun", "mpiexec"):
        if found := shutil.which(name, path=places):
            return [found]
    # Outside of a job it would ask for one, and wait for it.
    if "SLURM_JOB_ID" in os.environ and (found := shutil.which("srun", path=places)):
        return [found, "--nodes=1", "--overlap", "--overcommit"]
    raise WorkerError(
        "There is no mpirun, no mpiexec, and no srun of a job that this is in, to start ranks. "
        "Load the MPI that mpi4py was built for, such as: module load openmpi"
    )


def rank_members(folder: Path, count: int, options: Sequence[str] = ()) -> Members:
    """Ranks of one MPI job on this machine; they end with this process, and have no options."""
    return _Ranks(folder, count)


# ---------------------------------------------------------------------- in each process


def serve_here(folder: str, rank: str) -> None:
    """Do what a team is given to do, as a process of the session."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the session decides what Ctrl-C means
    serve(folder, rank)


def serve_as_rank(folder: str) -> None:
    """Do what a team is given to do, as the rank that a launcher has made of this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        launch = launched()
    except WorkerError as error:
        sys.exit(str(error))
    if launch is None:
        sys.exit("it starts processes that are no ranks of MPI (srun: set SLURM_MPI_TYPE=pmix)")
    launcher = os.getppid()
    if launcher == 1:
        sys.exit("what has started it has ended")
    # A launcher that is told to end may do so without its ranks.
    end_with_parent(signal.SIGKILL, parent=launcher)
    serve(folder, str(launch.rank))


def serve(folder: str, rank: str, *, host: str = "") -> None:
    """Do what a team is given to do, until there is no more; the main function of a process.

    Parameters
    ----------
    folder : str
        Where the team meets.
    rank : str
        The number of this process.
    host : str
        What this machine is called; by default as it calls itself.
    """
    place = Path(folder)
    look = at_once = _LOOK[is_local(place)]
    for number in itertools.count():
        task = _wait(place / f"{number}.job", look=look)
        if task is None or not task["job"]:
            return
        given = task["each"][int(rank)]
        look = at_once if given is not None else _LOOK_IDLE
        if given is not None:
            said = _take_part(place, number, rank, JOBS[task["job"]], given)
            if said is not None:
                said["host"] = host or platform.node()
                _tell(place / f"{number}.done.{rank}", said)


def _take_part(
    place: Path, number: int, rank: str, job: Callable[..., Any], given: dict[str, Any]
) -> dict[str, Any] | None:
    """What a process has measured, or why it could not; None if it was called off."""
    ready = place / f"{number}.ready.{rank}"
    try:
        work = job(**given)
        next(work)  # what is made ready beforehand
    except (HpcioError, OSError) as error:
        _tell(ready, _as_said(error))
        return None
    _tell(ready, {})
    # In the first round it waits for those that a queue lets begin later, as long as that takes.
    patience = _PATIENCE if number else math.inf
    go = _wait(place / f"{number}.go", look=_LOOK[is_local(place)], patience=patience)
    heard = time.time()
    if go is None or go["at"] is None:
        return None
    # Near the time it does not sleep: a process that was just woken shares its CPU for a moment.
    time.sleep(max(0.0, go["at"] - time.time() - 0.02))
    while time.time() < go["at"]:
        pass
    begin = time.time()
    try:
        nbytes = next(work)
        said = {"heard": heard, "begin": begin, "end": time.time(), "nbytes": nbytes}
        next(work, None)  # what is put away afterwards
    except (HpcioError, OSError) as error:
        return _as_said(error)
    return said


def _tell(path: Path, message: dict[str, Any]) -> None:
    """Say something to the session; if that cannot be written, to whoever sees what is printed."""
    try:
        write_whole(path, json.dumps(message).encode())
    except OSError as error:
        sys.exit(str(as_output_error(error, path)))


def _as_said(error: HpcioError | OSError) -> dict[str, Any]:
    if isinstance(error, OSError) and not isinstance(error, HpcioError):
        where = f": '{error.filename}'" if error.filename else ""
        error = WorkerError(f"{error.strerror}{where}. Choose another folder.")
    return as_message(error)


def _wait(path: Path, *, look: float, patience: float = _PATIENCE) -> dict[str, Any] | None:
    """What is said under a name; None if there is nobody to say it any more."""
    until = time.monotonic() + patience
    while (message := _heard(path)) is None:
        if time.monotonic() > until or not path.parent.is_dir():
            return None
        time.sleep(look)
    return message
