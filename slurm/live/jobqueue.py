"""dask-jobqueue, without what its import does to Ctrl-C.

Its module `runner` sets a handler by which SIGINT ends the process silently, in every program that
imports any part of the package. Outside of the main thread the import fails, since only the main
thread may set handlers. So setting a handler does nothing during the import.
"""

from __future__ import annotations

import signal
from typing import Any

_signal = signal.signal


def _set_nothing(number: Any, handler: Any) -> Any:
    return signal.getsignal(number)


signal.signal = _set_nothing  # type: ignore[assignment]
try:
    from dask_jobqueue.core import JobQueueCluster
    from dask_jobqueue.slurm import SLURMJob
finally:
    signal.signal = _signal

__all__ = ["JobQueueCluster", "SLURMJob"]
