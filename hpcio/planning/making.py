"""Making a plan: what is read, what is called, the dry run, the layout, the storing, the value."""

from __future__ import annotations

import math
import os
import secrets
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from hpcio.errors import FunctionError, HpcioWarning, OptionError, OutputError, check_path
from hpcio.files import CHUNK, Chunking, layout, lies_in_result, mark_of, split_spec
from hpcio.fingerprints import Fingerprint, fingerprint
from hpcio.function import MOST_TEXT, Arguments, Function, naming_result, text_of
from hpcio.layout import (
    Average,
    Join,
    Output,
    OwnReduction,
    Reduce,
    Target,
    averaged,
    in_equal_groups,
    lay_out,
    name_axes,
    record_of,
)
from hpcio.planning.again import known_outcome
from hpcio.planning.digest import digest_of
from hpcio.planning.dryrun import Called, Outcome, dry_run
from hpcio.planning.options import (
    CallOptions,
    Chunks,
    LayoutOptions,
    ReadingOptions,
    Sources,
    StorageOptions,
    WriterAbilities,
)
from hpcio.planning.plan import Plan
from hpcio.planning.reducing import reduction_of, try_reduction
from hpcio.recording import (
    Blocks,
    Recording,
    Trials,
    clock_of_rows,
    matching_files,
    placed,
    read_recording,
    read_trials,
)

__all__ = [
    "Read",
    "check_new_output",
    "check_output",
    "check_trial_table",
    "make_plan",
    "outputs_of",
    "refuse_generators",
    "renewed",
    "sources_of",
    "texts_of",
]

# Plain HDF5 cannot read more files than this as one dataset: it keeps every source open, and
# the usual limit is 1,024 open files.
AUTO_TRIAL_SOURCES = 512
# HDF5 needs 13 kB of memory for each mapping of a virtual dataset while it is built.
MAX_MAPPINGS = 100_000

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def make_plan(
    func: Callable[..., Any] | str,
    source: Source,
    out: str | os.PathLike[str],
    *,
    reading: ReadingOptions,
    call: CallOptions,
    layout: LayoutOptions,
    storage: StorageOptions,
    abilities: WriterAbilities,
    on_probe: Callable[[int, int], None] | None = None,
) -> Plan:
    """Plan a run by a dry run; see :meth:`hpcio.Plan.create`.

    Parameters
    ----------
    func : callable or str
    source : str, path, or sequence of them
    out : str or path
    reading, call, layout, storage : options
    abilities : WriterAbilities
        What the writer that `storage` names can do.
    on_probe : callable, optional
        Called with how many shapes of trials have been tried, and of how many.
    """
    final = check_output(out)
    check_trial_table(reading.trials, final)
    read = _what_is_read(source, reading, final)
    called = _what_is_called(func, call, read)
    refuse_generators(called.function, called.given)
    reduction = reduction_of(layout.reduce)
    _refuse_generators_in(reduction)
    asked = (called, read.recording, read.blocks, call)
    outcomes = known_outcome(final, *asked) or dry_run(*asked, on_probe=on_probe)
    several = outcomes[0].name != ""
    outputs = outputs_of(read, outcomes, layout, reduction, call.trial_time)
    target, axes, average = outputs[0].target, outputs[0].axes, outputs[0].average
    if several:
        target, axes, average = record_of(outputs), (), None
    sources = sources_of(storage, abilities, outputs)
    outputs = _packed(outputs, storage, abilities, sources)
    return _frozen(Plan(
        function=called.function,
        source=read.recording,
        trials=read.trials,
        blocks=read.blocks,
        target=target,
        axes=axes,
        payload=called.payload,
        given=called.given,
        out=final,
        writer=storage.writer,
        sources=sources,
        average=average,
        casting="same_kind" if call.out_dtype is not None else "equiv",
        run_id=secrets.token_hex(8),
        digest="",
        live=called.func,
        described=texts_of(called, reduction),
        chunks=None if several else outputs[0].chunks,
        compression=None if several else outputs[0].compression,
        same_versions=call.same_versions,
        access=storage.access,
        reduction=reduction,
        several=tuple(outputs) if several else (),
    ))  # fmt: skip


def renewed(plan: Plan) -> Plan:
    """A plan like another, by its functions as they are now; it keeps nothing that is done.

    Raises
    ------
    FunctionError
        If the function cannot be imported or unpickled here.
    """
    func = plan.function.as_it_is(live=plan.live)
    function, given = Function.of(func), fingerprint(Arguments.load(plan.payload))
    refuse_generators(function, given)
    reduction = tuple(Function.of(each.as_it_is()) for each in plan.reduction)
    described = {**plan.described, "text": text_of(func)}
    return _frozen(
        replace(
            plan, function=function, given=given, live=func, reduction=reduction,
            described=described, former=(), kept=np.zeros(0, np.uint16),
        )
    )  # fmt: skip


