"""dask-jobqueue, without what its import does to Ctrl-C.

Its module `runner` makes SIGINT end the process silently, for every program that imports
any part of the package. Here the handler that was there before is put back.
"""

from __future__ import annotations

import signal
import threading

_before = signal.getsignal(signal.SIGINT)

from dask_jobqueue.core import JobQueueCluster  # noqa: E402
from dask_jobqueue.slurm import SLURMJob  # noqa: E402

if threading.current_thread() is threading.main_thread() and _before is not None:
    signal.signal(signal.SIGINT, _before)

__all__ = ["JobQueueCluster", "SLURMJob"]
