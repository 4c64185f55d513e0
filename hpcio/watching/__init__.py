"""What the journals say, shown while a run is at work and kept afterwards; it only reads.

This room uses `hpcio.running` and those below. The face and the command take from it progress, the
state of a run, pictures, and the page of the report. A new section of that page is an entry in
`SECTIONS`.
"""

from hpcio.watching.following import follow_status
from hpcio.watching.progress import watch
from hpcio.watching.state import Queue, Status, WorkerStatus, as_json, working
from hpcio.watching.tables import print_status
from hpcio.watching.watcher import Watcher, queues, status

__all__ = [
    "Queue",
    "Status",
    "Watcher",
    "WorkerStatus",
    "as_json",
    "follow_status",
    "print_status",
    "queues",
    "status",
    "watch",
    "working",
]
