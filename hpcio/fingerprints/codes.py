"""What a code object reads besides its arguments: globals, and modules that it imports."""

from __future__ import annotations

import dis
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Any

__all__ = ["Import", "Reads", "fields_of", "reads_of"]

_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_STORE_LOCAL = {"STORE_FAST", "STORE_DEREF", "STORE_NAME"}
# With their variants, such as LOAD_FAST_CHECK.
_LOAD_LOCAL = ("LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF", "LOAD_NAME")
_ATTRIBUTES = {"LOAD_ATTR", "LOAD_METHOD"}


@dataclass(frozen=True)
class Import:
    """An import statement: ``from module import names``, with dots as its level.

    With ``import module``, `names` is empty, and `is_bound` says that it stands in
    `Reads.modules` what is taken of it.
    """

    module: str
    level: int
    names: tuple[str, ...]
    is_bound: bool = False


@dataclass(frozen=True)
class Reads:
    """What a code object reads, that of nested functions included.

    Attributes
    ----------
    globals : tuple of tuple of str
        The name of a global, and the attributes of it that are looked up, such as
        ``("np", "linalg", "norm")``.
    imports : tuple of Import
    modules : tuple of tuple of str
        Likewise of modules that the code itself imports, by their own names.
    """

    globals: tuple[tuple[str, ...], ...]
    imports: tuple[Import, ...]
    modules: tuple[tuple[str, ...], ...]


@functools.cache
def reads_of(code: CodeType) -> Reads:
    """What a code object reads."""
    globals_: dict[tuple[str, ...], None] = {}
    imports: dict[Import, None] = {}
    modules: dict[tuple[str, ...], None] = {}
    codes = [_instructions(one) for one in _with_nested(code)]
    bound: dict[str, set[str]] = {}
    for ops in codes:
        for k, (name, value) in enumerate(ops):
            if name in _GLOBALS:
                chain = _chain(ops, k)
                if chain is not None:
                    globals_[chain] = None
            elif name == "IMPORT_NAME":
                level, names = ops[k - 2][1], ops[k - 1][1]
                is_bound = ops[k + 1][0] in _STORE_LOCAL and not level
                if is_bound:  # `import a.b` gives the name `a` to the package `a`
                    bound.setdefault(ops[k + 1][1], set()).add(value.partition(".")[0])
                imports[Import(value, level, tuple(names or ()), is_bound)] = None
    for ops in codes:
        for k, (name, value) in enumerate(ops):
            if name.startswith(_LOAD_LOCAL) and value in bound:
                chain = _chain(ops, k)
                if chain is not None:
                    modules |= {(module, *chain[1:]): None for module in bound[value]}
    return Reads(tuple(globals_), tuple(imports), tuple(modules))


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_nested(constant)


def _instructions(code: CodeType) -> list[tuple[str, Any]]:
    """Name and argument of each instruction; one that does two things is taken for two."""
    found: list[tuple[str, Any]] = []
    for one in dis.get_instructions(code):
        if one.opname == "EXTENDED_ARG":
            continue
        if "_FAST_" in one.opname and isinstance(one.argval, tuple):
            first = "STORE_FAST" if one.opname.startswith("STORE") else "LOAD_FAST"
            second = "STORE_FAST" if "_STORE_" in one.opname else "LOAD_FAST"
            found += [(first, one.argval[0]), (second, one.argval[1])]
        else:
            found.append((one.opname, one.argval))
    # Newer Pythons hand cells on by the instruction that loads a plain local.
    cells = {*code.co_cellvars, *code.co_freevars}
    return [x for x in found if not (x[0].startswith("LOAD_FAST") and x[1] in cells)]


def _chain(ops: list[tuple[str, Any]], at: int) -> tuple[str, ...] | None:
    """The name that is loaded, with its attributes; None if it is loaded to set one."""
    names = [ops[at][1]]
    for name, value in ops[at + 1 :]:
        if name not in _ATTRIBUTES:
            return None if name in ("STORE_ATTR", "DELETE_ATTR") else tuple(names)
        names.append(value)
    return tuple(names)


def fields_of(code: CodeType) -> tuple[object, ...]:
    """What a code object does, without where it was typed and how it is called."""
    return (
        code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags,
        code.co_code, code.co_exceptiontable, code.co_names, code.co_varnames, code.co_freevars,
        code.co_cellvars, code.co_consts,
    )  # fmt: skip
