"""Job arrays as dask clusters: one ``sbatch --array``, every array task one dask worker."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import re
import shlex
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import dask
from dask.utils import parse_bytes
from distributed import Client
from distributed.core import Status
from distributed.deploy.cluster import Cluster
from distributed.security import Security

from hpcio.errors import ClusterError
from hpcio.planning.limits import parse_bytes as parse_size
from hpcio.planning.plan import Plan
from hpcio.running.run import Work
from slurm.live.jobqueue import JobQueueCluster, SLURMJob
from slurm.live.session import DaskExecutor, dashboard
from slurm.mapping import (
    Description,
    arrays_of,
    check_memory,
    check_walltime,
    describe,
    measured_speed,
)
from slurm.site.commands import refusal, require
from slurm.site.partitions import format_time, parse_time, read_site
from slurm.submissions.queue import ENDED, FIRST_LOOK, LAST_LOOK

__all__ = ["SLURMArrayCluster", "SLURMArrayJob"]

# A worker ends this long before its walltime does, in seconds: time enough to finish the
# block at hand, since SLURM looks at limits every 30 s only.
MARGIN = 60
# A worker without work ends so many seconds after it would have stopped working.
LINGER = 10


def _working(walltime: int) -> int:
    """For how many seconds of its walltime a worker takes work."""
    return max(walltime - MARGIN, walltime // 2)


class Batch:
    """Starts and ends array tasks together: one sbatch for many, one scancel for many.

    dask asks for workers one by one, but all those of a ``scale`` in the same turn of its
    event loop; what comes in one turn goes to SLURM in one call.
    """

    def __init__(self) -> None:
        self._starting: list[SLURMArrayJob] = []
        self._ending: list[str] = []
        self._start: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None
        self.max_array_size = 1
        self.throttle: int | None = None
        self.failure: ClusterError | None = None

    async def start(self, job: SLURMArrayJob) -> None:
        """Submit a job along with all others of this turn."""
        self._starting.append(job)
        if self._start is None:
            self._start = asyncio.ensure_future(self._submit())
        await self._start

    async def end(self, job_id: str) -> None:
        """Cancel an array task along with all others of this turn."""
        self._ending.append(job_id)
        if self._end is None:
            self._end = asyncio.ensure_future(self._cancel())
        await self._end

    async def _submit(self) -> None:
        jobs, self._starting, self._start = self._starting, [], None
        jobs.sort(key=lambda job: job.number)
        try:
            for run in _consecutive(jobs):
                for array in arrays_of(len(run), max_array_size=self.max_array_size):
                    part = run[array.first : array.first + array.size]
                    await _submit_array(part, self.throttle)
        except ClusterError as error:
            # Raised in the event loop, nobody would hear it: the cluster says it instead.
            self.failure = error

    async def _cancel(self) -> None:
        ids, self._ending, self._end = self._ending, [], None
        if ids:
            # scancel says nothing of tasks that have gone already.
            await _call(["scancel", "--quiet", *ids])


def _consecutive(jobs: list[SLURMArrayJob]) -> Iterable[list[SLURMArrayJob]]:
    """Runs of consecutive numbers: an array counts on from the number of its first task."""
    run: list[SLURMArrayJob] = []
    for job in jobs:
        if run and job.number != run[-1].number + 1:
            yield run
            run = []
        run.append(job)
    if run:
        yield run


async def _submit_array(jobs: list[SLURMArrayJob], throttle: int | None) -> None:
    tasks = f"0-{len(jobs) - 1}" + (f"%{throttle}" if throttle else "")
    with jobs[0].job_file() as script:
        command = ["sbatch", "--parsable", f"--array={tasks}", str(script)]
        answer = await _call(command)
    match = re.match(r"(\d+)", answer)
    if match is None:
        raise ClusterError(f"'sbatch' gives no number of a job. It says: {answer.strip()}")
    for index, job in enumerate(jobs):
        job.job_id = f"{match[1]}_{index}"


async def _call(command: list[str]) -> str:
    """Run a command of SLURM beside the event loop."""
    require(command[0])
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    if process.returncode:
        raise refusal(command[0], (err or out).decode(errors="replace"))
    return out.decode(errors="replace")


class SLURMArrayJob(SLURMJob):  # type: ignore[misc]  # dask-jobqueue is untyped
    """One array task, one dask worker.

    It is made by :class:`SLURMArrayCluster`, with the keywords of dask-jobqueue's `SLURMJob`.

    Parameters
    ----------
    batch : Batch
        What submits this one together with its siblings.
    number : int
        Number of the worker.
    """

    job_header: str
    _command_template: str

    def __init__(
        self,
        scheduler: str | None = None,
        name: str | None = None,
        *,
        batch: Batch | None = None,
        walltime: str | None = None,
        config_name: str | None = None,
        **keywords: Any,
    ) -> None:
        section = f"jobqueue.{config_name or self.default_config_name()}"
        python = keywords.pop("python", None) or dask.config.get(f"{section}.python", None)
        local = keywords.pop("local_directory", None)
        local = local or dask.config.get(f"{section}.local-directory", None)
        log_directory = keywords.pop("log_directory", None)
        log_directory = log_directory or dask.config.get(f"{section}.log-directory", None)
        walltime = walltime or dask.config.get(f"{section}.walltime", None)
        super().__init__(
            scheduler=scheduler,
            name=name,
            walltime=walltime,
            config_name=config_name,
            # Paths go into a shell script.
            python=shlex.quote(str(python or sys.executable)),
            local_directory=None if local is None else shlex.quote(str(local)),
            processes=1,
            **keywords,
        )
        self.batch = batch or Batch()
        self.number = int(match[0]) if (match := re.search(r"\d+$", str(name))) else 0
        self.log_directory = log_directory
        self._name_header()
        self._finish_command(str(name), walltime)

    def _name_header(self) -> None:
        """Logs by array and task, in place of stock's one log for a job."""
        lines = [
            line
            for line in self.job_header.splitlines()
            if not line.startswith(("#SBATCH -J", "#SBATCH -e ", "#SBATCH -o "))
        ]
        named = [f'#SBATCH -J "{_plain(self.job_name)}"'] if self.job_name else []
        if self.log_directory is not None:
            log = f"{_plain(str(self.log_directory))}/{_plain(self.job_name or 'worker')}-%A_%a"
            named += [f'#SBATCH -o "{log}.log"', "#SBATCH --open-mode=append"]
            os.makedirs(self.log_directory, exist_ok=True)
        named = [n for n in named if not any(skip in n for skip in self.job_directives_skip)]
        self.job_header = "\n".join([*named, *lines])

    def _finish_command(self, name: str, walltime: str | None) -> None:
        """Name the worker after its array task, and end it before its walltime."""
        base = name.removesuffix(str(self.number))
        # A task that SLURM has started again is another worker: the scheduler may still hold
        # on to its first copy.
        task = f"$(({self.number} + ${{SLURM_ARRAY_TASK_ID:-0}}))"
        again = "${SLURM_RESTART_COUNT:+-r$SLURM_RESTART_COUNT}"
        command: str = self._command_template
        command = command.replace(f"--name {name}", f'--name {shlex.quote(base)}"{task}{again}"')
        # The pages of a worker have no password, and nobody asked for them.
        words = command.split()
        if not {"--dashboard", "--no-dashboard"} & set(words):
            command += " --no-dashboard"
        if "--dashboard-address" not in words:
            command += " --dashboard-address 127.0.0.1:0"
        seconds = parse_time(walltime) if walltime else None
        self._until = ""
        if seconds is not None:
            work = _working(seconds)
            # Chunks end then; a worker that has none ends a little later.
            self._until = f"export HPCIO_UNTIL=$(($(date +%s) + {work}))\n"
            if "--lifetime" not in command:
                command += f" --lifetime {work + LINGER}s"
        self._command_template = command

    def job_script(self) -> str:
        """The script that is submitted; its directives may be completed by sbatch's options."""
        prologue = "\n".join(filter(None, self._job_script_prologue))
        return (
            f"{self.shebang}\n\n{self.job_header}\n"
            + (f"{prologue}\n" if prologue else "")
            # The worker takes the place of the shell, so that signals reach it.
            + f"{self._until}exec {self._command_template}\n"
        )

    async def start(self) -> None:
        """Ask SLURM for this task, along with its siblings."""
        await self.batch.start(self)
        self.status = Status.running

    async def close(self) -> None:
        """Cancel this task, along with its siblings."""
        if self.job_id and self.status != Status.closed:
            self.status = Status.closed
            await self.batch.end(self.job_id)
        self.status = Status.closed
        self._event_finished.set()


