"""Inputs of any kind for whatever reads files, and the processes in which they are read.

Bytes are damaged by `tests.rigs.damaging.mutated`. What has a structure is damaged within it: a
value of a JSON text, or a dataset or attribute of an HDF5 file, becomes another one, or is gone, so
that what reads it gets beyond the first look. An input follows from its number alone.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import random
import resource
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from typing import Any, NamedTuple

import h5py
import numpy as np

from hpcio.errors import HpcioError
from tests.rigs.damaging import mutated
from tests.rigs.forks import is_crash, limit

# What an input may take of a processor, in seconds; most take some milliseconds.
HANGS = 5
# A reader that is told of petabytes must not take the memory of the machine.
MEMORY = 3 << 30

HOW = ("flip", "bits", "zeros", "noise", "cut", "longer", "all")
Make = Callable[[bytes, random.Random], bytes]


class Bad(NamedTuple):
    """An input that ended by anything but an error of hpcio.

    Attributes
    ----------
    reader : str
    number : int
        Of the input, which is made again from it.
    said : str
        A traceback, or the signal that ended the process.
    """

    reader: str
    number: int
    said: str

    @property
    def in_library(self) -> bool:
        """Whether a library has crashed, or did not come back to Python."""
        return is_crash(self.said)


class Reader(NamedTuple):
    """What reads a file, and how inputs are made of a whole one.

    Attributes
    ----------
    name : str
    path : str
        Of the file that is replaced by each input.
    whole : bytes
        What it is when it is whole.
    read : callable
        May raise errors of hpcio, and no others.
    make : callable
        An input, from the whole file.
    """

    name: str
    path: str
    whole: bytes
    read: Callable[[], object]
    make: Make

    def input(self, number: int) -> bytes:
        """The input of a number."""
        return self.make(self.whole, random.Random(f"{self.name} {number}"))


# ---- inputs


def any_bytes(whole: bytes, chosen: random.Random) -> bytes:
    """The file, damaged anywhere; now and then bytes that have nothing to do with it."""
    if chosen.randrange(8) == 0:
        return chosen.randbytes(chosen.randrange(2 * len(whole) + 2))
    how = chosen.choice(HOW)
    return mutated(whole, how, chosen.randrange(max(1, len(whole))), chosen.randrange(1 << 30))


_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 7, 2**31, 2**63, -(2**63), 10**30, 1.5, math.nan, math.inf, "",
    "x", "\0", "\ud800", "../../etc", "x" * 5000, "<f8", "|O", "[[", [], {}, [None], [[]], [-1, -2],
    [0, 0], [1 << 40] * 3, {"range": [0, 1, 0]}, {"a": 1}, [["a", "b"]], ["1", 2, [3]],
)  # fmt: skip
_DEEP = "deeper than any parser goes"


def any_json(whole: bytes, chosen: random.Random) -> bytes:
    """A JSON text with other values, of the right types or not, or with keys gone or added."""
    said = json.loads(whole)
    for _ in range(chosen.choice((1, 1, 1, 2, 5))):
        places = list(_places(said))
        holder, key = chosen.choice(places)
        how = chosen.randrange(6)
        if how == 0 and holder is not None:
            del holder[key]
            continue
        if how == 1 and isinstance(holder, dict):
            holder[chosen.choice(["x", "", key + "s"])] = deepcopy(chosen.choice(_VALUES))
            continue
        if how == 2 and isinstance(holder, list):
            holder.insert(key, deepcopy(holder[key]))
            continue
        value = _DEEP if chosen.randrange(40) == 0 else chosen.choice(_VALUES)
        if how == 3:  # a value of the right type
            old = said if holder is None else holder[key]
            same = [v for v in _VALUES if type(v) is type(old)]
            value = chosen.choice(same or [value])
        value = deepcopy(value)  # it may be changed in its turn
        if holder is None:
            said = value
        else:
            holder[key] = value
    text = json.dumps(said).replace(json.dumps(_DEEP), "[" * 100_000 + "]" * 100_000)
    return text.encode(errors="replace")


def _places(said: Any) -> Iterator[tuple[Any, Any]]:
    """All values of a JSON text: what holds each, and under which key."""
    todo: list[tuple[Any, Any, Any]] = [(None, None, said)]
    while todo:
        holder, key, value = todo.pop()
        yield holder, key
        if isinstance(value, dict):
            todo += [(value, k, v) for k, v in value.items()]
        elif isinstance(value, list):
            todo += [(value, k, v) for k, v in enumerate(value)]


def either(*makes: Make) -> Make:
    """Inputs of several sorts."""
    return lambda whole, chosen: chosen.choice(makes)(whole, chosen)


_TYPES = ("i1", "u1", "<i8", ">i4", "<u8", "f4", "<f8", "?", "S3", "V5", "c8", [("a", "i4")])


def any_array(old: np.ndarray, chosen: random.Random) -> Any:
    """Another array in the place of one: of other values, another shape, or another type."""
    how, array = chosen.randrange(7), np.array(old)
    with np.errstate(all="ignore"):
        if how == 0 and array.size and array.dtype.kind in "iuf":
            limits = (-1, 0, 1, 2**31, -(2**62), 2**62)
            value = np.asarray(chosen.choice(limits)).astype(array.dtype)
            array.reshape(-1)[chosen.randrange(array.size)] = value
        elif how == 1 and array.size:
            raw = bytearray(array.tobytes())
            for _ in range(1 + chosen.randrange(4)):
                raw[chosen.randrange(len(raw))] = chosen.randrange(256)
            array = np.frombuffer(bytes(raw), array.dtype).reshape(array.shape)
        elif how == 2:
            array = array[:-1] if array.ndim else array.reshape(1)
        elif how == 3:
            array = np.concatenate([array.reshape(-1)] * 2)
        elif how == 4:
            array = array.reshape(chosen.choice([(1, -1), (-1, 1), (1, 1, -1), (-1,)]))
        elif how == 5:
            return chosen.choice(
                [h5py.Empty("f8"), "text", b"bytes", 1, math.nan, [], "\0", np.zeros((0, 3))]
            )
        else:
            kind = np.dtype(chosen.choice(_TYPES))
            try:
                array = array.astype(kind)
            except (TypeError, ValueError, OverflowError):
                array = np.zeros(array.shape, kind)
    return array


def any_hdf5(whole: bytes, chosen: random.Random) -> bytes:
    """An HDF5 file in which some things are others, or gone; HDF5 itself finds no fault with it."""
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(backing_store=False)
    access.set_file_image(whole)
    name = f"{chosen.randrange(1 << 60):x}".encode()
    with h5py.File(h5py.h5f.open(name, h5py.h5f.ACC_RDWR, fapl=access)) as f:
        for _ in range(chosen.choice((1, 1, 1, 2, 4))):
            things: list[str] = []
            f.visit(things.append)
            with suppress(OSError, ValueError, TypeError, RuntimeError, KeyError):
                _change(f, chosen.choice(["/", *things]), chosen)
        f.flush()
        return bytes(f.id.get_file_image())


def _change(f: h5py.File, name: str, chosen: random.Random) -> None:
    thing = f[name]
    if (len(thing.attrs) and chosen.randrange(3) == 0) or name == "/":
        key = chosen.choice(sorted(thing.attrs) or ["x"])
        old = thing.attrs.get(key, 0)
        del thing.attrs[key]
        if chosen.randrange(4):
            thing.attrs[key] = any_array(np.asarray(old), chosen)
        return
    is_data = isinstance(thing, h5py.Dataset)
    old = thing[()] if is_data and (thing.size or 0) < 1 << 16 else None
    how = chosen.randrange(10)
    is_json = isinstance(old, np.ndarray) and old.dtype == np.uint8 and old[:1].tobytes() == b"{"
    if not isinstance(thing, h5py.Dataset) and how > 1:
        how = 9
    options: dict[str, Any] = {}
    if how == 8 and isinstance(old, np.ndarray) and old.ndim and old.size:
        options = {"chunks": True, "compression": chosen.choice(["gzip", "lzf"])}
    attributes = dict(thing.attrs)
    del f[name]
    if how == 0:
        return
    if how == 1:
        f[name] = chosen.choice(
            [h5py.SoftLink("/nowhere"), h5py.SoftLink(f"/{name}"), h5py.SoftLink("/"),
             h5py.ExternalLink("none.h5", "/x")]
        )  # fmt: skip
    elif how == 9:
        if isinstance(thing, h5py.Dataset):
            f.create_group(name)
        else:
            f[name] = np.arange(3)
    elif is_json and how < 8:
        f[name] = np.frombuffer(any_json(old.tobytes(), chosen), np.uint8)
    elif how == 2:  # of a size that nobody has
        big = chosen.choice([(1 << 40,), (1 << 20, 1 << 20), (1 << 30,)])
        f.create_dataset(name, big, chosen.choice(["f8", "u1"]), chunks=(1024,) * len(big))
    else:
        value = old if options else any_array(np.asarray(old), chosen)
        f.create_dataset(name, data=value, **options)
    if isinstance(f.get(name), h5py.Dataset):
        f[name].attrs.update(attributes)


# ---- in which they are read


class Tried(NamedTuple):
    """How many inputs a reader had, how many of these it took for whole, and the bad ones."""

    count: int
    taken: int
    bad: list[Bad]


def try_inputs(reader: Reader, numbers: range) -> Tried:
    """Read inputs in children, one after the other; a child that dies has shown which was at fault.

    Each is read as a file, under the name under which the whole one lay.
    """
    at = mmap.mmap(-1, 16)
    bad: list[Bad] = []
    first, taken = numbers.start, 0
    while first < numbers.stop:
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reading)
            _read_all(reader, range(first, numbers.stop), at, writing)
        os.close(writing)
        with os.fdopen(reading) as out:
            bad += [Bad(*json.loads(line)) for line in out]
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        number, some = struct.unpack("qq", at[:])
        taken += some
        if status == 0:
            break
        said = f"signal {-status}" if status < 0 else f"exit {status}"
        bad.append(Bad(reader.name, number, said))
        first = number + 1
    with open(reader.path, "wb") as f:
        f.write(reader.whole)
    return Tried(len(numbers), taken, bad)


def _read_all(reader: Reader, numbers: range, at: mmap.mmap, writing: int) -> None:
    """In the child: it never comes back."""
    taken = 0
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_in_use() + MEMORY,) * 2)
        for number in numbers:
            at[:] = struct.pack("qq", number, taken)
            data = reader.input(number)
            with open(reader.path, "wb") as f:
                f.write(data)
            limit(HANGS)
            try:
                reader.read()
                taken += 1
            except HpcioError:
                pass
            except BaseException:  # noqa: BLE001  (told to the parent)
                said = [reader.name, number, traceback.format_exc()[-3000:]]
                os.write(writing, (json.dumps(said) + "\n").encode())
            limit(0)
        at[:] = struct.pack("qq", numbers.stop, taken)
    except BaseException:  # noqa: BLE001  (the rig itself is at fault)
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _in_use() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[0]) * mmap.PAGESIZE