def _frozen(plan: Plan) -> Plan:
    """A plan with its digest."""
    _say_what_is_unseen(plan)
    return replace(plan, digest=digest_of(plan))


def texts_of(called: Called, reduction: Sequence[Function]) -> dict[str, str]:
    """Arguments and functions as text, for people."""
    described = {**called.arguments.described(), "text": text_of(called.func)}
    if reduction:
        texts = [text_of(function.load()) for function in reduction]
        described["reduce"] = "\n".join(dict.fromkeys(filter(None, texts)))[:MOST_TEXT]
    return described


def _refuse_generators_in(reduction: Sequence[Function]) -> None:
    """Raise FunctionError if a reduction would draw from a generator of random numbers."""
    for function in reduction:
        if function.fingerprint.generators:
            raise FunctionError(
                f"'{function.name}' uses a generator of random numbers, "
                f"'{function.fingerprint.generators[0]}'. Which draws it gets would depend on how "
                "many workers there are. Draw in the compute function, and reduce what it returns."
            )


def refuse_generators(function: Function, arguments: Fingerprint) -> None:
    """Raise FunctionError if trials would draw from one generator of random numbers in turn."""
    of_function, given = function.fingerprint.generators, arguments.generators
    if of_function or given:
        where = f"'{of_function[0]}'" if of_function else "inside an argument"
        raise FunctionError(
            f"'{function.name}' uses a generator of random numbers, {where}. Which draws a "
            "trial gets would depend on how many workers there are. Let the function take it: "
            "kwargs={'rng': numpy.random.default_rng(1)} gives each trial a generator of its own, "
            "spawned from that one."
        )


def _say_what_is_unseen(plan: Plan) -> None:
    """Warn of what decides results and is in no fingerprint."""
    seen = [function.fingerprint for function in (plan.function, *plan.reduction)]
    unseen = dict.fromkeys(what for one in (*seen, plan.given) for what in one.unseen)
    if unseen:
        warnings.warn(
            f"If what '{plan.function.name}' reaches here changes, nobody will notice that old and "
            f"new results are mixed: {'; '.join(unseen)}.",
            HpcioWarning,
            stacklevel=4,
        )


def check_new_output(out: str | os.PathLike[str]) -> str:
    """The absolute path of an output that can be created, or an OutputError."""
    path = Path(check_output(out))
    if os.path.lexists(path):
        raise OutputError(f"The output '{path}' exists. Choose another name, or remove it first.")
    return str(path)


def check_output(out: str | os.PathLike[str]) -> str:
    """The absolute path of an output that can be created, or is a result of hpcio already.

    Raises
    ------
    OutputError
        If something else is there, or nothing can be made there.
    """
    check_path("out", out)
    path = Path(os.path.expanduser(os.fspath(out))).absolute()
    if os.path.lexists(path) and mark_of(path) is None:
        raise OutputError(
            f"The output '{path}' exists, and was not made by hpcio, or is damaged. Choose another "
            "name, or move it away."
        )
    if not path.parent.is_dir():
        raise OutputError(f"There is no folder '{path.parent}' for the output. Make it first.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"No permission to write into '{path.parent}'. Choose another output folder."
        )
    return str(path)


def check_trial_table(trials: object, out: str | os.PathLike[str]) -> None:
    """Raise OutputError if a trial table lies in the output or its parts, which a run replaces."""
    if isinstance(trials, list | tuple):
        for one in trials:
            if isinstance(one, str | os.PathLike):
                check_trial_table(one, out)
    if not isinstance(trials, str | os.PathLike) or os.fspath(trials).startswith("::"):
        return
    name = os.fspath(trials)
    if matching_files(name) is not None:  # which leaves the output out
        return
    file = split_spec(name)[0] if "::" in name else os.path.expanduser(name)
    if lies_in_result(file, os.path.expanduser(out)):
        raise OutputError(
            f"The trial table '{name}' lies in the output '{os.fspath(out)}' itself, which the run "
            "would replace. Choose another output, or keep the table elsewhere first: "
            "trials=numpy.array of it (in the shell: a file of its own, such as CSV)."
        )


# ---------------------------------------------------------------------- what is read


@dataclass(frozen=True, eq=False)
class Read:
    """What is read: the trials of a recording, and the blocks that follow from them."""

    recording: Recording
    trials: Trials
    blocks: Blocks
    order: np.ndarray  # the place of each trial among those that were given


