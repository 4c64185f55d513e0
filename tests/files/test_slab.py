"""What the fast path writes are ordinary HDF5 files, bit for bit what HDF5 would hold."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcio.errors import FunctionError, HpcioError, OutputError, as_output_error
from hpcio.files import slab
from hpcio.files.bytes import checksum, read_at, write_at
from hpcio.files.slab import Slab, layout, write_file

SHAPES = [(), (1,), (7,), (3, 5), (2, 3, 4), (2, 1, 2, 1, 3), (0,), (0, 4), (4, 0), (1000, 17)]
DTYPES = [
    "i1", "u1", "<i2", ">i2", "<u4", ">u4", "<i8", ">i8", "<u8", "<f2", ">f2", "<f4", ">f4",
    "<f8", ">f8", "<c8", ">c8", "<c16", ">c16", "?", np.longdouble,
]  # fmt: skip


def numbers(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Any bits, NaN with a payload and infinities among them; for bool and longdouble, values."""
    random = np.random.default_rng(3)
    count = int(np.prod(shape))
    if dtype.kind == "b" or dtype.itemsize > 16 or dtype == np.longdouble:
        return (random.normal(size=count) > 0.3).astype(dtype).reshape(shape)
    return np.frombuffer(random.bytes(count * dtype.itemsize), dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_files_are_what_hdf5_would_hold(tmp_path, shape, dtype):
    dtype = np.dtype(dtype)
    data = numbers(shape, dtype)
    where = layout(shape, dtype, digest="abc")
    assert write_file(f"{tmp_path}/fast.h5", where, data) == where.size
    with h5py.File(tmp_path / "fast.h5") as f:
        found = f["data"]
        assert (found.shape, found.dtype) == (shape, dtype)
        assert found.chunks is None
        assert found.attrs["plan"] == b"abc"
        values = np.asarray(found[()], dtype)
        if dtype == np.longdouble:  # 10 bytes of number, and 6 of anything
            np.testing.assert_array_equal(values, data)
        else:
            assert values.tobytes() == data.tobytes()
        assert found.id.get_offset() in (where.offset, None)
    assert os.path.getsize(tmp_path / "fast.h5") == where.size


@pytest.mark.parametrize(
    "name", ["data", "/data", "a/b/data", "/".join("abcdefghijklmno"), "größe", "x" * 3000]
)
def test_any_name_of_the_dataset(tmp_path, name):
    data = np.arange(6.0).reshape(2, 3)
    write_file(f"{tmp_path}/fast.h5", layout((2, 3), data.dtype, name=name), data)
    with h5py.File(tmp_path / "fast.h5") as f:
        np.testing.assert_array_equal(f[name], data)


def test_hdf5_can_go_on_with_such_a_file(tmp_path):
    data = np.arange(6.0)
    write_file(f"{tmp_path}/fast.h5", layout((6,), data.dtype), data)
    with h5py.File(tmp_path / "fast.h5", "r+") as f:
        f["data"][2] = -1
        f["more"] = np.ones(1000)
        f["data"].attrs["unit"] = "mV"
    with h5py.File(tmp_path / "fast.h5") as f:
        assert f["data"][:4].tolist() == [0, 1, -1, 3]
        assert f["more"][:].sum() == 1000


def test_equal_files_have_equal_headers():
    assert layout((3, 4), np.dtype("f4")) is layout((3, 4), np.dtype("f4"))
    layout.cache_clear()
    first = layout((3, 4), np.dtype("f4"), digest="d")
    layout.cache_clear()
    assert layout((3, 4), np.dtype("f4"), digest="d") == first  # no time of day in it
    assert layout((3, 4), np.dtype("f4"), digest="e").header != first.header
    assert layout((4, 3), np.dtype("f4"), digest="d").header != first.header
    assert layout((3, 4), np.dtype(">f4"), digest="d").header != first.header


@pytest.mark.parametrize("dtype", ["M8[ns]", "m8[s]", "U5", "O"])
def test_types_that_hdf5_cannot_hold_are_refused(dtype):
    with pytest.raises(FunctionError, match="HDF5 cannot hold results of type"):
        layout((3,), np.dtype(dtype))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_a_slab_is_filled_in_any_order(tmp_path, order):
    data = np.arange(12, dtype="i4").reshape(3, 4)
    slab = Slab(tmp_path / "slab.h5", layout((3, 4), data.dtype))
    for row in order:
        slab.write(data[row], 16 * row)
    slab.sync()
    slab.close()
    with h5py.File(tmp_path / "slab.h5") as f:
        np.testing.assert_array_equal(f["data"], data)


def test_a_slab_has_its_full_size_at_once(tmp_path):
    where = layout((1000,), np.dtype("f8"))
    slab = Slab(tmp_path / "slab.h5", where)
    slab.close()
    stat = (tmp_path / "slab.h5").stat()
    assert stat.st_size == where.size
    assert stat.st_blocks * 512 >= where.size


def test_an_existing_name_is_never_written(tmp_path):
    data = np.zeros(3)
    where = layout((3,), data.dtype)
    (tmp_path / "taken.h5").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        write_file(f"{tmp_path}/taken.h5", where, data)
    with pytest.raises(FileExistsError):
        Slab(tmp_path / "taken.h5", where)
    assert (tmp_path / "taken.h5").read_bytes() == b"precious"


MOST = 0x7FFFF000  # what one call to Linux writes at the most


def test_writes_beyond_2_gib_are_continued():
    data = np.zeros(MOST + 12345, np.uint8)  # pages never touched take no memory
    with open(os.devnull, "wb") as nowhere:
        assert os.pwrite(nowhere.fileno(), data, 0) == MOST
        write_at(nowhere.fileno(), data, 0)


@pytest.mark.torture
def test_files_beyond_2_gib_are_whole(tmp_path):
    data = np.arange(MOST // 8 + 1000, dtype="f8")
    where = layout(data.shape, data.dtype)
    write_file(f"{tmp_path}/big.h5", where, data)
    with h5py.File(tmp_path / "big.h5") as f:
        for first in range(0, data.size, 1 << 26):
            np.testing.assert_array_equal(
                f["data"][first : first + (1 << 26)], data[first : first + (1 << 26)]
            )
    found = np.empty_like(data)
    with (tmp_path / "big.h5").open("rb") as f:
        assert read_at(f.fileno(), found, where.offset)
    np.testing.assert_array_equal(found, data)


@pytest.mark.parametrize("step", [1, 3, 4096])
def test_writes_that_stop_early_are_continued(tmp_path, monkeypatch, step):
    # What a signal or a full pipe does to a call, done to every call.
    pwrite, writev, preadv = os.pwrite, os.writev, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, b, at: pwrite(fd, bytes(b)[:step], at))
    monkeypatch.setattr(os, "writev", lambda fd, b: writev(fd, [bytes(b[0])[:step]]))
    monkeypatch.setattr(
        os, "preadv", lambda fd, b, at: preadv(fd, [memoryview(b[0]).cast("B")[:step]], at)
    )
    data = np.arange(21, dtype="f4").reshape(3, 7)
    where = layout((3, 7), data.dtype)
    write_file(f"{tmp_path}/file.h5", where, data)
    with h5py.File(tmp_path / "file.h5") as f:
        np.testing.assert_array_equal(f["data"], data)
    found = np.empty_like(data)
    with (tmp_path / "file.h5").open("rb") as f:
        assert not read_at(f.fileno(), found, where.offset + 1)
        assert read_at(f.fileno(), found, where.offset)
    np.testing.assert_array_equal(found, data)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "Free some space, then resume"),
        (errno.EDQUOT, "Free some space, then resume"),
        (errno.EACCES, "Choose an output folder that you may write to"),
        (errno.EROFS, "Choose an output folder that you may write to"),
        (errno.EIO, "Check the file system, then resume"),
    ],
)
def test_errors_of_the_system_come_with_a_remedy(number, remedy):
    error = as_output_error(OSError(number, os.strerror(number)), "out.h5")
    assert isinstance(error, OutputError)
    assert isinstance(error, HpcioError)
    assert isinstance(error, OSError)
    assert error.errno == number
    assert "'out.h5'" in str(error)
    assert remedy in str(error)


def test_checksums_tell_any_flipped_bit():
    data = np.arange(64, dtype="u1")
    known = {checksum(data)}
    for bit in range(512):
        changed = data.copy()
        changed[bit // 8] ^= 1 << bit % 8
        known.add(checksum(changed))
    assert len(known) == 513
    assert checksum(data.astype(">u2")) != checksum(data.astype("<u2"))


def test_what_a_killed_process_left_in_memory_goes_after_an_hour(tmp_path):
    with slab.sparse_file() as (path, _):
        left = Path(path).with_name("hpcio-layout-left.h5")
    young = left.with_name("hpcio-layout-young.h5")
    for p in (left, young):
        p.touch()
    os.utime(left, (0, 0))
    with slab.sparse_file():
        assert not left.exists()
        assert young.exists()
    young.unlink()
