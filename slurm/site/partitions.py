"""What a site offers: partitions, limits, memory, CPUs and features, as SLURM says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hpcio.errors import ClusterError
from slurm.site.commands import call

__all__ = ["NodeType", "Partition", "Site", "format_time", "parse_time", "read_site"]

MB = 1 << 20  # what SLURM calls a megabyte


@dataclass(frozen=True)
class NodeType:
    """Nodes of one partition that are alike.

    Attributes
    ----------
    count : int
    cpus : int
        Of each node.
    memory : int
        Of each node, in bytes.
    features : tuple of str
    """

    count: int
    cpus: int
    memory: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class Partition:
    """One partition.

    Attributes
    ----------
    name : str
    default : bool
        Whether jobs that name none go there.
    up : bool
        Whether it takes jobs.
    seconds : int or None
        Its time limit; None if it has none.
    nodes : tuple of NodeType
    default_seconds : int or None
        The limit of jobs that ask for none; None if that is the partition's own.
    """

    name: str
    default: bool
    up: bool
    seconds: int | None
    nodes: tuple[NodeType, ...]
    default_seconds: int | None = None

    def fits(self, *, cpus: int, memory: int, seconds: int | None) -> bool:
        """Whether a task can ever run there: CPUs, bytes of memory, seconds of walltime."""
        in_time = self.seconds is None or (seconds is not None and seconds <= self.seconds)
        return (
            self.up and in_time and any(n.cpus >= cpus and n.memory >= memory for n in self.nodes)
        )


@dataclass(frozen=True)
class Site:
    """What SLURM offers here.

    Attributes
    ----------
    cluster, version : str
    max_array_size : int
        The highest index of a job array is one less.
    max_jobs : int
        Jobs, and array tasks, that the controller holds at a time.
    partitions : tuple of Partition
    """

    cluster: str
    version: str
    max_array_size: int
    max_jobs: int
    partitions: tuple[Partition, ...]

    def partition(self, name: str) -> Partition:
        """The partition of a name.

        Raises
        ------
        ClusterError
            If there is none; the message lists those that there are.
        """
        for partition in self.partitions:
            if partition.name == name:
                return partition
        names = ", ".join(p.name for p in self.partitions)
        raise ClusterError(f"There is no partition '{name}'. Choose one of: {names}.")

    def seconds_of(self, name: str | None) -> int | None:
        """The time limit of a job that asks for none; None if it has none, or that is not known.

        Parameters
        ----------
        name : str or None
            The partition; None for the default.
        """
        found = [p for p in self.partitions if (p.default if name is None else p.name == name)]
        return (found[0].default_seconds or found[0].seconds) if found else None

    def largest_memory(self, name: str | None) -> int | None:
        """Bytes of memory of the largest node; None if that is not known.

        Parameters
        ----------
        name : str or None
            The partition; None for the default, ``"auto"`` for all that are up.
        """
        if name == "auto":
            found = [p for p in self.partitions if p.up]
        else:
            found = [p for p in self.partitions if (p.default if name is None else p.name == name)]
        return max((node.memory for p in found for node in p.nodes), default=None)

    def choose(
        self, name: str | None, *, cpus: int, memory: int, seconds: int | None
    ) -> str | None:
        """The name of the partition that was asked for; None leaves the choice to SLURM.

        Raises
        ------
        ClusterError
            If there is no such partition, or none that fits ``"auto"``.
        """
        if name is None:
            return None
        if name == "auto":
            return self.smallest_fitting(cpus=cpus, memory=memory, seconds=seconds).name
        return self.partition(name).name

    def smallest_fitting(
        self, *, cpus: int = 1, memory: int = 0, seconds: int | None = None
    ) -> Partition:
        """The partition that fits and asks for the least: what ``partition="auto"`` means.

        Smallest is the one with the least memory, then the fewest CPUs in its largest node,
        then the shortest time limit; the default partition before others of the same size.

        Raises
        ------
        ClusterError
            If none fits.
        """
        fitting = [p for p in self.partitions if p.fits(cpus=cpus, memory=memory, seconds=seconds)]
        if not fitting:
            asked = [f"{cpus} CPUs", f"{memory / MB:.0f} MB"]
            asked += [format_time(seconds)] if seconds is not None else []
            raise ClusterError(
                f"No partition has a node for {', '.join(asked)}. Ask for less. There are: "
                + "; ".join(map(_sizes, self.partitions))
            )

        def size(p: Partition) -> tuple[float, ...]:
            forever = float("inf")
            return (
                max(n.memory for n in p.nodes), max(n.cpus for n in p.nodes),
                forever if p.seconds is None else p.seconds, not p.default,
            )  # fmt: skip

        return min(fitting, key=size)


def _sizes(partition: Partition) -> str:
    if not partition.nodes:
        return f"{partition.name} (no nodes)"
    largest = max(partition.nodes, key=lambda n: (n.memory, n.cpus))
    limit = "no limit" if partition.seconds is None else format_time(partition.seconds)
    return (
        f"{partition.name} ({largest.cpus} CPUs and {largest.memory / MB:.0f} MB a node, {limit}"
        + (")" if partition.up else ", down)")
    )


def parse_time(text: str) -> int | None:
    """A time as SLURM writes it, in seconds; None for one without end.

    Parameters
    ----------
    text : str
        ``MM``, ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM``, ``D-HH:MM:SS``, ``infinite``.

    Raises
    ------
    ClusterError
        If it is no time.

    Examples
    --------
    >>> parse_time("01:30:00"), parse_time("2-00"), parse_time("10"), parse_time("infinite")
    (5400, 172800, 600, None)
    """
    if text.lower() in ("infinite", "unlimited", "n/a", "none"):
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if match is None:
        raise ClusterError(f"'{text}' is no time. Write HH:MM:SS, or D-HH:MM:SS.")
    days, *parts = (None if g is None else int(g) for g in match.groups())
    given = [p for p in parts if p is not None]
    if days is not None:  # D-HH[:MM[:SS]]
        hours, minutes, seconds = (*given, 0, 0)[:3]
        return days * 86400 + hours * 3600 + minutes * 60 + seconds
    if len(given) == 3:
        return given[0] * 3600 + given[1] * 60 + given[2]
    minutes, seconds = (*given, 0)[:2]
    return minutes * 60 + seconds


def format_time(seconds: int) -> str:
    """Seconds as SLURM takes them.

    Examples
    --------
    >>> format_time(5400), format_time(200000)
    ('01:30:00', '2-07:33:20')
    """
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def read_site() -> Site:
    """Ask SLURM what it offers: two calls of sinfo, one of scontrol.

    Returns
    -------
    Site

    Raises
    ------
    ClusterError
        If there is no SLURM here, or it does not answer.
    """
    partitions = call(["sinfo", "--noheader", "--all", "--format=%P|%a|%l|%L"])
    nodes = call(["sinfo", "--noheader", "--all", "--Node", "--format=%R|%c|%m|%f"])
    config = call(["scontrol", "show", "config"])
    return parse_site(partitions, nodes, config)


def parse_site(partitions: str, nodes: str, config: str) -> Site:
    """What `read_site` makes of the answers."""
    of: dict[str, dict[tuple[int, int, tuple[str, ...]], int]] = {}
    for name, cpus, memory, features in _fields(nodes, 4):
        key = (_number(cpus), _number(memory) * MB, _features(features))
        counts = of.setdefault(name, {})
        counts[key] = counts.get(key, 0) + 1
    found: dict[str, Partition] = {}
    for starred, state, limit, default in _fields(partitions, 4):
        name = starred.removesuffix("*")
        found[name] = Partition(
            name=name,
            default=starred.endswith("*"),
            up=state == "up",
            seconds=parse_time(limit),
            default_seconds=parse_time(default),
            nodes=tuple(NodeType(n, *key) for key, n in of.get(name, {}).items()),
        )
    settings = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", config, re.MULTILINE))
    return Site(
        cluster=settings.get("ClusterName", ""),
        version=settings.get("SLURM_VERSION", ""),
        max_array_size=_number(settings.get("MaxArraySize", "1001")),
        max_jobs=_number(settings.get("MaxJobCount", "10000")),
        partitions=tuple(found.values()),
    )


def _fields(text: str, count: int) -> list[Sequence[str]]:
    return [f for line in text.splitlines() if len(f := line.strip().split("|")) == count]


def _number(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else 0


def _features(text: str) -> tuple[str, ...]:
    return () if text in ("(null)", "") else tuple(text.split(","))
