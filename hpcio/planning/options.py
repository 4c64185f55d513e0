"""What a caller asks for, as values: each option is checked once and travels in one object."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from hpcio.errors import OptionError, check_whole
from hpcio.files import ACCESS, Access
from hpcio.layout import Join, Reduce, check_reduce
from hpcio.recording import Trials

__all__ = [
    "CallOptions",
    "Chunks",
    "LayoutOptions",
    "ReadingOptions",
    "Reducing",
    "RunPolicy",
    "Sources",
    "StorageOptions",
    "WriterAbilities",
]

Sources = Literal["trial", "task"]
# A shape; True for a good one, None for none.
Chunks = bool | Sequence[int] | None
# An average by its name; or three functions that make one, themselves or by the name of a tuple.
Reducing = Reduce | str | Sequence[Callable[..., Any]]


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """What is read: the trials, and how they cut the recording; see :meth:`hpcio.Plan.create`."""

    trials: Trials | np.ndarray | Sequence[Any] | int | str | os.PathLike[str]
    axis: int = 0
    channel_axis: int | None = None
    channels_per_block: int | None = None
    units: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "axis", check_whole("axis", self.axis))


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """How the function is called, and what is known of its results beforehand."""

    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    out_shape: Sequence[int] | Callable[[tuple[int, ...]], Sequence[int]] | None = None
    out_dtype: Any = None
    same_versions: bool = False
    trial_time: float | None = None


@dataclass(frozen=True, kw_only=True)
class LayoutOptions:
    """How results lie in the one dataset, or in several.

    Of several results, a dict by their names says it for some of them; those without are laid out
    as by default. A dict `reduce` names those that are averaged.

    Raises
    ------
    OptionError
        If options do not go together.
    """

    join: Join | Mapping[str, Join] = "concatenate"
    join_axis: int | Mapping[str, int | None] | None = None
    out_channel_axis: int | Mapping[str, int | None] | None = None
    keeptrials: bool = True
    reduce: Reducing | Mapping[str, Reducing] | None = None
    by: str | Sequence[str] | None = None
    axes: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for join in self.join.values() if isinstance(self.join, Mapping) else (self.join,):
            if join not in ("concatenate", "stack"):
                raise OptionError(f"join='{join}' is unknown. Choose concatenate or stack.")
        self._check_reduce()
        if self.axes is not None and not isinstance(self.axes, Mapping):
            raise OptionError(
                f"axes={self.axes!r:.100} is no dict. Give the names of all axes of the result in "
                "order, with their coordinates or None: axes={'trial': None, 'frequency': values}."
            )
        for name in ("join_axis", "out_channel_axis"):
            given = getattr(self, name)
            if isinstance(given, Mapping):
                for one in given.values():
                    if one is not None:
                        check_whole(name, one)
            elif given is not None:
                # No integer of numpy, which JSON refuses.
                object.__setattr__(self, name, check_whole(name, given))
        if not self.keeptrials and (self.join, self.join_axis) != ("concatenate", None):
            raise OptionError("An average joins nothing: leave out join and join_axis.")

    def _check_reduce(self) -> None:
        """Raise OptionError unless there are such averages, and all that goes with them is said."""
        by_name = isinstance(self.reduce, Mapping)
        for one in self.reduce.values() if isinstance(self.reduce, Mapping) else [self.reduce]:
            if by_name and (not isinstance(one, str) or ":" in one):
                raise OptionError(
                    f"reduce= has {one!r:.100} for one of several results, and functions of your "
                    "own make the average of a function that returns one. Name an average, such "
                    "as 'mean', or keep that result."
                )
            if isinstance(one, str) and ":" not in one:
                check_reduce(one)
        if by_name and not self.keeptrials:
            raise OptionError(
                "keeptrials=False averages all results, and reduce= names some of them. Leave out "
                "one of the two."
            )
        if self.keeptrials and self.reduce is not None and not by_name:
            raise OptionError(
                f"reduce={self.reduce!r:.100} goes with keeptrials=False. Say that, too."
            )
        if self.keeptrials and self.by and not self.reduce:
            raise OptionError(f"by={self.by!r} goes with averages: say keeptrials=False, too.")

    def of(self, name: str, names: Sequence[str]) -> LayoutOptions:
        """What is said of one of several results, or of the only one, whose name is ``""``.

        Raises
        ------
        OptionError
            If a dict names a result that is not there.
        """
        defaults: dict[str, Any] = {
            "join": "concatenate", "join_axis": None, "out_channel_axis": None, "axes": None,
            "reduce": None,
        }  # fmt: skip
        if self.axes is not None and not _is_by_name(self.axes):
            del defaults["axes"]
        own = _of_one(self, defaults, name, names)
        if isinstance(own.get("join_axis"), np.integer):
            own["join_axis"] = int(own["join_axis"])
        if own.get("reduce") is not None:
            own = {"join": "concatenate", "join_axis": None, **own, "keeptrials": False}
        elif "reduce" in own:
            own["by"] = None
        return replace(self, **own)


def _of_one(
    options: object, defaults: Mapping[str, Any], name: str, names: Sequence[str]
) -> dict[str, Any]:
    """What those options that are dicts say of one of several results, or an OptionError."""
    own = {}
    for option, default in defaults.items():
        given = getattr(options, option)
        if not isinstance(given, Mapping):
            continue
        unknown = [str(key) for key in given if key not in names or not name]
        if unknown:
            there = f"are {', '.join(names)}" if name else "is one array without a name"
            raise OptionError(
                f"{option}= names '{unknown[0]}', but what the function returns {there}."
            )
        own[option] = given.get(name, default)
    return own


def _is_by_name(axes: Mapping[str, Any]) -> bool:
    """Whether axes are those of several results, each a dict."""
    return bool(axes) and all(isinstance(one, Mapping) for one in axes.values())


@dataclass(frozen=True, kw_only=True)
class StorageOptions:
    """How results are stored.

    Of several results, a dict by their names says of some how they are packed; those without are
    stored as they are.

    Raises
    ------
    OptionError
        If there are no such sources.
    """

    writer: str = "virtual"
    sources: Literal["auto", "trial", "task"] = "auto"
    chunks: Chunks | Mapping[str, Chunks] = None
    compression: str | Mapping[str, str | None] | None = None
    access: Access = "result"

    def __post_init__(self) -> None:
        if self.access not in ACCESS:
            raise OptionError(
                f"access='{self.access}' is unknown. Choose result, shared or private."
            )
        if self.sources not in ("auto", "trial", "task"):
            raise OptionError(f"sources='{self.sources}' is unknown. Choose auto, trial or task.")

    def of(self, name: str, names: Sequence[str]) -> StorageOptions:
        """What is said of one of several results; see `LayoutOptions.of`."""
        return replace(self, **_of_one(self, {"chunks": None, "compression": None}, name, names))


@dataclass(frozen=True, kw_only=True)
class WriterAbilities:
    """What a writer can do, as far as a plan depends on it.

    Attributes
    ----------
    needs_ranks : bool
        Whether it writes from the ranks of an MPI job alone.
    makes_sources : bool
        Whether attempts write files of their own, joined by the mappings of a virtual dataset.
        Only then there is a choice of `sources`, and a limit of mappings.
    compresses : bool
        Whether it can store compressed chunks.
    """

    needs_ranks: bool = False
    makes_sources: bool = False
    compresses: bool = False


@dataclass(frozen=True, kw_only=True)
class RunPolicy:
    """What a run does about blocks that fail.

    Attributes
    ----------
    retries : int
        How often a block that raises, or whose worker dies, is tried again.
    max_failed : int or None
        When more blocks than this have failed, the others are not tried. None means a tenth of
        all blocks, and at least 100.
    gaps : bool
        Whether to publish even if blocks failed.
    trial_time : float or None
        How long a trial may take, in seconds; it is no failure to take longer if that is None.

    Raises
    ------
    OptionError
        If a number is negative.
    """

    retries: int = 0
    max_failed: int | None = None
    gaps: bool = False
    trial_time: float | None = None

    def __post_init__(self) -> None:
        check_whole("retries", self.retries, least=0)
        if self.max_failed is not None:
            check_whole("max_failed", self.max_failed, least=0)

    def most_failed(self, blocks: int) -> int:
        """How many blocks may fail, of so many."""
        return max(100, blocks // 10) if self.max_failed is None else self.max_failed
