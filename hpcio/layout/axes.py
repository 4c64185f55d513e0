"""Names and coordinates of the axes of a result, which become dimension scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import h5py
import numpy as np

from hpcio.errors import OptionError
from hpcio.files import keep_table
from hpcio.layout.averages import Average
from hpcio.layout.target import Target
from hpcio.recording import Blocks, OpenRecording, Recording, Trials, unnamed
from hpcio.words import brief, count

__all__ = ["RESERVED", "Axis", "attach", "hide", "name_axes", "times_of"]

# What netCDF calls the scale of a dimension that has no coordinates.
NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable."
# Names of other things in the file of a result.
RESERVED = ("", ".", "data", "trials", "hpcio", "metadata", "details")


@dataclass(frozen=True, eq=False, repr=False)
class Axis:
    """One axis of the result: its name, and its coordinates if they are known.

    Attributes
    ----------
    name : str
        ``""`` if unknown.
    values : numpy.ndarray or None
        One coordinate for each row along the axis: numbers, or bytes of UTF-8 text.
    columns : mapping of str to numpy.ndarray
        What else is known of each row, by name: numbers, bool or text. Of channels that is what is
        known of their electrodes.
    """

    name: str
    values: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        known = "" if self.values is None else f", {count(len(self.values), 'coordinate')}"
        return f"Axis({brief(repr(self.name))}{known})"


def name_axes(
    axes: Mapping[str, Sequence[object] | np.ndarray | None] | None,
    recording: Recording,
    trials: Trials,
    blocks: Blocks,
    target: Target,
    *,
    average: Average | None = None,
) -> tuple[Axis, ...]:
    """The axes of a result: as the caller names them, else as the recording does.

    Of an axis that has the name of one of the recording, and its length in each trial, the
    recording says what the caller does not. The first axis of averages by condition has the values
    of its column as coordinates. Both axes of a covariance are those of channels; the second one is
    called ``channel_2``. Of what functions of the user's own make, nothing is known.
    """
    rank = len(target.shape)
    if axes is None and average is not None and average.channel_axis is not None:
        named = [Axis("")] * (rank - 2)
        named += _of_channels(recording, trials, blocks, target.shape[-1])
    elif axes is None and average is not None and average.functions:
        named = [Axis("")] * rank  # what `finish` makes is of any kind
    elif axes is None:
        # Where trials lie one behind the other, an axis that is not theirs is none of the result.
        joined = None if target.stacked or average is not None else target.axis
        named = _from_recording(recording, trials, blocks, target, joined)
    else:
        if not isinstance(axes, Mapping) or not all(isinstance(name, str) for name in axes):
            raise OptionError(
                f"axes={axes!r:.100} is no dict of names. Write axes={{'trial': None, ...}}, with "
                "None for unknown coordinates."
            )
        if len(axes) != rank:
            raise OptionError(
                f"The result has {rank} axes (shape {target.shape}), but axes= names "
                f"{len(axes)}: {', '.join(axes)}. Name each, with None for unknown coordinates."
            )
        named = [_checked(k, n, v, target.shape[k]) for k, (n, v) in enumerate(axes.items())]
        named = _with_recording(named, recording, trials, blocks, target)
    if not target.stacked or (average is not None and not average.by):
        return tuple(named)
    if not named[0].name:
        first = "trial" if average is None else "_".join(average.by)
        first = first if first not in RESERVED and "/" not in first else "condition"
        named = [Axis("") if a.name == first else a for a in named]
        named[0] = Axis(first)
    if named[0].values is None:
        named[0] = Axis(named[0].name, _along_first(trials, average))
    return tuple(named)


def _along_first(trials: Trials, average: Average | None) -> np.ndarray | None:
    """The coordinates of trials, or of conditions; None for those of several columns."""
    if average is None:
        return trials.index
    if len(average.by) > 1:
        return None
    _, first = np.unique(average.condition, return_index=True)
    return _plain(trials[average.by[0]][first])


def _checked(axis: int, name: str, values: object, length: int) -> Axis:
    if name in RESERVED or "/" in name or "\0" in name:
        raise OptionError(
            f"'{name}' cannot be the name of an axis. Use a word such as 'frequency'."
        )
    if values is None:
        return Axis(name)
    array = _plain(np.asarray(values))
    if array.shape != (length,) or array.dtype.kind not in "biufcS":
        raise OptionError(
            f"The coordinates of axis '{name}' have shape {array.shape} and type {array.dtype}; "
            f"axis {axis} of the result has {length} rows. Give one number or text for each."
        )
    return Axis(name, array)


def _plain(values: np.ndarray) -> np.ndarray:
    """Coordinates with text as bytes of UTF-8, whichever of numpy's ways holds it."""
    if values.dtype.kind == "T" or (
        values.dtype.kind == "O" and all(isinstance(v, str) for v in values.flat)
    ):
        values = values.astype("U")
    if values.dtype.kind == "O" and all(isinstance(v, bytes) for v in values.flat):
        return values.astype("S")
    return np.char.encode(values, "utf-8") if values.dtype.kind == "U" else values


