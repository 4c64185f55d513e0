"""The public `Plan`: the one place where planning, writers, executors and progress meet."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Self

import numpy as np

from hpcio.errors import Done, OptionError
from hpcio.files import Access
from hpcio.journals import Exists, on_what_is_there, published
from hpcio.layout import Join
from hpcio.machine import parse_seconds
from hpcio.planning import (
    CallOptions,
    Chunks,
    Description,
    LayoutOptions,
    ReadingOptions,
    Reducing,
    RunPolicy,
    StorageOptions,
    call_block,
    describe,
    find_block,
    load_plan,
    make_plan,
    read_block,
)
from hpcio.planning import Plan as Value
from hpcio.recording import Trials
from hpcio.running import Executor, choose, execute, extended_by, keeping_done
from hpcio.watching import check_queues, watch, watch_probes
from hpcio.writers import WRITERS, backend_of

__all__ = ["Plan"]


class Plan(Value):
    """What every block reads, computes and writes; made by :meth:`hpcio.Plan.create`.

    A plan is a value: it does nothing until it is run, and it can be run by any executor,
    from any process that can read its run directory.

    Attributes
    ----------
    function : hpcio.function.Function
    source : hpcio.recording.Recording
    trials : hpcio.Trials
    blocks : hpcio.recording.Blocks
    target : hpcio.layout.Target
        Where the result of each block lies.
    axes : tuple of hpcio.layout.Axis
        Names and coordinates of the axes of the result.
    payload : bytes
        The arguments of the function, pickled; see `arguments`.
    given : hpcio.function.Fingerprint
        The fingerprint of the arguments.
    out : str
        Absolute path of the result.
    writer, sources : str
        As given to :meth:`hpcio.Plan.create`; `sources` is resolved.
    average : hpcio.layout.Average or None
        The average of all trials that is stored, if their results are not kept; of several
        results, `outputs` have theirs.
    reduction : tuple of hpcio.function.Function
        The user's functions that make it; empty for an average by its name.
    casting : str
        How far types of results may differ from the planned one, as in `numpy.can_cast`.
    described : mapping of str to str
        The arguments and the function as text, for people.
    run_id : str
        Random name of the run.
    digest : str
        Hexadecimal; plans of one digest give the same bytes, block by block.
    live : callable or None
        The function itself, in the process that made the plan.
    chunks : tuple of int or None
        Shape of the chunks of a virtual source, one number for ``sources="task"``; None for
        contiguous ones. Of several results, see `outputs`.
    compression : str or None
    same_versions : bool
    access : str
        As given to :meth:`hpcio.Plan.create`.
    """

    @classmethod
    def create(
        cls,
        func: Callable[..., Any] | str,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        trials: Trials | np.ndarray | Sequence[Any] | int | str | os.PathLike[str],
        out: str | os.PathLike[str],
        writer: str = "virtual",
        sources: Literal["auto", "trial", "task"] = "auto",
        keeptrials: bool = True,
        reduce: Reducing | Mapping[str, Reducing] | None = None,
        by: str | Sequence[str] | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        join: Join | Mapping[str, Join] = "concatenate",
        join_axis: int | Mapping[str, int | None] | None = None,
        axis: int = 0,
        channel_axis: int | None = None,
        channels_per_block: int | None = None,
        units: str | None = None,
        out_channel_axis: int | Mapping[str, int | None] | None = None,
        out_shape: Sequence[int] | Callable[[tuple[int, ...]], Sequence[int]] | None = None,
        out_dtype: Any = None,
        axes: Mapping[str, Any] | None = None,
        chunks: Chunks | Mapping[str, Chunks] = None,
        compression: str | Mapping[str, str | None] | None = None,
        same_versions: bool = False,
        trial_time: float | str | None = None,
        access: Access = "result",
    ) -> Self:
        """Plan the run of a function over every trial of a recording, by a dry run.

        Parameters
        ----------
        func : callable or str
            The compute function, or its name as ``MODULE:FUNC`` or ``FILE.py:FUNC``. If it
            takes ``noCompute``, it is asked for shape and type; any other function is
            called with real trials, one of each shape, or of some if the others follow a rule.
        source : str or path, or several
            The recording, ``FILE::DATASET``, or a series of NWB, ``FILE::NAME``. Several in a
            list, or all files of a pattern such as ``"data/s*.h5::/lfp"``, are read as one: they
            must agree in type, channels and rate.
        trials : Trials, array (N, 2) or (N, 3), int, ``FILE::DATASET``, or a CSV or TSV file
            Start, stop and offset of each trial, in rows of the source; an int makes equal
            trials of that many rows. ``"::NAME"`` is in the file of the recording. Of several
            recordings: the trials of each in a list, or by one such name, int or pattern; or one
            table with a column `recording` (path, name or stem of a file), by which trials are
            sorted.
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
            complex128, with the same bits however the run goes. Of several results of a call,
            each is averaged.
        reduce : {"mean", "sum", "var", "min", "max", "count", "cov"}, functions or str, optional
            The average, with ``keeptrials=False``; by default the mean. ``var`` is that of
            `numpy.var`: divided by the number of trials. ``count`` is how many are not NaN.
            ``cov`` is the covariance of channels, (channels, channels), as `numpy.cov` of all
            observations: all axes of a result but that of channels, of all trials. Three
            functions ``(start, add, finish)``, or the name of such a tuple as ``MODULE:NAME`` or
            ``FILE.py:NAME``, make one of your own: ``start(result)`` a state of one trial, an
            array or a tuple of arrays; ``add(state, later)`` one of two, be they of one trial or
            of many; ``finish(state)`` the array that is stored. States keep their shapes and
            types, and are read-only: return new ones. Of several results of a call, a dict such as
            ``{"power": "mean"}``, without `keeptrials`, names those that are averaged; the others
            are kept trial by trial.
        by : str or sequence of str, optional
            Columns of the trials: an average for each of their values, along a first axis.
        args, kwargs
            Further arguments of the function; mark those that differ from trial to trial
            by :func:`hpcio.per_trial`.
        join : {"concatenate", "stack"}, or dict of these
            Along an axis of the results, or along a new first axis (equal shapes only). Of several
            results of a call, a dict says it for some by their names, as for the options below.
        join_axis : int, or dict of int, optional
            The axis of the results for ``concatenate``; by default the stacking axis.
        axis : int
            The stacking axis of the source: the one that trials are cut along.
        channel_axis : int, optional
            The axis of channels of the source, where it is not the one other axis.
        channels_per_block : int, optional
            Call the function for so many channels at a time.
        units : str, optional
            Read values in this unit, such as ``"V"``, in float64: a series of NWB says how. By
            default they are as they are stored.
        out_channel_axis : int, or dict of int, optional
            The axis of channels of the function's result; by default that of the source. For
            `channels_per_block` and ``reduce="cov"``.
        out_shape, out_dtype : optional
            Shape (or a function of the trial's shape) and type of a block's result. With
            `out_dtype`, results are cast to it. With both, there is no dry run.
        axes : dict, or dict of these, optional
            Names of all axes of the result, in order, with their coordinates or None; they
            become dimension scales. One that has the name of an axis of the source, and its
            length in each trial, has the coordinates of that instead of None. By default what
            the source's own scales say of axes that the function keeps: those that are as long as
            in its trials. Say ``axes`` if they are others all the same, such as the frequencies of
            a full Fourier transform.
        chunks : bool or sequence of int, or dict of these, optional
            Store virtual sources in chunks of so many values along each axis of a block's
            result, or with True in good ones; by default only if they are compressed. Of several
            results of a call, a dict says it for some by their names.
        compression : str, or dict of str, optional
            ``NAME[:LEVEL][+shuffle]``, such as ``"zstd"``; for the virtual writer. Names are
            those of :func:`hpcio.repack`. Of several results, a dict as for `chunks`.
        same_versions : bool
            Refuse to continue with other versions of the packages that the function uses,
            instead of warning.
        trial_time : float or str, optional
            How long a trial may take in the dry run, in seconds or like ``"10m"``; others are
            tried instead. For the run, say it to :meth:`run`.
        access : {"result", "shared", "private"}
            Who may read what is written, as far as the umask lets them: the result, as any
            new file of yours; also plan, journals and logs; or nothing.

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
        storage = StorageOptions(
            writer=writer, sources=sources, chunks=chunks, compression=compression, access=access
        )
        with watch_probes() as on_probe:
            made = make_plan(
                func,
                source,
                out,
                reading=ReadingOptions(
                    trials=trials, axis=axis, channel_axis=channel_axis,
                    channels_per_block=channels_per_block, units=units,
                ),
                call=CallOptions(
                    args=args, kwargs={} if kwargs is None else kwargs, out_shape=out_shape,
                    out_dtype=out_dtype, same_versions=same_versions,
                    trial_time=None if trial_time is None else parse_seconds(trial_time),
                ),
                layout=LayoutOptions(
                    join=join, join_axis=join_axis, out_channel_axis=out_channel_axis,
                    keeptrials=keeptrials, reduce=reduce, by=by, axes=axes,
                ),
                storage=storage,
                abilities=WRITERS[writer].abilities,
                on_probe=on_probe,
            )  # fmt: skip
        backend_of(made).check_plan(made)
        return cls(**vars(made))

    @classmethod
    def load(cls, out: str | os.PathLike[str]) -> Self:
        """The plan of a run directory, named by its result ``OUT`` or as ``OUT.run``.

        Nothing is unpickled before the plan is run.

        Raises
        ------
        PlanError
            If there is no plan, it is of another user, or of another version of hpcio.
        """
        return cls(**vars(load_plan(out)))

    def describe(
        self, *, workers: int | None = None, trial_time: float | str | None = None
    ) -> Description:
        """What a run will read and write, and what it will take; see `hpcio.planning.Description`.

        The time comes from a probe: the function is called with one of the longest trials; with
        another one, if that takes longer than `trial_time`.
        """
        limit = None if trial_time is None else parse_seconds(trial_time)
        return describe(self, workers=workers, trial_time=limit)

    def trial(self, number: int, *, channel_block: int = 0) -> np.ndarray:
        """What the function gets of a trial.

        Parameters
        ----------
        number : int
            As messages and results have it: its row in the table of trials.
        channel_block : int
            Which of its blocks, if the plan cuts channels.

        Returns
        -------
        numpy.ndarray

        Raises
        ------
        TrialError
            If there is no such trial.
        SourceError
            If the recording has changed, or cannot be read.
        """
        return read_block(self, find_block(self, number, channel_block=channel_block))

    def call(self, number: int, *, channel_block: int = 0) -> Any:
        """Call the function for one trial, here: in a debugger, or once it was mended.

        The function is taken as it is now, nothing is kept, and what it raises comes through.

        Parameters
        ----------
        number, channel_block : int
            As for :meth:`trial`.

        Returns
        -------
        object
            Whatever it returns.

        Examples
        --------
        >>> plan.call(63)  # doctest: +SKIP
        """
        return call_block(self, find_block(self, number, channel_block=channel_block))

    def run(
        self,
        executor: Executor | str | None = None,
        *,
        workers: int | None = None,
        threads: int = 1,
        memory: str | int | None = None,
        retries: int = 0,
        max_failed: int | None = None,
        gaps: bool = False,
        trial_time: float | str | None = None,
        exists: Exists = "resume",
        fresh: bool = False,
        keep_done: bool = False,
        progress: bool | None = None,
    ) -> Done:
        """Compute and store every block that is not done yet, then publish the result.

        Parameters
        ----------
        executor : optional
            Runs batches of blocks, such as a cluster, or the name of one that is registered; by
            default processes of this machine.
        workers : int, optional
            How many processes; 0 computes in this one (for debuggers). By default one for
            each core that this process may use.
        threads : int
            Threads that numerical libraries may use in a worker.
        memory : int or str, optional
            What one worker may use, in bytes or like ``"4GB"``; by default its share of
            what is free.
        retries : int
            How often a trial that raises is tried again.
        max_failed : int, optional
            The run stops when more trials than this have failed; by default a tenth of
            them, and at least 100.
        gaps : bool
            Publish even if trials failed, with NaN (or zero) in their place.
        trial_time : float or str, optional
            After how long a trial has failed, in seconds or like ``"10m"``: the function is left,
            or its process ended. The others go on.
        exists : {"resume", "fresh", "error"}
            What becomes of a result, or of an unfinished run, that is there already. ``resume``
            goes on: of a finished run of the same plan nothing is computed, another plan is
            refused. ``fresh`` computes all trials anew, and throws away what an unfinished run
            has done; an older result stays until the new one replaces it. ``error`` refuses.
        fresh : bool
            Short for ``exists="fresh"``.
        keep_done : bool
            Go on with what is done by an earlier function or with other arguments, once they
            were mended; the attribute `functions` of the result says which, and its column
            `function` for each trial. Gaps of a published result are tried again.
        progress : bool, optional
            Show progress; by default if the error output is a terminal or a log.

        Returns
        -------
        Done

        Raises
        ------
        BlocksFailed
            If trials failed and gaps were not asked for.
        Interrupted
            After Ctrl-C; what is finished stays, and `run` continues.
        PlanError
            If somebody else is at work on it: a process, or jobs of the run in a queue.
        """
        if fresh and exists != "resume":
            raise OptionError(f"fresh=True and exists={exists!r}: give exists alone.")
        exists = "fresh" if fresh else exists
        if keep_done and exists != "resume":
            raise OptionError("keep_done=True goes on with what is there. Leave out exists.")
        policy = RunPolicy(
            retries=retries, max_failed=max_failed, gaps=gaps,
            trial_time=None if trial_time is None else parse_seconds(trial_time),
        )  # fmt: skip
        chosen = choose(executor, workers=workers, threads=threads)
        observe = None if progress is False else partial(watch, force=progress is True)
        if not keep_done and (exists == "fresh" or not published(self)):
            check_queues(self)
        plan = self.keeping_done() if keep_done else on_what_is_there(self, exists)
        return execute(plan, chosen, policy=policy, memory=memory, observe=observe)

    def keeping_done(self) -> Self:
        """The plan that goes on with what is done, by whatever function; see :meth:`run`.

        From then on it is that of the run directory. ``run(keep_done=True)`` runs it at once; any
        other executor can do so, too.

        Examples
        --------
        >>> slurm.submit(plan.keeping_done(), tasks=8)  # doctest: +SKIP
        """
        check_queues(self)
        return type(self)(**vars(keeping_done(self)))

    def extend(
        self,
        *,
        trials: Trials | np.ndarray | Sequence[Any] | int | str | os.PathLike[str],
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        outside: Literal["error", "drop"] = "error",
        keep_done: bool = False,
        trial_time: float | str | None = None,
    ) -> Self:
        """The plan that adds trials to the finished result of this one.

        Its run computes the new trials alone, and then replaces the result by one of all trials;
        the attribute `runs` of that tells of the runs, its column `run` which one brought each
        trial. Averages go on where they ended. Parts of a virtual result stay where they are; the
        writers of one file copy what is there into a new file, which takes the room of both until
        the old one is replaced.

        Parameters
        ----------
        trials : Trials, int, str, path, or table
            As for :meth:`create`: the new ones, with the columns that the others have. If all that
            are there of a recording are among them, these are left out: a table may have grown.
        source : str, path, or sequence of them, optional
            Further recordings; those that are there already may be among them, as with a pattern.
            By default trials are of the recording that is there, which may have become longer.
        kwargs : mapping, optional
            By :func:`hpcio.per_trial`, values for the trials that are given, but for those that are
            dropped, of arguments that have one for each trial. If they are a column of the trials,
            the new ones have them.
        outside : {"error", "drop"}
            What becomes of trials that leave their recording.
        keep_done : bool
            Compute the new trials by the function as it is now, even if it has changed; see
            :meth:`run`.
        trial_time : float or str, optional
            How long a trial may take in the dry run.

        Returns
        -------
        Plan
            Nothing is touched before it is run, by any executor.

        Raises
        ------
        OutputError
            If there is no finished result of this plan.
        TrialError, SourceError, OptionError, FunctionError, PlanError
            If what is new does not go with what is there; if the function has changed.

        Examples
        --------
        >>> plan = hpcio.Plan.load("spectra.h5")  # doctest: +SKIP
        >>> plan.extend(source="day2.h5::/lfp", trials="day2.csv").run()  # doctest: +SKIP
        """
        check_queues(self)
        made = extended_by(
            self, trials, source=source, kwargs=kwargs, outside=outside, keep_done=keep_done,
            trial_time=None if trial_time is None else parse_seconds(trial_time),
        )  # fmt: skip
        return type(self)(**vars(made))
