"""Values that were read from a file have the types that their dataclass declares, or are refused.

JSON holds any type under any name. Checked once, where it is read, a wrong one is told there, and
nobody else comes upon it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["check_types"]


def check_types(value: Any) -> None:
    """Raise TypeError unless all fields of a dataclass have the types that it declares.

    Numbers must be finite, and what a dataclass holds is checked as well.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Jobs:
    ...     numbers: tuple[int, ...]
    >>> check_types(Jobs((1, 2)))
    >>> check_types(Jobs((1, "2")))
    Traceback (most recent call last):
    TypeError: 'numbers' of Jobs is (1, '2')
    """
    kind: Any = type(value)
    for name, hint in _hints(kind).items():
        held = getattr(value, name)
        if not _fits(held, hint):
            raise TypeError(f"'{name}' of {type(value).__name__} is {held!r:.100}")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if hint is None or hint is type(None):
        return value is None
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        return _is_tuple(value, args)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items()
        )
    if isinstance(origin, type) and issubclass(origin, Sequence):
        is_list = isinstance(value, list | tuple)
        return is_list and all(_fits(one, args[0]) for one in value)
    return _is_a(value, origin or hint)


def _is_tuple(value: Any, args: tuple[Any, ...]) -> bool:
    if not isinstance(value, tuple):
        return False
    if len(args) == 2 and args[1] is ...:
        return all(_fits(one, args[0]) for one in value)
    return len(value) == len(args) and all(map(_fits, value, args))


def _is_a(value: Any, kind: Any) -> bool:
    if kind in (int, float):
        number = isinstance(value, int | kind) and not isinstance(value, bool)
        return number and math.isfinite(value) and abs(value) < 2**63
    if not isinstance(kind, type) or not isinstance(value, kind):
        return not isinstance(kind, type)
    if dataclasses.is_dataclass(kind):
        check_types(value)
    return True
