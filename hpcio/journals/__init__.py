"""What is done: the run directory, the journals in it, and what they say together.

This room uses `hpcio.planning` and those below. Others append to a `Journal`, and ask a `Ledger`
which attempt counts for each block. Claims and the usage of processes lie here, too.
"""

from hpcio.journals.claims import ClaimFolder
from hpcio.journals.journal import (
    DETAILS,
    DONE,
    FAILED,
    FILE,
    HEADER,
    HELD,
    LOST,
    MAGIC,
    RECORD,
    SYNC,
    Journal,
    JournalRecords,
)
from hpcio.journals.ledger import (
    Follower,
    Ledger,
    StoredReader,
    Tried,
    attempt_name,
    open_journal,
    published_state,
    read_logs,
    tried_by,
    tried_since,
)
from hpcio.journals.rundir import (
    alone,
    discard,
    held,
    prepare,
    published,
    remove,
    start_over,
    sweep,
)
from hpcio.journals.usage import (
    Usage,
    measure_usage,
    memory_to_ask,
    read_usage,
    walltime_to_ask,
    write_usage,
)
from hpcio.journals.versions import ComputedBy, computed_by, versions_here

__all__ = [
    "DETAILS",
    "DONE",
    "FAILED",
    "FILE",
    "HEADER",
    "HELD",
    "LOST",
    "MAGIC",
    "RECORD",
    "SYNC",
    "ClaimFolder",
    "ComputedBy",
    "Follower",
    "Journal",
    "JournalRecords",
    "Ledger",
    "StoredReader",
    "Tried",
    "Usage",
    "alone",
    "attempt_name",
    "computed_by",
    "discard",
    "held",
    "measure_usage",
    "memory_to_ask",
    "open_journal",
    "prepare",
    "published",
    "published_state",
    "read_logs",
    "read_usage",
    "remove",
    "start_over",
    "sweep",
    "tried_by",
    "tried_since",
    "versions_here",
    "walltime_to_ask",
    "write_usage",
]
