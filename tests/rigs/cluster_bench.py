"""A bench on a real SLURM: submissions of its plan, and what becomes of their tasks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import hpcio
import slurm
from slurm.submissions import records
from tests.rigs.bench import Bench
from tests.rigs.slurm import until
from tests.rigs.waiting import PATIENCE

HPCIO = str(Path(sys.executable).with_name("hpcio"))
# Nobody is taken for dead, and helped, only because the machine is busy.
OPTIONS = {"memory": "400MB", "walltime": "00:30:00", "stale": 3600.0}


class ClusterBench(Bench):
    """A bench whose plan is submitted."""

    def __init__(
        self,
        folder: Path,
        *,
        notes: Path | None = None,
        trials: int = 48,
        rows: int = 50,
        channels: int = 4,
    ) -> None:
        super().__init__(
            folder, notes=notes, trials=trials, rows=rows, channels=channels, sources="auto"
        )

    @property
    def func(self) -> str:
        """The function as one names it in the folder."""
        return f"{self.module}.py:double"

    def submit(self, tasks: int = 2, *, writer: str = "virtual", **options: Any) -> slurm.Submitted:
        return slurm.submit(self.plan(writer=writer), tasks=tasks, **{**OPTIONS, **options})

    def check(self, out: Path | None = None) -> None:
        # On a shared filesystem this client may have looked before it was there.
        until((out or self.out).exists, "the result")
        super().check(out)

    def finished(self, run: slurm.Submitted) -> None:
        """Wait for the end of a submission, and look at its result."""
        run.wait(timeout=PATIENCE)
        self.check()
        assert set(self.calls) == set(range(self.trials))

    def logs(self) -> str:
        """What tasks and finalizer have printed."""
        folder = Path(f"{self.out}.run", "logs")
        return "\n".join(f"{p.name}: {p.read_text()}" for p in sorted(folder.glob("*.log")))

    def outcome(self) -> dict[str, Any]:
        """What the finalizer has said."""
        found: dict[str, Any] = json.loads(Path(f"{self.out}.run", "outcome.json").read_text())
        return found

    def task_of(self, trial: int) -> tuple[str, int]:
        """Job and process that are at work on a trial, which must be held."""
        until(lambda: trial in self.calls, f"trial {trial}")
        call = next(call for call in reversed(self.all_calls) if call.trial == trial)
        jobs = records.jobs(hpcio.Plan.load(self.out), 1)
        assert jobs is not None
        return f"{jobs.arrays[0]}_{call.task}", call.pid


def kill_task(pid: int) -> None:
    """End both processes of an array task, of which one works: neither sees the other's end."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    os.kill(parent, signal.SIGKILL)


def hpcio_command(*words: str, **options: Any) -> str:
    """What the command prints; it must end well."""
    done = subprocess.run(
        [HPCIO, *words], capture_output=True, text=True,
        check=False, timeout=PATIENCE, **options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
