"""Reading what a benchmark has kept (``hpcio bench --json FILE``)."""

from __future__ import annotations

import json
import os
from typing import Any

from hpcio.bench.advice import Advice
from hpcio.bench.figures import Figure
from hpcio.bench.measuring import LeftOut
from hpcio.bench.page import Found
from hpcio.bench.place import Place
from hpcio.errors import OptionError, as_read_error
from hpcio.files import check_types
from hpcio.machine import read_whole

__all__ = ["read_found"]


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
    try:
        said = json.loads(read_whole(path))
        found = Found(
            place=Place(**_with_tuples(said["place"], "mounted", "hosts")),
            figures=tuple(Figure(**_with_tuples(f, "values", "limits")) for f in said["figures"]),
            left_out=tuple(LeftOut(**one) for one in said["left_out"]),
            advice=None if said["advice"] is None else Advice(**said["advice"]),
        )
        check_types(found)
        for part in (found.place, *found.figures, *found.left_out):
            check_types(part)
        if any(not f.values or min(f.values) <= 0 or f.size < 1 for f in found.figures):
            raise ValueError("a rate is not above 0")
    except OSError as error:
        raise as_read_error(error, path) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise OptionError(
            f"'{path}' was not written by hpcio bench --json. Name such a file."
        ) from None
    return found


def _with_tuples(said: dict[str, Any], *names: str) -> dict[str, Any]:
    return said | {name: tuple(said[name]) for name in names}
