"""The files behind a dataset: where its bytes lie, and whether all of them are there.

HDF5 shows fill values, and says nothing, where a file behind a virtual dataset is missing, has no
such dataset, or is too short. So a dataset is followed to the innermost files before it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Self

import h5py
import numpy as np

from hpcio.errors import SourceError, as_read_error
from hpcio.files.compression import load_filters_of
from hpcio.files.opening import open_file, reading
from hpcio.machine import only_files

__all__ = [
    "FileState",
    "Followed",
    "Place",
    "check_links",
    "check_place",
    "check_readable",
    "check_whole",
    "follow",
    "has_pattern",
    "names_of",
    "numbered",
    "numbers_of",
    "sample_of",
    "where_hdf5_finds",
]

# What a variable begins with that names folders beside the file that is opened.
_ORIGIN = "${ORIGIN}"
# The one for raw files.
_RAW = "HDF5_EXTFILE_PREFIX"
# So many pages are looked at, of all files together, but some of each file.
_PAGES, _OF_EACH, _PAGE = 96, 3, 4096
# Descriptors that HDF5 may want besides.
_SPARE = 8


@dataclass(frozen=True)
class FileState:
    """A file as it was: content that changes changes one of these.

    Attributes
    ----------
    path : str
    size : int
        In bytes.
    mtime_ns : int
        Time of modification in nanoseconds since 1970.
    """

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> Self:
        """The state of a file now."""
        stat = os.stat(path)
        return cls(path, stat.st_size, stat.st_mtime_ns)

    def sample(self, pages: int) -> str:
        """A digest of so many pages of the content, from the first to the last.

        Copies may bring another file of the same size and time.
        """
        digest = hashlib.blake2b(digest_size=16)
        try:
            with open(self.path, "rb", opener=only_files) as f:
                for piece in self._pages(f, pages):
                    digest.update(piece)
        except OSError as error:
            raise as_read_error(error, self.path) from error
        return digest.hexdigest()

    def _pages(self, file: BinaryIO, pages: int) -> Iterator[bytes]:
        if self.size <= pages * _PAGE:
            yield file.read()
            return
        for place in np.linspace(0, self.size - _PAGE, pages).astype(np.int64).tolist():
            file.seek(place)
            yield file.read(_PAGE)


def sample_of(files: Sequence[FileState]) -> str:
    """A digest of some of the content of several files."""
    pages = max(_OF_EACH, _PAGES // len(files))
    samples = " ".join(file.sample(pages) for file in files)
    return hashlib.sha256(samples.encode()).hexdigest()[:32]


Place = tuple[tuple[str, str], ...]


def _here(name: str) -> str:
    """The folder at hand (``""``), or a variable of the environment."""
    if name:
        return os.environ.get(name, "")
    with contextlib.suppress(FileNotFoundError):
        return os.getcwd()
    return "deleted"


def check_place(place: Place, what: str) -> None:
    """Raise SourceError if HDF5 would look for files elsewhere than it did."""
    for name, value in place:
        if (now := _here(name)) != value:
            where = f"the variable {name}" if name else "the folder at hand"
            raise SourceError(
                f"Values of '{what}' lie in files that HDF5 finds by {where}: it was '{value}', "
                f"and is '{now}' now. Make it what it was, or put the files beside the recording."
            )


def check_readable(files: Iterable[str], what: str) -> None:
    """Raise SourceError unless files can be opened: HDF5 would show fill values for them."""
    for path in files:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            raise SourceError(
                error.errno,
                f"Values of '{what}' lie in '{path}', which cannot be read ({error.strerror}). "
                "See to it that the file can be read, then try again.",
            ) from error


@dataclass(frozen=True)
class Followed:
    """A dataset that was followed to all files behind it.

    Attributes
    ----------
    files : tuple of str
        Real paths, in the order in which they are met.
    filters : tuple of int
        The filters that their chunks have passed, by HDF5's numbers.
    place : tuple of (str, str)
        What HDF5 finds some of them by, and that may differ from process to process: the folder at
        hand (``""``) or variables of the environment, with their values.
    """

    files: tuple[str, ...]
    filters: tuple[int, ...]
    place: Place = ()


# What was followed before, and the state of its files then.
_known: dict[tuple[str, str], tuple[FileState, ...]] = {}


def check_whole(file: h5py.File, name: str) -> None:
    """Raise SourceError unless all that is behind a dataset is there; see `follow`.

    It is followed again only if one of its files has changed.
    """
    key = os.path.realpath(file.filename), name
    with contextlib.suppress(OSError):
        states = _known.get(key, ())
        if states and all(FileState.of(state.path) == state for state in states):
            return
    followed = follow(file, name)
    _known[key] = tuple(map(FileState.of, followed.files))


def check_links(file: h5py.File, name: str) -> None:
    """Raise SourceError if a name leads to another file, where it leads to nothing.

    HDF5 says of such a name no more than that it is not there.
    """
    with reading(file.filename), contextlib.suppress(KeyError):
        _Walk(links_alone=True).linked(file, name)


def follow(file: h5py.File, name: str) -> Followed:
    """Follow a dataset of an open file through links, mappings and raw files to its bytes.

    Filters that any of the files needs are loaded.

    Parameters
    ----------
    file : h5py.File
    name : str
        Of a dataset that is there.

    Returns
    -------
    Followed

    Raises
    ------
    SourceError
        If anything is missing or too short; it names the innermost file.
    """
    walk = _Walk()
    with reading(file.filename):
        walk.linked(file, name)
    place = tuple((name, _here(name)) for name in sorted(walk.found_by))
    return Followed(tuple(walk.files), tuple(sorted(walk.filters)), place)


class _Walk:
    def __init__(self, *, links_alone: bool = False) -> None:
        self._links_alone = links_alone
        self.files: dict[str, None] = {}
        self.filters: set[int] = set()
        self.found_by: set[str] = set()
        self._seen: set[tuple[str, str]] = set()
        self._within: list[tuple[str, str]] = []

    def linked(self, file: h5py.File, name: str) -> None:
        """Follow a name, which may lead to another file."""
        self.files[os.path.realpath(file.filename)] = None
        group, rest = file["/"], [part for part in name.split("/") if part]
        for k, part in enumerate(rest):
            link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
            if isinstance(link, h5py.ExternalLink):
                inner = "/".join([link.path.rstrip("/"), *rest[k + 1 :]])
                where = f"'{name}' of '{file.filename}' is a link to '{link.path}' in another file"
                path = self._found(file.filename, link.filename, "HDF5_EXT_PREFIX", where)
                with _opened(path, where) as other:
                    self._inside(other, inner, where)
                return
            if isinstance(link, h5py.SoftLink):
                base = "" if link.path.startswith("/") else f"{group.name}/"
                self.linked(file, "/".join([f"{base}{link.path}", *rest[k + 1 :]]))
                return
            group = group[part]
        if not isinstance(group, h5py.Dataset):
            raise KeyError(name)
        self._bytes_of(group)

    def _inside(self, other: h5py.File, name: str, where: str) -> None:
        try:
            self.linked(other, name)
        except KeyError:
            raise SourceError(
                f"{where}, but '{other.filename}' has no dataset '{name}'. Put it back."
            ) from None

    def _bytes_of(self, dataset: h5py.Dataset) -> None:
        """Follow a dataset to where its bytes lie."""
        if self._links_alone:
            return
        key = (os.path.realpath(dataset.file.filename), str(dataset.name))
        if key in self._within:
            raise SourceError(
                f"'{key[1]}' of '{key[0]}' is a virtual dataset that is made of itself. Make it of "
                "the datasets that hold the values."
            )
        if key in self._seen:
            return
        self._seen.add(key)
        if dataset.is_virtual:
            self._within.append(key)
            self._mappings(dataset)
            self._within.pop()
            return
        self.filters |= set(load_filters_of(dataset))
        if dataset.external is not None:
            self._raw(dataset)

    def _raw(self, dataset: h5py.Dataset) -> None:
        """Raw files, which hold the bytes of a dataset one after the other."""
        left = math.prod(dataset.shape) * dataset.id.get_type().get_size()
        where = f"The values of '{dataset.name}' of '{dataset.file.filename}' lie in raw files"
        for name, offset, size in dataset.external:
            if not left:
                return
            path = self._found(dataset.file.filename, name, _RAW, where)
            try:
                there = os.stat(path).st_size - offset
                with open(path, "rb", opener=only_files):
                    pass
            except OSError as error:
                raise SourceError(
                    f"{where}, and '{path}' cannot be read ({error.strerror}). Put it back where "
                    "it was."
                ) from error
            needed = left if size == h5py.h5f.UNLIMITED else min(left, size)
            if there < needed:
                raise SourceError(
                    f"{where}, and '{path}' is too short: it holds {max(0, there):,} of "
                    f"{needed:,} bytes. Restore it."
                )
            self.files[os.path.realpath(path)] = None
            left -= needed
        if left:
            raise SourceError(f"{where}, which are {left:,} bytes too short. Restore them.")

    def _mappings(self, dataset: h5py.Dataset) -> None:
        """The datasets that a virtual one is made of."""
        main, where = dataset.file.filename, f"'{dataset.name}' of '{dataset.file.filename}'"
        for file, name, shape in _sources(dataset):
            source = f"source '{name}' of '{file}'"
            said = f"{where} is a virtual dataset, and its {source}"
            if file == ".":
                self._source(dataset.file, name, shape, said)
                continue
            has = f"{where} is a virtual dataset with the {source}"
            path = self._found(main, file, "HDF5_VDS_PREFIX", has)
            with _opened(path, has) as other:
                self._source(other, name, shape, said)

    def _found(self, main: str, name: str, variable: str, where: str) -> str:
        by, path = where_hdf5_finds(main, name, variable)
        if not os.path.exists(path):
            raise SourceError(f"{where}, and there is no file '{path}'. Put it back where it was.")
        if by != "file":
            self.found_by.add(by)
        return path

    def _source(self, file: h5py.File, name: str, shape: tuple[int, ...], said: str) -> None:
        try:
            found = file[name]
        except KeyError:
            found = None
        if not isinstance(found, h5py.Dataset):
            raise SourceError(f"{said} is not there. Put it back, or rename it as it was.")
        # Of a selection of everything only the number of values is known.
        has = found.shape if len(shape) == len(found.shape) else (math.prod(found.shape),)
        if len(has) != len(shape) or any(n < k for n, k in zip(has, shape, strict=True)):
            need = f"{shape} is" if len(shape) == len(found.shape) else f"{shape[0]} values are"
            raise SourceError(f"{said} has the shape {found.shape}, and {need} needed. Restore it.")
        self.linked(file, name)


def _sources(dataset: h5py.Dataset) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """File, dataset and the shape that it must have at least, for each source once."""
    dcpl = dataset.id.get_create_plist()
    needed: dict[tuple[str, str], tuple[int, ...]] = {}
    for k in range(dcpl.get_virtual_count()):
        file, name = names_of(dcpl, k)
        onto = dcpl.get_virtual_vspace(k)
        shape = _bounds(dcpl.get_virtual_srcspace(k), onto)
        pattern = has_pattern(file, name)
        for number in numbers_of(onto, dataset.shape) if pattern else range(1):
            key = numbered(file, number), numbered(name, number)
            before = needed.get(key, shape)
            needed[key] = tuple(map(max, before, shape)) if len(before) == len(shape) else shape
    for (file, name), shape in needed.items():
        yield file, name, shape


def _bounds(space: h5py.h5s.SpaceID, onto: h5py.h5s.SpaceID) -> tuple[int, ...]:
    """The extent that a selection of a source reaches to; of all of it, the number of values."""
    try:
        if space.get_select_type() == h5py.h5s.SEL_ALL:
            return (int(onto.get_select_npoints()),)
        return tuple(int(n) + 1 for n in space.get_select_bounds()[1])
    except (RuntimeError, ValueError, TypeError):  # it may grow: nothing is known
        return (0,)


def names_of(dcpl: h5py.h5p.PropDCID, k: int) -> tuple[str, str]:
    """The file and the dataset that a mapping names; h5py itself has names in UTF-8 alone."""
    found = []
    for name_of in (dcpl.get_virtual_filename, dcpl.get_virtual_dsetname):
        try:
            found.append(name_of(k))
        except UnicodeDecodeError as error:
            found.append(os.fsdecode(error.object))
    return found[0], found[1]


def has_pattern(*names: str) -> bool:
    """Whether names of a mapping stand for any number of files or datasets."""
    return any("%b" in name.replace("%%", "") for name in names)


def numbered(name: str, number: int) -> str:
    """A name of HDF5's with the number of a block in place of ``%b``."""
    return re.sub("%[%b]", lambda m: "%" if m[0] == "%%" else str(number), name)


