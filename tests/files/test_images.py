"""Files of plain arrays are what HDF5 would hold, and are written without a copy of them."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcio.files import checksum, write_arrays


def in_eight_bytes(total: int) -> bytes:
    return total.to_bytes(8, "big")


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    write_arrays(
        arrays, path, attrs={"format": 1}, seal=lambda total: total.to_bytes(8), mode=0o600
    )


def test_plain_h5py_reads_what_was_written(tmp_path):
    random = np.random.default_rng(0)
    arrays = {
        "large": random.random(400_000),
        "large of two axes": random.integers(0, 100, (300_000, 3), np.uint32),
        "turned": random.random((70, 50_000)).T,
        "a/every third": np.arange(1_000_000)[::3],
        "a/the same": np.broadcast_to(np.int64(7), 300_000),
        "a/b/big-endian": np.arange(5, dtype=">i4"),
        "a/b/bool": np.array([True, False, True]),
        "a/b/text": np.array([b"left", b"right"]),
        "one": np.array([1 + 2j]),
        "nothing": np.zeros(0),
        "nothing of two axes": np.zeros((4, 0), np.int16),
    }
    write(tmp_path / "a.h5", arrays)
    with h5py.File(tmp_path / "a.h5") as f:
        assert dict(f.attrs) == {"format": 1}
        for name, array in arrays.items():
            assert f[name].dtype == array.dtype, name
            np.testing.assert_array_equal(f[name], array, err_msg=name)
    assert os.stat(tmp_path / "a.h5").st_mode & 0o777 == 0o600


def test_the_seal_is_of_all_bytes(tmp_path):
    write(tmp_path / "a.h5", {"x": np.arange(1_000_000), "y": np.arange(3)})
    image = (tmp_path / "a.h5").read_bytes()
    assert int.from_bytes(image[-8:], "big") == checksum(image[:-8])


def test_no_array_is_copied_as_a_whole(tmp_path):
    arrays = {"x": np.ones(4_000_000), "y": np.ones((2, 2_000_000)).T}
    tracemalloc.start()
    try:
        write(tmp_path / "a.h5", arrays)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert (tmp_path / "a.h5").stat().st_size > 64_000_000


def test_a_name_that_is_taken_stays(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write(path, {"x": np.arange(3)})
    assert path.read_bytes() == b"mine"
