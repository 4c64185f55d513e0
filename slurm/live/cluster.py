"""Job arrays as dask clusters: one ``sbatch --array``, every array task one dask worker."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from dask.utils import parse_bytes
from distributed import Client
from distributed.core import Status
from distributed.deploy.cluster import Cluster
from distributed.security import Security

from hpcio.errors import ClusterError
from hpcio.machine import parse_bytes as parse_size
from hpcio.planning import Plan
from hpcio.running import Work
from slurm.forecast import Description, check_memory, check_walltime, describe, measured_speed
from slurm.live.batch import JobBatch
from slurm.live.job import SLURMArrayJob, configured, working_seconds
from slurm.live.jobqueue import JobQueueCluster
from slurm.live.session import DaskExecutor, dashboard
from slurm.site import FIRST_LOOK, LAST_LOOK, format_time, parse_time, read_site

__all__ = ["SLURMArrayCluster"]

# If this many tasks end before their worker was ever seen, something is wrong with all of them.
_STILLBORN = 5


@dataclass(frozen=True)
class TaskSize:
    """What each task of a cluster is given, in the words of dask-jobqueue."""

    memory: str
    cores: int
    walltime: str | None

    @classmethod
    def asked(
        cls, memory: str | None, cores: int | None, walltime: str | None, config_name: str | None
    ) -> Self:
        """What was asked for, and dask's configuration for the rest."""
        memory = memory or configured("memory", config_name)
        if memory is None:
            raise ClusterError("How much memory does a task need? Say memory='4GB', or so.")
        cores = cores or configured("cores", config_name) or 1
        return cls(memory, cores, walltime or configured("walltime", config_name))

    @property
    def nbytes(self) -> int:
        """Its memory."""
        return int(parse_bytes(self.memory))

    @property
    def seconds(self) -> int | None:
        """Its walltime; None if it has none."""
        return parse_time(self.walltime) if self.walltime else None


