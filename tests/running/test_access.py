"""Who may read what a run has written: the result with all that it needs, and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import h5py
import numpy as np
import pytest

import hpcio
from hpcio.machine import write_whole
from tests.rigs.everyday import combinations
from tests.rigs.support import killed_at

OPTIONS = {
    "trial": {"sources": "trial"},
    "task": {"sources": "task"},
    "trial, packed": {"sources": "trial", "compression": "gzip"},
    "task, packed": {"sources": "task", "compression": "gzip"},
    "direct": {"writer": "direct"},
    "mutex": {"writer": "mutex"},
}
UMASKS = [0o022, 0o077, 0o002, 0o027]


@pytest.fixture
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes_of(folder: Path) -> dict[str, int]:
    """The modes of what a run has left, by its name, as far as others can get there."""
    modes = {}
    for path in sorted(folder.iterdir()):
        mode = modes[path.name] = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir() and mode & 0o011:
            modes |= {f"{path.name}/{name}": m for name, m in modes_of(path).items()}
    return modes


def run(folder: Path, *, workers: int = 1, **options: object) -> Path:
    with h5py.File(folder / "rec.h5", "w") as f:
        f["lfp"] = np.arange(80.0).reshape(40, 2)
    out = folder / "out.h5"
    plan = hpcio.Plan.create(np.negative, f"{folder}/rec.h5::lfp", trials=10, out=out, **options)
    plan.run(workers=workers, progress=False)
    return out


@pytest.mark.parametrize(
    ("how", "umask", "workers"),
    combinations(
        OPTIONS, UMASKS, [0, 1],
        everyday=[
            *((how, umask, 0) for how in OPTIONS for umask in UMASKS),
            *((how, UMASKS[k % 4], 1) for k, how in enumerate(OPTIONS)),
        ],
    ),
    indirect=["umask"],
)  # fmt: skip
def test_a_result_is_as_readable_as_any_new_file(tmp_path, umask, how, workers):
    out = run(tmp_path, workers=workers, **OPTIONS[how])
    readable = 0o444 & ~umask
    assert stat.S_IMODE(out.stat().st_mode) == 0o666 & ~umask
    with h5py.File(out) as f:
        parts = (
            [tmp_path / part.file_name for part in f["data"].virtual_sources()]
            if f["data"].is_virtual
            else []
        )
    for part in parts:
        assert stat.S_IMODE(part.stat().st_mode) & 0o444 == readable
        for folder in part.relative_to(tmp_path).parents[:-1]:
            mode = stat.S_IMODE((tmp_path / folder).stat().st_mode)
            assert mode & 0o555 == readable | readable >> 2
            assert not mode & 0o022  # nobody else puts files there
    for name, mode in modes_of(tmp_path / "out.h5.run").items():
        if not name.startswith("sources"):
            assert not mode & 0o077, name


def test_private_keeps_all_to_oneself(tmp_path):
    out = run(tmp_path, access="private")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "out.h5.run").stat().st_mode) == 0o700
    hpcio.repack(out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


@pytest.mark.parametrize("umask", [0o022], indirect=True)
@pytest.mark.parametrize("options", [{}, {"chunks": True}, {"compression": "gzip"}], ids=str)
def test_a_private_copy_is_private_from_its_first_byte_on(tmp_path, umask, options):
    run(tmp_path, workers=0, access="private")
    # It is killed before the copy has its final mode and name.
    script = f'import hpcio; hpcio.repack("out.h5", "one.h5", **{options!r})'
    assert killed_at(script, tmp_path, 0, "fsync")
    (part,) = tmp_path.glob(".one.h5.*.repack")
    assert stat.S_IMODE(part.stat().st_mode) == 0o600
    assert part.stat().st_size > 0


@pytest.mark.parametrize("umask", [0o022], indirect=True)
def test_what_was_left_of_a_small_file_lends_it_no_mode(tmp_path, umask):
    left, victim = tmp_path / f".small.{os.getpid()}.part", tmp_path / "victim"
    victim.write_text("of the user")
    for leave in (left.touch, lambda: left.symlink_to(victim), lambda: os.mkfifo(left)):
        leave()
        write_whole(tmp_path / "small", b"new", mode=0o600)
        assert stat.S_IMODE((tmp_path / "small").stat().st_mode) == 0o600
        assert (tmp_path / "small").read_bytes() == b"new"
    assert victim.read_text() == "of the user"


@pytest.mark.parametrize("umask", [0o022], indirect=True)
def test_shared_lets_others_read_all(tmp_path, umask):
    run(tmp_path, access="shared")
    modes = modes_of(tmp_path / "out.h5.run")
    assert {name for name, mode in modes.items() if not mode & 0o044} <= {"lock"}
    assert not any(mode & 0o022 for mode in modes.values())


def test_another_word_is_refused(tmp_path):
    with pytest.raises(hpcio.errors.OptionError, match="access='all' is unknown"):
        run(tmp_path, access="all")