def _from_recording(
    recording: Recording, trials: Trials, blocks: Blocks, target: Target, joined: int | None
) -> list[Axis]:
    """What the recording says of the axes that the function has kept."""
    unknown = [Axis("") for _ in target.shape]
    shift, rank = int(target.stacked), len(recording.shape)
    own, lengths = len(target.shape) - shift, _lengths(blocks, target)
    found = list(unknown)
    with recording.open() as opened:
        for here, axis in _pairs(lengths, rank, own):
            name, length = opened.axis_name(axis), target.shape[here + shift]
            if own < rank and here == joined and axis != blocks.axis:
                continue
            if name not in RESERVED and "/" not in name:
                found[here + shift] = _kept(name, opened, axis, trials, blocks, length)
    names = [axis.name for axis in found if axis.name]
    return found if len(set(names)) == len(names) else unknown


def _pairs(
    lengths: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], rank: int, own: int
) -> list[tuple[int, int]]:
    """Axes of a result that are kept, each with that of the trial.

    A result of fewer axes than its trial has those that remain, in their order, if only one choice
    of them is as long in every trial.
    """
    if own == rank:
        return [(axis, axis) for axis in range(rank) if _is_kept(lengths, axis, axis)]
    choices = [[*enumerate(chosen)] for chosen in combinations(range(rank), own)]
    fitting = [
        pairs for pairs in choices if all(_is_kept(lengths, axis, here) for here, axis in pairs)
    ]
    return fitting[0] if len(fitting) == 1 else []


def _with_recording(
    named: Sequence[Axis], recording: Recording, trials: Trials, blocks: Blocks, target: Target
) -> list[Axis]:
    """Axes that a caller has named, with what the recording says of those of the same names.

    Such an axis may lie elsewhere, and must have been kept.
    """
    shift, found = int(target.stacked), list(named)
    lengths = _lengths(blocks, target)
    with recording.open() as opened:
        names = [opened.axis_name(axis) for axis in range(len(recording.shape))]
        for here, given in enumerate(named):
            if here < shift or names.count(given.name) != 1:
                continue
            axis = names.index(given.name)
            if _is_kept(lengths, axis, here - shift):
                kept = _kept(given.name, opened, axis, trials, blocks, target.shape[here])
                values = kept.values if given.values is None else given.values
                found[here] = Axis(given.name, values, kept.columns)
    return found