def _what_is_read(source: Source, reading: ReadingOptions, out: str) -> Read:
    axis = _axis(reading)
    recording = read_recording(source, axis=axis, units=reading.units, out=out)
    _check_axis(recording, reading.axis)
    trials, order = read_trials(reading.trials, recording, axis=axis, out=out)
    ndim = len(recording.shape)
    if reading.axis and trials.axis % ndim != reading.axis % ndim:
        raise OptionError(
            f"axis={reading.axis}, but the trials were made for axis {trials.axis}. Make them for "
            "that axis: Trials.from_array(table, axis=...)."
        )
    if reading.channels_per_block is not None or reading.channel_axis is not None:
        trials = trials.with_blocks(
            channels_per_block=reading.channels_per_block, channel_axis=reading.channel_axis
        )
    clock = clock_of_rows(trials.clock, recording, trials.axis)
    trials = replace(trials, clock=clock)
    alone = len(recording.parts) == 1
    name = f"'{recording.dataset}' of '{recording.path}'" if alone else str(recording)
    blocks = placed(trials, recording).blocks(recording.shape, name=name)
    return Read(recording, trials, blocks, order)


def _axis(reading: ReadingOptions) -> int:
    """The axis that is cut: trials may know it by themselves."""
    given = reading.trials
    made = [one for one in (given if isinstance(given, list | tuple) else [given])
            if isinstance(one, Trials)]  # fmt: skip
    return made[0].axis if made and not reading.axis else reading.axis


def _check_axis(recording: Recording, axis: int) -> None:
    if not -len(recording.shape) <= axis < len(recording.shape):
        raise OptionError(
            f"axis={axis} does not exist in '{recording.dataset}' of shape {recording.shape}. "
            f"Choose one from 0 to {len(recording.shape) - 1}."
        )


# ---------------------------------------------------------------------- what is called


def _what_is_called(func: Callable[..., Any] | str, call: CallOptions, read: Read) -> Called:
    function = Function.of(func)
    loaded = function.load() if isinstance(func, str) else func
    arguments = Arguments.given(call.args, call.kwargs).in_order(read.order)
    arguments = arguments.with_columns(read.trials.__getitem__)
    arguments.check(len(read.trials))
    payload = arguments.dump()
    unpickled = Arguments.load(payload)
    given = fingerprint(unpickled)
    if fingerprint(arguments).parts[""] != given.parts[""]:
        names = (*range(len(arguments.args)), *arguments.kwargs)
        pairs = zip(names, arguments.values(), unpickled.values(), strict=True)
        changed = [n for n, a, b in pairs if fingerprint(a).parts[""] != fingerprint(b).parts[""]]
        if changed:
            raise OptionError(
                f"The argument {changed[0]!r} is another one once it was pickled, as for workers "
                "(a subclass of numpy.ndarray may lose its attributes). Give plain values, or "
                "teach its class __reduce__."
            )
    return Called(loaded, function, arguments, payload, given)


# ---------------------------------------------------------------------- where results lie


def outputs_of(
    read: Read,
    outcomes: Sequence[Outcome],
    options: LayoutOptions,
    reduction: Sequence[Function],
    limit: float | None,
) -> list[Output]:
    """The layout and the axes of each result, and what is stored of those that are averaged."""
    names = [outcome.name for outcome in outcomes]
    if names != [""] and reduction:
        raise OptionError(
            f"The function returns several results ({', '.join(names)}), and functions of your own "
            "make the average of one. Name an average, such as reduce='mean', or let the function "
            "return the one to average."
        )
    found = []
    for outcome in outcomes:
        own = _options_of(outcome, names, options)
        with naming_result(outcome.name):
            target, average = _where_results_lie(read, outcome, own, reduction, limit)
            axes = name_axes(
                own.axes, read.recording, read.trials, read.blocks, target, average=average
            )
        found.append(Output(outcome.name, target, axes, average))
    return in_equal_groups(found)


def _options_of(outcome: Outcome, names: Sequence[str], options: LayoutOptions) -> LayoutOptions:
    """What is said of one of several results, or of the only one."""
    own = options.of(outcome.name, names)
    if outcome.name and own.keeptrials and not any(outcome.shapes):
        return replace(own, join="stack")  # numbers can be stacked, and nothing else
    return own


