"""What a run will read, write and need, said before any work."""

from __future__ import annotations

import resource
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpcio.errors import FunctionError, HpcioError
from hpcio.function import FreshArguments, compute, takes
from hpcio.machine import available, cores
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
    longest = int(read.argmax())
    seconds, grown = probe(plan, longest)
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


def probe(plan: Plan, block: int) -> tuple[float, int]:
    """Seconds and bytes of memory that it takes to read and compute one block."""
    func, arguments = plan.load_function(), FreshArguments(plan.arguments())
    trial_number = int(plan.blocks.trial[block])
    extra = {"chunkShape": plan.target.largest_shape()} if takes(func, "chunkShape") else {}
    kind = plan.blocks.kind_of(block)
    shape = plan.target.shape_of(block)
    best = np.inf
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with Reader(plan.source, axis=plan.blocks.axis) as reader:
            read = reader.of_kind(kind)
            for _ in range(3):  # the first call also imports and warms up
                args, kwargs = arguments.of(trial_number)
                kwargs |= extra
                started = time.perf_counter()
                trial = read(int(plan.blocks.base[block]))
                compute(func, trial, args, kwargs, shape, plan.dtype, casting=plan.casting)
                best = min(best, time.perf_counter() - started)
                if best > 1.0:
                    break
    except HpcioError:
        raise
    except Exception as error:
        raise FunctionError(
            f"'{plan.function.name}' raised {type(error).__name__} for trial "
            f"{plan.trials.index[trial_number]}, the longest: {error}. "
            "Call it with that trial to find out why."
        ) from error
    # The growth of the process is a lower bound: memory that was free inside it does not count.
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return float(best), grown
