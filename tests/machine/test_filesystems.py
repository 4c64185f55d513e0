"""What is safe to do on all file systems."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from hpcio.machine.filesystems import _mount_above, _mount_of_device, is_first, kind_of, write_whole


def test_one_of_many_is_first(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda _: is_first(tmp_path / "claim"), range(40)))
    assert won.count(True) == 1
    with pytest.raises(FileNotFoundError):  # that is nobody's
        is_first(tmp_path / "absent" / "claim")


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "said"
    write_whole(path, b"first")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_whole(path, b"second", mode=0o700)
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(folder, b"third")
    assert sorted(os.listdir(tmp_path)) == ["folder", "said"]


def test_a_mount_is_found_by_its_name_where_its_device_tells_nothing(tmp_path):
    assert _mount_of_device(0) is None
    for folder in (str(tmp_path), "/dev/shm", "/proc/self", "/"):
        assert _mount_above(folder)[0] == kind_of(folder)
    assert "rw" in _mount_above("/dev/shm")[1]
