"""Array tasks of a live cluster: started, ended and asked for together."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from hpcio.errors import ClusterError
from slurm.mapping import arrays_of
from slurm.site import ENDED, environment, job_number, refusal, require

__all__ = ["ArrayTask", "JobBatch"]


class ArrayTask(Protocol):
    """One task of a job array, which dask knows as a job.

    Attributes
    ----------
    number : int
        Of its worker.
    job_id : str
        ``ARRAY_TASK``, once it is submitted.
    """

    number: int
    job_id: str

    def job_file(self) -> AbstractContextManager[str]:
        """Its job script, for as long as sbatch reads it."""


class JobBatch:
    """Starts and ends array tasks together: one sbatch for many, one scancel for many.

    dask asks for workers one by one, but all those of a ``scale`` in the same turn of its
    event loop; what comes in one turn goes to SLURM in one call.
    """

    def __init__(self, *, max_array_size: int = 1, throttle: int | None = None) -> None:
        self._max_array_size, self._throttle = max_array_size, throttle
        self._starting: list[ArrayTask] = []
        self._ending: list[str] = []
        self._start: asyncio.Task[None] | None = None
        self._end: asyncio.Task[None] | None = None
        self.failure: ClusterError | None = None

    async def start(self, task: ArrayTask) -> None:
        """Submit a task along with all others of this turn."""
        self._starting.append(task)
        if self._start is None:
            self._start = asyncio.ensure_future(self._submit())
        await self._start

    async def end(self, job_id: str) -> None:
        """Cancel a task along with all others of this turn."""
        self._ending.append(job_id)
        if self._end is None:
            self._end = asyncio.ensure_future(self._cancel())
        await self._end

    async def alive(self, job_ids: Iterable[str]) -> set[str]:
        """The tasks that wait or run, by one call of squeue.

        Raises
        ------
        ClusterError
            If SLURM does not answer.
        """
        arrays = {job_id.partition("_")[0] for job_id in job_ids}
        return await _alive(arrays)

    async def _submit(self) -> None:
        tasks, self._starting, self._start = self._starting, [], None
        tasks.sort(key=lambda task: task.number)
        try:
            for run in _consecutive(tasks):
                for array in arrays_of(len(run), max_array_size=self._max_array_size):
                    part = run[array.first : array.first + array.size]
                    await _submit_array(part, self._throttle)
        except ClusterError as error:
            # Nobody would hear an error of the event loop. The cluster raises it instead.
            self.failure = error

    async def _cancel(self) -> None:
        ids, self._ending, self._end = self._ending, [], None
        if ids:
            # scancel says nothing of tasks that have gone already.
            await _call(["scancel", "--quiet", *ids])


def _consecutive(tasks: Sequence[ArrayTask]) -> Iterable[list[ArrayTask]]:
    """Runs of consecutive numbers: an array counts on from the number of its first task."""
    run: list[ArrayTask] = []
    for task in tasks:
        if run and task.number != run[-1].number + 1:
            yield run
            run = []
        run.append(task)
    if run:
        yield run


async def _submit_array(tasks: Sequence[ArrayTask], throttle: int | None) -> None:
    indices = f"0-{len(tasks) - 1}" + (f"%{throttle}" if throttle else "")
    with tasks[0].job_file() as script:
        command = ["sbatch", "--parsable", f"--array={indices}", str(script)]
        job = job_number(await _call(command))
    for index, task in enumerate(tasks):
        task.job_id = f"{job}_{index}"


async def _alive(arrays: Collection[str]) -> set[str]:
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


async def _call(command: Sequence[str]) -> str:
    """Run a command of SLURM beside the event loop."""
    require(command[0])
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment.outside(),
        )
    except OSError as error:  # there may be no memory, or no process left
        raise ClusterError(f"'{command[0]}' cannot be started: {error.strerror}.") from error
    out, err = await process.communicate()
    if process.returncode:
        raise refusal(command[0], (err or out).decode(errors="replace"))
    return out.decode(errors="replace")
