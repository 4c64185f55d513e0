"""The source text of a function, for people who ask later what computed a result."""

from __future__ import annotations
import __future__

import functools
import inspect
import linecache
import tokenize
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["MOST_TEXT", "text_of"]

# Characters of a text. Each becomes up to six bytes, and HDF5 holds an attribute of up to 64 kB.
MOST_TEXT = 10_000

# What `from __future__ import` has asked for is in the flags of the code.
_FUTURE = functools.reduce(
    int.__or__, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)


def text_of(func: Callable[..., Any]) -> str:
    """The source text of a function as it is loaded; a long one is cut.

    A file may have changed since it was loaded. So its text is compiled, and counts only if the
    function is in it as it is loaded.

    Parameters
    ----------
    func : callable
        What a decorator or `functools.partial` has wrapped is looked for.

    Returns
    -------
    str
        Empty if there is none: of compiled functions, of files that have changed or are gone, and
        of what was typed into a session that keeps no text.

    Examples
    --------
    >>> from functools import partial
    >>> import statistics
    >>> text_of(partial(statistics.mean, weights=None)).partition("(")[0]
    'def mean'
    >>> text_of(len)
    ''
    """
    code = _code_of(func)
    if code is None:
        return ""
    lines = _lines_of(code.co_filename)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they were said when it was loaded
            module = compile(
                "".join(lines), code.co_filename, "exec", flags=code.co_flags & _FUTURE,
                dont_inherit=True,
            )  # fmt: skip
    # It was changed, or is a cell with words of a notebook, or is nested too deep to be worth it.
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return ""
    if not any(found == code for found in _codes_in(module)):
        return ""
    try:
        text = "".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))
    except (SyntaxError, tokenize.TokenError):  # a lambda that begins amid brackets
        text = lines[code.co_firstlineno - 1]
    more = len(text) - MOST_TEXT
    return text if more <= 0 else f"{text[:MOST_TEXT]}\n... and {more} more characters"


def _code_of(func: Any) -> types.CodeType | None:
    """The code of a function, or of what it wraps."""
    try:
        while isinstance(func := inspect.unwrap(func), functools.partial):
            func = func.func
    except ValueError:  # it wraps itself
        return None
    if not isinstance(func, types.FunctionType | types.MethodType | type):
        func = getattr(type(func), "__call__", None)  # noqa: B004  (an object that is called)
    code = getattr(func, "__code__", None)
    return code if isinstance(code, types.CodeType) else None


def _lines_of(path: str) -> list[str]:
    """The lines of a file as it is now, or of a cell as the notebook keeps it."""
    try:
        with tokenize.open(path) as file:
            return file.readlines()
    except FileNotFoundError:
        return linecache.getlines(path)
    except (OSError, SyntaxError, ValueError):
        return []


def _codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes_in(constant)
