"""Ranks of one MPI job: ``mpirun -n R hpcio run ...``.

Rank 0 plans, publishes and prints; all ranks compute. The largest batches are assigned first, each
to the rank that has least to do so far. A rank that is done takes batches of others that nobody has
begun. As with every executor, the journals say what is done. Ranks exchange no data, unless the
writer does.

No rank waits for ever: an error on one rank ends all of them by ``MPI_Abort``, since the others may
be in a collective call that this one never makes.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from hpcio.errors import HpcioError, WorkerError
from hpcio.journals import ClaimFolder
from hpcio.machine import Launch, communicator, launched
from hpcio.planning import Plan, block_memory, check_memory, load_for_worker
from hpcio.running.attempt import Attempt, Stop
from hpcio.running.batch import run_batch
from hpcio.running.partition import batches_of, from_runs, runs
from hpcio.running.run import Work
from hpcio.words import print_traceback, say

__all__ = ["Ranks", "call_on_ranks", "share_out"]

T = TypeVar("T")

# Several batches for each rank even out trials of unequal cost.
BATCHES_PER_RANK = 8
# How often a waiting rank looks for a message, in seconds; MPI itself would use a whole core.
_LOOK_EVERY = 0.002
# A rank tells others of its failures whenever there is one more such part of how many may fail.
_TOLD_AT_ONCE = 100


def call_on_ranks(main: Callable[[Ranks], T]) -> T | None:
    """Call a function on rank 0, with an executor; all other ranks work for that executor.

    Parameters
    ----------
    main : callable
        It is called with a `Ranks`, the executor of :meth:`hpcio.Plan.run`.

    Returns
    -------
    object or None
        What `main` returns; None on the other ranks.

    Raises
    ------
    WorkerError
        If no launcher has started this process.

    Examples
    --------
    >>> call_on_ranks(lambda ranks: plan.run(ranks))  # doctest: +SKIP
    """
    launch = launched()
    if launch is None:
        raise WorkerError(
            "There are no ranks: start them with mpirun -n R hpcio run ..., or, from a login node "
            "of a SLURM cluster: hpcio submit --mpi --ntasks R ..."
        )
    world = communicator(launch)
    if launch.rank:
        _serve(world)
        return None
    ranks = Ranks(world, launch)
    try:
        result = main(ranks)
    except BaseException as error:
        if ranks.at_work or not isinstance(error, Exception | SystemExit | KeyboardInterrupt):
            _abort(world, error)
        ranks.close()
        raise
    ranks.close()
    return result


class Ranks:
    """Computes on the ranks of this job; made by `call_on_ranks`, on rank 0.

    Attributes
    ----------
    at_work : bool
        Whether the other ranks work. If so, an error can reach them only by ending them.
    ended : bool
        Whether the launcher ended an interrupted run; otherwise the run was told that the time of
        the job is nearly over.
    """

    about = ""

    def __init__(self, world: Any, launch: Launch) -> None:
        self._world, self._launch = world, launch
        self.at_work = self.ended = False

    def check(self, plan: Plan, memory: str | int | None) -> None:
        """Hold the largest block against a rank's share of this node's memory."""
        check_memory(plan, memory, share=self._launch.local)

    def execute(self, work: Work) -> None:
        """Try every block of the work; see `hpcio.running.Executor`."""
        ClaimFolder(work.plan.rundir.claims).make()
        task = {
            "out": work.plan.out, "blocks": runs(work.blocks), "retries": work.retries,
            "max_failed": work.max_failed, "trial_time": work.trial_time,
            "claim": secrets.token_hex(8),
        }  # fmt: skip
        self.at_work = True
        for rank in range(1, self._world.size):
            self._world.send(task, dest=rank)
        told = set(_work(self._world, task, work.plan))
        for rank in range(1, self._world.size):
            told |= set(_receive(self._world, rank))
        self.at_work = False
        if told:
            self.ended = told != {signal.SIGUSR1}
            raise KeyboardInterrupt

    def close(self) -> None:
        """Let the other ranks end."""
        for rank in range(1, self._world.size):
            self._world.send(None, dest=rank)


def share_out(sizes: np.ndarray, ranks: int) -> list[list[int]]:
    """Which batches each rank has. The largest go first, each to the rank that has least so far.

    Longest processing time first (Graham, SIAM J. Appl. Math. 17, 1969).

    Parameters
    ----------
    sizes : numpy.ndarray of int, shape (n,)
        Bytes of each batch.
    ranks : int

    Examples
    --------
    >>> share_out(np.array([1, 5, 3, 3]), 2)
    [[1, 0], [2, 3]]
    """
    load = np.zeros(ranks)
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for batch in np.argsort(-sizes, kind="stable").tolist():
        rank = int(load.argmin())
        load[rank] += max(1, int(sizes[batch]))
        shares[rank].append(batch)
    return shares


# ---------------------------------------------------------------------- on every rank


def _receive(world: Any, source: int) -> Any:
    """Wait for a message, and leave the core to whoever computes."""
    while not world.Iprobe(source=source):
        time.sleep(_LOOK_EVERY)
    return world.recv(source=source)


def _serve(world: Any) -> None:
    """Work for rank 0 until it has no more."""
    try:
        # Ctrl-C reaches all ranks, and USR1 (the end is near) is for ranks that work.
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        while (task := _receive(world, 0)) is not None:
            world.send(_work(world, task, load_for_worker(task["out"])), dest=0)
    except BaseException as error:  # noqa: BLE001  (all ranks end by it)
        _abort(world, error)


def _abort(world: Any, error: BaseException) -> None:
    """Say what happened, and end all ranks, since others may wait for this one in MPI for ever."""
    if isinstance(error, HpcioError):
        say(f"hpcio: rank {world.rank}: {error}", err=True)
    else:
        print_traceback(error)
    sys.stdout.flush()
    sys.stderr.flush()
    world.Abort(1)


def _work(world: Any, task: dict[str, Any], plan: Plan) -> list[int]:
    """Run this rank's batches, then those of others; return the signals that told it to stop."""
    batches = batches_of(plan, from_runs(task["blocks"]), world.size * BATCHES_PER_RANK)
    sizes = block_memory(plan)
    shares = share_out(np.asarray([int(sizes[b].sum()) for b in batches]), world.size)
    mine = shares[world.rank]
    # Of the others, take first what they would do last.
    others = [b for k in range(1, world.size) for b in shares[(world.rank + k) % world.size][::-1]]
    told: list[int] = []
    claims, name = ClaimFolder(plan.rundir.claims), task["claim"]
    failed = 0  # on this rank, as told to the others

    def stop(number: int, _: object) -> None:
        told.append(number)
        attempt.request_stop(at_once=number == signal.SIGTERM)

    def count_failed(attempt: Attempt) -> None:
        """Have all ranks stop when too many blocks have failed on all of them."""
        nonlocal failed
        most = task["max_failed"]
        if most - attempt.may_fail < failed + max(1, most // _TOLD_AT_ONCE):
            return
        failed = most - attempt.may_fail
        claims.take(f"{name}.failed.{world.rank}.{failed}")
        counts = [0] * world.size
        for claim in claims.names():
            if claim.startswith(f"{name}.failed."):
                rank, count = map(int, claim.split(".")[2:])
                counts[rank] = max(counts[rank], count)
        if sum(counts) > most:
            claims.take(f"{name}.stop")
            attempt.request_stop()

    attempt = Attempt(
        plan, f"r{world.rank}", retries=task["retries"], max_failed=task["max_failed"],
        trial_time=task["trial_time"],
        on_tick=count_failed,
    )  # fmt: skip
    numbers = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)
    with attempt:
        before = [signal.signal(number, stop) for number in numbers]
        try:
            with contextlib.suppress(Stop):
                for batch in [*mine, *others]:
                    if attempt.stopping or claims.is_taken(f"{name}.stop"):
                        break
                    if claims.take(f"{name}-{batch}"):
                        run_batch(attempt, batches[batch])
            if attempt.may_fail < 0:
                claims.take(f"{name}.stop")
            attempt.sync()
        except BaseException as error:  # noqa: BLE001  (all ranks end by it)
            # Abort before the attempt closes: all ranks together close files of parallel HDF5.
            _abort(world, error)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    return told
