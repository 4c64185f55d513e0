"""A finished run, and repacking in small pieces."""

from __future__ import annotations

import importlib

import pytest

from hpcio.results.verifying import spans
from tests.rigs.bench import Bench


@pytest.fixture(params=["trial", "task"])
def done(tmp_path, request) -> Bench:
    bench = Bench(tmp_path, sources=request.param)
    bench.plan().run(workers=0, progress=False)
    return bench


@pytest.fixture
def small_pieces(monkeypatch):
    """Let blocks be larger than what is read and compared at a time, and lie across its edges."""
    for module in ("hpcio.results.repacking", "hpcio.results.verifying", "hpcio.results.packing"):
        for name, nbytes in (("PIECE", 64), ("SPAN", 256)):
            monkeypatch.setattr(importlib.import_module(module), name, nbytes, raising=False)
    monkeypatch.setattr(spans, "__defaults__", (100,))
