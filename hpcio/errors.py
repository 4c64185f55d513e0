"""Every error that hpcio raises on purpose.

All descend from :class:`HpcioError`, and each is also the built-in exception that
fits, so that ``except OSError`` around a file operation keeps working. A message
names the thing (file, dataset, trial) and, after the last sentence, the remedy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpcio.running.run import Done

__all__ = [
    "BlocksFailed",
    "ClusterError",
    "ConfigError",
    "FunctionError",
    "HpcioError",
    "Interrupted",
    "MemoryLimitError",
    "MissingPackageError",
    "OutputError",
    "PlanError",
    "ResultError",
    "SourceError",
    "TimeLimitError",
    "TrialError",
    "WorkerError",
]


class HpcioError(Exception):
    """Base of all errors of this package."""


class SourceError(HpcioError, OSError):
    """The recording cannot be read: absent, not HDF5, wrong dataset, changed meanwhile."""


class TrialError(HpcioError, ValueError):
    """A trial table or a selection does not fit the recording."""


class FunctionError(HpcioError, TypeError):
    """A compute function cannot be imported, or returns what cannot be stored."""


class ConfigError(HpcioError, TypeError):
    """The ``cfg`` of a function decorated with ``unwrap_cfg`` is not usable."""


class PlanError(HpcioError, ValueError):
    """A plan cannot be made, or a run directory belongs to another plan."""


class MemoryLimitError(HpcioError, ValueError):
    """A block needs more memory than a worker may use."""


class TimeLimitError(HpcioError, ValueError):
    """A block takes longer than an array task may run."""


class ClusterError(HpcioError, RuntimeError):
    """The scheduler is not there, does not answer, or refuses; with its own words."""


class MissingPackageError(HpcioError, ImportError):
    """A package that only some features need is not installed."""


class OutputError(HpcioError, OSError):
    """Results cannot be written: the output exists, no permission, disk full."""


class ResultError(HpcioError, OSError):
    """A finished result cannot be trusted: a source missing, short, foreign, or changed."""


class WorkerError(HpcioError, RuntimeError):
    """Workers could not be started, or died more often than allowed."""


class BlocksFailed(HpcioError, RuntimeError):
    """Some blocks failed; nothing was published.

    Attributes
    ----------
    done : hpcio.running.run.Done
        The record of the run; ``done.failed`` lists the blocks with their tracebacks.
    """

    def __init__(self, message: str, done: Done) -> None:
        super().__init__(message)
        self.done = done


class Interrupted(HpcioError, KeyboardInterrupt):
    """The run was stopped by Ctrl-C after saving what was finished; it can be resumed."""
