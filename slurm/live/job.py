"""One array task of a live cluster: its job script, and the command of its worker."""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import Any

import dask
from distributed.core import Status

from hpcio.errors import ClusterError
from slurm.live.batch import JobBatch
from slurm.live.jobqueue import SLURMJob
from slurm.site import parse_time

__all__ = ["SLURMArrayJob", "configured", "working_seconds"]

# A worker ends this long before its walltime does, in seconds: time enough to finish the
# block at hand, since SLURM looks at limits every 30 s only.
_MARGIN = 60
# A worker without work ends this many seconds after it would have stopped working.
_LINGER = 10


def working_seconds(walltime: int) -> int:
    """For how many seconds of its walltime a worker takes work."""
    return max(walltime - _MARGIN, walltime // 2)


class SLURMArrayJob(SLURMJob):  # type: ignore[misc]  # dask-jobqueue is untyped
    """One array task, one dask worker.

    It is made by :class:`SLURMArrayCluster`, with the keywords of dask-jobqueue's `SLURMJob`.

    Parameters
    ----------
    batch : JobBatch
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
        batch: JobBatch | None = None,
        walltime: str | None = None,
        config_name: str | None = None,
        **keywords: Any,
    ) -> None:
        python = keywords.pop("python", None) or configured("python", config_name)
        local = keywords.pop("local_directory", None) or configured("local-directory", config_name)
        logs = keywords.pop("log_directory", None) or configured("log-directory", config_name)
        walltime = walltime or configured("walltime", config_name)
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
        self.batch = batch or JobBatch()
        self.number = int(match[0]) if (match := re.search(r"\d+$", str(name))) else 0
        self.log_directory = logs
        self._name_header()
        self._finish_command(str(name), walltime)

    def _name_header(self) -> None:
        """Name logs by array and task, where dask-jobqueue has one log for a job."""
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
        # A task that SLURM has started again is another worker, since the scheduler may still
        # hold on to the first one.
        task = f"$(({self.number} + ${{SLURM_ARRAY_TASK_ID:-0}}))"
        again = "${SLURM_RESTART_COUNT:+-r$SLURM_RESTART_COUNT}"
        command: str = self._command_template
        command = command.replace(f"--name {name}", f'--name {shlex.quote(base)}"{task}{again}"')
        command += _without_pages(command.split())
        self._until = ""
        seconds = parse_time(walltime) if walltime else None
        if seconds is not None:
            work = working_seconds(seconds)
            # Batches end then. A worker that has none ends a little later.
            self._until = f"export HPCIO_UNTIL=$(($(date +%s) + {work}))\n"
            if "--lifetime" not in command:
                command += f" --lifetime {work + _LINGER}s"
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


def configured(key: str, config_name: str | None) -> Any:
    """What dask's configuration says of a keyword; None if nothing."""
    section = f"jobqueue.{config_name or SLURMArrayJob.default_config_name()}"
    return dask.config.get(f"{section}.{key}", None)


def _without_pages(words: list[str]) -> str:
    """Options by which a worker serves no web pages, which have no password."""
    options = "" if {"--dashboard", "--no-dashboard"} & set(words) else " --no-dashboard"
    if "--dashboard-address" not in words:
        options += " --dashboard-address 127.0.0.1:0"
    return options


def _plain(text: str) -> str:
    """Text for a directive of sbatch, inside quotes; per cent signs stand for patterns there."""
    if re.search(r'["\\\n]', text):
        raise ClusterError(
            f"{text!r} cannot stand in a job script (quote, backslash or line end). Rename it."
        )
    return text.replace("%", "%%")
