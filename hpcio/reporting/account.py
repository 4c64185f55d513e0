"""The account of a run: what its page says, in numbers and words, from plan and journals."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcio.errors import DAMAGE, Failure
from hpcio.files import open_file, read_text
from hpcio.journals import (
    DONE,
    FAILED,
    JournalRecords,
    Ledger,
    Usage,
    computed_by,
    functions_of,
    memory_to_ask,
    published,
    walltime_to_ask,
)
from hpcio.planning import Plan
from hpcio.reporting.timeline import Timeline, names_of, worked
from hpcio.results import what_is_gone
from hpcio.running import runs
from hpcio.words import count, duration, memory, natural, number, plain, size, when

__all__ = [
    "Counts",
    "Group",
    "Limit",
    "Slow",
    "State",
    "Worker",
    "counts_of",
    "facts_of",
    "gone_of",
    "groups_of",
    "limits_of",
    "provenance_of",
    "slowest_of",
    "spread_of",
    "state_of",
    "workers_of",
]

# Characters of a traceback, of its last line, and of arguments.
MOST_TEXT, MOST_REASON, MOST_ARGUMENTS = 6000, 300, 500
# Runs of numbers in a list of trials, and names in a list of hosts.
MOST_RUNS, MOST_NAMES = 12, 8
# A process that used more than this share of its walltime may have been stopped by it.
NEAR = 0.9


# ---------------------------------------------------------------------- in all


@dataclass(frozen=True)
class Counts:
    """Blocks of a run; `again` are DONE records beyond the first of a block."""

    blocks: int
    done: int
    failed: int
    untried: int
    again: int


def counts_of(ledger: Ledger) -> Counts:
    """How many blocks are done, failed, not tried, and how often one was done once more."""
    count = len(ledger.plan)
    times = np.zeros(count, np.int64)
    for log in ledger.logs:
        done = log.records["block"][log.records["kind"] == DONE]
        np.add.at(times, done, 1)
    done, failed = int(ledger.done.sum()), int((ledger.state == FAILED).sum())
    return Counts(
        blocks=count,
        done=done,
        failed=failed,
        untried=count - done - failed,
        again=int(np.maximum(times - 1, 0).sum()),
    )


@dataclass(frozen=True)
class State:
    """How a run stands, whether that is good, and the command that goes on with it."""

    words: str
    good: bool
    remedy: str


def state_of(plan: Plan, counts: Counts, *, published: bool, gone: str = "") -> State:
    """How a run stands; `gone` says what of its result is gone, if anything is."""
    if gone:
        return State(f"published, and then damaged. {gone}", good=False, remedy="")
    missing = counts.blocks - counts.done
    if published:
        words = f"published with {count(missing, 'gap')}" if missing else "complete"
        return State(words, not missing, "")
    words = "computed, not published yet" if not missing else "not complete"
    return State(words, not counts.failed, f"hpcio resume {shlex.quote(plan.out)}")


def gone_of(plan: Plan) -> str:
    """What of the result is gone, and what to do; empty if nothing is, or none is published."""
    return plain(what_is_gone(plan.out)) if published(plan) else ""


def provenance_of(plan: Plan) -> dict[str, Any]:
    """What the result says of its making; empty if it is not published."""
    try:
        with open_file(plan.out) as f:
            ours = read_text(f["hpcio"], "plan") == plan.digest
            return dict(f.attrs) if ours else {}
    except DAMAGE:  # whoever opens the result says what is wrong with it
        return {}


def facts_of(ledger: Ledger, times: Timeline) -> list[tuple[str, str]]:
    """What ran, on what, where and when: names and values.

    Parameters
    ----------
    ledger : Ledger
    times : Timeline
    """
    plan, function = ledger.plan, ledger.plan.function
    name = function.name + (f", version {function.version}" if function.version else "")
    given = [plan.described[x] for x in ("args", "kwargs")]
    length = plan.trials.stop - plan.trials.start
    average = f", {plan.average}" if plan.average else ""
    rows = "row" if length.max() == 1 else "rows"
    blocks = f", in {len(plan):,} blocks" if len(plan) != length.size else ""
    facts = [
        ("function", name + (" (pickled)" if function.pickled else "")),
        ("kept", _kept_words(ledger)),
        ("arguments", ", ".join(_cut(x, MOST_ARGUMENTS) for x in given if x not in ("()", "{}"))),
        ("recording", str(plan.source)),
        ("trials", f"{length.size:,} of {_range(length, '{:,}'.format)} {rows}{blocks}"),
        ("read", size(int(plan.input_sizes().sum()))),
        *((plan.called_in_words(o), f"{plan.in_words(o)}{average}") for o in plan.outputs),
        ("output", plan.out),
        ("user", _names(str(log.header["user"]) for log in ledger.logs)),
        ("hosts", _names(str(log.header["host"]) for log in ledger.logs)),
        *_when_it_was(ledger, times),
        ("versions", _versions_words(ledger)),
    ]
    return [(name, value) for name, value in facts if value]


def _kept_words(ledger: Ledger) -> str:
    """What is kept of earlier functions."""
    functions, by = functions_of(ledger)
    blocks = np.bincount(by[by >= 0], minlength=len(functions)).tolist()
    return "; ".join(
        f"{count(number, ledger.plan.counted)} of an earlier function or other arguments "
        f"({one.function} {one.function_digest[:8]}, plan {one.digest[:8]})"
        for one, number in zip(functions[:-1], blocks, strict=False)
        if number
    )


def _versions_words(ledger: Ledger) -> str:
    """What most blocks were computed with, and how the others differ from that."""
    groups = computed_by(ledger)
    if not groups:
        return ""
    first, *others = groups
    names = [x for x in ("hpcio", "h5py", "numpy", "python") if x in first.versions]
    words = [", ".join(f"{x} {first.versions[x]}" for x in names) or "not known"]
    for group in others[:MOST_NAMES]:
        differ = [
            f"{name} {group.versions.get(name, 'not known')}"
            for name in sorted({*first.versions, *group.versions})
            if group.versions.get(name) != first.versions.get(name)
        ]
        said = ", ".join(differ) if group.versions else "not known"
        words.append(f"{count(group.blocks, ledger.plan.counted)} with {said}")
    if len(others) > MOST_NAMES:
        words.append(f"and {len(others) - MOST_NAMES} more")
    return "; ".join(words)


def _when_it_was(ledger: Ledger, times: Timeline) -> list[tuple[str, str]]:
    if not len(times):
        return []
    began = min(float(log.header["start"]) for log in ledger.logs)
    seconds, in_all = worked(times), times.finish - began
    pauses = f" at work, {duration(in_all)} in all" if in_all > 1.1 * seconds + 1 else ""
    return [
        ("began", when(began)),
        ("last record", when(times.finish)),
        ("took", duration(seconds) + pauses),
    ]


# ---------------------------------------------------------------------- workers and trials


@dataclass(frozen=True)
class Worker:
    """What one worker did in all of its attempts.

    Attributes
    ----------
    label, host : str
    blocks, failed : int
        As its journals have them, those included that others did too.
    busy : float
        Share of its time, from the begin of an attempt to its last block, in which it
        computed, read and wrote.
    speed : float
        Bytes read and written in a second of that time.
    first, last : float
        Seconds since 1970.
    """

    label: str
    host: str
    blocks: int
    failed: int
    busy: float
    speed: float
    first: float
    last: float


def workers_of(ledger: Ledger) -> list[Worker]:
    """All that worked on a run, in the order of their labels (w2 before w10) and hosts."""
    attempts: dict[tuple[str, str], list[JournalRecords]] = {}
    for log in ledger.logs:
        # A session, which journals the block it blames for the death of a worker, is not a worker.
        tried = np.isin(log.records["kind"], (DONE, FAILED)).any()
        if tried and log.header["label"] != "session":
            key = (str(log.header["label"]), str(log.header["host"]))
            attempts.setdefault(key, []).append(log)
    sizes = ledger.plan.input_sizes()
    found = [_worker(*key, logs, sizes) for key, logs in attempts.items()]
    return sorted(found, key=lambda w: (natural(w.label), natural(w.host)))


def _worker(label: str, host: str, logs: Sequence[JournalRecords], sizes: np.ndarray) -> Worker:
    blocks = failed = 0
    busy = nbytes = seconds = 0.0
    first, last = math.inf, -math.inf
    for log in logs:
        kind = log.records["kind"]
        done = log.records[kind == DONE]
        begin = float(log.header["start"])
        end = float(log.records["end"][np.isin(kind, (DONE, FAILED))].max())
        blocks += done.size
        failed += int((kind == FAILED).sum())
        busy += float(done["compute"].sum(dtype=float) + done["io"].sum(dtype=float))
        nbytes += int(done["nbytes"].sum() + sizes[done["block"]].sum())
        seconds += end - begin
        first, last = min(first, begin), max(last, end)
    seconds = max(seconds, busy, 1e-6)  # clocks are not exact
    return Worker(label, host, blocks, failed, busy / seconds, nbytes / seconds, first, last)


def spread_of(workers: Sequence[Worker], counted: str) -> list[tuple[str, list[str]]]:
    """Least, quartiles and most of what workers did: for each a name and five values."""
    columns: list[tuple[str, list[float], Callable[[float], str]]] = [
        (f"{counted}s", [w.blocks for w in workers], "{:,.0f}".format),
        ("busy", [w.busy for w in workers], "{:.0%}".format),
        ("MB/s", [w.speed / 1e6 for w in workers], number),
        ("first to last", [w.last - w.first for w in workers], duration),
    ]
    return [
        (name, [form(float(x)) for x in np.percentile(values, (0, 25, 50, 75, 100))])
        for name, values, form in columns
        if values
    ]


@dataclass(frozen=True)
class Slow:
    """A block that took long: seconds of computing and of the rest, bytes of both ways."""

    trial: int
    block: int
    worker: str
    compute: float
    io: float
    nbytes: int


def slowest_of(ledger: Ledger, times: Timeline, most: int) -> list[Slow]:
    """The blocks that took longest, the longest first."""
    plan = ledger.plan
    names = names_of(times.workers)
    longest = np.argsort(-(times.compute + times.io), kind="stable")[:most]
    return [
        Slow(
            trial=int(plan.trials.index[plan.blocks.trial[times.block[k]]]),
            block=int(times.block[k]),
            worker=names[times.attempt[k]],
            compute=float(times.compute[k]),
            io=float(times.io[k]),
            nbytes=int(times.nbytes[k] + times.nbytes_read[k]),
        )
        for k in longest.tolist()
    ]


# ---------------------------------------------------------------------- failures


@dataclass(frozen=True)
class Group:
    """Failures for one reason: how many blocks, of which trials, and the first traceback."""

    reason: str
    count: int
    trials: str
    traceback: str


def groups_of(failures: Iterable[Failure]) -> list[Group]:
    """Failures grouped by the last line of their traceback, the largest group first.

    Lines that differ in numbers alone are of one group, which has that of its first member.
    """
    same: dict[str, list[Failure]] = {}
    for failure in failures:
        same.setdefault(re.sub(r"\d+", "0", failure.reason), []).append(failure)
    groups = [
        Group(
            reason=_cut(members[0].reason, MOST_REASON) or "the traceback is lost",
            count=len(members),
            trials=_numbers(np.unique([f.trial for f in members])),
            traceback=_without_middle(plain(members[0].traceback), MOST_TEXT),
        )
        for members in same.values()
    ]
    return sorted(groups, key=lambda g: -g.count)


def _numbers(numbers: np.ndarray) -> str:
    """Ascending numbers as ``0-4, 7, 9-12``, shortened."""
    pieces = runs(numbers)
    shown = [str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in pieces[:MOST_RUNS]]
    left = sum(b - a for a, b in pieces[MOST_RUNS:])
    return ", ".join(shown) + (f" and {left:,} more" if left else "")


def _without_middle(text: str, most: int) -> str:
    """A text of at most about `most` characters: its begin, and twice as much of its end."""
    if len(text) <= most:
        return text
    head, tail = text[: most // 3], text[-(most - most // 3) :]
    return f"{head}\n[... {len(text) - most:,} characters are left out ...]\n{tail}"


# ---------------------------------------------------------------------- limits


@dataclass(frozen=True)
class Limit:
    """One thing that was asked for and used: each in words, and what to ask for next.

    Attributes
    ----------
    name : str
    asked : str
    most, by, half : str
        What the greediest process used, its label, and the median of all.
    share : float or None
        Used of what was asked for.
    next : str
        What to ask for the next time.
    remark : str
    """

    name: str
    asked: str
    most: str
    by: str
    half: str
    share: float | None
    next: str
    remark: str


def limits_of(usages: Sequence[Usage]) -> list[Limit]:
    """Memory, walltime and CPUs: asked for, used, and what would do."""
    if not usages:
        return []
    return [_memory(usages), _walltime(usages), _cpus(usages)]


def _memory(usages: Sequence[Usage]) -> Limit:
    greediest = max(usages, key=lambda u: u.memory_peak)
    asked = [u.memory_asked for u in usages if u.memory_asked is not None]
    shares = [u.memory_peak / u.memory_asked for u in usages if u.memory_asked is not None]
    enough = memory_to_ask(greediest.memory_peak)
    tight = bool(asked) and enough > max(asked)
    return Limit(
        name="memory",
        asked=_range(asked, size),
        most=size(greediest.memory_peak),
        by=greediest.label,
        half=size(float(np.median([u.memory_peak for u in usages]))),
        share=max(shares, default=None),
        next=memory(enough),
        remark="It was tight: ask for more." if tight else "",
    )


def _walltime(usages: Sequence[Usage]) -> Limit:
    longest = max(usages, key=lambda u: u.seconds)
    asked = [u.walltime_asked for u in usages if u.walltime_asked is not None]
    shares = [u.seconds / u.walltime_asked for u in usages if u.walltime_asked is not None]
    near = sum(share > NEAR for share in shares)
    return Limit(
        name="walltime",
        asked=_range(asked, duration),
        most=duration(longest.seconds),
        by=longest.label,
        half=duration(float(np.median([u.seconds for u in usages]))),
        share=max(shares, default=None),
        next=_clock(walltime_to_ask(longest.seconds)),
        remark=f"{near:,} of {len(usages):,} may have been stopped by it." if near else "",
    )


def _cpus(usages: Sequence[Usage]) -> Limit:
    used = [u.cpu_seconds / max(u.seconds, 1e-3) for u in usages]
    limited = [u for u in usages if u.cpus_asked is not None]
    had = sum(u.seconds * (u.cpus_asked or 0) for u in limited)
    most = int(np.argmax(used))
    return Limit(
        name="CPUs",
        asked=_range([u.cpus_asked for u in limited if u.cpus_asked is not None], "{:,}".format),
        most=f"{used[most]:.2f}",
        by=usages[most].label,
        half=f"{float(np.median(used)):.2f}",
        share=sum(u.cpu_seconds for u in limited) / had if had else None,
        # Less than a quarter above a whole number does not ask for one CPU more.
        next=str(max(1, math.ceil(used[most] - 0.25))),
        remark="",
    )


def _clock(seconds: int) -> str:
    """A walltime as SLURM reads it."""
    minutes, hours = seconds // 60 % 60, seconds // 3600
    days = f"{hours // 24}-" if hours >= 24 else ""
    return f"{days}{hours % 24:02}:{minutes:02}:00"


# ---------------------------------------------------------------------- words


def _range(values: Sequence[Any] | np.ndarray, form: Callable[[Any], str]) -> str:
    """The least and the most of some values, in words; "" for none."""
    if not len(values):
        return ""
    least, most = form(np.min(values)), form(np.max(values))
    return least if least == most else f"{least} to {most}"


def _names(names: Iterable[str]) -> str:
    every = sorted(set(names), key=natural)
    more = f" and {len(every) - MOST_NAMES:,} more" if len(every) > MOST_NAMES else ""
    return ", ".join(every[:MOST_NAMES]) + more


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."