def _lengths(blocks: Blocks, target: Target) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes of trials, each with those of the results that it has."""
    # One number for each pair is found in a tenth of the time that pairs take.
    several = len(target.shapes)
    pairs = np.unique(blocks.input_kind.astype(np.int64) * several + target.shape_index).tolist()
    return [(blocks.input_kinds[k // several].inshape, target.shapes[k % several]) for k in pairs]


def _is_kept(
    lengths: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], axis: int, here: int
) -> bool:
    """Whether an axis is as long in the result of every block as another one is in its trial."""
    return all(trial[axis] == result[here] for trial, result in lengths)


def _kept(
    name: str, opened: OpenRecording, axis: int, trials: Trials, blocks: Blocks, length: int
) -> Axis:
    """What a recording says of an axis of the result, of some length, that is one of its own."""
    if axis == blocks.axis:
        return Axis(name, times_of(trials, blocks, length))
    scale = opened.coordinates(axis)
    values = None if scale is None else _selected(_plain(scale), blocks, axis)
    if values is not None and (values.shape != (length,) or values.dtype.kind not in "biufcS"):
        values = None
    columns = {n: _selected(v, blocks, axis) for n, v in opened.columns(axis).items()}
    return Axis(name, values, {n: v for n, v in columns.items() if v.shape == (length,)})


def times_of(trials: Trials, blocks: Blocks, length: int) -> np.ndarray | None:
    """The seconds from its event of each row of a trial, if they are known, and those of all."""
    rate = None if trials.clock is None else trials.clock.rate
    if rate is None or (trials.lengths != length).any() or np.ptp(trials.offset):
        return None
    every = range(length)
    for kind in blocks.input_kinds:  # rows may be selected, and in any order
        if kind.sigrid is not None and [*kind.sigrid[blocks.axis]] != [*every]:
            return None
    times: np.ndarray = (np.arange(length) - int(trials.offset[0])) / rate
    return times


def _of_channels(recording: Recording, trials: Trials, blocks: Blocks, channels: int) -> list[Axis]:
    """The axes of channels against channels, named as that of the recording, if it has so many."""
    axis, found = blocks.channel_axis, Axis("")
    if axis is not None and blocks.input_kinds[0].inshape[axis] == channels:
        with recording.open() as opened:
            if name := opened.axis_name(axis):
                found = _kept(name, opened, axis, trials, blocks, channels)
    if found.name in RESERVED or "/" in found.name:
        found = replace(found, name="channel")
    return [found, Axis(f"{found.name}_2", found.values)]


def _selected(values: np.ndarray, blocks: Blocks, axis: int) -> np.ndarray:
    """The coordinates along an axis of the recording that the blocks of one trial read."""
    parts = []
    for kind in dict.fromkeys(blocks.input_kind[: blocks.channel_blocks].tolist()):
        one = values[blocks.input_kinds[kind].grid[axis]]
        sigrid = blocks.input_kinds[kind].sigrid
        parts.append(one if sigrid is None else one[list(sigrid[axis])])
    return np.concatenate(parts) if axis == blocks.channel_axis else parts[0]


def attach(axes: Sequence[Axis], file: h5py.File, data: h5py.Dataset, *, scales: int = 0) -> int:
    """Label the axes of `data`, and give each a dimension scale with the coordinates it has.

    Readers of netCDF take a variable only if all its axes have scales, or none. So an axis without
    coordinates has a scale as netCDF writes it, which holds nothing, and one without a name is
    called ``axis_K`` there. A scale that is there already, of another output, is shared if it has
    the same coordinates.

    Returns
    -------
    int
        How many scales there are in the file, of which `scales` were there before.
    """
    taken = {*RESERVED, *(axis.name for axis in axes)}
    for k, (axis, dim) in enumerate(zip(axes, data.dims, strict=True)):
        name = axis.name or unnamed(k)
        while (not axis.name and name in taken) or not _fits(file.get(name), axis, data.shape[k]):
            name += "_"
        if axis.name:
            dim.label = name
        if name in file:
            dim.attach_scale(file[name])
            continue
        if axis.values is None:
            scale = file.create_dataset(name, shape=(data.shape[k],), dtype=">f4")
            scale.make_scale(f"{NO_VARIABLE}{data.shape[k]:10d}")
        else:
            scale = keep_table(file, name, _as_text(axis.values))
            scale.make_scale(name)
        scale.attrs.create("_Netcdf4Dimid", scales, dtype="i4")
        scales += 1
        dim.attach_scale(scale)
    return scales


def _fits(there: h5py.Dataset | None, axis: Axis, length: int) -> bool:
    """Whether what has the name of an axis is its scale, or nothing is there."""
    if there is None:
        return True
    if not isinstance(there, h5py.Dataset) or not there.is_scale or there.shape != (length,):
        return False
    if axis.values is None:
        return bool(there.attrs["NAME"].startswith(NO_VARIABLE.encode()))
    stored = _as_text(axis.values)
    values = there.asstr()[()] if h5py.check_string_dtype(there.dtype) else there[()]
    return values.dtype.kind == stored.dtype.kind and np.array_equal(values, stored)


def hide(table: h5py.Dataset) -> None:
    """Have readers of netCDF pass over a dataset of a type that netCDF does not have."""
    table.attrs["NAME"] = np.bytes_(NO_VARIABLE)


def _as_text(values: np.ndarray) -> np.ndarray:
    """Bytes of UTF-8 as what readers take for text, and all else as it is."""
    if values.dtype.kind != "S" or any(b"\0" in value for value in values.tolist()):
        return values
    try:
        return np.char.decode(values, "utf-8").astype(h5py.string_dtype())
    except UnicodeDecodeError:  # a recording may have names in any encoding
        return values
