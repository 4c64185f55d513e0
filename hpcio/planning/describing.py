"""What a run will read, write and need, said before any work."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcio.errors import FunctionError
from hpcio.function import FreshArguments, compute, takes
from hpcio.machine import Death, available, call_apart, cores
from hpcio.planning.dryrun import MOST_TRIES, may_harm
from hpcio.planning.limits import BASE, block_memory
from hpcio.planning.plan import Plan
from hpcio.recording import Reader
from hpcio.words import duration, size

__all__ = ["Description", "describe", "probe"]


@dataclass(frozen=True)
class Description:
    """What a run of a plan will read, write and need; ``str()`` of it is a table.

    Attributes
    ----------
    function, source, out : str
    trials, blocks : int
    shape : tuple of int
        Shape of the result.
    dtype : str
    nbytes_read, nbytes_written : int
        Bytes of the whole run.
    smallest, largest : int
        Bytes of the smallest and the largest trial handed to the function.
    files : str
        How results are stored.
    memory : int
        Bytes that a worker needs, from the growth of the process during the probe.
    memory_available : int
        Bytes that are free now.
    probe_trial : int
        The longest trial, which was computed as a probe.
    probe_seconds : float
        How long that took, reading included.
    workers : int
    seconds : float
        Expected time of the run, in proportion to the bytes that it reads.
    disk_free : int
        Bytes free where the result will lie.
    """

    function: str
    source: str
    out: str
    trials: int
    blocks: int
    shape: tuple[int, ...]
    dtype: str
    nbytes_read: int
    nbytes_written: int
    smallest: int
    largest: int
    files: str
    memory: int
    memory_available: int
    probe_trial: int
    probe_seconds: float
    workers: int
    seconds: float
    disk_free: int

    def rows(self) -> list[tuple[str, str]]:
        """Names and values, for a table."""
        short = " -- too little!" if self.disk_free < self.nbytes_written else ""
        tight = " -- too little!" if self.memory_available < self.memory * self.workers else ""
        return [
            ("function", self.function),
            ("source", self.source),
            ("trials", f"{self.trials} in {self.blocks} blocks"),
            ("one trial", f"{size(self.smallest)} to {size(self.largest)}"),
            ("reads", size(self.nbytes_read)),
            ("writes", f"{size(self.nbytes_written)}: {self.dtype} of shape {self.shape}"),
            ("into", f"{self.out} ({self.files})"),
            ("disk free", size(self.disk_free) + short),
            ("memory", f"{size(self.memory)} a worker, {size(self.memory_available)} free{tight}"),
            ("probe", f"trial {self.probe_trial}, the longest: {duration(self.probe_seconds)}"),
            ("expected", f"{duration(self.seconds)} with {self.workers} workers"),
        ]

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join(f"{name:>{width}}  {value}" for name, value in self.rows())


def describe(plan: Plan, *, workers: int | None = None) -> Description:
    """Say what a run will need; the longest trial is read and computed as a probe.

    Parameters
    ----------
    plan : Plan
    workers : int, optional
        By default one for each core that this process may use.

    Returns
    -------
    Description

    Raises
    ------
    FunctionError
        If the function raises for the longest trial.
    """
    count = cores() if workers is None else max(1, workers)
    count = min(count, len(plan))
    read, written = plan.input_sizes(), plan.stored_bytes(np.arange(len(plan)))
    by_length = np.argsort(-read, kind="stable")[:MOST_TRIES]
    (timed,) = probe(plan, by_length.tolist(), enough=1)
    longest, seconds, grown = timed.block, timed.seconds, timed.memory
    share = float(read.sum()) / max(1, int(read[longest]))
    return Description(
        function=plan.function.name + (" (pickled)" if plan.function.pickled else ""),
        source=f"{plan.source.path}::{plan.source.dataset}",
        out=plan.out,
        trials=int(plan.blocks.trial[-1]) + 1,
        blocks=len(plan),
        shape=plan.target.shape,
        dtype=str(plan.target.dtype),
        nbytes_read=int(read.sum()),
        nbytes_written=written,
        smallest=int(read.min()),
        largest=int(read.max()),
        files=_files(plan),
        memory=max(grown, int(block_memory(plan)[longest])) + BASE,
        memory_available=available(),
        probe_trial=int(plan.trials.index[plan.blocks.trial[longest]]),
        probe_seconds=seconds,
        workers=count,
        seconds=seconds * share / count,
        disk_free=shutil.disk_usage(Path(plan.out).parent).free,
    )


def _files(plan: Plan) -> str:
    if plan.average is not None:
        return str(plan.average)
    if plan.writer != "virtual":
        return "one file"
    return "one file a block" if plan.sources == "trial" else "one file a batch"


@dataclass(frozen=True)
class Timed:
    """What it takes to read and compute a block.

    Attributes
    ----------
    block : int
    seconds : float
    memory : int
        By how many bytes a process grows at least.
    """

    block: int
    seconds: float
    memory: int


def probe(plan: Plan, blocks: Sequence[int], *, enough: int | None = None) -> list[Timed]:
    """Read and compute some blocks, in another process if the function is the user's own.

    Parameters
    ----------
    plan : Plan
    blocks : sequence of int
        Those for which the function fails are left out.
    enough : int, optional
        The others are not tried after so many.

    Returns
    -------
    list of Timed

    Raises
    ------
    FunctionError
        If the function fails for all of them.
    """
    value = Plan(**{**vars(plan), "live": None})
    time_one = timer(plan) if not may_harm(plan.function, plan.given) else None
    found: list[Timed] = []
    why = ""
    for block in map(int, blocks):
        said: Any = (
            time_one(block)
            if time_one is not None
            else call_apart("hpcio.planning.describing:timer", value, [block])[0]
        )
        if isinstance(said, Death):
            why = why or f"WorkerError: {said.why}"
        elif said["error"]:
            why = why or said["error"]
        else:
            found.append(Timed(block, said["seconds"], said["memory"]))
        if len(found) == enough:
            break
    if not found:
        trial = plan.trials.index[plan.blocks.trial[int(blocks[0])]]
        kind, _, message = why.partition(": ")
        raise FunctionError(
            f"'{plan.function.name}' raised {kind} for trial {trial}: {message}. Call it with that "
            "trial to find out why."
        )
    return found


def timer(plan: Plan) -> Callable[[int], dict[str, Any]]:
    """A function that reads and computes a block of a plan and says what it took."""
    func, arguments = plan.load_function(), FreshArguments(plan.arguments())
    extra = {"chunkShape": plan.target.largest_shape()} if takes(func, "chunkShape") else {}

    def time_one(block: int) -> dict[str, Any]:
        kind, shape = plan.blocks.kind_of(block), plan.target.shape_of(block)
        best = np.inf
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            with Reader(plan.source, axis=plan.blocks.axis) as reader:
                read = reader.of_kind(kind)
                for _ in range(3):  # the first call also imports and warms up
                    args, kwargs = arguments.of(int(plan.blocks.trial[block]))
                    started = time.perf_counter()
                    trial = read(int(plan.blocks.base[block]))
                    compute(
                        func, trial, args, {**kwargs, **extra}, shape, plan.dtype,
                        casting=plan.casting,
                    )  # fmt: skip
                    best = min(best, time.perf_counter() - started)
                    if best > 1.0:
                        break
        except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever it raises)
            return {"error": f"{type(error).__name__}: {error}"}
        # The growth of the process is a lower bound: memory that was free in it does not count.
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        return {"error": "", "seconds": float(best), "memory": grown}

    return time_one