def _where_results_lie(
    read: Read,
    outcome: Outcome,
    options: LayoutOptions,
    reduction: Sequence[Function],
    limit: float | None,
) -> tuple[Target, Average | None]:
    """The layout of the result, and what is averaged."""
    blocks = read.blocks
    layout(outcome.shapes[0], outcome.dtype)  # refuses a type that HDF5 cannot hold
    if options.keeptrials:
        return _laid_out(blocks, outcome, options), None
    try:
        stack = _laid_out(
            blocks, outcome, replace(options, keeptrials=True, reduce=None, by=None, join="stack")
        )
    except FunctionError as error:
        raise FunctionError(f"An average needs equal results of all trials. {error}") from error
    by = (options.by,) if isinstance(options.by, str) else tuple(options.by or ())
    # LayoutOptions has checked a name.
    what: Reduce | OwnReduction = cast(Reduce, options.reduce or "mean")
    if reduction:
        what = own = try_reduction(reduction, stack.shape[1:], stack.dtype, limit=limit)
        layout(own.shape, own.dtype)
    return averaged(
        stack, blocks, what, trials=read.trials, by=by,
        out_channel_axis=cast("int | None", options.out_channel_axis),
    )  # fmt: skip


def _laid_out(blocks: Blocks, outcome: Outcome, options: LayoutOptions) -> Target:
    return lay_out(
        blocks, outcome.shape_index, outcome.shapes, outcome.dtype,
        join=cast(Join, options.join), join_axis=cast("int | None", options.join_axis),
        out_channel_axis=cast("int | None", options.out_channel_axis),
    )  # fmt: skip


# ---------------------------------------------------------------------- how they are stored


def _packed(
    outputs: Sequence[Output],
    options: StorageOptions,
    abilities: WriterAbilities,
    sources: Sources,
) -> list[Output]:
    """Outputs, with the chunks of their virtual sources."""
    averaged = any(output.average is not None for output in outputs)
    if averaged and (options.chunks or options.compression):
        raise OptionError(
            "An average is one dataset, made at the end. Compress it afterwards: hpcio repack "
            "OUT --compression gzip"
        )
    names, found = [output.name for output in outputs], []
    for output in outputs:
        own = options.of(output.name, names)
        with naming_result(output.name):
            chunks, compression = _chunking(own, abilities, output.target, sources)
        found.append(replace(output, chunks=chunks, compression=compression))
    return found


def sources_of(
    options: StorageOptions, abilities: WriterAbilities, outputs: Sequence[Output]
) -> Sources:
    """Whether there is one virtual source for each block (trial) or for each batch (task)."""
    of_trials = [output.target for output in outputs if output.average is None]
    if not abilities.makes_sources or not of_trials:
        return "task"
    count = of_trials[0].shape_index.size
    sources = options.sources
    # What was computed of a group that is given away is computed again, perhaps by the same
    # attempt, which writes no file of a trial twice.
    in_groups = len(of_trials) < len(outputs)
    if in_groups and sources == "trial":
        raise OptionError(
            "sources='trial' makes a file for each trial, and beside averages trials are done by "
            "groups. Leave it out."
        )
    if sources == "auto":
        sources = "trial" if count <= AUTO_TRIAL_SOURCES and not in_groups else "task"
    if sources == "trial" and count > MAX_MAPPINGS:
        raise OptionError(
            f"{count} blocks would make as many files, more than HDF5 can join "
            f"({MAX_MAPPINGS}). Use sources='task'."
        )
    if count > MAX_MAPPINGS and not all(target.in_rows for target in of_trials):
        raise OptionError(
            f"{count} blocks that do not follow each other along the first axis need as many "
            f"mappings of a virtual dataset, more than HDF5 can hold ({MAX_MAPPINGS}). "
            "Use join='stack', join_axis=0, or more channels_per_block."
        )
    return sources


def _chunking(
    options: StorageOptions, abilities: WriterAbilities, target: Target, sources: Sources
) -> tuple[tuple[int, ...] | None, str | None]:
    """Chunks of a virtual source, and their compression; None if it is contiguous."""
    shape = target.largest_shape()
    axis = 0 if target.stacked else target.axis
    chunks = cast(Chunks, options.chunks)
    chosen = Chunking.choose(
        shape or (1,), target.dtype, axis,
        chunks=chunks, compression=cast("str | None", options.compression),
    )  # fmt: skip
    if chosen is None:
        return None, None
    if not abilities.compresses:
        raise OptionError(
            f"The {options.writer} writer has a place for every result beforehand, and compressed "
            "chunks have none. Compress the result afterwards: hpcio repack OUT --compression "
            f"{chosen.compression or 'gzip'} --chunks auto"
        )
    chunk = chosen.chunk if shape else ()
    if sources == "task":
        values = math.prod(chunk)
        if not chunks or chunks is True:  # several small results, each in one chunk
            values *= max(1, CHUNK // (values * target.dtype.itemsize))
        chunk = (values,)
    return chunk, (chosen.compression and str(chosen.compression)) or None