def _plain(text: str) -> str:
    """Text for a directive of sbatch, inside quotes; per cent signs stand for patterns there."""
    if re.search(r'["\\\n]', text):
        raise ClusterError(
            f"{text!r} cannot stand in a job script (quote, backslash or line end). Rename it."
        )
    return text.replace("%", "%%")


# Tasks in a row that end before their worker has ever been seen: something is wrong with all.
_STILLBORN = 5


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
        section = f"jobqueue.{config_name or SLURMArrayJob.default_config_name()}"
        configured = {
            key: dask.config.get(f"{section}.{key}", None)
            for key in ("cores", "memory", "walltime", "queue", "shared-temp-directory",
                        "log-directory", "scheduler-options")
        }  # fmt: skip
        cores = cores or configured["cores"] or 1
        memory = memory or configured["memory"]
        if memory is None:
            raise ClusterError("How much memory does a task need? Say memory='4GB', or so.")
        walltime = walltime or configured["walltime"]
        queue = partition or queue or configured["queue"]
        self.task_memory = int(parse_bytes(memory))
        self.task_seconds = parse_time(walltime) if walltime else None
        if queue == "auto":
            queue = self.site.smallest_fitting(
                cpus=cores, memory=self.task_memory, seconds=self.task_seconds
            ).name
        elif queue is not None:
            self.site.partition(queue)  # says which there are
        self.partition = queue
        self.probe = probe
        self._batch = Batch()
        self._batch.throttle = throttle
        self._batch.max_array_size = self.site.max_array_size
        self._supervisor: asyncio.Task[None] | None = None
        self._replacing: asyncio.Task[None] | None = None
        self._left = asyncio.Event()
        self._seen: set[str] = set()
        self._stillborn = 0
        shared = os.path.expanduser(
            os.path.expandvars(shared_temp_directory or configured["shared-temp-directory"] or ".")
        )
        self.folder = Path(tempfile.mkdtemp(prefix=".hpcio-cluster-", dir=os.path.abspath(shared)))
        # Also when nobody closes the cluster, or its making fails.
        self._tidy = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        options = dict(scheduler_options or configured["scheduler-options"] or {})
        # The dashboard has no password: it is for this machine, and for ssh tunnels to it.
        options.setdefault("dashboard_address", "127.0.0.1:0")
        try:
            super().__init__(
                n_workers=0,
                queue=queue,
                memory=memory,
                cores=cores,
                walltime=walltime,
                security=security,
                log_directory=str(log_directory or configured["log-directory"] or self.folder),
                shared_temp_directory=str(self.folder),
                name=name or f"hpcio-{self.folder.name.rpartition('-')[2]}",
                scheduler_options=options,
                config_name=config_name,
                batch=self._batch,
                **keywords,
            )
        except BaseException:
            self._tidy()
            raise
        wanted = n_workers or tasks
        if wanted:
            self.scale(wanted)
        if wanted and not self.asynchronous:
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
            check_walltime(plan, _working(self.task_seconds), bytes_per_second=speed)

    def execute(self, work: Work) -> None:
        """Run the blocks of a plan on the array tasks; see `hpcio.running.run.Executor`."""
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
            # Cancelled in the middle, it would leave a job that nobody knows of.
            await self._replacing
        try:
            await super()._close()
        finally:
            self._tidy()

    def _update_worker_status(self, op: str, msg: Any) -> None:
        # Stock SpecCluster cancels the job of a worker that was away for 15 s. SLURM may be
        # starting it again just then: it is asked instead (see `_supervise`).
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
            # A worker that has left is a reason to look sooner, yet never in a hurry.
            await asyncio.sleep(FIRST_LOOK)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._left.wait(), delay - FIRST_LOOK)
            delay = FIRST_LOOK if self._left.is_set() else min(delay * 1.5, LAST_LOOK)
            self._left.clear()
            jobs = {n: j for n, j in self.workers.items() if j.job_id and n in self.worker_spec}
            if not jobs or self.failure is not None:
                continue
            try:
                alive = await _alive({job.job_id.partition("_")[0] for job in jobs.values()})
            except ClusterError:
                continue  # it does not answer: no news is no bad news
            lost = [name for name, job in jobs.items() if job.job_id not in alive]
            if lost:
                delay = FIRST_LOOK
                self._replacing = asyncio.ensure_future(self._replace(lost))
                await asyncio.shield(self._replacing)

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


async def _alive(arrays: set[str]) -> set[str]:
    """The array tasks that wait or run, by one call of squeue."""
    try:
        answer = await _call(
            ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(arrays)}",
             "--Format=JobArrayID:40,State:20"]
        )  # fmt: skip
    except ClusterError as error:
        if "Invalid job id" in str(error):  # SLURM has forgotten them, as it does after minutes
            return set()
        raise
    rows = (line.split() for line in answer.splitlines())
    return {row[0] for row in rows if len(row) == 2 and row[1] not in ENDED}


def _without_restart(name: str) -> str:
    """The name that a worker had before SLURM started it again."""
    return re.sub(r"-r\d+$", "", name)
