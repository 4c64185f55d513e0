"""The process of an array task that SLURM started: it waits for the one that works."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import warnings

import numpy as np

from hpcio.errors import ClusterError, Failure, HpcioError
from hpcio.journals import ClaimFolder, Ledger, Tried, attempt_name, tried_by, tried_since
from hpcio.machine import end_with_parent, how_it_ended
from hpcio.planning import Plan
from hpcio.running import Deaths, blame, end_stopped, failed_for_time
from hpcio.words import print_traceback, say
from slurm.site import call, environment
from slurm.submissions import pending_tasks
from slurm.tasks.assignment import Assignment, Part, Whereabouts
from slurm.tasks.claims import Claims
from slurm.tasks.ending import AGAIN, DONE, ENDED, NO_MEMORY, TROUBLE, restart
from slurm.tasks.working import TaskWorker

__all__ = ["TaskWatcher"]

# After so many seconds a process that is stopped is looked at once more.
_LOOK_EVERY = 0.1
_HUNG = (
    "TimeoutError: it was not done after two starts of its task. Ask for more time (--time), or "
    "say how long a trial may take (--trial-time)"
)


class TaskWatcher:
    """Forks the process that works, and forks another one when it dies.

    When a block kills the process that works, this one reads in the journal which block it was,
    lets it have a second chance, and then records it as failed. It also does what is left to do at
    the end, such as asking SLURM to start the task again.

    Parameters
    ----------
    plan : Plan
    number : int
        Of the submission.
    first : int
        Number of the first task of this job array.
    """

    def __init__(self, plan: Plan, number: int, first: int) -> None:
        self._assignment = Assignment.read(plan, number, first + environment.index())
        self._whereabouts = Whereabouts()
        self._child = 0
        self._told: list[int] = []
        self._died: list[str] = []  # attempts whose process has died
        self._oom_kills = environment.oom_kills()
        # What this process records as failed, others count as that of an attempt of its own.
        self._failed, self._name_of_failed = 0, attempt_name(self._assignment.label)

    def run(self) -> int:
        """Wait until the task is over; an exit status."""
        plan, retries = self._assignment.plan, self._assignment.submission.retries
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self._pass_on)
        deaths = Deaths(plan, retries, workers=1)
        tried = 0
        while True:
            code = os.waitstatus_to_exitcode(self._fork_and_wait())
            mine = self._tried()
            tried += mine.blocks.size
            if self._failed_for_time():
                continue
            if not self._whereabouts.in_order:
                if signal.SIGTERM in self._told:
                    return ENDED
                self._blame(deaths, code, mine)
                continue
            if code == AGAIN:
                hung = not tried and environment.restarts() > 0 and self._blame_hung(mine)
                return restart(plan, progress=tried > 0 or hung)
            if code == DONE and self._whereabouts.is_last:
                self._publish()
            return code

    def _publish(self) -> None:
        """Put the result together: it is there then, whatever comes after.

        The finalizer only makes sure of it. Tasks that have not begun are not needed any more.
        """
        plan, number = self._assignment.plan, self._assignment.submission.number
        # Imported here: most tasks come to an end before, and tasks are many.
        from slurm.tasks.finishing import publish_early

        try:
            # All that end now see that no block is left; one of them is enough.
            if not ClaimFolder(plan.rundir.claims).take(f"{number}.publish"):
                return
            if not Ledger.read(plan).done.all():
                return  # some have failed: the finalizer says so
            _cancel_pending(plan, number)  # or thousands would start meanwhile, to find nothing
            publish_early(plan, number)
        except HpcioError as error:  # the finalizer says what becomes of it
            say(f"hpcio: {error}", err=True)

    def _pass_on(self, number: int, _: object) -> None:
        self._told.append(number)
        if self._child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)

    # ---- the other process

    def _fork_and_wait(self) -> int:
        """Have the work done by another process; its status, as waitpid gives it."""
        self._whereabouts.clear()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Libraries of linear algebra have threads that Python warns of; they expect forks.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._child = os.fork()
        if self._child == 0:
            self._work_and_exit()
        for number in self._told:  # while there was no child
            os.kill(self._child, number)
        status = self._until_it_ends()
        self._child = 0
        return status

    def _until_it_ends(self) -> int:
        """The status of the other process, as waitpid gives it.

        One that is stopped, as by SIGSTOP, for longer than a trial may take is ended: it cannot
        look at the time itself.
        """
        limit = self._assignment.submission.trial_time
        if limit is None:
            return os.waitpid(self._child, 0)[1]
        is_stopped, passed = False, 0.0
        while True:
            # The time is counted in steps of our own: with us stopped as well, none has passed.
            options = os.WUNTRACED | os.WCONTINUED | (os.WNOHANG if is_stopped else 0)
            pid, status = os.waitpid(self._child, options)
            if pid and not os.WIFSTOPPED(status) and not os.WIFCONTINUED(status):
                return status
            if pid:
                is_stopped, passed = os.WIFSTOPPED(status), 0.0
            if is_stopped:
                time.sleep(_LOOK_EVERY)
                passed += _LOOK_EVERY
                at = self._whereabouts.read()
                if passed > limit and at is not None:
                    end_stopped(self._assignment.plan, at.attempt, self._child)
                    is_stopped = False

    def _work_and_exit(self) -> None:
        code = TROUBLE
        try:
            # If the process that waits is killed, this one ends in good order.
            end_with_parent(signal.SIGTERM)
            # The list itself, not a copy: our handler adds to it until the worker has its own.
            code = TaskWorker(self._assignment, self._whereabouts, self._told, self._died).run()
        except HpcioError as error:
            say(f"hpcio: {error}", err=True)
        except BaseException as error:  # noqa: BLE001  (a fork must not return from here)
            print_traceback(error)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            self._whereabouts.in_order = True
            os._exit(code)

    # ---- when it has died

    def _tried(self) -> Tried:
        """What the last worker has journalled."""
        at = self._whereabouts.read()
        return Tried.of([]) if at is None else tried_by(self._assignment.plan, at.attempt)

    def _left_by_others(self, at: Part) -> np.ndarray:
        """The blocks of a part that nobody but its attempt has tried.

        All journals are read for that: only if a worker has died, or hung.
        """
        plan, blocks = self._assignment.plan, at.blocks(self._assignment.work)
        known = self._assignment.submission.journals_before(plan)
        others = tried_since(plan, known | {plan.rundir.journals / f"{at.attempt}.jnl"})
        left: np.ndarray = blocks[~np.isin(blocks, others.blocks)]
        return left

    def _failed_for_time(self) -> list[int]:
        """The block along with which the worker has ended since it took longer than it may."""
        at, limit = self._whereabouts.read(), self._assignment.submission.trial_time
        if at is None:
            return []
        # Those of other tasks are for these to find.
        found = failed_for_time(self._assignment.plan, limit, at.attempt)
        if found:
            self._died.append(at.attempt)
            self._tell_failed(len(found))
            say(
                f"hpcio: block {found[0]} took longer than trial_time, and its process ended with "
                "it; see hpcio status --failed",
                err=True,
            )
        return found

    def _tell_failed(self, more: int) -> None:
        """Let all tasks count what no worker could tell."""
        self._failed += more
        submission = self._assignment.submission
        claims = Claims(
            self._assignment.plan, submission.number, self._name_of_failed, first=submission.first
        )
        # Of two that tell at the same time, one at least sees both.
        claims.tell_failed(self._failed)
        claims.look()
        if claims.failed + self._failed > submission.max_failed:
            claims.stop()

    def _blame_hung(self, mine: Tried) -> bool:
        """Record as failed the block that was at hand all the time; whether there was one.

        It was left at the end of the start before, too.
        """
        at = self._whereabouts.read()
        if at is None:
            return False
        left, at_hand = mine.left_of(self._left_by_others(at))
        if at_hand >= left.size:
            return False
        blame(self._assignment.plan, {int(left[at_hand]): _HUNG})
        self._tell_failed(1)
        say(f"hpcio: block {left[at_hand]} has failed: {_HUNG}", err=True)
        return True

    def _blame(self, deaths: Deaths, code: int, mine: Tried) -> None:
        """Say how a worker died, and of which block; that one may be recorded as failed."""
        ended, job = how_it_ended(code), environment.label()
        why = f"WorkerError: its process ended with {ended}; see the log of task {job}"
        at, kills = self._whereabouts.read(), environment.oom_kills()
        for_memory, self._oom_kills = kills > self._oom_kills, kills
        blocks = np.zeros(0, np.int64)
        if at is not None:
            self._died.append(at.attempt)
            blocks = self._left_by_others(at)
        left, at_hand = mine.left_of(blocks)
        of = self._name(int(left[at_hand])) if at_hand < left.size else "no trial"
        say(f"hpcio: at {of}: {why}", err=True)
        if for_memory and at_hand < left.size:  # with as much memory, it would die again
            why = NO_MEMORY.format(task=f"{job} (see its log)")
            blame(self._assignment.plan, {int(left[at_hand]): why}, "memory")
            self._tell_failed(1)
            return
        before = deaths.blamed
        deaths.left(blocks, mine, why)
        if deaths.blamed > before:
            self._tell_failed(deaths.blamed - before)

    def _name(self, block: int) -> str:
        """What people call a block."""
        plan = self._assignment.plan
        trial = int(plan.trials.index[plan.blocks.trial[block]])
        return Failure(block, trial, "", plan.counted).name


def _cancel_pending(plan: Plan, submission: int) -> None:
    """Cancel the tasks that have not begun; if SLURM does not answer, they find nothing to do."""
    try:
        if idle := pending_tasks(plan, submission):
            call(["scancel", "--quiet", "--state=PENDING", *idle])
    except ClusterError as error:
        say(f"hpcio: {error}", err=True)
