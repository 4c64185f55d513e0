"""The state of a run, for scripts, and what queues tell of it; see `hpcio.watching`."""

from hpcio.watching import (
    Queue,
    Status,
    Watcher,
    WorkerStatus,
    as_json,
    queues,
    status,
    working,
)

__all__ = [
    "Queue",
    "Status",
    "Watcher",
    "WorkerStatus",
    "as_json",
    "queues",
    "status",
    "working",
]
