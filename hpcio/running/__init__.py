"""The one loop that tries blocks, and the executors that call it.

This room uses `hpcio.results` and those below. Others give `execute` a plan and an executor; an
executor is a class, here or in another package, that calls `run_batch` for batches of blocks. Both
read from the journals what is done.
"""

from typing import TYPE_CHECKING

from hpcio.machine import lazily
from hpcio.running.attempt import Attempt, Stop
from hpcio.running.batch import run_batch
from hpcio.running.clock import end_stopped, failed_for_time
from hpcio.running.deaths import FRUITLESS, Deaths, blame

if TYPE_CHECKING:
    from hpcio.running.extending import extended_by
    from hpcio.running.keeping import keeping_done
    from hpcio.running.local import EXECUTORS, ExecutorMaker, choose
    from hpcio.running.partition import batches_of, divide, from_runs, runs
    from hpcio.running.ranks import Ranks, call_on_ranks, share_out
    from hpcio.running.run import Executor, Nobody, Work, begin, execute, record

__all__ = [
    "EXECUTORS",
    "FRUITLESS",
    "Attempt",
    "Deaths",
    "Executor",
    "ExecutorMaker",
    "Nobody",
    "Ranks",
    "Stop",
    "Work",
    "batches_of",
    "begin",
    "blame",
    "call_on_ranks",
    "choose",
    "divide",
    "end_stopped",
    "execute",
    "extended_by",
    "failed_for_time",
    "from_runs",
    "keeping_done",
    "record",
    "run_batch",
    "runs",
    "share_out",
]

# Imported when they are asked for: an array task tries blocks, and hands them to nobody.
__getattr__ = lazily(
    __name__,
    {
        "EXECUTORS": "local",
        "Executor": "run",
        "ExecutorMaker": "local",
        "Nobody": "run",
        "Ranks": "ranks",
        "Work": "run",
        "batches_of": "partition",
        "begin": "run",
        "extended_by": "extending",
        "keeping_done": "keeping",
        "call_on_ranks": "ranks",
        "choose": "local",
        "divide": "partition",
        "execute": "run",
        "from_runs": "partition",
        "record": "run",
        "runs": "partition",
        "share_out": "ranks",
    },
)
