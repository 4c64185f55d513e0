"""The electrodes of a series of NWB: what is known of each channel, and which have some values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcio.errors import SourceError, TrialError, check_path
from hpcio.files import open_file, reading
from hpcio.recording.matching import all_matching
from hpcio.recording.sessions import electrodes_of, find_series, is_session, session_of
from hpcio.recording.several import matching_files

__all__ = ["Electrodes", "electrodes"]


@dataclass(frozen=True, eq=False, repr=False)
class Electrodes:
    """What is known of the electrode of each channel of a recording; made by `hpcio.electrodes`.

    Attributes
    ----------
    columns : mapping of str to numpy.ndarray, shape (C,)
        Numbers or text for each channel, such as ``group_name`` and ``location``.
    """

    columns: Mapping[str, npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A column: shape (C,)."""
        if name not in self.columns:
            known = ", ".join(self.columns)
            raise TrialError(f"The electrodes have no column {name!r}. They have {known}.")
        return self.columns[name]

    def __repr__(self) -> str:
        return f"Electrodes({len(self)} channels, columns {', '.join(self.columns)})"

    def where(self, **wanted: Any) -> npt.NDArray[np.int64]:
        """The channels whose electrodes have some values.

        Parameters
        ----------
        **wanted
            For each column, by its name: a value; a pair ``(least, most)`` of numbers, both
            included; a list of values; or a function of the column that gives a mask.

        Returns
        -------
        numpy.ndarray of int64
            Indices along the channel axis of the recording, as `Trials.select` takes them.

        Raises
        ------
        TrialError
            If there is no such column, or no channel is left.

        Examples
        --------
        >>> shanks = Electrodes({"group_name": np.array(["a", "a", "b"]), "x": np.arange(3.0)})
        >>> shanks.where(group_name="a", x=(0.5, None))
        array([1])
        """
        return all_matching(self.__getitem__, wanted, count=len(self), counted="channel")


def electrodes(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> Electrodes:
    """The electrodes of a series of NWB, one for each channel.

    Parameters
    ----------
    source : str, path, or sequence of them
        The recording, as `Plan.create` takes it: ``FILE.nwb::NAME``. Of several, which agree in
        their electrodes or are refused there, those of the first.

    Returns
    -------
    Electrodes

    Raises
    ------
    SourceError
        If it cannot be read, or has no electrodes.

    Examples
    --------
    >>> shank = hpcio.electrodes("session.nwb::ES").where(group_name="shank0")  # doctest: +SKIP
    >>> trials = hpcio.Trials.equal(1000, rows=60000).select(channels=shank)    # doctest: +SKIP
    """
    one: Any = source
    if isinstance(source, Sequence) and not isinstance(source, str) and source:
        one = source[0]
    check_path("source", one)
    found = matching_files(os.fspath(one))
    if found is not None and not found:
        raise SourceError(f"No file matches '{os.fspath(one)}'. Correct the pattern.")
    spec = found[0] if found else os.fspath(one)
    file, name = session_of(spec)
    if not is_session(file):
        raise SourceError(
            f"'{spec}' is no series in a file of NWB, and nothing else has electrodes. Select "
            "channels by their numbers: Trials.select(channels=...)."
        )
    path = os.path.expanduser(file)
    with reading(path), open_file(path) as f:
        series = find_series(f, name)
        columns, shape = electrodes_of(f[series]), f[series]["data"].shape
    if columns is None:
        raise SourceError(
            f"The series '{series}' of '{file}' has no electrodes. Select channels by their "
            "numbers: Trials.select(channels=...)."
        )
    (count,) = {len(values) for values in columns.values()}
    if shape[1:2] != (count,):
        raise SourceError(
            f"The series '{series}' of '{file}' names {count} electrodes, and its data have the "
            f"shape {shape}: which channel each is of is not known. Correct the file, or select "
            "channels by their numbers: Trials.select(channels=...)."
        )
    return Electrodes(columns)
