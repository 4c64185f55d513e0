"""What all tests share: which of them this machine can run."""

from __future__ import annotations

import os

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs to be root")
    if item.get_closest_marker("oldstack") and not os.environ.get("HPCIO_OLDSTACK_PYTHON"):
        pytest.skip("no HPCIO_OLDSTACK_PYTHON: `make test` and `make oldstack-env` build it")
