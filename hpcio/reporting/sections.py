"""The sections of the page about a run, each a heading and what stands below it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcio import words
from hpcio.errors import MissingPackageError
from hpcio.journals import Ledger, read_usage
from hpcio.machine import Registry
from hpcio.planning import Plan
from hpcio.reporting import account
from hpcio.reporting.pictures import drawing
from hpcio.reporting.timeline import Timeline, read_timeline

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = ["SECTIONS", "RunView", "Section", "render"]

SLOWEST = 20
# If there are more than MOST_WORKERS, only SOME_WORKERS of the slowest and the fastest are shown.
MOST_WORKERS, SOME_WORKERS = 50, 10
MOST_GROUPS = 100


class RunView:
    """A run as the sections of its page see it; everything is read once.

    Parameters
    ----------
    plan : Plan

    Attributes
    ----------
    plan : Plan
    ledger : Ledger
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.ledger = plan, Ledger.read(plan)

    @cached_property
    def times(self) -> Timeline:
        """When each block was at work."""
        return read_timeline(self.ledger)

    @cached_property
    def counts(self) -> account.Counts:
        """How many blocks are done, failed, not tried."""
        return account.counts_of(self.ledger)

    @cached_property
    def made(self) -> dict[str, Any]:
        """What the result says of its making; empty if it is not published."""
        return account.provenance_of(self.plan)


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes
    ----------
    title : str
    body : str or markupsafe.Markup
        A str is text, and is escaped; HTML is a `Markup`.
    """

    title: str
    body: str | Markup


def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingPackageError(
            "Reports need jinja2. Install it: pip install 'hpcio[plot]'"
        ) from error
    environment = Environment(
        loader=PackageLoader("hpcio.reporting"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        count=words.count, duration=words.duration, number=words.number, size=words.size,
        when=words.when,
    )  # fmt: skip
    return environment


def render(template: str, **values: Any) -> Markup:
    """Fill a template; whatever it is given is escaped, unless it is `Markup`.

    Raises
    ------
    MissingPackageError
        If jinja2 is not installed.
    """
    environment = _environment()
    from markupsafe import Markup

    return Markup(environment.get_template(f"{template}.html.j2").render(**values))


# ---------------------------------------------------------------------- ours


def _ran(run: RunView) -> Section:
    facts = account.facts_of(run.ledger, run.times)
    text = run.plan.described.get("text", "")
    return Section("What ran", render("ran", facts=facts, text=words.plain(text)))


def _failures(run: RunView) -> Section | None:
    groups = account.groups_of(run.ledger.failures())
    if not groups:
        return None
    body = render(
        "failures", counted=run.plan.counted, counts=run.counts,
        groups=groups[:MOST_GROUPS], more=groups[MOST_GROUPS:],
        tracebacks=f"hpcio status --failed {shlex.quote(run.plan.out)}",
    )  # fmt: skip
    return Section("Failures", body)


def _timeline(run: RunView) -> Section:
    drawn = drawing(run.times) if len(run.times) else ""
    return Section("When", render("timeline", drawing=drawn))


def _limits(run: RunView) -> Section | None:
    usages, damaged = read_usage(run.plan)
    limits = account.limits_of(usages)
    if not limits and not damaged:
        return None
    body = render("limits", limits=limits, usages=usages, damaged=damaged)
    return Section("Asked for and used", body)


def _workers(run: RunView) -> Section | None:
    workers = account.workers_of(run.ledger)
    if not workers:
        return None
    many = len(workers) > MOST_WORKERS
    by_speed = sorted(workers, key=lambda w: w.speed)
    days = {words.when(t, "%F") for w in workers for t in (w.first, w.last)}
    body = render(
        "workers",
        counted=run.plan.counted,
        spread=account.spread_of(workers, run.plan.counted) if many else [],
        tables=(
            [("The slowest", by_speed[:SOME_WORKERS]), ("The fastest", by_speed[-SOME_WORKERS:])]
            if many
            else [("", workers)]
        ),
        clock="%H:%M:%S" if len(days) == 1 else "%m-%d %H:%M:%S",
    )
    return Section(words.count(len(workers), "worker"), body)


def _slowest(run: RunView) -> Section | None:
    slowest = account.slowest_of(run.ledger, run.times, SLOWEST)
    if not slowest:
        return None
    # Short trials are shown in milliseconds.
    unit, in_a_second = ("s", 1) if any(x.compute + x.io >= 1 for x in slowest) else ("ms", 1000)
    columns = [
        [in_a_second * x.compute for x in slowest],
        [in_a_second * x.io for x in slowest],
        [x.nbytes / 1e6 for x in slowest],
    ]
    body = render(
        "slowest", counted=run.plan.counted, slowest=slowest,
        unit=unit, columns=[words.column(c) for c in columns],
        median=float(np.median(run.times.compute + run.times.io)),
    )  # fmt: skip
    return Section("The slowest trials", body)


# Sections of the page, in their order; what is added comes last.
SECTIONS: Registry[Callable[[RunView], Section | None]] = Registry(
    "section of the report",
    group="hpcio.report_sections",
    own={
        name: f"hpcio.reporting.sections:_{name}"
        for name in ("ran", "failures", "timeline", "limits", "workers", "slowest")
    },
)
