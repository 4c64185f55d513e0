"""What the journals say, shown while a run is at work and kept afterwards; it only reads.

This room uses `hpcio.running` and those below. The face and the command take from it progress, the
state of a run, pictures, and the page of the report. A new section of that page is an entry in
`SECTIONS`.
"""

from hpcio.watching.following import follow_status
from hpcio.watching.page import write_page
from hpcio.watching.pictures import COLOURS, canvas, draw_timeline, picture, summary
from hpcio.watching.progress import watch
from hpcio.watching.sections import SECTIONS, RunView, Section
from hpcio.watching.state import Queue, Status, WorkerStatus, as_json
from hpcio.watching.tables import print_status
from hpcio.watching.timeline import read_timeline
from hpcio.watching.watcher import queues, status

__all__ = [
    "COLOURS",
    "SECTIONS",
    "Queue",
    "RunView",
    "Section",
    "Status",
    "WorkerStatus",
    "as_json",
    "canvas",
    "draw_timeline",
    "follow_status",
    "picture",
    "print_status",
    "queues",
    "read_timeline",
    "status",
    "summary",
    "watch",
    "write_page",
]
