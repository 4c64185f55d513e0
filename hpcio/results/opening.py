"""Opening a result, and refusing to read what is not there."""

from __future__ import annotations

import json
import os
import posixpath
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from hpcio.errors import DAMAGE, HpcioError, ResultError, SourceError, number_of
from hpcio.files import (
    RunDirectory,
    load_filters,
    locking,
    open_file,
    read_table,
    read_text,
    result_of,
)
from hpcio.layout import Target
from hpcio.results.besides import OF_AVERAGE, OUTPUTS, SEVERAL, names_of_results
from hpcio.results.guarding import ResultDataset, Sources
from hpcio.results.remedies import check_parts, remedy
from hpcio.results.showing import earlier_in, shown
from hpcio.words import html_table, in_lines

if TYPE_CHECKING:
    import xarray

__all__ = [
    "ResultFile",
    "averages_in",
    "check_finished",
    "of_trials_in",
    "open",
    "refusing_damage",
    "target_of",
]


class ResultFile(h5py.File):  # type: ignore[misc]  # h5py is untyped
    """A result, open for reading: an `h5py.File` whose ``data`` tells the truth.

    Made by :func:`open`. A result may have more sources than this process may hold open. Instead of
    ``data`` it has the names of several results, if each call has so many; `results` lists them.
    """

    def __init__(self, path: Path, *, sources: Sources | None) -> None:
        super().__init__(path, "r", locking=locking(path))
        self._sources = sources
        self._guarded: dict[str | None, ResultDataset] = {}
        self.results = names_of_results(self)
        for name in self.results if sources is not None else ():
            if (virtual := self.plain(name)).is_virtual:  # of gaps alone, it is not
                assert sources is not None
                self._guarded[name] = ResultDataset(virtual, sources, target_of(self, name))

    @property
    def virtual(self) -> h5py.Dataset:
        """The first result as HDF5 holds it: for its labels and scales, not its values."""
        return self.plain(self.results[0])

    def plain(self, name: str) -> h5py.Dataset:
        """A result as HDF5 holds it: for its labels and scales, not its values."""
        return super().__getitem__(name)

    @property
    def earlier(self) -> int:
        """Trials whose results are kept from before the function or its arguments changed.

        The attribute `functions` tells of these functions, as JSON, and the column `function` of
        the trials has the place of the one that computed each.
        """
        return earlier_in(self)

    def __getitem__(self, name: Any) -> Any:
        if self._is_guarded(name):
            return self._guarded[_path_of(name)]
        return self if _path_of(name) == "" else super().__getitem__(name)

    def get(self, name: Any, default: Any = None, **options: Any) -> Any:
        """An object of the file, as `h5py.Group.get` gives it."""
        if (self._is_guarded(name) or _path_of(name) == "") and not any(options.values()):
            return self[name]
        return super().get(name, default, **options)

    def to_xarray(self) -> xarray.Dataset:
        """The result as a Dataset of xarray, read where values are asked for.

        Returns
        -------
        xarray.Dataset
            With the variable ``data``, or one for each of several results, whose dimensions are
            the axes of the result; their coordinates; and what is known of each trial, or of each
            condition, such as ``count``.
            Closing it closes the file.

        Raises
        ------
        MissingPackageError
            If xarray is not installed.

        Examples
        --------
        >>> hpcio.open("out.h5").to_xarray()["data"].sel(condition="face")  # doctest: +SKIP
        """
        from hpcio.results.labelled import labelled

        return labelled(self, {name: self.plain(name) for name in self.results})

    def __repr__(self) -> str:
        rows = shown(self)
        return in_lines(rows) if rows else str(super().__repr__())

    def _repr_html_(self) -> str:
        rows = shown(self)
        return html_table("A result" if rows else str(super().__repr__()), rows)

    def close(self) -> None:
        """Close the file, and raise ResultError if sources have changed while it was open.

        HDF5 says nothing when it reads fill values in their place, by whatever object of the file.
        """
        is_open, sources = bool(self.id), self._sources
        for data in self._guarded.values():
            data.close_sources()
        super().close()
        if is_open and sources is not None and not sources.said:
            sources.check()

    def _is_guarded(self, name: Any) -> bool:
        return _path_of(name) in self._guarded


def _path_of(name: Any) -> str | None:
    """The path from the root to what a name of HDF5 means; None if it is no name."""
    if not isinstance(name, str | bytes):
        return None
    return posixpath.normpath(f"/{os.fsdecode(name)}").lstrip("/")


