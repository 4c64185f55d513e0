"""Running a plan from a live Python session, through any dask client."""

from __future__ import annotations

import importlib.util
from typing import Any

from distributed import Client

import hpcio
from hpcio.errors import ClusterError, Done, OptionError
from hpcio.machine import parse_bytes
from hpcio.planning import Plan
from hpcio.running import Work
from slurm.forecast import check_memory
from slurm.live import worker
from slurm.live.dispatch import Dispatcher
from slurm.mapping import BATCHES_PER_TASK

__all__ = ["DaskExecutor", "dashboard", "run"]


def run(plan: hpcio.Plan, client: Client, **options: Any) -> Done:
    """Run a plan on the workers of a dask client.

    Parameters
    ----------
    plan : Plan
    client : distributed.Client
        Of any cluster whose workers see the plan's files.
    **options
        As for :meth:`hpcio.Plan.run`: retries, gaps, exists, keep_done, progress, memory.

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
    """Runs batches on the workers of a dask client.

    Parameters
    ----------
    client : distributed.Client
    memory : int, optional
        Bytes that one worker may use; by default nothing is checked.
    chunks_per_worker : int
        Into how many batches the range of a worker is cut. An idle worker takes over batches
        of others.
    """

    def __init__(
        self,
        client: Client,
        *,
        memory: int | None = None,
        chunks_per_worker: int = BATCHES_PER_TASK,
    ) -> None:
        self.client = client
        self.memory = memory
        self.chunks_per_worker = chunks_per_worker

    @property
    def about(self) -> str:
        """Where the dashboard of dask is."""
        return dashboard(self.client)

    def check(self, plan: Plan, memory: str | int | None) -> None:
        """See that the client is at work; hold the largest block against the memory of a worker."""
        if not isinstance(self.client, Client):
            raise OptionError(
                f"{self.client!r:.100} is no client of dask. Give it distributed.Client(cluster)."
            )
        if self.client.status != "running":
            raise ClusterError("The client of dask is closed. Make another: Client(cluster).")
        limit = self.memory if memory is None else parse_bytes(memory)
        if limit:
            check_memory(plan, limit)

    def execute(self, work: Work) -> None:
        """Try every block of the work; see `hpcio.running.Executor`.

        Raises
        ------
        OptionError
            If trials have a limit of time, and workers are threads of this process.
        """
        if work.trial_time is not None and worker.process() in self._processes():
            raise OptionError(
                "A trial that takes longer than trial_time is ended with its worker, and here that "
                "is this process. Have workers in processes of their own: "
                "LocalCluster(processes=True)."
            )
        Dispatcher(self.client, work, self.chunks_per_worker).run()

    def _processes(self) -> set[tuple[str, int]]:
        return {tuple(found) for found in self.client.run(worker.process).values()}


def dashboard(there: Any) -> str:
    """Where the dashboard of a client or a cluster is; "" if it has none to show."""
    link = there.dashboard_link
    return f"dask dashboard {link}" if link and importlib.util.find_spec("bokeh") else ""
