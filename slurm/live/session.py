"""Running a plan from a live Python session, through any dask client.

The session hands out chunks and hears a few numbers of each; trials and results never
travel. What is done, the journals in the run directory say.
"""

from __future__ import annotations

import contextlib
import importlib.util
import queue
import secrets
import time
from collections import deque
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, KilledWorker

from hpcio.errors import ClusterError, HpcioError, WorkerError
from hpcio.journals.ledger import read_logs, tried_since
from hpcio.planning.limits import block_memory, parse_bytes
from hpcio.planning.plan import Plan
from hpcio.running.chunks import FRUITLESS, blame, from_runs, runs
from hpcio.running.run import Done, Work
from slurm import mapping
from slurm.live import worker

__all__ = ["DaskExecutor", "run"]

# How often the session looks which workers there are, in seconds.
_LOOK_EVERY = 1.0
# A worker gets this share of what is left of its range at a time, in whole chunks: a message
# through dask costs some milliseconds, however many chunks it names.
_SHARE = 4


def run(plan: Plan, client: Client, **options: Any) -> Done:
    """Run a plan on the workers of a dask client.

    Parameters
    ----------
    plan : Plan
    client : distributed.Client
        Of any cluster whose workers see the plan's files.
    **options
        As for :meth:`hpcio.Plan.run`: retries, gaps, fresh, progress, memory.

    Returns
    -------
    Done

    Examples
    --------
    >>> from distributed import Client, LocalCluster            # doctest: +SKIP
    >>> with LocalCluster(n_workers=2) as cluster, Client(cluster) as client:
    ...     done = run(plan, client)                            # doctest: +SKIP
    """
    return plan.run(DaskExecutor(client), **options)


class DaskExecutor:
    """Runs chunks on the workers of a dask client.

    Parameters
    ----------
    client : distributed.Client
    memory : int, optional
        Bytes that one worker may use; not looked at by default.
    chunks_per_worker : int
        Into how many chunks the range of a worker is cut; an idle one takes over others'.
    """

    def __init__(
        self,
        client: Client,
        *,
        memory: int | None = None,
        chunks_per_worker: int = mapping.CHUNKS_PER_TASK,
    ) -> None:
        self.client = client
        self.memory = memory
        self.chunks_per_worker = chunks_per_worker

    @property
    def about(self) -> str:
        """Where the dashboard of dask is."""
        return dashboard(self.client)

    def check(self, plan: Plan, memory: str | int | None) -> None:
        """Hold the largest block against the memory of one worker."""
        limit = self.memory if memory is None else parse_bytes(memory)
        if limit:
            mapping.check_memory(plan, limit)

    def execute(self, work: Work) -> None:
        """Try every block of the work; see `hpcio.running.run.Executor`."""
        _Session(self.client, work, self.chunks_per_worker).run()


def dashboard(there: Any) -> str:
    """Where the dashboard of a client or a cluster is; "" if it has none to show."""
    link = there.dashboard_link
    return f"dask dashboard {link}" if link and importlib.util.find_spec("bokeh") else ""


@dataclass(eq=False)
class _Worker:
    """A dask worker and the range of blocks that is its own."""

    address: str
    threads: int
    own: deque[np.ndarray] = field(default_factory=deque)
    busy: int = 0
    leaving: bool = False


@dataclass(frozen=True, eq=False)
class _Flight:
    """Some chunks that have been submitted together."""

    worker: _Worker
    blocks: np.ndarray
    name: str
    alone: bool


