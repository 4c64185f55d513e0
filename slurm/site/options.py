"""The options of a submission: each is declared here, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from hpcio.errors import OptionError
from hpcio.machine import parse_seconds
from hpcio.planning import RunPolicy

__all__ = ["SubmitOptions", "parse_factor"]


def _configurable(kind: type, default: Any = None, *, words: tuple[str, ...] = ()) -> Any:
    """An option that the file of the user may set: its type, default, and words instead."""
    return field(default=None, metadata={"kind": kind, "default": default, "words": words})


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """What a user has asked for, as keywords of `slurm.submit`; that says what each one means.

    An option that is None was not asked for: the file of the user decides, then its default.
    """

    tasks: int | Literal["auto"] | None = _configurable(int, 16, words=("auto",))
    chunks_per_task: int | None = _configurable(int)
    partition: str | None = _configurable(str)
    memory: str | None = _configurable(str)
    walltime: str | None = _configurable(str)
    cpus: int | None = _configurable(int, 1)
    throttle: int | None = _configurable(int)
    name: str | None = None
    retries: int = 0
    max_failed: int | None = None
    gaps: bool = False
    trial_time: str | float | None = None
    mem_retry: str | None = _configurable(str, "2x")
    mem_max: str | None = _configurable(str)
    time_retry: str | None = _configurable(str, "off")
    prologue: str | None = _configurable(str, "")
    sbatch: Sequence[str] | None = _configurable(list, [])
    probe: bool = False
    signal: int | None = _configurable(int, 90)
    stale: float | None = _configurable(float, 120.0)
    ranks: int | None = None
    launcher: str | None = _configurable(str, "mpirun")

    @classmethod
    def of(cls, keywords: Mapping[str, Any]) -> Self:
        """The options that were given as keywords.

        Raises
        ------
        TypeError
            If there is no such option.
        """
        unknown = keywords.keys() - set(cls.names())
        if unknown:
            raise TypeError(f"submit() has no option {', '.join(sorted(unknown))}")
        return cls(**keywords)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """All options."""
        return tuple(option.name for option in fields(cls))

    @classmethod
    def configurable(cls) -> dict[str, tuple[type, Any]]:
        """The options that the file of the user may set, each with its type and its default."""
        found = {option.name: option.metadata for option in fields(cls) if option.metadata}
        return {name: (of["kind"], of["default"]) for name, of in found.items()}

    @classmethod
    def words(cls, name: str) -> tuple[str, ...]:
        """Words that an option may have instead of a value of its type."""
        return next((o.metadata.get("words", ()) for o in fields(cls) if o.name == name), ())

    def policy(self) -> RunPolicy:
        """What the run does about blocks that fail.

        Raises
        ------
        OptionError
            If a number is negative.
        """
        limit = None if self.trial_time is None else parse_seconds(self.trial_time)
        return RunPolicy(
            retries=self.retries, max_failed=self.max_failed, gaps=bool(self.gaps),
            trial_time=limit,
        )  # fmt: skip

    def said(self) -> dict[str, Any]:
        """What was asked for, to be kept and asked for again.

        A probe is of the moment: it is not kept.

        Examples
        --------
        >>> SubmitOptions(tasks=3, sbatch=["--qos=high"], probe=True).said()
        {'tasks': 3, 'retries': 0, 'gaps': False, 'sbatch': ['--qos=high']}
        """
        values = {name: getattr(self, name) for name in self.names() if name != "probe"}
        values["sbatch"] = list(self.sbatch or ()) or None
        return {name: value for name, value in values.items() if value is not None}


# Smaller steps would be very many.
_LEAST = 1.1


def parse_factor(name: str, value: str) -> float | None:
    """How much more a second pass asks for; None for none.

    Examples
    --------
    >>> parse_factor("mem_retry", "1.5x"), parse_factor("mem_retry", "off")
    (1.5, None)
    """
    text = str(value).strip().lower()
    if text == "off":
        return None
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)x", text)
    if match is None or not _LEAST <= float(match[1]) <= 1000:
        raise OptionError(
            f"{name}='{value}' is no factor of {_LEAST} or more. Write such as 2x, or off."
        )
    return float(match[1])
