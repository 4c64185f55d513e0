"""Handing out batches to the workers of a dask client.

The dispatcher hears a few numbers of each batch; trials and results never travel. The journals in
the run directory say what is done.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import time
from collections import deque
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from distributed import Client, KilledWorker

from hpcio.errors import ClusterError, HpcioError, WorkerError
from hpcio.journals import ClaimFolder, read_logs, tried_since
from hpcio.planning import block_memory
from hpcio.running import FRUITLESS, Work, blame, failed_for_time, from_runs, runs
from slurm.live import worker
from slurm.mapping import map_blocks

__all__ = ["Dispatcher"]

# How often the dispatcher looks which workers there are, in seconds.
_LOOK_EVERY = 1.0
# How often, in seconds, a cluster without workers is asked for new ones, and how many times.
_ASK_EVERY, _ASK_TIMES = 60.0, 5
# If a worker has been at one block for so many seconds, others that have nothing to do take what
# lies behind it; how often, in seconds, that is looked for.
_LONG, _LOOK_FOR_STUCK = 20.0, 5.0
# A message hands out one part in this many of the range that a worker has left, in whole batches:
# a message through dask costs some milliseconds, however many batches it names.
_SHARE = 4


@dataclass(eq=False)
class DaskWorker:
    """A dask worker and the range of blocks that is its own."""

    address: str
    threads: int
    own: deque[np.ndarray] = field(default_factory=deque)
    busy: int = 0
    leaving: bool = False


@dataclass(frozen=True, eq=False)
class Flight:
    """Batches that were submitted together; of one that is stuck, others do what lies behind."""

    worker: DaskWorker
    blocks: np.ndarray
    name: str
    alone: bool
    stuck: bool = False


class Dispatcher:
    """One run through a client: hands out batches, and gives those of dead workers to others.

    A worker takes the batches of its own range first, which lie side by side in the source
    and in the result; when it has none left, it takes the last one of whoever has most.
    """

    def __init__(self, client: Client, work: Work, batches_per_worker: int) -> None:
        self.client, self.plan, self.retries = client, work.plan, work.retries
        self.trial_time = work.trial_time
        self.max_failed, self.failed, self.fruitless = work.max_failed, 0, 0
        self.session_id = secrets.token_hex(8)
        self.claims = ClaimFolder(work.plan.rundir.claims)
        self.known = {log.path for log in read_logs(work.plan)}
        # Batches that nobody has: ranges of workers to come, what is to be done again, and what may
        # have killed a worker.
        self.ranges = self._ranges(work, batches_per_worker)
        self.again: deque[np.ndarray] = deque()
        self.suspects: deque[np.ndarray] = deque()
        # Batches that workers have.
        self.workers: dict[str, DaskWorker] = {}
        self.flying: dict[Any, Flight] = {}
        self.submitted = 0
        # By name of a flight: how many of its blocks were left, and since when.
        self.left: dict[str, tuple[int, float]] = {}
        # How often a cluster that has lost all of its workers was asked for new ones, and when.
        self.asked, self.asked_at = 0, float("-inf")
        # Answers are waited for in threads, and come to this one by a queue.
        self.pool = ThreadPoolExecutor(32, thread_name_prefix="hpcio-answers")
        self.landed: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()

    def _ranges(self, work: Work, batches_per_worker: int) -> deque[deque[np.ndarray]]:
        """The batches of each worker, as many as are expected."""
        cluster = self.client.cluster
        wanted = len(getattr(cluster, "worker_spec", ()) or ())
        expected = max(wanted, len(self.client.nthreads()))
        mapped = map_blocks(
            work.blocks, block_memory(work.plan)[work.blocks], tasks=max(1, expected),
            batches_per_task=batches_per_worker, together=work.plan.group_of(work.blocks),
        )  # fmt: skip
        ranges: deque[deque[np.ndarray]] = deque(deque() for _ in range(mapped.tasks))
        for batch, task in zip(mapped.batches, mapped.task.tolist(), strict=True):
            ranges[task].append(batch)
        return ranges

    def run(self) -> None:
        """Try every block of the work."""
        self.claims.make()
        try:
            tried = self._try_all()
        except BaseException:
            self._abandon()
            raise
        finally:
            self.pool.shutdown(wait=False)
        if tried:
            self.client.run(worker.finish, self.session_id, on_error="ignore")

    def _try_all(self) -> bool:
        """Hand out all work; False if too many blocks failed before its end."""
        looked = looked_for_stuck = 0.0
        while self.flying or self._has_work():
            if self.failed > self.max_failed:
                self._abandon()
                return False
            if time.monotonic() - looked > _LOOK_EVERY:
                looked = time.monotonic()
                self._look_for_workers()
            if time.monotonic() - looked_for_stuck > _LOOK_FOR_STUCK:
                looked_for_stuck = time.monotonic()
                self._take_over()
            self._feed_all()
            with contextlib.suppress(queue.Empty):
                self._hear(*self.landed.get(timeout=_LOOK_EVERY))
        return True

    def _has_work(self) -> bool:
        own = any(w.own for w in self.workers.values())
        return bool(own or self.again or self.suspects or any(self.ranges))

    # ---- workers that come and go

    def _look_for_workers(self) -> None:
        failure = getattr(self.client.cluster, "failure", None)
        if failure is not None:
            raise failure
        if self.client.status != "running":
            raise ClusterError("The dask cluster has gone. Start it again, then resume.")
        there = self.client.nthreads()
        for address, threads in there.items():
            if address not in self.workers:
                self._welcome(address, threads)
        for address in [a for a in self.workers if a not in there]:
            self._let_go(self.workers.pop(address))
        if not there:
            self._ask_for_workers()

    def _ask_for_workers(self) -> None:
        """Have a cluster of this machine start the workers that dask has given up.

        dask removes a worker that takes longer to start anew than ``lost-worker-timeout``, as on a
        busy machine, and starts no other. The session would wait for ever.
        """
        cluster = self.client.cluster
        given_up = getattr(cluster, "worker_spec", None) and getattr(cluster, "workers", None) == {}
        if not given_up or time.monotonic() - self.asked_at < _ASK_EVERY:
            return
        if self.asked == _ASK_TIMES:
            raise ClusterError(
                "The workers of the dask cluster have ended, and no new ones start. Look at what "
                "they printed, then resume."
            )
        self.asked, self.asked_at = self.asked + 1, time.monotonic()
        cluster.scale(len(cluster.worker_spec))

    def _welcome(self, address: str, threads: int) -> None:
        self.asked = 0
        found = DaskWorker(address, threads)
        if self.ranges:
            found.own = self.ranges.popleft()
        self.workers[address] = found

    def _let_go(self, gone: DaskWorker) -> None:
        if gone.own:
            self.ranges.append(gone.own)
        # dask would keep batches that are bound to a dead worker for ever.
        for future in [f for f, flight in self.flying.items() if flight.worker is gone]:
            self.client.cancel([future], force=True)
            self._bury(self.flying.pop(future))

    # ---- batches that go out

    def _feed_all(self) -> None:
        if self.suspects:
            ready = [w for w in self.workers.values() if not w.leaving]
            if ready and not self.flying:
                self._submit(ready[0], self.suspects.popleft(), alone=True)
            return
        if any(flight.alone for flight in self.flying.values()):
            return
        for found in self.workers.values():
            stuck = sum(f.stuck and f.worker is found for f in self.flying.values())
            # One more than it can work on, so that the next is there when one is done; but nothing
            # that would wait behind a block that takes long.
            while not found.leaving and found.busy + stuck < found.threads + 1:
                batches = self._next(found)
                if not batches:
                    return
                self._submit(found, *batches)

    def _next(self, found: DaskWorker) -> list[np.ndarray]:
        """The batches that a worker is to do next, ascending; none if there are no more."""
        if self.again:
            return [self.again.popleft()]
        if not found.own and self.ranges:  # of a worker that has not come yet, or is gone
            found.own = self.ranges.popleft()
        if found.own:
            return [found.own.popleft() for _ in range(-(-len(found.own) // _SHARE))]
        richest = max(self.workers.values(), key=lambda w: len(w.own)).own
        return [richest.pop() for _ in range(-(-len(richest) // _SHARE))][::-1]

    def _submit(self, found: DaskWorker, *batches: np.ndarray, alone: bool = False) -> None:
        name = f"{self.session_id}-{self.submitted}"
        self.submitted += 1
        future = self.client.submit(
            worker.run_batches, self.plan.out, self.session_id, [runs(b) for b in batches],
            self.retries, self.max_failed, self.trial_time, name,
            key=f"hpcio-{name}", workers=[found.address], allow_other_workers=False, pure=False,
        )  # fmt: skip
        found.busy += 1
        self.flying[future] = Flight(found, np.concatenate(batches), name, alone)
        future.add_done_callback(lambda done: self.pool.submit(self._fetch, done))

    # ---- what lies behind a block that takes long

    def _take_over(self) -> None:
        """Give to workers that have nothing to do what others will not come to soon."""
        idle = any(w.busy == 0 and not w.leaving for w in self.workers.values())
        if self._has_work() or not idle:
            self.left.clear()
            return
        tried, now = tried_since(self.plan, self.known), time.monotonic()
        for future, flight in list(self.flying.items()):
            left, at_hand = tried.left_of(flight.blocks)
            since = self.left.get(flight.name)
            if since is None or since[0] != left.size:
                self.left[flight.name] = left.size, now
            elif now - since[1] > _LONG and at_hand < left.size and not flight.alone:
                self._give_away(future, flight, left, int(left[at_hand]))

    def _give_away(self, future: Any, flight: Flight, left: np.ndarray, at: int) -> None:
        """Give to others what is left of a flight behind the block at hand."""
        if self.claims.is_taken(flight.name):
            group_of = self.plan.group_of  # blocks of a sum stay together
            behind = left[group_of(left) > group_of(np.asarray(at))]
            kept = flight.blocks[~np.isin(flight.blocks, behind)]
            self.flying[future] = replace(flight, blocks=kept, stuck=True)
            if not behind.size:
                return
            # Its worker may answer to nobody.
            self.pool.submit(
                self.client.run, worker.give_away, flight.name, int(behind[0]),
                workers=[flight.worker.address], on_error="ignore",
            )  # fmt: skip
        else:  # it waits behind another one
            behind = left
            self.client.cancel([future], force=True)
            self.flying.pop(future)
            flight.worker.busy -= 1
        self.again.append(behind)

    # ---- answers that come back

    def _fetch(self, future: Any) -> None:
        # This runs in a thread. If a worker has died since, its answer is lost, and the wait lasts
        # until another worker has found that there is nothing left to do.
        try:
            answer: Any = future.result()
        except (Exception, CancelledError) as error:  # noqa: BLE001  (it is raised in the session)
            answer = error
        self.landed.put((future, answer))

    def _hear(self, future: Any, answer: Any) -> None:
        flight = self.flying.pop(future, None)
        if flight is None:
            return  # buried already
        flight.worker.busy -= 1
        if answer is None or isinstance(answer, KilledWorker | CancelledError):
            self._bury(flight)
            return
        if isinstance(answer, HpcioError):
            raise answer
        if isinstance(answer, BaseException):
            raise WorkerError(
                f"A worker could not run its blocks: {type(answer).__name__}: {answer}. "
                "Does it have the same Python environment, and see the same files?"
            ) from answer
        self.failed += answer["failed"]
        left = from_runs(answer["left"])
        left = left[np.isin(left, flight.blocks)]  # others may have been given some meanwhile
        if left.size and self.failed <= self.max_failed:
            # Its walltime is nearly over. Let it go; SLURM starts another.
            flight.worker.leaving = True
            self.again.append(left)
            self.client.retire_workers([flight.worker.address], close_workers=True)

    # ---- workers that die

    def _bury(self, flight: Flight) -> None:
        """Have what a dead worker left done again.

        The block at hand may have killed it, but so may that of any other thread of the
        worker. So suspects run again one at a time, with nothing beside them. A suspect whose
        worker dies then is to blame.
        """
        too_long = failed_for_time(self.plan, self.trial_time)
        tried = tried_since(self.plan, self.known)
        self.failed += int(np.isin(flight.blocks, tried.failed).sum())
        left, at_hand = tried.left_of(flight.blocks)
        if np.isin(too_long, flight.blocks).any():
            self.again.append(left)
            return
        claimed = self.claims.is_taken(flight.name)
        if left.size < flight.blocks.size:
            self.fruitless = 0
        elif claimed:
            self.fruitless += 1
        self._give_up_if_in_vain(left, at_hand)
        if not left.size:
            return
        if not claimed or at_hand == left.size:  # it only waited there, or had no block at hand
            self.again.append(left)
            return
        suspect = int(left[at_hand])
        if flight.alone:
            why = "WorkerError: its worker died each time it was computed"
            blame(self.plan, {suspect: why})
            self.failed += 1
            left = left[left != suspect]
        # Blocks of one sum stay together.
        together = self.plan.group_of(left) == self.plan.group_of(np.asarray(suspect))
        if together.any():
            self.suspects.append(left[together])
        if not together.all():
            self.again.append(left[~together])

    def _give_up_if_in_vain(self, left: np.ndarray, at_hand: int) -> None:
        if self.fruitless > FRUITLESS + 4 * (len(self.workers) + len(self.flying)):
            raise WorkerError(
                f"Workers have died {self.fruitless} times before they had finished a single "
                f"block, the last time at block {left[min(at_hand, left.size - 1)]}. "
                "See the logs of the tasks."
            )

    # ---- the end

    def _abandon(self) -> None:
        """Let workers end after the block at hand, and keep what they have done."""
        with contextlib.suppress(Exception):  # the reason why it ends is what counts
            self.client.cancel(list(self.flying), force=True)
            self.client.run(worker.stop, self.session_id, on_error="ignore")
            self.client.run(worker.finish, self.session_id, on_error="ignore")
