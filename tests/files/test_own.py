"""A run directory that others can have written is refused, and nothing in it is run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hpcio.errors import PlanError
from hpcio.files import RunDirectory, check_run_folder, read_own
from tests.rigs.bad import check_error

NOBODY = 65534


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "out.h5.run")
    for folder in (made.path, *made.records(), made.sources):
        folder.mkdir(mode=0o755)
    return made


def inside(run: RunDirectory) -> list[Path]:
    return [run.path, run.journals, run.sources]


def test_ones_own_is_let_in(run):
    check_run_folder(run)
    run.plan.write_bytes(b"it")
    run.plan.chmod(0o644)  # others may read
    assert read_own(run.plan) == b"it"


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_folder_that_others_may_write(run, which, mode):
    victim = inside(run)[which]
    victim.chmod(mode)
    with pytest.raises(PlanError) as info:
        check_run_folder(run)
    check_error(
        info.value, rf"Others may write to '{victim}'.*chmod -R go-w {victim}\. If not, remove it"
    )
    victim.chmod(mode & ~0o022)
    check_run_folder(run)


@pytest.mark.root
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_folder_of_another_user(run, which):
    os.chown(inside(run)[which], NOBODY, -1)
    with pytest.raises(PlanError, match=r"belongs to another user.*choose another output"):
        check_run_folder(run)


@pytest.mark.parametrize("mode", [0o660, 0o606])
def test_a_file_that_others_may_write(run, mode):
    run.plan.write_bytes(b"anybody's")
    run.plan.chmod(mode)
    with pytest.raises(PlanError, match=f"Others may write to '{run.plan}'"):
        read_own(run.plan)


def test_a_file_that_is_a_link(run, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"mine, but not meant")
    run.plan.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlanError, match="is a link"):
        read_own(run.plan)


def test_ones_own_link_to_a_disk_with_more_room(run, tmp_path):
    run.path.rename(tmp_path / "scratch")
    run.path.symlink_to("scratch")
    check_run_folder(run)
    (tmp_path / "scratch").chmod(0o777)
    with pytest.raises(PlanError, match="Others may write"):
        check_run_folder(run)


@pytest.mark.root
def test_a_link_of_another_user(run, tmp_path):
    run.path.rename(tmp_path / "mine")
    run.path.symlink_to("mine")
    os.lchown(run.path, NOBODY, -1)
    with pytest.raises(PlanError, match=r"The link '.*out\.h5\.run' belongs to another user"):
        check_run_folder(run)