def numbers_of(space: h5py.h5s.SpaceID, shape: tuple[int, ...]) -> range:
    """The numbers of blocks that a pattern for any number of files stands for."""
    start, stride, count, _ = space.get_regular_hyperslab()
    for axis, n in enumerate(count):
        if n == h5py.h5s.UNLIMITED:
            return range(-(-(shape[axis] - start[axis]) // stride[axis]))
    return range(1)


def where_hdf5_finds(main: str, name: str, variable: str) -> tuple[str, str]:
    """The path at which HDF5 finds a file that another one names.

    Parameters
    ----------
    main : str
        The file that names it.
    name : str
    variable : str
        The environment variable with folders to look in first.

    Returns
    -------
    by, path : str
        What leads there: the variable, ``""`` for the folder at hand, or ``"file"``; if there is no
        such file, of the first place.
    """
    routes = _routes(main, name, variable)
    first = next(routes)
    return next(
        (route for route in itertools.chain([first], routes) if os.path.exists(route[1])), first
    )


def _routes(main: str, name: str, variable: str) -> Iterator[tuple[str, str]]:
    """The places at which HDF5 looks, in its order."""
    own, value = os.path.dirname(os.path.abspath(main)), os.environ.get(variable, "")
    at_hand = ""  # if it was deleted
    with contextlib.suppress(FileNotFoundError):
        at_hand = os.getcwd()
    whole = own + value.removeprefix(_ORIGIN) if value.startswith(_ORIGIN) else value
    if variable == _RAW:  # in one place only
        by = "file" if os.path.isabs(name) else variable if whole else ""
        yield by, os.path.join(whole or at_hand, name)
        return
    if os.path.isabs(name):
        yield "file", name
        name = os.path.basename(name)
    folders = [folder for folder in value.split(":") if folder]
    if whole != value and variable == "HDF5_VDS_PREFIX":  # others do not know of an origin
        folders.append(whole)
    for folder in folders:
        yield variable, os.path.join(folder, name)
    yield "file", os.path.join(own, name)
    yield "", os.path.join(at_hand, name)
    yield "file", os.path.join(os.path.dirname(os.path.realpath(main)), name)


@contextlib.contextmanager
def _opened(path: str, where: str) -> Iterator[h5py.File]:
    try:
        file = open_file(path)
    except SourceError as error:
        raise SourceError(f"{where}, which cannot be read: {error}") from error
    with file:
        yield file
