"""Values of a dataclass have the types that it declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest

from hpcio.files import check_types


@dataclass(frozen=True)
class Inner:
    size: int


@dataclass(frozen=True)
class Held:
    count: int = 1
    seconds: float = 1
    name: str = "a"
    gaps: bool = True
    memory: int | None = None
    span: tuple[int, int] = (0, 1)
    shape: tuple[int, ...] = ()
    words: Sequence[str] = ("a",)
    parts: Mapping[str, str] | None = None
    join: Literal["stack", "concatenate"] = "stack"
    inner: Inner = Inner(1)
    array: np.ndarray | None = None
    what: Any = None


def test_what_fits():
    check_types(Held())
    check_types(Held(memory=5, parts={"a": "b"}, words=["x"], array=np.zeros(2), what=object()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", True), ("count", 1.0), ("count", 2**63), ("count", None), ("seconds", "1"),
        ("seconds", float("nan")), ("seconds", float("inf")), ("name", b"a"), ("gaps", 1),
        ("memory", "5"), ("span", (0,)), ("span", [0, 1]), ("shape", (1, None)), ("words", "ab"),
        ("words", [1]), ("parts", {"a": 1}), ("join", "pile"), ("inner", {"size": 1}),
        ("array", [1]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(name, value):
    with pytest.raises(TypeError, match=f"'{name}' of Held"):
        check_types(replace(Held(), **{name: value}))


def test_what_is_within_is_looked_at():
    with pytest.raises(TypeError, match="'size' of Inner"):
        check_types(Held(inner=Inner("1")))
