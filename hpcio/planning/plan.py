"""The plan: what every block reads, computes and writes, frozen before work begins."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from hpcio.errors import FunctionError, OutputError, PlanError
from hpcio.files.compression import CHUNK, Chunking
from hpcio.files.rundir import RunDirectory
from hpcio.files.slab import layout
from hpcio.function.arguments import Arguments, fingerprint
from hpcio.function.functions import Function
from hpcio.layout.averages import Average, Reduce, averaged
from hpcio.layout.axes import Axis, name_axes
from hpcio.layout.target import Join, Target, lay_out
from hpcio.planning.dryrun import dry_run
from hpcio.planning.planfile import FORMAT, plain_average, plain_form, read_plan
from hpcio.recording.sources import Source
from hpcio.recording.trials import Blocks, Trials

if TYPE_CHECKING:
    from hpcio.planning.describe import Description
    from hpcio.running.run import Done, Executor

__all__ = ["Plan"]

# More files than this are no longer read as one dataset by plain HDF5: it keeps every
# source open, and the usual limit is 1,024 open files.
AUTO_TRIAL_SOURCES = 512
# HDF5 needs 13 kB of memory for each mapping of a virtual dataset while it is built.
MAX_MAPPINGS = 100_000

Sources = Literal["trial", "task"]


@dataclass(frozen=True, eq=False)
class Plan:
    """What every block reads, computes and writes; made by :meth:`create`.

    A plan is a value: it does nothing until it is run, and it can be run by any executor,
    from any process that can read its run directory.

    Attributes
    ----------
    function : hpcio.function.functions.Function
    source : hpcio.recording.sources.Source
    trials : hpcio.Trials
    blocks : hpcio.recording.trials.Blocks
    target : Target
    args, kwargs
        For the function; values of :func:`hpcio.per_trial` are still whole.
    out : str
        Absolute path of the result.
    writer, sources, join
        As given to :meth:`create`; `sources` is resolved.
    average : hpcio.layout.averages.Average or None
        What is made of the results of all trials, if they are not kept.
    chunks : tuple of int or None
        Shape of the chunks of a virtual source, one number for ``sources="task"``; None for
        contiguous ones.
    compression : str or None
    token : str
        Random name of the run.
    digest : str
        Digest of all of the above but `out` and `token`, hexadecimal.
    """

    function: Function
    source: Source
    trials: Trials
    blocks: Blocks
    target: Target
    axes: tuple[Axis, ...]
    payload: bytes = field(repr=False)
    out: str
    writer: str
    sources: Sources
    join: Join
    average: Average | None
    casting: str
    described: Mapping[str, str]
    token: str
    digest: str
    # The function itself, where it was given: this process need not find it again.
    live: Callable[..., Any] | None = field(default=None, repr=False)
    chunks: tuple[int, ...] | None = None
    compression: str | None = None

    # ------------------------------------------------------------------ making

    @classmethod
    def create(
        cls,
        func: Callable[..., Any] | str,
        source: str | os.PathLike[str],
        *,
        trials: Trials | np.ndarray | Sequence[Sequence[int]] | int | str | os.PathLike[str],
        out: str | os.PathLike[str],
        writer: str = "virtual",
        sources: Literal["auto", "trial", "task"] = "auto",
        keeptrials: bool = True,
        reduce: Reduce | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        join: Join = "concatenate",
        join_axis: int | None = None,
        axis: int = 0,
        channel_axis: int | None = None,
        channels_per_block: int | None = None,
        out_channel_axis: int | None = None,
        out_shape: Sequence[int] | Callable[[tuple[int, ...]], Sequence[int]] | None = None,
        out_dtype: Any = None,
        axes: Mapping[str, Sequence[object] | np.ndarray | None] | None = None,
        chunks: bool | Sequence[int] | None = None,
        compression: str | None = None,
    ) -> Plan:
        """Plan the run of a function over every trial of a recording, by a dry run.

        Parameters
        ----------
        func : callable or str
            The compute function, or its name as ``MODULE:FUNC`` or ``FILE.py:FUNC``. If it
            takes ``noCompute``, it is asked for shape and type; any other function is
            called with one real trial of each shape.
        source : str or path
            The recording, ``FILE::DATASET``.
        trials : Trials, array (N, 2) or (N, 3), int, ``FILE::DATASET``, or a CSV or TSV file
            Start, stop and offset of each trial, in rows of the source; an int makes equal
            trials of that many rows.
        out : str or path
            The result, a new HDF5 file. Beside it, ``OUT.run`` holds the run.
        writer : {"virtual", "direct", "mpi", "mpi-collective", "mutex"}
            How results are stored: in files of the workers, joined by a virtual dataset; in
            one ordinary file that all of them write at once; or in such a file that they
            write one after the other, by HDF5 and under a lock.
        sources : {"auto", "trial", "task"}
            One virtual source for each block, or for each chunk of blocks; ``auto`` takes
            the first up to 512 blocks.
        keeptrials : bool
            Keep the result of every trial; else their average is the result, in float64 or
            complex128, with the same bits however the run goes.
        reduce : {"mean", "sum", "var"}, optional
            The average, with ``keeptrials=False``; by default the mean. ``var`` is that of
            `numpy.var`: divided by the number of trials.
        args, kwargs
            Further arguments of the function; mark those that differ from trial to trial
            by :func:`hpcio.per_trial`.
        join : {"concatenate", "stack"}
            Along an axis of the results, or along a new first axis (equal shapes only).
        join_axis : int, optional
            The axis of the results for ``concatenate``; by default the stacking axis.
        axis : int
            The stacking axis of the source: the one that trials are cut along.
        channel_axis : int, optional
            The axis of channels of the source, where it is not the one other axis.
        channels_per_block : int, optional
            Call the function for so many channels at a time.
        out_channel_axis : int, optional
            The axis of channels of the function's result; by default that of the source.
        out_shape, out_dtype : optional
            Shape (or a function of the trial's shape) and type of a block's result. With
            `out_dtype`, results are cast to it. With both, there is no dry run.
        axes : dict, optional
            Names of all axes of the result, in order, with their coordinates or None; they
            become dimension scales. By default what the source's own scales say.
        chunks : bool or sequence of int, optional
            Store virtual sources in chunks of so many values along each axis of a block's
            result, or with True in good ones; by default only if they are compressed.
        compression : str, optional
            ``NAME[:LEVEL][+shuffle]``, such as ``"zstd"``; for the virtual writer. Names are
            those of :func:`hpcio.repack`.

        Returns
        -------
        Plan

        Raises
        ------
        SourceError, TrialError, FunctionError, PlanError, OutputError
            All of :mod:`hpcio.errors`; nothing has been written then.

        Examples
        --------
        >>> import h5py, numpy as np, os, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> rec, out = os.path.join(folder.name, "rec.h5"), os.path.join(folder.name, "out.h5")
        >>> with h5py.File(rec, "w") as f:
        ...     f["lfp"] = np.ones((100, 4))
        >>> plan = Plan.create(np.negative, f"{rec}::/lfp", trials=25, out=out)
        >>> plan.target.shape, len(plan)
        ((100, 4), 4)
        >>> folder.cleanup()
        """
        from hpcio import writers

        if writer not in writers.NAMES:
            names = ", ".join(writers.NAMES)
            raise PlanError(f"There is no writer '{writer}'. Choose one of: {names}.")
        if sources not in ("auto", "trial", "task"):
            raise PlanError(f"sources='{sources}' is unknown. Choose auto, trial or task.")
        if join not in ("concatenate", "stack"):
            raise PlanError(f"join='{join}' is unknown. Choose concatenate or stack.")
        if keeptrials and reduce is not None:
            raise PlanError(f"reduce='{reduce}' goes with keeptrials=False. Say that, too.")
        if not keeptrials and (join, join_axis) != ("concatenate", None):
            raise PlanError("An average joins nothing: leave out join and join_axis.")
        out = check_new_output(out)
        recording = Source.read(source)
        table = Trials.read(trials, rows=_rows(recording, axis), axis=axis)
        if channels_per_block is not None or channel_axis is not None:
            table = table.with_blocks(
                channels_per_block=channels_per_block, channel_axis=channel_axis
            )
        layout_in = table.blocks(
            recording.shape, name=f"'{recording.dataset}' of '{recording.path}'"
        )
        function = Function.of(func)
        call = function.load() if isinstance(func, str) else func
        arguments = Arguments.given(args, {} if kwargs is None else kwargs)
        arguments.check(len(table))
        form, shapes, dtype = dry_run(
            call, function.name, recording, layout_in, arguments, out_shape, out_dtype
        )
        layout(shapes[0], dtype)  # refuses a type that HDF5 cannot hold
        target, average = _lay_out(
            layout_in, form, shapes, dtype, join=join, join_axis=join_axis,
            out_channel_axis=out_channel_axis, keeptrials=keeptrials, reduce=reduce,
        )  # fmt: skip
        count = layout_in.trial.size
        if writer != "virtual" or average:
            sources = "task"
        if sources == "auto":
            sources = "trial" if count <= AUTO_TRIAL_SOURCES else "task"
        if sources == "trial" and count > MAX_MAPPINGS:
            raise PlanError(
                f"{count} blocks would make as many files, more than HDF5 can join "
                f"({MAX_MAPPINGS}). Use sources='task'."
            )
        if writer == "virtual" and average is None and count > MAX_MAPPINGS and not target.in_rows:
            raise PlanError(
                f"{count} blocks that do not follow each other along the first axis need as many "
                f"mappings of a virtual dataset, more than HDF5 can hold ({MAX_MAPPINGS}). "
                "Use join='stack', join_axis=0, or more channels_per_block."
            )
        if average is not None and (chunks or compression):
            raise PlanError(
                "An average is one dataset, made at the end. Compress it afterwards: hpcio repack "
                "OUT --compression gzip"
            )
        chunk, packing = _chunking(target, sources, writer, chunks=chunks, compression=compression)
        plan = cls(
            function=function,
            source=recording,
            trials=table,
            blocks=layout_in,
            target=target,
            axes=name_axes(axes, recording, table, layout_in, target),
            payload=arguments.dump(),
            out=out,
            writer=writer,
            sources=sources,
            join=join,
            average=average,
            casting="same_kind" if out_dtype is not None else "equiv",
            token=secrets.token_hex(8),
            digest="",
            live=call,
            described={"args": repr(arguments.args), "kwargs": repr(arguments.kwargs)},
            chunks=chunk,
            compression=packing,
        )
        writers.module_of(plan).check_plan(plan)
        return replace(plan, digest=plan._digest(fingerprint(arguments)))

    def _digest(self, arguments: str) -> str:
        """Two plans with the same digest give the same bytes, block by block."""
        spec = {
            "format": FORMAT, "function": [self.function.name, self.function.digest],
            "source": [self.source.dataset, self.source.shape, self.source.dtype.str,
                       self.source.size, self.source.mtime_ns],
            "arguments": arguments, "dtype": self.target.dtype.str, "shape": self.target.shape,
            "writer": self.writer, "sources": self.sources, "join": self.join,
            "casting": self.casting, "average": plain_average(self.average),
            "axes": [a.name for a in self.axes],
            "forms": [plain_form(f) for f in self.blocks.forms],
            "shapes": self.target.shapes,
        }  # fmt: skip
        if self.chunks is not None:
            spec |= {"chunks": self.chunks, "compression": self.compression}
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
        target = (self.target.form, self.target.start, self.target.channel)
        values = [a.values for a in self.axes if a.values is not None]
        for array in (*self.arrays().values(), *target, *values):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    # ------------------------------------------------------------------ asking

    def __len__(self) -> int:
        """Number of blocks."""
        return int(self.blocks.trial.size)

    @property
    def dtype(self) -> np.dtype:
        """Type of the result of one block."""
        return self.target.dtype if self.average is None else self.average.dtype

    @property
    def unit(self) -> int:
        """So many consecutive blocks are done together, by one process; 1 unless averaged."""
        return 1 if self.average is None else self.average.unit

    @property
    def run_directory(self) -> Path:
        """``OUT.run``: plan, sources, journals and logs of this run."""
        return self.rundir.path

    @property
    def rundir(self) -> RunDirectory:
        """The names of all that lies in the run directory."""
        return RunDirectory.of(self.out)

    def input_sizes(self) -> np.ndarray:
        """Bytes that each block hands to the function, shape (B,)."""
        each = [int(np.prod(f.inshape, dtype=np.int64)) for f in self.blocks.forms]
        return np.asarray(each, np.int64)[self.blocks.form] * self.source.dtype.itemsize

    def stored_bytes(self, blocks: np.ndarray) -> int:
        """Bytes that a run writes for some blocks: their results, or the sums of an average."""
        if self.average is None:
            return int(self.target.sizes()[blocks].sum())
        return int(np.unique(blocks // self.unit).size) * self.average.parts * self.target.nbytes

    def arguments(self) -> Arguments:
        """The arguments of the function, from the plan.

        Raises
        ------
        PlanError
            If they cannot be unpickled here.
        """
        return Arguments.load(self.payload)

    def trl_dat(self, i: int) -> dict[str, Any]:
        """The dict of block `i` for a function decorated with `unwrap_io`.

        It makes a worker write a virtual source of its own, as a plan with
        ``sources="trial"`` does.

        Parameters
        ----------
        i : int
            Number of the block, from 0.

        Returns
        -------
        dict
            With the keys described in :func:`hpcio.unwrap_io`.
        """
        form = self.blocks.forms[int(self.blocks.form[i])]
        trial, part = int(self.blocks.trial[i]), int(self.blocks.channel_block[i])
        folder = Path(f"{self.out}.byhand")
        return {
            "keeptrials": self.average is None,
            "infile": self.source.path,
            "indset": self.source.dataset,
            "ingrid": self.blocks.ingrid(i),
            "inshape": form.inshape,
            "sigrid": None if form.sigrid is None else [list(s) for s in form.sigrid],
            "fancy": form.sigrid is not None,
            "vdsdir": str(folder),
            "outfile": str(folder / f"{trial}_{part}.h5"),
            "outdset": "data",
            "outgrid": self.target.region(i),
            "outshape": self.target.shapes[int(self.target.form[i])],
            "dtype": self.target.dtype,
            "call_id": f"__{trial}_{part}",
        }

    def describe(self, *, workers: int | None = None) -> Description:
        """What a run will read and write, and what it will take; see `hpcio.planning.describe`.

        The time comes from a probe: the function is called with the longest trial.
        """
        from hpcio.planning.describe import describe

        return describe(self, workers=workers)

    def run(
        self,
        executor: Executor | None = None,
        *,
        workers: int | None = None,
        threads: int = 1,
        memory: str | int | None = None,
        retries: int = 0,
        max_failed: int | None = None,
        gaps: bool = False,
        fresh: bool = False,
        progress: bool | None = None,
    ) -> Done:
        """Compute and store every block that is not done yet, then publish the result.

        Parameters
        ----------
        executor : optional
            Runs chunks of blocks, such as a cluster; by default processes of this machine.
        workers : int, optional
            How many processes; 0 computes in this one (for debuggers). By default one for
            each core that this process may use.
        threads : int
            Threads that numerical libraries may use in a worker.
        memory : int or str, optional
            What one worker may use, in bytes or like ``"4GB"``; by default its share of
            what is free.
        retries : int
            How often a block that raises is tried again.
        max_failed : int, optional
            The run stops when more blocks than this have failed; by default a tenth of
            them, and at least 100.
        gaps : bool
            Publish even if blocks failed, with NaN (or zero) in their place.
        fresh : bool
            Throw away a run directory that is there, instead of continuing it.
        progress : bool, optional
            Show progress; by default if the error output is a terminal or a log.

        Returns
        -------
        Done

        Raises
        ------
        BlocksFailed
            If blocks failed and gaps were not asked for.
        Interrupted
            After Ctrl-C; what is finished stays, and `run` continues.
        """
        from hpcio.running.run import execute

        return execute(
            self, executor, workers=workers, threads=threads, memory=memory, retries=retries,
            max_failed=max_failed, gaps=gaps, fresh=fresh, progress=progress,
        )  # fmt: skip

    # ------------------------------------------------------------------ keeping

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that say what each block reads, by their name in ``plan.h5``."""
        b, t = self.blocks, self.trials
        return {
            "trials/start": t.start, "trials/stop": t.stop, "trials/offset": t.offset,
            "trials/index": t.index, "blocks/trial": b.trial, "blocks/base": b.base,
            "blocks/form": b.form, "blocks/channel_block": b.channel_block,
        }  # fmt: skip

    @classmethod
    def load(cls, out: str | os.PathLike[str]) -> Self:
        """The plan of a run directory, named by its result ``OUT`` or as ``OUT.run``.

        Nothing is unpickled before the plan is run.

        Raises
        ------
        PlanError
            If there is no plan, it is of another user, or of another version of hpcio.
        """
        name = os.path.abspath(os.path.expanduser(os.fspath(out)))
        if name.endswith(".run") and Path(name, "plan.h5").exists():
            name = name.removesuffix(".run")
        return cls(**read_plan(name))


def _lay_out(
    blocks: Blocks,
    form: np.ndarray,
    shapes: tuple[tuple[int, ...], ...],
    dtype: np.dtype,
    *,
    join: Join,
    join_axis: int | None,
    out_channel_axis: int | None,
    keeptrials: bool,
    reduce: Reduce | None,
) -> tuple[Target, Average | None]:
    """The layout of the result, and what is averaged."""
    if keeptrials:
        target = lay_out(
            blocks, form, shapes, dtype, join=join, join_axis=join_axis,
            out_channel_axis=out_channel_axis,
        )  # fmt: skip
        return target, None
    try:
        stack = lay_out(
            blocks, form, shapes, dtype, join="stack", join_axis=None,
            out_channel_axis=out_channel_axis,
        )  # fmt: skip
    except FunctionError as error:
        raise FunctionError(f"An average needs equal results of all trials. {error}") from error
    return averaged(stack, blocks.channel_blocks, reduce)


def _rows(source: Source, axis: int) -> int:
    if not -len(source.shape) <= axis < len(source.shape):
        raise PlanError(
            f"axis={axis} does not exist in '{source.dataset}' of shape {source.shape}. "
            f"Choose one from 0 to {len(source.shape) - 1}."
        )
    return source.shape[axis]


def _chunking(
    target: Target,
    sources: str,
    writer: str,
    *,
    chunks: bool | Sequence[int] | None,
    compression: str | None,
) -> tuple[tuple[int, ...] | None, str | None]:
    """Chunks of a virtual source, and what they are compressed by; None for contiguous ones."""
    shape = target.largest_shape()
    axis = 0 if target.stacked else target.axis
    chosen = Chunking.choose(
        shape or (1,), target.dtype, axis, chunks=chunks, compression=compression
    )
    if chosen is None:
        return None, None
    if writer != "virtual":
        raise PlanError(
            f"The {writer} writer has a place for every result beforehand, and compressed chunks "
            "have none. Compress the result afterwards: hpcio repack OUT --compression "
            f"{chosen.compression or 'gzip'} --chunks auto"
        )
    chunk = chosen.chunk if shape else ()
    if sources == "task":
        values = math.prod(chunk)
        if not chunks or chunks is True:  # several small results, each in one chunk
            values *= max(1, CHUNK // (values * target.dtype.itemsize))
        chunk = (values,)
    return chunk, (chosen.compression and str(chosen.compression)) or None


def check_new_output(out: str | os.PathLike[str]) -> str:
    """The absolute path of an output that can be made, or an OutputError."""
    path = Path(os.path.expanduser(os.fspath(out))).absolute()
    if os.path.lexists(path):
        raise OutputError(
            f"The output '{path}' exists. Choose another name, or remove it first "
            "(in the shell: --fresh)."
        )
    if not path.parent.is_dir():
        raise OutputError(f"There is no folder '{path.parent}' for the output. Make it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"No permission to write into '{path.parent}'. Choose another output folder."
        )
    return str(path)