class SLURMArrayCluster(JobQueueCluster):  # type: ignore[misc]  # dask-jobqueue is untyped
    """A dask cluster whose workers are the tasks of SLURM job arrays.

    Parameters
    ----------
    n_workers, tasks : int
        Array tasks to start with; two names of one thing.
    partition, queue : str
        Where to run; two names of one thing. ``"auto"`` takes the smallest partition that
        fits.
    memory : str
        Of each task, such as ``"8GB"``.
    cores : int
        Of each task; the threads of its worker.
    walltime : str
        Of each task, such as ``"01:00:00"``. Workers end themselves before it, and are
        replaced as long as they are wanted.
    throttle : int, optional
        How many tasks of an array may run at a time (the ``%`` of ``sbatch --array``).
    probe : bool
        Before a plan runs, compute a few trials here, and refuse the plan if its largest trial
        would take longer than the walltime.
    security : Security, True, or None
        True makes temporary certificates that only you can read; ``None`` must be asked for,
        since an open dask port lets any user of the node run code as you.
    log_directory : str, optional
        Where logs stay, one ``JOB-ARRAY_TASK.log`` for each task; by default they go with
        the cluster.
    shared_temp_directory : str, optional
        A folder that the nodes see; the working directory by default. A private folder in it
        holds certificates and logs until the cluster is closed.
    **keywords
        All others of `dask_jobqueue.SLURMCluster`, and its ``jobqueue.yaml``: account,
        job_extra_directives, job_script_prologue, interface, nanny, local_directory ...

    Raises
    ------
    ClusterError
        If there is no SLURM here, no such partition, or nothing fits.

    Examples
    --------
    >>> with SLURMArrayCluster(tasks=64, memory="8GB", walltime="01:00:00") as cluster:
    ...     plan.run(cluster)                                        # doctest: +SKIP
    """

    job_cls: ClassVar[type[SLURMArrayJob]] = SLURMArrayJob

    def __init__(
        self,
        n_workers: int = 0,
        *,
        tasks: int = 0,
        partition: str | None = None,
        queue: str | None = None,
        memory: str | None = None,
        cores: int | None = None,
        walltime: str | None = None,
        throttle: int | None = None,
        probe: bool = False,
        security: Security | bool | None = True,
        log_directory: str | os.PathLike[str] | None = None,
        shared_temp_directory: str | os.PathLike[str] | None = None,
        name: str | None = None,
        scheduler_options: dict[str, Any] | None = None,
        config_name: str | None = None,
        **keywords: Any,
    ) -> None:
        self.site = read_site()
        self.probe = probe
        task = TaskSize.asked(memory, cores, walltime, config_name)
        self.task_memory, self.task_seconds = task.nbytes, task.seconds
        self.partition = self.site.choose(
            partition or queue or configured("queue", config_name),
            cpus=task.cores, memory=task.nbytes, seconds=task.seconds,
        )  # fmt: skip
        self._batch = JobBatch(max_array_size=self.site.max_array_size, throttle=throttle)
        self._prepare_supervision()
        self._make_folder(shared_temp_directory or configured("shared-temp-directory", config_name))
        logs = log_directory or configured("log-directory", config_name) or self.folder
        options = scheduler_options or configured("scheduler-options", config_name) or {}
        try:
            super().__init__(
                n_workers=0,
                queue=self.partition,
                memory=task.memory,
                cores=task.cores,
                walltime=task.walltime,
                security=security,
                log_directory=str(logs),
                shared_temp_directory=str(self.folder),
                name=name or f"hpcio-{self.folder.name.rpartition('-')[2]}",
                # The dashboard has no password: it is for this machine, and for tunnels to it.
                scheduler_options={"dashboard_address": "127.0.0.1:0", **options},
                config_name=config_name,
                batch=self._batch,
                **keywords,
            )
        except BaseException:
            self._tidy()
            raise
        self._start_with(n_workers or tasks)

    def _prepare_supervision(self) -> None:
        self._supervisor: asyncio.Task[None] | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._left = asyncio.Event()
        self._seen: set[str] = set()
        self._stillborn = 0

    def _make_folder(self, shared: str | os.PathLike[str] | None) -> None:
        """A private folder that the nodes see, for certificates and logs."""
        where = os.path.abspath(os.path.expanduser(os.path.expandvars(shared or ".")))
        self.folder = Path(tempfile.mkdtemp(prefix=".hpcio-cluster-", dir=where))
        # It goes even if nobody closes the cluster, or if making it fails.
        self._tidy = weakref.finalize(self, remove_folder, self.folder)

    def _start_with(self, tasks: int) -> None:
        """Ask for the first tasks; say so at once if SLURM refuses them."""
        if not tasks:
            return
        self.scale(tasks)
        if not self.asynchronous:
            self.sync(self._correct_state)
            if self.failure is not None:
                self.close()
                raise self.failure

    def describe(self, plan: Plan, *, tasks: int | None = None) -> Description:
        """Say how a plan maps to this cluster's tasks, and what they need; `print` it.

        Some trials are computed here to measure the speed.

        Parameters
        ----------
        plan : Plan
        tasks : int, optional
            How many; by default those that the cluster has.
        """
        return describe(
            plan, tasks=tasks or max(1, len(self.worker_spec)), memory=self.task_memory,
            walltime=None if self.task_seconds is None else format_time(self.task_seconds),
            max_array_size=self.site.max_array_size,
        )  # fmt: skip

    # ---- an executor of plans

    @property
    def about(self) -> str:
        """Where the dashboard of dask is."""
        return dashboard(self)

    def check(self, plan: Plan, memory: str | int | None) -> None:
        """Hold the largest block of a plan against memory and walltime of a task."""
        check_memory(plan, self.task_memory if memory is None else parse_size(memory))
        if self.probe and self.task_seconds is not None:
            speed = measured_speed(plan)
            check_walltime(plan, working_seconds(self.task_seconds), bytes_per_second=speed)

    def execute(self, work: Work) -> None:
        """Run the blocks of a plan on the array tasks; see `hpcio.running.Executor`."""
        if not self.worker_spec and self._adaptive is None:
            raise ClusterError("The cluster has no tasks. Say cluster.scale(n), or adapt().")
        with Client(self) as client:
            DaskExecutor(client, memory=self.task_memory).execute(work)

    @property
    def failure(self) -> ClusterError | None:
        """Why no more tasks are started: what sbatch said, or that they end at once."""
        return self._batch.failure

    # ---- names

    def new_worker_spec(self) -> dict[str, Any]:
        """Name and specification of one more worker; a number is never used again."""
        spec = {self._new_worker_name(self._i): self.new_spec}
        self._i += 1
        return spec

    async def scale_down(self, workers: Iterable[str]) -> None:
        """Cancel the array tasks of some workers."""
        await super().scale_down([_without_restart(str(w)) for w in workers])

    # ---- certificates

    def _get_worker_security(self, security: Security | None) -> Security | None:
        """Keep temporary certificates where the nodes can read them, and only you."""
        if security is None:
            return None
        shared = copy.copy(security)
        for key, value in security.get_tls_config_for_role("worker").items():
            if value is not None and "\n" in value:  # the certificate itself, not its path
                path = self.folder / f"{key}.pem"
                path.touch(mode=0o600)
                path.write_text(value)
                setattr(
                    shared, "tls_ca_file" if key == "ca_file" else f"tls_worker_{key}", str(path)
                )
        return shared

    # ---- lost and found

    async def _start(self) -> None:
        await super()._start()
        self._supervisor = asyncio.ensure_future(self._supervise())

    async def _close(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
        if self._replacing is not None:
            # If it were cancelled in the middle, a job would be left that nobody knows of.
            await self._replacing
        try:
            await super()._close()
        finally:
            self._tidy()

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # The stock SpecCluster cancels the job of a worker that was away for 15 s. But SLURM may
        # be starting it again just then, so we ask SLURM instead (see `_supervise`).
        if op == "add":
            self._seen |= {_without_restart(str(w["name"])) for w in msg["workers"].values()}
            self._stillborn = 0
        else:
            self._left.set()
        Cluster._update_worker_status(self, op, msg)

    async def _supervise(self) -> None:
        """Ask SLURM now and then which tasks have ended, and replace those."""
        delay = FIRST_LOOK
        while True:
            # If a worker has left, look sooner, but not at once.
            await asyncio.sleep(FIRST_LOOK)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), delay - FIRST_LOOK)
            delay = FIRST_LOOK if self._left.is_set() else min(delay * 1.5, LAST_LOOK)
            self._left.clear()
            lost = await self._lost()
            if lost:
                delay = FIRST_LOOK
                self._replacing = asyncio.ensure_future(self._replace(lost))
                await asyncio.shield(self._replacing)

    async def _lost(self) -> list[str]:
        """The workers whose tasks have ended, as far as SLURM says."""
        jobs = {n: j for n, j in self.workers.items() if j.job_id and n in self.worker_spec}
        if not jobs or self.failure is not None:
            return []
        try:
            alive = await self._batch.alive(job.job_id for job in jobs.values())
        except ClusterError:  # SLURM did not answer; assume that all still run
            return []
        return [name for name, job in jobs.items() if job.job_id not in alive]

    async def _replace(self, lost: list[str]) -> None:
        self._stillborn += sum(name not in self._seen for name in lost)
        if self._stillborn >= _STILLBORN:
            self._batch.failure = ClusterError(
                f"{self._stillborn} array tasks have ended before their worker could start. "
                f"The log of the last one says:\n{self._last_log()}"
            )
            return
        for name in lost:
            self.worker_spec.pop(name, None)
            self.workers.pop(name).status = Status.closed
            self.worker_spec.update(self.new_worker_spec())
        await self._correct_state()

    def _last_log(self) -> str:
        logs = sorted(
            Path(self._dummy_job.log_directory).glob("*.log"), key=lambda p: p.stat().st_mtime
        )
        return logs[-1].read_text(errors="replace")[-2000:] if logs else "nothing"


def _without_restart(name: str) -> str:
    """The name that a worker had before SLURM started it again."""
    return re.sub(r"-r\d+$", "", name)


def remove_folder(folder: Path) -> None:
    """Remove the folder of a session, though tasks that are just starting make their logs in it."""
    # Under another name nobody finds it. Otherwise a log that appears meanwhile would keep it.
    gone = folder.with_name(f"{folder.name}.old")
    with contextlib.suppress(OSError):
        folder.rename(gone)
        for _ in range(3):  # a log that was on its way then may come in between
            shutil.rmtree(gone, ignore_errors=True)