def open(path: str | os.PathLike[str]) -> ResultFile:  # the module is used as hpcio.open
    """Open a result for reading, after a check that all of its sources are there.

    Plain HDF5 fills the place of a source that is missing, or that it may not open, with
    zeros and says nothing. This function raises instead.

    Parameters
    ----------
    path : str or path
        A result of :meth:`hpcio.Plan.run` or :func:`hpcio.repack`.

    Returns
    -------
    ResultFile
        An `h5py.File`, mode ``"r"``; ``f["data"]`` is the result, ``f["trials"]`` the table
        of its trials. Several results of each call have their names instead of ``data``.

    Raises
    ------
    ResultError
        If the file is no result, or a source is missing, short, or another's.
    SourceError
        If the file cannot be read at all.
    MissingPackageError
        If it is compressed by a filter that is not installed here.

    Examples
    --------
    >>> import h5py, numpy as np, os, tempfile, hpcio
    >>> folder = tempfile.TemporaryDirectory()
    >>> rec, out = os.path.join(folder.name, "rec.h5"), os.path.join(folder.name, "out.h5")
    >>> with h5py.File(rec, "w") as f:
    ...     f["lfp"] = np.ones((100, 4))
    >>> plan = hpcio.Plan.create(np.negative, f"{rec}::/lfp", trials=25, out=out)
    >>> done = plan.run(workers=0, progress=False)
    >>> with hpcio.open(out) as f:
    ...     f["data"].shape
    (100, 4)
    >>> folder.cleanup()
    """
    # Sources are named relative to the file itself, not to a link that leads to it.
    name = Path(os.path.realpath(result_of(path)))
    check_finished(name)
    with refusing_damage(name):
        with open_file(name) as f:
            results = names_of_results(f)
            if "hpcio" not in f or not all(result in f for result in results):
                raise ResultError(f"'{name}' is no result of hpcio. Open it with h5py.")
            for result in results:
                _check_shape(f, result)
            sources = Sources.of(f) if "hpcio/sources" in f else None
            load_filters(read_text(f["hpcio"], "compression", ""), name)
        if sources is not None:
            check_parts(name, sources.table)
            sources.look()
        return ResultFile(name, sources=sources)


def _place_of_target(f: h5py.File, name: str) -> str:
    return f"{OUTPUTS}/{name}" if SEVERAL in f.attrs else "hpcio/target"


def target_of(f: h5py.File, name: str) -> Target:
    """Where the results of blocks lie in a dataset of a result."""
    return Target.load(f[_place_of_target(f, name)])


def averages_in(f: h5py.File) -> dict[str, int]:
    """The checksum of each average among several results, by its name; none of a single one."""
    places = {name: f[_place_of_target(f, name)] for name in names_of_results(f)}
    return {
        name: int(group.attrs[OF_AVERAGE])
        for name, group in places.items()
        if OF_AVERAGE in group.attrs
    }


def of_trials_in(f: h5py.File) -> dict[str, Target]:
    """The layout of each of several results that has those of trials, by its name."""
    averages = averages_in(f)
    return {name: target_of(f, name) for name in names_of_results(f) if name not in averages}


def _check_shape(f: h5py.File, name: str) -> None:
    """Raise ResultError unless a dataset is as the run has laid it out."""
    place = _place_of_target(f, name)
    spec, data = json.loads(read_table(f[f"{place}/spec"]).tobytes()), f[name]
    shape, dtype = tuple(spec["shape"]), np.dtype(spec["dtype"])
    if not isinstance(data, h5py.Dataset) or (data.shape, data.dtype) != (shape, dtype):
        found = "no dataset"
        if isinstance(data, h5py.Dataset):
            found = f"{data.dtype} of shape {data.shape}"
        raise ResultError(
            f"'{name}' of '{f.filename}' is {found}, but the run wrote {dtype} of shape {shape}. "
            f"{remedy(Path(f.filename))}"
        )


@contextmanager
def refusing_damage(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise ResultError if what hpcio itself needs of a result makes no sense."""
    try:
        yield
    except HpcioError:
        raise
    except DAMAGE as error:
        what = str(error).partition("\n")[0] or type(error).__name__
        said = (
            f"'{os.fspath(path)}' is damaged, or cannot be read: {what}. "
            f"{remedy(Path(os.path.realpath(result_of(path))))}"
        )
        number = number_of(error)
        raise (ResultError(said) if number is None else ResultError(number, said)) from error


def check_finished(name: Path) -> None:
    """Raise SourceError if a result is not there since its run is not finished."""
    if not os.path.lexists(name) and os.path.exists(RunDirectory.of(str(name)).plan):
        raise SourceError(
            f"'{name}' is not there yet: its run is not finished. Go on with it by plan.run() "
            f"(in the shell: hpcio resume {shlex.quote(str(name))})."
        )