class _Session:
    """One run through a client: hands out chunks, and gives those of dead workers to others.

    A worker takes the chunks of its own range first, which lie side by side in the source
    and in the result; when it has none left, it takes the last one of whoever has most.
    """

    def __init__(self, client: Client, work: Work, chunks_per_worker: int) -> None:
        self.client, self.plan, self.retries = client, work.plan, work.retries
        self.max_failed, self.failed, self.fruitless = work.max_failed, 0, 0
        self.token = secrets.token_hex(8)
        sizes = block_memory(work.plan)[work.blocks]
        mapped = mapping.map_blocks(
            work.blocks, sizes, tasks=max(1, self._expected()), chunks_per_task=chunks_per_worker,
            unit=work.plan.unit,
        )  # fmt: skip
        self.ranges: deque[deque[np.ndarray]] = deque(deque() for _ in range(mapped.tasks))
        for chunk, task in zip(mapped.chunks, mapped.task.tolist(), strict=True):
            self.ranges[task].append(chunk)
        self.again: deque[np.ndarray] = deque()
        self.suspects: deque[np.ndarray] = deque()
        self.known = {log.path for log in read_logs(work.plan)}
        self.workers: dict[str, _Worker] = {}
        self.flying: dict[Any, _Flight] = {}
        self.landed: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self.submitted = 0
        self.pool = ThreadPoolExecutor(32, thread_name_prefix="hpcio-answers")

    def _expected(self) -> int:
        """How many workers there will be."""
        cluster = self.client.cluster
        wanted = len(getattr(cluster, "worker_spec", ()) or ())
        return max(wanted, len(self.client.nthreads()))

    def run(self) -> None:
        Path(self.plan.run_directory, "claims").mkdir(mode=0o700, exist_ok=True)
        try:
            looked = 0.0
            while self.flying or self._has_work():
                if self.failed > self.max_failed:
                    self._abandon()
                    return
                if time.monotonic() - looked > _LOOK_EVERY:
                    looked = time.monotonic()
                    self._look_for_workers()
                self._feed_all()
                with contextlib.suppress(queue.Empty):
                    self._hear(*self.landed.get(timeout=_LOOK_EVERY))
        except BaseException:
            self._abandon()
            raise
        finally:
            self.pool.shutdown(wait=False)
        self.client.run(worker.finish, self.token, on_error="ignore")

    def _has_work(self) -> bool:
        own = any(w.own for w in self.workers.values())
        return bool(own or self.again or self.suspects or any(self.ranges))

    def _look_for_workers(self) -> None:
        failure = getattr(self.client.cluster, "failure", None)
        if failure is not None:
            raise failure
        if self.client.status != "running":
            raise ClusterError("The dask cluster has gone. Start it again, then resume.")
        there = self.client.nthreads()
        for address, threads in there.items():
            if address not in self.workers:
                found = _Worker(address, threads)
                if self.ranges:
                    found.own = self.ranges.popleft()
                self.workers[address] = found
        for address in [a for a in self.workers if a not in there]:
            gone = self.workers.pop(address)
            if gone.own:
                self.ranges.append(gone.own)
            # dask would keep chunks that are bound to a dead worker for ever.
            for future in [f for f, flight in self.flying.items() if flight.worker is gone]:
                self.client.cancel([future], force=True)
                self._bury(self.flying.pop(future))

    def _feed_all(self) -> None:
        if self.suspects:
            ready = [w for w in self.workers.values() if not w.leaving]
            if ready and not self.flying:
                self._submit(ready[0], self.suspects.popleft(), alone=True)
            return
        if any(flight.alone for flight in self.flying.values()):
            return
        for found in self.workers.values():
            # One more than it can work on: the next chunk is there when one is done.
            while not found.leaving and found.busy < found.threads + 1:
                chunks = self._next(found)
                if not chunks:
                    return
                self._submit(found, *chunks)

    def _next(self, found: _Worker) -> list[np.ndarray]:
        """The chunks that a worker is to do next, ascending; none if there are no more."""
        if self.again:
            return [self.again.popleft()]
        if not found.own and self.ranges:  # of a worker that has not come yet, or is gone
            found.own = self.ranges.popleft()
        if found.own:
            return [found.own.popleft() for _ in range(-(-len(found.own) // _SHARE))]
        richest = max(self.workers.values(), key=lambda w: len(w.own)).own
        return [richest.pop() for _ in range(-(-len(richest) // _SHARE))][::-1]

    def _submit(self, found: _Worker, *chunks: np.ndarray, alone: bool = False) -> None:
        name = f"{self.token}-{self.submitted}"
        self.submitted += 1
        future = self.client.submit(
            worker.chunk, self.plan.out, self.token, [runs(c) for c in chunks], self.retries,
            self.max_failed, name,
            key=f"hpcio-{name}", workers=[found.address], allow_other_workers=False, pure=False,
        )  # fmt: skip
        found.busy += 1
        self.flying[future] = _Flight(found, np.concatenate(chunks), name, alone)
        future.add_done_callback(lambda done: self.pool.submit(self._fetch, done))

    def _fetch(self, future: Any) -> None:
        # In a thread: the answer of a worker that has died since is lost, and waited for
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
        found = flight.worker
        found.busy -= 1
        if isinstance(answer, KilledWorker | CancelledError):
            self._bury(flight)
            return
        if isinstance(answer, HpcioError):
            raise answer
        if isinstance(answer, BaseException):
            raise WorkerError(
                f"A worker could not run its chunk: {type(answer).__name__}: {answer}. "
                "Does it have the same Python environment, and see the same files?"
            ) from answer
        self.failed += answer["failed"]
        if self.failed > self.max_failed:
            return
        if answer["left"]:
            # Its walltime is nearly over: let it go, SLURM starts another.
            found.leaving = True
            self.again.append(from_runs(answer["left"]))
            self.client.retire_workers([found.address], close_workers=True)

    def _bury(self, flight: _Flight) -> None:
        """Do again what a dead worker has left.

        The block at hand is suspected to have killed it, but so is that of every other
        thread of the worker. Suspects are run again one at a time, with nothing beside
        them: what dies then is to blame.
        """
        left, at_hand = tried_since(self.plan, self.known).left_of(flight.blocks)
        claimed = Path(self.plan.run_directory, "claims", flight.name).exists()
        if left.size < flight.blocks.size:
            self.fruitless = 0
        elif claimed:
            self.fruitless += 1
        if self.fruitless > FRUITLESS + 4 * (len(self.workers) + len(self.flying)):
            raise WorkerError(
                f"Workers have died {self.fruitless} times before they had finished a single "
                f"block, the last time at block {left[min(at_hand, left.size - 1)]}. "
                "See the logs of the tasks."
            )
        if not left.size:
            return
        if not claimed or at_hand == left.size:  # it only waited there, or had no block at hand
            self.again.append(left)
            return
        suspect = left[at_hand]
        if flight.alone:
            why = "WorkerError: its worker died each time it was computed"
            blame(self.plan, int(suspect), why)
            self.failed += 1
            left = left[left != suspect]
        together = left // self.plan.unit == suspect // self.plan.unit
        if together.any():
            self.suspects.append(left[together])
        if not together.all():
            self.again.append(left[~together])

    def _abandon(self) -> None:
        """Let workers end after the block at hand, and keep what they have done."""
        with contextlib.suppress(Exception):  # the reason why it ends is what counts
            self.client.cancel(list(self.flying), force=True)
            self.client.run(worker.stop, self.token, on_error="ignore")
            self.client.run(worker.finish, self.token, on_error="ignore")
