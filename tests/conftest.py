"""What all tests share: which of them this machine can run, and a real SLURM."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import slurm_rig


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs to be root")
    if item.get_closest_marker("oldstack") and not os.environ.get("HPCIO_OLDSTACK_PYTHON"):
        pytest.skip("no HPCIO_OLDSTACK_PYTHON: `make test` and `make oldstack-env` build it")
    if item.get_closest_marker("slurm") and slurm_rig.missing():
        pytest.skip(slurm_rig.missing())


@pytest.fixture(scope="session")
def the_slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_rig.Slurm]:
    """One SLURM of four nodes for all tests of a session."""
    slurm = slurm_rig.Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        slurm.up()
        yield slurm
    finally:
        slurm.down()


@pytest.fixture
def slurm(the_slurm: slurm_rig.Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[slurm_rig.Slurm]:
    """The SLURM, empty, with this process speaking to it."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, the_slurm.environment[name])
    yield the_slurm
    the_slurm.empty()
