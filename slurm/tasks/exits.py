"""Exit statuses by which the process that works tells the one that waits how it ended."""

from __future__ import annotations

__all__ = ["AGAIN", "DONE", "ENDED", "TROUBLE"]

# Nothing is left to do.
DONE = 0
# An error was printed.
TROUBLE = 1
# The time of the task is nearly over: SLURM is to start it again.
AGAIN = 75
# SLURM or a user ends the task: 128 + SIGTERM, as shells say it.
ENDED = 143
