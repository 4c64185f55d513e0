"""dask-jobqueue, without what its import does to Ctrl-C.

Its module `runner` makes SIGINT end the process silently, for every program that imports
any part of the package; and it cannot be imported at all but in the main thread. Here its
wish is not heard.
"""

from __future__ import annotations

import signal
from typing import Any

_signal = signal.signal


def _unheard(number: Any, handler: Any) -> Any:
    return signal.getsignal(number)


signal.signal = _unheard  # type: ignore[assignment]
try:
    from dask_jobqueue.core import JobQueueCluster
    from dask_jobqueue.slurm import SLURMJob
finally:
    signal.signal = _signal

__all__ = ["JobQueueCluster", "SLURMJob"]
