"""What a run will read, write and need, said before any work."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcio.errors import FunctionError, HpcioError
from hpcio.function import FreshArguments, compute, compute_record, takes
from hpcio.layout import Target
from hpcio.machine import available, cores, layout_in_words
from hpcio.planning.limits import BASE, block_memory, plan_memory
from hpcio.planning.plan import Plan
from hpcio.planning.trying import MOST_TRIES, Said, failure, is_tried_apart, tell, try_each
from hpcio.recording import Reader, Recording, SeveralRecordings
from hpcio.words import count, duration, html_table, in_lines, size

# So often a block is computed to see how long that takes; only once if it takes so many seconds.
_TIMES, _ENOUGH = 3, 1.0

__all__ = ["Description", "describe", "probe"]


@dataclass(frozen=True, repr=False)
class Description:
    """What a run of a plan will read, write and need; it shows as a table.

    Attributes
    ----------
    function, source, out : str
    trials, blocks : int
    shape : tuple of int
        Shape of the result, or of the first of several.
    dtype : str
    results : str
        Type and shape of each result.
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
        One of the longest trials, which was computed as a probe.
    probe_seconds : float
        How long that took, reading included.
    probe_failed : str
        What the function has raised for a longer one, if it has.
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
    results: str
    nbytes_read: int
    nbytes_written: int
    smallest: int
    largest: int
    files: str
    memory: int
    memory_available: int
    probe_trial: int
    probe_seconds: float
    probe_failed: str
    workers: int
    seconds: float
    disk_free: int

    def rows(self) -> list[tuple[str, str]]:
        """Names and values, for a table."""
        blocks = "" if self.blocks == self.trials else f" in {count(self.blocks, 'block')}"
        each = " to ".join(dict.fromkeys([size(self.smallest), size(self.largest)]))
        short = " -- too little!" if self.disk_free < self.nbytes_written else ""
        tight = " -- too little!" if self.memory_available < self.memory * self.workers else ""
        which = "" if self.probe_failed else ", the longest"
        instead = f"; {self.probe_failed}" if self.probe_failed else ""
        return [
            ("function", self.function),
            ("recording", self.source),
            ("trials", count(self.trials, "trial") + blocks),
            ("one trial", each),
            ("reads", size(self.nbytes_read)),
            ("writes", f"{size(self.nbytes_written)}: {self.results}"),
            ("into", f"{self.out} ({self.files})"),
            ("disk free", size(self.disk_free) + short),
            ("memory", f"{size(self.memory)} a worker, {size(self.memory_available)} free{tight}"),
            ("probe", f"trial {self.probe_trial}{which}: {duration(self.probe_seconds)}{instead}"),
            ("expected", f"{duration(self.seconds)} with {count(self.workers, 'worker')}"),
        ]

    def __repr__(self) -> str:
        return in_lines(self.rows())

    def _repr_html_(self) -> str:
        return html_table("What a run will take", self.rows())


def describe(
    plan: Plan, *, workers: int | None = None, trial_time: float | None = None
) -> Description:
    """Say what a run will need; one of the longest trials is read and computed as a probe.

    Parameters
    ----------
    plan : Plan
    workers : int, optional
        By default one for each core that this process may use.
    trial_time : float, optional
        How long a trial may take, in seconds; another one is probed then.

    Returns
    -------
    Description

    Raises
    ------
    FunctionError
        If the function raises for each of the longest trials.
    """
    workers = min(cores() if workers is None else max(1, workers), len(plan))
    read, written = plan.input_sizes(), plan.stored_bytes(np.arange(len(plan)))
    by_length = np.argsort(-read, kind="stable")[:MOST_TRIES]
    probes = probe(plan, by_length.tolist(), enough=1, trial_time=trial_time)
    (timed,) = probes.timed
    longest, seconds, grown = timed.block, timed.seconds, timed.memory
    share = float(read.sum()) / max(1, int(read[longest]))
    first = plan.outputs[0].target
    return Description(
        function=str(plan.function),
        source=_source_in_words(plan.source),
        out=plan.out,
        trials=int(plan.blocks.trial[-1]) + 1,
        blocks=len(plan),
        shape=first.shape,
        dtype=str(first.dtype),
        results=_results(plan),
        nbytes_read=int(read.sum()),
        nbytes_written=written,
        smallest=int(read.min()),
        largest=int(read.max()),
        files=_files(plan),
        memory=max(grown, int(block_memory(plan)[longest])) + BASE + plan_memory(plan),
        memory_available=available(),
        probe_trial=int(plan.trials.index[plan.blocks.trial[longest]]),
        probe_seconds=seconds,
        probe_failed=probes.failed,
        workers=workers,
        seconds=seconds * share / workers,
        disk_free=shutil.disk_usage(Path(plan.out).parent).free,
    )


