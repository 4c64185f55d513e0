"""What a benchmark keeps (``hpcio bench --json FILE``), and how it is read again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from hpcio.bench.advice import Advice
from hpcio.bench.figures import WRITERS, Figure, LeftOut
from hpcio.bench.place import Place
from hpcio.errors import OptionError, as_output_error, as_read_error
from hpcio.files import check_types
from hpcio.machine import read_whole, write_whole

__all__ = ["Found", "read_advice", "read_found", "write_found"]

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """All that a benchmark has found."""

    place: Place
    figures: tuple[Figure, ...]
    left_out: tuple[LeftOut, ...]
    advice: Advice | None


def write_found(path: str | os.PathLike[str], found: Found) -> None:
    """Keep all that a benchmark has found.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    try:
        write_whole(path, json.dumps(asdict(found), indent=1).encode(), mode=0o666)
    except OSError as error:
        raise as_output_error(error, path) from error


def read_found(path: str | os.PathLike[str]) -> Found:
    """All that a benchmark has kept.

    Raises
    ------
    OptionError
        If the file is not one of a benchmark.
    SourceError
        If it cannot be read.

    Examples
    --------
    >>> read_found("bench.json").place.filesystem                    # doctest: +SKIP
    'lustre'
    """
    return _parsed(path, _found)


def read_advice(path: str | os.PathLike[str]) -> Advice:
    """The advice that a benchmark has kept.

    Raises
    ------
    OptionError
        If the file is not one of a benchmark, or that has measured too little.
    SourceError
        If it cannot be read.
    """
    found = _parsed(path, lambda said: _advice(said["advice"]))
    if found is None:
        raise OptionError(
            f"The benchmark in '{path}' has measured too little to say which writer is best. Give "
            "it more time: leave out --quick."
        )
    return found


def _parsed(path: str | os.PathLike[str], parse: Callable[[Any], T]) -> T:
    """What is made of the JSON in a file."""
    try:
        return parse(json.loads(read_whole(path)))
    except OSError as error:
        raise as_read_error(error, path) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise OptionError(
            f"'{path}' was not written by hpcio bench --json. Name such a file."
        ) from None


def _advice(said: dict[str, Any] | None) -> Advice | None:
    if said is None:
        return None
    check_types(found := Advice(**said))
    if (found.writer, found.sources) not in {kind[:2] for kind in WRITERS.values()}:
        raise ValueError("there is no such writer")
    return found


def _found(said: dict[str, Any]) -> Found:
    found = Found(
        place=Place(**_with_tuples(said["place"], "mounted", "hosts")),
        figures=tuple(Figure(**_with_tuples(f, "values", "limits")) for f in said["figures"]),
        left_out=tuple(LeftOut(**one) for one in said["left_out"]),
        advice=_advice(said["advice"]),
    )
    for part in (found, found.place, *found.figures, *found.left_out):
        check_types(part)
    if any(not f.values or min(f.values) <= 0 or f.size < 1 for f in found.figures):
        raise ValueError("a rate is not above 0")
    return found


def _with_tuples(said: dict[str, Any], *names: str) -> dict[str, Any]:
    return said | {name: tuple(said[name]) for name in names}
