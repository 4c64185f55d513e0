"""What is measured: a name, its program, and the Python that it runs with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from benchmarks.peers.environments import Environment, LeftOutError, esi, others

LOOP = "plain loop, 1 process"
HPCIO = "hpcio, warm dask"
TOLD = "hpcio, warm dask, shape told"
LOCAL = "hpcio, 2 workers, start included"
ACME = "esi-acme, ParallelMap"
SYNCOPY = "esi-syncopy, on dask"


@dataclass(frozen=True)
class System:
    """A way to do the work.

    Attributes
    ----------
    name : str
    side : str
        ``MODULE:FUNC`` in `benchmarks.peers.sides`.
    colour : str
        Of its bar, a name of `hpcio.reporting.COLOURS`.
    environment : callable, optional
        Makes the environment that it runs in; by default it is that of this process.
    python : str
        The program that runs it.
    """

    name: str
    side: str
    colour: str
    environment: Callable[[], Environment] | None = None
    python: str = sys.executable


SYSTEMS = (
    System(HPCIO, "hpcio_dask:side", "blue"),
    System(TOLD, "hpcio_dask:told", "blue"),
    System(LOCAL, "hpcio_local:side", "sky"),
    System(LOOP, "loop:side", "grey"),
    System("zarr 3, 2 processes", "zarr_chunks:side", "green", others),
    System("joblib, results returned", "joblib_calls:returned", "green", others),
    System("joblib, a file a trial", "joblib_calls:files", "green", others),
    System("executorlib, a file a trial", "executorlib_files:side", "green", others),
    System("dask, a task a trial", "dask_tasks:side", "orange"),
    System(ACME, "acme_map:side", "red", esi),
    System(SYNCOPY, "syncopy_routine:side", "red", esi),
)


@dataclass(frozen=True)
class LeftOut:
    """Systems that cannot be measured here, and why."""

    names: tuple[str, ...]
    why: str


def at_hand(systems: tuple[System, ...] = SYSTEMS) -> Iterator[System | LeftOut]:
    """Systems with the Python that runs each; those of an environment that cannot be made."""
    for make in dict.fromkeys(system.environment for system in systems):
        those = [system for system in systems if system.environment is make]
        try:
            python = sys.executable if make is None else make().make()
        except LeftOutError as error:
            yield LeftOut(tuple(system.name for system in those), str(error))
        else:
            yield from (replace(system, python=python) for system in those)
