"""A file of defaults of any bytes: it is read, or refused by an error that names it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import settings as of_test
from hypothesis import strategies as st

from hpcio.errors import OptionError
from slurm.site.config import DEFAULTS, settings
from tests.rigs.damaging import mutated

WHOLE = b"""
[submit]
partition = "short"
memory = "4GB"
[submit.hpc2]
sbatch = ["--account=lab"]
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("config") / "config.toml"
        patch.setenv("HPCIO_CONFIG", str(path))
        yield path


def read(path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        found = settings("hpc2")
    except OptionError as error:
        assert str(path) in str(error)  # noqa: PT017  (most bytes are refused, some are not)
    else:
        assert found.values.keys() == DEFAULTS.keys()


@of_test(deadline=None, max_examples=150)
@example(data=b"submit=" + 100_000 * b"[")
@example(data=b"\xff\xfe")
@example(data=bytes(100))
@given(data=st.binary() | st.text().map(str.encode))
def test_any_bytes(path, data):
    read(path, data)


@of_test(deadline=None, max_examples=200)
@given(
    how=st.sampled_from(["flip", "bits", "zeros", "noise", "cut", "longer"]),
    at=st.integers(0, len(WHOLE) - 1),
    seed=st.integers(0, 1 << 30),
)
def test_a_damaged_file(path, how, at, seed):
    read(path, mutated(WHOLE, how, at, seed))
