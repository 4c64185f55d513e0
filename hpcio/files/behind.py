"""The files behind a dataset: where its bytes lie, and whether all of them are there.

HDF5 shows fill values, and says nothing, where a file behind a virtual dataset is missing, has no
such dataset, or is too short. So a dataset is followed to the innermost files before it is read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Self, TypeVar

import h5py
import numpy as np

from hpcio.errors import SourceError, as_read_error
from hpcio.files.compression import load_filters_of
from hpcio.files.opening import find_dataset, free_files, open_file, reading, room_for
from hpcio.machine import only_files

__all__ = [
    "FileState",
    "Followed",
    "Mappings",
    "Place",
    "check_links",
    "check_place",
    "check_readable",
    "check_room_to_open",
    "check_whole",
    "follow",
    "read_behind",
    "sample_of",
    "where_hdf5_looks",
]

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
    return os.environ.get(name, "") if name else os.getcwd()


def check_place(place: Place, what: str) -> None:
    """Raise SourceError if HDF5 would look for files elsewhere than it did."""
    for name, value in place:
        if (now := _here(name)) != value:
            where = f"the variable {name}" if name else "the folder at hand"
            raise SourceError(
                f"Values of '{what}' lie in files that HDF5 finds by {where}: it was '{value}', "
                f"and is '{now}' now. Make it what it was, or put the files beside the recording."
            )


def check_room_to_open(files: Sequence[str], where: str) -> None:
    """Raise SourceError if HDF5 could not open those of some files that are not open yet.

    It would show fill values for them.
    """
    if free_files() > len(files) + _SPARE:
        return
    now_open = _open_files()
    missing = sum(file not in now_open for file in files)
    if missing and free_files() <= missing + _SPARE and not room_for(missing):
        raise SourceError(
            errno.EMFILE,
            f"Too many files are open to read '{where}', whose values lie in {len(files)} files. "
            "Close files in the function, or raise the limit (ulimit -n).",
        )


T = TypeVar("T")


def read_behind(
    read: Callable[[], T],
    files: Mapping[str, Callable[[], object]],
    opened: set[str],
    *,
    what: str,
) -> T:
    """Read a virtual dataset, and see that HDF5 has opened the files that it needs for that.

    It opens a file when its values are first read, and holds it for as long as the dataset is open.
    If it cannot, be it for a moment, it shows fill values, without a word.

    Parameters
    ----------
    read : callable
        Reads the values.
    files : mapping of str to callable
        The files in which they may lie, each with what reads some value of it.
    opened : set of str
        Those of which it is known that HDF5 holds them open; it grows.
    what : str
        What is read, for messages.

    Raises
    ------
    SourceError
        If it cannot open one of them.
    """
    found = read()
    late = _not_open(files.keys() - opened)
    if late:
        for path in late:  # more files than needed may have been named
            files[path]()
        for path, why in _not_open(late).items():
            raise SourceError(
                why.errno,
                f"Values of '{what}' lie in '{path}', which HDF5 cannot open "
                f"({why.strerror}): it would show others instead. See to it that the file can be "
                "read, then try again.",
            )
        found = read()  # what could be opened only now has shown fill values before
    opened.update(files)
    return found


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


def _not_open(paths: Collection[str]) -> dict[str, OSError]:
    """Those of some files that this process does not hold open, or could not open now, and why."""
    if not paths:
        return {}
    found = {}
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            found[path] = error
            continue
        try:
            stat = os.fstat(fd)
        finally:
            os.close(fd)
        if not _is_held(stat):
            found[path] = OSError(errno.EIO, "it could not a moment ago")
    return found


# By device and inode, a descriptor by which this process held a file open when it was looked at.
_held: dict[tuple[int, int], int] = {}


def _is_held(stat: os.stat_result) -> bool:
    """Whether this process holds a file open; True if nobody knows (there is no /proc)."""
    try:
        there = {int(name) for name in os.listdir("/proc/self/fd")}
    except OSError:
        return True
    # First those that are new: a dataset may hold hundreds.
    for some in (set[int](), there - set(_held.values()), there):
        if some is there:
            _held.clear()
        for fd in some:
            with contextlib.suppress(OSError):  # the one of the list itself
                _held[_identity(os.fstat(fd))] = fd
        with contextlib.suppress(OSError, KeyError):
            if os.path.samestat(os.fstat(_held[_identity(stat)]), stat):
                return True
    return False


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino


class Mappings:
    """Which files a region of a virtual dataset needs.

    Nothing is known of mappings that stand for any number of files, nor of what is behind a mapping
    that takes no plain box of another virtual dataset.

    Parameters
    ----------
    dataset : h5py.Dataset
        Open, and virtual.
    deep : bool
        Whether to look where its files lead to: they may hold links, or virtual datasets.

    Attributes
    ----------
    passed : set of str
        Files that lead to others and that HDF5 does not hold open.
    unsure : set of str
        Files of which it is not known, or not of all that is in them, which region needs them.
    """

    def __init__(self, dataset: h5py.Dataset, *, deep: bool = False) -> None:
        self._dataset, self.passed, self.unsure = dataset, set[str](), set[str]()
        self._paths: list[str] = []
        self._boxes: list[_Box] = []
        dcpl, main = dataset.id.get_create_plist(), dataset.file.filename
        for k in range(dcpl.get_virtual_count()):
            file, name = dcpl.get_virtual_filename(k), dcpl.get_virtual_dsetname(k)
            if (file == "." and not deep) or _has_pattern(file, name):
                continue
            try:
                box = _Box.of(dcpl.get_virtual_vspace(k), dataset.shape)
            except (RuntimeError, ValueError):  # it may grow
                continue
            looked = where_hdf5_looks(main, _numbered(file, 0), "HDF5_VDS_PREFIX")
            path = (
                main if file == "." else next((p for p in looked if os.path.exists(p)), looked[0])
            )
            found = [(os.path.realpath(path), box)]
            if deep:
                found = self._behind(path, name, box, dcpl.get_virtual_srcspace(k))
            for one, where in found:
                self._paths.append(one)
                self._boxes.append(where)
        ndim = len(dataset.shape)
        self._low = np.asarray([b.low for b in self._boxes], np.int64).reshape(-1, ndim)
        self._high = np.asarray([b.high for b in self._boxes], np.int64).reshape(-1, ndim)

    def _behind(
        self, path: str, name: str, box: _Box, space: h5py.h5s.SpaceID
    ) -> list[tuple[str, _Box]]:
        """The files that a mapping leads to, each with the part of this dataset that needs it."""
        with open_file(path) as f:
            source = find_dataset(f, name)
            real = os.path.realpath(source.file.filename)
            if real != os.path.realpath(path):
                self.passed.add(os.path.realpath(path))
            found = [(real, box)]
            if source.is_virtual:
                inner, taken = Mappings(source, deep=True), _Box.of(space, source.shape)
                self.passed |= inner.passed
                self.unsure |= inner.unsure
                for one, at in zip(inner._paths, inner._boxes, strict=True):
                    where = at.within(taken, box)
                    if where is not None:
                        found.append((one, where))
                    elif at.meets(taken):
                        self.unsure.add(one)
            return found

    @property
    def files(self) -> set[str]:
        """All files that are known."""
        return set(self._paths)

    def of(self, region: Sequence[slice]) -> dict[str, Callable[[], object]]:
        """The files that a region may need, each with what reads a value of it."""
        first = np.asarray([part.start for part in region])
        last = np.asarray([part.stop - 1 for part in region])
        meet = ((self._low <= last) & (self._high >= first)).all(axis=1)
        return {self._paths[k]: partial(self._touch, k) for k in np.flatnonzero(meet).tolist()}

    def _touch(self, k: int) -> object:
        return self._dataset[self._boxes[k].low]


@dataclass(frozen=True)
class _Box:
    """The bounds of a selection, the last one included; `whole` if all in them is selected."""

    low: tuple[int, ...]
    high: tuple[int, ...]
    whole: bool

    @classmethod
    def of(cls, space: h5py.h5s.SpaceID, shape: tuple[int, ...]) -> _Box:
        """The box of a selection of a dataset of some shape."""
        if space.get_select_type() == h5py.h5s.SEL_ALL:  # of an extent that may not be known
            return cls((0,) * len(shape), tuple(n - 1 for n in shape), whole=True)
        low, high = space.get_select_bounds()
        size = math.prod(b - a + 1 for a, b in zip(low, high, strict=True))
        return cls(tuple(low), tuple(high), size == space.get_select_npoints())

    def within(self, taken: _Box, box: _Box) -> _Box | None:
        """Where this part of a dataset lies in another one, which has `taken` of it in `box`.

        None if it lies nowhere there, or nobody knows where.
        """
        low = tuple(map(max, self.low, taken.low))
        high = tuple(map(min, self.high, taken.high))
        if not self.meets(taken):
            return None
        # The first value of a selection with holes is in it, of a part of that perhaps not.
        known = self.whole or low == self.low
        from_, onto = taken.long(), box.long()
        sizes = (
            [taken.high[d] - taken.low[d] for d in from_],
            [box.high[d] - box.low[d] for d in onto],
        )
        if not (known and taken.whole and box.whole and sizes[0] == sizes[1]):
            return None
        first, last = list(box.low), list(box.low)
        for d, e in zip(from_, onto, strict=True):
            first[e] += low[d] - taken.low[d]
            last[e] += high[d] - taken.low[d]
        return _Box(tuple(first), tuple(last), self.whole)

    def meets(self, other: _Box) -> bool:
        """Whether the bounds of two selections of one dataset have something in common."""
        pairs = zip(self.low, self.high, other.low, other.high, strict=True)
        return all(a <= d and c <= b for a, b, c, d in pairs)

    def long(self) -> list[int]:
        """The axes along which it is longer than one."""
        return [d for d, (a, b) in enumerate(zip(self.low, self.high, strict=True)) if b > a]


def _open_files() -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # there is no /proc
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the one of the list itself
                found.add(os.readlink(f"/proc/self/fd/{fd}"))
    return found


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
    check_room_for(len(walk.files), f"'{name}' of '{file.filename}'")
    place = tuple((name, _here(name)) for name in sorted(walk.found_by))
    return Followed(tuple(walk.files), tuple(sorted(walk.filters)), place)


def check_room_for(files: int, where: str) -> None:
    """Raise SourceError if HDF5 cannot hold so many files open."""
    if not room_for(files):
        raise SourceError(
            f"{where} is made of {files} files, more than HDF5 can hold open here. Make one file "
            "of it first: hpcio repack, or h5repack."
        )


class _Walk:
    def __init__(self, *, links_alone: bool = False) -> None:
        self._links_alone = links_alone
        self.files: dict[str, None] = {}
        self.filters: set[int] = set()
        self.found_by: set[str] = set()
        self._seen: set[tuple[str, str]] = set()

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
        if key in self._seen:
            return
        self._seen.add(key)
        if dataset.is_virtual:
            self._mappings(dataset)
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
            path = self._found(
                dataset.file.filename, name, "HDF5_EXTFILE_PREFIX", where, beside=False
            )
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
        needed = list(_sources(dataset))
        check_room_for(len({file for file, *_ in needed}), where)
        for file, name, shape in needed:
            said = f"{where} is a virtual dataset, and its source '{name}' of '{file}'"
            if file == ".":
                self._source(dataset.file, name, shape, said)
                continue
            path = self._found(main, file, "HDF5_VDS_PREFIX", said)
            with _opened(path, said) as other:
                self._source(other, name, shape, said)

    def _found(
        self, main: str, name: str, variable: str, where: str, *, beside: bool = True
    ) -> str:
        routes = list(_routes(main, name, variable, beside=beside))
        found = next(((by, path) for by, path in routes if os.path.exists(path)), None)
        if found is None:
            raise SourceError(
                f"{where}, and there is no file '{routes[0][1]}'. Put it back where it was."
            )
        by, path = found
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
        try:
            file, name = dcpl.get_virtual_filename(k), dcpl.get_virtual_dsetname(k)
        except UnicodeDecodeError as error:  # h5py has no others
            raise SourceError(
                f"'{dataset.name}' of '{dataset.file.filename}' is a virtual dataset, and a source "
                f"of it has a name that is not in UTF-8: {error.object!r:.200}. Make one file of "
                "it: hpcio repack, or h5repack."
            ) from error
        onto = dcpl.get_virtual_vspace(k)
        shape = _bounds(dcpl.get_virtual_srcspace(k), onto)
        pattern = _has_pattern(file, name)
        for number in _blocks(onto, dataset.shape) if pattern else range(1):
            key = _numbered(file, number), _numbered(name, number)
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


def _has_pattern(*names: str) -> bool:
    return any("%b" in name.replace("%%", "") for name in names)


def _numbered(name: str, number: int) -> str:
    """A name of HDF5's with the number of a block in place of ``%b``."""
    return re.sub("%[%b]", lambda m: "%" if m[0] == "%%" else str(number), name)


