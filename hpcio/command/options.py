"""Options that several subcommands have, and what they make."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import click

from hpcio.errors import HpcioError, OptionError
from hpcio.files import Access
from hpcio.function import per_trial
from hpcio.journals import Exists
from hpcio.machine import read_section, settings_file
from hpcio.plan import Plan
from hpcio.planning import check_trial_table, load_plan
from hpcio.recording import Electrodes, Recording, Trials, electrodes, read_recording, read_trials
from hpcio.words import say
from hpcio.writers import WRITERS

__all__ = [
    "CHUNK_OPTIONS",
    "KEEP_OPTION",
    "MEMORY_OPTION",
    "PLAN_OPTIONS",
    "RUN_OPTIONS",
    "TRIAL_OPTIONS",
    "TRIAL_TIME_OPTION",
    "create_plan",
    "exists_of",
    "given_trials",
    "plan_defaults",
    "refuse_plan_options",
    "trials_as_told",
    "was_said",
    "with_options",
]


_WORDS = {"true": True, "false": False}


def with_options(options: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Give a command several options, in this order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _literal(text: str) -> Any:
    """A Python value if `text` reads as one, else the text itself.

    ``true`` and ``false`` are what people mean by them. ``2024_01``, a number to Python, is a name.
    """
    if text in _WORDS:
        return _WORDS[text]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return text if isinstance(value, int | float | complex) and "_" in text else value


def _pair(_: click.Context, option: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    parsed = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"'{pair}' is not NAME=VALUE.", param=option)
        if name in parsed:
            raise click.BadParameter(f"'{name}' is given twice.", param=option)
        parsed[name] = _literal(value)
    return parsed


def _pairs_of_words(
    _: click.Context, option: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, str]:
    parsed = {}
    for pair in pairs:
        name, equals, word = pair.partition("=")
        if not equals or not name or not word:
            raise click.BadParameter(f"'{pair}' is not {option.metavar}.", param=option)
        parsed[name] = word
    return parsed


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _indices(_: click.Context, option: click.Parameter, text: str | None) -> Any:
    """``START:STOP[:STEP]`` or a list ``3,1,2``."""
    if text is None:
        return None
    try:
        if ":" in text:
            return slice(*(int(p) if p else None for p in text.split(":")))
        return [int(p) for p in text.split(",")]
    except (ValueError, TypeError):
        raise click.BadParameter(
            f"'{text}' is neither START:STOP:STEP nor a list such as 3,1,2.", param=option
        ) from None


def _lengths(_: click.Context, option: click.Parameter, text: str | None) -> Any:
    """Lengths ``8,16``; the shape of one number has no axes and is empty."""
    try:
        return None if text is None else tuple(int(n) for n in text.split(",") if n.strip())
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is no list of lengths such as 8,16.", param=option
        ) from None


def _axes(_: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> Any:
    """Names ``trial,frequency``, or those of each result, as `Plan.create` takes them."""
    found: dict[str, dict[str, None]] = {}
    for text in texts:
        result, listed = ("", text) if "=" not in text else text.split("=", 1)
        names = [name.strip() for name in listed.split(",")]
        if with_more := [name for name in names if "=" in name]:
            raise click.BadParameter(
                f"'{with_more[0]}' is no name of an axis. Coordinates are said in Python: "
                "Plan.create(..., axes={NAME: values, ...}).",
                param=option,
            )
        if len(set(names)) < len(names):
            raise click.BadParameter(f"'{text}' has a name twice.", param=option)
        if result in found or (found and not (result and "" not in found)):
            raise click.BadParameter(
                f"'{text}' comes after '{texts[0]}'. Say it once; or of several results once for "
                "each, RESULT=NAME,NAME,...",
                param=option,
            )
        found[result] = dict.fromkeys(names)
    return found.get("", found) or None


class _PerResult(click.ParamType):  # type: ignore[type-arg]  # generic in later versions
    """One value, or one for each of some results of a call: ``NAME=VALUE,...``."""

    def __init__(self, one: Any) -> None:
        self._one = one
        self.name = one.name

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str) or "=" not in value:
            return self._one.convert(value, param, ctx)
        # A value may have commas of its own.
        pairs = [item.rpartition("=") for item in re.split(",(?=[^,]*=)", value)]
        return {name: self._one.convert(text, param, ctx) for name, _, text in pairs}


class _ChunkShape(click.ParamType):  # type: ignore[type-arg]  # generic in later versions
    """``auto`` or lengths ``1000,64``."""

    name = "shape"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if value == "auto":
            return True
        try:
            return tuple(int(n) for n in value.split(","))
        except ValueError:
            self.fail(f"'{value}' is neither auto nor lengths such as 1000,64.", param, ctx)


CHUNK_OPTIONS = [
    click.option("--chunks", type=_PerResult(_ChunkShape()), metavar="auto|N,N,...|NAME=...,...",
                 help="Shape of a chunk; auto: about 1 MB."),
    click.option("--compression", type=_PerResult(click.STRING),
                 metavar="NAME[:LEVEL][+shuffle]|NAME=...,...",
                 help="Such as gzip, lzf, zstd:3, lz4, blosc-zstd+shuffle; of several results of "
                 "a call, of some: power=zstd:3,peak=gzip"),
]  # fmt: skip
# Which trials, and how a table of them is read; names as of `Trials.read`.
TRIAL_OPTIONS = [
    click.option(
        "--trials",
        help="Which rows make which trial: FILE::NAME or a CSV or TSV file, with columns such as "
        "start, stop [, offset], or onset and duration; or a number of rows for equal trials. "
        "::NAME is in the file of the recording. Of several recordings: a pattern in quotes, or "
        "one table with a column 'recording'.",
    ),
    click.option("--rate", type=float, help="Samples in a second, where trials are in seconds."),
    click.option("--pre", type=float, help="Seconds of a trial before its event."),
    click.option("--post", type=float, help="Seconds of a trial after its event."),
    click.option("--unit", type=click.Choice(["rows", "s", "ms", "us"]),
                 help="What start and stop, or onsets, are in.  [default: as they are called]"),
    click.option("--one-based/--zero-based", default=None,
                 help="Whether rows count from 1, and stop is the last one."),
    click.option("--onset", metavar="COLUMN", help="The column with the times of events."),
    click.option("--t-start", type=float,
                 help="Time of the first row in seconds, if the times of trials do not count from "
                 "it.  [default: as the file says, else 0]"),
    click.option("--outside", type=click.Choice(["error", "drop"]), default="error",
                 show_default=True, help="What becomes of trials that leave the recording."),
    click.option("--where", multiple=True, metavar="COLUMN=VALUE", callback=_pairs_of_words,
                 help="Trials whose column has a value, one of several (a,b) or lies between two "
                 "(0.2:0.8)."),
]  # fmt: skip


_SOURCES = ("auto", "trial", "task")
PLAN_OPTIONS = [
    *TRIAL_OPTIONS,
    click.option("--out", type=click.Path(), help="The result, a new HDF5 file."),
    click.option(
        "--writer",
        type=click.Choice(WRITERS.names()),
        default="virtual",
        show_default="virtual, or what hpcio config says",
        help="Files of the workers joined by a virtual dataset; or one file that all write, by "
        "themselves, through parallel HDF5, or one after the other under a lock (mutex).",
    ),
    click.option(
        "--sources",
        type=click.Choice(_SOURCES),
        default="auto",
        show_default=True,
        help="Parts of the result: one file for each trial, or for each run of trials.",
    ),
    click.option(
        "--join",
        type=_PerResult(click.Choice(["concatenate", "stack"])),
        default="concatenate",
        show_default=True,
        metavar="concatenate|stack|NAME=...,...",
        help="Join results along an axis of theirs, or along a new first axis; of several results "
        "of a call, some otherwise: peak=stack,flag=stack",
    ),
    click.option(
        "--join-axis",
        type=_PerResult(click.INT),
        metavar="INTEGER|NAME=...,...",
        help="Axis of the results to join along.",
    ),
    click.option(
        "--reduce",
        type=_PerResult(click.STRING),
        metavar="mean|sum|var|min|max|count|cov|FILE.py:NAME|NAME=...,...",
        help="Keep the mean of all trials, or another such number, and no trial; cov: the "
        "covariance of channels; or what a tuple of your functions makes (start, add, finish). Of "
        "several results of a call, of some: power=mean",
    ),
    click.option("--by", metavar="COLUMN,...", help="One for each value of columns of the trials."),
    click.option("--axis", type=int, default=0, show_default=True, help="Axis that trials cut."),
    click.option("--channel-axis", type=int, help="Axis of channels of the recording."),
    click.option("--units", help="Read values in this unit, such as V, as a series of NWB says."),
    click.option("--channels-per-block", type=int, help="Compute so many channels at a time."),
    click.option(
        "--out-channel-axis",
        type=_PerResult(click.INT),
        metavar="INTEGER|NAME=...,...",
        help="Axis of channels of one result.",
    ),
    click.option("--select-trials", callback=_indices, help="Some trials, as 0:100 or 3,1,2."),
    click.option("--select-channels", callback=_indices, help="Some channels, likewise."),
    click.option(
        "--electrodes",
        multiple=True,
        metavar="COLUMN=VALUE",
        callback=_pairs_of_words,
        help="Channels of a series of NWB whose electrodes have a value, such as "
        "group_name=shank0; values as of --where.",
    ),
    click.option("--select-time", callback=_indices, help="Some rows of each trial, likewise."),
    click.option(
        "--arg", "args", multiple=True, metavar="VALUE", help="A further argument of the function."
    ),
    click.option(
        "--kwarg",
        "kwargs",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_pair,
        help="A keyword argument of the function.",
    ),
    click.option(
        "--per-trial",
        multiple=True,
        metavar="NAME=COLUMN",
        callback=_pairs_of_words,
        help="A keyword argument that has the value of a column of the trials.",
    ),
    click.option(
        "--out-shape",
        callback=_lengths,
        metavar="N,N,...",
        help="Shape of the result of one trial, if all have the same.",
    ),
    click.option("--out-dtype", metavar="TYPE", help="Type that results are cast to, as float32."),
    click.option(
        "--axes",
        multiple=True,
        callback=_axes,
        metavar="NAME,NAME,...|RESULT=...",
        help="Names of the axes of the result; of several results of a call, once for each: "
        "power=trial,frequency --axes peak=trial",
    ),
    *CHUNK_OPTIONS,
    click.option(
        "--shared",
        is_flag=True,
        help="Let others read plan, journals and logs, too, and not the result alone.",
    ),
    click.option("--private", is_flag=True, help="Let nobody else read the result."),
    click.option(
        "--same-versions",
        is_flag=True,
        help="Refuse to continue with other versions of the packages that the function uses.",
    ),
    click.option(
        "--exists",
        type=click.Choice(["resume", "fresh", "error"]),
        default="resume",
        show_default=True,
        help="What becomes of a result or a run that is there: go on, start over, or refuse.",
    ),
    click.option("--fresh", is_flag=True, help="Short for --exists fresh: replace what is there."),
]

MEMORY_OPTION = click.option(
    "--memory",
    "--mem",
    "memory",
    help="Of one worker, such as 4GB: a larger trial is refused, and array tasks end at it.",
)
TRIAL_TIME_OPTION = click.option(
    "--trial-time",
    metavar="TIME",
    help="After which a trial has failed, such as 10m.  [default: never]",
)
KEEP_OPTION = click.option(
    "--keep-done",
    is_flag=True,
    help="Go on with what an earlier function has done, once it was mended.",
)
RUN_OPTIONS = [
    click.option("--workers", type=click.IntRange(0), help="Processes; 0 computes in this one."),
    click.option("--threads", type=click.IntRange(1), default=1, show_default=True,
                 help="Threads of numerical libraries in each worker."),
    MEMORY_OPTION,
    click.option("--retries", type=click.IntRange(0), default=0, show_default=True,
                 help="How often a trial that raises is tried again."),
    click.option("--max-failed", type=click.IntRange(0),
                 help="Stop when more have failed.  [default: a tenth, at least 100]"),
    TRIAL_TIME_OPTION,
    click.option("--gaps", is_flag=True, help="Publish even if trials failed, with NaN instead."),
    KEEP_OPTION,
    click.option("--quiet", is_flag=True, help="Show no progress."),
]  # fmt: skip


# The name of each option that says how a plan is made, and how it is written.
_MAKES_A_PLAN = {
    param.name: param.opts
    for param in click.command()(with_options(PLAN_OPTIONS)(lambda: None)).params
    if param.name and param.name not in ("exists", "fresh")
}


def was_said(name: str) -> bool:
    """Whether an option of the command at hand was given, and is not its default."""
    source = click.get_current_context().get_parameter_source(name)
    return source is not None and source is not click.core.ParameterSource.DEFAULT


def exists_of(options: dict[str, Any]) -> Exists:
    """What is to become of what is there, by ``--exists`` and ``--fresh``."""
    exists: Exists = options.get("exists", "resume")
    if not options.get("fresh"):
        return exists
    if was_said("exists") and exists != "fresh":
        raise click.UsageError(f"--fresh and --exists {exists} exclude each other.")
    return "fresh"


def refuse_plan_options(out: str) -> None:
    """Raise UsageError if options say how a plan is made, where that of `out` is made already."""
    given = {name: words[0] for name, words in _MAKES_A_PLAN.items() if was_said(name)}
    for needed in ("trials", "out"):
        if needed in given:
            raise click.UsageError(f"Missing argument 'SOURCE' (with --{needed}).")
    if given:
        raise click.UsageError(
            f"{', '.join(given.values())}: this says how a plan is made, and that of '{out}' is "
            "made. Leave it out, or make another plan: name FUNCTION, SOURCE, --trials and --out."
        )


def _wanted(table: Trials | Electrodes, name: str, text: str) -> Any:
    """What `where` takes for ``VALUE``, ``A,B`` or ``LOW:HIGH``, by the type of a column."""
    if table[name].dtype.kind == "U":
        return text.split(",")
    if table[name].dtype.kind == "b" and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    least, colon, most = text.partition(":")
    words = [least, most] if colon else text.split(",")
    numbers = [_number(word) for word in words]
    if None in numbers:
        option = "where" if isinstance(table, Trials) else "electrodes"
        raise click.UsageError(f"--{option} {name}={text}: '{name}' is a column of numbers.")
    return tuple(numbers) if colon else numbers


def given_trials(options: Mapping[str, Any]) -> Any:
    """What ``--trials`` names."""
    if options["trials"] is None:
        raise click.UsageError("Missing option '--trials'.")
    trials = options["trials"]
    return int(trials) if trials.isdigit() else trials


def trials_as_told(
    trials: Any, recording: Callable[[], Recording], options: Mapping[str, Any], **where: Any
) -> Any:
    """Trials as the options say that their table is read; as they are if none says anything."""
    table = {
        name: options[name]
        for name in ("rate", "pre", "post", "unit", "one_based", "onset", "t_start")
        if options[name] is not None
    }
    if not table and not options["where"] and options["outside"] != "drop":
        return trials
    made, _ = read_trials(trials, recording(), outside=options["outside"], **where, **table)
    wanted = options["where"].items()
    return made.where(**{name: _wanted(made, name, text) for name, text in wanted})


# Who says one of these has a say in how results are stored.
_STORING = ("writer", "sources", "chunks", "compression", "reduce")


def plan_defaults() -> dict[str, str]:
    """What the file of the user's defaults says of the writer and of the kind of its parts.

    Raises
    ------
    OptionError
        If it says what means nothing.
    """
    known = {"writer": WRITERS.names(), "sources": _SOURCES}
    found = read_section("plan")
    for name, value in found.items():
        if name not in known or value not in known[name]:
            raise OptionError(
                f"'{name} = {value!r}' in [plan] of '{settings_file()}' means nothing. There are: "
                + "; ".join(f"{n} = {' or '.join(map(repr, k))}" for n, k in known.items())
            )
    return found


def _storage(options: dict[str, Any]) -> dict[str, Any]:
    """The writer and the kind of its parts.

    As said; if nothing is said, as it is there of what goes on, else by the user's defaults.
    """
    storage = {name: options[name] for name in ("writer", "sources")}
    if any(was_said(name) for name in _STORING):
        return storage
    if exists_of(options) != "fresh":
        with suppress(HpcioError):
            there = load_plan(options["out"])
            return {"writer": there.writer, "sources": there.sources}
    defaults = plan_defaults()
    if defaults.items() - storage.items():
        said = ", ".join(f"{name} = {value}" for name, value in defaults.items())
        say(f"As [plan] of '{settings_file()}' says: {said}.", err=True)
    return {**storage, **defaults}


def create_plan(function: str, source: str, options: dict[str, Any]) -> Plan:
    """The plan that the command line asks for."""
    trials = given_trials(options)
    if options["out"] is None:
        raise click.UsageError("Missing option '--out'.")
    check_trial_table(trials, options["out"])
    if options["shared"] and options["private"]:
        raise click.UsageError("--shared and --private exclude each other.")
    access: Access = (
        "shared" if options["shared"] else "private" if options["private"] else "result"
    )
    chosen = {
        name: options[f"select_{name}"]
        for name in ("trials", "channels", "time")
        if options[f"select_{name}"] is not None
    }
    if options["electrodes"]:
        if "channels" in chosen:
            raise click.UsageError("--electrodes and --select-channels exclude each other.")
        known = electrodes(source)
        of_each = options["electrodes"].items()
        chosen["channels"] = known.where(**{n: _wanted(known, n, text) for n, text in of_each})
    where: dict[str, Any] = {"axis": options["axis"], "out": options["out"]}
    recording = partial(read_recording, source, **where)
    trials = trials_as_told(trials, recording, options, **where)
    if chosen:
        made = (
            trials if isinstance(trials, Trials) else read_trials(trials, recording(), **where)[0]
        )
        if options["channel_axis"] is not None:
            made = made.with_blocks(channel_axis=options["channel_axis"])
        trials = made.select(**chosen)
    return Plan.create(
        function, source, trials=trials, out=options["out"], **_storage(options),
        join=options["join"], join_axis=options["join_axis"], axis=options["axis"],
        channel_axis=options["channel_axis"], channels_per_block=options["channels_per_block"],
        units=options["units"],
        out_channel_axis=options["out_channel_axis"],
        keeptrials=options["reduce"] is None or isinstance(options["reduce"], dict),
        reduce=options["reduce"],
        by=options["by"] and options["by"].split(","),
        args=[_literal(a) for a in options["args"]],
        kwargs={
            **options["kwargs"], **{n: per_trial(c) for n, c in options["per_trial"].items()}
        },
        out_shape=options["out_shape"], out_dtype=options["out_dtype"], axes=options["axes"],
        chunks=options["chunks"], compression=options["compression"],
        same_versions=options["same_versions"], trial_time=options["trial_time"], access=access,
    )  # fmt: skip
