"""What a simulation is asked about: a cluster, and the work that it is to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from hpcio.errors import OptionError, check_whole
from hpcio.planning import Plan
from hpcio.words import duration
from slurm.simulation.dealing import Amount, Sums
from slurm.site import Site

__all__ = ["Cluster", "Work"]

# Of trials that take so many times as long as a task lasts in the mean, one in 150 is done.
_HARDLY = 5.0


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes, and how SLURM starts tasks on them. The defaults are guesses for a usual site.

    Attributes
    ----------
    nodes : int
    slots : int
        Tasks that a node runs at a time.
    latency : float
        Seconds from sbatch until the first task starts on an empty cluster.
    wait : float
        Seconds that a task waits in the queue on top of that, in the median.
    spread : float
        How much waits differ: the standard deviation of their logarithm; 0 if all are equal.
    starts : float
        Tasks that the controller starts in a second.
    startup : float
        Seconds of computing from the start of a task to its first trial.
    startup_cores : int or None
        Cores of a node that tasks which start share; None for one for each slot.
    preempted : float or None
        Seconds until a running task is preempted, in the mean; None for never.
    stragglers, slowness : float
        This share of the nodes is slower, so many times.
    stale : float
        As the option of `slurm.submit`: a task that is done helps one that needs longer than a
        sixth of it, in seconds.

    Examples
    --------
    >>> Cluster(nodes=1000, slots=32, wait=300).total
    32000
    """

    nodes: int = 1
    slots: int = 16
    latency: float = 1.0
    wait: float = 0.0
    spread: float = 0.0
    starts: float = 30.0
    startup: float = 1.0
    startup_cores: int | None = None
    preempted: float | None = None
    stragglers: float = 0.0
    slowness: float = 2.0
    stale: float = 120.0

    def __post_init__(self) -> None:
        for name in ("nodes", "slots", "startup_cores"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least=1)
        for name in ("starts", "preempted", "stale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise OptionError(f"Cluster({name}={value}) makes no sense. Use more than 0.")
        for name in ("latency", "wait", "spread", "startup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(
                    f"Cluster({name}={getattr(self, name)}) makes no sense. Use 0 or more."
                )
        if not 0 <= self.stragglers <= 1 or not 1 <= self.slowness < math.inf:
            raise OptionError(
                f"Cluster(stragglers={self.stragglers}, slowness={self.slowness}) makes no sense. "
                "Use a share from 0 to 1 that is 1 or more times slower."
            )

    def check_can_do(self, seconds: float) -> None:
        """Raise OptionError if so long a trial is hardly ever done between two preemptions."""
        longest = seconds + self.startup
        if self.stragglers == 1:
            longest *= self.slowness
        if self.preempted is not None and longest > _HARDLY * self.preempted:
            raise OptionError(
                f"A trial takes {duration(longest)}, start-up included, and tasks are preempted "
                f"every {duration(self.preempted)}: it would hardly ever be done. Make shorter "
                "trials, or ask for a partition without preemption."
            )

    @property
    def total(self) -> int:
        """Tasks that all nodes run at a time."""
        return self.nodes * self.slots

    @classmethod
    def of(
        cls,
        site: Site,
        partition: str | None = None,
        *,
        cpus: int = 1,
        memory: int = 0,
        stale: float = 120.0,
    ) -> Self:
        """The nodes of a partition on which a task fits; all else as by default.

        Parameters
        ----------
        site : Site
            As `slurm.read_site` says.
        partition : str, optional
            Its name; by default that of jobs that ask for none.
        cpus, memory : int
            CPUs, and bytes, of a task.
        stale : float
            See `Cluster`.

        Raises
        ------
        OptionError
            If no node of it has so much.
        """
        kinds = [
            (node.count, min(node.cpus // cpus, node.memory // memory if memory else node.cpus))
            for p in site.partitions
            if (p.default if partition is None else p.name == partition)
            for node in p.nodes
        ]
        fitting = [(count, slots) for count, slots in kinds if count and slots]
        if not fitting:
            raise OptionError(
                f"No node of the partition has {cpus} CPUs and {memory / 1e6:.0f} MB for a task: "
                "nothing can be simulated. Say tasks=N."
            )
        # Nodes of several kinds are taken for equal ones that have as many slots together.
        nodes = sum(count for count, _ in fitting)
        slots = sum(count * slots for count, slots in fitting) // nodes
        return cls(nodes=nodes, slots=max(1, slots), stale=stale)


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """Trials, and what each takes: one number for all, or an array with one for each.

    Attributes
    ----------
    trials : int
    seconds : float or numpy.ndarray
        Of the function, of one trial.
    read, written : float or numpy.ndarray
        Bytes of a trial, and of its result.

    Examples
    --------
    >>> Work(trials=10**7, seconds=0.2, read=1e6, written=1e4).total
    2000000.0
    """

    trials: int
    seconds: Amount
    read: Amount = 0.0
    written: Amount = 0.0

    def __post_init__(self) -> None:
        check_whole("trials", self.trials, least=1)
        for field in fields(self)[1:]:
            value = np.asarray(getattr(self, field.name))
            if value.dtype.kind not in "iuf":
                raise OptionError(f"'{field.name}' of Work is no number: {value!r:.100}.")
            if value.ndim:  # sums of small integers would overflow
                object.__setattr__(self, field.name, value.astype(np.float64))
            if value.shape not in ((), (self.trials,)):
                raise OptionError(
                    f"'{field.name}' of Work has shape {value.shape}. Give one number, or one for "
                    f"each of the {self.trials} trials."
                )
            if not (np.isfinite(value).all() and (value >= 0).all()):
                raise OptionError(f"'{field.name}' of Work must be finite, and 0 or more.")

    @property
    def total(self) -> float:
        """Seconds of the function, of all trials together."""
        return Sums(self.seconds, self.trials).all

    @property
    def nbytes(self) -> Amount:
        """Bytes that a trial reads and writes: work is divided by them."""
        return self.read + self.written

    @classmethod
    def of(
        cls,
        plan: Plan,
        *,
        seconds: Amount | None = None,
        bytes_per_second: float | None = None,
        blocks: np.ndarray | None = None,
    ) -> Self:
        """The work of a plan.

        Parameters
        ----------
        plan : Plan
        seconds : float or numpy.ndarray, optional
            Of each block.
        bytes_per_second : float, optional
            Instead: of one task, as `slurm.forecast.measured_speed` says.
        blocks : numpy.ndarray of int, optional
            These alone; all by default.

        Raises
        ------
        OptionError
            If neither is given, or both.
        """
        if (seconds is None) == (bytes_per_second is None):
            raise OptionError("Work.of needs either seconds or bytes_per_second.")
        chosen = np.arange(len(plan)) if blocks is None else blocks
        if bytes_per_second is not None:
            seconds = _one(plan.work_sizes()[chosen] / bytes_per_second)
        assert seconds is not None
        # Averages write next to nothing.
        kept = [out.result_sizes()[chosen] for out in plan.outputs if out.average is None]
        written = np.sum(kept, axis=0) if kept else np.zeros(1)
        return cls(
            trials=chosen.size, seconds=seconds, read=_one(plan.input_sizes()[chosen]),
            written=_one(written),
        )  # fmt: skip


def _one(amount: np.ndarray) -> Amount:
    """One number if all are equal: that is quicker."""
    values = np.asarray(amount, np.float64)
    return float(values[0]) if values.size and (values == values[0]).all() else values
