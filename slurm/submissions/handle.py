"""A run that was submitted: what one can ask of it, and do with it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any

from hpcio.errors import ClusterError
from hpcio.journals import published
from hpcio.planning import RunPolicy, load_plan
from hpcio.results import open as open_result
from hpcio.running import Nobody, execute
from slurm.site import FIRST_LOOK, LAST_LOOK, SubmitOptions, call, require
from slurm.submissions import records
from slurm.submissions.queue import Queue, living_rows, read_queue
from slurm.submissions.sending import submit_missing

__all__ = ["Submitted", "attach"]


@dataclass(frozen=True)
class Submitted:
    """A run that was submitted.

    Attributes
    ----------
    out : str
        The result, whose run directory holds all there is to know.
    """

    out: str

    def status(self) -> Any:
        """How far it is, from its journals; see `hpcio.watching.status`."""
        from hpcio.watching import status

        return status(self.out)

    def queue(self) -> Queue | None:
        """What SLURM says of its jobs; None if it was never submitted."""
        return read_queue(load_plan(self.out))

    def wait(self, *, timeout: float | None = None) -> None:
        """Wait until no job of the run is left.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at the most.

        Raises
        ------
        TimeoutError
            If jobs are left then.
        ClusterError
            If there is no SLURM on this machine.
        """
        end = None if timeout is None else time.monotonic() + timeout
        delay = FIRST_LOOK
        while self._at_work():
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"'{self.out}' is not finished after {timeout:.0f} s.")
            time.sleep(delay)
            delay = min(delay * 1.5, LAST_LOOK)

    def _at_work(self) -> bool:
        try:
            return bool(living_rows(load_plan(self.out)))
        except ClusterError:  # SLURM did not answer; assume that jobs still run
            require("squeue")  # of where there is none, nobody waits
            return True

    def result(self, *, timeout: float | None = None) -> Any:
        """Wait for the result and open it, as `hpcio.open` does.

        Raises
        ------
        BlocksFailed
            If blocks failed, or their tasks did not live to compute them.
        TimeoutError
        """
        self.wait(timeout=timeout)
        plan = load_plan(self.out)
        if not published(plan):
            # Says which blocks are missing, and why.
            execute(plan, Nobody(), policy=RunPolicy())
        return open_result(self.out)

    def cancel(self) -> None:
        """Cancel all jobs of the run; what is done is kept, and can be resumed."""
        plan, stopped = load_plan(self.out), 0
        # Its finalizer might be about to submit another pass.
        while (last := records.newest(plan)) is not None and last.number > stopped:
            stopped = last.number
            records.stop(plan, stopped)
            jobs = sorted({row.job for row in living_rows(plan)})
            if jobs:
                call(["scancel", "--quiet", *map(str, jobs)])

    def resume(self, **options: Any) -> Submitted:
        """Submit what is missing; options as for `submit`, by default as the last time."""
        plan = load_plan(self.out)
        last = records.newest(plan)
        before = last.options.said() if last else {}
        submit_missing(plan, SubmitOptions.of({**before, **options}))
        return Submitted(plan.out)


def attach(out: str | os.PathLike[str]) -> Submitted:
    """A run that was submitted before, by whomever.

    Examples
    --------
    >>> slurm.attach("out.h5").wait()                                # doctest: +SKIP
    """
    return Submitted(load_plan(out).out)
