"""Several recordings that are read as one: joined along the stacking axis, each in its own file.

Trials, blocks and results need not know: a row of the whole is a row of one of them. Only who reads
asks which one. They are opened when they are needed, and few at a time.
"""

from __future__ import annotations

import glob
import math
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Self

import numpy as np

from hpcio.errors import OptionError, SourceError, TrialError, check_path
from hpcio.files import FileState, lies_in_result, split_spec
from hpcio.recording.clocks import clock_of
from hpcio.recording.recording import OpenRecording, Recording
from hpcio.words import natural

__all__ = ["SeveralRecordings", "check_agree", "matching_files", "read_recording", "short_names"]

# By so much rates may differ, as one that is kept in fewer digits does.
_SAME_RATE = 1e-6


@dataclass(frozen=True)
class SeveralRecordings(Recording):
    """Recordings that were joined along an axis, in their order; made by :meth:`joined`.

    `path`, `dataset` and `dtype` are those of the first one, `size` is that of all files, and
    `mtime_ns` the latest.

    Attributes
    ----------
    parts : tuple of Recording
        Each of them, with a fingerprint of its own.
    axis : int
        The axis that they are joined along, not negative.
    """

    parts: tuple[Recording, ...] = ()
    axis: int = 0

    @classmethod
    def joined(cls, parts: Sequence[Recording], axis: int) -> Self:
        """Recordings as one.

        Parameters
        ----------
        parts : sequence of Recording
            Equal in type, and in shape but for `axis`.
        axis : int
        """
        first, rank = parts[0], len(parts[0].shape)
        axis %= rank
        shape = list(first.shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        files = [file for part in parts for file in part.files()]
        return cls(
            first.path, first.dataset, tuple(shape), first.dtype,
            sum(file.size for file in files), max(file.mtime_ns for file in files), kind="several",
            parts=tuple(parts), axis=axis,
        )  # fmt: skip

    @cached_property
    def first_rows(self) -> tuple[int, ...]:
        """The row of the whole at which each of them begins, and the one at which all end."""
        return tuple(accumulate((part.shape[self.axis] for part in self.parts), initial=0))

    def at(self, region: tuple[slice, ...]) -> tuple[Recording, tuple[slice, ...]]:
        """The recording that a region lies in, and where it lies there.

        Raises
        ------
        TrialError
            If it lies in none, or in more than one.
        """
        rows = region[self.axis]
        k = max(0, bisect_right(self.first_rows, rows.start) - 1)
        if k >= len(self.parts) or rows.stop > self.first_rows[k + 1]:
            raise TrialError(
                f"The rows [{rows.start}, {rows.stop}) of {self} lie in no single one of them. "
                "Make a new plan."
            )
        before, inside = self.first_rows[k], list(region)
        inside[self.axis] = slice(rows.start - before, rows.stop - before, rows.step)
        return self.parts[k], tuple(inside)

    def now(self) -> Recording:
        """What the files of all are now, whatever they were."""
        return type(self).joined([part.now() for part in self.parts], self.axis)

    def open(self) -> OpenRecording:
        """Check that none has changed; each is opened when it is read."""
        self.check_unchanged()
        return _OpenSeveral(self)

    def files(self) -> tuple[FileState, ...]:
        """All files in which values of any lie, as they were."""
        return tuple(file for part in self.parts for file in part.files())

    def check_unchanged(self) -> None:
        """Raise SourceError, which names one, unless all are as they were; see `Recording`."""
        changed = []
        for part in self.parts:
            try:
                part.check_unchanged()
            except SourceError as error:
                changed.append(error)
        if len(changed) > 1:
            raise SourceError(
                f"{len(changed)} of {len(self.parts)} recordings are not as they were. Of the "
                f"first: {changed[0]}"
            ) from changed[0]
        if changed:
            raise changed[0]

    def check_content(self) -> None:
        """Raise SourceError, which names one, unless all hold what they held; see `Recording`."""
        for part in self.parts:
            part.check_content()

    def __str__(self) -> str:
        if len(self.parts) == 1:
            return str(self.parts[0])
        return f"{len(self.parts)} recordings, from {self.parts[0]} to {self.parts[-1]}"


class _OpenSeveral:
    """Several recordings; see `hpcio.recording.OpenRecording`. None of them is kept open."""

    plain: tuple[str, int] | None = None

    def __init__(self, recording: SeveralRecordings) -> None:
        self._recording = recording
        self.shape, self.dtype, self.name = recording.shape, recording.dtype, str(recording)

    def read(self, region: tuple[slice, ...]) -> np.ndarray:
        part, inside = self._recording.at(region)
        with part.open() as opened:
            return opened.read(inside)

    def axis_name(self, axis: int) -> str:
        with self._recording.parts[0].open() as opened:
            return opened.axis_name(axis)

    def coordinates(self, axis: int) -> np.ndarray | None:
        if axis == self._recording.axis:
            return None
        with self._recording.parts[0].open() as opened:
            return opened.coordinates(axis)

    def columns(self, axis: int) -> Mapping[str, np.ndarray]:
        if axis == self._recording.axis:
            return {}
        with self._recording.parts[0].open() as opened:
            return opened.columns(axis)

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


# ---------------------------------------------------------------------- as users name them


def read_recording(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    axis: int = 0,
    units: str | None = None,
    out: str | None = None,
) -> Recording:
    """Describe what a user names: a recording, several in a list, or all files of a pattern.

    Parameters
    ----------
    source : str, path, or sequence of them
        As `Recording.read` takes it; or ``"data/s*.h5::/lfp"``, all such files in the order people
        expect (s2 before s10), if there is no file of that very name.
    axis : int
        The axis that trials cut, along which several are joined.
    units : str, optional
        As for `Recording.read`.
    out : str, optional
        The result, which no pattern stands for.

    Raises
    ------
    SourceError
        If one cannot be read, or they differ in what they have to agree in: type, shape but for
        `axis`, and, where both say it, the rate, and what is known of other axes: coordinates,
        and columns such as those of electrodes.
    OptionError
        If there are none, or one is named twice.
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        if not source:
            raise OptionError("source= is empty. Name at least one recording, FILE::DATASET.")
        parts = [Recording.read(one, units=units) for one in source]
    else:
        check_path("source", source)
        text = os.fspath(source)
        found = matching_files(text, out=out)
        if found is None:
            return Recording.read(text, units=units)
        if not found:
            raise SourceError(f"No file matches '{text}'. Correct the pattern.")
        parts = [Recording.read(one, units=units) for one in found]
    _check_distinct(parts)
    check_agree(parts, axis)
    return SeveralRecordings.joined(parts, axis)


def matching_files(spec: str, *, out: str | None = None) -> list[str] | None:
    """What a name with ``*``, ``?`` or ``[...]`` in the name of its file stands for.

    Parameters
    ----------
    spec : str
        With a dataset or without.
    out : str, optional
        The result of a plan: it and its parts are left out, since no plan reads what it makes.

    Returns
    -------
    list of str or None
        As `spec`, for each file. None if it is no pattern, or the name of a file itself.
    """
    file, dataset = split_spec(spec) if "::" in spec.strip(":") else (spec, "")
    file = os.path.expanduser(file)
    if not any(sign in file for sign in "*?[") or os.path.exists(file):
        return None
    found = sorted(filter(os.path.isfile, glob.glob(file, recursive=True)), key=natural)
    if out is not None:
        own = os.path.expanduser(out)
        found = [name for name in found if not lies_in_result(name, own)]
    return [f"{name}::{dataset}" if dataset else name for name in found]


def _check_distinct(parts: Sequence[Recording]) -> None:
    seen: dict[tuple[str, str], Recording] = {}
    for part in parts:
        key = os.path.realpath(part.path), part.dataset.strip("/")
        if key in seen:
            raise OptionError(
                f"The recording '{part}' is named twice. Name it once, with all of its trials."
            )
        seen[key] = part


def check_agree(parts: Sequence[Recording], axis: int) -> None:
    """Raise SourceError unless recordings can be read as one."""
    first, rank = parts[0], len(parts[0].shape)
    if not -rank <= axis < rank:
        raise OptionError(
            f"axis={axis} does not exist in '{first}' of shape {first.shape}. Choose one from 0 to "
            f"{rank - 1}."
        )
    others = [k for k in range(rank) if k != axis % rank]
    for part in parts:
        if part.dtype != first.dtype:
            raise _differ(first, part, f"type: {first.dtype} and {part.dtype}")
        if len(part.shape) != rank or any(part.shape[k] != first.shape[k] for k in others):
            shapes = f"{first.shape} and {part.shape}"
            raise _differ(first, part, f"shape, and not along axis {axis} alone: {shapes}")
    _check_units(parts)
    rated: tuple[Recording, float] | None = None
    named: dict[int, tuple[Recording, np.ndarray]] = {}
    told: dict[int, tuple[Recording, Mapping[str, np.ndarray]]] = {}
    for part in parts:
        with part.open() as opened:
            rate = getattr(clock_of(part, axis), "rate", None)
            said = {k: (opened.coordinates(k), opened.columns(k)) for k in others}
        if rate is not None:
            rated = rated or (part, rate)
            if not math.isclose(rate, rated[1], rel_tol=_SAME_RATE):
                what = f"rate: {rated[1]} and {rate} rows in a second"
                raise _differ(rated[0], part, what)
        for k, (values, columns) in said.items():
            if values is not None:
                one, known = named.setdefault(k, (part, values))
                _check_same(one, known, part, values, f"the coordinates of axis {k}")
            if columns:
                _check_columns(*told.setdefault(k, (part, columns)), part, columns, k)


def _check_units(parts: Sequence[Recording]) -> None:
    """Raise SourceError unless values of recordings mean the same."""
    first = parts[0]
    says = first.says_of_units()
    for part in parts[1:]:
        if part.units != first.units:
            raise _differ(first, part, f"units: {first.units} and {part.units}")
        other = part.says_of_units()
        if first.units is None and says != other:
            known = next(one.units for one in (says, other) if one is not None)
            raise SourceError(
                f"'{first}' and '{part}' differ in how what is stored becomes {known}: their "
                f"values as they are stored are not the same. Say units={known!r} (in the shell: "
                f"--units {known}); or plan the others by themselves."
            )


def _check_columns(
    one: Recording,
    known: Mapping[str, np.ndarray],
    other: Recording,
    columns: Mapping[str, np.ndarray],
    axis: int,
) -> None:
    """Raise SourceError unless two recordings know the same of an axis: of electrodes."""
    for name in {**known, **columns}:
        what = f"the column '{name}' along axis {axis}"
        if name not in known or name not in columns:
            raise _differ(one, other, f"{what}, which '{one if name in known else other}' has")
        _check_same(one, known[name], other, columns[name], what)


def _check_same(
    one: Recording, known: np.ndarray, other: Recording, values: np.ndarray, what: str
) -> None:
    """Raise SourceError unless two recordings say the same of each row along an axis."""
    unequal = known != values
    if known.dtype.kind == values.dtype.kind == "f":
        unequal &= ~(np.isnan(known) & np.isnan(values))
    if np.any(unequal):
        k = int(np.argmax(unequal))
        a, b = (v.decode(errors="replace") if isinstance(v, bytes) else v
                for v in (known[k], values[k]))  # fmt: skip
        raise _differ(one, other, f"{what}: entry {k} is {a} and {b}")


def _differ(one: Recording, other: Recording, what: str) -> SourceError:
    return SourceError(
        f"'{one}' and '{other}' differ in {what}. Only recordings that agree in it are read as "
        "one: plan the others by themselves."
    )


def short_names(recording: Recording) -> tuple[str, ...]:
    """The shortest names that tell recordings apart: of files, folders, at last of datasets.

    Examples
    --------
    >>> parts = [Recording(f"/d/{s}/lfp.h5", "x", (1,), np.dtype("f4"), 0, 0) for s in ("s1", "s2")]
    >>> short_names(SeveralRecordings.joined(parts, 0))
    ('s1/lfp', 's2/lfp')
    """
    paths = [part.path for part in recording.parts]
    datasets = [part.dataset.strip("/") for part in recording.parts]
    if len(set(paths)) == 1 < len(paths):
        return tuple(datasets)
    names = _short_paths(list(dict.fromkeys(paths)))
    if len(names) == len(paths):
        return tuple(names.values())
    return tuple(f"{names[p]}::{d}" for p, d in zip(paths, datasets, strict=True))


def _short_paths(paths: Sequence[str]) -> dict[str, str]:
    """The shortest ends of distinct paths that tell them apart, if it can be without suffix."""
    split = [path.strip("/").split("/") for path in paths]
    for n in range(1, max(map(len, split)) + 1):
        whole = ["/".join(parts[-n:]) for parts in split]
        for names in ([os.path.splitext(name)[0] for name in whole], whole):
            # No short name may be what another file is called.
            distinct = len(set(names)) == len(names)
            if distinct and all(
                w == n or w not in names for w, n in zip(whole, names, strict=True)
            ):
                return dict(zip(paths, names, strict=True))
    return dict(zip(paths, paths, strict=True))