def _source_in_words(source: Recording) -> str:
    """A recording and the units of its values; or which ones its file could say."""
    part = source.parts[0] if isinstance(source, SeveralRecordings) else source
    says = part.says_of_units()
    if says is None:
        return str(source)
    if part.scaling is not None:
        return f"{source}, in {says.units}"
    return f"{source}, as it is stored (in {says.units} with units='{says.units}')"


def _results(plan: Plan) -> str:
    """Type and shape of each result, with the names of several."""
    said = [(f"{o.name} " if plan.several else "", o.target) for o in plan.outputs]
    return ", ".join(f"{name}{target.dtype} of shape {target.shape}" for name, target in said)


def _files(plan: Plan) -> str:
    averages = dict.fromkeys(str(output.average) for output in plan.averaged)
    if not plan.of_trials:
        return ", ".join(averages)
    files = "one file a block" if plan.sources == "trial" else "one file a batch"
    if plan.writer != "virtual":
        nbytes = plan.stored_bytes(np.arange(len(plan)))
        files = "one file" + layout_in_words(Path(plan.out).parent, nbytes)
    return ", ".join([files, *averages])


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


@dataclass(frozen=True)
class Probes:
    """What came of computing some blocks.

    Attributes
    ----------
    timed : tuple of Timed
        At least one.
    failed : str
        Of which trial the function raised what, if it did for any.
    """

    timed: tuple[Timed, ...]
    failed: str


def probe(
    plan: Plan,
    blocks: Sequence[int],
    *,
    enough: int | None = None,
    trial_time: float | None = None,
) -> Probes:
    """Read and compute some blocks, in another process if the function is the user's own.

    Parameters
    ----------
    plan : Plan
    blocks : sequence of int
    enough : int, optional
        The others are not tried after so many.
    trial_time : float, optional
        How long a trial may take, in seconds.

    Returns
    -------
    Probes

    Raises
    ------
    FunctionError
        If the function fails for all of them.
    SourceError
        If the recording has changed, or cannot be read.
    """
    apart = is_tried_apart(plan.function.fingerprint, plan.given)
    timed: list[Timed] = []
    failed: list[HpcioError] = []
    for block in map(int, blocks):
        # A process for each: the memory of one that computes several says nothing.
        times = _TIMES if trial_time is None else 1
        (said,) = try_each(timer, _only(plan, block), [times], apart=apart, limit=trial_time)
        if "error" in said:
            where = f"for trial {plan.trials.index[plan.blocks.trial[block]]}"
            failed.append(failure(said, plan.function.name, where))
            if not isinstance(failed[-1], FunctionError):
                raise failed[-1]
        else:
            timed.append(Timed(block, said["seconds"], said["memory"]))
        if len(timed) == enough:
            break
    if not timed:
        raise failed[0]
    return Probes(tuple(timed), str(failed[0]) if failed else "")


def _only(plan: Plan, block: int) -> Plan:
    """What other processes get of a plan: a block alone, since a million are 100 MB to pickle."""
    here = slice(block, block + 1)
    of_target = ("shape_index", "start", "channel")
    only: dict[str, Any] = {
        "trials": plan.trials.select(trials=[int(plan.blocks.trial[block])]),
        "blocks": plan.blocks.cut(here),
    }

    def cut(target: Target) -> Target:
        return replace(target, **{n: getattr(target, n)[here] for n in of_target})

    only["target"] = cut(plan.target)
    only["several"] = tuple(replace(o, target=cut(o.target)) for o in plan.several)
    return Plan(**{**vars(plan), **only, "live": None})


def timer(plan: Plan) -> Callable[[int], Said]:
    """A function that reads and computes the first block of a plan some times, and tells of it."""
    func, arguments = plan.load_function(), FreshArguments(plan.arguments())
    extra = {"chunkShape": plan.largest_shape()} if takes(func, "chunkShape") else {}

    def time_it(times: int) -> Said:
        kind = plan.blocks.kind_of(0)
        expected = plan.expected(np.zeros(1, np.int64))[int(plan.target.shape_index[0])]
        call: Callable[..., Any] = compute_record if plan.several else compute
        best = np.inf
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with Reader(plan.source, axis=plan.blocks.axis) as reader:
            read = reader.of_kind(kind)
            for _ in range(times):  # the first call also imports and warms up
                args, kwargs = arguments.of(int(plan.blocks.trial[0]))
                started = time.perf_counter()
                trial = read(int(plan.blocks.base[0]))
                call(
                    func, trial, args, {**kwargs, **extra}, expected, plan.dtype,
                    casting=plan.casting,
                )  # fmt: skip
                best = min(best, time.perf_counter() - started)
                if best > _ENOUGH:
                    break
        # The growth of the process is a lower bound: memory that was free in it does not count.
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        return {"seconds": float(best), "memory": grown}

    return lambda times: tell(lambda: time_it(times))
