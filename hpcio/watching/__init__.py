"""What the journals say, shown while a run is at work: progress, and the state at any time.

This room uses `hpcio.running` and those below, and only reads. The face and the command take
`watch` from it, which shows progress, and the state of a run as values, tables and JSON.
"""

from hpcio.watching.following import follow_status
from hpcio.watching.progress import watch, watch_probes
from hpcio.watching.state import Queue, Status, WorkerStatus, as_json, working
from hpcio.watching.tables import console_for, print_pairs, print_status
from hpcio.watching.watcher import Watcher, check_queues, queues, status

__all__ = [
    "Queue",
    "Status",
    "Watcher",
    "WorkerStatus",
    "as_json",
    "check_queues",
    "console_for",
    "follow_status",
    "print_pairs",
    "print_status",
    "queues",
    "status",
    "watch",
    "watch_probes",
    "working",
]
