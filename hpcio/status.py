"""The state of a run, for scripts, and what queues tell of it; see `hpcio.watching`."""

from hpcio.watching import Queue, Status, WorkerStatus, status

__all__ = ["Queue", "Status", "WorkerStatus", "status"]
