"""The recording as it was when a plan was made, and the kinds of recordings."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np

from hpcio.errors import OptionError, SourceError, check_path
from hpcio.files import FileState, Place, check_place, mark_of, sample_of
from hpcio.machine import Registry
from hpcio.recording.scaling import Scaling
from hpcio.words import START_OVER

__all__ = ["RECORDINGS", "OpenRecording", "Recording", "RecordingKind", "in_result"]


def in_result(spec: str, name: str) -> str:
    """The name of a dataset in a result, if a spec is the name of one; all others as they are."""
    is_one = "::" not in spec and os.path.isfile(spec) and mark_of(spec) is not None
    return f"{spec}::{name}" if is_one else spec


@dataclass(frozen=True)
class Recording:
    """An array in a file, as it was when a plan was made.

    Attributes
    ----------
    path : str
        Absolute path of the file.
    dataset : str
        Name of the array in it.
    shape : tuple of int
    dtype : numpy.dtype
        Type of the values that are read.
    size : int
        Size of the file in bytes.
    mtime_ns : int
        Its modification time in nanoseconds since 1970.
    kind : str
        Name of the kind that reads it, one of `RECORDINGS`.
    behind : tuple of FileState
        Further files in which its values lie.
    filters : tuple of int
        The filters that its chunks have passed, by HDF5's numbers.
    sample : str
        A digest of some of the content of all files: other files may have the same sizes and
        times.
    place : tuple of (str, str)
        What HDF5 finds further files by, and that may differ from process to process; see
        `hpcio.files.Followed`.
    scaling : Scaling or None
        How what is stored becomes values of a unit as it is read; None for values as they are
        stored.
    """

    path: str
    dataset: str
    shape: tuple[int, ...]
    dtype: np.dtype
    size: int = field(repr=False)
    mtime_ns: int = field(repr=False)
    kind: str = "hdf5"
    behind: tuple[FileState, ...] = field(default=(), repr=False)
    filters: tuple[int, ...] = field(default=(), repr=False)
    sample: str = field(default="", repr=False)
    place: Place = field(default=(), repr=False)
    scaling: Scaling | None = None

    @classmethod
    def read(cls, spec: str | os.PathLike[str], *, units: str | None = None) -> Recording:
        """Describe the recording that a user names, such as ``FILE::DATASET``.

        Parameters
        ----------
        spec : str or path
        units : str, optional
            What values are to be in, such as ``"V"``; by default they are as they are stored.

        Raises
        ------
        SourceError
            If it cannot be read, or holds no plain numbers.
        OptionError
            If its file does not say how to make values of these units.
        """
        check_path("source", spec)
        text = os.fspath(spec)
        text = in_result(text, "data")
        kind = next(kind for kind in RECORDINGS.added_first() if kind.claims(text))
        return _in_units(kind.look(text), units)

    def now(self) -> Recording:
        """What its file is now, whatever it was.

        Raises
        ------
        SourceError
            If it cannot be read.
        """
        return _in_units(self._looked_at(), self.units)

    def says_of_units(self) -> Scaling | None:
        """How its file says that values of a unit are made; None if it does not."""
        if self.scaling is not None or self.kind == "hdf5":  # which knows of none
            return self.scaling
        return self._looked_at().scaling

    def _looked_at(self) -> Recording:
        return RECORDINGS[self.kind].look(str(self))

    @property
    def units(self) -> str | None:
        """What values are in, which several agree in; None for values as they are stored."""
        scaling = self.parts[0].scaling
        return None if scaling is None else scaling.units

    @property
    def parts(self) -> tuple[Recording, ...]:
        """The recordings that it is made of: of most that is the recording itself."""
        return (self,)

    def at(self, region: tuple[slice, ...]) -> tuple[Recording, tuple[slice, ...]]:
        """The part that a region lies in, and where it lies there."""
        return self, region

    def open(self) -> OpenRecording:
        """Check that it has not changed, and open it for reading.

        Raises
        ------
        SourceError
            If it cannot be read, or has changed since.
        """
        self.check_unchanged()
        opened = RECORDINGS[self.kind].open(self)
        stored = self.dtype if self.scaling is None else np.dtype(self.scaling.stored)
        if (opened.shape, opened.dtype) != (self.shape, stored):
            opened.close()
            raise SourceError(
                f"'{self.dataset}' in '{self.path}' is not what the plan was made for. "
                f"To compute with this one, {START_OVER}."
            )
        return opened if self.scaling is None else _InUnits(opened, self.scaling)

    def check_unchanged(self) -> None:
        """Raise SourceError unless sizes and modification times are those of the plan."""
        check_place(self.place, self.path)
        changed = []
        for file in self.files():
            try:
                now = FileState.of(file.path)
            except OSError as error:
                raise SourceError(
                    f"{self._named(file, ' of the plan')} cannot be found ({error.strerror}). "
                    "Put it back, or make a new plan."
                ) from error
            if now != file:
                changed.append((file, now))
        if changed:
            raise SourceError(
                f"{self._named(changed[0][0], '')} has changed since the plan was made. "
                f"To compute with what it is now, {START_OVER}.{self._times_back(changed)}"
            )

    def check_content(self) -> None:
        """Raise SourceError unless the files are those of the plan, as a look into them shows."""
        self.check_unchanged()
        if self.sample and sample_of(self.files()) != self.sample:
            raise SourceError(
                f"The recording '{self.path}' has been replaced by another of the same size and "
                f"time since the plan was made. To compute with this one, {START_OVER}."
            )

    def _times_back(self, changed: list[tuple[FileState, FileState]]) -> str:
        """What to do if files, as they were and are now, differ in their times; else nothing."""
        sizes = all(now.size == file.size for file, now in changed)
        if not sizes or not self.sample or sample_of(self.files()) != self.sample:
            return ""
        back = (
            f"touch -d {np.datetime64(file.mtime_ns, 'ns')}Z {shlex.quote(file.path)}"
            for file, _ in changed
        )
        return (
            " But its size and a sample of its content are the same. If only its time is another "
            f"(by touch or a copy), set that back and go on: {'; '.join(back)}"
        )

    def files(self) -> tuple[FileState, ...]:
        """All files in which its values lie, as they were."""
        return FileState(self.path, self.size, self.mtime_ns), *self.behind

    def _named(self, file: FileState, whose: str) -> str:
        if file.path == self.path:
            return f"The recording '{self.path}'{whose}"
        return f"'{file.path}', in which values of the recording '{self.path}'{whose} lie,"

    def __str__(self) -> str:
        return f"{self.path}::{self.dataset}"


def _in_units(found: Recording, units: str | None) -> Recording:
    """A recording whose values are in some units, given what its kind says of it."""
    if units is None:
        return replace(found, scaling=None)
    has = found.scaling
    if has is None:
        raise OptionError(
            f"units={units!r:.100}, and '{found.dataset}' of '{found.path}' says nothing of units: "
            "its values are as they are stored. Leave out units, and let the function multiply. "
            "(A series of NWB says it: name the series, FILE.nwb::NAME, and not its data.)"
        )
    if units != has.units:
        raise OptionError(
            f"units={units!r:.100}, and the values of '{found.dataset}' of '{found.path}' can be "
            f"read in {has.units} alone. Say units={has.units!r} (in the shell: --units "
            f"{has.units}), or leave it out for values as they are stored."
        )
    return replace(found, dtype=has.dtype)


class OpenRecording(Protocol):
    """A recording that is open; made by `RecordingKind.open`.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    name : str
        The file, for messages.
    plain : tuple of (str, int), or None
        A file and the offset of the values in it, if they lie there as numpy holds them. Trials
        are then read as plain bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    name: str
    plain: tuple[str, int] | None

    def read(self, region: tuple[slice, ...]) -> np.ndarray:
        """The values of a region, in memory of their own.

        Slices have an explicit start, stop and positive step, one for each axis.

        Raises
        ------
        SourceError
            If they cannot be read.
        """

    def axis_name(self, axis: int) -> str:
        """What an axis is called in the file; ``""`` if it has no name."""

    def coordinates(self, axis: int) -> np.ndarray | None:
        """The coordinates along an axis, one for each row; None if there are none."""

    def columns(self, axis: int) -> Mapping[str, np.ndarray]:
        """What else is known of each row along an axis, by name: numbers, bool or text."""

    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class _InUnits:
    """A recording that is open, with values of a unit; see `OpenRecording`."""

    def __init__(self, opened: OpenRecording, scaling: Scaling) -> None:
        self._opened, self._scaling = opened, scaling
        self.shape, self.dtype, self.name = opened.shape, scaling.dtype, opened.name
        self.plain = opened.plain  # who reads bytes applies `scaling` to them
        self.axis_name, self.coordinates = opened.axis_name, opened.coordinates
        self.columns, self.close = opened.columns, opened.close

    def read(self, region: tuple[slice, ...]) -> np.ndarray:
        return self._scaling.apply(self._opened.read(region), self._scaling.factors_of(region))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RecordingKind(Protocol):
    """A kind of recording, such as HDF5: how it is named, looked at, and opened.

    Attributes
    ----------
    name : str
        The name under which it is registered.
    """

    name: str

    def claims(self, spec: str) -> bool:
        """Whether a recording of this name is of this kind; whatever is wrong, `look` says it."""

    def look(self, spec: str) -> Recording:
        """Describe the recording that a user names.

        If its file says how values of a unit are made of what is stored, `scaling` has that.

        Raises
        ------
        SourceError
            If it cannot be read, or holds no plain numbers.
        """

    def open(self, recording: Recording) -> OpenRecording:
        """Open a recording for reading.

        Raises
        ------
        SourceError
            If it cannot be read.
        """


# Kinds of recordings. Those that are added are asked before ours; HDF5 takes every name.
RECORDINGS: Registry[RecordingKind] = Registry(
    "kind of recording",
    group="hpcio.recordings",
    own={"hdf5": "hpcio.recording.hdf5:HDF5", "nwb": "hpcio.recording.nwb:NWB"},
)
