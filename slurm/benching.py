"""The processes of a benchmark as tasks of one job array."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hpcio.bench import Members, serve
from hpcio.errors import ClusterError, WorkerError
from slurm.site import (
    ENDED,
    call,
    check_options,
    environment,
    job_number,
    join_words,
    queued_jobs,
    read_site,
    settings,
)
from slurm.submissions import job_script, plain_path

__all__ = ["array_members"]

# How often, in seconds, SLURM is asked for the tasks.
_ASK = 10.0
# So long, in seconds, they have to end by themselves, and then when they are cancelled: SLURM kills
# after half a minute what does not end.
_GRACE, _CANCELLED = 10.0, 60.0


class _Array:
    """Tasks of a job array, which begin when SLURM lets them."""

    patience = math.inf

    def __init__(self, folder: Path, count: int, words: Sequence[str]) -> None:
        site = read_site()
        values = settings(site.cluster).values
        options = (*values["sbatch"], *join_words(words))
        check_options([o for o in options if not o.startswith(("--partition", "-p"))])
        own = [
            ("array", f"0-{count - 1}"), ("job-name", "hpcio bench"),
            ("output", f"{plain_path(folder)}/%a.log"), ("cpus-per-task", str(values["cpus"])),
            ("no-requeue", ""),  # it would begin with the first round again
            *((name, str(values[key])) for name, key in _OF_SETTINGS.items() if values[key]),
        ]  # fmt: skip
        script = folder / "team.sh"
        script.write_text(job_script(
            "Measures a file system, together with the others", "They meet in this folder", own,
            f"exec {shlex.quote(sys.executable)} -P -m slurm.benching {shlex.quote(str(folder))}",
            prologue=values["prologue"], options=options,
        ))  # fmt: skip
        self._folder, self._count, self._asked = folder, count, time.monotonic()
        self._job = job_number(
            call(["sbatch", "--parsable", str(script)], environment=environment.outside())
        )

    def check(self) -> None:
        if time.monotonic() - self._asked < _ASK:
            return
        self._asked = time.monotonic()
        with contextlib.suppress(ClusterError):  # asked again in a moment
            states = self._states()
            for index in range(self._count):
                state = states.get(index, "and SLURM has forgotten it")
                if index not in states or state in ENDED:
                    raise WorkerError(
                        f"Task {index} of the job {self._job} has ended ({state}). It says: "
                        f"{_last_words(self._folder / f'{index}.log')}"
                    )

    def _states(self) -> dict[int, str]:
        """What SLURM still knows of the tasks."""
        return {row.index: row.state for row in queued_jobs() if row.job == self._job}

    def end(self) -> None:
        if not self._have_ended(_GRACE):
            call(["scancel", "--quiet", str(self._job)])
            self._have_ended(_CANCELLED)

    def _have_ended(self, seconds: float) -> bool:
        """Whether all tasks end within so many seconds; waits for that."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(ClusterError):
                if ENDED.issuperset(self._states().values()):
                    return True
            time.sleep(0.5)
        return False


_OF_SETTINGS = {"partition": "partition", "time": "walltime", "mem": "memory"}


def _last_words(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return "nothing"
    return lines[-1] if lines else "nothing"


def array_members(folder: Path, count: int, words: Sequence[str] = ()) -> Members:
    """Tasks of one job array, with the user's defaults of submissions; for `hpcio.bench.Team`.

    Parameters
    ----------
    folder : pathlib.Path
        On a file system that all nodes share.
    count : int
    words : sequence of str
        Further options of sbatch.

    Raises
    ------
    ClusterError
        If SLURM refuses.
    """
    return _Array(folder, count, words)


if __name__ == "__main__":
    serve(
        sys.argv[1], os.environ["SLURM_ARRAY_TASK_ID"], host=os.environ.get("SLURMD_NODENAME", "")
    )