def _blocks(space: h5py.h5s.SpaceID, shape: tuple[int, ...]) -> range:
    """The numbers of blocks that a pattern for any number of files stands for."""
    start, stride, count, _ = space.get_regular_hyperslab()
    for axis, n in enumerate(count):
        if n == h5py.h5s.UNLIMITED:
            return range(-(-(shape[axis] - start[axis]) // stride[axis]))
    return range(1)


def where_hdf5_looks(main: str, name: str, variable: str, *, beside: bool = True) -> list[str]:
    """The paths at which HDF5 looks for a file that another one names, in its order.

    Parameters
    ----------
    main : str
        The file that names it.
    name : str
    variable : str
        The environment variable with folders to look in first.
    beside : bool
        Whether it looks beside the file that names it, too.
    """
    return list(dict.fromkeys(path for _, path in _routes(main, name, variable, beside=beside)))


def _routes(main: str, name: str, variable: str, *, beside: bool) -> Iterator[tuple[str, str]]:
    """What leads to each path: the variable, ``""`` for the folder at hand, or ``"file"``."""
    prefixes = [p for p in os.environ.get(variable, "").split(":") if p]
    own = os.path.dirname(os.path.abspath(main))
    folders = [(variable, p.replace("${ORIGIN}", own)) for p in prefixes]
    folders += [("file", own)] if beside else []
    folders.append(("", os.getcwd()))
    folders += [("file", os.path.dirname(os.path.realpath(main)))] if beside else []
    if os.path.isabs(name):
        yield "file", name
        name = os.path.basename(name)
    for by, folder in folders:
        yield by, os.path.join(folder, name)


@contextlib.contextmanager
def _opened(path: str, where: str) -> Iterator[h5py.File]:
    try:
        file = open_file(path)
    except SourceError as error:
        raise SourceError(f"{where}, which cannot be read: {error}") from error
    with file:
        yield file
